"""`sluice smoke`: whether a deployed gateway serves, found out from outside by a few real calls."""

import http.client
import json
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn
from urllib.parse import urlsplit

import typer

from extproc.cli.keys import JsonOption
from extproc.cli.tables import print_table
from extproc.identity.keys import mint

_CHAT = "/v1/chat/completions"
_UNKNOWN = "no-such-model-smoke-test"
_MOST_TOKENS = 64
_MOST_BODY = 4 * 2**20  # bytes of an answer that are read
_MOST_SAID = 100  # characters of an answer that is not as it should be

Json = dict[str, Any]


def smoke(
    url: Annotated[str, typer.Option(help="Where the gateway listens, such as https://ai.example.com.")],
    key_file: Annotated[Path, typer.Option(help="A file with a key of the gateway's, on its first line.")],
    model: Annotated[
        str, typer.Option(help="The model to ask. Absent: the first that chats.", show_default=False)
    ] = "",
    ca: Annotated[
        Path | None, typer.Option(help="PEM file of the authority to trust; absent: the system's.", show_default=False)
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds without a byte until a call is given up.", min=0.1)] = 30.0,
    as_json: JsonOption = False,
) -> None:
    """Check a deployed gateway by real calls: health, models, refusals, a chat answered whole, and one as a stream.

    They cost some ten tokens each. The key must be allowed the model, and is never printed. Exit code 0: all is well;
    1: something is not, the table says what, with the request id to look for in the log; 2: nothing could be asked.

    [bold]Examples[/bold]

      sluice smoke --url http://127.0.0.1:8080 --key-file key.txt

      sluice smoke --url https://ai.example.com --key-file key.txt --ca ca.pem --model gpt-4o --json
    """
    key = _key(key_file)
    round_ = _Round(_Client(url, key, timeout, _tls(ca)), model)
    findings = list(round_.findings())
    is_well = all(finding.ok for finding in findings)
    if as_json:
        checks = [finding.told() for finding in findings]
        typer.echo(json.dumps({"url": url, "model": round_.model, "ok": is_well, "checks": checks}))
    else:
        headings = {"CHECK": False, "": False, "MS": False, "WHAT CAME OF IT": True}
        print_table(headings, [finding.row() for finding in findings], right=("MS",))
    raise typer.Exit(0 if is_well else 1)


def _key(file: Path) -> str:
    try:
        lines = file.read_text("utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        _misused(f"--key-file: {file} cannot be read ({getattr(error, 'strerror', None) or 'it is no text'}).")
    if not lines or not lines[0].isascii():
        _misused(f"--key-file: there is no key in {file}.")
    return lines[0]


def _tls(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=None if ca is None else str(ca))
    except OSError:  # of which ssl's own errors are a kind
        _misused(f"--ca: no certificate can be read from {ca}.")


def _misused(message: str) -> NoReturn:
    typer.secho(message, err=True, fg=typer.colors.RED)
    raise typer.Exit(2)


# ---- calls --------------------------------------------------------------------------------------------


class _Failed(Exception):
    """What came is not what should have."""


class _Unreachable(_Failed):
    """Nobody answers there."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def tree(self) -> Json:
        """Raises _Failed where it is no JSON object."""
        try:
            tree = json.loads(self.text)
        except ValueError:
            tree = None
        if not isinstance(tree, dict):
            raise _Failed(f"no JSON came, with {self.said}")
        return tree

    @property
    def said(self) -> str:
        """The status, and the code of an error of the gateway's, else how the text begins."""
        try:
            code = json.loads(self.text)["error"]["code"]
        except (ValueError, TypeError, KeyError):
            code = None
        return f"{self.status} {code if isinstance(code, str) else ' '.join(self.text.split())[:_MOST_SAID]}".rstrip()

    def must_be(self, status: int) -> None:
        """Raises _Failed where it is not."""
        if self.status != status:
            raise _Failed(f"{self.said} in place of {status}")


class _Client:
    """Calls of one key, each on a connection of its own, as each may find another instance behind a balancer."""

    def __init__(self, url: str, key: str, timeout: float, tls: ssl.SSLContext) -> None:
        parts = urlsplit(url)
        try:
            self._host, self._port = parts.hostname or "", parts.port
        except ValueError:
            self._host = ""
        if parts.scheme not in ("http", "https") or not self._host or parts.query or "@" in parts.netloc:
            _misused("--url: must be like https://ai.example.com or http://127.0.0.1:8080.")
        self._tls = tls if parts.scheme == "https" else None
        self._base = parts.path.rstrip("/").removesuffix("/v1")
        self._timeout = timeout
        self.key = key
        self.request_id = ""  # of the last call

    def call(self, path: str, body: Json | None = None, key: str | None = None) -> _Answer:
        """One call, its answer read whole. `key`: another than our own; empty: none. Raises _Failed."""
        with self._answer(path, body, self.key if key is None else key) as answer:
            text = answer.read(_MOST_BODY).decode("utf-8", "replace")
            return _Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, text)

    def events(self, path: str, body: Json) -> Iterator[str]:
        """The data of each server-sent event, as it comes. Raises _Failed."""
        with self._answer(path, body, self.key) as answer:
            kind = answer.getheader("content-type") or ""
            if answer.status != 200 or not kind.startswith("text/event-stream"):
                text = answer.read(_MOST_BODY).decode("utf-8", "replace")
                raise _Failed(f"a stream was expected, and came {_Answer(answer.status, {}, text).said}")
            while line := answer.readline(_MOST_BODY):
                if line.startswith(b"data:"):
                    yield line[5:].strip().decode("utf-8", "replace")

    @contextmanager
    def _answer(self, path: str, body: Json | None, key: str) -> Iterator[http.client.HTTPResponse]:
        self.request_id = ""
        connection = self._connection()
        try:
            try:
                connection.connect()
            except (OSError, UnicodeError) as error:
                raise _Unreachable(f"no connection: {error}") from None
            headers = {"authorization": f"Bearer {key}"} if key else {}
            if body is None:
                connection.request("GET", self._base + path, headers=headers)
            else:
                headers["content-type"] = "application/json"
                connection.request("POST", self._base + path, json.dumps(body), headers)
            answer = connection.getresponse()
            self.request_id = answer.getheader("x-request-id") or ""
            yield answer
        except TimeoutError:
            raise _Failed(f"nothing came for {self._timeout:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            raise _Failed(f"the connection broke: {type(error).__name__}") from None
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        return http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout, context=self._tls)


# ---- checks -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of a check. `ok` None: it was left out, for want of what another one should have found."""

    check: str
    ok: bool | None
    seconds: float
    detail: str
    request_id: str

    def told(self) -> Json:
        found = {"check": self.check, "ok": self.ok, "ms": round(self.seconds * 1000), "detail": self.detail}
        return found if self.ok else {**found, "request_id": self.request_id}

    def row(self) -> tuple[str, str, str, str]:
        word = {True: "ok", False: "FAILED", None: "left out"}[self.ok]
        where = f" (x-request-id: {self.request_id})" if self.ok is False and self.request_id else ""
        return self.check, word, "" if self.ok is None else f"{self.seconds * 1000:.0f}", self.detail + where


class _Round:
    """All checks, in the order in which one leads to the next."""

    def __init__(self, client: _Client, model: str) -> None:
        self.model = model
        self._client = client
        self._candidates = [model] if model else []

    def findings(self) -> Iterator[Finding]:
        checks: dict[str, Callable[[], str]] = {
            "health": self._health,
            "readiness": self._readiness,
            "models": self._models,
            "no key": lambda: self._refused_key("", "missing_api_key"),
            "wrong key": lambda: self._refused_key(mint(b"s" * 32), "invalid_api_key"),
            "unknown model": self._unknown_model,
            "chat": self._chat,
            "stream": self._stream,
        }
        unreachable = False
        for name, check in checks.items():
            if unreachable or (name in ("chat", "stream") and not self._candidates):
                yield Finding(name, None, 0.0, "nobody was reached" if unreachable else "no model to ask", "")
                continue
            began = time.monotonic()
            try:
                detail, ok = check(), True
            except _Failed as failed:
                detail, ok = str(failed), False
                unreachable = isinstance(failed, _Unreachable)
            told = detail.replace(self._client.key, "***")
            yield Finding(name, ok, time.monotonic() - began, told, self._client.request_id)

    def _health(self) -> str:
        self._client.call("/healthz", key="").must_be(200)
        return "Envoy answers"

    def _readiness(self) -> str:
        self._client.call("/readyz", key="").must_be(200)
        return "a policy worker answers"

    def _models(self) -> str:
        answer = self._client.call("/v1/models")
        answer.must_be(200)
        listed = answer.tree.get("data")
        names = [str(one.get("id")) for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
        if not names:
            raise _Failed("the key may use no model")
        if self.model and self.model not in names:
            raise _Failed(f"{self.model} is not among {len(names)}: {', '.join(names)[:_MOST_SAID]}")
        self._candidates = self._candidates or names
        return f"{len(names)} that the key may use"

    def _refused_key(self, key: str, code: str) -> str:
        answer = self._client.call(_CHAT, self._question(_UNKNOWN), key)
        return self._refusal(answer, 401, code)

    def _unknown_model(self) -> str:
        return self._refusal(self._client.call(_CHAT, self._question(_UNKNOWN)), 404, "model_not_found")

    def _refusal(self, answer: _Answer, status: int, code: str) -> str:
        """It must be of the shape that SDKs read, and name itself as the log does."""
        answer.must_be(status)
        error = answer.tree.get("error")
        if not isinstance(error, dict) or error.get("code") != code or not error.get("message"):
            raise _Failed(f"an error `{code}` was expected, and came {answer.said}")
        if not answer.headers.get("x-request-id") or answer.tree.get("request_id") != answer.headers["x-request-id"]:
            raise _Failed("the error does not tell its x-request-id")
        if answer.headers.get("x-should-retry") != "false":
            raise _Failed("the answer does not tell SDKs that trying again is useless (x-should-retry)")
        return f"{status} {code}"

    def _question(self, model: str, **more: Any) -> Json:
        messages = [{"role": "user", "content": "Answer with the one word OK."}]
        return {"model": model, "messages": messages, "max_completion_tokens": _MOST_TOKENS, **more}

    def _chat(self) -> str:
        """Ask the model, or else each that there is until one chats: some are for other things."""
        for model in self._candidates:
            answer = self._client.call(_CHAT, self._question(model))
            if self.model or not _is_for_other_things(answer):
                self.model = model
                break
        else:
            self._candidates = []
            raise _Failed("none of the models chats: name one with --model")
        answer.must_be(200)
        tree = answer.tree
        choices = tree.get("choices")
        if not isinstance(choices, list) or not choices or "message" not in choices[0]:
            raise _Failed(f"there is no message in what came: {answer.said}")
        return f"{self.model}: {_tokens(tree)} tokens"

    def _stream(self) -> str:
        model = self.model or self._candidates[0]
        body = self._question(model, stream=True, stream_options={"include_usage": True})
        began, first, deltas, tokens, last = time.monotonic(), 0.0, 0, 0, ""
        for data in self._client.events(_CHAT, body):
            first = first or time.monotonic() - began
            last = data
            event = _event(data)
            if event.get("choices"):
                deltas += 1
            if event.get("usage"):
                tokens = _tokens(event)
        if last != "[DONE]":
            raise _Failed(f"the stream broke off after {deltas} events" if deltas else "no event came")
        if not deltas or not tokens:
            raise _Failed(f"a whole stream came without {'usage' if deltas else 'content'}")
        return f"{model}: first event after {first * 1000:.0f} ms, {deltas} events, {tokens} tokens"


def _is_for_other_things(answer: _Answer) -> bool:
    return answer.status == 400 and '"unsupported_by_model"' in answer.text


def _event(data: str) -> Json:
    if data == "[DONE]":
        return {}
    try:
        event = json.loads(data)
    except ValueError:
        raise _Failed("an event is no JSON") from None
    if not isinstance(event, dict):
        raise _Failed("an event is no JSON object")
    if "error" in event:
        raise _Failed(f"an error came inside the stream: {data[:_MOST_SAID]}")
    return event


def _tokens(tree: Json) -> int:
    """Raises _Failed where no usage is told."""
    usage = tree.get("usage")
    total = usage.get("total_tokens") if isinstance(usage, dict) else None
    if not isinstance(total, int) or total <= 0:
        raise _Failed("no usage is told")
    return total
