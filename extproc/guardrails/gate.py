"""What holds an answer back, window by window, until a service has judged what it says."""

from dataclasses import dataclass, field

from extproc.guardrails import moderation
from extproc.guardrails.moderation import Request, Text
from extproc.guardrails.policy import Action, Moderation
from extproc.redaction.answer import Ear
from extproc.redaction.policy import Mode
from extproc.redaction.profile import UnreadableAnswer

PLACE = "answer"


@dataclass(slots=True)
class Gate:
    """Of one answer. `held` has what is to go out. `open`: it is judged now, and what follows passes unread."""

    asked: Moderation
    ear: Ear = field(default_factory=Ear)
    held: list[bytes] = field(default_factory=list, repr=False)
    open: bool = False

    @property
    def is_due(self) -> bool:
        """Whether a window is full, or no more is waited for."""
        return self.open or self.ear.size >= self.asked.window

    @property
    def is_shut(self) -> bool:
        """Whether nothing goes out before it has been judged; else there is only listening."""
        return self.asked.mode is Mode.ENFORCE and self.asked.action is Action.BLOCK

    def questions(self) -> list[Request]:
        """What to ask about all that was said since the last time. Raises UnreadableAnswer."""
        try:
            # Of a text without a word there is nothing to say, and services refuse an empty one.
            return moderation.requests(self.asked, [Text(PLACE, text) for text in self.ear.take() if text.strip()])
        except moderation.TooMuch:
            raise UnreadableAnswer("its answer has more text than the service that judges it takes") from None

    def release(self) -> bytes:
        """All that was held back."""
        held = b"".join(self.held)
        self.held.clear()
        return held
