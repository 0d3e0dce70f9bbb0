"""What a team may send to a model and get from it: policies as values, compiled from whatever declares them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from extproc.redaction.detector import Detector
from extproc.redaction.policy import Mode, OnError


class Action(StrEnum):
    """What becomes of a call that a rule speaks of."""

    BLOCK = "block"  # refused with a 400; an answer is ended
    FLAG = "flag"  # told in its record and counted


class Images(StrEnum):
    """Which images a call may show to a model."""

    ANY = "any"
    INLINE = "inline"  # in the body itself: the provider fetches nothing
    NONE = "none"


class Api(StrEnum):
    """What a service that judges texts speaks."""

    OPENAI = "openai-moderation"
    AZURE = "azure-content-safety"


@dataclass(frozen=True, slots=True)
class Structure:
    """What a request may hold that no look at its texts sees. None: any.

    `hosted_tools` are types of tools that the provider runs (`web_search`, `code_interpreter`, `mcp`, ...), without
    their version; `tools` are names of the caller's own, in which `*` stands for anything. Hosts are whole names, or
    begin with `*.`.
    """

    mode: Mode = Mode.ENFORCE
    action: Action = Action.BLOCK
    max_messages: int | None = None
    max_text: int | None = None  # characters of all texts
    max_images: int | None = None
    max_tools: int | None = None
    images: Images = Images.ANY
    image_hosts: tuple[str, ...] | None = None  # from which a provider may fetch
    tools: tuple[str, ...] | None = None
    hosted_tools: frozenset[str] | None = None
    mcp_hosts: tuple[str, ...] | None = None
    files: bool = True  # files that the provider stores, by their ids, or fetches by a URL


@dataclass(frozen=True, slots=True)
class Injection:
    """Attempts to talk a model out of its instructions, by a set of patterns. A text's score is from 0 to 1."""

    mode: Mode = Mode.ENFORCE
    action: Action = Action.BLOCK
    threshold: float = 0.8
    trusted: frozenset[str] = frozenset(("system", "developer"))  # roles whose texts are not looked at


@dataclass(frozen=True, slots=True)
class ContentRule:
    """Words and regular expressions that may not be said; matched as `redaction.custom` matches them."""

    name: str
    words: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    mode: Mode = Mode.ENFORCE
    action: Action = Action.BLOCK
    input: bool = True
    output: bool = False


@dataclass(frozen=True, slots=True)
class Moderation:
    """A service that is asked about the texts of a call, after redaction.

    `thresholds` by category: OpenAI's scores from 0 to 1, Azure's severities 0, 2, 4, 6; none: what OpenAI itself calls
    flagged, and Azure's 4 for every category.
    """

    service: str
    api: Api
    model: str | None = None  # OpenAI's, where the service's own default is not wanted
    thresholds: Mapping[str, float] = field(default_factory=dict)
    mode: Mode = Mode.ENFORCE
    action: Action = Action.BLOCK
    on_error: OnError = OnError.DENY
    timeout: float = 2.0  # seconds
    price: int = 0  # of one call, in nano-units
    input: bool = True
    output: bool = False
    window: int = 2_000  # characters of a streamed answer that are held back until they have been judged


@dataclass(frozen=True, eq=False)
class Guardrails:
    """The rules of one team. Of those that look through texts there are detectors, whose entities are rules' names."""

    name: str
    structure: Structure | None = None
    injection: Injection | None = None
    content: tuple[ContentRule, ...] = ()
    input_words: Detector | None = None  # of the rules for input
    output_words: Detector | None = None  # of the rules for output
    reach: int = 0  # characters of the longest phrase that an answer may not hold, see `redaction.output.OutputGuard`
    moderation: Moderation | None = None
    on_error: OnError = OnError.DENY  # where a text could not be looked through
    version: str = ""  # another one where they may say anything else
