"""A gateway with team files and a place for keys, for tests of planning and applying."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from ruamel.yaml import YAML

from extproc.config.schema import Gateway
from extproc.config.team_files import Offer, offer
from extproc.config.teams import TeamFile
from extproc.gitops.apply import Wish, apply
from extproc.gitops.declared import declared
from extproc.gitops.delivery import DeliveredKey, Delivery
from extproc.gitops.plan import KeyName, Plan, make_plan
from extproc.identity import keys
from extproc.stores.ports import DirectoryStore, KeyChange, KeyRecord

START = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
GATEWAY = Gateway.model_validate(
    {
        "areas": {"retail": {"owners": ["Olga@example.com"]}, "finance": {}},
        "backends": {"swe": {"dialect": "openai", "url": "https://swe.example"}},
        "models": {
            "gpt-4o": {"aliases": ["big"], "targets": [[{"backend": "swe"}]]},
            "gpt-4o-mini": {"targets": [[{"backend": "swe"}]]},
            "claude": {"tiers": ["premium"], "targets": [[{"backend": "swe"}]]},
        },
    }
)
OFFER: Offer = offer(GATEWAY)
CHECKOUT = """\
area: retail
owner: anna@example.com
models: [{name: gpt-4o}]
members: [{user: bob@example.com}, {user: eve@example.com, role: viewer}]
service_accounts: [{name: ci, client_id: 11-22}]
keys:
  - {name: ci, service_account: ci, environment: prod, lifetime: 90d}
  - {name: laptop, user: bob@example.com}
"""
LEDGER = """\
area: finance
owner: finn@example.com
models: [{name: "*"}]
keys: [{name: batch}]
"""


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> datetime:
        return self.time

    def advance(self, step: timedelta) -> None:
        self.time += step


class Shelf:
    """A place for keys that keeps them in memory, by team and name."""

    def __init__(self) -> None:
        self.keys: dict[KeyName, DeliveredKey] = {}

    def deliver(self, keys: Sequence[DeliveredKey]) -> None:
        self.keys.update({(key.team, key.name): key for key in keys})


def wished(**files: str) -> Wish:
    """What team files of these names and texts declare."""
    teams = {
        name.replace("_", "-"): TeamFile.model_validate(YAML(typ="safe").load(text)) for name, text in files.items()
    }
    return Wish(declared(GATEWAY, OFFER, teams), OFFER)


def planned(store: DirectoryStore, wish: Wish, clock: Clock) -> Plan:
    """What an apply would do now."""
    return make_plan(store.state(), wish.declared, wish.offered, clock())


def applied(
    store: DirectoryStore,
    wish: Wish,
    clock: Clock,
    delivery: Delivery | None,
    approve: Callable[[Plan], None] = lambda _plan: None,
) -> Plan:
    """Carry it out without asking."""
    return apply(store, wish, delivery, approve, lambda _what, _done, _total: None, clock)


def key_of(store: DirectoryStore, team: str, name: str) -> KeyRecord:
    """The newest key of a name."""
    return [key for key in store.state().keys if (key.spec.team, key.spec.name) == (team, name)][-1]


def digests(store: DirectoryStore) -> dict[str, str]:
    """The digests of all unrevoked keys, by id."""
    return {change.record.id: change.digest for change in store.changes(0) if isinstance(change, KeyChange)}


def rotate(store: DirectoryStore, which: str, overlap: timedelta, number: int = 1) -> None:
    """What `sluice keys rotate` does."""
    key = keys.mint(number.to_bytes(32, "big"))
    store.rotate(which, keys.digest(key), keys.hint(key), overlap)
