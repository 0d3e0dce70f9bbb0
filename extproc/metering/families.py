"""Families of tokenizers, and what each of them charges at most."""

from dataclasses import dataclass

from extproc.metering.weights import WEIGHTS


@dataclass(frozen=True, slots=True)
class Family:
    """`weights` are thousandths of a token for each thing that `bounds.NAMES` counts; the rest are tokens."""

    weights: tuple[int, ...]
    base: int  # around a whole request: templates bring a system text of their own
    tools: int  # once where there are tools: Anthropic's own text about them is 530 tokens at most
    audio: int  # for each 1000 bytes of sound, a second at the lowest rate of MP3: OpenAI counts 10, Google 32


def _family(name: str, base: int, tools: int, audio: int) -> Family:
    return Family(tuple(WEIGHTS[name].values()), base, tools, audio)


FAMILIES = {
    "openai": _family("openai", base=16, tools=16, audio=10),
    "anthropic": _family("anthropic", base=16, tools=800, audio=32),
    "google": _family("google", base=16, tools=64, audio=32),
    "other": _family("other", base=96, tools=800, audio=32),
}
OTHER = FAMILIES["other"]
"""Of a family that is not known: the most of all."""
