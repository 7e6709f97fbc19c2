"""Who is told of what versions answer, as tables change."""

from typing import Any

import msgspec

from dukou.app.taps import Taps
from dukou.core.message import Copy, Table
from dukou.core.model import ModelManifest, ModelVersion, State
from dukou.core.route import Route, Shadow, Weight
from dukou.testing.models import iris_like, table

ONE, TWO, THREE = (ModelVersion("iris", number) for number in (1, 2, 3))
SHADOW = Shadow(3, "/state/iris-3")
COPY = Copy(ONE, "serving_default", {}, {}, 1)


class Noting:
    """A tap that notes whose it is, what it gets and its end."""

    def __init__(self, version: ModelVersion) -> None:
        self.version = version
        self.copies: list[Copy] = []
        self.closed = False

    def __call__(self, copy: Copy) -> None:
        """Note it."""
        self.copies.append(copy)

    def close(self) -> None:
        """Note that."""
        self.closed = True


class Recorder(Noting):
    """A capture that makes one tap for each version."""

    def __init__(self) -> None:
        super().__init__(ONE)
        self.made: list[ModelVersion] = []

    def tap(self, manifest: ModelManifest) -> Any:
        """Itself, for every version."""
        self.made.append(manifest.id)
        return self


def taps(capture: Recorder | None = None) -> tuple[Taps, list[Noting]]:
    """Taps whose shadowing is noted."""
    made: list[Noting] = []

    def shadowing(version: ModelVersion, shadow: Shadow) -> Any:
        made.append(Noting(version))
        return made[-1]

    return Taps(shadowing, capture), made  # type: ignore[arg-type]


def routed(route: Route, *versions: int, state: State = State.AVAILABLE) -> tuple[Table, dict[str, Route]]:
    """A table of these versions of one model, and its routes."""
    of = table(*(iris_like("iris", number, state) for number in versions))
    return msgspec.structs.replace(of, routes={"iris": route}), {"iris": route}


def test_a_shadow_gets_what_the_primary_answers() -> None:
    """The version that most calls go to, even where a higher one is loaded; and none where nobody answers."""
    of, made = taps()

    first = of.follow(*routed(Route((Weight(2, 0.0), Weight(1, 1.0)), shadows=(SHADOW,)), 1, 2))
    none = of.follow(*routed(Route(shadows=(SHADOW,)), 1, state=State.LOADING))

    assert first == {ONE: made[0]}
    assert none == {}
    assert made[0].closed


def test_what_has_not_changed_is_kept_over_tables() -> None:
    """Its connection and what it has gathered stay; another shadow, or another primary, is another tap."""
    of, made = taps()
    of.follow(*routed(Route(shadows=(SHADOW,)), 1))

    of.follow(*routed(Route(shadows=(SHADOW,)), 1))
    kept = [one.closed for one in made]
    of.follow(*routed(Route(shadows=(SHADOW,)), 1, 2))
    of.follow(*routed(Route(shadows=(msgspec.structs.replace(SHADOW, share=0.5),)), 1, 2))
    of.close()

    assert kept == [False]
    assert [one.version for one in made] == [ONE, TWO, TWO]
    assert all(one.closed for one in made)


def test_every_version_is_recorded_and_the_primary_copied_as_well() -> None:
    """Two taps of one version are told both; one that was there before is not made anew."""
    capture = Recorder()
    of, made = taps(capture)
    of_table, routes = routed(Route((Weight(1, 1.0),), shadows=(SHADOW,)), 1, 2)

    of.follow(of_table, routes)
    told = of.follow(of_table, routes)
    told[ONE](COPY)
    told[TWO](COPY)

    assert (len(made[0].copies), len(capture.copies)) == (1, 2)
    assert capture.made == [TWO, ONE]


def test_a_version_is_no_shadow_of_itself() -> None:
    """Once it is the primary, there is nothing to compare it with."""
    of, made = taps()

    assert of.follow(*routed(Route((Weight(3, 1.0),), shadows=(SHADOW,)), 3)) == {}
    assert made == []
