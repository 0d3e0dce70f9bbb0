"""The gateway as its chart installs it, in a cluster on this machine, with what it needs beside it."""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from ruamel.yaml import YAML
from sqlalchemy import create_engine, text

from tests.support.fake import FakeProvider
from tests.support.gateway import until
from tests.support.helm import rendered
from tests.support.image import built_image
from tests.support.pods.cluster import Cluster
from tests.support.pods.images import of_envoy, of_python, of_sluice
from tests.support.pods.pod import Pod
from tests.support.postgres_server import PostgresServer, postgres_server
from tests.support.redis_server import RedisServer, redis_server

Json = dict[str, Any]

CHART = "charts/sluice"
NAME = "sluice"
"""Of the release, and so of its Deployment and its Service."""

PROVIDER_SECRET = "secret-of-the-provider"
PORT = 80


@dataclass
class Site:
    """Everything that takes part. Without `redis` and `postgres` each pod is by itself.

    `values`: those of the chart; `manifests`: what it rendered of them at first.
    """

    cluster: Cluster
    fake: FakeProvider
    values: Json
    redis: RedisServer | None = None
    postgres: PostgresServer | None = None
    scheme: str = "http"
    key: str = ""
    manifests: list[Json] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.cluster.url(NAME, PORT, self.scheme)

    @property
    def pods(self) -> list[Pod]:
        return [pod for pod in self.cluster.pods if pod.name.startswith(f"{NAME}-")]

    def client(self, **options: Any) -> httpx.Client:
        """An HTTP client with the key, at the Service."""
        head = {"authorization": f"Bearer {self.key}"}
        return httpx.Client(**{"base_url": self.url, "headers": head, "trust_env": False, "timeout": 30, **options})

    def chat(self, **options: Any) -> httpx.Response:
        """One call on a connection of its own."""
        said = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello!"}]}
        with self.client() as client:
            return client.post("/v1/chat/completions", json={**said, **options})

    def render(self) -> list[Json]:
        """The chart's manifests, of the values as they are now."""
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            YAML().dump(self.values, file)
            file.flush()
            return rendered(CHART, file.name)

    def configure(self, config: Mapping[str, Any]) -> None:
        """Another configuration, as `helm upgrade` brings it: the ConfigMap alone."""
        self.values["config"] = {**self.values["config"], **config}
        changed = self.render()
        self.cluster.apply([one for one in changed if one["kind"] == "ConfigMap" and not _is_hook(one)])

    def call(self, pod: Pod, path: str) -> str:
        """What a pod's metrics port answers."""
        return httpx.get(f"http://{pod.address}:9464{path}", trust_env=False, timeout=10).text

    def calls(self, pod: Pod, kind: str = "call") -> list[Json]:
        """A pod's records of one kind."""
        lines = (line for line in pod.told("sluice").splitlines() if line.startswith("{"))
        return [record for record in map(json.loads, lines) if record.get("kind") == kind]

    def mint(self, pod: Pod, name: str = "app") -> str:
        """A key, made in a pod as an administrator does it."""
        words = ("/opt/sluice/bin/sluice", "keys", "create", name, "--json", "--config", "/etc/sluice/gateway.yaml")
        code, told = self.cluster.execute(pod, "sluice", *words)
        assert code == 0, told
        line = next(line for line in told.splitlines() if line.startswith("{"))  # a warning may stand beside it
        return str(json.loads(line)["key"])

    def rows(self) -> list[Json]:
        """The ledger, in PostgreSQL."""
        assert self.postgres is not None
        engine = create_engine(self.postgres.url)
        try:
            with engine.connect() as connection:
                return [dict(row) for row in connection.execute(text("SELECT * FROM calls")).mappings()]
        finally:
            engine.dispose()


def _is_hook(manifest: Json) -> bool:
    return "helm.sh/hook" in (manifest["metadata"].get("annotations") or {})


@contextmanager
def site(
    config: Mapping[str, Any] | None = None,
    values: Mapping[str, Any] | None = None,
    *,
    replicas: int = 1,
    stores: bool = False,
    objects: Sequence[Json] = (),
    scheme: str = "http",
    provider: str = "",
    probes: Mapping[str, int] | None = None,
    **of_cluster: Any,
) -> Iterator[Site]:
    """An installed gateway, all pods ready, with a key. `objects`: further ones of the cluster, applied before.

    `config` and `values` stand over those that every test has. `stores`: with a Redis and a PostgreSQL. `provider`: a
    name for the fake provider in place of its address. `probes`: times of the liveness probes in place of the chart's.
    `of_cluster`: options of `Cluster`.
    """
    images = {"sluice": of_sluice(built_image()), "envoy": of_envoy(), "python": of_python()}
    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster(images, **of_cluster))
        fake = stack.enter_context(FakeProvider("one", address=cluster.gateway))
        made = Site(cluster, fake, {}, scheme=scheme)
        if stores:
            made.redis = stack.enter_context(redis_server(appendonly="yes"))
            made.postgres = stack.enter_context(postgres_server())
        made.values = {
            "image": {"repository": "registry.test/sluice", "tag": "1"},
            "replicas": replicas,
            "config": {**_config(made, provider), **(config or {})},
            "secrets": {"files": [{"name": "provider", "existingSecret": "provider"}]},
            "drain": {"notice": 1, "timeout": 40},
            **(values or {}),
        }
        secret = {"kind": "Secret", "metadata": {"name": "provider"}, "stringData": {"key": PROVIDER_SECRET}}
        cluster.apply([secret, *objects])
        made.manifests = made.render()
        for container in _containers(made.manifests):
            container.get("livenessProbe", {}).update(probes or {})
        cluster.install(made.manifests)
        pods = cluster.settled(NAME)
        made.key = made.mint(pods[0])
        for pod in pods:
            until(lambda pod=pod: _knows(pod, scheme, made.key), 20, "the key to be known")  # type: ignore[misc]
        yield made


def _config(made: Site, provider: str) -> Json:
    """What every test's configuration begins with."""
    cluster = made.cluster
    url = f"http://{provider or cluster.gateway}:{made.fake.port('one')}"
    credential = {"file": "/run/secrets/sluice/provider/key"}
    tree: Json = {
        "workers": 1,
        "backends": {"one": {"dialect": "openai", "url": url, "credential": credential}},
        "models": {"gpt-4o": {"targets": [[{"backend": "one"}]], "price": {"input": 2.5, "output": 10}}},
    }
    if made.redis is not None and made.postgres is not None:
        redis, postgres = cluster.reach(made.redis.port), cluster.reach(made.postgres.port)
        tree["stores"] = {
            "counters": f"redis://{cluster.gateway}:{redis}/0",
            "database": f"postgresql+psycopg://postgres@{cluster.gateway}:{postgres}/postgres",
        }
    return tree


def _containers(manifests: Sequence[Json]) -> list[Json]:
    """Of all Deployments."""
    pods = [one["spec"]["template"]["spec"] for one in manifests if one["kind"] == "Deployment"]
    return [container for pod in pods for container in (*pod.get("initContainers", []), *pod["containers"])]


def _knows(pod: Pod, scheme: str, key: str) -> bool:
    head = {"authorization": f"Bearer {key}"}
    url = f"{scheme}://{pod.address}:8080/v1/models"
    return httpx.get(url, headers=head, trust_env=False, verify=False).status_code == 200
