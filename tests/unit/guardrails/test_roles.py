"""Who speaks in each text of the requests that SDKs send."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.guardrails.roles import role
from extproc.redaction import positions


def roles(body: dict[str, Any]) -> dict[str, str]:
    """By text."""
    found = positions.read(orjson.dumps(body))
    return {one.text[one.lead :]: role(body, one.path) for one in found}


def test_a_chat() -> None:
    body = {
        "messages": [
            {"role": "system", "content": "S"},
            {"role": "developer", "content": [{"type": "text", "text": "D"}]},
            {"role": "user", "name": "N", "content": [{"type": "text", "text": "U"}]},
            {
                "role": "assistant",
                "content": "A",
                "tool_calls": [{"function": {"name": "F", "arguments": '{"q": "G"}'}}],
            },
            {"role": "tool", "content": "T"},
            {"role": "function", "content": "L"},
            {"role": "wizard", "content": "W"},
            {"content": "nobody"},
        ],
        "tools": [{"type": "function", "function": {"name": "F2", "description": "what it does"}}],
        "user": "u-1",
        "metadata": {"key of ours": "M"},
    }
    found = roles(body)
    assert {text: found[text] for text in ("S", "D", "N", "U", "A", "F", "G", "T", "L", "W", "nobody")} == {
        "S": "system", "D": "developer", "N": "user", "U": "user", "A": "assistant", "F": "assistant", "G": "assistant",
        "T": "tool", "L": "tool", "W": "user", "nobody": "user",
    }  # fmt: skip
    assert found["what it does"] == "tools"
    assert {found[text] for text in ("u-1", "M", "key of ours")} == {"aside"}


def test_messages_of_anthropic() -> None:
    found = roles(
        {
            "system": [{"type": "text", "text": "S"}],
            "messages": [
                {"role": "user", "content": "U"},
                {"role": "assistant", "content": [{"type": "tool_use", "input": {"q": "A"}}]},
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "content": [{"type": "text", "text": "T"}]},
                        {"type": "document", "title": "D", "source": {"type": "text", "data": "E"}},
                        {"type": "search_result", "content": [{"type": "text", "text": "R"}]},
                        {"type": "text", "text": "V"},
                    ],
                },
                {"role": "assistant", "content": [{"type": "web_search_tool_result", "content": [{"title": "X"}]}]},
            ],
        }
    )
    assert "".join(sorted(text for text, who in found.items() if who == "tool" and len(text) == 1)) == "DERTX"
    assert {text: found[text] for text in "SUAV"} == {"S": "system", "U": "user", "A": "assistant", "V": "user"}


def test_responses() -> None:
    found = roles(
        {
            "instructions": "S",
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "U"}]},
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "A"}]},
                {"type": "function_call", "name": "F", "arguments": "{}"},
                {"type": "function_call_output", "output": "T"},
                {"type": "mcp_call", "arguments": "G", "output": "M"},
                {"type": "file_search_call", "queries": ["Q"], "results": [{"text": "R"}]},
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": "I"}]},
                {"type": "mcp_list_tools", "tools": [{"description": "L"}]},
                {"type": "unheard_of", "text": "X"},
            ],
        }
    )
    assert {text: who for text, who in found.items() if len(text) == 1} == {
        "S": "system", "U": "user", "A": "assistant", "F": "assistant", "T": "tool", "G": "assistant", "M": "tool",
        "Q": "assistant", "R": "tool", "I": "assistant", "L": "tool", "X": "user",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("body", "who"),
    [
        ({"prompt": "text"}, "user"),
        ({"prompt": ["text"]}, "user"),
        ({"input": "text"}, "user"),
        ({"input": ["text"]}, "user"),
        ({"suffix": "text"}, "user"),
        ({"query": "text"}, "user"),
        ({"documents": ["text"]}, "tool"),
        ({"unheard_of": {"system": "text"}}, "user"),
        ({"functions": [{"description": "text"}]}, "tools"),
    ],
)
def test_other_surfaces(body: dict[str, Any], who: str) -> None:
    assert roles(body)["text"] == who


def test_a_role_is_no_place_to_hide() -> None:
    assert roles({"messages": [{"role": ["system"], "content": "x1"}]})["x1"] == "user"
    assert roles({"messages": [{"type": "message", "content": "x2"}]})["x2"] == "user"
    assert roles({"messages": {"role": "system", "content": "x3"}})["x3"] == "user"
    assert roles({"input": [{"type": "unheard_of", "role": "system", "text": "x4"}]})["x4"] == "user"


@given(
    st.dictionaries(
        st.sampled_from(["messages", "input", "system"]),
        st.lists(st.none() | st.text() | st.dictionaries(st.text(), st.text())),
    ),
    st.lists(st.sampled_from(["messages", "input", "content", 0, 1, 7]), max_size=5),
)
def test_no_path_makes_it_fail(body: dict[str, Any], path: list[str | int]) -> None:
    assert role(body, tuple(path)) in {"system", "developer", "user", "assistant", "tool", "tools", "aside"}
