"""Messages of a chat completion as Gemini's `contents` and `systemInstruction`.

A content is `{role: "user" | "model", parts}`. A part is one of

    {text} {inlineData: {mimeType, data}} {fileData: {mimeType?, fileUri}}
    {functionCall: {id, name, args: object}} {functionResponse: {id, name, response: object}}

and may carry `thoughtSignature`: what the model needs back of its thoughts, which only Google can read. Chat has no
field for it; it travels where Google's own OpenAI endpoint puts it, `extra_content.google.thought_signature` of a
tool call, or of a message for its text.
"""

import re

from extproc.dialects.translate.fields import Fields

Part = dict[str, object]

_UNSIGNED = "skip_thought_signature_validator"
"""What Google documents in place of a signature for a call that another model made, or whose client lost it: models
from Gemini 3 on refuse a call in the history that is not signed."""
_OLDER = re.compile(r"(?:models/)?gemini-[12]\.")

_MIME_TYPES = {
    **{"png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "webp": "image/webp", "gif": "image/gif"},
    **{"heic": "image/heic", "heif": "image/heif", "pdf": "application/pdf", "txt": "text/plain", "csv": "text/csv"},
    **{"md": "text/markdown", "html": "text/html", "json": "application/json", "mp3": "audio/mp3", "wav": "audio/wav"},
}
_DETAILS = ("low", "auto", "high", "original")  # from the coarsest
_RESOLUTIONS = {"low": "MEDIA_RESOLUTION_LOW", "high": "MEDIA_RESOLUTION_HIGH", "original": "MEDIA_RESOLUTION_HIGH"}


def is_older(model: str) -> bool:
    """Whether this is a model from before Gemini 3, which thinks by a budget, and needs no signatures."""
    return _OLDER.match(model) is not None


class Conversation:
    """The messages as they are added, in order.

    System messages become the one instruction, wherever they stand: Gemini has no other place for them. Messages of
    one side in a row become one content, as it wants the sides to take turns, and all results of parallel calls
    together behind the calls.
    """

    __slots__ = ("_details", "_functions", "_last", "_signs", "contents", "system")

    def __init__(self, model: str) -> None:
        self.contents: list[dict[str, object]] = []
        self.system: list[Part] = []
        self._last: tuple[str, list[Part]] = ("", [])
        self._functions: dict[str, str] = {}  # of the calls so far: what chat refers to by id, Gemini does by name
        self._signs = not is_older(model)
        self._details: set[str] = set()

    @property
    def resolution(self) -> str | None:
        """Gemini's `mediaResolution`, one for all media: the finest that any image asks for."""
        finest = max(self._details, key=_DETAILS.index, default="auto")
        return _RESOLUTIONS.get(finest)

    def add(self, message: Fields) -> None:
        """Add a message. Raises `Inexpressible`."""
        role = message.need("role")
        if role in ("system", "developer"):
            self.system += self._content(message, ("text",))
        elif role == "user":
            self._say("user", self._content(message, ("text", "image_url", "input_audio", "file")))
        elif role == "assistant":
            self._say("model", self._assistant(message))
        elif role == "tool":
            self._say("tool", [self._result(message)])
        else:
            raise message.cannot("role")
        message.done()

    def _say(self, side: str, parts: list[Part]) -> None:
        if not parts:  # an empty message, which Gemini refuses
            return
        if self._last[0] == side:
            self._last[1].extend(parts)
            return
        self._last = side, parts
        self.contents.append({"role": "user" if side == "tool" else side, "parts": parts})

    def _content(self, message: Fields, types: tuple[str, ...]) -> list[Part]:
        content = message.take("content")
        if content is None:
            return []
        if isinstance(content, str):
            return [{"text": content}] if content else []
        if not isinstance(content, list):
            raise message.cannot("content", "It must be a string or a list of parts.")
        parts = [self._part(Fields(part, message.name("content")), types) for part in content]
        return [part for part in parts if part.get("text") != ""]

    def _part(self, part: Fields, types: tuple[str, ...]) -> Part:
        kind = part.need("type")
        if kind not in types:
            raise part.cannot("type")
        part.besides("prompt_cache_breakpoint")  # a hint; Gemini finds by itself what it can cache
        if kind in ("text", "refusal"):
            made: Part = {"text": part.need(kind)}
        else:
            inner = part.need_inner(kind)
            made = self._image(inner) if kind == "image_url" else _MEDIA[kind](inner)
            inner.done()
        part.done()
        return made

    def _image(self, image: Fields) -> Part:
        detail = image.text("detail") or "auto"
        if detail not in _DETAILS:
            raise image.cannot("detail")
        self._details.add(detail)
        url = image.need("url")
        if url[:5].lower() == "data:":
            return _inline(image, "url", url)
        if url[:8].lower().startswith(("https://", "http://")):
            mime = _mime_type(url.partition("?")[0].partition("://")[2].partition("/")[2])
            return {"fileData": {**({"mimeType": mime} if mime else {}), "fileUri": url}}
        raise image.cannot("url", "It must be a data URL or an HTTP URL.")

    def _assistant(self, message: Fields) -> list[Part]:
        # Thoughts mean nothing to another model, and Gemini takes its own back as signatures alone.
        message.besides("reasoning_content", "reasoning", "reasoning_details", "annotations")
        message.besides("parsed")  # what OpenAI's SDK read in its content
        parts = self._content(message, ("text", "refusal"))
        refusal = message.text("refusal")
        if refusal:
            parts.append({"text": refusal})
        signature = _signature(message)
        if signature:
            signed = parts or [{"text": ""}]
            parts = [*signed[:-1], {**signed[-1], "thoughtSignature": signature}]
        parts += [self._echoed(image) for image in message.inners("images")]
        calls = [self._call(call) for call in message.inners("tool_calls")]
        if calls and self._signs:
            calls[0].setdefault("thoughtSignature", _UNSIGNED)  # of parallel calls only the first is signed
        return parts + calls

    def _echoed(self, image: Fields) -> Part:
        """An image of an earlier answer, as it stood there."""
        image.besides("index")
        return self._part(image, ("image_url",))

    def _call(self, call: Fields) -> Part:
        call.only("type", "function")
        call.besides("index")  # left by clients that put a stream together
        function = call.need_inner("function")
        function.besides("parsed_arguments")  # what OpenAI's SDK read in them
        name, identity = function.need("name"), call.need("id")
        made: dict[str, object] = {"id": identity, "name": name, "args": function.written("arguments")}
        signature = _signature(call)
        function.done()
        call.done()
        self._functions[identity] = name
        return {"functionCall": made, **({"thoughtSignature": signature} if signature else {})}

    def _result(self, message: Fields) -> Part:
        identity = message.need("tool_call_id")
        name = self._functions.get(identity)
        if name is None:
            raise message.cannot("tool_call_id", "No assistant message before it has a tool call with this id.")
        texts = [part["text"] for part in self._content(message, ("text",))]
        output = texts if len(texts) > 1 else texts[0] if texts else ""
        # As text, even where it is JSON: an object here would have its large numbers rounded.
        return {"functionResponse": {"id": identity, "name": name, "response": {"output": output}}}


def _signature(said: Fields) -> str | None:
    extra = said.inner("extra_content")
    if extra is None:
        return None
    google = extra.inner("google")
    extra.done()
    if google is None:
        return None
    signature = google.text("thought_signature")
    google.besides("thought")  # that it was one
    google.done()
    return signature


def _audio(audio: Fields) -> Part:
    kind = audio.need("format")
    if kind not in ("wav", "mp3"):
        raise audio.cannot("format")
    return {"inlineData": {"mimeType": f"audio/{kind}", "data": audio.need("data")}}


def _file(file: Fields) -> Part:
    if file.text("file_id") is not None:
        raise file.cannot("file_id", "A file stored at another provider cannot be read; send it in `file_data`.")
    name, data = file.text("filename") or "", file.need("file_data")
    if data[:5].lower() == "data:":
        return _inline(file, "file_data", data)
    mime = _mime_type(name)
    if mime is None:
        raise file.cannot("file_data", "Send it as a data URL that says its type.")
    return {"inlineData": {"mimeType": mime, "data": data}}


_MEDIA = {"input_audio": _audio, "file": _file}


def _inline(source: Fields, field: str, url: str) -> Part:
    head, _, data = url.partition(",")
    head = head[5:].lower()
    mime = head.partition(";")[0]
    if not mime or not head.endswith(";base64"):
        raise source.cannot(field, "A data URL must say its type and be in base64.")
    return {"inlineData": {"mimeType": mime, "data": data}}


def _mime_type(name: str) -> str | None:
    return _MIME_TYPES.get(name.rpartition(".")[2].lower())
