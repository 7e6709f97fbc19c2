"""Where a label may point: TensorFlow Serving's rules, in its words."""

from collections.abc import Collection, Mapping

from dukou.core.errors import DukouError, Reason


def check_labels(
    model: str,
    labels: Mapping[str, int],
    in_force: Mapping[str, int],
    available: Collection[int],
    *,
    ahead: bool = False,
) -> None:
    """That these `labels` of a model may take the place of those `in_force`.

    A label names an `available` version. With `ahead`, one that is new, or stays where it is, may name any; one in use
    moves to an available version only, so that its callers are answered all the time: load the new version, move the
    label, then drop the old one. Raises DukouError PRECONDITION_FAILED.
    """
    for label, version in sorted(labels.items()):
        moves = in_force.get(label, version) != version
        if version not in available and (moves or not ahead):
            text = (
                f"Request to assign label to version {version} of model {model}, "
                "which is not currently available for inference"
            )
            raise DukouError(
                Reason.PRECONDITION_FAILED, model=model, version=version, label=label, detail=text, text=text
            )
