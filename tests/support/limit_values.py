"""Limits of every kind as values, for property tests."""

from hypothesis import strategies as st

from extproc.limits.limit import Limit, Measure, Mode, Only, Period, Priority, Raise, Scope, Short

_AMOUNTS = st.integers(1, 2**53 - 1)
_NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_SOME = st.none() | st.frozensets(st.sampled_from(["gpt-4o", "claude", "x/y:1"]), max_size=2)
_WINDOWS = st.one_of(
    st.sampled_from([1_000, 60_000, 90_000, 86_400_000]).map(lambda length: {"sliding": length}),
    st.builds(
        lambda period, zone: {"period": period, "zone": zone},
        st.sampled_from(Period),
        st.sampled_from(["UTC", "Europe/Zurich"]),
    ),
    st.just({}),
)
_REST = st.fixed_dictionaries(
    {"name": _NAMES, "measure": st.sampled_from(Measure), "amount": _AMOUNTS},
    optional={
        "scope": st.sets(st.sampled_from(Scope)).map(lambda some: tuple(one for one in Scope if one in some)),
        "only": st.builds(
            Only,
            *[_SOME] * 6,
            priority=st.none() | st.sampled_from(Priority),
            low_route=st.none() | st.booleans(),
        ),
        "mode": st.sampled_from(Mode),
        "allow_on_error": st.booleans(),
        "warn_at": st.sets(st.integers(1, 100), max_size=3).map(lambda some: tuple(sorted(some))),
        "raised": st.none() | st.builds(Raise, amount=_AMOUNTS, until=st.integers(0, 2**42)),
        "kept_for_high": st.integers(0, 90),
        "short": st.sampled_from(Short),
        "slice": st.integers(16, 16_384),
        "fallback": st.none() | st.sampled_from(["gpt-4o", "claude"]),
        "status": st.integers(400, 599),
        "message": st.none() | _NAMES,
        "hard": st.booleans(),
    },
)


def limits(owner: str = "") -> st.SearchStrategy[Limit]:
    """Any limit of an owner."""
    return st.builds(lambda window, rest: Limit(owner=owner, **window, **rest), _WINDOWS, _REST)


def several(owner: str = "", most: int = 3) -> st.SearchStrategy[tuple[Limit, ...]]:
    """What a team or a key may have: names are unique."""
    return st.lists(limits(owner), max_size=most, unique_by=lambda limit: limit.name).map(tuple)
