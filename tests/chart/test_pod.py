"""One pod as the chart renders it, run on this machine: it serves, shows nothing that is not to be seen, and heals."""

import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.support.gateway import until
from tests.support.pods.pod import Pod
from tests.support.pods.site import NAME, PROVIDER_SECRET, Site, site

pytestmark = pytest.mark.timeout(900)  # the image may have to be built first

SAID = "Words that stand in no log: quetzalcoatlus."


@pytest.fixture(scope="module")
def here() -> Iterator[Site]:
    smoke = {"smoke": {"existingSecret": "smoke", "model": "gpt-4o"}}
    with site(values=smoke) as made:
        yield made


@pytest.fixture
def pod(here: Site) -> Pod:
    (pod,) = here.cluster.settled(NAME)
    return pod


def at(pod: Pod, container: str, what: str) -> float:
    return next(event.at for event in pod.events if event.container == container and event.what == what)


def kept_well(here: Site, pod: Pod, restarts: dict[str, int]) -> None:
    """Wait until these containers have been started again, and a call is answered."""

    def are() -> bool:
        counts = {name: pod.containers[name].restarts for name in restarts}
        return counts == restarts and pod.is_ready

    until(are, 60, "the restarts")
    until(lambda: _answers(here), 30, "a call to be answered")


def _answers(here: Site) -> bool:
    try:
        return here.chat().status_code == 200
    except httpx.HTTPError:
        return False


def test_envoy_starts_once_its_files_are_written_and_both_stay_up(here: Site, pod: Pod) -> None:
    assert at(pod, "sluice", "started") <= at(pod, "envoy", "runs") <= at(pod, "envoy", "ready")
    assert {name: container.restarts for name, container in pod.containers.items()} == {"sluice": 0, "envoy": 0}
    assert here.call(pod, "/healthz") == "ok\n"
    unknown = {name.partition("/")[0] for name in here.cluster.ignored}
    assert unknown <= {"NetworkPolicy", "PodDisruptionBudget", "ServiceAccount"}, "what the chart has more, is not run"


def test_the_sdk_is_answered_through_the_service(here: Site, pod: Pod) -> None:
    with openai.OpenAI(base_url=f"{here.url}/v1", api_key=here.key, max_retries=0) as client:
        said: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": SAID}]
        whole = client.chat.completions.create(model="gpt-4o", messages=said)
        events = list(client.chat.completions.create(model="gpt-4o", messages=said, stream=True))
    assert SAID in str(whole.choices[0].message.content)
    assert SAID in "".join(event.choices[0].delta.content or "" for event in events if event.choices)
    heads = [{name.lower(): value for name, value in call["headers"]} for call in here.fake.calls("one")]
    assert {head["authorization"] for head in heads} == {f"Bearer {PROVIDER_SECRET}"}


@pytest.mark.parametrize(
    ("container", "path"),
    [
        *(("envoy", path) for path in ("/run/secrets/sluice", "/etc/sluice/gateway.yaml", "/opt/sluice")),
        *(("envoy", path) for path in ("/run/sluice/spool/worker-0", "/usr/local/bin/python3")),
        *(("sluice", path) for path in ("/usr/local/bin/envoy", "/var/run/secrets/kubernetes.io")),
    ],
)
def test_a_container_has_only_what_it_mounts(here: Site, pod: Pod, container: str, path: str) -> None:
    assert here.cluster.execute(pod, container, "ls", path)[0] != 0, path
    other = {"envoy": "sluice", "sluice": "envoy"}[container]
    assert here.cluster.execute(pod, other, "ls", "/run/sluice/envoy/bootstrap.yaml")[0] == 0  # `ls` works there


def test_a_container_runs_as_nobody_and_writes_only_where_it_may(here: Site, pod: Pod) -> None:
    for name in ("sluice", "envoy"):
        first = pod.containers[name].processes()[0]
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{first.pid}/status").read_text().splitlines())
        assert {*status["Uid"].split(), *status["Gid"].split()} == {"65532"}
        assert status["CapEff"] == status["CapBnd"] == "0" * 16
        assert status["NoNewPrivs"] == "1"
        for place in ("/", "/usr/local/bin", "/opt", "/etc", "/var"):
            assert "Read-only" in here.cluster.execute(pod, name, "touch", f"{place}/x")[1]
    code, told = here.cluster.execute(pod, "sluice", "sh", "-c", "echo x > /etc/sluice/gateway.yaml")
    assert code, told
    assert here.cluster.execute(pod, "envoy", "ls", "/tmp")[0] == 0
    assert here.cluster.execute(pod, "envoy", "sh", "-c", "echo x > /tmp/x")[0] != 0


def test_helms_test_calls_the_gateway_by_its_name(here: Site, pod: Pod) -> None:
    secret = {"kind": "Secret", "metadata": {"name": "smoke"}, "stringData": {"key": here.key}}
    here.cluster.apply([secret])
    told = here.cluster.test(here.manifests)
    assert told
    assert here.key not in told


def test_a_worker_that_is_killed_comes_back(here: Site, pod: Pod) -> None:
    (worker,) = (one for one in pod.containers["sluice"].processes("extproc.worker"))
    worker.kill()
    until(lambda: [one for one in pod.containers["sluice"].processes("extproc.worker") if one.pid != worker.pid])
    kept_well(here, pod, {"sluice": pod.containers["sluice"].restarts, "envoy": pod.containers["envoy"].restarts})


def test_an_envoy_that_is_killed_comes_back_and_is_found(here: Site, pod: Pod) -> None:
    before = {name: container.restarts for name, container in pod.containers.items()}
    here.cluster.signal(pod, "envoy", signal.SIGKILL)
    kept_well(here, pod, {**before, "envoy": before["envoy"] + 1})
    models = here.values["config"]["models"]
    models |= {"gpt-4o-mini": models["gpt-4o"]}
    here.configure({"models": models})
    until(lambda: here.chat(model="gpt-4o-mini").status_code == 200, 30, "the changed configuration")
    assert "admin" not in pod.told("sluice"), pod.told("sluice")


def test_a_policy_container_that_is_killed_comes_back_beside_its_envoy(here: Site, pod: Pod) -> None:
    before = {name: container.restarts for name, container in pod.containers.items()}
    here.cluster.signal(pod, "sluice", signal.SIGKILL)
    kept_well(here, pod, {**before, "sluice": before["sluice"] + 1})


def test_no_log_holds_a_secret_or_what_was_said(here: Site, pod: Pod) -> None:
    here.chat(messages=[{"role": "user", "content": SAID}])
    with httpx.Client(base_url=here.url, trust_env=False) as client:
        client.get("/v1/models", headers={"authorization": "Bearer sk-not-a-key-of-anybody"})
    for container in pod.containers:
        told = pod.told(container)
        for secret in (here.key, PROVIDER_SECRET, SAID, "sk-not-a-key-of-anybody"):
            assert secret not in told, f"{container} told {secret}"
    assert here.calls(pod)


def test_the_pod_ends_in_order_and_in_time(here: Site, pod: Pod) -> None:
    """Last: it is the end of this pod; another one takes its place."""
    here.cluster.delete(pod)
    until(lambda: pod.is_gone, 60, "the pod to end")
    assert at(pod, "sluice", "preStop begins") <= at(pod, "envoy", "SIGTERM")
    ended = [event for event in pod.events if event.what.startswith("preStop ended 0")]
    assert {event.container for event in ended} == {"sluice", "envoy"}, pod.story()
    assert at(pod, "envoy", "SIGTERM") <= at(pod, "sluice", "SIGTERM")
    assert pod.containers["sluice"].code == 0
    assert not [event for event in pod.events if "SIGKILL" in event.what], pod.story()
