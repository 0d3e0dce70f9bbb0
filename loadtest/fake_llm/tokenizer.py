"""The fake's own tokenizer: a word or a single other character is one token, with the white space before it.

White space at the end of a text is a token too, so that `"".join(split(text)) == text` for every text.
"""

import re

_TOKEN = re.compile(r"\s*(?:\w+|[^\w\s])|\s+")


def split(text: str) -> list[str]:
    """The tokens of a text, in order; joined they are the text."""
    return _TOKEN.findall(text)


def count(text: str) -> int:
    """How many tokens a text has."""
    return len(split(text))
