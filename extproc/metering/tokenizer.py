"""Exact counts, where a tokenizer file is configured: a `tokenizer.json`, read by the package `tokenizers`."""

import importlib
from functools import lru_cache
from typing import Any

MAX_CHARACTERS = 4_000
"""Texts above are bounded, not counted: counting more would hold the event loop for some 3 ms and more."""


class TokenizerUnusable(Exception):
    """The file cannot be read, or the package `tokenizers` is not installed."""


@lru_cache(maxsize=16)
def load(path: str) -> Any:
    """The tokenizer in a file, read once. Raises TokenizerUnusable: load it when the configuration is read."""
    try:
        package = importlib.import_module("tokenizers")
    except ImportError:
        raise TokenizerUnusable("a tokenizer file needs the extra `tokenizers`") from None
    try:
        found = package.Tokenizer.from_file(path)
    except Exception as error:  # the package raises nothing more exact
        raise TokenizerUnusable(f"{path} is no tokenizer.json") from error
    found.no_truncation()
    found.no_padding()
    return found


def count(text: str, path: str) -> int:
    """Tokens of a text, without those around it; 3 % more, because a provider's file may be newer than ours."""
    exact = len(load(path).encode(text, add_special_tokens=False).ids)
    return -(-exact * 103 // 100)
