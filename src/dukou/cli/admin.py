"""What the commands for a running server share: how it is found, how its models are said."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dukou.cli.options import ConfigFile
from dukou.cli.terminal import FAILED, CommandError
from dukou.client.admin import Admin, model_path, of_settings
from dukou.client.errors import Forbidden, NotFound, Refused
from dukou.config import Given, load, token_file
from dukou.config.load import nearest
from dukou.control.answers import Models
from dukou.control.operations import ModelStatus
from dukou.lifecycle.judge import percent
from dukou.lifecycle.rollout import Rollout, Status

Model = Annotated[str, Parameter(help="Name of the model.")]
Why = Annotated[str, Parameter(help="Why, for the history.", show_default=False)]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Reach:
    """How the running server is reached; what is not said is in the settings."""

    admin: Annotated[
        str | None, Parameter(help="Address of its admin API; without it 127.0.0.1:8600.", metavar="ADDRESS")
    ] = None
    token_file: Annotated[
        Path | None, Parameter(help="File with the token; without it the one that this user's servers made.")
    ] = None
    config: ConfigFile = None

    @contextmanager
    def server(self, model: str = "") -> Iterator[Admin]:
        """The server. An error is what it said, without the protocol's number; of `model`, names that are like it."""
        given = {"admin.listen": (self.admin, "--admin"), "admin.token_file": (self.token_file, "--token-file")}
        flags = [Given(path, str(value), flag) for path, (value, flag) in given.items() if value is not None]
        settings = load(self.config, flags=flags).config.admin
        admin = of_settings(settings)
        try:
            yield admin
        except Forbidden as error:
            raise CommandError(f"{error.message}; it was read from {token_file(settings)}", FAILED) from error
        except NotFound as error:
            names = [each.name for each in admin.get("/v1/models", Models).models]
            hint = nearest(model, names) if model and model not in names else ""
            raise CommandError(f"{error.message}{hint}", FAILED) from error
        except Refused as error:
            raise CommandError(error.message, FAILED) from error


HERE = Reach()


def status_of(admin: Admin, model: str) -> ModelStatus:
    """The status of one model."""
    return admin.get(model_path(model), ModelStatus)


def brief(status: ModelStatus) -> str:
    """A model in one line: what answers now, or how far its rollout is."""
    if status.unloaded:
        return f"{status.name}: unloaded"
    rollout = status.rollout
    if rollout is not None and rollout.status.under_way:
        return f"{status.name}: {said(rollout)}"
    answers = "no version answers" if status.serving is None else f"version {status.serving} answers"
    back = f"; a rollback goes to {status.previous}" if status.previous is not None else ""
    return f"{status.name}: {answers}{back}"


def said(rollout: Rollout) -> str:
    """A rollout in one line: from where to where, its status and step, and why where it does not just go on."""
    text = f"rollout {rollout.primary} → {rollout.candidate} {rollout.status.value}"
    steps = rollout.plan.steps
    if rollout.status.under_way and steps:
        step = steps[rollout.step]
        text += f" at step {rollout.step + 1} of {len(steps)} ({shares(step.kind, step.shadow, step.share)})"
    return text if rollout.status is Status.RUNNING or not rollout.reason else f"{text}: {rollout.reason}"


def shares(kind: str, shadow: float, share: float) -> str:
    """A step as `shadow, copies of 100 %` or `incremental, 5 % of the calls`."""
    parts = [kind]
    if shadow:
        parts.append(f"copies of {percent(shadow)}")
    if share:
        parts.append(f"{percent(share)} of the calls")
    return ", ".join(parts)
