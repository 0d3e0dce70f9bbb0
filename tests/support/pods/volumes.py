"""A pod's volumes: folders that its containers share, and files of ConfigMaps and Secrets as a kubelet swaps them."""

import base64
import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.support.pods.quantities import number_of

Json = Mapping[str, Any]

Find = Callable[[str, str], Json | None]
"""An object of the cluster, by kind and name."""

_swaps = itertools.count()


class MissingObject(Exception):
    """A ConfigMap or a Secret, or a key of one, that a pod names and that is not there."""


def contents(found: Json) -> dict[str, bytes]:
    """The files that a ConfigMap or a Secret holds."""
    texts = {**found.get("stringData", {}), **(found.get("data", {}) if found["kind"] == "ConfigMap" else {})}
    coded = found.get("binaryData", {}) if found["kind"] == "ConfigMap" else found.get("data", {})
    return {
        **{name: base64.b64decode(text) for name, text in (coded or {}).items()},
        **{name: str(text).encode() for name, text in (texts or {}).items()},
    }


@dataclass(frozen=True, slots=True)
class File:
    content: bytes
    mode: int


class Projection:
    """A folder of files of the cluster's objects. `put` swaps all of them at once, through the link `..data`."""

    def __init__(self, folder: Path, spec: Json, group: int | None, fields: Callable[[str], str]) -> None:
        self._folder = folder
        self._spec = spec
        self._group = group
        self._fields = fields
        folder.mkdir(mode=0o755, parents=True)

    def put(self, find: Find) -> None:
        """Write what the objects hold now, if that is another than before. Raises MissingObject."""
        files = dict(self._files(find))
        data = self._folder / "..data"
        if data.exists() and _held(data) == {name: file.content for name, file in files.items()}:
            return
        fresh = self._folder / f"..{datetime.now():%Y_%m_%d_%H_%M_%S}.{next(_swaps):09d}"
        for name, file in files.items():
            self._write(fresh / name, file)
        fresh.mkdir(exist_ok=True)
        before = data.resolve() if data.is_symlink() else None
        (self._folder / "..data_tmp").symlink_to(fresh.name)
        (self._folder / "..data_tmp").rename(data)
        tops = {name.partition("/")[0] for name in files}
        for name in tops:
            if not (self._folder / name).is_symlink():
                (self._folder / name).symlink_to(f"..data/{name}")
        for path in self._folder.iterdir():
            if not path.name.startswith("..") and path.name not in tops:
                path.unlink()
        if before is not None:
            shutil.rmtree(before)

    def _write(self, path: Path, file: File) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
        path.chmod(file.mode if self._group is None else file.mode | 0o440)  # as a kubelet does for an fsGroup
        if self._group is not None:
            os.chown(path, 0, self._group)

    def _files(self, find: Find) -> Iterator[tuple[str, File]]:
        if "projected" in self._spec:
            mode = self._spec["projected"].get("defaultMode", 0o644)
            for source in self._spec["projected"]["sources"]:
                ((kind, held),) = source.items()
                yield from self._of(kind, held, held.get("name", ""), mode, find)
            return
        kind = next(kind for kind in ("configMap", "secret", "downwardAPI") if kind in self._spec)
        held = self._spec[kind]
        yield from self._of(
            kind, held, held.get("name") or held.get("secretName", ""), held.get("defaultMode", 0o644), find
        )

    def _of(self, kind: str, spec: Json, name: str, mode: int, find: Find) -> Iterator[tuple[str, File]]:
        if kind == "downwardAPI":
            for item in spec["items"]:
                value = self._fields(item["fieldRef"]["fieldPath"])
                yield item["path"], File(value.encode(), item.get("mode", mode))
            return
        if kind == "serviceAccountToken":
            yield spec["path"], File(b"a.token.of-this-cluster", 0o644)
            return
        found = find({"configMap": "ConfigMap", "secret": "Secret"}[kind], name)
        if found is None:
            if not spec.get("optional"):
                raise MissingObject(f"{kind} {name!r} not found")
            return
        held = contents(found)
        for item in spec.get("items") or [{"key": key, "path": key} for key in held]:
            if item["key"] in held:
                yield item["path"], File(held[item["key"]], item.get("mode", mode))
            elif not spec.get("optional"):
                raise MissingObject(f"{kind} {name!r} has no key {item['key']!r}")


def _held(data: Path) -> dict[str, bytes]:
    return {str(path.relative_to(data)): path.read_bytes() for path in data.rglob("*") if path.is_file()}


@dataclass(frozen=True, slots=True)
class Empty:
    """A folder for the pod. `size`: in bytes, where it is bounded or in memory; then it must be mounted for the pod."""

    folder: Path
    size: int | None
    group: int | None

    def make(self) -> None:
        self.folder.mkdir(parents=True)
        self.folder.chmod(0o2777 if self.group is not None else 0o777)
        if self.group is not None:
            os.chown(self.folder, 0, self.group)

    def mounting(self) -> list[str]:
        """Lines for `sh` in the pod's mount namespace."""
        if self.size is None:
            return []
        group = "" if self.group is None else f",gid={self.group}"
        mode = "2777" if self.group is not None else "777"
        return [f"mount -t tmpfs -o mode={mode},size={self.size}{group} empty {self.folder}"]


def volume(spec: Json, folder: Path, group: int | None, fields: Callable[[str], str]) -> Projection | Empty:
    """One volume of a pod. `folder`: of its own, not made yet; `fields`: the pod's own, as downwardAPI names them."""
    if "emptyDir" in spec:
        held = spec["emptyDir"] or {}
        limit = held.get("sizeLimit")
        size = number_of(limit) if limit else 1 << 30 if held.get("medium") == "Memory" else None
        return Empty(folder, None if size is None else int(size), group)
    if "ephemeral" in spec:
        claim = spec["ephemeral"]["volumeClaimTemplate"]["spec"]
        return Empty(folder, int(number_of(claim["resources"]["requests"]["storage"])), group)
    if spec.keys() & {"configMap", "secret", "projected", "downwardAPI"}:
        return Projection(folder, spec, group, fields)
    raise MissingObject(f"volume {spec['name']!r} is of a kind that this machine does not have: {sorted(spec)}")
