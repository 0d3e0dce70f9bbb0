"""Variant A of docs/sidecar.md, run on this machine: what the application beside the gateway gets, and what not."""

from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
from ruamel.yaml import YAML

from extproc.identity.keys import QUICKSTART_KEY
from tests.support.fake import FakeProvider
from tests.support.gateway import until
from tests.support.helm import ROOT, rendered
from tests.support.image import built_image
from tests.support.pods.cluster import Cluster
from tests.support.pods.deep import deep
from tests.support.pods.images import of_envoy, of_python, of_sluice
from tests.support.pods.pod import Pod

pytestmark = [deep, pytest.mark.timeout(900)]  # the image may have to be built first

EXAMPLE = "charts/sluice/examples/sidecar-central.yaml"
CENTRAL_KEY = "key-that-the-central-gateway-minted"
# Calls the gateway when it starts, at each line of its input, and once more when it is told to end.
CALLS = """
import json, os, signal, sys, time, urllib.request
def call(text):
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": text}]}
    head = {"content-type": "application/json", "authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}
    asked = urllib.request.Request(
        os.environ["OPENAI_BASE_URL"] + "/chat/completions", json.dumps(body).encode(), head
    )
    with urllib.request.urlopen(asked, timeout=30) as answer:
        print(text, answer.status, flush=True)
"""
LASTING = f"""{CALLS}
def end(*_):
    time.sleep(1)
    call("at the end")
    sys.exit()
signal.signal(signal.SIGTERM, end)
call("mail anna@example.com")
open("/dev/shm/ready", "w").close()
while True:
    time.sleep(1)
"""


@dataclass
class Shop:
    cluster: Cluster
    central: FakeProvider
    pod: Pod

    def run(self, *words: str) -> tuple[int, str]:
        """In the application's container."""
        return self.cluster.execute(self.pod, "shop", *words)


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    images = {"sluice": of_sluice(built_image()), "envoy": of_envoy(), "python": of_python()}
    with Cluster(images) as cluster, FakeProvider("central", address=cluster.gateway) as central:
        secret = {"kind": "Secret", "metadata": {"name": "shop-gateway-key"}, "stringData": {"key": CENTRAL_KEY}}
        cluster.apply([secret])
        application = YAML(typ="safe").load(ROOT / EXAMPLE)["sidecar"]["application"]
        container = application["containers"][0] | {
            "image": "registry.test/python:3",
            "command": ["/usr/local/bin/python3", "-c", LASTING],
            "readinessProbe": {"exec": {"command": ["ls", "/dev/shm/ready"]}, "periodSeconds": 1},
        }
        first = container | {
            "name": "first",
            "command": ["/usr/local/bin/python3", "-c", f"{CALLS}\ncall('before')"],
        }
        del first["readinessProbe"]
        cluster.install(
            rendered(
                "charts/sluice",
                EXAMPLE,
                set={
                    "replicas": 1,
                    "image": {"repository": "registry.test/sluice", "tag": "1"},
                    "config.backends.central.url": central.url("central"),
                    "sidecar.application.containers": [container],
                    "sidecar.application.initContainers": [first],
                },
            )
        )
        (pod,) = cluster.settled("sluice")
        yield Shop(cluster, central, pod)


def test_the_application_is_served_before_it_starts_and_while_it_runs(shop: Shop) -> None:
    assert "before 200" in shop.pod.told("first")
    assert "200" in shop.pod.told("shop")


def test_the_central_gateway_sees_its_own_key_and_no_address(shop: Shop) -> None:
    calls = shop.central.calls("central")
    assert len(calls) >= 2
    for call in calls:
        head = {name.lower(): value for name, value in call["headers"]}
        assert head["authorization"] == f"Bearer {CENTRAL_KEY}"
        assert QUICKSTART_KEY not in str(call)
        assert "anna@example.com" not in str(call)


@pytest.mark.parametrize(
    "path",
    ["/run/sluice", "/etc/sluice", "/run/secrets", "/opt/sluice", "/var/run/secrets", "/usr/local/bin/envoy"],
)
def test_the_application_sees_no_folder_of_the_gateway(shop: Shop, path: str) -> None:
    assert shop.run("ls", path)[0] != 0
    assert shop.run("ls", "/usr/local/bin/python3")[0] == 0  # `ls` works there


def test_the_application_sees_no_process_and_no_variable_of_the_gateway(shop: Shop) -> None:
    code, told = shop.run("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '; env")
    assert code == 0
    assert "python3" in told
    for ours in ("bin/sluice", "extproc.worker", "bootstrap.yaml", "SLUICE__", CENTRAL_KEY):
        assert ours not in told, ours


def test_nobody_outside_of_the_pod_reaches_the_gateway(shop: Shop) -> None:
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://{shop.pod.address}:8080/healthz", trust_env=False, timeout=10)
    metrics = httpx.get(f"http://{shop.pod.address}:9464/metrics", trust_env=False, timeout=10)
    assert "sluice_calls_total" in metrics.text
    assert CENTRAL_KEY not in metrics.text


def test_the_gateway_serves_until_the_application_has_ended(shop: Shop) -> None:
    """The last test: it ends the pod."""
    shop.cluster.delete(shop.pod)
    until(lambda: "at the end" in shop.pod.told("shop"), 60, "the application's last call")
    assert "at the end 200" in shop.pod.told("shop")
    until(lambda: shop.pod.is_gone, 90, "the pod's end")
    ended = [event.container for event in shop.pod.events if event.what.startswith("ended ")]
    assert ended[-3:] == ["shop", "envoy", "sluice"], shop.pod.story()
