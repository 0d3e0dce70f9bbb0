"""Load from many callers, with locust: `locust -f loadtest/locustfile.py --host URL --keys-file FILE`.

Half of the users are programs of the official OpenAI SDK, half speak HTTP by themselves; see docs/loadtest.md. A call
that is refused as it should be counts as a success under a name of its own. Beside each kind of stream stand the time
to its first token (TTFT) and the time between tokens that its reader noticed (GAP), which are not calls and so are not
in the totals.
"""

import random
import ssl
import threading
import time
from abc import ABCMeta, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
from geventhttpclient import HTTPClient
from locust import User, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner
from locust.user.users import UserMeta
from openai import APIConnectionError, APIError, APIStatusError, DefaultHttpxClient, OpenAI, Timeout

from loadtest import mixes
from loadtest.mixes import Json, Kind, Wish

_PATIENCE = 120.0  # seconds without a byte


class WrongAnswer(Exception):
    """A call that did not go as it should; the text is what locust sums failures up by."""

    def __repr__(self) -> str:
        return str(self)


class Refusal(Exception):
    """An answer that says no."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(f"{status} {code}")
        self.told = (status, code)


# ---- options -------------------------------------------------------------------------------------------


@events.init_command_line_parser.add_listener
def _options(parser: LocustArgumentParser) -> None:
    usual, group = Wish(), parser.add_argument_group("Calls of a gateway")
    group.add_argument(
        "--mix", default="everyday", env_var="LOAD_MIX", help=f"{', '.join(mixes.MIXES)}, or chat=3,stream=1"
    )
    group.add_argument("--keys-file", default="", env_var="LOAD_KEYS_FILE", help="one key a line, or `KEY poor`")
    group.add_argument("--chat-model", default=usual.chat, env_var="LOAD_CHAT_MODEL", help="public name of a model")
    group.add_argument("--embeddings-model", default=usual.embeddings, env_var="LOAD_EMBEDDINGS_MODEL")
    group.add_argument("--failover-model", default=usual.failover, env_var="LOAD_FAILOVER_MODEL")
    group.add_argument("--failing-model", default=usual.failing, env_var="LOAD_FAILING_MODEL")
    group.add_argument("--tokens", type=int, default=usual.tokens, env_var="LOAD_TOKENS", help="of an answer, at most")
    group.add_argument("--think", type=float, default=1.0, env_var="LOAD_THINK", help="mean seconds between calls")
    group.add_argument("--pace", type=float, default=30.0, env_var="LOAD_PACE", help="tokens a second that people read")
    group.add_argument(
        "--fake-pace", type=float, default=0.0, env_var="LOAD_FAKE_PACE", help="that the fake provider streams; 0: none"
    )
    group.add_argument(
        "--most-failed", type=float, default=0.0, env_var="LOAD_MOST_FAILED", help="percent; else exit 1"
    )


@events.init.add_listener
def _prepare(environment: Environment, **_: Any) -> None:
    """Read the options once, so that a wrong one is told before the first call. Raises SystemExit."""
    given: Any = environment.parsed_options
    if isinstance(environment.runner, MasterRunner):
        return  # which calls nobody
    try:
        _Crowd.weights = mixes.mix(given.mix)
        _Crowd.keys = mixes.keys(Path(given.keys_file))
    except mixes.MixError as problem:
        raise SystemExit(str(problem)) from None
    names = (given.chat_model, given.embeddings_model, given.failover_model, given.failing_model)
    _Crowd.wish = Wish(*names, given.tokens, given.fake_pace or None)
    _Crowd.think, _Crowd.pace = given.think, given.pace


@events.quitting.add_listener
def _verdict(environment: Environment, **_: Any) -> None:
    """Status 1 where nothing was called, or more calls failed than may: told by who has all the figures."""
    if isinstance(environment.runner, WorkerRunner):
        return
    total, given = environment.stats.total, environment.parsed_options
    allowed = 0.0 if given is None else given.most_failed / 100
    environment.process_exit_code = 0 if total.num_requests and total.fail_ratio <= allowed else 1


# ---- users ---------------------------------------------------------------------------------------------


class _CallerMeta(ABCMeta, UserMeta):
    """What locust asks of a user's class, and that no class without the methods of one makes a user."""


class _Crowd(User, metaclass=_CallerMeta):
    """One caller: draws a kind of call from the mix, makes it, and thinks."""

    abstract = True
    tells: str  # of a call, in the statistics: who made it
    weights: Mapping[str, int]
    keys: mixes.Keys
    wish: Wish
    think: float
    pace: float

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.dice = random.Random()

    def wait_time(self) -> float:
        """As between calls of many independent people."""
        return self.dice.expovariate(1 / self.think) if self.think else 0.0

    @task
    def call(self) -> None:
        """Make one call and tell locust how it went."""
        kind = mixes.draw(self.weights, self.dice)
        key, asked = self.keys.of(kind, self.dice), mixes.body(kind, self.wish, self.dice)
        problem: Exception | None = None
        name, size, began = kind.name, 0, time.perf_counter()
        try:
            size = self.made(kind, key, asked)
        except Refusal as refusal:
            if refusal.told in kind.right:
                name = f"{kind.name}, rightly {refusal}"
            else:
                problem = WrongAnswer(str(refusal))
        except Exception as failed:  # whatever a client library raises is a call that failed
            problem = failed if isinstance(failed, WrongAnswer) else WrongAnswer(type(failed).__name__)
        self.environment.events.request.fire(
            request_type=self.tells,
            name=name,
            response_time=(time.perf_counter() - began) * 1000,
            response_length=size,
            exception=problem,
            context={},
        )

    @abstractmethod
    def made(self, kind: Kind, key: str, asked: Json) -> int:
        """Make the call; bytes or characters of its answer. Raises Refusal, WrongAnswer, and what clients raise."""

    def tokens(self, kind: Kind, pieces: Iterator[str], paced: bool) -> int:
        """Read a stream to its end, by a person's pace where `paced`; how many characters it said."""
        said, last = 0, time.perf_counter()
        for number, piece in enumerate(pieces):
            now = time.perf_counter()
            self._note("GAP" if number else "TTFT", kind, now - last)
            said += len(piece)
            if paced:
                time.sleep(1 / self.pace)  # gevent's, as all of this process
            last = time.perf_counter()
        if not said:
            raise WrongAnswer("a stream without a word")
        return said

    def _note(self, what: str, kind: Kind, seconds: float) -> None:
        self.environment.stats.get(kind.name, what).log(round(seconds * 1000), 0)


class SdkUser(_Crowd):
    """A program with the official SDK, which reads streams as fast as a person does."""

    tells = "SDK"
    _http: DefaultHttpxClient | None = None
    _making = threading.Lock()

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._base = f"{environment.host}/v1"

    @classmethod
    def _shared(cls) -> DefaultHttpxClient:
        """One pool of connections for all: to read the certificates of the system takes longer than a call."""
        with cls._making:
            if cls._http is None:
                cls._http = DefaultHttpxClient(timeout=Timeout(_PATIENCE), trust_env=False)
            return cls._http

    def made(self, kind: Kind, key: str, asked: Json) -> int:
        # Retries of the SDK would hide what failed.
        client = OpenAI(api_key=key, base_url=self._base, max_retries=0, http_client=self._shared())
        try:
            return self._asked(client, kind, asked)
        except APIStatusError as refused:
            raise Refusal(refused.status_code, refused.code or mixes.NO_CODE) from None
        except APIConnectionError as failed:
            raise WrongAnswer(type(failed.__cause__ or failed).__name__) from None
        except APIError as failed:
            raise WrongAnswer(f"an error in a stream: {failed.code}") from None

    def _asked(self, client: OpenAI, kind: Kind, asked: Json) -> int:
        if kind.path == mixes.EMBEDDINGS:
            return len(client.embeddings.create(**asked).data)
        given: dict[str, Any] = {name: value for name, value in asked.items() if name != "x_fake"}
        given["extra_body"] = {name: asked[name] for name in asked if name == "x_fake"}
        answer: Any = client.chat.completions.create(**given)
        if not kind.stream:
            return len(answer.choices[0].message.content or "")
        with answer:
            return self.tokens(kind, _said(answer), paced=True)


def _said(stream: Any) -> Iterator[str]:
    """The texts of a stream's chunks. Raises WrongAnswer where it was cut off."""
    ended = False
    for chunk in stream:
        for choice in chunk.choices:
            ended = ended or choice.finish_reason is not None
            if choice.delta.content:
                yield choice.delta.content
    if not ended:
        raise WrongAnswer("a stream that was cut off")


class RawUser(_Crowd):
    """A program that speaks HTTP by itself, keeps its connection, and reads as fast as it can."""

    tells = "HTTP"

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        place = urlsplit(environment.host or "")
        self._client = HTTPClient(
            place.hostname or "127.0.0.1",
            place.port,
            ssl=place.scheme == "https",
            ssl_context_factory=ssl.create_default_context,  # the system's authorities
            connection_timeout=_PATIENCE,
            network_timeout=_PATIENCE,
        )

    def on_stop(self) -> None:
        self._client.close()

    def made(self, kind: Kind, key: str, asked: Json) -> int:
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        with closing(_Released(self._client.request("POST", kind.path, orjson.dumps(asked), headers))) as held:
            answer = held.answer
            if answer.status_code != 200:
                raise Refusal(answer.status_code, _code(answer.read()))
            if kind.stream:
                return self.tokens(kind, _events(answer), paced=False)
            return _size(answer.read(), kind)


class _Released:
    """An answer whose connection goes back to the pool where it was read to its end, and else is closed."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def close(self) -> None:
        self.answer.release()


def _events(answer: Any) -> Iterator[str]:
    """The same texts, out of the lines of a stream. Raises WrongAnswer."""
    while line := answer.readline(b"\n"):
        if not line.startswith(b"data: "):
            continue
        if line.startswith(b"data: [DONE]"):
            answer.read()
            return
        event = orjson.loads(line[len(b"data: ") :])
        if "error" in event:
            raise WrongAnswer(f"an error in a stream: {event['error'].get('code')}")
        for choice in event["choices"]:
            if choice["delta"].get("content"):
                yield choice["delta"]["content"]
    raise WrongAnswer("a stream that was cut off")


def _size(content: bytes, kind: Kind) -> int:
    try:
        answer = orjson.loads(content)
    except orjson.JSONDecodeError:
        raise WrongAnswer("an answer that is not JSON") from None
    if not answer.get("data" if kind.path == mixes.EMBEDDINGS else "choices"):
        raise WrongAnswer("an answer without an answer")
    return len(content)


def _code(content: bytes) -> str:
    try:
        return str(orjson.loads(content)["error"]["code"] or mixes.NO_CODE)
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return mixes.NO_CODE
