"""How stores are opened whose password does not stand in their URL."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from extproc import password_files
from extproc.config.schema import Gateway
from extproc.secrets.named import tokens_of

REDIS = "rediss://object-id@cache.example:10000/0"
POSTGRES = "postgresql+psycopg://gateway@db.example:5432/sluice?sslmode=verify-full"


def gateway(**stores: Any) -> Gateway:
    return Gateway.model_validate(
        {
            "state_dir": "/run/sluice",
            "stores": stores,
            "backends": {"a": {"dialect": "openai", "url": "http://a.example"}},
            "models": {"m": {"targets": [[{"backend": "a"}]]}},
        }
    )


def problem(**stores: Any) -> str:
    with pytest.raises(ValidationError) as refused:
        gateway(**stores)
    return str(refused.value)


def test_the_url_of_a_store_names_the_file_that_was_given() -> None:
    stores = gateway(counters="redis://user@cache.example", counters_credential={"file": "/run/secrets/redis"}).stores
    assert password_files.taken(stores.counters) == ("redis://user@cache.example", Path("/run/secrets/redis"))
    assert password_files.taken(stores.answers_at) == password_files.taken(stores.counters)
    assert stores.database == "sqlite:///var/sluice.db"


def test_tokens_are_in_a_folder_of_their_own() -> None:
    made = gateway(
        counters=REDIS,
        counters_credential={"entra": {}},
        database=POSTGRES,
        database_credential={"entra": {"client_id": "one"}},
        answers=REDIS,
        answers_credential={"entra": {}},
    )
    assert password_files.taken(made.stores.counters) == (REDIS, Path("/run/sluice/tokens/counters"))
    assert password_files.taken(made.stores.answers_at) == (REDIS, Path("/run/sluice/tokens/answers"))
    assert password_files.taken(made.stores.database) == (POSTGRES, Path("/run/sluice/tokens/database"))
    kept = {one.owner: one for one in tokens_of(made)}
    assert set(kept) == {"stores.database", "stores.counters", "stores.answers"}
    scopes = {owner: one.credential.entra.scope for owner, one in kept.items() if one.credential.entra}
    assert scopes == {
        "stores.database": "https://ossrdbms-aad.database.windows.net/.default",
        "stores.counters": "https://redis.azure.com/.default",
        "stores.answers": "https://redis.azure.com/.default",
    }


def test_who_gets_the_configuration_as_json_has_the_same() -> None:
    """As workers do, who are given what the supervisor has read."""
    made = gateway(counters=REDIS, counters_credential={"entra": {}})
    again = Gateway.model_validate_json(made.model_dump_json())
    assert again.stores == made.stores
    assert again == made


@pytest.mark.parametrize(
    ("stores", "told"),
    [
        ({"counters_credential": {"file": "/x"}}, "counters_credential: `counters` is no server"),
        ({"database_credential": {"file": "/x"}}, "database_credential: `database` is no server"),
        ({"counters": REDIS, "answers_credential": {"file": "/x"}}, "answers_credential: `answers` is no server"),
        ({"counters": REDIS, "counters_credential": {}}, "give exactly one of `file` and `entra`"),
        ({"counters": REDIS, "counters_credential": {"file": "/x", "entra": {}}}, "give exactly one"),
        ({"counters": "redis://u:pw@h", "counters_credential": {"file": "/x"}}, "the password stands in `counters`"),
        ({"counters": "rediss://h:10000", "counters_credential": {"entra": {}}}, "the identity's object id"),
        (
            {"counters": "redis://u@h:6379", "counters_credential": {"entra": {}}},
            "`counters` must begin with rediss://",
        ),
        (
            {"database": "postgresql+psycopg://u@h/db?sslmode=require", "database_credential": {"entra": {}}},
            "`database` needs sslmode=verify-full",
        ),
        (
            {"database": "postgresql+psycopg://h/db?sslmode=verify-full", "database_credential": {"entra": {}}},
            "the identity's role there",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_work_is_refused(stores: dict[str, Any], told: str) -> None:
    said = problem(**stores)
    assert told in said
    assert "pw@" not in said


@given(st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1), st.sampled_from([REDIS, POSTGRES]))
def test_any_file_can_be_named_and_is_taken_again(name: str, url: str) -> None:
    file = Path("/") / name
    assert password_files.taken(password_files.named(url, file)) == (url, file)
    assert password_files.named(password_files.named(url, Path("/other")), file) == password_files.named(url, file)
