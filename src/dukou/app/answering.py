"""The version in a model process, and what its answers have shown beside the primary's."""

import logging
from collections.abc import Iterator, Mapping
from functools import reduce
from threading import BoundedSemaphore, Lock
from typing import Any

import msgspec

from dukou.core.buckets import counted
from dukou.core.clock import monotonic
from dukou.core.comparison import Comparison, merge
from dukou.core.errors import DukouError, Reason
from dukou.core.frame import Call, Failure, Part, encode_answer, encode_failure
from dukou.core.link import CompareBy
from dukou.core.message import Copy
from dukou.core.model import ModelManifest, Signature
from dukou.core.runtime import LoadedModel
from dukou.core.tensor import Tensors
from dukou.lifecycle.compare import bind, compare

_COMPLAINS_EVERY_S = 1.0

_log = logging.getLogger("dukou")


class Answering:
    """The model, and what its answers have shown beside the primary's. For any thread."""

    def __init__(self, manifest: ModelManifest, model: LoadedModel, compare_by: CompareBy) -> None:
        self.version = manifest.id
        self.compare_by = compare_by
        self._signatures = manifest.signatures
        self._model = model
        self._turns = BoundedSemaphore(max(1, model.concurrency))
        self._lock = Lock()
        self._comparison = Comparison()
        self._silent_until_s = 0.0

    def answer(self, call: Call) -> list[Part]:
        """The frame that answers."""
        try:
            return encode_answer(*self._infer(call.signature, call.inputs, call.outputs, call.parameters))
        except DukouError as error:
            return encode_failure(Failure.of(error))

    def take(self, copy: Copy) -> None:
        """Ask the model the same, and compare."""
        signature = self._signatures.get(copy.signature)
        if signature is None or (signature.batched and not _are_rows(copy)):
            found = Comparison(rows=copy.rows, disagreed=copy.rows, failed=copy.rows)
        else:
            found = reduce(merge, self._compare(signature, copy))
        found.copies = 1
        found.primary_s = counted(copy.infer_s)
        self._add(found)

    def drop(self, copies: int) -> None:
        """So many did not come."""
        self._add(Comparison(dropped=copies))

    def taken(self) -> Comparison | None:
        """What was shown since this was last asked; None for nothing."""
        with self._lock:
            comparison, self._comparison = self._comparison, Comparison()
        return comparison if comparison.copies or comparison.dropped else None

    def _add(self, found: Comparison) -> None:
        with self._lock:
            self._comparison = merge(self._comparison, found)

    def _compare(self, signature: Signature, copy: Copy) -> Iterator[Comparison]:
        """All rows at once; when that fails, halves of them, so that one row's fault is not counted for the others."""
        settings: dict[str, Any] = msgspec.structs.asdict(self.compare_by)
        known = signature.output_names()
        outputs = tuple([name for name in copy.outputs if name in known])
        try:
            inputs = bind(signature, copy.inputs)
        except DukouError as error:
            self._complain(error)
            yield compare(signature, copy.inputs, copy.outputs, None, **settings)
            return
        pending = [(0, copy.rows)]
        while pending:
            start, end = pending.pop()
            ours, primary = inputs, copy.outputs
            if end - start < copy.rows:
                ours, primary = _rows(inputs, start, end), _rows(copy.outputs, start, end)
            try:
                answered, seconds = self._infer(signature.name, ours, outputs, copy.parameters)
            except DukouError:
                if signature.batched and end - start > 1:
                    middle = (start + end) // 2
                    pending += [(middle, end), (start, middle)]
                    continue
                yield compare(signature, ours, primary, None, **settings)
            else:
                found = compare(signature, ours, primary, answered, **settings)
                if end - start == copy.rows:
                    found.candidate_s = counted(seconds)
                yield found

    def _infer(
        self, signature: str, inputs: Tensors, outputs: tuple[str, ...], parameters: Mapping[str, Any]
    ) -> tuple[Tensors, float]:
        """The outputs and how many seconds they took. Raises DukouError only: here a model's exceptions become ours."""
        with self._turns:
            begun_s = monotonic()
            try:
                answered = self._model.infer(signature, inputs, outputs, parameters)
                return {name: answered[name] for name in outputs}, monotonic() - begun_s
            except DukouError:
                raise
            except (Exception, SystemExit) as error:
                self._complain(error)
                raise DukouError(Reason.MODEL_FAILED) from error

    def _complain(self, error: BaseException) -> None:
        """Log what the model raised; a shadow that fails on everything does not fill the disk with it."""
        now_s = monotonic()
        with self._lock:
            if now_s < self._silent_until_s:
                return
            self._silent_until_s = now_s + _COMPLAINS_EVERY_S
        _log.error("model %r, version %d failed", self.version.name, self.version.version, exc_info=error)


def _rows(tensors: Tensors, start: int, end: int) -> Tensors:
    return {name: array[start:end] for name, array in tensors.items()}


def _are_rows(copy: Copy) -> bool:
    """Whether the primary answered row by row."""
    return all(array.ndim and array.shape[0] == copy.rows for array in copy.outputs.values())
