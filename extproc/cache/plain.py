"""Requests of nothing but words and settings, as most are: of them it is known what others must be searched for."""

from collections.abc import Mapping

from extproc.surfaces import Surface

_NUMBERS = frozenset(
    (
        *("frequency_penalty", "max_completion_tokens", "max_tokens", "n", "presence_penalty", "seed", "temperature"),
        *("top_logprobs", "top_p"),
    )
)
_FLAGS = frozenset(("logprobs", "stream"))
_WORDS = frozenset(("model", "user"))
_ROLES = frozenset(("assistant", "developer", "system", "user"))
_OF_MESSAGE = frozenset(("content", "role"))
_NUMBER = frozenset((int, float, type(None)))
_FLAG = frozenset((bool, type(None)))


def is_plain(surface: Surface, given: object) -> bool:
    """Whether a parsed request is a conversation in words, with the usual settings and nothing else."""
    if surface is not Surface.CHAT or type(given) is not dict:
        return False
    for name, value in given.items():
        if name in _NUMBERS:
            fits = type(value) in _NUMBER
        elif name in _FLAGS:
            fits = type(value) in _FLAG
        elif name in _WORDS:
            fits = type(value) is str
        elif name == "messages":
            fits = type(value) is list and all(map(_is_said, value))
        else:
            fits = name == "stream_options" and _is_usage(value)
        if not fits:
            return False
    return True


def _is_said(message: object) -> bool:
    return (
        type(message) is dict
        and message.keys() == _OF_MESSAGE
        and type(message["content"]) is str
        and type(message["role"]) is str
        and message["role"] in _ROLES
    )


def _is_usage(options: object) -> bool:
    return (
        isinstance(options, Mapping) and options.keys() == {"include_usage"} and type(options["include_usage"]) is bool
    )
