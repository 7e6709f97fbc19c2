"""`dukou.load`: the engine inside a program, with no server."""

import asyncio
import os
from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Lock, Thread
from types import TracebackType
from typing import Any, Self, TypeVar

from numpy.typing import NDArray

from dukou.app.declare import choose, declare, places
from dukou.app.opening import open_version
from dukou.app.passing import Packer
from dukou.client.inputs import typed
from dukou.config import EngineConfig, ModelsConfig
from dukou.core.clock import monotonic
from dukou.core.errors import DukouError, Reason
from dukou.core.link import Assignment
from dukou.core.message import Context, InferenceRequest, InferenceResponse, Served, Table
from dukou.core.model import ModelManifest, ModelRef, ModelVersion, Signature, State
from dukou.core.runtime import LoadedModel
from dukou.engine.router import Engine

T = TypeVar("T")


def load(path: str | Path, *, name: str = "", trust_pickle: bool = False, trust_python: bool = False) -> "InProcess":
    """A model for this process: a model file (packed in passing), a version folder, or a model's folder (its highest
    version). Raises DukouError."""
    config = ModelsConfig(paths=(str(path),), name=name, trust_pickle=trust_pickle, trust_python=trust_python)
    declared = declare(config, places(config, Packer(config, lambda _: None).pack)).models
    if len(declared) > 1:
        raise DukouError(Reason.CONFIG_INVALID, detail=f"{path} holds several models; give the folder of one of them")
    return InProcess(choose(next(iter(declared.values()))), config)


class InProcess:
    """A loaded version: the same stages as a server's, on a loop in a thread of its own.

    Safe to call from several threads, whose calls then share batches, and from within a running event loop (a
    notebook). A context manager.
    """

    def __init__(self, assignment: Assignment, config: ModelsConfig) -> None:
        opened = open_version(assignment, config)
        self.warnings = opened.warnings
        self.version: ModelVersion = assignment.id
        self.signature: Signature = opened.manifest.signature("")
        self._lock = Lock()
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="dukou-in-process", daemon=True)
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="dukou")
        self._engine = Engine(EngineConfig(), self._loop, monotonic, (), self._pool)
        self._thread.start()
        try:
            self._run(self._put_in_force(opened.manifest, opened.model))
        except BaseException:
            self.close()
            raise

    def predict(self, X: Any) -> NDArray[Any]:
        """The first output for `X`: an array or nested lists [rows, ...], a frame, or a dict of arrays by input name.

        Raises DukouError.
        """
        first = self.signature.outputs[0].name
        return self.infer(X, (first,))[first]

    def infer(self, X: Any, outputs: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
        """The outputs asked for (all of them if none are named), by name. Raises DukouError."""
        return dict(self._run(self._engine.infer(self._request(X, outputs))).outputs)

    def stream(self, X: Any, outputs: Sequence[str] = ()) -> Iterator[dict[str, NDArray[Any]]]:
        """The responses to `X` as they come, each with those of the outputs asked for that it has; a model that does
        not stream has one. Closing the iterator ends the work. Raises DukouError."""
        request = self._request(X, outputs)
        streamer = self._engine.choose(ModelRef(self.version.name), "").streamer
        if streamer is None or not request.signature.streaming:
            yield dict(self._run(self._engine.infer(request)).outputs)
            return
        responses = streamer.stream(request)
        try:
            while (response := self._run(_next(responses))) is not None:
                yield dict(response.outputs)
        finally:
            with suppress(DukouError):  # the model may have been closed
                self._run(_end(responses))

    def _request(self, X: Any, outputs: Sequence[str]) -> InferenceRequest:
        known = self.signature.output_names()
        for name in outputs:
            if name not in known:
                raise DukouError(Reason.OUTPUT_UNEXPECTED, model=self.version.name, got=name, wanted=", ".join(known))
        try:
            inputs = typed(X, self.signature.inputs)
        except DukouError as error:
            raise error.within(model=self.version.name, version=self.version.version) from None
        rows = next(iter(inputs.values())).shape[0] if self.signature.batched else 1
        context = Context(arrived_s=monotonic())
        return InferenceRequest(self.version, self.signature, inputs, tuple(outputs) or known, rows, context)

    def close(self) -> None:
        """Let go of the model. What runs is finished; calls that wait, and later ones, raise DukouError."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        asyncio.run_coroutine_threadsafe(self._engine.drain(0.0), self._loop).result()
        self._pool.shutdown()
        asyncio.run_coroutine_threadsafe(_others_end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._engine.swap(Table())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _put_in_force(self, manifest: ModelManifest, model: LoadedModel) -> None:
        stage = self._engine.stage_for(manifest, model)
        streamer = self._engine.streamer_for(manifest, model)
        await stage.warm()
        served = Served(self.version, manifest, State.AVAILABLE, stage, None, streamer)
        self._engine.swap(Table(1, {self.version.name: {self.version.version: served}}))

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        with self._lock:
            if self._closed:
                call.close()
                raise DukouError(Reason.NOT_SERVING, model=self.version.name, detail="it has been closed")
            under_way = asyncio.run_coroutine_threadsafe(call, self._loop)
        return under_way.result()


async def _next(responses: AsyncGenerator[InferenceResponse, None]) -> InferenceResponse | None:
    return await anext(responses, None)


async def _end(responses: AsyncGenerator[InferenceResponse, None]) -> None:
    await responses.aclose()


async def _others_end() -> None:
    """Return when every other task of the loop has ended."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others)
