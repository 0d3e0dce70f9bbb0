"""What Kubernetes swaps in running pods: a ConfigMap, a Secret, a certificate. Soon in use, and no call is cut."""

import asyncio
import base64
import socket
import ssl
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.support.gateway import until
from tests.support.pods.deep import deep
from tests.support.pods.load import Load
from tests.support.pods.pod import Pod
from tests.support.pods.site import NAME, PORT, PROVIDER_SECRET, Site, site

STREAMS, PER_SECOND = 12, 5.0
PATIENCE_S = 60.0  # a swap takes two or three seconds where the machine has nothing else to do

pytestmark = pytest.mark.timeout(900)  # the image may have to be built first


@pytest.fixture(scope="module")
def here() -> Iterator[Site]:
    with site(replicas=2, stores=True) as made:
        yield made


async def seen_in_all(here: Site, seen: Callable[[str], bool], what: str) -> float:
    """Wait until each pod shows it at its own address; in seconds."""
    began = time.monotonic()
    for pod in here.cluster.settled(NAME):
        await asyncio.to_thread(until, partial(seen, f"http://{pod.address}:8080"), PATIENCE_S, what)
    return time.monotonic() - began


def called(here: Site, url: str, model: str = "gpt-4o", key: str = "") -> int:
    """The status of one call."""
    with here.client(base_url=url, headers={"authorization": f"Bearer {key or here.key}"}) as client:
        said = {"model": model, "messages": [{"role": "user", "content": "Hello!"}]}
        return client.post("/v1/chat/completions", json=said).status_code


def counted(here: Site, outcome: str) -> list[float]:
    """How many changes of the configuration each pod has taken or refused."""
    name = f'sluice_config_reloads_total{{outcome="{outcome}"}}'
    texts = [here.call(pod, "/metrics") for pod in here.cluster.settled(NAME)]
    return [
        sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name)) for text in texts
    ]


def told_of_nobody(pod: Pod) -> bool:
    """Whether its log names what its new configuration lacks."""
    return "nobody" in pod.told("sluice")


async def under_load(here: Site, change: Callable[[], Any]) -> None:
    """Make a change while calls and streams run; none of them may fail."""
    load = Load(here.cluster.service(NAME).address, PORT, here.key, PER_SECOND, STREAMS, tokens=20)
    async with load.running():
        await load.settled()
        await change()
    assert not load.failed, load.verdict()
    assert load.kinds()["stream"] >= STREAMS
    restarts = [container.restarts for pod in here.pods for container in pod.containers.values()]
    assert restarts == [0] * len(restarts)


async def test_a_new_model_is_served_and_a_new_limit_holds(here: Site) -> None:
    async def change() -> None:
        models = here.values["config"]["models"]
        limits = {"scarce": {"requests": 2, "per": "day", "only": {"models": ["new"]}}}
        here.configure({"models": {**models, "new": models["gpt-4o"]}, "policies": {"limits": limits}})
        took = await seen_in_all(here, lambda url: called(here, url, "new") in (200, 429), "the new model")
        print(f"a new model and a new limit: in use in all pods after {took:.1f} s")
        await seen_in_all(here, lambda url: called(here, url, "new") == 429, "the limit, which all pods share")
        assert called(here, here.url) == 200

    await under_load(here, change)


async def test_a_bad_configuration_is_refused_and_told_and_the_old_one_serves(here: Site) -> None:
    good = here.cluster.object("ConfigMap", f"{NAME}-config")["data"]
    refused = counted(here, "refused")

    async def change() -> None:
        bad = good["gateway.yaml"].replace("backend: one", "backend: nobody")
        assert bad != good["gateway.yaml"]
        here.cluster.change("ConfigMap", f"{NAME}-config", data={"gateway.yaml": bad})
        began = time.monotonic()
        await asyncio.to_thread(
            until,
            lambda: [now > before for now, before in zip(counted(here, "refused"), refused, strict=True)] == [True] * 2,
            PATIENCE_S,
            "the refusal to be counted",
        )
        print(f"a bad configuration: refused in all pods after {time.monotonic() - began:.1f} s")
        for pod in here.pods:
            until(partial(told_of_nobody, pod), PATIENCE_S, "the refusal to say what is wrong")
            assert called(here, f"http://{pod.address}:8080") == 200

    await under_load(here, change)
    taken = counted(here, "taken")
    mended = YAML(typ="safe").load(good["gateway.yaml"])
    mended["models"]["mended"] = mended["models"]["gpt-4o"]
    here.cluster.change("ConfigMap", f"{NAME}-config", data={"gateway.yaml": _yaml(mended)})
    await seen_in_all(here, lambda url: called(here, url, "mended") == 200, "the mended one")
    await asyncio.to_thread(
        until,
        lambda: all(now > before for now, before in zip(counted(here, "taken"), taken, strict=True)),
        PATIENCE_S,
        "the change to be counted",
    )


@deep
async def test_a_new_credential_reaches_the_provider(here: Site) -> None:
    fresh = "another-secret-of-the-provider"

    async def change() -> None:
        coded = {"key": base64.b64encode(fresh.encode()).decode()}
        here.cluster.apply([{"kind": "Secret", "metadata": {"name": "provider"}, "data": coded}])
        took = await seen_in_all(
            here, lambda url: credential_sent(here, url) == f"Bearer {fresh}", "the new credential"
        )
        print(f"a new credential: in use in all pods after {took:.1f} s")

    for pod in here.pods:
        assert credential_sent(here, f"http://{pod.address}:8080") == f"Bearer {PROVIDER_SECRET}"
    await under_load(here, change)
    for pod in here.pods:
        for secret in (PROVIDER_SECRET, fresh):
            assert secret not in pod.told("sluice") + pod.told("envoy")


def credential_sent(here: Site, url: str) -> str:
    """What the provider is sent with a call at this address."""
    said = f"This is {uuid.uuid4()}."
    with here.client(base_url=url) as client:
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": said}]}
        assert client.post("/v1/chat/completions", json=body).status_code == 200
    (call,) = (call for call in here.fake.calls("one") if said.encode() in base64.b64decode(call["body_base64"]))
    return next(str(value) for name, value in call["headers"] if name.lower() == "authorization")


@deep
async def test_a_key_that_is_revoked_in_one_pod_is_refused_in_all(here: Site) -> None:
    first, _ = here.cluster.settled(NAME)
    key = here.mint(first, "leaving")
    await seen_in_all(here, lambda url: called(here, url, key=key) == 200, "the new key")
    words = ("/opt/sluice/bin/sluice", "keys", "revoke", "leaving", "--config", "/etc/sluice/gateway.yaml")
    code, told = here.cluster.execute(first, "sluice", *words)
    assert code == 0, told
    await seen_in_all(here, lambda url: called(here, url, key=key) == 401, "its end")


# ---- TLS ------------------------------------------------------------------------------------------------------------


class Authority:
    """Certificates of its own for a name, the one unlike the other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def secret(self, name: str) -> dict[str, Any]:
        """A Secret of Kubernetes' TLS kind, with a certificate that says this name."""
        key, certificate = self._folder / f"{name}.key", self._folder / f"{name}.crt"
        words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        words += ["-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:gateway.test"]
        subprocess.run([*words, "-keyout", key, "-out", certificate], check=True, capture_output=True)
        data = {"tls.crt": certificate.read_text(), "tls.key": key.read_text()}
        return {"kind": "Secret", "metadata": {"name": "certificate"}, "stringData": data}


def shown(address: str, port: int) -> str:
    """The certificate that a new connection is shown."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((address, port), 10) as plain,
        context.wrap_socket(plain, server_hostname="gateway.test") as wrapped,
    ):
        taken = wrapped.getpeercert(binary_form=True)
    assert taken is not None
    return ssl.DER_cert_to_PEM_cert(taken).strip()


@deep
def test_a_new_certificate_is_shown_and_a_live_stream_goes_on(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    first, second = authority.secret("first"), authority.secret("second")
    files = [{"name": name, "existingSecret": name} for name in ("provider", "certificate")]
    folder = "/run/secrets/sluice/certificate"
    tls = {"certificate": f"{folder}/tls.crt", "private_key": f"{folder}/tls.key"}
    values = {"secrets": {"files": files}}
    with site({"listener": {"tls": tls}}, values, objects=[first], scheme="https") as here:
        address = here.cluster.service(NAME).address
        assert shown(address, PORT) == first["stringData"]["tls.crt"].strip()
        said = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello!"}], "stream": True}
        fake = {"length": 40, "tokens_per_second": 4}
        with (
            here.client(verify=False) as client,
            client.stream("POST", "/v1/chat/completions", json={**said, "x_fake": fake}) as stream,
        ):
            lines = stream.iter_lines()
            assert next(lines).startswith("data:")
            began = time.monotonic()
            here.cluster.apply([second])
            until(lambda: shown(address, PORT) == second["stringData"]["tls.crt"].strip(), PATIENCE_S, "the new one")
            print(f"a new certificate: shown after {time.monotonic() - began:.1f} s")
            assert "data: [DONE]" in list(lines), "the stream was cut"
        (pod,) = here.pods
        assert all(container.restarts == 0 for container in pod.containers.values())
        for secret in (first, second):
            assert secret["stringData"]["tls.key"].splitlines()[1] not in pod.told("sluice") + pod.told("envoy")


def _yaml(tree: Any) -> str:
    out = StringIO()
    YAML().dump(tree, out)
    return out.getvalue()
