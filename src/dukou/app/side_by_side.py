"""Two versions asked the same calls in turns, and what comparing their answers shows."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

import msgspec
from numpy.typing import NDArray

from dukou.app.traffic import Asked
from dukou.core.buckets import counted
from dukou.core.comparison import Comparison, merge
from dukou.core.errors import DukouError, Reason
from dukou.core.frame import Answer
from dukou.core.model import ModelVersion, Signature
from dukou.core.tensor import Tensors
from dukou.lifecycle.compare import bind, compare
from dukou.lifecycle.measured import Measured, Outcomes
from dukou.lifecycle.plan import Plan

_ENDS = (Reason.NOT_SERVING, Reason.DEADLINE_EXCEEDED)
"""What is no answer to a call: the process has ended, or stands still."""


class Asks(Protocol):
    """A model in a process of its own (`dukou.engine.replica`)."""

    def ask(self, signature: str, inputs: Tensors, outputs: tuple[str, ...], parameters: Mapping[str, Any]) -> Answer:
        """The outputs and the model's own time. Raises DukouError."""


class Side(msgspec.Struct):
    """A version that is asked."""

    version: ModelVersion
    signatures: Mapping[str, Signature]
    model: Asks


class Seen(msgspec.Struct):
    """What asking both has shown, for the judge and for people.

    Of the `calls` the primary refused `refused`, which are compared with nothing; `refusal` is why, of the first.
    `failure` is why the candidate failed, the first time. Of `known` rows whose recorded answers are the primary's own
    it answers `changed` otherwise now. `redacted` inputs were not recorded.
    """

    measured: Measured = msgspec.field(default_factory=Measured)
    calls: int = 0
    refused: int = 0
    refusal: str = ""
    failure: str = ""
    known: int = 0
    changed: int = 0
    redacted: set[str] = msgspec.field(default_factory=set)


class SideBySide:
    """Asks the primary and the candidate, or, without a primary, compares the candidate with recorded answers."""

    def __init__(self, primary: Side | None, candidate: Side, plan: Plan) -> None:
        self._primary = primary
        self._candidate = candidate
        self._plan = plan
        self.seen = Seen()

    def ask(self, asked: Asked) -> None:
        """One more call. Raises DukouError when one of the processes has ended."""
        seen = self.seen
        seen.calls += 1
        seen.redacted.update(self._redacted(asked))
        candidate: Answer | None = None
        candidate_first = seen.calls % 2 == 0  # so that what the first of a call warms up serves both equally often
        if candidate_first:
            candidate = self._ask_candidate(asked)
        try:
            primary = self._ask_primary(asked)
        except DukouError as error:
            if error.reason in _ENDS:
                raise
            seen.refused += 1
            seen.refusal = seen.refusal or str(error)
            return
        if not candidate_first:
            candidate = self._ask_candidate(asked)
        seen.measured.comparison.copies += 1
        self._compare(asked, primary.outputs, candidate)
        if self._primary is not None and candidate is not None:
            times = Comparison(primary_s=counted(primary.infer_s), candidate_s=counted(candidate.infer_s))
            seen.measured.comparison = merge(seen.measured.comparison, times)

    def _ask_primary(self, asked: Asked) -> Answer:
        if self._primary is not None:
            return self._infer(self._primary, asked)
        if asked.answered is None:
            raise DukouError(Reason.PRECONDITION_FAILED, detail="its answer was not recorded")
        if missing := ", ".join(sorted(self._redacted(asked))):
            detail = f"{missing} was not recorded, and without it the candidate answers something else"
            raise DukouError(Reason.PRECONDITION_FAILED, detail=detail)
        return Answer(asked.answered)

    def _ask_candidate(self, asked: Asked) -> Answer | None:
        """None where it fails."""
        try:
            return self._infer(self._candidate, asked)
        except DukouError as error:
            if error.reason in _ENDS:
                raise
            self.seen.failure = self.seen.failure or str(error)
            return None

    def _redacted(self, asked: Asked) -> set[str]:
        """What of this call's inputs was not recorded."""
        if not asked.redacted:
            return set()
        signature = self._candidate.signatures.get(asked.signature)
        columns = () if signature is None else [name for spec in signature.inputs for name in spec.columns]
        return set(asked.redacted) & {*asked.inputs, *columns}

    def _infer(self, side: Side, asked: Asked) -> Answer:
        try:
            signature = side.signatures.get(asked.signature)
            if signature is None:
                served = ", ".join(side.signatures)
                raise DukouError(Reason.SIGNATURE_NOT_FOUND, signature=asked.signature, served=served)
            known = signature.output_names()
            outputs = tuple([name for name in asked.outputs if name in known]) or known
            return side.model.ask(signature.name, bind(signature, asked.inputs), outputs, asked.parameters)
        except DukouError as error:
            raise error.within(model=side.version.name, version=side.version.version) from None

    def _compare(self, asked: Asked, primary: Tensors, candidate: Answer | None) -> None:
        """Where the candidate fails on several rows, halves of them: one row's fault is not counted for the others."""
        seen, plan, rows = self.seen, self._plan, asked.rows
        signature = self._candidate.signatures.get(asked.signature)
        if signature is None:
            nothing = Comparison(rows, disagreed=rows, failed=rows)
            seen.measured.comparison = merge(seen.measured.comparison, nothing)
            return
        if candidate is None and rows > 1 and signature.batched:
            for start, end in ((0, rows // 2), (rows // 2, rows)):
                part = _rows_of(asked, start, end)
                half = {name: array[start:end] for name, array in primary.items()}
                self._compare(part, half, self._ask_candidate(part))
            return
        outputs = None if candidate is None else candidate.outputs
        found = compare(signature, asked.inputs, primary, outputs, slice_by=plan.slice_by, tolerance=plan.tolerance)
        seen.measured.comparison = merge(seen.measured.comparison, found)
        same = self._primary is not None and asked.version == self._primary.version.version
        if same and asked.answered and not self._redacted(asked):
            again = compare(signature, asked.inputs, asked.answered, primary, tolerance=plan.tolerance)
            seen.known += again.rows
            seen.changed += again.disagreed
        if asked.labels:
            _score(seen.measured.primary_outcomes, asked, signature, primary)
            _score(seen.measured.candidate_outcomes, asked, signature, outputs)


def _rows_of(asked: Asked, start: int, end: int) -> Asked:
    cut = {name: array[start:end] for name, array in asked.inputs.items()}
    before = None if asked.answered is None else {name: array[start:end] for name, array in asked.answered.items()}
    labels = asked.labels[start:end]
    return msgspec.structs.replace(asked, inputs=cut, rows=end - start, labels=labels, answered=before)


def _score(outcomes: Outcomes, asked: Asked, signature: Signature, outputs: Tensors | None) -> None:
    outcomes.labelled += asked.rows
    if outputs is not None:
        answers = labels_of(signature, outputs, asked.rows)
        outcomes.right += sum(map(same_label, answers, asked.labels))


def labels_of(signature: Signature, outputs: Tensors, rows: int) -> Sequence[str]:
    """Each row's label as text: of the first output that holds labels, or of the highest score where the signature
    names the scores. Raises DukouError MALFORMED_REQUEST for a model that gives neither."""
    for array in outputs.values():
        if array.dtype.kind in "biuO" and array.size == rows:
            return [_text(value) for value in array.ravel().tolist()]
    for spec in signature.outputs:
        scores: NDArray[Any] | None = outputs.get(spec.name)
        if scores is not None and spec.columns and scores.shape[-1] == len(spec.columns):
            return [spec.columns[place] for place in scores.reshape(rows, -1).argmax(axis=1).tolist()]
    detail = "accuracy needs a model that answers with labels, and this one answers with numbers"
    raise DukouError(Reason.MALFORMED_REQUEST, detail=detail)


def same_label(one: str, other: str) -> bool:
    """Whether two texts are the same label; `1`, `1.0` and `True` are different ways to write one."""
    return one == other or _number(one) == _number(other)


def _number(text: str) -> float | str:
    if text.lower() in ("true", "false"):
        return int(text.lower() == "true")
    for read in (int, float):
        with suppress(ValueError):
            return read(text)
    return text


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
