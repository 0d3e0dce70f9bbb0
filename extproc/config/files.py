"""The files that a configuration names beside itself."""

from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

from pydantic import BaseModel

from extproc.config.schema import Gateway


def files(part: object) -> Iterator[Path]:
    """Every file that a part of a configuration names, in its order."""
    if isinstance(part, Path):
        yield part
    elif isinstance(part, BaseModel):
        for name in type(part).model_fields:
            yield from files(getattr(part, name))
    elif isinstance(part, dict):
        for value in part.values():
            yield from files(value)
    elif isinstance(part, list | tuple):
        for value in part:
            yield from files(value)


def watched_files(gateway: Gateway) -> list[Path]:
    """Those that are read while the gateway starts or runs."""
    return [path for path in files(gateway) if path not in (gateway.state_dir, gateway.teams)]


def read_by_workers(gateway: Gateway) -> list[Path]:
    """Those that calls are decided by: of policies and tokenizers."""
    return [*files(gateway.policies), *files(gateway.models)]


def read_by_envoy(gateway: Gateway) -> list[Path]:
    """Credentials and certificates."""
    workers = read_by_workers(gateway)
    return [path for path in watched_files(gateway) if path not in workers]


def contents(paths: list[Path]) -> bytes:
    """A digest of what stands in them, the same for the same. One that cannot be read counts as empty."""
    digest = blake2b(digest_size=16)
    for path in paths:
        try:
            text = path.read_bytes()
        except OSError:
            text = b""
        digest.update(b"%d:" % len(text) + text)
    return digest.digest()
