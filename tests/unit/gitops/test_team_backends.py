"""What teams bring, from the database into the configuration; whatever is wrong with it, the gateway serves."""

import asyncio
import logging
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from extproc.config.byob import OwnBackend, OwnModel, written
from extproc.config.schema import Gateway
from extproc.gitops import team_backends
from extproc.gitops.team_backends import Brought, brought_to
from extproc.stores import snapshot
from extproc.stores.ports import ChangeSet, TeamRecord
from extproc.stores.sql import open_stores, upgrade

Json = dict[str, Any]

PUBLIC, PRIVATE = "93.184.216.34", "10.1.2.3"


class Place:
    """A database, a folder of secrets, and the names that resolve here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = f"sqlite:///{folder}/sluice.db"
        self.environ = {"SLUICE_TEAM_FINANCE_OURS": "secret-of-finance", "SLUICE_TEAM_RETAIL_OURS": "secret-of-retail"}
        self.names: dict[str, Collection[str]] = {}
        upgrade(self.database)
        self.source = Brought(self.database, None, self.environ, self.resolved)

    def resolved(self, host: str) -> Collection[str]:
        if host not in self.names:
            raise OSError("no such name")
        return self.names[host]

    def bring(self, **texts: str) -> None:
        """What each team brings, in the database."""
        records = [TeamRecord(name, "area", "owner", "standard", brought=text) for name, text in texts.items()]
        with closing(open_stores(self.database)) as stores:
            stores.directory.apply(ChangeSet(teams=tuple(records)), stores.directory.revision())

    def gateway(self, **byob: Any) -> Gateway:
        secrets = {"env": "SLUICE_TEAM_{team}_", "files": f"{self.folder}/of/{{team}}"}
        section = {"hosts": ["*.corp.example", PRIVATE], "private": True, "credentials": secrets, **byob}
        return Gateway.model_validate(
            {
                "backends": {"swe": {"dialect": "openai", "url": "https://swe.example"}},
                "models": {"gpt-4o": {"targets": [[{"backend": "swe"}]]}},
                "stores": {"database": self.database},
                "byob": section,
            }
        )

    def merged(self, **byob: Any) -> dict[str, list[str]]:
        """The backends of each team that serve."""
        found = self.source.merged(self.gateway(**byob))
        return {team: list(own.backends) for team, own in found.team_backends.items()}

    def digest(self) -> str:
        return asyncio.run(self.source.digest())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def brings(models: Mapping[str, Json] | None = None, **backends: Json) -> str:
    """In the words of the database; each backend with what differs from the usual."""
    usual: Json = {"dialect": "openai", "url": "https://llm.corp.example/v1"}
    return written(
        {name: OwnBackend.model_validate({**usual, **given}) for name, given in backends.items()},
        {name: OwnModel.model_validate(given) for name, given in (models or {}).items()},
    )


LLAMA: Json = {"llama": {"targets": [[{"backend": "ours"}]]}}


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    with caplog.at_level(logging.WARNING):
        yield lambda: [record.getMessage() for record in caplog.records]


def test_what_is_allowed_serves(place: Place, log: Callable[[], list[str]]) -> None:
    (place.folder / "of/retail").mkdir(parents=True)
    (place.folder / "of/retail/ours").write_text("secret\n")
    place.bring(
        finance=brings(LLAMA, ours={"credential": {"env": "SLUICE_TEAM_FINANCE_OURS"}}),
        retail=brings(LLAMA, ours={"credential": {"file": "ours"}, "cooling": {"open_for": 3}}),
        plain="",
    )
    found = place.source.merged(place.gateway())
    assert list(found.team_backends) == ["finance", "retail"]
    assert list(found.all_backends()) == ["swe", "finance.ours", "retail.ours"]
    one, two = (found.team_backends[team].backends["ours"].credential for team in ("finance", "retail"))
    assert one is not None
    assert two is not None
    assert (one.env, two.file) == ("SLUICE_TEAM_FINANCE_OURS", place.folder / "of/retail/ours")
    assert list(found.team_backends["retail"].models) == ["llama"]
    assert Gateway.model_validate_json(found.model_dump_json()) == found
    assert log() == []


@pytest.mark.parametrize(
    ("given", "byob", "why"),
    [
        ({}, {"hosts": ["other.example"]}, "backends.ours is left out: url: the host llm.corp.example is not among"),
        ({"url": "https://llm.corp.example:8443"}, {}, "url: the port 8443 is not among"),
        ({"url": "http://llm.corp.example:443"}, {"private": False, "hosts": ["*.corp.example"]}, "url: must be https"),
        ({"credential": {"env": "SLUICE_TEAM_FINANCE_NONE"}}, {}, "credential: the environment variable"),
        ({"credential": {"env": "SLUICE_TEAM_RETAIL_OURS"}}, {}, "credential.env: a variable of this team is"),
        ({"credential": {"file": "none"}}, {}, "credential: the file"),
        ({"credential": {"file": "link"}}, {}, "is a link that leads out of the team's folder"),
        ({"credential": {"file": "ring"}}, {}, "ring cannot be found"),
        ({"credential": {"file": "ours"}}, {"credentials": {}}, "`byob.credentials.files` of the gateway is absent"),
        ({"cooling": {"longest_wait": 1}}, {}, "must be at most `longest_wait`"),
    ],
)
def test_what_is_not_allowed_any_more_is_left_out_with_its_models(
    given: Json, byob: Json, why: str, place: Place, log: Callable[[], list[str]]
) -> None:
    folder = place.folder / "of/finance"
    folder.mkdir(parents=True)
    (folder / "ours").write_text("secret")
    (place.folder / "secret").write_text("of the gateway")
    (folder / "link").symlink_to("../../secret")
    (folder / "ring").symlink_to("ring")
    place.bring(finance=brings(LLAMA, ours=given), retail=brings(ours={"url": f"https://{PRIVATE}"}))
    wanted = {"hosts": [*byob.pop("hosts", ["*.corp.example"]), *([PRIVATE] if byob.get("private", True) else [])]}
    kept = place.merged(**wanted, **byob)
    assert kept == ({"retail": ["ours"]} if byob.get("private", True) else {})
    assert why in log()[0]
    assert log()[1] == "team finance: own_models.llama is left out: none of its backends is left"
    assert "secret-of-" not in " ".join(log())


def test_a_link_within_the_folder_is_followed_as_kubernetes_makes_them(place: Place) -> None:
    folder = place.folder / "of/finance"
    (folder / "..2026").mkdir(parents=True)
    (folder / "..2026/ours").write_text("secret")
    (folder / "..data").symlink_to("..2026")
    (folder / "ours").symlink_to("..data/ours")
    place.bring(finance=brings(ours={"credential": {"file": "ours"}}))
    assert place.merged() == {"finance": ["ours"]}


@pytest.mark.parametrize(
    ("addresses", "private", "is_kept"),
    [
        ([PUBLIC], False, True),
        ([PRIVATE], False, False),
        ([PRIVATE], True, True),
        ([PUBLIC, PRIVATE], False, False),
        (["::ffff:127.0.0.1"], False, False),
        (["fe80::1%eth0"], True, False),
        (["169.254.169.254"], True, False),
        (None, False, True),  # it does not resolve: Envoy waits until it does
    ],
)
def test_a_name_must_not_lead_where_no_backend_may_be(
    addresses: Collection[str] | None, private: bool, is_kept: bool, place: Place
) -> None:
    if addresses is not None:
        place.names["llm.corp.example"] = addresses
    place.bring(finance=brings(LLAMA, ours={}))
    assert place.merged(private=private, hosts=["*.corp.example"]) == ({"finance": ["ours"]} if is_kept else {})


def test_a_resolver_that_hangs_holds_nothing_up(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(team_backends, "_PATIENCE", 0.01)
    place.bring(finance=brings(ours={}))
    answered = threading.Event()

    def slow(_: str) -> Collection[str]:
        answered.wait(30)
        return [PRIVATE]

    place.source = Brought(place.database, None, place.environ, slow)
    assert place.merged(private=False, hosts=["*.corp.example"]) == {"finance": ["ours"]}
    answered.set()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "all that it brings is left out: it cannot be read"),
        ("[]", "all that it brings is left out: it cannot be read"),
        ('{"backends": {"ours": {"dialect": "openai"}}}', "backends.ours is left out: url cannot be read"),
        ('{"backends": {"ours": 1}}', "backends.ours is left out: "),
        (brings(ours={}).replace('"ours"', '"OU.RS"'), "backends.OU.RS is left out: "),
        (brings(ours={}).replace('"url"', '"new": 1, "url"'), "backends.ours is left out: new cannot be read"),
    ],
)
def test_a_damaged_entry_costs_nobody_else_anything(
    text: str, why: str, place: Place, log: Callable[[], list[str]]
) -> None:
    place.bring(finance=text, retail=brings(LLAMA, ours={}))
    assert place.merged() == {"retail": ["ours"]}
    assert [line for line in log() if why in line]


def test_a_damaged_model_costs_no_other(place: Place, log: Callable[[], list[str]]) -> None:
    text = brings({**LLAMA, "phi": {"targets": [[{"backend": "ours"}]]}}, ours={})
    place.bring(finance=text.replace('"phi": {', '"phi": {"tokenizer": "/etc/passwd", '))
    assert list(place.source.merged(place.gateway()).team_backends["finance"].models) == ["llama"]
    assert "own_models.phi is left out: tokenizer cannot be read" in log()[0]


def test_a_model_keeps_those_of_its_targets_that_are_left(place: Place) -> None:
    groups = [[{"backend": "ours", "weight": 0}, {"backend": "gone"}], [{"backend": "ours", "model": "deployed"}]]
    place.bring(finance=brings({"llama": {"targets": groups}}, ours={}, gone={"url": "https://else.where"}))
    (group,) = place.source.merged(place.gateway()).team_backends["finance"].models["llama"].targets
    assert [(target.backend, target.model) for target in group] == [("ours", "deployed")]


def test_each_thing_is_told_once_and_again_when_it_comes_back(place: Place, log: Callable[[], list[str]]) -> None:
    bad, good = brings(ours={"url": "https://else.where"}), brings(ours={})
    for text, count in ((bad, 1), (bad, 1), (good, 1), (bad, 2)):
        place.bring(finance=text)
        place.merged()
        assert len(log()) == count


def test_without_the_section_nothing_is_looked_at(place: Place) -> None:
    place.bring(finance=brings(ours={}))
    given = place.gateway().model_copy(update={"byob": None})
    assert place.source.merged(given) is given
    assert place.digest() == ""
    assert not asyncio.run(place.source.has_changed())


def test_the_digest_changes_with_what_teams_bring_and_with_nothing_else(place: Place) -> None:
    place.bring(finance=brings(ours={"credential": {"file": "ours"}}))
    place.merged()
    before = place.digest()
    assert not asyncio.run(place.source.has_changed())
    place.bring(retail="")  # a team that brings nothing
    assert place.digest() == before
    place.bring(finance=brings(ours={"credential": {"file": "ours"}, "region": "eu"}))
    assert place.digest() != before
    assert asyncio.run(place.source.has_changed())
    place.merged()
    before = place.digest()
    (place.folder / "of/finance").mkdir(parents=True)
    (place.folder / "of/finance/ours").write_text("secret")
    assert place.digest() != before
    with closing(open_stores(place.database)) as stores:
        stores.directory.apply(ChangeSet(teams_removed=("finance",)), stores.directory.revision())
    assert place.merged() == {}


def test_without_the_database_what_is_known_stays(place: Place) -> None:
    place.bring(finance=brings(ours={}))
    assert place.merged() == {"finance": ["ours"]}
    before = place.digest()
    (place.folder / "sluice.db").rename(place.folder / "away")
    assert place.digest() == before
    assert place.merged() == {"finance": ["ours"]}
    (place.folder / "away").rename(place.folder / "sluice.db")
    assert place.digest() == before


@pytest.mark.parametrize("allowed", [True, False])
def test_a_start_without_the_database_takes_the_snapshot_where_that_is_allowed(allowed: bool, tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.bring(finance=brings(ours={}), plain="")
    with closing(open_stores(place.database)) as stores:
        snapshot.save(tmp_path / snapshot.FILE, stores.directory.changes(0), lambda: None)
    (tmp_path / "sluice.db").unlink()
    outage = {"store_outage": {"snapshot": allowed}}
    given = Gateway.model_validate({**place.gateway().model_dump(), "state_dir": tmp_path, "identity": outage})
    found = brought_to(given, {}).merged(given)
    assert list(found.team_backends) == (["finance"] if allowed else [])
