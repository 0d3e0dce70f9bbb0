"""A configuration with a name of its own, as it is handed to the workers."""

from hashlib import blake2b
from typing import Self

from extproc.config.fields import Strict
from extproc.config.files import contents, read_by_workers
from extproc.config.schema import Gateway

_LENGTH = 6  # bytes


class Revision(Strict):
    """`name` is the same for the same configuration with the same files that calls are decided by."""

    name: str
    gateway: Gateway

    @classmethod
    def of(cls, gateway: Gateway) -> Self:
        """As its files are now."""
        digest = blake2b(gateway.model_dump_json().encode(), digest_size=_LENGTH)
        digest.update(contents(read_by_workers(gateway)))
        return cls(name=digest.hexdigest(), gateway=gateway)

    def line(self) -> bytes:
        """As a worker reads it on its standard input."""
        return self.model_dump_json().encode() + b"\n"
