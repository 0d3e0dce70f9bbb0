"""Where a provider refuses a call by its length or its contents, and another model stands in.

Envoy tries again by status or header alone, and providers tell the reason in the body. So a filter of the cluster reads
the body of a refusal, and has the router try again where it is one of those.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from envoy_data_plane.envoy.config.core.v3 import DataSource
from envoy_data_plane.envoy.extensions.filters.http.lua.v3 import Lua
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter

from extproc import contract
from extproc.config.schema import Gateway
from extproc.model import Cause

from .extensions import http_filter

_SCRIPT = files(__package__).joinpath("fallback.lua").read_text(encoding="utf-8")
_REFUSALS = (400, 413, 422)
_LONGEST = 64 * 1024  # bytes of a refusal that is looked through


@dataclass(frozen=True, slots=True)
class Signs:
    """By what a refusal is known, in lower case: `codes` stand in a field `code`, `words` anywhere."""

    codes: tuple[str, ...]
    words: tuple[str, ...]


SIGNS: Mapping[Cause, Signs] = {
    Cause.CONTENT_FILTER: Signs(
        codes=("content_filter", "content_policy_violation", "responsibleaipolicyviolation"),
        words=(
            "blocked by content filtering policy",  # Anthropic
            "your prompt was flagged as potentially violating",  # OpenAI's reasoning models
        ),
    ),
    Cause.CONTEXT_WINDOW: Signs(
        codes=("context_length_exceeded", "tokens_limit_reached"),  # OpenAI and Azure; GitHub Models
        words=(
            "maximum context length",  # OpenAI of old, vLLM, Mistral
            "exceeds the context window",
            "prompt is too long",  # Anthropic
            "exceed context limit",
            "exceeds the maximum number of tokens allowed",  # Gemini
            "maximum prompt length is",  # xAI
            "exceed_context_size_error",  # llama.cpp
        ),
    ),
}
"""In the order in which they are looked for: what a filter found may be told with the length of the text."""


def backends(gateway: Gateway) -> frozenset[str]:
    """Those whose answers are looked at: of models that have another one for such calls, and of the others."""
    public = gateway.public_names()
    models = {name: model.stand_ins for name, model in gateway.models.items() if model.stand_ins}
    named = models.keys() | {public[other] for others in models.values() for other in others.values()}
    groups = [group for name in named for group in gateway.models[name].targets]
    return frozenset(target.backend for group in groups for target in group)


def reader(cluster: str) -> HttpFilter:
    """Must be the first of its cluster's filters: what answers bring under the gateway's names is gone by then."""
    return http_filter("sluice.fallback", Lua(default_source_code=DataSource(inline_string=_lua(cluster))))


def _lua(cluster: str) -> str:
    names = {
        "CLUSTER": cluster,
        "SINK": contract.SINK_CLUSTER,
        "ORDER": contract.ORDER,
        "CHAIN": contract.CHAIN,
        "INSTEAD": contract.INSTEAD,
        "FALLBACK": contract.FALLBACK_HEADER,
        "AGAIN": contract.AGAIN_HEADER,
        "LAST": contract.LAST_HEADER,
    }
    constants = "".join(f'local {name} = "{value}"\n' for name, value in names.items())
    causes = ", ".join(
        f'{{name = "{cause.value}", codes = {_list(signs.codes)}, words = {_list(signs.words)}}}'
        for cause, signs in SIGNS.items()
    )
    refusals = ", ".join(f"[{status}] = true" for status in _REFUSALS)
    tables = f"local CAUSES = {{{causes}}}\nlocal REFUSALS = {{{refusals}}}\nlocal LONGEST = {_LONGEST}\n"
    return f"{constants}{tables}{_SCRIPT}"


def _list(words: tuple[str, ...]) -> str:
    return "{" + ", ".join(f'"{word}"' for word in words) + "}"
