"""From the paths that a user gives to the version folders that are served."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from dukou.config import ModelsConfig
from dukou.core.errors import DukouError, Reason
from dukou.core.link import Assignment
from dukou.core.version import ModelVersion
from dukou.lifecycle.policy import Policy, missing, parse, wanted
from dukou.repository.local import FIRST_VERSION, LocalRepository, Scan, classify, is_packed, placed, scan_model
from dukou.repository.manifest import read_manifest
from dukou.repository.triton import read_config, version_policy
from dukou.telemetry.layout import MOST_BLOCKS


class Plan(msgspec.Struct, frozen=True):
    """What the workers are told to serve, and what the user should know about it."""

    assignments: tuple[Assignment, ...]
    warnings: tuple[str, ...]


class Chosen(msgspec.Struct, frozen=True):
    """A version and its folder, or why it is not one that can be served: its loading will tell."""

    id: ModelVersion
    folder: Path


def make_plan(config: ModelsConfig, pack: Callable[[Path, str], Path]) -> Plan:
    """Find every version that `config` asks for; `pack(file, name)` gives the folder of a bare model file.

    Raises DukouError: a path that is nothing, a file that cannot be packed, two versions of one name and number.
    """
    policy = parse(config.version_policy)
    warnings: list[str] = []
    chosen: dict[ModelVersion, Path] = {}
    for text in config.paths:
        for found in _resolve(Path(text), config, policy, warnings, pack):
            if found.id in chosen:
                raise DukouError(
                    Reason.CONFIG_INVALID,
                    detail=f"{chosen[found.id]} and {found.folder} would both be version {found.id.version} of "
                    f"{found.id.name!r}; give one of them another name or version",
                )
            chosen[found.id] = found.folder
    if not chosen:
        detail = "; ".join(warnings) or f"no version of any model fits the policy {policy}"
        raise DukouError(Reason.CONFIG_INVALID, detail=f"there is nothing to serve: {detail}")
    if len(chosen) >= MOST_BLOCKS:
        raise DukouError(
            Reason.CONFIG_INVALID, detail=f"{len(chosen)} versions; one server has {MOST_BLOCKS - 1} at most"
        )
    _check_options(config.options, {version.name for version in chosen})
    read_labels(config.labels, chosen)
    return Plan(
        tuple(
            Assignment(version, str(folder.absolute()), block, dict(config.options.get(version.name, {})))
            for block, (version, folder) in enumerate(chosen.items(), start=1)
        ),
        tuple(warnings),
    )


def _resolve(
    path: Path, config: ModelsConfig, policy: Policy, warnings: list[str], pack: Callable[[Path, str], Path]
) -> Iterator[Chosen]:
    kind = classify(path)
    if config.name and (kind == "repository" or len(config.paths) > 1):
        raise DukouError(Reason.CONFIG_INVALID, detail=f"--name {config.name} is for one model, here are several")
    match kind:
        case "file":
            name = config.name or path.name.split(".")[0]
            yield Chosen(ModelVersion(name, FIRST_VERSION), pack(path, name))
        case "version":
            version = read_manifest(path).id if is_packed(path) else placed(path)
            yield Chosen(ModelVersion(config.name or version.name, version.version), path)
        case "model":
            name = config.name or path.absolute().name
            yield from _select(scan_model(path, name), name, _own_policy(path, policy), warnings)
        case "repository":
            repository = LocalRepository(path)
            for name in repository.models():
                yield from _select(repository.scan(name), name, _own_policy(path / name, policy), warnings)


def _own_policy(folder: Path, policy: Policy) -> Policy:
    """What the model's own configuration wants, else `policy`. Loading tells what is wrong with a configuration."""
    try:
        config = read_config(folder)
        return parse(version_policy(config) or str(policy)) if config is not None else policy
    except DukouError:
        return policy


def _select(scan: Scan, name: str, policy: Policy, warnings: list[str]) -> Iterator[Chosen]:
    """What the policy wants of the good versions, and the broken ones it would have wanted, so that they show."""
    warnings += scan.warnings
    numbers = {*wanted(policy, scan.good()), *(set(wanted(policy, scan.folders)) & set(scan.broken))}
    absent = missing(policy, scan.folders)
    if absent:
        warnings.append(f"model {name!r} has no version {', '.join(map(str, absent))}")
    for number in sorted(numbers, reverse=True):
        yield Chosen(ModelVersion(name, number), scan.folders[number])


def _check_options(options: Mapping[str, Any], names: Sequence[str] | set[str]) -> None:
    for name in options:
        if name not in names:
            served = ", ".join(sorted(names))
            raise DukouError(
                Reason.CONFIG_INVALID, detail=f"models.options.{name}: no such model is served; served are: {served}"
            )


def read_labels(labels: Mapping[str, Any], served: Collection[ModelVersion]) -> Mapping[str, Mapping[str, int]]:
    """The setting `models.labels`: names of versions, by model. Raises DukouError CONFIG_INVALID for what is none, and
    for a label of a version that is not in `served`."""
    for name, named in labels.items():
        if not isinstance(named, Mapping):
            raise DukouError(
                Reason.CONFIG_INVALID, detail=f"models.labels.{name} is {named!r}, not a table of `label = version`"
            )
        for label, number in named.items():
            if not isinstance(number, int) or isinstance(number, bool):
                problem = "not the number of a version"
            elif ModelVersion(name, number) not in served:
                numbers = sorted(version.version for version in served if version.name == name)
                problem = f"which is not served; served are: {', '.join(map(str, numbers)) or 'none of this name'}"
            else:
                continue
            raise DukouError(Reason.CONFIG_INVALID, detail=f"models.labels.{name}.{label} is {number!r}, {problem}")
    return labels
