"""The lines that a person sees: records of the workers made readable, colours only on a terminal."""

import sys
from datetime import datetime

import orjson
import typer

_COLOURS = {"worker": "cyan", "envoy": "magenta", "fake": "blue"}
_ENDINGS = {"cut": "cut off", "failed": "failed", "limited": "limited", "blocked": "blocked", "stalled": "stalled"}
"""Of answers, those that a person should see; a refusal tells itself."""


class Console:
    """Prints lines of children as they come. `as_json` passes them on as they are."""

    def __init__(self, as_json: bool) -> None:
        self._json = as_json
        self._colour = sys.stdout.isatty()

    def line(self, name: str, line: bytes) -> None:
        """One line of a child's output."""
        record = _record(line)
        if self._json:
            text = (
                line.decode("utf-8", "replace")
                if record
                else orjson.dumps({"kind": "log", "source": name, "text": line.decode("utf-8", "replace")}).decode()
            )
            _say(text)
        elif record is None:
            self._print(name, line.decode("utf-8", "replace"))
        elif _is_call(record):
            self._print("call", _call(record), bad=int(str(record["status"])) >= 400)
        else:
            self._print(str(record.get("kind")), _facts(record))

    def _print(self, name: str, text: str, bad: bool = False) -> None:
        name, text = printable(name), printable(text)
        if self._colour:
            name = typer.style(f"{name:<9}", fg=_COLOURS.get(name.partition("-")[0], "green"))
            text = typer.style(text, fg="yellow") if bad else text
            _say(f"{name} {text}")
        else:
            _say(f"{name:<9} {text}")


def _say(line: str) -> None:
    """In one piece: where nothing is buffered, `print` writes the end of a line apart, and workers write there, too."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def printable(text: str) -> str:
    """What a caller may have written must neither steer the terminal nor look like a line of ours."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def _record(line: bytes) -> dict[str, object] | None:
    if not line.startswith(b"{"):
        return None
    try:
        value = orjson.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and "kind" in value else None


def _is_call(record: dict[str, object]) -> bool:
    """Whether it is a record of a worker; what else a child prints must not end the reading of its lines."""
    timed = isinstance(record.get("time"), int | float) and isinstance(record.get("status"), int)
    return record["kind"] == "call" and timed


def _call(record: dict[str, object]) -> str:
    """`12:00:01 200 chat gpt-4o -> fake-openai 14 ms, 12 in + 9 out, stream, key quickstart`."""
    at = datetime.fromtimestamp(float(str(record["time"]))).strftime("%H:%M:%S")  # noqa: DTZ006 - for a person
    what = " ".join(str(record[name]) for name in ("surface", "model") if name in record)
    parts = [f"{record.get('duration_ms')} ms"]
    usage = record.get("usage")
    if isinstance(usage, dict):
        about = "about " if usage.get("source") == "estimated" else ""
        seconds = f"{usage['seconds']} s of audio" if "seconds" in usage else ""
        parts.append(seconds or f"{about}{usage.get('input')} in + {usage.get('output')} out")
    parts += ["stream"] if record.get("stream") else []
    parts += [str(record["refusal"])] if "refusal" in record else []
    parts += _screened(record)
    parts += _kept(record.get("cache"))
    parts += [_ENDINGS[ending]] if (ending := str(record.get("ending"))) in _ENDINGS else []
    parts += [f"key {record['key']}"] if "key" in record else []
    to = f" -> {record['backend']}" if "backend" in record else ""
    return f"{at} {record.get('status')} {what}{to}  {', '.join(parts)}"


def _screened(record: dict[str, object]) -> list[str]:
    """What policies found: `redacted 2 EMAIL_ADDRESS`, `content/competitors`, `UNSCREENED redaction`."""
    told: list[str] = []
    redaction, verdicts, failed = record.get("redaction"), record.get("guardrails"), record.get("unscreened")
    if isinstance(redaction, dict):
        for name, word in (("found", "found" if redaction.get("mode") == "shadow" else "redacted"), ("said", "said")):
            if found := redaction.get(name):
                told.append(f"{word} " + " ".join(f"{count} {entity}" for entity, count in found.items()))
    if isinstance(verdicts, list):
        told += dict.fromkeys(f"{verdict['guardrail']}/{verdict['rule']}" for verdict in verdicts)
    return [*told, *([f"UNSCREENED {' '.join(failed)}"] if isinstance(failed, list) else [])]


def _kept(cache: object) -> list[str]:
    """Where an answer that was kept served, or would have."""
    if not isinstance(cache, dict) or "age" not in cache:
        return []
    from_ = "would be from the cache" if cache.get("shadow") else "from the cache"
    return [f"{from_}, {cache['age']} s old"]


def _facts(record: dict[str, object]) -> str:
    return " ".join(f"{name}={value}" for name, value in record.items() if name not in ("kind", "time"))
