"""The verbs that change what a running server serves, a command each: `dukou rollback` and the like."""

from collections.abc import Mapping
from typing import Annotated, Any

from cyclopts import App, Parameter

from dukou.cli.admin import HERE, Model, Reach, Why, brief
from dukou.cli.status import lines
from dukou.cli.terminal import CommandError
from dukou.client.admin import model_path
from dukou.control.operations import ModelStatus

Version = Annotated[int | None, Parameter(help="Which version.")]


def _command(name: str, examples: str, more: str = "") -> App:
    return App(name=name, version_flags=(), help_epilogue=f"{more}Examples:\n\n{examples}")


def _change(reach: Reach, model: str, verb: str, **body: Any) -> ModelStatus:
    with reach.server(model) as admin:
        return admin.post(f"{model_path(model)}:{verb}", ModelStatus, body)


rollback = _command(
    "rollback",
    """  dukou rollback iris
  dukou rollback iris --why 'wrong answers for setosa'""",
    """Returns when every worker answers by the version before. The one left is barred:
it is not served again until it is promoted. A rollout under way is ended.

""",
)


@rollback.default
def _rollback(model: Model, /, *, why: Why = "", reach: Reach = HERE) -> None:
    """Go back to the version before."""
    print(brief(_change(reach, model, "rollback", why=why)))


promote = _command(
    "promote",
    """  dukou promote iris               the rollout's candidate goes on to its next step
  dukou promote iris --version 2   version 2 answers everybody, barred or not""",
)


@promote.default
def _promote(model: Model, /, *, version: Version = None, why: Why = "", reach: Reach = HERE) -> None:
    """Let the rollout's candidate go on to its next step, or a version answer everybody now."""
    print(brief(_change(reach, model, "promote", version=version, why=why)))


pause = _command("pause", "  dukou pause iris --why 'until Monday'")


@pause.default
def _pause(model: Model, /, *, why: Why = "", reach: Reach = HERE) -> None:
    """Stop judging the rollout under way; its shares stay."""
    print(brief(_change(reach, model, "pause", why=why)))


resume = _command("resume", "  dukou resume iris")


@resume.default
def _resume(model: Model, /, *, why: Why = "", reach: Reach = HERE) -> None:
    """Go on judging the rollout that was paused."""
    print(brief(_change(reach, model, "resume", why=why)))


abort = _command(
    "abort",
    "  dukou abort iris",
    "The candidate is not barred: it can be deployed again. `dukou rollback` bars it.\n\n",
)


@abort.default
def _abort(model: Model, /, *, why: Why = "", reach: Reach = HERE) -> None:
    """End the rollout under way; the version before answers everybody again."""
    print(brief(_change(reach, model, "abort", why=why)))


load = _command(
    "load",
    """  dukou load iris --version 1   beside those that the policy wants
  dukou load iris               what was unloaded, or anew from files that have changed""",
)


@load.default
def _load(model: Model, /, *, version: Version = None, why: Why = "", reach: Reach = HERE) -> None:
    """Load a version beside the others, or anew from files that have changed."""
    print("\n".join(lines([_change(reach, model, "load", version=version, why=why)])))


unload = _command(
    "unload",
    """  dukou unload iris --version 1   what `dukou load` has loaded
  dukou unload iris               the whole model""",
)


@unload.default
def _unload(model: Model, /, *, version: Version = None, why: Why = "", reach: Reach = HERE) -> None:
    """Unload a version that was loaded by `load`, or a whole model."""
    print("\n".join(lines([_change(reach, model, "unload", version=version, why=why)])))


label = _command(
    "label",
    """  dukou label iris stable=2 canary=3
  dukou label iris canary=            take it away""",
)


@label.default
def _label(
    model: Model,
    /,
    *labels: Annotated[str, Parameter(help="LABEL=VERSION; without a version the label is taken away.")],
    why: Why = "",
    reach: Reach = HERE,
) -> None:
    """Let labels name versions."""
    wanted = read_labels(labels)
    with reach.server(model) as admin:
        for name, version in wanted.items():
            path = model_path(model, "labels", name)
            if version is None:
                status = admin.delete(path, ModelStatus, why=why)
            else:
                status = admin.put(path, ModelStatus, {"version": version, "why": why})
    print("\n".join(lines([status])))


def read_labels(texts: tuple[str, ...]) -> Mapping[str, int | None]:
    """`LABEL=VERSION` arguments as a mapping; None where there is no version. Raises CommandError."""
    if not texts:
        raise CommandError("say which label names which version, as in `dukou label iris stable=2`")
    found: dict[str, int | None] = {}
    for text in texts:
        name, equals, version = (part.strip() for part in text.partition("="))
        if not name or not equals or (version and not (version.isascii() and version.isdigit())):
            raise CommandError(f"{text}: write it as LABEL=VERSION, as in stable=2")
        found[name] = int(version) if version else None
    return found
