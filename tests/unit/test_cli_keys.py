"""`sluice keys`, as a person and as a script use it."""

import json
import os
import pty
import re
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from extproc import keys
from extproc.cli import app
from extproc.stores import sql

GATEWAY = """\
stores: {database: "sqlite:///keys.db"}
backends: {swe: {dialect: openai, url: "https://swe.example"}}
models:
  gpt-4o: {aliases: [big, bigger], targets: [[{backend: swe}]]}
  gpt-4o-mini: {targets: [[{backend: swe}]]}
"""
DATABASE = "sqlite:///keys.db"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with a gateway.yaml and without settings from the environment."""
    for name in [name for name in os.environ if name.startswith("SLUICE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gateway.yaml").write_text(GATEWAY)
    return tmp_path


def _sluice(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["keys", *arguments], env={"COLUMNS": "80", "TERM": "dumb"})
    assert result.exit_code == code, result.output
    return result


def _create(*arguments: str) -> str:
    return _sluice("create", *arguments).stdout.strip()


def _listed(*arguments: str) -> list[dict[str, object]]:
    listed: list[dict[str, object]] = json.loads(_sluice("list", "--json", *arguments).stdout)
    return listed


class TestCreate:
    def test_the_key_alone_goes_to_standard_output(self) -> None:
        result = _sluice("create", "my-app")
        assert keys.is_well_formed(result.stdout.removesuffix("\n"))
        assert result.stderr == "Keep it now: it is not stored and cannot be shown again.\n"

    def test_only_its_digest_is_stored(self, folder: Path) -> None:
        key = _create("my-app")
        with closing(sql.open_stores(DATABASE)) as stores:
            snapshot = stores.keys.snapshot()
        assert [(digest, record.name) for digest, record in snapshot.items()] == [(keys.digest(key), "my-app")]
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


class TestList:
    def test_keys_in_force_and_with_all_the_others_too(self) -> None:
        for name in ("kept", "revoked"):
            _create(name)
        with closing(sql.open_stores(DATABASE)) as stores:
            stores.keys.create("expired", "digest", "hint", datetime(2020, 1, 2, 3, 4, tzinfo=UTC), ())
        _sluice("revoke", "revoked")
        assert [key["name"] for key in _listed()] == ["kept"]
        assert {key["name"]: key["state"] for key in _listed("--all")} == {
            "kept": "in force",
            "revoked": "revoked",
            "expired": "expired",
        }

    def test_the_table(self) -> None:
        hints = [keys.hint(_create(*arguments)) for arguments in (["app"], ["ci", "--model", "big"])]
        with closing(sql.open_stores(DATABASE)) as stores:
            stores.keys.create("old", "digest", "hint", datetime(2020, 1, 2, 3, 4, tzinfo=UTC), ())
        table = [re.split(r" {2,}", line.rstrip()) for line in _sluice("list", "--all").stdout.splitlines()]
        assert table == [
            ["name", "key", "state", "expires (UTC)", "models"],
            ["app", hints[0], "in force", "never", "all"],
            ["ci", hints[1], "in force", "never", "gpt-4o"],
            ["old", "hint", "expired", "2020-01-02 03:04", "none"],
        ]

    @pytest.mark.parametrize("name", ["[/]", "[bold]x[/bold]", ":smile:", "\\[", "鍵" * 40, "a" * 100])
    def test_through_a_pipe_a_key_is_one_line_of_plain_text(self, name: str) -> None:
        _create(name)
        header, row = _sluice("list").stdout.splitlines()
        assert re.split(r" {2,}", row)[0] == name
        assert "\x1b" not in header + row

    def test_on_a_terminal_it_keeps_to_its_width(self) -> None:
        _create("a-team-that-likes-very-long-names-with-many-hyphens", "--model", "gpt-4o", "--model", "gpt-4o-mini")
        _create("short")
        text = _on_a_terminal("keys", "list", "--all")
        assert "\x1b[" in text  # there it is coloured
        lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in text.splitlines()]
        assert [line for line in lines if len(line) > 80] == []
        assert any(re.fullmatch(r"short +sk-sluice-…\w{4} +in force +never +all", line) for line in lines)

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
        assert _sluice("revoke", str(mine[by])).stdout == f"revoked my-app ({mine['hint']})\n"
        assert [key["name"] for key in _listed()] == ["other"]

    def test_as_json(self) -> None:
        _create("my-app")
        revoked = json.loads(_sluice("revoke", "my-app", "--json").stdout)
        assert revoked["state"] == "revoked"
        assert [revoked] == _listed("--all")

    def test_an_unknown_key(self) -> None:
        assert _sluice("revoke", "nobody", code=1).stderr == (
            "No key in force, or more than one, goes by 'nobody'. `sluice keys list --json` shows their ids.\n"
        )


@pytest.mark.parametrize("verb", ["create", "revoke"])
def test_a_key_where_a_name_belongs_is_neither_stored_nor_printed(verb: str) -> None:
    key = _create("my-app")
    result = _sluice(verb, key, code=2)
    assert "that is a key" in result.stderr
    assert key not in result.output
    assert [found["name"] for found in _listed("--all")] == ["my-app"]


class TestConfiguration:
    def test_a_named_file_wins_over_gateway_yaml(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("option", "variable"):
            (folder / f"{name}.yaml").write_text(GATEWAY.replace("keys.db", f"{name}.db"))
        _create("a", "--config", "option.yaml")
        monkeypatch.setenv("SLUICE_CONFIG", "variable.yaml")
        _create("b")
        assert {found.name for found in folder.glob("*.db")} == {"option.db", "variable.db"}

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

    @pytest.mark.parametrize("verb", [["create", "app"], ["list"], ["revoke", "app"]])
    def test_a_database_that_cannot_be_used(self, folder: Path, verb: list[str]) -> None:
        (folder / "keys.db").mkdir()
        assert _sluice(*verb, code=1).stderr == (
            "the database cannot be opened: Is a directory. Check stores.database.\n"
        )


@pytest.mark.parametrize("verb", ["create", "list", "revoke"])
def test_help_shows_examples(verb: str) -> None:
    shown = _sluice(verb, "--help").stdout
    assert "Examples" in shown
    assert f"sluice keys {verb}" in shown


def _on_a_terminal(*arguments: str) -> str:
    """What a process prints on a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    environ = {**os.environ, "COLUMNS": "80", "TERM": "xterm", "PYTHONPATH": str(Path(__file__).parents[2])}
    environ.pop("NO_COLOR", None)
    child = subprocess.Popen([sys.executable, "-m", "extproc.cli", *arguments], stdout=theirs, env=environ)
    os.close(theirs)
    printed = b""
    try:
        while chunk := os.read(ours, 4096):
            printed += chunk
    except OSError:
        pass  # the terminal of a process that has ended
    finally:
        os.close(ours)
    assert child.wait() == 0
    return printed.decode()
