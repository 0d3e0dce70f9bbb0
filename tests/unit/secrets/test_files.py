"""The SDS files of secrets that are fetched, as Envoy's side of the gateway writes, asks for and forgets them."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from extproc.config.fields import Credential
from extproc.config.schema import Gateway
from extproc.dataplane import CredentialError, Layout, remove_stale_secrets, render, write_secrets
from extproc.secrets import sds
from extproc.secrets.named import named_secrets, secret_file, secret_name

Json = dict[str, Any]
LAYOUT = Layout("conf", "secrets", ("run/worker-0.sock",), "run/admin.sock")
KEYED: Json = {"env": "KEY"}
ENTRA: Json = {"entra": {"kind": "managed_identity"}}
VAULT: Json = {
    "key_vault": {
        "url": "https://our-keys.vault.azure.net",
        "secret": "s",
        "kind": "managed_identity",
        "interval": "1m",
    }
}


def gateway(credential: Json | None, dialect: str = "azure-openai", url: str = "https://a.example") -> Gateway:
    backend = {"dialect": dialect, "url": url} | ({"credential": credential} if credential else {})
    return Gateway.model_validate({"backends": {"a": backend}, "models": {"m": {"targets": [[{"backend": "a"}]]}}})


def file_of(configured: Gateway) -> str:
    (named,) = named_secrets(configured)
    return secret_file(named.secret)


def injected(configured: Gateway, cluster_name: str = "backend_a") -> Json:
    """The filter that sets the credential of a cluster."""
    response = YAML(typ="safe").load(render(configured, LAYOUT)["clusters.yaml"])
    (cluster,) = (found for found in response["resources"] if found["name"] == cluster_name)
    (options,) = cluster["typed_extension_protocol_options"].values()
    (config,) = (one["typed_config"] for one in options["http_filters"] if one["name"] == "sluice.credential")
    return dict(config)


# ---- what Envoy makes of them ----


@pytest.mark.parametrize(
    ("credential", "dialect", "header", "prefix", "may_be_missing"),
    [
        (KEYED, "azure-openai", "api-key", None, False),
        (ENTRA, "azure-openai", "authorization", "Bearer ", True),
        (ENTRA, "anthropic", "authorization", "Bearer ", True),
        (VAULT, "azure-openai", "api-key", None, True),
        (VAULT, "anthropic", "x-api-key", None, True),
    ],
)
def test_a_token_goes_as_bearer_and_a_key_as_the_dialect_has_it(
    credential: Json, dialect: str, header: str, prefix: str | None, may_be_missing: bool
) -> None:
    configured = gateway(credential, dialect)
    config = injected(configured)
    generic = config["credential"]["typed_config"]
    assert (generic["header"], generic.get("header_value_prefix")) == (header, prefix)
    assert config["overwrite"] is True
    assert config.get("allow_request_without_credential", False) is may_be_missing
    source = generic["credential"]["sds_config"]["path_config_source"]["path"]
    assert source == f"secrets/{file_of(configured)}"


def test_a_service_may_have_a_token_as_well() -> None:
    service = {"api": "azure-content-safety", "url": "https://s.example", "credential": ENTRA}
    configured = Gateway.model_validate({**gateway(None).model_dump(), "services": {"safety": service}})
    config = injected(configured, "service_safety")
    generic = config["credential"]["typed_config"]
    assert (generic["header"], generic["header_value_prefix"]) == ("authorization", "Bearer ")
    assert config["allow_request_without_credential"] is True


# ---- names ----

NAMES = st.sampled_from(["backend_a", "backend_b", "service_a"])
URLS = st.sampled_from(["https://a.example", "https://b.example/v1"])
CREDENTIALS = st.sampled_from([KEYED, {"env": "OTHER"}, {"file": "KEY"}, ENTRA, VAULT])
PLACES = st.tuples(NAMES, URLS, CREDENTIALS)


def name(place: tuple[str, str, Json]) -> str:
    return secret_name(place[0], place[1], Credential.model_validate(place[2]))


@given(one=PLACES, other=PLACES)
def test_a_secret_that_comes_from_or_goes_elsewhere_has_another_name(
    one: tuple[str, str, Json], other: tuple[str, str, Json]
) -> None:
    assert (name(one) == name(other)) is (one == other)
    assert re.fullmatch(r"[a-z_]+-[0-9a-f]{8}", name(one))


@given(credential=CREDENTIALS)
def test_every_process_finds_the_same_name(credential: Json) -> None:
    configured = gateway(credential)
    assert file_of(configured) == file_of(Gateway.model_validate_json(configured.model_dump_json()))


# ---- the files ----


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=50))
def test_a_file_holds_its_secret_as_it_is(value: str) -> None:
    (resource,) = YAML(typ="safe").load(sds.text("backend_a-1", value))["resources"]
    assert (resource["name"], resource["generic_secret"]["secret"]["inline_string"]) == ("backend_a-1", value)


def test_until_it_is_fetched_there_is_none_and_what_was_fetched_stays(tmp_path: Path) -> None:
    configured = gateway(ENTRA)
    write_secrets(configured, {}, tmp_path)
    file = tmp_path / file_of(configured)
    (resource,) = YAML(typ="safe").load(file.read_text())["resources"]
    assert resource["name"] == file.stem
    assert not resource["generic_secret"].get("secret", {}).get("inline_string")
    file.write_text("what was fetched")
    write_secrets(configured, {}, tmp_path)
    assert file.read_text() == "what was fetched"


def test_what_signing_in_lacks_is_named_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(CredentialError) as caught:
        write_secrets(gateway({"entra": {}}), {}, tmp_path / "secrets")
    problem = "`tenant_id` is not set, and neither is the environment variable AZURE_TENANT_ID"
    assert str(caught.value) == f"backends.a.credential: {problem}"
    assert not (tmp_path / "secrets").exists()


def test_secrets_that_no_backend_has_any_more_are_removed(tmp_path: Path) -> None:
    old, new = gateway(KEYED), gateway(ENTRA)
    write_secrets(old, {"KEY": "k"}, tmp_path)
    write_secrets(new, {}, tmp_path)
    remove_stale_secrets(new, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [file_of(new)]
