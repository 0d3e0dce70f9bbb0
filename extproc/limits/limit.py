"""A limit as a value. Plain data: whoever declares it, it is carried out by `stages.budget`."""

from dataclasses import dataclass, field
from enum import StrEnum

KEY_OWNER = "key/"
"""How the owner of a key's limit begins; the id of its line of rotations follows."""


class Measure(StrEnum):
    """What is counted, in whole units."""

    REQUESTS = "requests"
    TOKENS = "tokens"  # input and output
    INPUT_TOKENS = "input_tokens"
    OUTPUT_TOKENS = "output_tokens"
    CONCURRENT = "concurrent"  # calls open at one time
    MONEY = "money"  # nano-units (billionths) of the gateway's currency

    __hash__ = str.__hash__  # Enum's own is a function of Python, called for every look into a table


class Scope(StrEnum):
    """What has a sum of its own. Of several scopes each combination has one; of none the whole gateway.

    Whatever belongs to nobody counts together: the callers of no team are one team, area and tier. A limit by user
    holds only for calls of a user or a service account.
    """

    KEY = "key"  # with its predecessors and successors in rotations; of a token: its bearer in the team
    USER = "user"  # or the service account
    TEAM = "team"
    AREA = "area"
    MODEL = "model"  # by public name
    BACKEND = "backend"
    TIER = "tier"
    PRIORITY = "priority"

    __hash__ = str.__hash__  # Enum's own is a function of Python, called for every look into a table


class Mode(StrEnum):
    """How far a limit is carried out."""

    ENFORCE = "enforce"
    SHADOW = "shadow"  # counted and told, refuses nothing
    OFF = "off"


class Short(StrEnum):
    """What happens to a call that names no cap on its output when there is no room for the model's own maximum."""

    REFUSE = "refuse"
    CAP = "cap"  # write the cap that there is room for into the request
    LEASE = "lease"  # of streams: reserve the output slice by slice as it flows, and end it when nothing is left


class Period(StrEnum):
    """A window's length."""

    SECOND = "second"
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


class Priority(StrEnum):
    """The class of a call."""

    HIGH = "high"
    LOW = "low"


@dataclass(frozen=True, slots=True)
class Only:
    """Which calls a limit holds for; None: whatever it is. All conditions must be met."""

    models: frozenset[str] | None = None  # public names
    backends: frozenset[str] | None = None
    teams: frozenset[str] | None = None
    areas: frozenset[str] | None = None
    tiers: frozenset[str] | None = None
    environments: frozenset[str] | None = None
    priority: Priority | None = None
    low_route: bool | None = None  # through `listener.low_priority_prefix`, or not


@dataclass(frozen=True, slots=True)
class Raise:
    """For a time another amount. `until` is Unix time in milliseconds."""

    amount: int
    until: int


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `amount` of `measure` within a window, for each value of its scope.

    Of `sliding` (milliseconds) and `period` (a calendar's, in `zone`) exactly one is set; of `concurrent` neither.
    `owner` is "" for the gateway's own, `team/NAME` for a team's, `key/LINEAGE` for a key's: names are unique within.
    """

    name: str
    measure: Measure
    amount: int
    owner: str = ""
    scope: tuple[Scope, ...] = ()  # in the order of Scope, each once
    sliding: int = 0
    period: Period | None = None
    zone: str = "UTC"  # an IANA name
    only: Only = Only()
    mode: Mode = Mode.ENFORCE
    allow_on_error: bool = False  # while the store is down: count in the worker's memory instead of refusing
    warn_at: tuple[int, ...] = ()  # percent, rising
    raised: Raise | None = None
    kept_for_high: int = 0  # percent of the amount that calls of low priority leave free
    short: Short = Short.REFUSE
    slice: int = 256  # output tokens of one step of a lease
    fallback: str | None = None  # the public model to use instead once this is spent
    status: int = 429
    message: str | None = None  # in place of our own words
    hard: bool = True  # False: a call needs one unit of room only, and what it used is booked when it ends
    title: str = field(init=False, compare=False, repr=False)  # its name as people and metrics see it, see `_title`

    def __post_init__(self) -> None:
        object.__setattr__(self, "title", _title(self.owner, self.name))


def _title(owner: str, name: str) -> str:
    """`name`, `team/NAME/name`, or `key/name`, whichever key's it is."""
    if owner.startswith(KEY_OWNER):
        return KEY_OWNER + name
    return f"{owner}/{name}" if owner else name
