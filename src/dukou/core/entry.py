"""By which call a request came, in the words that dashboards group by."""

from typing import NamedTuple


class Entry(NamedTuple):
    """A kind of call: TensorFlow Serving's labels `API` and `entrypoint` for it, or what they would be."""

    api: str
    entrypoint: str


ENTRIES = (
    Entry("", ""),
    Entry("predict", "REST"),
    Entry("classify", "REST"),
    Entry("regress", "REST"),
    Entry("Predict", "GRPC"),
    Entry("Classify", "GRPC"),
    Entry("Regress", "GRPC"),
    Entry("MultiInference", "GRPC"),
    Entry("infer", "REST"),
    Entry("ModelInfer", "GRPC"),
    Entry("ModelStreamInfer", "GRPC"),
    Entry("generate", "REST"),
    Entry("invocations", "REST"),
    Entry("simple", "REST"),
)
"""All kinds. A request carries its index here (`Context.entry`); 0 is a request that does not say, as of a program that
embeds the engine."""


def entry(api: str, entrypoint: str) -> int:
    """The index of a kind of call in ENTRIES. Raises ValueError for one that is not there."""
    return ENTRIES.index(Entry(api, entrypoint))
