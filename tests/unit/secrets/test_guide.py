"""docs/credentials.md says what the configuration takes."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from ruamel.yaml import YAML

from extproc.config.fields import Credential, Entra, KeyVault, SignInKind
from extproc.config.loader import load

PAGE = (Path(__file__).resolve().parents[3] / "docs/credentials.md").read_text()
EXAMPLES: list[dict[str, Any]] = [
    YAML(typ="safe").load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
]


def _first_cells(head: str) -> list[str]:
    """Of the table with this head, what the rows begin with in code."""
    table = PAGE[PAGE.index(f"| {head} |") :].split("\n\n")[0]
    return re.findall(r"^\| `(\w+)`", table, re.MULTILINE)[1 if head.startswith("`") else 0 :]


def test_every_source_kind_and_setting_is_told_and_no_other() -> None:
    assert set(_first_cells("source")) == set(Credential.model_fields)
    assert set(_first_cells("`kind`")) == set(get_args(SignInKind))
    assert set(_first_cells("setting")) == set(Entra.model_fields) - {"kind", "client_secret"}
    own = set(KeyVault.model_fields) - set(Entra.model_fields)
    assert own == set(re.findall(r"`(\w+)`", PAGE[PAGE.index("`key_vault` takes") :].split(", and as whom")[0])[1:])


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_is_accepted(number: int, tmp_path: Path) -> None:
    example = dict(EXAMPLES[number])
    swe = {"dialect": "azure-openai", "url": "https://contoso-swe.openai.azure.com"}
    stores = example.pop("stores", {})
    backends = example.get("backends") or {"swe": swe | example}
    models = {"m": {"targets": [[{"backend": name} for name in backends]]}}
    with (tmp_path / "gateway.yaml").open("w") as file:
        YAML().dump({"backends": backends, "models": models, "stores": stores}, file)
    assert load(tmp_path / "gateway.yaml", {}).backends.keys() == backends.keys()


def test_the_variables_of_the_page_are_a_configuration() -> None:
    (block,) = re.findall(r"```bash\n(export.*?)```", PAGE, re.DOTALL)
    variables = re.findall(r"export (\w+)=(.*)", block)
    gateway = load(None, {name: value.strip("'") for name, value in variables})
    swe, fra = gateway.backends["swe"].credential, gateway.backends["fra"].credential
    assert swe is not None
    assert swe.entra == Entra()
    assert fra == Credential(env="FRA_KEY")
    assert [target.weight for target in gateway.models["gpt-4o"].targets[0]] == [3, 1]
