"""Token estimates, for where a provider's own count is not to be had. Marked as estimates wherever they show."""

import math

_ASCII_TOKENS = 0.25  # English prose and code run at about four characters per token
_OTHER_TOKENS = 0.75  # other scripts: between one token per two characters (Cyrillic) and one per character (CJK)


def weight(text: str) -> float:
    """Fractional tokens of a piece of text; pieces may be added up before rounding."""
    if text.isascii():
        return len(text) * _ASCII_TOKENS
    ascii_characters = len(text.encode("ascii", "ignore"))
    return ascii_characters * _ASCII_TOKENS + (len(text) - ascii_characters) * _OTHER_TOKENS


def tokens(weighed: float) -> int:
    """Whole tokens for a sum of weights."""
    return math.ceil(weighed)
