"""The rules of Kubernetes that simulated pods follow: without them, what the other tests show would show nothing."""

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.gateway import until
from tests.support.pods import Cluster, Pod
from tests.support.pods.images import of_python

Json = dict[str, Any]

WAITS = "trap 'echo bye; exit 0' TERM; touch /shared/up; while :; do sleep 0.1; done"
ROOT = Path(__file__).parents[2]
DEAF = "trap '' TERM; while :; do sleep 0.1; done"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster({"python": of_python()}, back_off=1.0) as made:
        yield made


def container(name: str, script: str, **more: Any) -> Json:
    mounts = [{"name": "shared", "mountPath": "/shared"}]
    return {"name": name, "image": "x/python:3", "command": ["sh", "-c", script], "volumeMounts": mounts, **more}


def started(cluster: Cluster, name: str, containers: list[Json], init: list[Json] | None = None, **spec: Any) -> Pod:
    shared = {"name": "shared", "emptyDir": {}}
    spec = {
        "volumes": [shared, *spec.pop("volumes", [])],
        "containers": containers,
        "initContainers": init or [],
        **spec,
    }
    cluster.apply([{"kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec}])
    (pod,) = (one for one in cluster.pods if one.name == name)
    return pod


def told(pod: Pod) -> list[tuple[str, str]]:
    return [(event.container, event.what) for event in pod.events]


def test_a_pod_starts_and_ends_in_the_order_of_its_containers(cluster: Cluster) -> None:
    up = {
        "startupProbe": {"exec": {"command": ["test", "-e", "/shared/up"]}, "periodSeconds": 1},
        "restartPolicy": "Always",
    }
    hook = {"lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", "touch /shared/hooked"]}}}}
    waits = "until [ -e /shared/hooked ]; do sleep 0.05; done"
    init = [container("first", "echo 1"), container("a", WAITS, **up, **hook), container("b", WAITS, **up)]
    main = container("main", WAITS, lifecycle={"preStop": {"exec": {"command": ["sh", "-c", waits]}}})
    pod = started(cluster, "orderly", [main], init)
    until(lambda: pod.is_ready, 30, pod.story())
    cluster.delete(pod)
    until(lambda: pod.is_gone, 30, pod.story())
    order = [
        *(("first", "ended 0"), ("a", "runs"), ("a", "started"), ("b", "runs"), ("b", "started")),
        *(
            ("main", "runs"),
            ("pod", "is to end"),
            ("main", "preStop ended 0"),
            ("main", "SIGTERM"),
            ("main", "ended 0"),
        ),
        *(("b", "SIGTERM"), ("b", "ended 0"), ("a", "SIGTERM"), ("a", "ended 0")),
    ]
    assert [event for event in told(pod) if event in order] == order, pod.story()
    # main's hook waits for a's: had they not begun together, neither would have ended by itself
    assert ("a", "preStop ended 0") in told(pod), pod.story()
    assert pod.told("main") == "bye\n"


def test_who_does_not_end_is_killed_when_the_grace_is_over(cluster: Cluster) -> None:
    pod = started(cluster, "deaf", [container("main", DEAF)], terminationGracePeriodSeconds=3)
    until(lambda: pod.is_ready, 30, pod.story())
    cluster.delete(pod)
    until(lambda: pod.is_gone, 30, pod.story())
    assert ("main", "SIGKILL: its grace is over") in told(pod)


def test_a_hook_that_does_not_end_is_cut_off(cluster: Cluster) -> None:
    hook = {"preStop": {"exec": {"command": ["sleep", "100"]}}}
    pod = started(cluster, "hooked", [container("main", WAITS, lifecycle=hook)], terminationGracePeriodSeconds=2)
    until(lambda: pod.is_ready, 30, pod.story())
    cluster.delete(pod)
    until(lambda: pod.is_gone, 30, pod.story())
    assert ("main", "preStop is cut off") in told(pod)
    assert ("main", "ended 0") in told(pod)


def test_a_container_that_dies_is_started_again_and_waits_longer_each_time(cluster: Cluster) -> None:
    pod = started(cluster, "dying", [container("main", "exit 3")])
    until(lambda: pod.containers and pod.containers["main"].restarts >= 3, 60, pod.story())
    runs = [event.at for event in pod.events if event.what == "runs" or event.what.startswith("ended")]
    ends = [event.at for event in pod.events if event.what == "ended 3"]
    assert ends[2] - ends[1] >= 1.0, pod.story()
    assert ends[3] - ends[2] >= 2.0 if len(ends) > 3 else runs
    cluster.delete(pod)


def test_a_liveness_probe_that_fails_ends_the_container_by_its_hook(cluster: Cluster) -> None:
    probe = {"exec": {"command": ["test", "!", "-e", "/shared/ill"]}, "periodSeconds": 1, "failureThreshold": 2}
    hook = {"preStop": {"exec": {"command": ["rm", "/shared/ill"]}}}
    pod = started(cluster, "ill", [container("main", WAITS, livenessProbe=probe, lifecycle=hook)])
    until(lambda: pod.is_ready, 30, pod.story())
    cluster.execute(pod, "main", "touch", "/shared/ill")
    until(lambda: pod.containers["main"].restarts == 1 and pod.is_ready, 30, pod.story())
    assert ("main", "killed: liveness probe: exit code 1") in told(pod)
    assert ("main", "preStop ended 0") in told(pod)
    cluster.delete(pod)


def test_a_service_knows_of_a_pod_while_it_is_ready(cluster: Cluster) -> None:
    serve = "cd /shared; echo here > index.html; touch ready; exec python3 -m http.server 8000"
    probe = {"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 1, "failureThreshold": 1}
    ports = [{"name": "http", "containerPort": 8000}]
    pod = started(cluster, "web", [container("main", serve, readinessProbe=probe, ports=ports)])
    spec = {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}
    cluster.apply([{"kind": "Service", "metadata": {"name": "web"}, "spec": spec}])
    front = cluster.service("web")
    until(lambda: list(front.endpoints) == [pod], 30, pod.story())
    assert urllib.request.urlopen(cluster.url("web", 80)).read() == b"here\n"
    fetch = "import urllib.request as u; print(u.urlopen('http://web.ai.svc/').read())"
    assert "here" in cluster.execute(pod, "main", "python3", "-c", fetch)[1], "pods find it by its name"
    cluster.execute(pod, "main", "rm", "/shared/ready")
    until(lambda: not front.endpoints, 30, pod.story())
    with pytest.raises((urllib.error.URLError, ConnectionError)):
        urllib.request.urlopen(cluster.url("web", 80))
    cluster.delete(pod)


def test_a_volume_of_an_object_is_swapped_as_a_whole(cluster: Cluster) -> None:
    def config(**data: str) -> Json:
        return {"kind": "ConfigMap", "metadata": {"name": "words"}, "data": data}

    cluster.apply([config(a="one", b="one")])
    mounts = [{"name": "shared", "mountPath": "/shared"}, {"name": "words", "mountPath": "/etc/words"}]
    volumes = [{"name": "words", "configMap": {"name": "words"}}]
    pod = started(cluster, "reader", [container("main", WAITS, volumeMounts=mounts)], volumes=volumes)
    until(lambda: pod.is_ready, 30, pod.story())

    def read() -> str:
        return cluster.execute(pod, "main", "sh", "-c", "cd /etc/words; readlink a ..data; head -n1 *")[1]

    before = read()
    assert before.startswith("..data/a\n..2")
    cluster.apply([config(a="two", c="two")])
    after = read()
    assert "one" not in after
    assert "==> c <==\ntwo" in after
    assert before.splitlines()[1] != after.splitlines()[1], "`..data` leads elsewhere"
    cluster.delete(pod)


def test_a_pod_sees_its_own_processes_and_dies_as_a_whole(cluster: Cluster) -> None:
    pod = started(cluster, "tree", [container("main", "sleep 1000 & sleep 1000 & wait")])
    until(lambda: pod.is_ready and len(pod.containers["main"].processes()) == 3, 30, pod.story())
    processes = pod.containers["main"].processes()
    assert cluster.execute(pod, "main", "sh", "-c", "readlink /proc/1/exe; kill -0 1 && echo mine")[1].endswith(
        "mine\n"
    )
    assert cluster.execute(pod, "main", "ls", str(ROOT))[0] != 0, "this machine's files"
    cluster.signal(pod, "main", signal.SIGKILL)
    until(lambda: not any(process.is_running() for process in processes), 30, "all of them to die")
    cluster.delete(pod)


def test_nothing_is_left_of_a_cluster() -> None:
    with Cluster({"python": of_python()}) as made:
        pod = started(made, "left", [container("main", WAITS)])
        until(lambda: pod.is_ready, 30, pod.story())
        folder, (process,) = made.folder, pod.containers["main"].processes("sh -c trap")
        bridge = next(line for line in links() if made.gateway in line).split()[0]
    assert not folder.exists()
    assert not process.is_running()
    assert not [line for line in links() if line.startswith(bridge)]
    assert str(folder) not in Path("/proc/self/mounts").read_text()


def test_all_of_a_container_ends_with_what_started_it(cluster: Cluster) -> None:
    """Also where it has changed its user since: the kernel forgets then that it was to share its parent's end."""
    as_nobody = {"securityContext": {"runAsUser": 65532}}
    pod = started(cluster, "orphan", [container("main", "sleep 1000 & wait", **as_nobody)])
    until(lambda: pod.is_ready and len(pod.containers["main"].processes()) == 2, 30, pod.story())
    processes = pod.containers["main"].processes()
    assert {process.uids().real for process in processes} == {65532}
    starter = next(one for one in processes[0].parents() if one.ppid() == os.getpid())
    starter.kill()
    until(lambda: not any(process.is_running() for process in processes), 30, "all of them to die")
    cluster.delete(pod)


KILLED = """
import sys, time
from tests.chart.test_pod_rules import container, started
from tests.support.gateway import until
from tests.support.pods import Cluster
from tests.support.pods.images import of_python
with Cluster({"python": of_python()}) as made:
    pod = started(made, "killed", [container("main", "sleep 1000 & wait", securityContext={"runAsUser": 65532})])
    until(lambda: pod.is_ready and len(pod.containers["main"].processes()) == 2, 30, "it to run")
    print(made.folder, *(process.pid for process in pod.containers["main"].processes()), flush=True)
    time.sleep(1000)
"""


def test_nothing_is_left_of_tests_that_are_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True, cwd=ROOT) as tests:
        assert tests.stdout is not None
        folder, *pids = tests.stdout.readline().split()
        processes = [psutil.Process(int(pid)) for pid in pids]
        tests.kill()
    assert len(processes) == 2
    until(lambda: not any(process.is_running() for process in processes), 30, "all of them to die")
    with Cluster({"python": of_python()}):
        assert not Path(folder).exists()
        assert not [line for line in links() if line.startswith(f"sl{tests.pid}n")]


def links() -> list[str]:
    return subprocess.run(["ip", "-brief", "address"], capture_output=True, text=True, check=True).stdout.splitlines()
