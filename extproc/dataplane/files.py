"""Messages as YAML text, and files that a running Envoy may read at any moment."""

import io
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import betterproto2
from envoy_data_plane.envoy.config.core.v3 import (
    ApiVersion,
    ConfigSource,
    PathConfigSource,
    WatchedDirectory,
)
from envoy_data_plane.envoy.service.discovery.v3 import DiscoveryResponse
from envoy_data_plane.google.protobuf import Any
from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import LiteralScalarString, SingleQuotedScalarString

# betterproto's own casings misspell names with digits (`consecutive_5_xx`); Envoy reads proto names, too.
_PROTO_NAMES = cast(betterproto2.Casing, str)
# What Envoy reads as a truth or a number, by YAML 1.1; what YAML 1.2 reads so, too, is quoted anyway.
_NO_TEXT = re.compile(r"y|n|yes|no|on|off|[+-]?0x[0-9a-f]+", re.IGNORECASE)


def to_yaml(message: betterproto2.Message) -> str:
    """A message in Envoy's YAML (proto field names), the same text for the same message."""
    tree = message.to_dict(casing=_PROTO_NAMES)
    out = io.StringIO()
    yaml = YAML()
    yaml.width = 1000  # a folded type name reads badly
    yaml.dump(_readable(tree), out)
    return out.getvalue()


def resources(*messages: betterproto2.Message) -> str:
    """A file for LDS, RDS, CDS or SDS: a discovery response that lists `messages`."""
    return to_yaml(DiscoveryResponse(resources=[Any.pack(message) for message in messages]))


def watched(directory: str, name: str) -> ConfigSource:
    """Discovery by the file `name`; Envoy reads it again when a file is renamed into `directory`."""
    return ConfigSource(
        resource_api_version=ApiVersion.V3,
        path_config_source=PathConfigSource(
            path=f"{directory}/{name}", watched_directory=WatchedDirectory(path=directory)
        ),
    )


def write(files: Mapping[str, str], directory: Path, mode: int = 0o644) -> None:
    """Put `files` (name to text) into `directory`, each by rename, in the order of the mapping.

    A reader sees the old or the new text, never a part, and Envoy's watches fire on renames only.
    Raises OSError when the directory cannot be made or written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        _replace(directory / name, text, mode)


def _replace(path: Path, text: str, mode: int) -> None:
    descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600 from birth
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(aside).chmod(mode)
        Path(aside).replace(path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def _readable(tree: object) -> object:
    """Texts of several lines (Lua) as block scalars; in quotes what Envoy takes for none; all else as it is."""
    if isinstance(tree, dict):
        return {key: _readable(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_readable(value) for value in tree]
    if isinstance(tree, str) and "\n" in tree:
        return LiteralScalarString(tree)
    if isinstance(tree, str) and _NO_TEXT.fullmatch(tree):
        return SingleQuotedScalarString(tree)
    return tree
