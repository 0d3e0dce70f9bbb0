"""Three pods behind a Service, with real stores: all are replaced at load, then one is killed.

`SLUICE_ROLL_STREAMS` and `SLUICE_ROLL_CALLS` say how many streams live at any time and how many calls come in a
second: `make deep-pods` takes 200 and 50.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.support.gateway import until
from tests.support.pods.deep import deep
from tests.support.pods.load import Called, Load
from tests.support.pods.site import NAME, PORT, Site, site

STREAMS = int(os.environ.get("SLUICE_ROLL_STREAMS", "40"))
PER_SECOND = float(os.environ.get("SLUICE_ROLL_CALLS", "15"))
LATE_S = 120.0  # for the ledger to have all: what a killed writer took is another's after 15 s

pytestmark = pytest.mark.timeout(900)  # the image may have to be built first


@pytest.fixture(scope="module")
def here() -> Iterator[Site]:
    with site(replicas=3, stores=True) as made:
        yield made


def load_at(here: Site) -> Load:
    """Streams of ten seconds, at the pace of a reader, or slower where there are many."""
    pace = min(4.0, 200 / STREAMS)
    address = here.cluster.service(NAME).address
    return Load(address, PORT, here.key, PER_SECOND, STREAMS, tokens=round(10 * pace), tokens_per_second=pace)


def ledger_of(here: Site, calls: list[Called]) -> Counter[str]:
    """How many rows each of these calls has, once each has one, or for a long time none."""
    wanted = {one.request_id for one in calls}

    def rows() -> Counter[str]:
        return Counter(row["request_id"] for row in here.rows() if row["request_id"] in wanted)

    deadline = time.monotonic() + LATE_S
    while len(found := rows()) < len(wanted) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def assert_each_once(here: Site, calls: list[Called], rows: Counter[str]) -> None:
    """Each of these calls has a row, and only one. Tells of those that have none when they were, and where."""
    first = min(one.began for one in calls)
    lacking = [one for one in calls if one.request_id not in rows]
    served = {record["request_id"]: pod.name for pod in here.cluster.all_pods for record in here.calls(pod)}
    lines = [
        f"{one.began - first:.2f}-{one.ended - first:.2f} {'stream' if one.is_stream else 'call'} "
        f"{served.get(one.request_id, 'nobody')} {one.request_id}"
        for one in lacking
    ]
    by_pod = Counter(served.get(one.request_id, "nobody") for one in lacking)
    assert not lacking, "\n".join([f"{len(lacking)} of {len(calls)} calls have no row: {by_pod}", *lines[:60]])
    assert [row for row, count in rows.items() if count != 1] == [], "calls with two rows"


async def test_all_pods_are_replaced_and_no_call_is_lost(here: Site) -> None:
    before = here.cluster.settled(NAME)
    load = load_at(here)
    async with load.running():
        await load.settled()
        here.cluster.restart(NAME)
        await asyncio.to_thread(until, lambda: not here.cluster.deployment(NAME).is_settled, 10, "the roll to begin")
        await asyncio.to_thread(here.cluster.settled, NAME)
        await asyncio.to_thread(until, lambda: all(pod.is_gone for pod in before), 180, "the old ones to end")
    told_of = "\n".join(pod.story() for pod in before)
    assert not load.failed, f"{load.verdict()}\n{told_of}"
    assert load.kinds()["stream"] >= STREAMS
    for pod in before:
        ended = {event.container for event in pod.events if event.what.startswith("preStop ended 0")}
        assert ended == {"sluice", "envoy"}, pod.story()
        assert not [event for event in pod.events if "SIGKILL" in event.what], pod.story()
    rows = await asyncio.to_thread(ledger_of, here, load.told)
    assert_each_once(here, load.told, rows)
    print(f"{len(load.told)} calls ({load.kinds()}), {sum(rows.values())} rows")


@deep
async def test_a_pod_that_is_killed_takes_only_its_own_calls_with_it(here: Site) -> None:
    pods = here.cluster.settled(NAME)
    load = load_at(here)
    async with load.running():
        await load.settled()
        killed_at = time.monotonic()
        here.cluster.kill(pods[0])
        await asyncio.sleep(3)
        await asyncio.to_thread(until, lambda: pods[0].is_ready, 180, "the killed pod to be back")
        back_at = time.monotonic()
        await asyncio.sleep(2)
    lost = [one for one in load.failed if one.began < killed_at]
    meanwhile = [one for one in load.failed if killed_at <= one.began < back_at]
    after = [one for one in load.failed if one.began >= back_at + 1]
    assert len(lost) <= STREAMS / len(pods) * 1.5 + PER_SECOND, f"more than its own: {load.verdict()}"
    assert not after, load.verdict()
    whole = [one for one in load.told if not one.trouble]
    assert_each_once(here, whole, await asyncio.to_thread(ledger_of, here, whole))
    print(
        f"killed: {len(lost)} of the calls under way were lost, {len(meanwhile)} that came until its Service knew "
        f"were refused, of {len(load.told)}; back after {back_at - killed_at:.1f} s"
    )
