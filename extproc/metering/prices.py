"""What a call costs, in nano-units of the gateway's currency: whole numbers, rounded up once, at the end.

Classes of tokens are part of their side's total: cached, cache-write, audio and image tokens of the input, reasoning,
audio and image tokens of the output. A class that has no price of its own has its side's; what the provider counts in
a class that we do not know has the dearest of its side. What is written to a prompt cache for an hour is a part of what
is written.

A price may have others in it: of service tiers, and of calls with more input than some number of tokens, each for the
whole call. A tier that has none is paid as the usual one.
"""

from collections.abc import Collection, Sequence
from fractions import Fraction

from extproc.model import Price, Usage

MOST = 2**53 - 1
"""No call costs more: no counter goes further."""

_TOKENS = 1_000_000  # of one price


def cost(price: Price, usage: Usage) -> int:
    """What was used, at this price."""
    if price.tiers or price.above:
        price = _applicable(price, usage)
    rest = price.input, price.output
    if not (usage.cached_input or usage.cache_write or usage.reasoning or _has_rare_classes(usage)):
        tokens = usage.input * rest[0] + usage.output * rest[1]
        return _total(price, tokens, usage.seconds, usage.images, usage.hosted_calls)
    given = (
        (_rate(price.cached_input, rest[0]), usage.cached_input),
        *_written(price, usage),
        (_rate(price.audio_input, rest[0]), usage.audio_input),
        *_own(price.image_input, usage.image_input),
        (_dearest_input(price), usage.other_input),
    )
    made = (
        (_rate(price.reasoning, rest[1]), usage.reasoning),
        (_rate(price.audio_output, rest[1]), usage.audio_output),
        *_own(price.image_output, usage.image_output),
        (_dearest_output(price), usage.other_output),
    )
    tokens = _side(usage.input, rest[0], given) + _side(usage.output, rest[1], made)
    return _total(price, tokens, usage.seconds, usage.images, usage.hosted_calls)


def plain(price: Price, given: int, made: int) -> int:
    """What so many tokens of input and output cost that are of no class of their own, in the usual tier."""
    if price.above:
        return cost(price, Usage(input=given, output=made))
    return _total(price, given * price.input + made * price.output, 0, 0, 0)


def most(
    price: Price,
    given: int,
    made: int,
    seconds: float = 0.0,
    images: int = 0,
    hosted_calls: int = 0,
    tiers: Collection[str] | None = None,
) -> int:
    """The most that a call can cost which takes and makes no more than this: tokens of input and output, seconds of
    audio, images made, calls of tools that the provider runs. `tiers`: in which it may be served beside the usual one;
    None: in any. `cost` is never more."""
    if not (price.tiers or price.above):
        return _most(price, given, made, seconds, images, hosted_calls)
    own = [one for name, one in price.tiers if tiers is None or name in tiers]
    found = [one for tier in (price, *own) for one in (tier, *[more for floor, more in tier.above if given > floor])]
    return max([_most(one, given, made, seconds, images, hosted_calls) for one in found])


def is_of_tier(price: Price, tier: str) -> bool:
    """Whether it says what a call costs that was served in a tier."""
    return not tier or any(name == tier for name, _ in price.tiers)


def _most(price: Price, given: int, made: int, seconds: float, images: int, hosted_calls: int) -> int:
    tokens = given * _dearest_input(price) + made * _dearest_output(price)
    return _total(price, tokens, seconds, images, hosted_calls)


def _applicable(price: Price, usage: Usage) -> Price:
    """That of the tier in which the call was served, for as much input as it had."""
    if usage.tier:
        price = next((own for name, own in price.tiers if name == usage.tier), price)
    return next((more for floor, more in reversed(price.above) if usage.input > floor), price)


def _written(price: Price, usage: Usage) -> tuple[tuple[int, int], ...]:
    """What was put into a prompt cache, for how long. More for an hour than in all is all for an hour."""
    rate = _rate(price.cache_write, price.input)
    if not usage.cache_write_1h:
        return ((rate, usage.cache_write),)
    rest = max(0, usage.cache_write - usage.cache_write_1h)
    return (rate, rest), (_rate(price.cache_write_1h, rate), usage.cache_write_1h)


def _has_rare_classes(usage: Usage) -> bool:
    classes = usage.audio_input or usage.audio_output or usage.image_input or usage.image_output
    return bool(classes or usage.other_input or usage.other_output or usage.cache_write_1h)


def _own(rate: int | None, count: int) -> tuple[tuple[int, int], ...]:
    """Of a class without a price nothing: it takes the place of no other that its tokens are of, too."""
    return () if rate is None else ((rate, count),)


def _rate(own: int | None, side: int) -> int:
    return side if own is None else own


def _dearest_input(price: Price) -> int:
    cached = max(price.cached_input or 0, price.cache_write or 0, price.cache_write_1h or 0)
    return max(price.input, cached, price.audio_input or 0, price.image_input or 0)


def _dearest_output(price: Price) -> int:
    return max(price.output, price.reasoning or 0, price.audio_output or 0, price.image_output or 0)


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
