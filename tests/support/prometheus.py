"""A real Prometheus of our own, on a free port of the loopback, that scrapes what a test names."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.gateway import until
from tests.support.ports import free_port

Labels = dict[str, str]

_START_SECONDS = 60.0
_STOP_SECONDS = 10


class Prometheus:
    """Asked over HTTP, as Grafana does it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = httpx.Client(base_url=url, trust_env=False, timeout=30)

    def close(self) -> None:
        self._client.close()

    def now(self, expression: str) -> list[tuple[Labels, float]]:
        """The series of an instant query and their values. Fails where the expression is none."""
        data = self._ask("query", {"query": expression})
        if data["resultType"] == "scalar":
            return [({}, float(data["result"][1]))]
        return [(series["metric"], float(series["value"][1])) for series in data["result"]]

    def over(self, expression: str, start: float, end: float, step: float) -> list[tuple[Labels, list[list[float]]]]:
        """The series of a query over time, each with its points: Unix time and value."""
        asked = {"query": expression, "start": start, "end": end, "step": step}
        found = self._ask("query_range", asked)["result"]
        return [(one["metric"], [[at, float(value)] for at, value in one["values"]]) for one in found]

    def alerts(self) -> list[Labels]:
        """The labels of the alerts that fire, or will."""
        return [alert["labels"] for alert in self._ask("alerts", {})["alerts"]]

    def scraped(self) -> float:
        """When the last scrape was that got anything, in Unix time; 0: none yet, or not now."""
        return max((at for _, at in self.now("timestamp(sluice_calls_in_flight)")), default=0.0)

    def rules(self) -> list[Any]:
        """The groups of rules, with how each was evaluated."""
        groups: list[Any] = self._ask("rules", {})["groups"]
        return groups

    def is_ready(self) -> bool:
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx.HTTPError:
            return False

    def _ask(self, what: str, asked: Mapping[str, Any]) -> Any:
        answer = self._client.get(f"/api/v1/{what}", params=asked).json()
        assert answer["status"] == "success", (asked, answer)
        return answer["data"]


def require(program: str) -> str:
    """Where Debian's package put a program. Skips the test where it is not installed."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed: apt-get install prometheus")
    return found


@contextmanager
def prometheus(
    ports: Sequence[int], interval: str = "2s", rules: Sequence[Path] = (), job: str = "sluice"
) -> Iterator[Prometheus]:
    """Running, and scraping `/metrics` of these ports. Skips the test where there is no Prometheus to run."""
    program, port = require("prometheus"), free_port()
    targets = [f"127.0.0.1:{target}" for target in ports]
    configuration = {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": [str(path.resolve()) for path in rules],
        "scrape_configs": [{"job_name": job, "static_configs": [{"targets": targets}]}],
    }
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("wb") as log:
        file = Path(folder) / "prometheus.yaml"
        file.write_text(json.dumps(configuration))  # JSON is YAML
        words = [
            f"--config.file={file}",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        process = subprocess.Popen([program, *words], stdout=log, stderr=log)
        running = Prometheus(f"http://127.0.0.1:{port}")
        try:
            until(running.is_ready, _START_SECONDS, "Prometheus")
            yield running
        finally:
            running.close()
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            finally:
                process.kill()
