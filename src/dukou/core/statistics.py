"""What the models have done, in counts and nanoseconds, as the protocols tell it."""

import msgspec


class Timing(msgspec.Struct, frozen=True):
    """How often, and how long in all."""

    count: int = 0
    ns: int = 0


class BatchStatistics(msgspec.Struct, frozen=True):
    """The executions of one batch size (in rows): joining the inputs, running the model, cutting the outputs."""

    batch_size: int
    compute_input: Timing = Timing()
    compute_infer: Timing = Timing()
    compute_output: Timing = Timing()


class VersionStatistics(msgspec.Struct, frozen=True):
    """What one version has done since the server started, in all workers.

    `inference_count` is rows answered, `execution_count` runs of the model that answered. All timings count requests;
    the times of `success` and `fail` are from arrival to answer, those of `compute_*` are what each request saw of its
    execution, so that `queue` and `compute_*` together are `success` (as Triton counts). `batches` count executions,
    of at most 128 sizes: those that came first. `last_inference_ms` is Unix time in milliseconds, 0 before the first.
    `failures` counts failed requests by the name of their Code.
    """

    last_inference_ms: int = 0
    inference_count: int = 0
    execution_count: int = 0
    success: Timing = Timing()
    fail: Timing = Timing()
    queue: Timing = Timing()
    compute_input: Timing = Timing()
    compute_infer: Timing = Timing()
    compute_output: Timing = Timing()
    batches: tuple[BatchStatistics, ...] = ()
    failures: dict[str, int] = {}
