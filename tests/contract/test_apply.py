"""What an apply leaves behind, on every store: the old state or the new, whatever happens on the way.

PostgreSQL takes part when SLUICE_TEST_POSTGRES holds the URL of a database that may be emptied.
"""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from extproc.enrolment import Enrolment
from extproc.gitops.apply import Busy, NoDelivery, Overwritten, Wish
from extproc.gitops.delivery import DeliveredKey, DeliveryError, open_delivery
from extproc.gitops.plan import KeyAction, Plan
from extproc.identity import keys
from extproc.stores import sql
from extproc.stores.memory import MemoryDirectory, in_force
from extproc.stores.ports import ChangeSet, Conflict, DirectoryStore, KeySpec, MintedKey, StopScope, StoreUnavailable
from extproc.stores.sql.directory import SqlDirectory
from tests.support.gitops import (
    CHECKOUT,
    LEDGER,
    Clock,
    Shelf,
    applied,
    digests,
    key_of,
    planned,
    wished,
)
from tests.support.stores import POSTGRES

OLD = wished(checkout=CHECKOUT)
NEW = wished(checkout=CHECKOUT.replace("name: ci,", "name: ci-2,").replace("prod", "test"), ledger=LEDGER)


def _empty_postgres() -> str:
    if not POSTGRES:
        pytest.skip("SLUICE_TEST_POSTGRES is not set")
    engine = create_engine(POSTGRES)
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    return POSTGRES


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/state/sluice.db" if request.param == "sqlite" else _empty_postgres()
    sql.upgrade(url)
    return url


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DirectoryStore]:
    if request.param == "memory":
        yield MemoryDirectory()
        return
    url = f"sqlite:///{tmp_path}/state/sluice.db" if request.param == "sqlite" else _empty_postgres()
    sql.upgrade(url)
    with closing(sql.open_stores(url)) as stores:
        yield stores.directory


@pytest.fixture
def clock() -> Clock:
    """Near the present, which the databases' own clock shows."""
    made = Clock()
    made.time = datetime.now(UTC)
    return made


def _in_force(store: DirectoryStore, shelf: Shelf, wish: Any) -> None:
    """Exactly the declared keys work, each as it lies in its place."""
    delivered = {keys.digest(shelf.keys[name].secret) for name in wish.declared.keys}
    assert set(digests(store).values()) == delivered


# ---- the way it should go -------------------------------------------------------------------------


def test_what_is_declared_comes_in_force_and_a_second_run_changes_nothing(store: DirectoryStore, clock: Clock) -> None:
    shelf = Shelf()
    for wish in (OLD, NEW, NEW):
        plan = applied(store, wish, clock, shelf)
        _in_force(store, shelf, wish)
        assert planned(store, wish, clock).is_empty()
    assert plan.is_empty()
    assert store.state().revision == plan.revision


def test_limits_come_change_and_go_and_the_keys_stay(store: DirectoryStore, clock: Clock) -> None:
    """As a worker has them that takes every change."""
    enrolment = Enrolment(quickstart=False)
    wishes = [
        wished(checkout=team_limits + CHECKOUT.replace("bob@example.com}\n", f"bob@example.com{key_limits}}}\n"))
        for team_limits, key_limits in (
            ("", ""),
            ("limits: {all: {concurrent: 5}}\n", ", limits: {own: {concurrent: 1}}, priority: low"),
            ("limits: {all: {concurrent: 6}}\n", ", limits: {own: {concurrent: 2}}"),
            ("", ""),
        )
    ]
    applied(store, wishes[0], clock, Shelf())
    laptop = key_of(store, "checkout", "laptop").id
    seen, since = [], 0
    for wish in wishes:
        applied(store, wish, clock, None)
        directory = enrolment.take(store.changes(since), lambda: None)
        since = store.revision()
        (key,) = (key for key in directory.keys.values() if key.id == laptop)
        limits = (*directory.teams["checkout"].limits, *key.limits)
        seen.append(([(f"{limit.owner}/{limit.name}", limit.amount) for limit in limits], key.priority.value))
    own = f"key/{laptop}/own"
    assert seen == [
        ([], "high"),
        ([("team/checkout/all", 5), (own, 1)], "low"),
        ([("team/checkout/all", 6), (own, 2)], "high"),
        ([], "high"),
    ]


def test_a_revoke_in_the_database_wins(store: DirectoryStore, clock: Clock) -> None:
    applied(store, OLD, clock, Shelf())
    store.revoke("checkout/ci")
    plan = applied(store, OLD, clock, Shelf())
    assert (plan.is_empty(), [one.subject for one in plan.drift]) == (True, ["checkout/ci"])
    assert key_of(store, "checkout", "ci").revoked_at is not None


def test_an_emergency_stop_outlives_an_apply(store: DirectoryStore, clock: Clock) -> None:
    applied(store, OLD, clock, Shelf())
    store.stop(StopScope.TEAM, "checkout", "key on a public page")
    applied(store, NEW, clock, Shelf())
    assert [(stop.scope, stop.name) for stop in store.state().stops] == [(StopScope.TEAM, "checkout")]


def test_the_overlap_of_a_rotation_ends_as_it_would_when_the_file_narrows_the_key(
    store: DirectoryStore, clock: Clock
) -> None:
    applied(store, OLD, clock, Shelf())
    fresh = keys.mint(bytes(32))
    old, _ = store.rotate("checkout/laptop", keys.digest(fresh), keys.hint(fresh), timedelta(days=1))
    applied(store, wished(checkout=CHECKOUT.replace("name: laptop", "name: laptop, models: [big]")), clock, None)
    found = {key.id: key for key in store.state().keys if key.spec.name == "laptop"}
    assert {key.spec.models for key in found.values()} == {("gpt-4o",)}
    assert found[old.id].expires_at == old.expires_at is not None


# ---- refusals, before anything is done ------------------------------------------------------------


def test_keys_without_a_place_are_not_minted(store: DirectoryStore, clock: Clock) -> None:
    before = store.state()
    with pytest.raises(NoDelivery) as caught:
        applied(store, OLD, clock, None)
    assert caught.value.count == 2
    assert store.state() == before


def test_a_change_without_keys_needs_no_place(store: DirectoryStore, clock: Clock) -> None:
    applied(store, wished(checkout=CHECKOUT.partition("keys:")[0]), clock, None)
    assert [team.name for team in store.state().teams] == ["checkout"]


def test_who_is_asked_may_refuse(store: DirectoryStore, clock: Clock) -> None:
    shelf, before = Shelf(), store.state()

    def refuse(plan: Plan) -> None:
        raise PermissionError(len(plan.keys))

    with pytest.raises(PermissionError):
        applied(store, OLD, clock, shelf, refuse)
    assert (store.state(), shelf.keys) == (before, {})


def test_only_one_apply_is_at_work_at_a_time(store: DirectoryStore, clock: Clock) -> None:
    with store.alone(), pytest.raises(Conflict):
        applied(store, OLD, clock, Shelf())
    assert store.state().teams == ()
    applied(store, OLD, clock, Shelf())  # and the lock is free again


# ---- the directory changes meanwhile --------------------------------------------------------------


class Meddling(Shelf):
    """A place whose deliveries take so long that others change the directory; `meddle` is told how often it was."""

    def __init__(self, meddle: Callable[[int], None]) -> None:
        super().__init__()
        self.deliveries = 0
        self._meddle = meddle

    def deliver(self, keys: Sequence[DeliveredKey]) -> None:
        super().deliver(keys)
        self.deliveries += 1
        self._meddle(self.deliveries)


def test_a_plan_that_is_out_of_date_is_made_again(store: DirectoryStore, clock: Clock) -> None:
    shelf = Meddling(lambda number: _make_by_hand(store, number) if number == 1 else None)
    asked: list[Plan] = []
    plan = applied(store, OLD, clock, shelf, asked.append)
    assert shelf.deliveries == 2
    assert len(asked) == 1, "the same steps are asked for once"
    assert plan.drift == (), "a key of no team is nobody's drift"
    working = set(digests(store).values())
    assert {keys.digest(key.secret) for key in shelf.keys.values()} <= working


def test_other_steps_are_asked_for_again(store: DirectoryStore, clock: Clock) -> None:
    applied(store, OLD, clock, Shelf())
    shelf = Meddling(lambda _number: _revoke(store, "checkout/laptop"))
    asked: list[Plan] = []
    more = wished(checkout=CHECKOUT.replace("name: laptop", "name: laptop, models: [big]"), ledger=LEDGER)
    applied(store, more, clock, shelf, asked.append)
    assert [[step.action for step in plan.keys] for plan in asked] == [
        [KeyAction.CHANGE, KeyAction.MINT],
        [KeyAction.MINT],
    ]


def test_a_directory_that_never_holds_still_ends_it_with_nothing_changed(store: DirectoryStore, clock: Clock) -> None:
    shelf = Meddling(lambda number: _make_by_hand(store, number))
    with pytest.raises(Busy):
        applied(store, OLD, clock, shelf)
    assert (shelf.deliveries, store.state().teams) == (3, ())


def test_keys_that_work_and_were_delivered_over_are_named(store: DirectoryStore, clock: Clock) -> None:
    """The lock of an apply may be lost, with its connection: what another has brought in force is not revoked."""
    shelf = Meddling(lambda number: _commit_elsewhere(store) if number == 1 else None)
    with pytest.raises(Overwritten) as caught:
        applied(store, OLD, clock, shelf)
    assert caught.value.names == [("checkout", "ci"), ("checkout", "laptop")]
    assert shelf.deliveries == 1
    assert planned(store, OLD, clock).is_empty()


def _make_by_hand(store: DirectoryStore, number: int) -> None:
    key = keys.mint(number.to_bytes(32, "big"))
    store.create(MintedKey(KeySpec(f"hand-{number}"), keys.digest(key), keys.hint(key)))


def _revoke(store: DirectoryStore, which: str) -> None:
    if any(f"{key.spec.team}/{key.spec.name}" == which and key.revoked_at is None for key in store.state().keys):
        store.revoke(which)


def _commit_elsewhere(store: DirectoryStore) -> None:
    """Another apply of the same files, which delivered before."""
    state = store.state()
    specs = list(OLD.declared.keys.values())
    made = [keys.mint(number.to_bytes(32, "big")) for number in range(len(specs))]
    minted = [MintedKey(spec, keys.digest(key), keys.hint(key)) for spec, key in zip(specs, made, strict=True)]
    changes = ChangeSet(tuple(OLD.declared.areas.values()), (), tuple(OLD.declared.teams.values()), (), tuple(minted))
    store.apply(changes, state.revision)


# ---- failures -------------------------------------------------------------------------------------


class Failing(Shelf):
    """A place that breaks half-way."""

    def deliver(self, keys: Sequence[DeliveredKey]) -> None:
        super().deliver(keys[:1])
        raise DeliveryError("the disk is full")


def test_a_delivery_that_fails_leaves_the_old_state_and_the_next_run_mends_it(
    store: DirectoryStore, clock: Clock
) -> None:
    shelf = Shelf()
    applied(store, OLD, clock, shelf)
    before = store.state()
    failing = Failing()
    failing.keys = shelf.keys
    with pytest.raises(DeliveryError):
        applied(store, NEW, clock, failing)
    assert store.state() == before
    applied(store, NEW, clock, shelf)
    _in_force(store, shelf, NEW)


def test_a_store_that_fails_leaves_the_old_state(
    store: DirectoryStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = Shelf()
    with monkeypatch.context() as patch:
        patch.setattr(type(store), "apply", _unavailable)
        with pytest.raises(StoreUnavailable):
            applied(store, OLD, clock, shelf)
    assert store.state().teams == ()
    applied(store, OLD, clock, shelf)
    _in_force(store, shelf, OLD)


def _unavailable(*_given: object) -> int:
    raise StoreUnavailable("the database cannot be used")


# ---- death at every step --------------------------------------------------------------------------


class Deadly:
    """A place and a store of which the given step kills the process: no clean-up, no words."""

    def __init__(self, folder: Path, dies_at: int) -> None:
        self._place = open_delivery(f"file:{folder}")
        self._steps = 0
        self._dies_at = dies_at

    def step(self) -> None:
        self._steps += 1
        if self._steps == self._dies_at:
            os._exit(9)

    def deliver(self, keys: Sequence[DeliveredKey]) -> None:
        for key in keys:
            self.step()
            self._place.deliver([key])
        self.step()


def _die(database: str, folder: Path, wish: Wish, dies_at: int) -> None:
    """An apply in a process of its own: steps are each key, the end of the delivery, before and after a commit."""
    deadly = Deadly(folder, dies_at)
    with closing(sql.open_stores(database)) as stores:
        store = stores.directory
        commit = store.apply

        def stepping(changes: ChangeSet, revision: int) -> int:
            deadly.step()
            new = commit(changes, revision)
            deadly.step()
            return new

        store.apply = stepping  # type: ignore[method-assign]
        clock = Clock()
        clock.time = datetime.now(UTC)
        applied(store, wish, clock, deadly)


def _run_and_die(*given: Any) -> int:
    """The exit code of `_die`: 9 where it died."""
    process = multiprocessing.get_context("spawn").Process(target=_die, args=given)
    process.start()
    process.join()
    return process.exitcode or 0


def _secrets(folder: Path) -> set[str]:
    return {keys.digest(path.read_text()) for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 40}


@pytest.mark.parametrize("dies_at", range(1, 7))
def test_a_death_at_any_step_leaves_old_or_new_and_the_next_run_converges(
    database: str, tmp_path: Path, clock: Clock, dies_at: int
) -> None:
    folder = tmp_path / "keys"
    place = open_delivery(f"file:{folder}")
    with closing(sql.open_stores(database)) as stores:
        applied(stores.directory, OLD, clock, place)
        old = _shown(stores.directory)
    died = _run_and_die(database, folder, NEW, dies_at)
    steps = 2 + 1 + 2  # two keys, the end of the delivery, before and after the commit
    assert died == (9 if dies_at <= steps else 0)
    with closing(sql.open_stores(database)) as stores:
        store = stores.directory
        came_in_force = dies_at >= steps
        assert (_shown(store) == old) != came_in_force
        assert planned(store, NEW, clock).is_empty() == came_in_force
        plan = applied(store, NEW, clock, place)
        assert plan.is_empty() == came_in_force
        assert set(digests(store).values()) <= _secrets(folder)
        assert len(digests(store)) == len(NEW.declared.keys)


@pytest.mark.parametrize("dies_at", range(1, 8))
def test_a_death_while_keys_that_work_are_replaced_leaves_none_in_force_that_nobody_has(
    database: str, tmp_path: Path, clock: Clock, dies_at: int
) -> None:
    """The file's new lifetime is shorter than the age of one key; another one is new."""
    folder = tmp_path / "keys"
    place = open_delivery(f"file:{folder}")
    shorter = wished(checkout=CHECKOUT.replace("90d", "24h"), ledger=LEDGER)
    with closing(sql.open_stores(database)) as stores:
        clock.advance(timedelta(days=-2))
        applied(SqlDirectory(stores.engine, clock), OLD, clock, place)
        clock.advance(timedelta(days=2))
    steps = 2 + 2 + 1 + 2  # around the end of the old key, two keys, the end of the delivery, around the commit
    assert _run_and_die(database, folder, shorter, dies_at) == 9
    with closing(sql.open_stores(database)) as stores:
        store = stores.directory
        assert _usable(store, clock) <= _secrets(folder)
        assert len(_usable(store, clock)) == (2 if dies_at == 1 else 3 if dies_at == steps else 1)
        assert applied(store, shorter, clock, place).is_empty() == (dies_at == steps)
        assert _usable(store, clock) <= _secrets(folder)
        assert len(_usable(store, clock)) == len(shorter.declared.keys)


def _usable(store: DirectoryStore, clock: Clock) -> set[str]:
    """The digests of the keys in force."""
    working = {key.id for key in store.state().keys if in_force(key, clock())}
    return {digest for key_id, digest in digests(store).items() if key_id in working}


def _shown(store: DirectoryStore) -> object:
    state = store.state()
    return state.revision, state.teams, state.areas, [(key.id, key.spec, key.revoked_at) for key in state.keys]


# ---- the command, killed at random, and at full size ----------------------------------------------

GATEWAY = """\
stores: {{database: "{database}"}}
backends: {{swe: {{dialect: openai, url: "https://swe.example"}}}}
models:
  gpt-4o: {{targets: [[{{backend: swe}}]]}}
  gpt-4o-mini: {{targets: [[{{backend: swe}}]]}}
"""


def _write_company(folder: Path, database: str, teams: int, users: int, keys_each: int) -> None:
    """A gateway.yaml and its team files; `users` are in all, `keys_each` of every team."""
    (folder / "gateway.yaml").write_text(GATEWAY.format(database=database))
    (folder / "teams").mkdir()
    each = users // teams
    for number in range(teams):
        people = [f"user-{number * each + place}@example.com" for place in range(each)]
        listed = "".join(f"  - {{user: {user}}}\n" for user in people[1:])
        due = "".join(
            f"  - {{name: key-{place}, user: {people[place % each]}, environment: prod, lifetime: 90d}}\n"
            for place in range(keys_each)
        )
        (folder / "teams" / f"team-{number}.yaml").write_text(
            f"area: area-{number % 10}\nowner: {people[0]}\nmodels: [{{name: gpt-4o}}, {{name: gpt-4o-mini}}]\n"
            f"members:\n{listed}keys:\n{due}"
        )


def _start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    """The command, in a folder without settings from our environment."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SLUICE")}
    environ["PYTHONPATH"] = str(Path(__file__).parents[2])
    command = [sys.executable, "-m", "extproc.cli", *arguments]
    return subprocess.Popen(command, cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _sluice(folder: Path, *arguments: str) -> str:
    process = _start(folder, *arguments)
    printed, told = process.communicate(timeout=110)
    assert process.returncode == 0, told
    return printed


APPLY = ("apply", "--yes", "--deliver-to", "file:keys")


def test_a_command_that_is_killed_at_any_time_leaves_old_or_new(database: str, tmp_path: Path) -> None:
    _write_company(tmp_path, database, teams=10, users=50, keys_each=30)
    _sluice(tmp_path, "plan")  # the modules are compiled
    started = time.monotonic()
    assert "300 new keys delivered" in _sluice(tmp_path, *APPLY)
    whole = time.monotonic() - started
    seen, share = set(), 0.5  # of that time, until it is killed
    for number in range(3):
        _rename_keys(tmp_path / "teams", number)
        with closing(sql.open_stores(database)) as stores:
            before = stores.directory.revision()
        process = _start(tmp_path, *APPLY)
        time.sleep(whole * share)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        plan = json.loads(_sluice(tmp_path, "plan", "--json"))
        with closing(sql.open_stores(database)) as stores:
            after = stores.directory.revision()
        minted = [step for step in plan["keys"] if step["action"] == "mint"]
        assert (len(minted), after) in ((300, before), (0, before + 1))
        seen.add(len(minted))
        share += 0.2 if minted else -0.2
        _sluice(tmp_path, *APPLY)
        with closing(sql.open_stores(database)) as stores:
            working = set(digests(stores.directory).values())
        assert len(working) == 300
        assert working <= _secrets(tmp_path / "keys")
    assert 300 in seen, "no run was killed before its commit"


def _rename_keys(folder: Path, number: int) -> None:
    """Every key becomes another: all are revoked, and as many minted."""
    for path in folder.glob("*.yaml"):
        path.write_text(re.sub(r"name: .*?key-", f"name: {number}-key-", path.read_text()))


def test_a_company_of_2000_users_200_teams_and_10000_keys_by_one_command(database: str, tmp_path: Path) -> None:
    _write_company(tmp_path, database, teams=200, users=2000, keys_each=50)
    started = time.monotonic()
    printed = _sluice(tmp_path, *APPLY)
    first = time.monotonic() - started
    assert "200 teams to add; 10,000 keys to mint" in printed
    assert "10,000 new keys delivered to file:keys." in printed
    assert len(printed.splitlines()) < 250, "a plan of any size can be read"
    with closing(sql.open_stores(database)) as stores:
        state, working = stores.directory.state(), set(digests(stores.directory).values())
    assert len({member.name for team in state.teams for member in team.members}) == 2000
    assert (len(state.teams), len(state.keys), len(working)) == (200, 10_000, 10_000)
    assert _secrets(tmp_path / "keys") == working
    started = time.monotonic()
    assert _sluice(tmp_path, *APPLY) == "No changes. 200 teams, 2,000 users, 10,000 keys.\n"
    second = time.monotonic() - started
    with closing(sql.open_stores(database)) as stores:
        assert stores.directory.revision() == state.revision
    print(f"first run {first:.1f} s, second {second:.1f} s")
