"""From files and the environment to the configuration, and what people are told when that fails."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from extproc.config.loader import ConfigError, json_schema, load
from extproc.config.schema import Gateway
from tests.support.json_schema import mistakes

MISTAKES = sorted((Path(__file__).parent / "config").glob("*.yaml"))
EXPECTED = "# => "

ALONE = {
    "SLUICE__BACKENDS__SWE__DIALECT": "openai",
    "SLUICE__BACKENDS__SWE__URL": "https://swe.example",
    "SLUICE__MODELS__GPT_4O__TARGETS": "[[{backend: swe}]]",
}
BASE = """\
backends: {swe: {dialect: openai, url: "https://swe.example"}}
models: {gpt-4o: {targets: [[{backend: swe}]]}}
"""


def _load(tmp_path: Path, text: str, environ: Mapping[str, str] | None = None) -> Gateway:
    file = tmp_path / "gateway.yaml"
    file.write_text(text)
    return load(file, environ or {})


def _problems(tmp_path: Path, text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, text, environ)
    return str(caught.value).replace(f"{tmp_path}/", "").splitlines()


# ---- mistakes in a file: each file of tests/unit/config says what its reader is told ----------------


@pytest.mark.parametrize("file", MISTAKES, ids=lambda file: file.stem)
def test_a_mistake_is_told_with_its_file_and_line(file: Path) -> None:
    wanted = [line.removeprefix(EXPECTED) for line in file.read_text().splitlines() if line.startswith(EXPECTED)]
    with pytest.raises(ConfigError) as caught:
        load(file, {"EMPTY": ""})
    told = [line.removeprefix(str(file)) for line in str(caught.value).splitlines()]
    assert told == [f":{line}" if line[0].isdigit() else f": {line}" for line in wanted]


def test_a_problem_can_be_taken_apart(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(f"{BASE}workers: 0\n")
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    (problem,) = caught.value.problems
    assert (problem.place.source, problem.place.line) == (str(file), 3)
    assert (problem.field, problem.message) == ("workers", "must be at least 1")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"state_dir: caf\xe9\n")
    for name, message in {
        "none.yaml": "cannot be read (No such file or directory)",
        "": "cannot be read (Is a directory)",
        "latin.yaml": "is not UTF-8 text",
    }.items():
        with pytest.raises(ConfigError) as caught:
            load(tmp_path / name, {})
        assert str(caught.value) == f"{tmp_path / name}: {message}"


def test_nesting_without_end_is_an_error_of_the_file(tmp_path: Path) -> None:
    assert _problems(tmp_path, "[" * 500) == [
        "gateway.yaml: not usable: nested too deeply, or an alias inside its own anchor"
    ]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.one_of(
        st.text(alphabet=st.sampled_from("ab:-[]{}&*!|>%@`\"'#?,<=~ \n\t$0.\x01é\ufeff"), max_size=60),
        st.lists(st.sampled_from(BASE.split(" ")), max_size=12).map(" ".join),
    )
)
def test_no_text_gives_anything_but_a_configuration_or_its_problems(text: str, tmp_path: Path) -> None:
    file = tmp_path / "any.yaml"
    file.write_text(text)
    told = []
    for path, environ in ((file, {}), (None, {**ALONE, "SLUICE__MODELS": text})):
        try:
            load(path, environ)
        except ConfigError as error:
            told.append(str(error))
        else:
            told.append("a configuration")
    assert all(told)


# ---- values ---------------------------------------------------------------------------------------


def test_a_configuration_in_full(tmp_path: Path) -> None:
    gateway = _load(
        tmp_path,
        """
        listener: {address: 0.0.0.0, port: 9090, tls: {certificate: tls/a.pem, private_key: tls/a.key}}
        limits: {json_request: 1MiB, json_answer: 2048}
        timeouts: {connect: 500ms, call: 1h, idle: 90, policy: 1.5}
        backends:
          swe:
            dialect: azure-openai
            url: https://swe.example
            api_version: 2024-10-21
            credential: {env: SWE_KEY}
        models:
          gpt-4.1:
            aliases: [azure-4.1]
            targets: [[{backend: swe, model: gpt-41, weight: 3}], [{backend: swe}]]
        """,
    )
    assert gateway.listener.port == 9090
    assert gateway.listener.tls is not None
    assert gateway.listener.tls.certificate == Path("tls/a.pem")  # relative to the current directory
    assert (gateway.limits.json_request, gateway.limits.json_answer) == (2**20, 2048)
    assert gateway.timeouts.connect == timedelta(milliseconds=500)
    assert gateway.timeouts.call == timedelta(hours=1)
    assert gateway.timeouts.idle == timedelta(seconds=90)
    assert gateway.timeouts.policy == timedelta(seconds=1.5)
    assert gateway.backends["swe"].api_version == "2024-10-21"
    assert [[target.weight for target in group] for group in gateway.models["gpt-4.1"].targets] == [[3], [1]]
    assert gateway.workers == 1


def test_text_fields_keep_what_looks_like_something_else(tmp_path: Path) -> None:
    gateway = _load(
        tmp_path,
        """
        backends: {swe: {dialect: azure-openai, url: "https://a", api_version: 2024-10-21, credential: {env: true}}}
        models: {4.1: {aliases: [3.50, true, 2024-10-21, 1e3], targets: [[{backend: swe, model: 0x10}]]}}
        """,
    )
    assert gateway.backends["swe"].api_version == "2024-10-21"
    assert gateway.backends["swe"].credential is not None
    assert gateway.backends["swe"].credential.env == "true"
    assert gateway.models["4.1"].aliases == ("3.50", "true", "2024-10-21", "1e3")
    assert gateway.models["4.1"].targets[0][0].model == "0x10"


def test_anchors_and_aliases_work(tmp_path: Path) -> None:
    gateway = _load(
        tmp_path,
        """
        backends: {swe: {dialect: openai, url: "https://swe.example"}}
        models: {a: {targets: &chain [[{backend: swe}]]}, b: {targets: *chain}}
        """,
    )
    assert gateway.models["a"] == gateway.models["b"]


@pytest.mark.parametrize("value", ["null", "~", ""])
def test_an_optional_setting_may_be_null(tmp_path: Path, value: str) -> None:
    gateway = _load(tmp_path, f"listener:\n  tls: {value}\nfake_backend: {value}\n{BASE}")
    assert gateway.listener.tls is None
    assert gateway.fake_backend is None


# ---- references to the environment ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("${HERE}", "/srv"),
        ('"${HERE}/state"', "/srv/state"),
        ("${HERE}/${NAME}${HERE}", "/srv/a b/srv"),
        ("$${HERE}", "${HERE}"),
        ("$$${HERE}", "$${HERE}"),
        ("$HERE", "$HERE"),
        ("${}", "${}"),
        ("${1st}", "${1st}"),
        ("a$", "a$"),
        ("${TRICK}", "${HERE}"),
    ],
)
def test_references_in_a_text(tmp_path: Path, written: str, read: str) -> None:
    environ = {"HERE": "/srv", "NAME": "a b", "TRICK": "${HERE}"}
    assert str(_load(tmp_path, f"{BASE}state_dir: {written}\n", environ).state_dir) == str(Path(read))


def test_a_reference_stands_for_a_value_of_any_kind(tmp_path: Path) -> None:
    text = f"""{BASE}
listener: {{port: "${{PORT}}"}}
timeouts: {{call: "${{WAIT}}"}}
keys: {{quickstart: "${{YES}}"}}
"""
    gateway = _load(tmp_path, text, {"PORT": "9090", "WAIT": "30", "YES": "true"})
    assert gateway.listener.port == 9090
    assert gateway.timeouts.call == timedelta(seconds=30)
    assert gateway.keys.quickstart


def test_a_referenced_value_is_no_yaml(tmp_path: Path) -> None:
    gateway = _load(tmp_path, f"{BASE}state_dir: ${{DIR}}\n", {"DIR": "a: [b] #c"})
    assert gateway.state_dir == Path("a: [b] #c")


def test_a_problem_does_not_quote_a_referenced_value(tmp_path: Path) -> None:
    text = f"""{BASE}stores: {{database: "${{DB}}"}}\nworkers: ${{COUNT}}\n"""
    told = "\n".join(_problems(tmp_path, text, {"DB": "mysql://s3cret", "COUNT": "s3cret"}))
    assert "gateway.yaml:3: stores.database" in told
    assert "s3cret" not in told


# ---- settings in the environment ------------------------------------------------------------------


def test_a_configuration_from_the_environment_alone() -> None:
    gateway = load(None, {**ALONE, "SLUICE__WORKERS": "2", "HOME": "/root", "SLUICE_CONFIG": "x"})
    assert gateway.workers == 2
    assert gateway.backends["swe"].url == "https://swe.example"
    assert gateway.models["gpt-4o"].targets[0][0].backend == "swe"


def test_whole_mappings_in_one_variable() -> None:
    gateway = load(
        None,
        {
            "SLUICE__BACKENDS": '{swe: {dialect: openai, url: "https://swe.example"}}',
            "SLUICE__MODELS": "{gpt-4.1: {targets: [[{backend: swe}]]}}",
            "SLUICE__MODELS__GPT_4_1__ALIASES": "[four]",
        },
    )
    assert gateway.models["gpt-4.1"].aliases == ("four",)


def test_the_environment_wins_over_the_file_and_leaves_the_rest(tmp_path: Path) -> None:
    gateway = _load(
        tmp_path,
        f"{BASE}listener: {{port: 1, address: 127.0.0.2}}\nworkers: 3\n",
        {"SLUICE__LISTENER__PORT": "9090", "SLUICE__BACKENDS__FRA__URL": "https://fra.example"}
        | {"SLUICE__BACKENDS__FRA__DIALECT": "anthropic", "SLUICE__LISTENER": "{trusted_proxies: 1}"},
    )
    assert (gateway.listener.port, gateway.listener.address, gateway.listener.trusted_proxies) == (9090, "127.0.0.2", 1)
    assert gateway.workers == 3
    assert set(gateway.backends) == {"swe", "fra"}


def test_a_list_is_replaced_whole(tmp_path: Path) -> None:
    environ = {"SLUICE__MODELS__GPT_4O__TARGETS": "[[{backend: swe, weight: 7}]]"}
    text = BASE.replace("[[{backend: swe}]]", "[[{backend: swe}, {backend: swe}], [{backend: swe}]]")
    targets = _load(tmp_path, text, environ).models["gpt-4o"].targets
    assert [[target.weight for target in group] for group in targets] == [[7]]


@pytest.mark.parametrize("segment", ["GPT_4_1_MINI", "gpt-4.1-mini", "Gpt_4.1_Mini", "GPT-4-1-MINI"])
def test_a_segment_fits_an_existing_key_in_any_spelling(tmp_path: Path, segment: str) -> None:
    text = BASE.replace("gpt-4o", "gpt-4.1-mini")
    gateway = _load(tmp_path, text, {f"SLUICE__MODELS__{segment}__ALIASES": "[mini]"})
    assert {name: model.aliases for name, model in gateway.models.items()} == {"gpt-4.1-mini": ("mini",)}


def test_fields_with_underscores_are_found_by_the_schema(tmp_path: Path) -> None:
    environ = {"SLUICE__FAKE_BACKEND__PORT": "1234", "SLUICE__DEFAULT_MODELS__IMAGE_EDITS": "gpt-4o"}
    environ["SLUICE__TIMEOUTS__CALL"] = "20m"
    gateway = _load(tmp_path, BASE, environ)
    assert gateway.fake_backend is not None
    assert gateway.fake_backend.port == 1234
    assert gateway.default_models == {"image_edits": "gpt-4o"}
    assert gateway.timeouts.call == timedelta(minutes=20)


def test_a_new_key_is_lower_case_with_dashes(tmp_path: Path) -> None:
    environ = {"SLUICE__MODELS__PHI_4__TARGETS": "[[{backend: swe}]]"}
    assert set(_load(tmp_path, BASE, environ).models) == {"gpt-4o", "phi-4"}


@pytest.mark.parametrize("value", ["2024-10-21", "7", "true", "a #b", "*x", "[", "'quoted'", "a: b", " x "])
def test_the_value_of_a_text_field_is_taken_as_it_is(value: str) -> None:
    credential = load(None, ALONE | {"SLUICE__BACKENDS__SWE__CREDENTIAL__FILE": value}).backends["swe"].credential
    assert credential is not None
    assert str(credential.file) == value


def test_a_value_may_refer_to_another_variable() -> None:
    environ = {"SLUICE__BACKENDS__SWE__URL": "https://${HOST}/x", "SLUICE__STATE_DIR": "$${x}", "HOST": "a.example"}
    gateway = load(None, ALONE | environ)
    assert gateway.backends["swe"].url == "https://a.example/x"
    assert gateway.state_dir == Path("${x}")


def test_null_takes_an_optional_setting_away(tmp_path: Path) -> None:
    text = BASE.replace("dialect: openai", "dialect: azure-openai, api_version: 2024-10-21, credential: {env: A}")
    environ = {"SLUICE__BACKENDS__SWE__API_VERSION": "null", "SLUICE__BACKENDS__SWE__CREDENTIAL": "null"}
    backend = _load(tmp_path, text, environ).backends["swe"]
    assert (backend.api_version, backend.credential) == (None, None)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("SLUICE__LISTENER__PORT", "http", "listener.port: must be a whole number"),
        ("SLUICE__LISTENER__PROT", "1", "listener.prot: unknown field (did you mean port?)"),
        ("SLUICE__LISTENER", "{port: 1, prot: 2}", "listener.prot: unknown field (did you mean port?)"),
        ("SLUICE__LISTENER", "8080", "listener: must be a mapping"),
        ("SLUICE__LISTENER", "{port: [", "not valid YAML: expected the node content, but found '<stream end>'"),
        ("SLUICE__LISTENER", "{port: 1, port: 2}", "listener.port: is given twice"),
        ("SLUICE__WORKERS", "${NOBODY}", "workers: the environment variable NOBODY is not set"),
        ("SLUICE__STATE_DIR", "${NOBODY}", "state_dir: the environment variable NOBODY is not set"),
        ("SLUICE__STATE_DIR", " ", "is empty: give it a value, or unset it"),
        ("SLUICE__WORKERS", "", "is empty: give it a value, or unset it"),
        ("SLUICE__BACKENDS__NEW__DIALECT", "openai", "backends.new.url: is required"),
        ("SLUICE__WORKERS__MORE", "1", "workers is not a mapping: it can only be set whole"),
        (
            "SLUICE__MODELS__GPT_4O__TARGETS__0__WEIGHT",
            "1",
            "models.gpt-4o.targets is not a mapping: it can only be set whole",
        ),
        ("SLUICE__", "1", "has an empty part"),
        ("SLUICE____PORT", "1", "has an empty part"),
        ("SLUICE__LISTENER__", "1", "has an empty part"),
    ],
)
def test_a_mistake_in_the_environment_names_its_variable(tmp_path: Path, name: str, value: str, told: str) -> None:
    text = f"workers: 2\nstate_dir: var\n{BASE}"
    assert _problems(tmp_path, text, {name: value}) == [f"{name}: {told}"]


def test_a_segment_that_fits_two_keys_is_refused(tmp_path: Path) -> None:
    text = BASE.replace("{gpt-4o:", "{gpt-4.1: {targets: [[{backend: swe}]]}, gpt-4-1:")
    assert _problems(tmp_path, text, {"SLUICE__MODELS__GPT_4_1__ALIASES": "[x]"}) == [
        "SLUICE__MODELS__GPT_4_1__ALIASES: fits gpt-4-1 and gpt-4.1: set the mapping that holds them instead"
    ]


def test_the_environment_alone_lacks_something() -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, {})
    assert str(caught.value) == "environment: backends: is required\nenvironment: models: is required"


def test_problems_of_file_and_environment_are_told_together(tmp_path: Path) -> None:
    environ = {"SLUICE__WORKERS": "many", "SLUICE__LISTENER__PORT": "0"}
    assert _problems(tmp_path, f"{BASE}zebra: 1\nstate_dir: ${{NOBODY}}\n", environ) == [
        "gateway.yaml:3: zebra: unknown field",
        "gateway.yaml:4: state_dir: the environment variable NOBODY is not set",
        "SLUICE__LISTENER__PORT: listener.port: must be at least 1",
        "SLUICE__WORKERS: workers: must be a whole number",
    ]


# ---- who is told who calls ---------------------------------------------------------------------------

TELLS = """\
identity: {{signing_key: {{env: KEY}}}}
backends: {{swe: {{dialect: {dialect}, url: "{url}", identity_header: true}}}}
models: {{gpt-4o: {{targets: [[{{backend: swe}}]]}}}}
"""


@pytest.mark.parametrize(
    ("dialect", "url"),
    [
        ("openai", "https://api.openai.com/v1"),
        ("openai", "https://API.OpenAI.com./v1"),
        ("openai", "https://eu.api.openai.com/v1"),
        ("openai", "http://api.openai.com:8443"),
        ("openai", "https://swe.openai.azure.com/openai/v1"),
        ("openai", "https://swe.cognitiveservices.azure.com/openai/v1"),
        ("openai", "https://swe.services.ai.azure.com/openai/v1"),
        ("openai", "https://models.inference.ai.azure.com"),
        ("openai", "https://api.anthropic.com/v1"),
        ("openai", "https://generativelanguage.googleapis.com/v1beta/openai"),
        ("openai", "https://api.x.ai/v1"),
        ("openai", "https://models.github.ai/inference"),
        ("azure-openai", "https://llm.corp.example"),
        ("anthropic", "https://llm.corp.example"),
    ],
)
def test_no_provider_is_told_who_calls(tmp_path: Path, dialect: str, url: str) -> None:
    assert _problems(tmp_path, TELLS.format(dialect=dialect, url=url)) == [
        "gateway.yaml:2: backends.swe.identity_header: is for self-hosted backends, and this one is a provider's"
    ]


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:8000", "https://llm.corp.example/v1", "https://myapi.openai.com.corp.example", "https://x.ai"],
)
def test_a_backend_of_ones_own_may_be_told(tmp_path: Path, url: str) -> None:
    assert _load(tmp_path, TELLS.format(dialect="openai", url=url)).backends["swe"].identity_header


# ---- the schema -----------------------------------------------------------------------------------


def _settings(schema: object) -> list[dict[str, object]]:
    """Every schema inside a schema that is one."""
    if isinstance(schema, dict):
        return [schema, *(found for inner in schema.values() for found in _settings(inner))]
    return [found for inner in schema for found in _settings(inner)] if isinstance(schema, list) else []


def test_every_setting_is_described() -> None:
    for place in _settings(json_schema()):
        fields = place.get("properties")
        if isinstance(fields, dict):
            assert [name for name, field in fields.items() if "description" not in field] == []


def test_an_editor_accepts_sizes_durations_and_references_and_nothing_else_in_their_place() -> None:
    text = f"""{BASE}
workers: "${{WORKERS}}"
limits: {{json_request: 1MiB, json_answer: 2048}}
timeouts: {{call: 10m, idle: 5, drain: "${{DRAIN}}"}}
keys: {{quickstart: "${{YES}}"}}
stores: {{database: "${{DATABASE}}"}}
"""
    assert mistakes(json_schema(), YAML(typ="safe").load(text)) == []
    wrong = text.replace("1MiB", "large").replace("10m", "soon").replace("${WORKERS}", "many").replace("${DAT", "DAT")
    told = [line.partition(":")[0] for line in mistakes(json_schema(), YAML(typ="safe").load(wrong))]
    assert sorted(told) == ["$.limits.json_request", "$.stores.database", "$.timeouts.call", "$.workers"]


def test_every_rule_of_spelling_is_told_in_words(tmp_path: Path) -> None:
    text = BASE.replace("swe: {", '"!": {').replace("gpt-4o", '"!"').replace("backend: swe", 'backend: "!", model: "!"')
    told = _problems(tmp_path, f'{text}stores: {{database: "!"}}\ndefault_models: {{speech: "!"}}\n')
    assert len(told) == 6
    assert [line for line in told if "^" in line] == []


@pytest.mark.parametrize("pasted", ["sk-proj-abc", "eyJhbGciOi.J9", "a b"])
def test_a_secret_in_place_of_a_variables_name_is_refused_and_not_repeated(pasted: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(None, ALONE | {"SLUICE__BACKENDS__SWE__CREDENTIAL__ENV": pasted})
    assert "credential.env: is not the name of a variable" in str(refused.value)
    assert pasted not in str(refused.value)


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/responses/", "/v1/messages", "/openai/deployments/gpt-4o", "/v1/embeddings"]
)
def test_a_url_of_an_operation_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="must end before the operation"):
        load(None, ALONE | {"SLUICE__BACKENDS__SWE__URL": f"https://a.example{path}"})
