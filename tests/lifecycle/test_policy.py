"""Version policies: what their texts mean and what they pick."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dukou.core.errors import DukouError, Reason
from dukou.lifecycle.policy import All, Latest, Policy, Specific, missing, parse, wanted

numbers = st.integers(0, 10**18)
policies = (
    st.builds(Latest, st.integers(1, 1000))
    | st.just(All())
    | st.builds(Specific, st.sets(numbers, min_size=1).map(lambda found: tuple(sorted(found, reverse=True))))
)


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("latest", Latest(1)),
        ("latest:1", Latest(1)),
        ("latest:3", Latest(3)),
        (" latest : 2 ", Latest(2)),
        ("all", All()),
        ("7", Specific((7,))),
        ("1,3", Specific((3, 1))),
        ("3, 1, 3", Specific((3, 1))),
        ("00000123", Specific((123,))),
    ],
)
def test_a_text_means_a_policy(text: str, policy: Policy) -> None:
    """Each form that is documented."""
    assert parse(text) == policy


@pytest.mark.parametrize(
    "text", ["", "latest:", "latest:0", "latest:-1", "latest:x", "all:2", "1,", "1;2", "newest", "1.5", "-1", "²", "٣"]
)
def test_any_other_text_is_refused(text: str) -> None:
    """The error repeats the text and lists the forms."""
    with pytest.raises(DukouError) as caught:
        parse(text)

    assert caught.value.reason is Reason.CONFIG_INVALID
    assert repr(text) in str(caught.value)
    assert "latest:N" in str(caught.value)


@given(policies)
def test_a_policy_says_itself_back(policy: Policy) -> None:
    """`parse` undoes `str`."""
    assert parse(str(policy)) == policy


@pytest.mark.parametrize(
    ("text", "available", "picked", "absent"),
    [
        ("latest:1", [1, 2, 10], (10,), ()),
        ("latest:2", [1, 2, 10], (10, 2), ()),
        ("latest:9", [1, 2], (2, 1), ()),
        ("latest:1", [], (), ()),
        ("all", [3, 1, 2], (3, 2, 1), ()),
        ("1,3", [1, 2, 3], (3, 1), ()),
        ("1,4", [1, 2, 3], (1,), (4,)),
        ("4,5", [1], (), (5, 4)),
    ],
)
def test_a_policy_picks(text: str, available: list[int], picked: tuple[int, ...], absent: tuple[int, ...]) -> None:
    """Highest first; what is named but not there is told apart."""
    assert wanted(parse(text), available) == picked
    assert missing(parse(text), available) == absent


@given(policies, st.lists(numbers))
def test_only_available_versions_are_wanted(policy: Policy, available: list[int]) -> None:
    """In falling order, each once."""
    picked = wanted(policy, available)

    assert set(picked) <= set(available)
    assert list(picked) == sorted(set(picked), reverse=True)
