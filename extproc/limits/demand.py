"""The most that a call may use: what its limits must have room for before it is sent."""

from collections.abc import Mapping

from extproc.limits.limit import Measure
from extproc.metering import bounds, prices
from extproc.model import Chain, Demand, InputSize, Prompt, Target
from extproc.surfaces import Surface
from extproc.values import frozen

ASSUMED_OUTPUT = 16_384
"""Tokens of an answer where the model's maximum is not configured; if a limit needs a bound, a cap says so."""

OUTPUT = frozenset({Measure.TOKENS, Measure.OUTPUT_TOKENS, Measure.MONEY})
"""What a cap on the output bounds."""

_TEXT = frozenset({Surface.CHAT, Surface.COMPLETIONS, Surface.RESPONSES, Surface.MESSAGES})
_MEDIA = {Surface.IMAGES: 8_192, Surface.IMAGE_EDITS: 8_192}  # tokens of one image, where no maximum is set
_SPOKEN = 8  # tokens of speech for one of the text, at most: 20 a second, and a token is spoken in a quarter of one
_AUDIO = frozenset({Surface.TRANSCRIPTIONS, Surface.TRANSLATIONS})
_MOST_EDITED = 10  # images of one call, where its form does not ask for fewer before the uploads
_FORM = InputSize(images=16)  # uploads that an edit takes, at most, with its prompt
_TOKENS_PER_SECOND = 10  # of audio, in and out: more than any published rule


def units(demand: Demand) -> Mapping[Measure, int]:
    """What a demand is in the units of each measure."""
    return {
        Measure.REQUESTS: demand.requests,
        Measure.TOKENS: demand.input + demand.output,
        Measure.INPUT_TOKENS: demand.input,
        Measure.OUTPUT_TOKENS: demand.output,
        Measure.CONCURRENT: 1,
        Measure.MONEY: demand.money,
    }


@frozen
class Extent:
    """What bounds a call: `input` tokens, `cap` tokens for each of `choices`, `seconds` of audio, `images` made.

    `hosted_calls`: of tools that the provider runs. `aside`: nano-units for what the gateway asks services about it.
    `tiers`: in which it may be served beside the usual one; None: in any.
    """

    input: int = 0
    estimated_input: int = 0
    cap: int = 0
    choices: int = 1
    seconds: float = 0.0
    images: int = 0
    hosted_calls: int = 0
    aside: int = 0
    tiers: frozenset[str] | None = None

    def at_most(self, chain: Chain, cap: int) -> Demand:
        """With this cap, at the dearest target that has a price."""
        return self.at_most_output(chain, cap * self.choices)

    def at_most_output(self, chain: Chain, output: int) -> Demand:
        """With so many tokens of output in all."""
        money = max([self._money(target, output) for target in chain.targets], default=0)
        return Demand(1, self.input, output, money + self.aside)

    def surely(self, chain: Chain, output: int = 0) -> Demand:
        """What a call has used if it was sent, and nothing more is known of its answer than what has passed."""
        given = self.estimated_input
        costs = [prices.plain(target.price, given, output) for target in chain.targets if target.price is not None]
        return Demand(1, given, output, min(costs, default=0) + self.aside)

    def _money(self, target: Target, output: int) -> int:
        if target.price is None:
            return 0
        return prices.most(target.price, self.input, output, self.seconds, self.images, self.hosted_calls, self.tiers)


def extent(surface: Surface, prompt: Prompt, chain: Chain, upload: int) -> Extent:
    """How far a call can go. `upload`: bytes of a multipart body, at most."""
    if surface in _AUDIO:
        longest = chain.model.bounds.max_seconds
        seconds = bounds.audio_seconds(upload) if longest is None else min(longest, bounds.audio_seconds(upload))
        tokens = int(seconds * _TOKENS_PER_SECOND)
        return Extent(input=tokens, estimated_input=0, cap=tokens, seconds=seconds)
    of = chain.model.bounds
    given = bounds.input_tokens(_FORM if surface is Surface.IMAGE_EDITS else prompt.input, of)
    images = prompt.images or (_MOST_EDITED if surface is Surface.IMAGE_EDITS else 0)
    return Extent(
        input=0 if surface in (Surface.COUNT_TOKENS, Surface.RESPONSE_ITEM) else given,
        estimated_input=prompt.estimated_input,
        cap=answer_tokens(surface, prompt, chain),
        choices=max(prompt.choices, images),
        images=images,
        hosted_calls=prompt.hosted_calls,
        aside=prompt.aside,
        tiers=prompt.service_tiers,
    )


def answer_tokens(surface: Surface, prompt: Prompt, chain: Chain) -> int:
    """Tokens of the longest answer that a call may get of one choice, as far as that is said or known."""
    most = chain.model.bounds.max_output
    if surface is Surface.SPEECH:
        return _SPOKEN * max(prompt.estimated_input, 16) if most is None else most
    if surface not in _TEXT:
        assumed = _MEDIA.get(surface, 0)
        return assumed if most is None or not assumed else most
    said = prompt.cap.tokens
    if said is None or (said == 0 and surface is Surface.COMPLETIONS):  # which some servers take for no bound at all
        return ASSUMED_OUTPUT if most is None else most
    return said if most is None else min(said, most)
