"""What a call costs, in nano-units of the gateway's currency: whole numbers, rounded up once, at the end.

Classes of tokens are part of their side's total: cached, cache-write and audio tokens of the input, reasoning and
audio tokens of the output. A class that has no price of its own has its side's; what the provider counts in a class
that we do not know has the dearest of its side. One price covers all writes to a prompt cache: where Anthropic's
cache of one hour may be used, which costs twice the input and not 1.25 times, `cache_write` is the price of that.
"""

from collections.abc import Sequence
from fractions import Fraction

from extproc.model import Price, Usage

MOST = 2**53 - 1
"""No call costs more: no counter goes further."""

_TOKENS = 1_000_000  # of one price


def cost(price: Price, usage: Usage) -> int:
    """What was used, at this price."""
    rest = price.input, price.output
    if not (usage.cached_input or usage.cache_write or usage.reasoning or _has_rare_classes(usage)):
        tokens = usage.input * rest[0] + usage.output * rest[1]
        return _total(price, tokens, usage.seconds, usage.images, usage.hosted_calls)
    given = (
        (_rate(price.cached_input, rest[0]), usage.cached_input),
        (_rate(price.cache_write, rest[0]), usage.cache_write),
        (_rate(price.audio_input, rest[0]), usage.audio_input),
        (_dearest_input(price), usage.other_input),
    )
    made = (
        (_rate(price.reasoning, rest[1]), usage.reasoning),
        (_rate(price.audio_output, rest[1]), usage.audio_output),
        (_dearest_output(price), usage.other_output),
    )
    tokens = _side(usage.input, rest[0], given) + _side(usage.output, rest[1], made)
    return _total(price, tokens, usage.seconds, usage.images, usage.hosted_calls)


def most(price: Price, given: int, made: int, seconds: float = 0.0, images: int = 0, hosted_calls: int = 0) -> int:
    """The most that a call can cost which takes and makes no more than this: tokens of input and output, seconds of
    audio, images made, calls of tools that the provider runs. `cost` is never more."""
    tokens = given * _dearest_input(price) + made * _dearest_output(price)
    return _total(price, tokens, seconds, images, hosted_calls)


def _has_rare_classes(usage: Usage) -> bool:
    return bool(usage.audio_input or usage.audio_output or usage.other_input or usage.other_output)


def _rate(own: int | None, side: int) -> int:
    return side if own is None else own


def _dearest_input(price: Price) -> int:
    return max(price.input, price.cached_input or 0, price.cache_write or 0, price.audio_input or 0)


def _dearest_output(price: Price) -> int:
    return max(price.output, price.reasoning or 0, price.audio_output or 0)


def _side(total: int, plain: int, classes: Sequence[tuple[int, int]]) -> int:
    """The tokens of one side by their rates. Classes may overlap, or be more than the total: what does not fit is
    what is cheapest. One that alone is more than the total is not believed to be cheap."""
    left, price = total, 0
    for rate, count in sorted(classes, reverse=True):
        taken = min(count, left)
        price += taken * (rate if count <= total else max(rate, plain))
        left -= taken
    return price + left * plain


def _total(price: Price, tokens: int, seconds: float, images: int, hosted_calls: int) -> int:
    """`tokens` in nano-units for a million of them."""
    whole = price.request + images * price.image + hosted_calls * price.hosted_call
    if seconds:
        exact = whole + Fraction(tokens, _TOKENS) + Fraction(seconds) * price.minute / 60
        return min(MOST, -(-exact.numerator // exact.denominator))
    return min(MOST, whole - (-tokens // _TOKENS))
