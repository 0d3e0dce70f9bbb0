"""What is added up in a process and shown later is what would have been shown at once."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter
from prometheus_client import Histogram as Direct

from extproc.telemetry import tally
from extproc.telemetry.tally import Histogram

BOUNDS = (0.001, 0.01, 1, 10)
VALUES = st.one_of(st.sampled_from(BOUNDS), st.floats(0, 20))


@pytest.fixture
def registry() -> Iterator[CollectorRegistry]:
    yield CollectorRegistry()
    tally.publish()


def shown(registry: CollectorRegistry) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in registry.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


@given(st.lists(st.tuples(st.sampled_from("ab"), VALUES)), st.lists(st.integers(0, 40), max_size=4))
def test_a_tallied_histogram_shows_what_one_does_that_is_observed(
    values: list[tuple[str, float]], publications: list[int]
) -> None:
    tallied, direct = CollectorRegistry(), CollectorRegistry()
    mine = Histogram("h", "help", ["label"], registry=tallied, buckets=BOUNDS)
    theirs = Direct("h", "help", ["label"], registry=direct, buckets=BOUNDS)
    for place, (label, value) in enumerate(values):
        if place in publications:
            mine.publish()
        mine.add((label,), value)
        theirs.labels(label).observe(value)
    tally.publish()
    assert shown(tallied) == pytest.approx(shown(direct))


@given(st.lists(st.tuples(st.sampled_from("ab"), VALUES)))
def test_several_values_at_once_are_what_each_is_alone(values: list[tuple[str, float]]) -> None:
    together, alone = CollectorRegistry(), CollectorRegistry()
    Histogram("h", "help", ["label"], registry=together, buckets=BOUNDS).add_each(values)
    one = Histogram("h", "help", ["label"], registry=alone, buckets=BOUNDS)
    for label, value in values:
        one.add((label,), value)
    tally.publish()
    assert shown(together) == shown(alone)


def test_a_histogram_without_labels_shows_too(registry: CollectorRegistry) -> None:
    bare = Histogram("bare", "help", registry=registry, buckets=BOUNDS)
    bare.add((), 0.5)
    assert registry.get_sample_value("bare_count") == 0
    tally.publish()
    tally.publish()
    assert (registry.get_sample_value("bare_count"), registry.get_sample_value("bare_sum")) == (1, 0.5)


def test_series_that_are_new_wait_where_there_are_many(registry: CollectorRegistry) -> None:
    one, other = (Histogram(name, "help", ["label"], registry=registry, buckets=BOUNDS) for name in ("one", "other"))
    for histogram in (one, other):
        for label in "abc":
            histogram.add((label,), 1)

    def there() -> float:
        return sum(value for (name, _), value in shown(registry).items() if name.endswith("_count"))

    tally.publish(new=2)
    assert there() == 2
    one.add(("a",), 1)  # which is no new one any more
    tally.publish(new=0)
    assert there() == 3
    tally.publish(new=3)
    assert there() == 6
    tally.publish()
    assert there() == 7


def test_what_somebody_else_counts_is_reached_and_never_passed(registry: CollectorRegistry) -> None:
    dropped, of_one = Counter("dropped", "help", registry=registry), Counter("of", "help", ["what"], registry=registry)
    for total in (0, 3, 3, 7):
        tally.reach(dropped, total)
        tally.reach(of_one.labels("logs"), 2 * total)
    assert registry.get_sample_value("dropped_total") == 0
    tally.publish()
    assert registry.get_sample_value("dropped_total") == 7
    assert registry.get_sample_value("of_total", {"what": "logs"}) == 14
