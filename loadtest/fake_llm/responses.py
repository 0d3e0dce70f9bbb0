"""The Responses API: creation, its stream of events, and the responses that an instance remembers."""

from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Iterator
from typing import Any

import orjson

from loadtest.fake_llm import content, tokenizer, turn
from loadtest.fake_llm.answer import CREATED, EVENT_STREAM, Answer, Event, Json, event
from loadtest.fake_llm.errors import ApiError
from loadtest.fake_llm.inquiry import Inquiry
from loadtest.fake_llm.store import Stored
from loadtest.fake_llm.turn import Ask, Counts, ToolCall, Turn

_TOOL_ANSWERS = frozenset({"function_call_output", "custom_tool_call_output"})


def create(inquiry: Inquiry) -> Answer:
    """Answer the creation of a response. Raises ApiError as the provider would refuse it."""
    body, model = inquiry.body, inquiry.model
    items = _input_items(inquiry)
    _check_references(inquiry, items)
    ask = _ask(body, items, _earlier_tokens(inquiry))
    said = turn.compose(ask, inquiry.faults)
    counts = turn.count(ask, [said], inquiry.faults)
    draft = _Draft(inquiry, model, said, counts)
    finished = draft.finished(next(iter(turn.reported(_usage(counts), inquiry.faults)), None))
    background = bool(body.get("background"))
    if body.get("store", True):
        inquiry.store.add(Stored(finished, items, queued=background))
    if body.get("stream"):
        failure = Event(b'{"type":"error","code":"server_error","message":"broken","param":null,"sequence_number":0}')
        return Answer(
            content_type=EVENT_STREAM,
            events=draft.events(),
            input_tokens=counts.input,
            classes=counts.classes,
            error_event=failure._replace(name="error"),
        )
    if background:
        return Answer(body=orjson.dumps(draft.unfinished("queued")), input_tokens=counts.input)
    return Answer(
        body=orjson.dumps(finished), input_tokens=counts.input, output_tokens=counts.output, classes=counts.classes
    )


def item(inquiry: Inquiry) -> Answer:
    """Retrieve, delete or cancel one response, or list its input. ApiError (404) for an unknown one."""
    stored = inquiry.store.get(inquiry.item)
    if stored is None:
        raise ApiError(404, f"Response with id '{inquiry.item}' not found.")
    match inquiry.method, inquiry.action:
        case "DELETE", "":
            inquiry.store.remove(inquiry.item)
            return _json({"id": inquiry.item, "object": "response", "deleted": True})
        case "POST", "cancel":
            return _json(_cancelled(stored))
        case "GET", "input_items":
            return _json(_listing(stored.input_items))
        case "GET", "":
            stored.queued = False
            return _json(stored.response)
        case _:
            raise ApiError(405, f"Not allowed to {inquiry.method} on this path.", code="method_not_supported")


def _json(body: Json) -> Answer:
    return Answer(body=orjson.dumps(body))


def _cancelled(stored: Stored) -> Json:
    if not stored.queued:
        raise ApiError(400, "Cannot cancel a synchronous response.")
    stored.queued = False
    stored.response = stored.response | {"status": "cancelled", "output": [], "usage": None}
    return stored.response


def _listing(items: list[Json]) -> Json:
    edges = [items[place].get("id") if items else None for place in (0, -1)]
    return {"object": "list", "data": items, "first_id": edges[0], "last_id": edges[1], "has_more": False}


# ---- reading the request -------------------------------------------------------------------------


def _input_items(inquiry: Inquiry) -> list[Json]:
    given = inquiry.need("input")
    if isinstance(given, str):
        given = [{"role": "user", "content": [{"type": "input_text", "text": given}]}]
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise ApiError(400, "Invalid type for 'input'.", param="input", code="invalid_type")
    return [{"type": "message", "id": inquiry.id("msg_in_", place)} | one for place, one in enumerate(given)]


def _check_references(inquiry: Inquiry, items: list[Json]) -> None:
    """What another instance made cannot be referred to: a stored item, or reasoning it encrypted."""
    for one in items:
        if one["type"] == "item_reference" and not inquiry.store.has_item(str(one.get("id"))):
            raise ApiError(404, f"Item with id '{one.get('id')}' not found.", param="input")
        if one["type"] == "reasoning" and one.get("encrypted_content"):
            _check_encrypted(inquiry, str(one["encrypted_content"]))


def _check_encrypted(inquiry: Inquiry, encrypted: str) -> None:
    try:
        maker = b64decode(encrypted, validate=True).decode().partition("/")[0]
    except (NotBase64, UnicodeDecodeError):
        maker = ""
    if maker != inquiry.instance:
        raise ApiError(400, "The encrypted content could not be verified.", code="invalid_encrypted_content")


def _earlier_tokens(inquiry: Inquiry) -> int:
    """What the model reads of the response that this one continues."""
    earlier = inquiry.body.get("previous_response_id")
    if earlier is None:
        return 0
    stored = inquiry.store.get(earlier)
    if stored is None:
        raise ApiError(
            400,
            f"Previous response with id '{earlier}' not found.",
            param="previous_response_id",
            code="previous_response_not_found",
        )
    return int((stored.response["usage"] or {}).get("total_tokens", 0))


def _ask(body: Json, items: list[Json], earlier_tokens: int) -> Ask:
    users = [one for one in items if one.get("role") == "user"]
    read = sum(content.count(one.get("content", one.get("output"))) for one in items)
    instructions = content.count(body.get("instructions"))
    return Ask(
        last_text=content.text_of(users[-1].get("content")) if users else "",
        input_tokens=read + instructions + content.count_json(body.get("tools")) + earlier_tokens,
        limit=body.get("max_output_tokens"),
        tools=_tools_to_call(body, answered=bool(items) and items[-1].get("type") in _TOOL_ANSWERS),
        schema=_schema((body.get("text") or {}).get("format")),
    )


def _tools_to_call(body: Json, answered: bool) -> tuple[ToolCall, ...]:
    choice = body.get("tool_choice")
    functions = [tool for tool in body.get("tools") or () if tool.get("type") == "function"]
    if isinstance(choice, dict) and "name" in choice:
        functions = [tool for tool in functions if tool["name"] == choice["name"]]
    if choice == "none" or (answered and choice in (None, "auto")):
        return ()
    if body.get("parallel_tool_calls") is False:
        functions = functions[:1]
    return tuple(turn.tool_call(tool["name"], tool.get("parameters")) for tool in functions)


def _schema(text_format: Any) -> Json | None:
    match text_format:
        case {"type": "json_schema", "schema": dict(schema)}:
            return schema
        case {"type": "json_object"}:
            return {}
        case _:
            return None


# ---- building the response -----------------------------------------------------------------------


def _usage(counts: Counts) -> Json:
    return {
        "input_tokens": counts.input,
        "input_tokens_details": {"cached_tokens": counts.cached, "cache_write_tokens": counts.cache_write},
        "output_tokens": counts.output,
        "output_tokens_details": {"reasoning_tokens": counts.reasoning},
        "total_tokens": counts.input + counts.output,
    }


class _Draft:
    """One response while it is made: its output items, and the events that tell of them."""

    def __init__(self, inquiry: Inquiry, model: str, said: Turn, counts: Counts) -> None:
        self._inquiry, self._model, self._said, self._counts = inquiry, model, said, counts
        self._sequence = -1

    def finished(self, usage: Json | None) -> Json:
        """The whole response; it is incomplete when the limit cut its text."""
        status = "incomplete" if self._said.cut else "completed"
        whole = self._response(status, self._output(status), usage)
        if self._said.cut:
            whole["incomplete_details"] = {"reason": "max_output_tokens"}
        return whole

    def unfinished(self, status: str) -> Json:
        """The response before it has any output or usage."""
        return self._response(status, [], None)

    def _response(self, status: str, output: list[Json], usage: Json | None) -> Json:
        body = self._inquiry.body
        conversation = body.get("conversation")
        return {
            "id": self._inquiry.id("resp_"),
            "object": "response",
            "created_at": CREATED,
            "status": status,
            "background": bool(body.get("background")),
            "conversation": {"id": conversation} if isinstance(conversation, str) else conversation,
            "error": None,
            "incomplete_details": None,
            "instructions": body.get("instructions"),
            "max_output_tokens": body.get("max_output_tokens"),
            "model": self._model,
            "output": output,
            "parallel_tool_calls": body.get("parallel_tool_calls", True),
            "previous_response_id": body.get("previous_response_id"),
            "reasoning": body.get("reasoning") or {"effort": None, "summary": None},
            "service_tier": self._inquiry.faults.served_tier or "default",
            "store": body.get("store", True),
            "temperature": body.get("temperature", 1.0),
            "text": body.get("text") or {"format": {"type": "text"}},
            "tool_choice": body.get("tool_choice", "auto"),
            "tools": body.get("tools") or [],
            "top_p": body.get("top_p", 1.0),
            "truncation": body.get("truncation", "disabled"),
            "usage": usage,
            "user": body.get("user"),
            "metadata": body.get("metadata") or {},
        }

    def _output(self, status: str) -> list[Json]:
        calls = [self._call(place, call.arguments, "completed") for place, call in enumerate(self._said.calls)]
        return self._reasoning() + (calls or [self._message(status, [self._part(self._said.text)])])

    def _reasoning(self) -> list[Json]:
        """A reasoning item, when the model reasons or the caller wants to carry its reasoning along."""
        wants = "reasoning.encrypted_content" in (self._inquiry.body.get("include") or ())
        if not wants and not self._counts.reasoning:
            return []
        identity = self._inquiry.id("rs_")
        one: Json = {"id": identity, "type": "reasoning", "summary": []}
        if wants:
            one["encrypted_content"] = b64encode(f"{self._inquiry.instance}/{identity}".encode()).decode()
        return [one]

    def _message(self, status: str, parts: list[Json]) -> Json:
        identity = self._inquiry.id("msg_")
        return {"id": identity, "type": "message", "status": status, "role": "assistant", "content": parts}

    def _part(self, text: str) -> Json:
        if self._said.refuses:
            return {"type": "refusal", "refusal": text}
        return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}

    def _call(self, place: int, arguments: str, status: str) -> Json:
        return {
            "id": self._inquiry.id("fc_", place),
            "type": "function_call",
            "status": status,
            "call_id": self._inquiry.id("call_", place),
            "name": self._said.calls[place].name,
            "arguments": arguments,
        }

    # The stream. Every event has the next sequence number.

    def events(self) -> Iterator[Event]:
        yield self._event("created", response=self.unfinished("in_progress"))
        yield self._event("in_progress", response=self.unfinished("in_progress"))
        reasoning = self._reasoning()
        for one in reasoning:
            hidden = self._inquiry.faults.reasoning_tokens
            yield self._event("output_item.added", hidden, output_index=0, item=one)
            yield self._event("output_item.done", output_index=0, item=one)
        if self._said.calls:
            for place, call in enumerate(self._said.calls):
                yield from self._call_events(len(reasoning) + place, place, call)
        else:
            yield from self._message_events(len(reasoning))
        if self._inquiry.faults.done:
            yield from self._end()

    def _end(self) -> Iterator[Event]:
        kind = "incomplete" if self._said.cut else "completed"
        figures = turn.reported(_usage(self._counts), self._inquiry.faults)
        for usage in figures:
            yield self._event(kind, response=self.finished(usage))
        if not figures:
            yield self._event(kind, response=self.finished(None))

    def _message_events(self, output_index: int) -> Iterator[Event]:
        status = "incomplete" if self._said.cut else "completed"
        at: Json = {"item_id": self._inquiry.id("msg_"), "output_index": output_index, "content_index": 0}
        yield self._event("output_item.added", output_index=output_index, item=self._message("in_progress", []))
        yield self._event("content_part.added", **at, part=self._part(""))
        yield from self._text_events(at)
        yield self._event("content_part.done", **at, part=self._part(self._said.text))
        done = self._message(status, [self._part(self._said.text)])
        yield self._event("output_item.done", output_index=output_index, item=done)

    def _text_events(self, at: Json) -> Iterator[Event]:
        if self._said.refuses:
            for piece in self._said.pieces:
                yield self._event("refusal.delta", 1, **at, delta=piece)
            yield self._event("refusal.done", **at, refusal=self._said.text)
            return
        for piece in self._said.pieces:
            yield self._event("output_text.delta", 1, **at, delta=piece, logprobs=[])
        yield self._event("output_text.done", **at, text=self._said.text, logprobs=[])

    def _call_events(self, output_index: int, place: int, call: ToolCall) -> Iterator[Event]:
        at: Json = {"item_id": self._inquiry.id("fc_", place), "output_index": output_index}
        opening = self._call(place, "", "in_progress")
        name_tokens = tokenizer.count(call.name)
        yield self._event("output_item.added", name_tokens, output_index=output_index, item=opening)
        for piece in tokenizer.split(call.arguments):
            yield self._event("function_call_arguments.delta", 1, **at, delta=piece)
        yield self._event("function_call_arguments.done", **at, name=call.name, arguments=call.arguments)
        done = self._call(place, call.arguments, "completed")
        yield self._event("output_item.done", output_index=output_index, item=done)

    def _event(self, kind: str, tokens: int = 0, /, **fields: Any) -> Event:
        self._sequence += 1
        payload = {"type": f"response.{kind}", "sequence_number": self._sequence, **fields}
        return event(payload, tokens, named=True)
