"""The seam where the answer cache stands. None is configured yet: no call has a key, every call bypasses."""

from extproc.model import Caller, CleanPrompt


def key(caller: Caller, clean: CleanPrompt) -> str | None:  # noqa: ARG001 - the shape that the cache needs
    """The cache key of a call, or None where it may not be served from the cache."""
    return None
