"""From the settings to the models that are declared, each with where its versions are and how they change.

What the user's paths are is found out once (`places`); what they declare may be asked again and again (`declare`), as
models come to repositories and go.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from dukou.config import ModelsConfig
from dukou.config.load import nearest
from dukou.core.errors import DukouError, Reason
from dukou.core.link import Assignment
from dukou.core.version import ModelVersion
from dukou.lifecycle.plan import parse as parse_plan
from dukou.lifecycle.plan import to_text
from dukou.lifecycle.policy import All, Policy, parse, wanted
from dukou.lifecycle.wanted import Declared, Strategy
from dukou.repository.local import FIRST_VERSION, LocalRepository, classify, is_packed, placed
from dukou.repository.look import Look
from dukou.repository.manifest import read_manifest
from dukou.repository.triton import read_config, version_policy


class Place(msgspec.Struct, frozen=True):
    """One of the user's paths: a `version` in its folder, or else a model's folder, or else a whole repository."""

    folder: Path
    version: ModelVersion | None = None
    model: str = ""


class Declaration(msgspec.Struct, frozen=True):
    """The models by name, the folders in which versions and models may come and go, remarks for the user."""

    models: Mapping[str, Declared]
    roots: tuple[Path, ...]
    warnings: tuple[str, ...]


def places(config: ModelsConfig, pack: Callable[[Path, str], Path]) -> tuple[Place, ...]:
    """What each of `config.paths` is; `pack(file, name)` gives the folder of a bare model file.

    Raises DukouError: a path that is nothing, a file that cannot be packed, a name for several models.
    """
    return tuple(_place(Path(text), config, pack) for text in config.paths)


def _place(path: Path, config: ModelsConfig, pack: Callable[[Path, str], Path]) -> Place:
    kind = classify(path)
    if config.name and (kind == "repository" or len(config.paths) > 1):
        raise _invalid(f"--name {config.name} is for one model, here are several")
    folder = path.absolute()
    match kind:
        case "file":
            name = config.name or path.name.split(".")[0]
            return Place(pack(path, name).absolute(), ModelVersion(name, FIRST_VERSION))
        case "version":
            version = read_manifest(folder).id if is_packed(folder) else placed(folder)
            return Place(folder, ModelVersion(config.name or version.name, version.version))
        case "model":
            return Place(folder, model=config.name or folder.name)
    return Place(folder)


def declare(config: ModelsConfig, packed: tuple[Place, ...]) -> Declaration:
    """What the settings declare, the paths being `packed` ones: those that `places` made.

    Settings of a model that is not there are refused, but warned of where it may still come to a repository. Raises
    DukouError: a model declared twice, settings that are none, a repository that cannot be read.
    """
    policy = parse(config.version_policy)
    models: dict[str, Declared] = {}
    for place in packed:
        for one in _declared(place, policy):
            models[one.name] = _join(models[one.name], one) if one.name in models else one
    growing = any(place.version is None and not place.model for place in packed)
    warnings = tuple(_unserved(config, models))
    if warnings and not growing:
        raise _invalid(warnings[0])
    roots = dict.fromkeys(place.folder for place in packed if place.version is None)
    return Declaration({name: with_settings(one, config) for name, one in models.items()}, tuple(roots), warnings)


def with_settings(declared: Declared, config: ModelsConfig) -> Declared:
    """The model with what the settings say under its name: options, labels, deployment.

    Raises DukouError CONFIG_INVALID with the path of the setting that is wrong.
    """
    name = declared.name
    return msgspec.structs.replace(
        declared,
        options=_table(f"models.options.{name}", config.options.get(name, {})),
        labels=_labels(f"models.labels.{name}", config.labels.get(name, {})),
        **_deployment(f"deployment.{name}", config.deployment.get(name, {})),
    )


def choose(declared: Declared) -> Assignment:
    """The version that a server would serve if it looked once; one that is broken where there is no other, so that its
    loading tells why. Raises DukouError."""
    look, policy = Look(quiet_s=0.0), partial(wanted, declared.policy)
    if declared.folder:
        root = Path(declared.root or declared.folder)
        seen = look.see(declared.name, Path(declared.folder), root=root, wanted=policy)
    else:
        seen = look.see_fixed(declared.name, {number: Path(folder) for number, folder in declared.fixed.items()})
    good = [number for number, found in seen.versions.items() if not found.error]
    number = next(iter(policy(good) or policy(seen.versions)), None)
    if number is None:
        unfit = f"no version of model {declared.name!r} fits the policy {declared.policy}"
        said = "; ".join(filter(None, (seen.problem, *seen.warnings))) or unfit
        raise _invalid(f"there is nothing to serve: {said}")
    return Assignment(ModelVersion(declared.name, number), seen.versions[number].folder, block=1)


def _unserved(config: ModelsConfig, models: Mapping[str, Declared]) -> Iterator[str]:
    """What is set about models that are not there."""
    tables = {"models.options": config.options, "models.labels": config.labels, "deployment": config.deployment}
    for setting, table in tables.items():
        for name in table:
            if name not in models:
                served = f"; served are: {', '.join(sorted(models))}"
                yield f"{setting}.{name}: no such model is served{nearest(name, models) or served}"


def _declared(place: Place, policy: Policy) -> Iterator[Declared]:
    if place.version is not None:
        yield Declared(place.version.name, fixed={place.version.version: str(place.folder)}, policy=All())
    elif place.model:
        yield Declared(place.model, str(place.folder), policy=_own_policy(place.folder, policy))
    else:
        for name in LocalRepository(place.folder).models():
            folder = place.folder / name
            yield Declared(name, str(folder), policy=_own_policy(folder, policy), root=str(place.folder))


def _own_policy(folder: Path, policy: Policy) -> Policy:
    """What the model's own configuration wants, else `policy`. Loading tells what is wrong with a configuration."""
    try:
        config = read_config(folder)
        return parse(version_policy(config) or str(policy)) if config is not None else policy
    except DukouError:
        return policy


def _join(one: Declared, other: Declared) -> Declared:
    """Single versions of one model as one; everything else that two declare is refused."""
    both = sorted(set(one.fixed) & set(other.fixed))
    if both:
        raise _invalid(
            f"{one.fixed[both[0]]} and {other.fixed[both[0]]} would both be version {both[0]} of {one.name!r}; "
            "give one of them another name or version"
        )
    if not (one.fixed and other.fixed):
        places = " and ".join(each.folder or ", ".join(each.fixed.values()) for each in (one, other))
        raise _invalid(f"{places} are both model {one.name!r}; give one of them another name")
    return msgspec.structs.replace(one, fixed={**one.fixed, **other.fixed})


def _table(path: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _invalid(f"{path} is {value!r}, not a table")
    return value


def _labels(path: str, labels: Any) -> Mapping[str, int]:
    table: Mapping[str, Any] = _table(path, labels)
    for label, number in table.items():
        if not isinstance(number, int) or isinstance(number, bool):
            raise _invalid(f"{path}.{label} is {number!r}, not the number of a version")
    return table


def _deployment(path: str, table: Any) -> dict[str, Any]:
    """The fields of Declared that a deployment's table sets."""
    for key in _table(path, table):
        if key not in _DEPLOYMENT:
            there = nearest(key, _DEPLOYMENT) or f"; there are {', '.join(_DEPLOYMENT)}"
            raise _invalid(f"{path}.{key}: there is no such setting{there}")
    fields = {}
    for key, value in table.items():
        try:
            fields[key] = _DEPLOYMENT[key](value)
        except ValueError as error:
            raise _invalid(f"{path}.{key}: {error}") from None
        except DukouError as error:
            raise _invalid(f"{path}.{key}: {error.facts.get('detail', error)}") from error
    return fields


def _strategy(value: Any) -> Strategy:
    words = [strategy.value for strategy in Strategy]
    if value not in words:
        raise ValueError(f"{value!r} is not one of {', '.join(words)}")
    return Strategy(value)


def _plan(value: Any) -> str:
    if isinstance(value, Mapping):
        return to_text(value)
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is neither the text of a plan, such as 'shadow,incremental', nor a table")
    if value:
        parse_plan(value)
    return value


def _sticky(value: Any) -> str:
    kind, colon, key = value.partition(":") if isinstance(value, str) else ("", "", "")
    if value != "" and (kind not in {"header", "input"} or not key.strip()):
        raise ValueError(f"{value!r} is neither `header:NAME` nor `input:NAME`")
    return f"{kind}{colon}{key.strip()}"


def _keep_previous(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value


_DEPLOYMENT: Mapping[str, Callable[[Any], Any]] = {
    "strategy": _strategy,
    "plan": _plan,
    "sticky": _sticky,
    "keep_previous": _keep_previous,
}


def _invalid(detail: str) -> DukouError:
    return DukouError(Reason.CONFIG_INVALID, detail=detail)
