"""Token estimates, for where a provider's own count is not to be had. Marked as estimates wherever they show."""

import math

_ASCII_TOKENS = 0.25  # English prose and code run at about four characters per token
_OTHER_TOKENS = 19 / 64  # for each byte of other scripts; in 64ths, so that weights add up exactly

_MEDIA_TOKENS = 5 / 2**14  # a character of base64: PCM as OpenAI streams it, 48,000 bytes a second of 20 tokens


def weight(text: str) -> float:
    """Fractional tokens of a piece of text; pieces may be added up before rounding. How far off: docs/estimates.md."""
    if text.isascii():
        return len(text) * _ASCII_TOKENS
    ascii_characters = len(text.encode("ascii", "ignore"))
    other_bytes = len(text.encode(errors="surrogatepass")) - ascii_characters
    return ascii_characters * _ASCII_TOKENS + other_bytes * _OTHER_TOKENS


def media(base64: int) -> float:
    """Fractional tokens of sound in an answer, by its characters in base64."""
    return base64 * _MEDIA_TOKENS


def tokens(weighed: float) -> int:
    """Whole tokens for a sum of weights."""
    return math.ceil(weighed)
