"""The lines that a person sees."""

import json
import os
import socket
import subprocess
import sys
from typing import Any

import pytest

from extproc.cli.console import Console

CALL: dict[str, Any] = {
    "time": 1_760_000_000.5,
    "kind": "call",
    "request_id": "r-1",
    "surface": "chat",
    "key": "app",
    "model": "gpt-4o",
    "backend": "one",
    "status": 200,
    "ending": "complete",
    "stream": True,
    "usage": {"input": 12, "output": 9, "source": "reported"},
    "duration_ms": 14.2,
}


def _told(capsys: pytest.CaptureFixture[str], line: bytes, as_json: bool = False, name: str = "worker-0") -> str:
    Console(as_json).line(name, line)
    return capsys.readouterr().out


def _call(capsys: pytest.CaptureFixture[str], **more: Any) -> str:
    record = {name: value for name, value in (CALL | more).items() if value is not None}
    return _told(capsys, json.dumps(record).encode())


def test_a_call_is_one_readable_line(capsys: pytest.CaptureFixture[str]) -> None:
    line = _call(capsys)
    assert line.startswith("call ")
    assert line.endswith(" 200 chat gpt-4o -> one  14.2 ms, 12 in + 9 out, stream, key app\n")
    assert "\x1b" not in line, "no colours where nobody looks"


def test_an_estimate_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    usage = {"input": 1, "output": 2, "source": "estimated"}
    assert "about 1 in + 2 out" in _call(capsys, usage=usage)


def test_a_refusal_and_a_cut_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    refused = _call(capsys, status=404, refusal="model_not_found", backend=None, model=None, usage=None, stream=None)
    assert " 404 chat  14.2 ms, model_not_found, key app\n" in refused
    assert "cut off" in _call(capsys, ending="cut")


def test_other_records_are_told_by_their_facts(capsys: pytest.CaptureFixture[str]) -> None:
    record = {"kind": "attempt", "time": 1.0, "backend": "one", "status": 429}
    line = _told(capsys, json.dumps(record).encode())
    assert line.split() == ["attempt", "backend=one", "status=429"]


@pytest.mark.parametrize(
    "line", [b"plain text", b"{not json", b"[1]", b"{}", b'{"x": 1}', b'{"kind": "call"', b"\xff\xfe", b""]
)
def test_whatever_else_a_child_prints_is_passed_on_with_its_name(
    capsys: pytest.CaptureFixture[str], line: bytes
) -> None:
    text = line.decode("utf-8", "replace")
    assert _told(capsys, line, name="envoy") == f"envoy     {text}\n"
    told = json.loads(_told(capsys, line, as_json=True, name="envoy"))
    assert told == {"kind": "log", "source": "envoy", "text": text}


@pytest.mark.parametrize("record", [{"kind": "call"}, {"kind": "call", "status": "x", "time": None}, {"kind": 1}])
def test_a_strange_record_does_not_end_the_telling(
    capsys: pytest.CaptureFixture[str], record: dict[str, object]
) -> None:
    """A line that raised here would end the supervision of the child that printed it."""
    assert _told(capsys, json.dumps(record).encode())


HOSTILE = "x\r\ncall 12:00:00 200 chat \x1b[2J\x9b\u202e\u2028"
ESCAPED = r"x\r\ncall 12:00:00 200 chat \x1b[2J\x9b\u202e\u2028"


@pytest.mark.parametrize("field", ["key", "model", "surface", "backend", "refusal"])
def test_no_field_steers_the_terminal_or_begins_a_line(capsys: pytest.CaptureFixture[str], field: str) -> None:
    line = _call(capsys, **{field: HOSTILE})
    assert ESCAPED in line
    assert line.removesuffix("\n").isprintable()


def test_no_other_line_does_either(capsys: pytest.CaptureFixture[str]) -> None:
    record = json.dumps({"kind": HOSTILE, "who": HOSTILE}).encode()
    assert _told(capsys, record) == f"{ESCAPED} who={ESCAPED}\n"
    assert _told(capsys, HOSTILE.encode(), name="envoy") == f"envoy     {ESCAPED}\n"


def test_records_pass_as_they_are_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    line = json.dumps(CALL).encode()
    assert _told(capsys, line, as_json=True) == line.decode() + "\n"


def test_a_terminal_gets_colours(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert "\x1b[33m" in _call(capsys, status=500)
    assert "\x1b[33m" not in _call(capsys)


def test_an_answer_that_was_kept_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    hit = _call(capsys, backend=None, usage=None, cache={"result": "hit", "age": 7, "saved": 1})
    assert " 200 chat gpt-4o  14.2 ms, stream, from the cache, 7 s old, key app\n" in hit
    assert "would be from the cache, 7 s old" in _call(capsys, cache={"result": "miss", "shadow": True, "age": 7})
    for cache in ({"result": "miss"}, {"result": "bypass", "reason": "stored"}, 5, None):
        assert "cache" not in _call(capsys, cache=cache)


@pytest.mark.parametrize("as_json", [True, False], ids=["json", "text"])
def test_a_line_is_written_in_one_piece_even_where_python_buffers_nothing(as_json: bool) -> None:
    """Workers write to the same place: what they say would stand between a line and its end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # what is written at once is read at once
    with ours, theirs:
        script = f"from extproc.cli.console import Console; Console({as_json}).line('envoy', b'it is up')"
        environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
        subprocess.run([sys.executable, "-c", script], stdout=theirs.fileno(), env=environ, check=True, timeout=60)
        line = ours.recv(4096)
    assert b"it is up" in line
    assert line.endswith(b"\n")
