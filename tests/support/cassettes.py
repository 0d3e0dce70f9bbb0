"""Recorded exchanges with providers, in the YAML of go-vcr: the project's own, and a folder shared beside it."""

import functools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ruamel.yaml import YAML

from tests.support.replay import Pairs, Recorded

_ROOT = Path(__file__).resolve().parents[2]
OWN = _ROOT / "tests" / "fixtures" / "exchanges"

# What belongs to a connection or is computed anew, and is not part of an exchange.
_HOP = frozenset({"connection", "keep-alive", "transfer-encoding"})

Json = dict[str, Any]


def shared() -> Path | None:
    """The folder of shared recordings: `$SLUICE_SHARED/cassettes` or `../shared/cassettes`; None where it is absent."""
    folder = Path(os.environ.get("SLUICE_SHARED") or _ROOT.parent / "shared") / "cassettes"
    return folder if folder.is_dir() else None


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and its answer. `host` is the provider's, `path` includes the query."""

    name: str
    method: str
    host: str
    path: str
    headers: Pairs
    body: bytes
    answer: Recorded

    @property
    def fields(self) -> Json:
        """The body's fields; empty where it is no JSON object."""
        try:
            fields: Json = json.loads(self.body)
        except ValueError:
            return {}
        return fields

    @property
    def model(self) -> str:
        """The model that was asked for, as the path or the body names it."""
        parts = self.path.partition("?")[0].split("/")
        if "deployments" in parts:
            return parts[parts.index("deployments") + 1]
        model: str = self.fields.get("model", "")
        return model

    @property
    def content_type(self) -> str:
        return next(value for name, value in self.headers if name.lower() == "content-type")

    def usage(self) -> Json | None:
        """The usage that the provider reported last, in its own words; None where it reported none."""
        last: Json | None = None
        for value in self._values():
            for holder in (value, value.get("response"), value.get("message")):
                if isinstance(holder, dict) and isinstance(holder.get("usage"), dict):
                    last = {**(last or {}), **holder["usage"]}
        return last

    def _values(self) -> Iterator[Json]:
        text = self.answer.body.decode()
        if not any(value.startswith("text/event-stream") for name, value in self.answer.headers if "ype" in name):
            yield json.loads(text)
            return
        for line in text.split("\n"):
            if line.startswith("data:") and line.removeprefix("data:").strip() != "[DONE]":
                yield json.loads(line.removeprefix("data:"))


def load(folder: Path) -> list[Exchange]:
    """The exchanges of a folder, by file name."""
    return list(_read(folder))


@functools.cache  # many modules ask while they are collected, and to read them all takes half a second
def _read(folder: Path) -> Sequence[Exchange]:
    yaml = YAML(typ="safe")
    found = []
    for file in sorted(folder.glob("*.yaml")):
        for number, interaction in enumerate(yaml.load(file)["interactions"]):
            name = file.stem if number == 0 else f"{file.stem}-{number}"
            found.append(_exchange(name, interaction["request"], interaction["response"]))
    return found


def _exchange(name: str, request: Mapping[str, Any], response: Mapping[str, Any]) -> Exchange:
    url = urlsplit(request["url"])
    return Exchange(
        name=name,
        method=request["method"],
        host=url.netloc,
        path=url.path + (f"?{url.query}" if url.query else ""),
        headers=_pairs(request["headers"]),
        body=request["body"].encode(),
        answer=Recorded(response["code"], _pairs(response["headers"]), (response["body"].encode(),)),
    )


def _pairs(headers: Mapping[str, list[str]]) -> Pairs:
    return [(name, value) for name, values in headers.items() for value in values if name.lower() not in _HOP]
