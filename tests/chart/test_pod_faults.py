"""What goes wrong in and around pods: containers that die or hang, full disks, few files, wrong configurations, no DNS.

`SLUICE_POD_OUTAGE_S` and `SLUICE_POD_SOAK_S` say for how long all pods hang, and for how long calls run before and
after memory and descriptors are compared: `make deep-pods` takes 10 and 120.
"""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx
import psutil
import pytest

from tests.support.gateway import until
from tests.support.pods.deep import deep
from tests.support.pods.load import Load
from tests.support.pods.pod import Pod
from tests.support.pods.site import NAME, PORT, Site, site

OUTAGE_S = float(os.environ.get("SLUICE_POD_OUTAGE_S", "4"))
SOAK_S = float(os.environ.get("SLUICE_POD_SOAK_S", "6"))
MANY = 1_100
"""Streams at a time: more than the 1,024 that clusters of Envoy allow by themselves."""

pytestmark = [deep, pytest.mark.timeout(900)]  # the image may have to be built first


@pytest.fixture(scope="module")
def here() -> Iterator[Site]:
    with site(replicas=2, stores=True, values={"spool": {"size": "8Mi"}}) as made:
        yield made


@pytest.fixture
def pods(here: Site) -> list[Pod]:
    return here.cluster.settled(NAME)


def answered(here: Site, pod: Pod | None = None, **fake: Any) -> int:
    """The status of one call at a pod, or at the Service; 0: none came."""
    url = here.url if pod is None else f"http://{pod.address}:8080"
    said = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello!"}], "x_fake": fake}
    try:
        with here.client(base_url=url) as client:
            return client.post("/v1/chat/completions", json=said).status_code
    except httpx.HTTPError:
        return 0


def served(here: Site, pod: Pod | None = None, patience: float = 90.0) -> None:
    until(lambda: answered(here, pod) == 200, patience, "a call to be answered")


def test_a_policy_container_that_is_killed_lets_nothing_through(here: Site, pods: list[Pod]) -> None:
    """Its streams break, its calls are refused, no provider is asked; with it back, all is as before."""
    pod = pods[0]
    fake = {"length": 400, "tokens_per_second": 5}
    said = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello!"}], "stream": True, "x_fake": fake}
    with (
        here.client(base_url=f"http://{pod.address}:8080") as client,
        client.stream("POST", "/v1/chat/completions", json=said) as stream,
    ):
        lines = stream.iter_lines()
        request_id = stream.headers["x-request-id"]
        assert next(lines).startswith("data:")
        here.cluster.signal(pod, "sluice", signal.SIGKILL)
        with pytest.raises(httpx.RemoteProtocolError):
            list(lines)
    until(lambda: pod.containers["sluice"].restarts == 1 or not pod.containers["sluice"].started.is_set())
    here.fake.reset()
    refused = [answered(here, pod) for _ in range(10)]
    asked = len(here.fake.calls("one"))
    assert asked == refused.count(200), "the provider was asked by nobody's leave"
    assert set(refused) <= {200, 500, 503, 504}
    served(here, pod)
    assert pod.containers["envoy"].restarts == 0
    until(lambda: [row for row in here.rows() if row["request_id"] == request_id], 60, "the row of the broken stream")
    (row,) = (row for row in here.rows() if row["request_id"] == request_id)
    assert row["input"] + row["output"] > 0, "it used something"


def test_a_policy_container_that_hangs_is_passed_by(here: Site, pods: list[Pod]) -> None:
    hanging, other = pods
    here.cluster.signal(hanging, "sluice", signal.SIGSTOP, everyone=True)
    try:
        assert answered(here, hanging) in (500, 503, 504), "it fails closed"
        front = here.cluster.service(NAME)
        until(lambda: list(front.endpoints) == [other], 60, "its Service to pass it by")
        assert [answered(here) for _ in range(6)] == [200] * 6
    finally:
        here.cluster.signal(hanging, "sluice", signal.SIGCONT, everyone=True)
    served(here, hanging)
    here.cluster.settled(NAME)


def test_after_an_outage_of_all_pods_calls_are_answered_again(here: Site, pods: list[Pod]) -> None:
    for pod in pods:
        here.cluster.signal(pod, "sluice", signal.SIGSTOP, everyone=True)
    try:
        here.fake.reset()
        until_s, statuses = time.monotonic() + OUTAGE_S, []
        while time.monotonic() < until_s:
            statuses.append(answered(here))
        assert 200 not in statuses
        assert here.fake.calls("one") == [], "calls reached the provider past a policy that hung"
    finally:
        for pod in pods:
            here.cluster.signal(pod, "sluice", signal.SIGCONT, everyone=True)
    began = time.monotonic()
    for pod in pods:
        served(here, pod)
    recovered = time.monotonic() - began
    here.cluster.settled(NAME)
    served(here)
    print(f"after {OUTAGE_S:.0f} s without any policy: answered again after {recovered:.1f} s")


def test_more_streams_at_a_time_than_envoy_allows_by_itself(here: Site, pods: list[Pod]) -> None:
    """All on one pod. Each is served, or told in its status that there are too many; nobody hangs or is cut."""
    pod = pods[0]
    asyncio.run(_many(here, pod))
    served(here, pod)
    assert pod.containers["sluice"].restarts <= 1
    here.cluster.settled(NAME)


async def _many(here: Site, pod: Pod) -> None:
    load = Load(pod.address, 8080, here.key, per_second=0.1, streams=MANY, tokens=8, fake={"held": 3})
    async with load.running():
        await load.settled(share=1.0, refused=True)
        live = load.live
        await asyncio.to_thread(until, lambda: _in_flight(here, pod) >= live, 30, "the metric to tell them")
        load.stop()
        await asyncio.to_thread(until, partial(_released, here, load), 60, "the streams to end")
    statuses = {one.status for one in load.failed}
    assert statuses <= {429, 503}, load.verdict()
    assert live + len([one for one in load.failed if one.is_stream]) >= MANY
    print(f"{MANY} streams at one pod: {live} were live at a time, {len(load.failed)} refused")


def _in_flight(here: Site, pod: Pod) -> float:
    lines = here.call(pod, "/metrics").splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("sluice_calls_in_flight "))


def _released(here: Site, load: Load) -> bool:
    here.fake.release("one")
    return load.live == 0


def test_a_full_spool_loses_nothing_that_redis_has(here: Site, pods: list[Pod]) -> None:
    pod = pods[0]
    fill = "dd if=/dev/zero of=/run/sluice/spool/fill bs=64k 2>&1; echo x >> /run/sluice/spool/fill"
    code, told = here.cluster.execute(pod, "sluice", "sh", "-c", fill)
    assert code, told
    assert "No space left" in told
    ids = []
    for _ in range(5):
        with here.client(base_url=f"http://{pod.address}:8080") as client:
            said = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello!"}]}
            answer = client.post("/v1/chat/completions", json=said)
        assert answer.status_code == 200
        ids.append(answer.headers["x-request-id"])
    until(lambda: {row["request_id"] for row in here.rows()} >= {*ids}, 60, "their rows")
    rows = [row["request_id"] for row in here.rows() if row["request_id"] in ids]
    assert sorted(rows) == sorted(ids)
    here.cluster.execute(pod, "sluice", "rm", "/run/sluice/spool/fill")
    served(here, pod)


def test_a_configuration_that_is_wrong_stops_a_rollout_and_no_pod(here: Site, pods: list[Pod]) -> None:
    good = here.cluster.object("ConfigMap", f"{NAME}-config")["data"]
    bad = {"gateway.yaml": good["gateway.yaml"] + "\nlimitz: {}\n"}
    here.cluster.change("ConfigMap", f"{NAME}-config", data=bad)
    here.cluster.restart(NAME)
    try:
        until(lambda: len(here.pods) == len(pods) + 1, 30, "the rollout to begin")
        (fresh,) = (pod for pod in here.pods if pod not in pods)
        until(lambda: any(event.what.startswith("ended") for event in fresh.events), 90, "the new pod to fail")
        assert "limitz" in fresh.told("sluice"), "it says what is wrong"
        assert not fresh.is_ready
        assert "envoy" not in fresh.containers, "Envoy was started without its files"
        assert [answered(here, pod) for pod in pods] == [200, 200]
        assert all(pod.is_ready for pod in pods)
    finally:
        here.cluster.change("ConfigMap", f"{NAME}-config", data=good)
    here.cluster.settled(NAME)
    served(here)


async def test_memory_and_descriptors_stay_flat(here: Site) -> None:
    """Last, after all that went wrong before. Memory is told beside its limit."""
    await asyncio.to_thread(here.cluster.settled, NAME)
    await _soaked(here)
    before = {pod.name: _descriptors(pod) for pod in here.pods}
    await _soaked(here)
    for pod in here.pods:
        await asyncio.to_thread(until, lambda pod=pod: _flat(before[pod.name], pod), 30, "descriptors to go back")  # type: ignore[misc]
        used, limit = pod.memory("sluice")
        print(f"{pod.name}: descriptors {before[pod.name]} -> {_descriptors(pod)}, memory at most {used >> 20} MiB")
        if limit:
            assert used < 0.9 * limit, "near its limit"


async def _soaked(here: Site) -> None:
    load = Load(here.cluster.service(NAME).address, PORT, here.key, per_second=10, streams=10, tokens=10)
    async with load.running():
        await asyncio.sleep(SOAK_S)
    assert not load.failed, load.verdict()


def _descriptors(pod: Pod) -> dict[str, int]:
    return {name: sum(_opened(one) for one in container.processes()) for name, container in pod.containers.items()}


def _opened(process: psutil.Process) -> int:
    try:
        return process.num_fds()
    except psutil.NoSuchProcess:
        return 0


def _flat(before: dict[str, int], pod: Pod) -> bool:
    now = _descriptors(pod)
    return all(now[name] <= count + 12 for name, count in before.items())


# ---- a pod by itself ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone() -> Iterator[Site]:
    """256 open files for each process; the provider's name does not exist when the pod starts, and comes later."""
    hasty = {"periodSeconds": 1, "timeoutSeconds": 3, "failureThreshold": 10}
    with site(open_files=256, provider="provider.test", probes=hasty) as made:
        yield made


def test_a_provider_without_a_name_is_found_once_it_has_one(alone: Site) -> None:
    assert answered(alone) in (503, 504), "nobody knows where the provider is"
    alone.cluster.names["provider.test"] = [alone.cluster.gateway]
    served(alone)


def test_few_files_are_no_end(alone: Site) -> None:
    (pod,) = alone.pods
    served(alone, pod)
    with ThreadPoolExecutor(300) as callers:
        statuses = list(callers.map(lambda _: answered(alone, pod, delay_ms=3_000), range(300)))
    assert statuses.count(200) > 0
    assert set(statuses) <= {0, 200, 429, 500, 503, 504}
    served(alone, pod)
    print(f"300 calls at a time with 256 files: {statuses.count(200)} answered, the others refused or not taken")
    assert "Traceback" not in pod.told("sluice")


def test_a_policy_container_that_hangs_for_long_is_started_again(alone: Site) -> None:
    """With the Envoy that its hook has drained: a new one takes its place, too."""
    (pod,) = alone.pods
    served(alone, pod)
    alone.cluster.signal(pod, "sluice", signal.SIGSTOP, everyone=True)
    until(lambda: pod.containers["sluice"].restarts == 1, 90, f"the restart\n{pod.story()}")
    until(lambda: pod.is_ready, 120, f"the pod to be ready\n{pod.story()}")
    served(alone, pod)
    print(pod.story())
