"""Targets, names and manifests of delivered keys; what a power cut or a hostile name could do is in the twins."""

import re
import stat
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from extproc.gitops.delivery import DeliveredKey, DeliveryError, open_delivery
from extproc.gitops.delivery.files import FileDelivery
from extproc.gitops.delivery.kubernetes import KubernetesDelivery, manifest
from extproc.gitops.delivery.names import label
from extproc.identity import keys

SECRET = keys.mint(b"\x07" * 32)
KEY = DeliveredKey("payments", "ci", SECRET)
TEAMS = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
NAMES = st.text(st.characters(exclude_categories=("C", "Z"), include_characters=" "), min_size=1, max_size=100)
CLOSE_NAMES = st.text("aA-/.", min_size=1, max_size=5)  # where a careless mapping would run two into one
DNS_1123 = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def test_a_key_never_shows_in_a_repr() -> None:
    assert SECRET not in repr(KEY)
    assert SECRET not in repr([KEY])


# ---- targets ----


def test_a_target_names_a_place() -> None:
    assert open_delivery("file:out/keys") == FileDelivery(Path("out/keys"))
    assert open_delivery("file:~/keys") == FileDelivery(Path.home() / "keys")
    assert open_delivery("kubernetes:out?namespace=apps") == KubernetesDelivery(Path("out"), "apps")
    assert open_delivery("kubernetes:what?x?namespace=a") == KubernetesDelivery(Path("what?x"), "a")


@pytest.mark.parametrize("suffix", ["azure.net", "azure.net/", "azure.cn", "usgovcloudapi.net"])
def test_a_vault_is_named_by_its_url(suffix: str) -> None:
    from extproc.gitops.delivery.key_vault import KeyVaultDelivery

    url = f"https://our-keys.vault.{suffix}"
    assert open_delivery(f"key-vault:{url}") == KeyVaultDelivery(url.removesuffix("/"))


@pytest.mark.parametrize(
    "target",
    [
        "",
        "keys",
        "file",
        "file:",
        "File:keys",
        "kubernetes:out",
        "kubernetes:?namespace=apps",
        "kubernetes:out?namespace=",
        "kubernetes:out?namespace=Apps",
        "kubernetes:out?namespace=a-",
        "kubernetes:out?namespace=a.b",
        f"kubernetes:out?namespace={'a' * 64}",
        "kubernetes:out?namespace=apps\n",
        "key-vault:",
        "key-vault:our-keys",
        "key-vault:http://our-keys.vault.azure.net",
        "key-vault:https://vault.azure.net",
        "key-vault:https://our-keys.vault.azure.net.example.com",
        "key-vault:https://our-keys.vault.azure.net@example.com",
        "key-vault:https://example.com/our-keys.vault.azure.net",
        "key-vault:https://our-keys.vault.azure.net:8443",
        "key-vault:https://our-keys.vault.azure.net/secrets",
        "s3:bucket",
    ],
)
def test_any_other_target_is_refused_with_what_to_write(target: str) -> None:
    with pytest.raises(DeliveryError) as caught:
        open_delivery(target)
    assert str(caught.value) == (
        f"{target!r} is not a place for keys; write file:FOLDER, kubernetes:FOLDER?namespace=NAME "
        "or key-vault:https://NAME.vault.azure.net"
    )


def test_a_missing_package_is_named_with_what_to_install() -> None:
    program = """
import sys
sys.modules["azure"] = None
from extproc.gitops.delivery import DeliveryError, open_delivery
open_delivery("file:keys")
try:
    open_delivery("key-vault:https://our-keys.vault.azure.net")
except DeliveryError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "the package azure" in run.stdout
    assert "install sluice-gateway[azure]" in run.stdout


def test_the_sdk_is_loaded_for_a_vault_only() -> None:
    program = "import sys; from extproc.gitops.delivery import open_delivery; open_delivery('file:keys'); "
    program += "print([name for name in sys.modules if name.startswith('azure')])"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


# ---- names ----


@pytest.mark.parametrize("name", ["ci", "0", "payments-batch", "a" * 100])
def test_a_plain_name_stands_as_it_is(name: str) -> None:
    assert label(name, 100) == name


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("CI runner", "ci-runner"),
        ("a--b", "a-b"),
        ("a-", "a"),
        ("..", "x"),
        ("", "x"),
        ("😀", "x"),
        ("../../etc/passwd", "etc-passwd"),
        ("ﬁne", "ne"),
    ],
)
def test_any_other_name_is_what_can_be_shown_of_it_and_a_digest(name: str, shown: str) -> None:
    assert re.fullmatch(rf"{shown}---[0-9a-f]{{32}}", label(name, 100))


def test_a_label_is_the_same_on_every_machine() -> None:
    assert label("CI runner", 100) == "ci-runner---911dd3fa79044593cc1d74a80c05f813"


@given(NAMES, st.sampled_from([48, 63, 70, 100]))
def test_a_label_is_short_and_harmless(name: str, longest: int) -> None:
    found = label(name, longest)
    assert len(found) <= longest
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", found)


@given(st.lists(st.tuples(CLOSE_NAMES, CLOSE_NAMES), min_size=2, unique=True))
def test_no_two_keys_come_to_lie_in_one_place(pairs: list[tuple[str, str]]) -> None:
    joined = {f"{label(team, 48)}--{label(name, 70)}" for team, name in pairs}
    assert len(joined) == len(pairs)


@given(NAMES)
def test_a_label_given_as_a_name_is_another_place(name: str) -> None:
    found = label(name, 100)
    assert found == name or label(found, 100) != found


# ---- manifests ----


def parsed(text: str) -> dict[str, object]:
    found = YAML(typ="safe", pure=True).load(text)
    assert isinstance(found, dict)
    return found


def test_a_manifest_is_a_secret_with_all_that_is_known() -> None:
    expiry = datetime(2030, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))
    assert parsed(manifest(replace(KEY, environment="production", expires_at=expiry), "apps")) == {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": "sluice-key-payments--ci",
            "namespace": "apps",
            "labels": {"app.kubernetes.io/managed-by": "sluice", "sluice.dev/team": "payments"},
            "annotations": {
                "sluice.dev/key": "ci",
                "sluice.dev/environment": "production",
                "sluice.dev/expires": "2030-01-02T01:04:05+00:00",
            },
        },
        "type": "Opaque",
        "stringData": {"SLUICE_API_KEY": SECRET},
    }


def test_what_is_not_known_is_left_out() -> None:
    metadata = parsed(manifest(KEY, "apps"))["metadata"]
    assert isinstance(metadata, dict)
    assert metadata["annotations"] == {"sluice.dev/key": "ci"}


@given(TEAMS, NAMES, NAMES)
def test_whatever_the_names_a_manifest_is_well_formed(team: str, name: str, environment: str) -> None:
    text = manifest(DeliveredKey(team, name, SECRET, environment), "apps")
    metadata = parsed(text)["metadata"]
    assert isinstance(metadata, dict)
    assert DNS_1123.fullmatch(metadata["name"])
    assert len(metadata["name"]) <= 253
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", metadata["labels"]["sluice.dev/team"])
    assert metadata["annotations"] == {"sluice.dev/key": name, "sluice.dev/environment": environment}
    assert parsed(text)["stringData"] == {"SLUICE_API_KEY": SECRET}


@pytest.mark.parametrize(
    "text", ["on", "null", "1e3", "2030-01-01", "a: b", "# x", '"', "\\", "\n", "\u2028", "\x85", "😀"]
)
def test_text_in_a_manifest_stays_text(text: str) -> None:
    metadata = parsed(manifest(replace(KEY, environment=text), text))["metadata"]
    assert isinstance(metadata, dict)
    assert metadata["namespace"] == metadata["annotations"]["sluice.dev/environment"] == text


def test_manifests_lie_in_one_folder_for_their_owner_only(tmp_path: Path) -> None:
    open_delivery(f"kubernetes:{tmp_path}/out?namespace=apps").deliver([KEY, replace(KEY, name="CI")])
    files = sorted((tmp_path / "out").iterdir())
    assert [file.name for file in files] == [f"payments.{label('CI', 100)}.yaml", "payments.ci.yaml"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o700
    assert files[1].read_text() == manifest(KEY, "apps")


@pytest.mark.parametrize("target", ["file:{}", "kubernetes:{}?namespace=apps"])
def test_two_keys_for_one_place_are_refused_before_anything_is_written(target: str, tmp_path: Path) -> None:
    with pytest.raises(DeliveryError, match="team 'payments' has two keys named 'ci'; only one"):
        open_delivery(target.format(tmp_path / "out")).deliver([KEY, replace(KEY, expires_at=datetime.now(UTC))])
    assert not (tmp_path / "out").exists()
