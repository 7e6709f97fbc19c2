"""A candidate run on recorded traffic where it would serve, before it gets any: `dukou replay`.

Both versions are loaded as a shadow is, each in a model process of its own. Nothing of a running server is touched:
what it has recorded is read, and everything else is in a folder of our own.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from enum import Enum
from pathlib import Path
from threading import Event as Flag
from typing import Any

import msgspec

from dukou.app import model_config
from dukou.app.declare import declare, places
from dukou.app.opening import bare
from dukou.app.passing import Packer
from dukou.app.program import SETTINGS, program
from dukou.app.side_by_side import Seen, Side, SideBySide
from dukou.app.state import state_dir
from dukou.app.traffic import Asked, read_traffic, recorded
from dukou.config import Config
from dukou.control.replicas import Replica, Replicas
from dukou.core.errors import DukouError, Reason
from dukou.core.link import Assignment, LoadReport
from dukou.core.model import ModelManifest, ModelVersion, State
from dukou.engine.replica import RemoteModel
from dukou.lifecycle.compatible import differences
from dukou.lifecycle.judge import Outcome
from dukou.lifecycle.plan import BLUE_GREEN, LEAST_REQUESTS, SHADOW, Plan, Step, parse
from dukou.lifecycle.report import report as report_of
from dukou.lifecycle.rollout import Rollout, Verdict
from dukou.lifecycle.wanted import Declared
from dukou.repository.local import scan_model
from dukou.telemetry.capture import capture_folder
from dukou.telemetry.recording import captured, is_recording, read

CAPTURED = "captured"
"""The traffic that the server of these settings has recorded."""


class Ask(msgspec.Struct, frozen=True):
    """What to replay: version `candidate` of a model against `against`: CAPTURED or a file; at most `limit` calls.

    `primary` is the version to compare with; without one it is that of the recorded traffic, else the highest other.
    `labels` names the right answers in a file. What is None of the rest is as the model's declared plan has it.
    """

    model: str
    candidate: int
    against: str
    primary: int | None = None
    labels: str = ""
    limit: int | None = None
    captured: Path | None = None
    max_disagreement: float | None = None
    latency_ratio: float | None = None
    slice_by: str | None = None
    tolerance: float | None = None


class Finding(Enum):
    """What a replay finds: the candidate AGREES or is no worse, DISAGREES or fails, or too little was asked to say."""

    AGREES = "AGREES"
    DISAGREES = "DISAGREES"
    UNDECIDED = "UNDECIDED"


_OF_PLAN = ("max_disagreement", "latency_ratio", "slice_by", "tolerance")
_FOUND = {Verdict.STAY: Finding.UNDECIDED, Verdict.NEXT: Finding.AGREES, Verdict.PROMOTE: Finding.AGREES}


def replay(config: Config, ask: Ask, report: Callable[[str], None]) -> Mapping[str, Any]:
    """Run it and tell what came out, fit for JSON: `finding` (a Finding's name) and the comparison as a rollout's
    report has it (`dukou.lifecycle.report`). `report` gets each step.

    Raises DukouError CONFIG_INVALID, MODEL_NOT_FOUND, VERSION_NOT_FOUND, and whatever is wrong with the traffic, for
    what is asked wrongly; NOT_SERVING for a version that cannot be loaded or whose process ends, and
    PRECONDITION_FAILED for a candidate that cannot take the primary's calls.
    """
    declared = _declared(config, ask.model, report)
    plan = plan_of(declared, ask)
    folders = _folders(declared)
    primary = ask.primary if ask.primary is not None else _other(config, ask, tuple(folders))
    if primary == ask.candidate:
        raise DukouError(Reason.CONFIG_INVALID, detail=f"version {primary} would be compared with itself")
    notes: list[str] = []
    if primary not in folders and ask.primary is None:
        notes.append(f"version {primary} is not there any more: the candidate is compared with its recorded answers")
    for number in (ask.candidate, ask.primary):
        if number not in folders and number is not None:
            there = ", ".join(map(str, folders)) or "none"
            raise DukouError(Reason.VERSION_NOT_FOUND, model=ask.model, version=number, served=there)
    with tempfile.TemporaryDirectory(prefix="dukou-replay-") as state:
        Path(state, SETTINGS).write_bytes(msgspec.json.encode(config))
        assignments = [
            Assignment(
                ModelVersion(ask.model, number), folders[number], 0, declared.options, process=f"{state}/{number}.sock"
            )
            for number in (primary, ask.candidate)
            if number in folders
        ]
        seen = asyncio.run(_run(config, ask, plan, assignments, state=state, note=notes.append, report=report))
    rollout = Rollout(0, ask.model, primary, ask.candidate, plan, measured=seen.measured)
    return _told(report_of(rollout), ask, seen, notes)


def _told(said: Mapping[str, Any], ask: Ask, seen: Seen, notes: Sequence[str]) -> Mapping[str, Any]:
    """The report of a rollout as that of a replay, which has no steps and no other state than what it found."""
    finding, reason = _FOUND.get(Verdict[said["verdict"]], Finding.DISAGREES), said["reason"]
    found = {
        outcome: [metric["text"] for metric in said["metrics"] if metric["outcome"] == outcome.value]
        for outcome in Outcome
    }
    if finding is Finding.AGREES:
        reason = "; ".join(found[Outcome.FINE])
    elif finding is Finding.UNDECIDED and found[Outcome.UNLIKE] and not seen.measured.candidate_outcomes.labelled:
        finding, reason = Finding.DISAGREES, "; ".join(found[Outcome.UNLIKE])  # whatever is not known of the rest
    elif finding is Finding.UNDECIDED:
        reason = f"too few rows to say: {reason.removeprefix('waiting for ')}"
    return {
        "model": said["model"],
        "primary": said["primary"],
        "candidate": said["candidate"],
        "against": ask.against,
        "calls": seen.calls,
        "finding": finding.value,
        "reason": reason,
        "notes": [*notes, *_remarks(seen)],
        **{name: said[name] for name in ("confidence", "metrics", "answers")},
    }


def plan_of(declared: Declared, ask: Ask) -> Plan:
    """How the answers are judged: as in the shadow step of the model's declared plan, but for what `ask` says.

    Times are told, and judged only where `latency_ratio` says how: they are of calls that came one by one. Raises
    DukouError CONFIG_INVALID.
    """
    said = {name: value for name in _OF_PLAN if (value := getattr(ask, name)) is not None}
    plan = parse(declared.plan or SHADOW, **said)
    shadow = next((step for step in plan.steps if step.kind == SHADOW), Step(SHADOW, least_requests=LEAST_REQUESTS))
    steps = [msgspec.structs.replace(shadow, shadow=1.0, least_s=0.0)]
    if ask.latency_ratio is None:
        steps.append(Step(BLUE_GREEN, share=1.0))  # of a step that others come after, the judge only notes the times
    return msgspec.structs.replace(plan, steps=tuple(steps), manual=False)


def _declared(config: Config, model: str, report: Callable[[str], None]) -> Declared:
    if config.models.config_file:
        models = model_config.declared(model_config.read(config.models.config_file), config.models)
    else:
        models = declare(config.models, places(config.models, Packer(config.models, report).pack)).models
    if model not in models:
        raise DukouError(Reason.MODEL_NOT_FOUND, model=model, served=", ".join(sorted(models)) or "none")
    return models[model]


def _folders(declared: Declared) -> Mapping[int, str]:
    """Where the versions of the model are, the highest first."""
    if not declared.folder:
        return dict(sorted(declared.fixed.items(), reverse=True))
    found = scan_model(Path(declared.folder), declared.name).folders
    return {number: str(path.absolute()) for number, path in found.items()}


def _other(config: Config, ask: Ask, numbers: Sequence[int]) -> int:
    """The version to compare with: the one whose calls were recorded, else the highest other. Raises DukouError."""
    newest = _newest_recorded(config, ask)
    if newest is not None and newest != ask.candidate:
        return newest
    others = [number for number in numbers if number != ask.candidate]
    if not others:
        detail = f"there is no other version of {ask.model!r} to compare version {ask.candidate} with"
        raise DukouError(Reason.CONFIG_INVALID, detail=detail)
    return others[0]


def _newest_recorded(config: Config, ask: Ask) -> int | None:
    """The version that answered the last recorded call."""
    if ask.against == CAPTURED:
        records = captured(_capture_folder(config, ask), ask.model, _ignore, 1)
    elif Path(ask.against).is_file() and is_recording(Path(ask.against)):
        records = read([Path(ask.against)], _ignore, 1)
    else:
        return None
    return next((record.copy.version.version for record in records), None)


def _capture_folder(config: Config, ask: Ask) -> Path:
    if ask.captured is not None:
        return ask.captured
    state = state_dir(config)
    if not state and not config.capture.folder:
        detail = (
            "a server of these settings keeps its state, and with it what it records, in a temporary folder; say where "
            "the records are, as in --captured FOLDER"
        )
        raise DukouError(Reason.CONFIG_INVALID, detail=detail)
    return capture_folder(config.capture, Path(state))


async def _run(
    config: Config,
    ask: Ask,
    plan: Plan,
    assignments: Sequence[Assignment],
    *,
    state: str,
    note: Callable[[str], None],
    report: Callable[[str], None],
) -> Seen:
    """Load the versions, the candidate the last of them, and ask them all there is to ask."""
    report(f"loading {' and '.join(f'{one.id.name} {one.id.version}' for one in assignments)}")
    async with _model_processes(config, assignments, state) as sides:
        *before, candidate = sides
        primary = before[0] if before else None
        if primary is not None and (unlike := differences(primary.signatures, candidate.signatures)):
            raise DukouError(
                Reason.PRECONDITION_FAILED,
                model=ask.model,
                version=ask.candidate,
                detail=f"it cannot take the calls of version {primary.version.version}: {'; '.join(unlike)}",
            )
        typing = primary or candidate
        calls = _calls(config, ask, bare(typing.version, typing.signatures), note)
        report("replaying")
        side_by_side = SideBySide(primary, candidate, plan)
        stopped = Flag()
        try:
            await asyncio.to_thread(_ask_all, side_by_side, calls, stopped)
        finally:
            stopped.set()
        return side_by_side.seen


def _calls(config: Config, ask: Ask, manifest: ModelManifest, note: Callable[[str], None]) -> Iterator[Asked]:
    if ask.against != CAPTURED:
        return read_traffic(Path(ask.against), manifest, note, ask.labels, ask.limit)
    if ask.labels:
        raise DukouError(Reason.CONFIG_INVALID, detail="recorded calls have no labels; leave --labels out")
    return recorded(captured(_capture_folder(config, ask), ask.model, note, ask.limit))


def _ask_all(side_by_side: SideBySide, calls: Iterator[Asked], stopped: Flag) -> None:
    for asked in calls:
        if stopped.is_set():
            return
        side_by_side.ask(asked)
    seen = side_by_side.seen
    if not seen.calls:
        raise DukouError(Reason.NO_ROWS)
    if seen.refused == seen.calls:
        raise DukouError(
            Reason.MALFORMED_REQUEST, detail=f"the primary refuses all {seen.calls} calls, the first as: {seen.refusal}"
        )


def _remarks(seen: Seen) -> Iterator[str]:
    if seen.refused:
        yield f"the primary refused {seen.refused} of {seen.calls} calls, the first as: {seen.refusal}"
    if seen.failure:
        yield f"the candidate's first failure: {seen.failure}"
    if seen.redacted:
        yield f"nothing of {', '.join(sorted(seen.redacted))} was recorded: both versions were asked with zeros instead"
    if seen.changed:
        yield (
            f"the primary itself answers {seen.changed} of {seen.known} recorded rows otherwise than when they were "
            "recorded: its environment here is not the same, or it keeps state"
        )


@asynccontextmanager
async def _model_processes(
    config: Config, assignments: Sequence[Assignment], state: str
) -> AsyncIterator[Sequence[Side]]:
    """A side for each assignment, loaded. Raises DukouError NOT_SERVING with the reason for one that is not."""
    loop = asyncio.get_running_loop()
    loaded: dict[ModelVersion, asyncio.Future[LoadReport]] = {one.id: loop.create_future() for one in assignments}

    def command(link_fd: int, address: str) -> list[str]:
        return program("_model", state, str(link_fd), address)

    def on_report(version: ModelVersion, said: LoadReport) -> None:
        future = loaded[version]
        if future.done():
            return
        if said.state is State.AVAILABLE:
            future.set_result(said)
        elif said.state is State.END or said.error:
            future.set_exception(DukouError(Reason.NOT_SERVING, detail=said.error))

    replicas = Replicas(command, on_report, _ignore, load_timeout_s=config.server.load_timeout_s)
    replicas.apply({assignment.id: Replica(assignment) for assignment in assignments})
    running = asyncio.create_task(replicas.run())
    models: list[RemoteModel] = []
    try:
        reports = await asyncio.gather(*loaded.values())
        models += [RemoteModel(one.process, bare(one.id)) for one in assignments]
        yield [Side(said.id, said.signatures, model) for said, model in zip(reports, models, strict=True)]
    finally:
        for model in models:
            model.close()
        replicas.stop()
        await running


def _ignore(*_: object) -> None:
    """What was read before to be told of is told when it is read to be replayed; and nothing is copied here."""
