"""What the decisions about versions are made of: what was declared, what verbs have overridden, what is seen, and what
should be. Values only; `dukou.lifecycle.desired` and `dukou.lifecycle.strategy` decide."""

from collections.abc import Mapping
from enum import Enum
from typing import Any

import msgspec

from dukou.core.route import Weight
from dukou.core.version import State
from dukou.lifecycle.policy import Latest, Policy


class Strategy(Enum):
    """The order of loading and unloading when versions change.

    AVAILABILITY_PRESERVING loads the new before it unloads the old, so that calls are answered all the time;
    RESOURCE_PRESERVING (a full update) unloads first, for models of which two versions do not fit into memory.
    """

    AVAILABILITY_PRESERVING = "availability_preserving"
    RESOURCE_PRESERVING = "resource_preserving"


class Declared(msgspec.Struct, frozen=True):
    """One model as the operator's settings or config file declare it.

    `folder` holds its numbered versions; "" where `fixed` names the folders of versions one by one. `root` is the
    repository that symbolic links in `folder` may not leave; "" for the folder itself. `plan` is the text
    of the plan that a new version has to go through (`dukou.lifecycle.plan`), "" for none: the policy is followed at
    once. `keep_previous`: the version that was replaced stays loaded, for a rollback in no time.
    """

    name: str
    folder: str = ""
    fixed: Mapping[int, str] = {}
    policy: Policy = Latest()
    labels: Mapping[str, int] = {}
    options: Mapping[str, Any] = {}
    strategy: Strategy = Strategy.AVAILABILITY_PRESERVING
    plan: str = ""
    sticky: str = ""
    keep_previous: bool = False
    root: str = ""


class Overrides(msgspec.Struct, frozen=True):
    """What verbs have changed about one model; kept in the store, the settings apply where nothing is said.

    `serving` is the version that answers since a deploy, a rollback or a finished rollout; `previous` the one before
    it, which a rollback goes back to. `barred` versions are not served until they are promoted again. `loaded` are
    served beside those that the policy wants, and none is served while `unloaded`. `labels` replace the declared ones
    where they are not None. `accepted` holds the marks of versions that were reloaded after a change in place.
    `newest` is the highest version that was there when a verb last chose who answers: only a higher one is new and gets
    a rollout by itself. `strategy` is the one that the last change asked for; None is the declared one.
    """

    serving: int | None = None
    previous: int | None = None
    barred: tuple[int, ...] = ()
    loaded: tuple[int, ...] = ()
    unloaded: bool = False
    labels: Mapping[str, int] | None = None
    accepted: Mapping[int, str] = {}
    newest: int = 0
    strategy: Strategy | None = None


class Trial(msgspec.Struct, frozen=True):
    """What a rollout under way wants: `candidate` answers `share` of the calls and gets copies of `shadow` of them."""

    primary: int
    candidate: int
    share: float = 0.0
    shadow: float = 0.0


class Wanted(msgspec.Struct, frozen=True):
    """What should be, for one model.

    `versions` should be loaded in the workers, highest first, and `shadow` (with the share of copies) in a model
    process of its own. `weights` (a candidate's first, the primary's last) and `labels` are to be published once the
    versions they name are AVAILABLE. `absent` are versions that are known and not to be loaded, each with the reason.
    `hold`: there is nothing to load because of faults, not because nobody wants anything, so what is loaded stays.
    """

    versions: tuple[int, ...] = ()
    weights: tuple[Weight, ...] = ()
    labels: Mapping[str, int] = {}
    shadow: Weight | None = None
    sticky: str = ""
    strategy: Strategy = Strategy.AVAILABILITY_PRESERVING
    absent: Mapping[int, str] = {}
    hold: bool = False


class Now(msgspec.Struct, frozen=True):
    """What is, for one model: the state of each version as all workers together have it (AVAILABLE when every worker
    has it, UNLOADING until the last has freed it, END with an error when loading failed), and what is published."""

    states: Mapping[int, State] = {}
    weights: tuple[Weight, ...] = ()
    labels: Mapping[str, int] = {}


class Next(msgspec.Struct, frozen=True):
    """The next table of one model: what to have loaded (what is and is not named is to be dropped), what to announce as
    not loaded yet, both highest first, and what to publish."""

    load: tuple[int, ...] = ()
    announce: tuple[int, ...] = ()
    weights: tuple[Weight, ...] = ()
    labels: Mapping[str, int] = {}
