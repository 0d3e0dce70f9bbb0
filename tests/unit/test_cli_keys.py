"""`sluice keys`, as a person and as a script use it."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from extproc.cli import app
from extproc.identity import keys
from extproc.limits.limit import Limit, Measure, Priority, Scope
from extproc.stores import sql
from extproc.stores.memory import utc_now
from extproc.stores.ports import ChangeSet, KeyChange, KeyRecord, KeySpec, Member, MemberKind, MintedKey, StopScope
from extproc.stores.sql.directory import SqlDirectory
from extproc.stores.sql.engine import connect
from extproc.surfaces import ALLOWABLE
from tests.support.stores import team
from tests.support.terminal import on_a_terminal

GATEWAY = """\
stores: {database: "sqlite:///keys.db"}
backends: {swe: {dialect: openai, url: "https://swe.example"}}
models:
  gpt-4o: {aliases: [big, bigger], targets: [[{backend: swe}]]}
  gpt-4o-mini: {targets: [[{backend: swe}]]}
"""
DATABASE = "sqlite:///keys.db"
KEEP_IT = "Keep it now: it is not stored and cannot be shown again. It works within two seconds.\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with a gateway.yaml, an empty database and without settings from the environment."""
    for name in [name for name in os.environ if name.startswith("SLUICE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gateway.yaml").write_text(GATEWAY)
    sql.upgrade(DATABASE)
    return tmp_path


def _sluice(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["keys", *arguments], env={"COLUMNS": "80", "TERM": "dumb"})
    assert result.exit_code == code, result.output
    return result


@contextmanager
def _directory(now: datetime | None = None) -> Iterator[SqlDirectory]:
    """The directory of the configured database, at another time where that is wanted."""
    sql.upgrade(DATABASE)
    engine = connect(DATABASE)
    yield SqlDirectory(engine, utc_now if now is None else lambda: now)
    engine.dispose()


def _with_team() -> None:
    """A team with people in it, as `sluice apply` makes one."""
    members = (
        Member(MemberKind.USER, "ann@example.com", "developer"),
        Member(MemberKind.SERVICE_ACCOUNT, "checkout", "service_account"),
    )
    with _directory() as store:
        store.apply(ChangeSet(teams=(team("payments", members=members),)), store.revision())


def _create_expired(name: str) -> None:
    with _directory(datetime(2020, 1, 2, 2, 4, tzinfo=UTC)) as store:
        store.create(MintedKey(KeySpec(name, lifetime=timedelta(hours=1), models=()), "00" * 32, "hint"))


def _records() -> dict[str, KeyRecord]:
    with _directory() as store:
        return {key.spec.name: key for key in store.state().keys}


def _create(*arguments: str) -> str:
    return _sluice("create", *arguments).stdout.strip()


def _listed(*arguments: str) -> list[dict[str, object]]:
    listed: list[dict[str, object]] = json.loads(_sluice("list", "--json", *arguments).stdout)
    return listed


class TestCreate:
    def test_the_key_alone_goes_to_standard_output(self) -> None:
        result = _sluice("create", "my-app")
        assert keys.is_well_formed(result.stdout.removesuffix("\n"))
        assert result.stderr == KEEP_IT

    def test_only_its_digest_is_stored(self, folder: Path) -> None:
        key = _create("my-app")
        with _directory() as store:
            (change,) = store.changes(0)
        assert isinstance(change, KeyChange)
        assert (change.digest, change.record.spec.name) == (keys.digest(key), "my-app")
        secret = key.removeprefix(keys.PREFIX).encode()
        assert [found.name for found in folder.iterdir() if secret in found.read_bytes()] == []

    def test_every_key_is_another(self) -> None:
        assert _create("one") != _create("two")

    def test_as_json(self) -> None:
        made = json.loads(_create("ci", "--json", "--model", "gpt-4o"))
        assert keys.is_well_formed(made.pop("key"))
        assert [made] == _listed()
        assert (made["name"], made["state"], made["models"], made["revoked_at"]) == ("ci", "in force", ["gpt-4o"], None)

    def test_a_model_is_kept_by_its_public_name(self) -> None:
        _create("ci", "--model", "big", "--model", "gpt-4o-mini", "--model", "bigger")
        assert _listed()[0]["models"] == ["gpt-4o", "gpt-4o-mini"]

    def test_a_model_that_is_not_configured_makes_no_key(self) -> None:
        result = _sluice("create", "ci", "--model", "gpt-4o", "--model", "gpt-5", code=1)
        assert result.stderr == "There is no model 'gpt-5' in the configuration. There are: gpt-4o, gpt-4o-mini.\n"
        assert result.stdout == ""
        assert _listed() == []

    @pytest.mark.parametrize(("given", "life"), [("30d", timedelta(days=30)), ("12h", timedelta(hours=12))])
    def test_expiry(self, given: str, life: timedelta) -> None:
        made = json.loads(_create("ci", "--json", "--expires", given))
        assert datetime.fromisoformat(made["expires_at"]).utcoffset() == timedelta(0)
        # the two times are taken one after the other, within one run
        rest = datetime.fromisoformat(made["expires_at"]) - datetime.fromisoformat(made["created_at"]) - life
        assert abs(rest) < timedelta(minutes=5)

    @pytest.mark.parametrize("given", ["soon", "", "0d", "-1d", "1.5d", "30", "d", "30D", "٣d", "30d\n", "999999d"])
    def test_what_is_no_expiry(self, given: str) -> None:
        result = _sluice("create", "ci", "--expires", given, code=2)
        assert "write it like 30d or 12h" in result.stderr
        assert _listed("--all") == []

    @pytest.mark.parametrize("name", ["", " ", " app", "app ", "a\nb", "a\tb", "\x1b[31mred", "a\x00b", "a" * 101])
    def test_what_is_no_name(self, name: str) -> None:
        assert "printable" in _sluice("create", name, code=2).stderr
        assert _listed("--all") == []

    def test_a_taken_name(self) -> None:
        _create("my-app")
        result = _sluice("create", "my-app", code=1)
        assert result.stdout == ""
        assert result.stderr == ("There is a key named 'my-app' already. Revoke it first, or choose another name.\n")


class TestLimits:
    def test_a_key_with_limits_and_a_priority(self) -> None:
        given = ("tokens=100000/minute", "concurrent=5", "money=0.1/month", "input_tokens=9/90s")
        options = [option for limit in given for option in ("--limit", limit)]
        made = json.loads(_create("ci", "--json", "--priority", "low", *options))
        assert made["limits"] == {
            "concurrent": "concurrent 5 by key",
            "input-tokens-per-90s": "input_tokens 9 per sliding 90s by key",
            "money-per-month": "money 0.1 per month by key",
            "tokens-per-minute": "tokens 100,000 per minute by key",
        }
        assert (made["priority"], _listed()[0]["limits"]) == ("low", made["limits"])
        spec = _records()["ci"].spec
        assert [limit.owner for limit in spec.limits] == [""] * 4
        assert (spec.limits[0], spec.priority) == (
            Limit("concurrent", Measure.CONCURRENT, 5, scope=(Scope.KEY,)),
            Priority.LOW,
        )

    def test_without_any(self) -> None:
        _create("app")
        assert (_listed()[0]["limits"], _listed()[0]["priority"]) == ({}, "high")

    def test_a_successor_has_those_of_the_key_before(self) -> None:
        _create("ci", "--limit", "concurrent=5", "--priority", "low")
        made = json.loads(_sluice("rotate", "ci", "--json").stdout)
        assert (made["limits"], made["priority"]) == ({"concurrent": "concurrent 5 by key"}, "low")

    def test_a_column_of_the_table_where_a_key_has_any(self) -> None:
        _create("app")
        assert "limits" not in _sluice("list").stdout
        _create("ci", "--limit", "concurrent=5", "--limit", "tokens=9/day", "--priority", "low")
        lines = [re.split(r" {2,}", line.rstrip()) for line in _sluice("list").stdout.splitlines()]
        assert [line[-1] for line in lines] == ["limits", "all", "concurrent=5, tokens=9/day, low priority"]

    @pytest.mark.parametrize(
        ("given", "told"),
        [
            ("tokens", "write it like tokens=100000/minute, concurrent=5 or money=20/month"),
            ("joules=5/minute", "of requests, tokens, input_tokens, output_tokens, concurrent, money"),
            ("tokens=-5/minute", "write it like"),
            ("tokens=5", "give `per`: second, minute, hour, day, month, or a duration like 90s"),
            ("concurrent=5/minute", "it takes no `per`"),
            ("tokens=5.5/minute", "tokens: must be a whole number"),
            ("tokens=0/minute", "tokens: must be at least 1"),
            ("money=0.0000000001/month", "at most 9 decimal places"),
            ("tokens=5/fortnight", "per: write second, minute, hour, day, month"),
            ("tokens=٣/minute", "write it like"),
        ],
    )
    def test_what_is_no_limit(self, given: str, told: str) -> None:
        said = re.sub(r"[\s│]+", " ", _sluice("create", "ci", "--limit", given, code=2).stderr)
        assert told in said
        assert _listed("--all") == []

    def test_two_of_a_name(self) -> None:
        result = _sluice("create", "ci", "--limit", "tokens=5/minute", "--limit", "tokens=6/minute", code=2)
        assert "there are two of tokens-per-minute" in result.stderr

    def test_where_each_worker_would_count_by_itself(self, folder: Path) -> None:
        (folder / "gateway.yaml").write_text(f"workers: 2\n{GATEWAY}")
        told = _sluice("create", "ci", "--limit", "concurrent=5", code=1).stderr
        assert told.startswith("--limit: each of the 2 workers would count by itself")
        assert _listed("--all") == []
        _create("ci")


class TestList:
    def test_keys_in_force_and_with_all_the_others_too(self) -> None:
        for name in ("kept", "revoked"):
            _create(name)
        _create_expired("expired")
        _sluice("revoke", "revoked")
        assert [key["name"] for key in _listed()] == ["kept"]
        assert {key["name"]: key["state"] for key in _listed("--all")} == {
            "kept": "in force",
            "revoked": "revoked",
            "expired": "expired",
        }

    def test_the_table(self) -> None:
        _with_team()
        _create_expired("old")
        hints = [keys.hint(_create(*arguments)) for arguments in (["app"], ["ci", "--model", "big"])]
        hints.append(keys.hint(_create("bot", "--team", "payments", "--service-account", "checkout")))
        with _directory() as store:
            store.used({_records()["app"].id: datetime(2026, 3, 4, 23, 59, tzinfo=UTC)})
        table = [re.split(r" {2,}", line.rstrip()) for line in _sluice("list", "--all").stdout.splitlines()]
        assert table == [
            ["name", "key", "state", "expires (UTC)", "last used", "for", "models"],
            ["old", "hint", "expired", "2020-01-02 03:04", "never", "none"],
            ["app", hints[0], "in force", "never", "2026-03-04", "all"],
            ["ci", hints[1], "in force", "never", "never", "gpt-4o"],
            ["payments/bot", hints[2], "in force", "never", "never", "checkout", "all"],
        ]

    def test_of_one_team(self) -> None:
        _with_team()
        _create("bot", "--team", "payments")
        _create("app")
        assert [key["name"] for key in _listed("--team", "payments")] == ["bot"]
        assert _listed("--team", "nobody") == []

    @pytest.mark.parametrize("name", ["[/]", "[bold]x[/bold]", ":smile:", "\\[", "鍵" * 40, "a" * 100])
    def test_through_a_pipe_a_key_is_one_line_of_plain_text(self, name: str) -> None:
        _create(name)
        header, row = _sluice("list").stdout.splitlines()
        assert re.split(r" {2,}", row)[0] == name
        assert "\x1b" not in header + row

    @pytest.mark.parametrize(
        ("width", "rest"), [(80, "in force +never +never"), (120, "in force +never +never +all"), (200, ".* +all")]
    )
    def test_on_a_terminal_it_keeps_to_its_width(self, width: int, rest: str) -> None:
        _create("a-team-that-likes-very-long-names-with-many-hyphens", "--model", "gpt-4o", "--model", "gpt-4o-mini")
        _create("short")
        text = on_a_terminal(width, "keys", "list", "--all")
        assert "\x1b[" in text  # there it is coloured
        lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in text.splitlines()]
        assert [line for line in lines if len(line) > width] == []
        assert any(re.fullmatch(rf"short +sk-sluice-…\w{{4}} +{rest}", line) for line in lines)
        assert len(lines) <= 5, "nothing is folded to shreds"

    def test_without_a_database_it_makes_none(self, folder: Path) -> None:
        (folder / "keys.db").unlink()
        assert "the database is missing" in _sluice("list", code=1).stderr
        assert not (folder / "keys.db").exists()

    def test_no_keys(self) -> None:
        result = _sluice("list")
        assert result.stdout == ""
        assert result.stderr == "No keys. Make one: sluice keys create my-app\n"

    def test_it_never_shows_a_secret(self) -> None:
        key = _create("my-app")
        shown = _sluice("list", "--all").output + _sluice("list", "--all", "--json").output
        assert keys.digest(key) not in shown
        assert key.removeprefix(keys.PREFIX)[:-4] not in shown


class TestRevoke:
    @pytest.mark.parametrize("by", ["name", "id", "hint"])
    def test_by(self, by: str) -> None:
        _create("my-app")
        _create("other")
        mine = next(key for key in _listed() if key["name"] == "my-app")
        assert _sluice("revoke", str(mine[by])).stdout == f"revoked: my-app ({mine['hint']})\n"
        assert [key["name"] for key in _listed()] == ["other"]

    def test_as_json(self) -> None:
        _create("my-app")
        revoked = json.loads(_sluice("revoke", "my-app", "--json").stdout)
        assert [key["state"] for key in revoked] == ["revoked"]
        assert revoked == _listed("--all")

    @pytest.mark.parametrize(
        ("verb", "done", "state"), [("revoke", "revoked", "revoked"), ("suspend", "suspended", "suspended")]
    )
    def test_a_name_takes_the_key_in_the_overlap_with_it_and_says_so(self, verb: str, done: str, state: str) -> None:
        old = keys.hint(_create("my-app"))
        new = keys.hint(_sluice("rotate", "my-app", "--overlap", "7d").stdout.strip())
        assert _sluice(verb, "my-app").stdout == f"{done}: my-app ({old})\n{done}: my-app ({new})\n"
        assert [key["state"] for key in _listed("--all")] == [state, state]

    def test_a_hint_takes_that_one(self) -> None:
        old = keys.hint(_create("my-app"))
        _sluice("rotate", "my-app")
        assert _sluice("revoke", old).stdout == f"revoked: my-app ({old})\n"
        assert [key["state"] for key in _listed("--all")] == ["revoked", "in force"]


class TestCreateInATeam:
    def test_with_all_that_can_be_said(self) -> None:
        _with_team()
        options = ("--team", "payments", "--user", "Ann@Example.com", "--environment", "prod", "--expires", "90d")
        limits = ("--surface", "chat", "--surface", "embeddings", "--surface", "chat", "--model", "big")
        ranges = ("--ip-range", "10.1.0.0/16", "--ip-range", "2001:DB8::/32", "--ip-range", "10.1.0.0/16")
        made = json.loads(_create("ci", "--json", *options, *limits, *ranges))
        del made["key"]
        assert [made] == _listed()
        assert {name: made[name] for name in ("team", "user", "environment", "models", "surfaces", "ip_ranges")} == {
            "team": "payments",
            "user": "ann@example.com",
            "environment": "prod",
            "models": ["gpt-4o"],
            "surfaces": ["chat", "embeddings"],
            "ip_ranges": ["10.1.0.0/16", "2001:db8::/32"],
        }
        assert _records()["ci"].spec == KeySpec(
            name="ci",
            team="payments",
            user="ann@example.com",
            environment="prod",
            lifetime=timedelta(days=90),
            models=("gpt-4o",),
            surfaces=("chat", "embeddings"),
            ip_ranges=("10.1.0.0/16", "2001:db8::/32"),
        )

    def test_a_single_address_is_a_range(self) -> None:
        _create("ci", "--ip-range", "192.0.2.7", "--ip-range", "::1")
        assert _listed()[0]["ip_ranges"] == ["192.0.2.7/32", "::1/128"]

    @pytest.mark.parametrize("given", ["", "10.1.2.3/16", "10.0.0.0/33", "localhost", "1.2.3", "10.0.0.0-10.0.0.9"])
    def test_what_is_no_range(self, given: str) -> None:
        assert "write addresses or ranges" in _sluice("create", "ci", "--ip-range", given, code=2).stderr
        assert _listed("--all") == []

    @pytest.mark.parametrize("given", ["", "Chat", "everything", "chat,embeddings"])
    def test_what_is_no_surface(self, given: str) -> None:
        shown = _flat(_sluice("create", "ci", "--surface", given, code=2).stderr)
        assert f"{given!r} is none of " in shown
        assert all(name in shown for name in ALLOWABLE)
        assert _listed("--all") == []

    def test_a_team_that_is_not_there(self) -> None:
        for owner in ((), ("--user", "ann@example.com")):
            assert _sluice("create", "ci", "--team", "nobody", *owner, code=1).stderr == (
                "There is no team 'nobody'. Teams come from team files, by `sluice apply`.\n"
            )

    def test_a_name_that_is_taken_there(self) -> None:
        _with_team()
        _create("ci")
        _create("ci", "--team", "payments")
        assert _sluice("create", "ci", "--team", "payments", code=1).stderr == (
            "There is a key named 'ci' in the team 'payments' already. Revoke it first, or choose another name.\n"
        )

    @pytest.mark.parametrize(
        ("owner", "words"),
        [
            (("--user", "bob@example.com"), "The team 'payments' has no user 'bob@example.com'."),
            (("--user", "checkout"), "The team 'payments' has no user 'checkout'."),
            (("--service-account", "ann@example.com"), "The team 'payments' has no service account 'ann@example.com'."),
            (("--service-account", "Checkout"), "The team 'payments' has no service account 'Checkout'."),
        ],
    )
    def test_somebody_who_is_not_in_it(self, owner: tuple[str, str], words: str) -> None:
        _with_team()
        result = _sluice("create", "ci", "--team", "payments", *owner, code=1)
        assert result.stderr == f"{words} Its file says who is in it.\n"
        assert _listed("--all") == []

    def test_somebody_without_a_team(self) -> None:
        assert "name the team, too" in _sluice("create", "ci", "--user", "ann@example.com", code=2).stderr

    def test_two_owners(self) -> None:
        both = ("--user", "ann@example.com", "--service-account", "checkout")
        result = _sluice("create", "ci", "--team", "payments", *both, code=2)
        assert "a key stands for one of them" in result.stderr

    @pytest.mark.parametrize(
        ("option", "longest"), [("--team", 63), ("--user", 320), ("--service-account", 200), ("--environment", 63)]
    )
    def test_what_the_database_could_not_hold_or_a_table_not_show(self, option: str, longest: int) -> None:
        for given in ("", " ", "a\nb", "\x1b[31mred", "a" * (longest + 1)):
            shown = _flat(_sluice("create", "ci", option, given, code=2).stderr)
            assert f"{option}: 1 to {longest} printable characters" in shown
        assert _listed("--all") == []


class TestRotate:
    def test_the_successor_is_printed_once_and_the_old_key_ends(self) -> None:
        old = _create("my-app", "--expires", "90d", "--model", "gpt-4o")
        result = _sluice("rotate", "my-app", "--overlap", "7d")
        new = result.stdout.removesuffix("\n")
        assert keys.is_well_formed(new)
        assert new != old
        first, second = _listed()
        assert (first["state"], first["hint"]) == ("ending", keys.hint(old))
        assert (second["state"], second["hint"], second["models"]) == ("in force", keys.hint(new), ["gpt-4o"])
        end = datetime.fromisoformat(str(first["expires_at"]))
        assert abs(end - datetime.now(UTC) - timedelta(days=7)) < timedelta(minutes=5)
        assert result.stderr == (
            KEEP_IT + f"The old key {keys.hint(old)} works until {end.strftime('%Y-%m-%d %H:%M')} UTC.\n"
        )

    def test_a_day_is_the_default(self) -> None:
        _create("my-app")
        _sluice("rotate", "my-app")
        end = datetime.fromisoformat(str(_listed()[0]["expires_at"]))
        assert abs(end - datetime.now(UTC) - timedelta(hours=24)) < timedelta(minutes=5)

    def test_as_json(self) -> None:
        _create("my-app")
        made = json.loads(_sluice("rotate", "my-app", "--json").stdout)
        assert keys.is_well_formed(made.pop("key"))
        old = made.pop("replaces")
        assert [old, made] == _listed()

    @pytest.mark.parametrize("given", ["", "0h", "0d", "-1d", "7", "soon", "1w"])
    def test_what_is_no_overlap(self, given: str) -> None:
        _create("my-app")
        assert "write it like 30d or 12h" in _sluice("rotate", "my-app", "--overlap", given, code=2).stderr
        assert len(_listed("--all")) == 1

    def test_a_key_that_is_not_in_force(self) -> None:
        for name in ("held", "old"):
            _create(name)
        _sluice("suspend", "held")
        old = str(_listed()[1]["id"])
        _sluice("rotate", old)
        for which in ("nobody", "held", old):
            assert _sluice("rotate", which, code=1).stderr == (
                f"No key in force, or more than one, goes by {which!r}, or it has a successor already.\n"
            )

    @pytest.mark.parametrize("rotations", [0, 1])
    def test_a_key_under_an_emergency_stop_of_its_line(self, rotations: int) -> None:
        """Its successor would be stopped too, and whoever is given it would not know why."""
        _create("leaked")
        _create("other")
        for _ in range(rotations):
            _sluice("rotate", "leaked")
        with _directory() as store:
            store.stop(StopScope.KEY, store.state().keys[0].lineage, "")
        result = _sluice("rotate", "leaked", code=1)
        assert result.stdout == ""
        assert result.stderr == (
            "An emergency stop is on 'leaked', and would be on its successor. "
            "Revoke it and create another, or lift the stop first.\n"
        )
        assert len(_listed("--all")) == 2 + rotations
        _sluice("rotate", "other")


class TestSuspendAndResume:
    def test_there_and_back(self) -> None:
        hint = keys.hint(_create("my-app"))
        assert _sluice("suspend", "my-app").stdout == f"suspended: my-app ({hint})\n"
        assert _listed()[0]["state"] == "suspended"
        assert _sluice("resume", hint).stdout == f"in force: my-app ({hint})\n"
        assert [(key["state"], key["suspended_at"]) for key in _listed()] == [("in force", None)]

    @pytest.mark.parametrize(("verb", "state"), [("suspend", "suspended"), ("resume", "in force")])
    def test_as_json(self, verb: str, state: str) -> None:
        _create("my-app")
        changed = json.loads(_sluice(verb, "my-app", "--json").stdout)
        assert [key["state"] for key in changed] == [state]
        assert changed == _listed()

    @pytest.mark.parametrize("verb", ["suspend", "resume", "revoke"])
    def test_an_unknown_key(self, verb: str) -> None:
        assert _sluice(verb, "nobody", code=1).stderr == (
            "No key in force, or more than one, goes by 'nobody'. `sluice keys list --json` shows their ids.\n"
        )

    def test_of_two_the_one_whose_team_is_named(self) -> None:
        _with_team()
        _create("ci")
        hint = keys.hint(_create("ci", "--team", "payments"))
        _sluice("suspend", "ci", code=1)
        assert _sluice("suspend", "payments/ci").stdout == f"suspended: payments/ci ({hint})\n"


KEY = keys.mint(b"k" * 32)


@pytest.mark.parametrize(
    "arguments",
    [
        ["create", KEY],
        ["create", f"key {KEY}"],
        ["create", KEY[:20]],
        *(["create", "app", option, KEY] for option in ("--team", "--user", "--service-account", "--environment")),
        *(["create", "app", option, KEY] for option in ("--model", "--surface", "--ip-range", "--expires")),
        *(["create", "app", option, KEY] for option in ("--limit", "--priority")),
        ["create", "app", "--limit", f"tokens={KEY}/minute"],
        ["create", "app", "--limit", f"tokens=5/{KEY}"],
        *([verb, KEY] for verb in ("revoke", "rotate", "suspend", "resume")),
        ["rotate", "my-app", "--overlap", KEY],
    ],
)
def test_a_key_where_something_else_belongs_is_neither_stored_nor_printed(arguments: list[str]) -> None:
    _create("my-app")
    result = _sluice(*arguments, code=2)
    assert KEY[10:18] not in result.output
    assert [found["name"] for found in _listed("--all")] == ["my-app"]


@pytest.mark.parametrize("verb", ["revoke", "rotate", "suspend", "resume"])
@pytest.mark.parametrize("which", ["", " ", "a\nb", "\udcff", "a\x00b", "a" * 401])
def test_what_cannot_name_a_key(verb: str, which: str) -> None:
    assert "printable" in _sluice(verb, which, code=2).stderr


def _flat(text: str) -> str:
    """What a box says, without its frame and its line ends."""
    return re.sub(r"[\s│]+", " ", text)


class TestConfiguration:
    def test_a_named_file_wins_over_gateway_yaml(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("option", "variable"):
            (folder / f"{name}.yaml").write_text(GATEWAY.replace("keys.db", f"{name}.db"))
        _create("a", "--config", "option.yaml")
        monkeypatch.setenv("SLUICE_CONFIG", "variable.yaml")
        _create("b")
        assert {found.name for found in folder.glob("*.db")} == {"keys.db", "option.db", "variable.db"}
        assert not _records(), "of the configuration that was not meant"

    def test_the_environment_alone_will_do(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (folder / "gateway.yaml").unlink()
        monkeypatch.setenv("SLUICE__STORES__DATABASE", "sqlite:///state/sluice.db")
        monkeypatch.setenv("SLUICE__BACKENDS", '{swe: {dialect: openai, url: "https://swe.example"}}')
        monkeypatch.setenv("SLUICE__MODELS", "{gpt-4o: {targets: [[{backend: swe}]]}}")
        _create("my-app")
        assert [key["name"] for key in _listed()] == ["my-app"]
        assert (folder / "state" / "sluice.db").exists()

    def test_a_mistake_in_it_is_told(self, folder: Path) -> None:
        (folder / "gateway.yaml").write_text(f"{GATEWAY}workers: 0\n")
        assert _sluice("list", code=1).stderr == "gateway.yaml:6: workers: must be at least 1\n"

    def test_a_file_that_is_not_there(self) -> None:
        assert _sluice("list", "--config", "no.yaml", code=1).stderr == (
            "no.yaml: cannot be read (No such file or directory)\n"
        )

    @pytest.mark.parametrize("verb", [["create", "app"], ["list"], ["revoke", "app"], ["rotate", "app"]])
    def test_a_database_that_cannot_be_used(self, folder: Path, verb: list[str]) -> None:
        (folder / "keys.db").unlink()
        (folder / "keys.db").mkdir()
        assert _sluice(*verb, code=1).stderr == (
            "the database cannot be opened: Is a directory. Check stores.database.\n"
        )


@pytest.mark.parametrize("verb", ["create", "list", "rotate", "suspend", "resume", "revoke"])
def test_help_shows_examples(verb: str) -> None:
    shown = _sluice(verb, "--help").stdout
    assert "Examples" in shown
    assert f"sluice keys {verb}" in shown
