"""What a request gives a model to read: text to weigh, and media to count.

Providers count more as input than the words of messages: names, tools, schemas, tool results. So whatever is not
known as media or as a setting counts as text; a bound must not have a hole where a field is new.
"""

from collections.abc import Collection, Mapping, Sequence

import orjson

from extproc.dialects import fields
from extproc.dialects.fields import Object
from extproc.metering import bounds, estimate, tokenizer
from extproc.model import InputSize

_SETTINGS = frozenset(
    (
        "audio",
        "background",
        "context_management",
        "include",
        "inference_geo",
        "logit_bias",
        "max_completion_tokens",
        "max_output_tokens",
        "max_tokens",
        "max_tool_calls",
        "metadata",
        "modalities",
        "model",
        "n",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning",
        "reasoning_effort",
        "safety_identifier",
        "service_tier",
        "stop",
        "stop_sequences",
        "store",
        "stream",
        "stream_options",
        "thinking",
        "truncation",
        "user",
        "verbosity",
        "voice",
    )
)
"""Top-level fields that no model reads."""
_BRINGERS = frozenset(
    (
        "container",
        "data_sources",
        "mcp_servers",
        "plugins",
        "search_parameters",
        "web_search_options",
    )
)
"""Top-level fields that make the provider add input: Anthropic's, Azure's, OpenRouter's, xAI's, OpenAI's."""
_PART_SETTINGS = frozenset(("type", "cache_control", "detail", "media_type"))
_LABELS = frozenset(("id", "status", "type", "content"))
"""Of messages and items: what no model reads, and what is read elsewhere."""
_OWN_TOOLS = frozenset(("function", "custom"))
_CLIENT_TOOLS = ("bash_", "text_editor_", "memory_", "computer", "local_shell", "apply_patch")
"""How the types of those begin that the client runs, though the provider describes them to the model."""

_IMAGES = frozenset(("image_url", "input_image", "image", "computer_screenshot"))
_FILES = frozenset(("file", "input_file", "document"))
_LINKED = frozenset(("audio_url", "video_url", "video"))
_MARKS_OF_MESSAGE = 4
"""Tokens around a message, beyond its role: three at OpenAI, four in Llama's templates."""
_MARKS_OF_PART = 1
_CLIENT_TOOL = 800
"""Tokens of a tool that the provider describes: of Anthropic's that for computers has the most, 735."""
ASSUMED_CALLS = 10
"""Of hosted tools in one request, where it does not say how many it allows."""


def of_words(messages: Sequence[Mapping[str, str]]) -> tuple[InputSize, int]:
    """What an `Input` says that was handed these messages, of which each has a role and a text, and nothing else."""
    whole = "\n".join([text for message in messages for text in (message["role"], message["content"])])
    marks = _MARKS_OF_MESSAGE * len(messages)
    is_kept = len(whole) <= tokenizer.MAX_CHARACTERS
    found = () if is_kept else bounds.features(whole)
    size = InputSize(text=whole if is_kept else None, features=found, marks=marks)
    return size, estimate.tokens(estimate.weight(whole)) + marks


class Input:
    """Takes what a reader hands it, piece by piece; `size` tells what came together."""

    __slots__ = (
        *("_audio", "_coded", "_files", "_images", "_marks", "_repeated", "_small", "_texts", "_tools", "_unseen"),
        *("_allowed", "_unbounded"),
    )

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._repeated: tuple[int, ...] = ()
        self._marks = 0
        self._tools = 0
        self._images = 0
        self._small = 0
        self._audio = 0
        self._files = 0
        self._unseen = False
        self._coded = False
        self._allowed = 0  # calls of hosted tools
        self._unbounded = False

    def text(self, value: object) -> None:
        """Any value, as the text that it is or would be in JSON."""
        if isinstance(value, str):
            self._texts.append(value)
        elif value is not None and not isinstance(value, bool):
            # Unescaped, or each line's first word would look like one that no vocabulary has.
            self._texts.append(orjson.dumps(value).decode().replace("\\n", "\n").replace('\\"', '"'))

    def tokens(self, count: int) -> None:
        """Tokens that the caller counted by sending them as such."""
        self._marks += count
        self._coded = True

    def repeated(self, text: str, times: int) -> None:
        """A text that is read again with each of several others."""
        self._repeated = tuple(times * count for count in bounds.features(text))

    def unseen(self) -> None:
        """The provider adds what the request only names: a conversation, a search's results, a stored file."""
        self._unseen = True

    @property
    def hosted_calls(self) -> int:
        """The most calls of tools that the provider runs: as each tool allows, and once an assumed number."""
        return self._allowed + (ASSUMED_CALLS if self._unbounded else 0)

    def rest(self, source: Object, read: Collection[str]) -> None:
        """Every field of a request that is neither read elsewhere nor a setting."""
        for name, value in source.items():
            if isinstance(value, str | list | dict) and name not in _SETTINGS and name not in read:
                self.text(value)
        self._unseen = self._unseen or any(source.get(name) is not None for name in _BRINGERS)

    def tools(self, source: Object) -> None:
        """Tools as text; one that runs at the provider brings input of its own."""
        given = source.get("tools")
        self.text(given)
        for tool in given if isinstance(given, list) else ():
            self._tools += 1
            kind = tool.get("type") if isinstance(tool, dict) else None
            if not isinstance(kind, str) or kind in _OWN_TOOLS:
                continue
            if kind.startswith(_CLIENT_TOOLS):
                self._marks += _CLIENT_TOOL
            else:
                self._hosted(tool)

    def _hosted(self, tool: Object) -> None:
        self._unseen = True
        allowed = fields.count(tool, "max_uses")
        self._allowed += allowed or 0
        self._unbounded = self._unbounded or allowed is None

    def message(self, message: Object, content: str | list[Object] | None) -> None:
        """A message with its content, which the reader has checked."""
        self._marks += _MARKS_OF_MESSAGE
        for name, value in message.items():
            if name not in _LABELS:
                self.text(value)
        self.content(content)

    def content(self, content: object) -> None:
        """Text, or a list of parts."""
        if not isinstance(content, list):
            self.text(content)
            return
        for part in content:
            if isinstance(part, dict):
                self._part(part)
            else:
                self.text(part)

    def _part(self, part: Object) -> None:
        self._marks += _MARKS_OF_PART
        fields.text(part, "text")
        kind = part.get("type")
        if kind in _IMAGES:
            self._image(part)
        elif kind in _FILES:
            self._file(part)
        elif kind == "input_audio":
            self._sound(part)
        elif kind == "tool_result":
            self._result(part)
        else:
            self._unseen = self._unseen or kind in _LINKED
            self._others(part, ())

    def _others(self, part: Object, media: Collection[str]) -> None:
        for name, value in part.items():
            if name not in media and name not in _PART_SETTINGS:
                self.text(value)

    def _image(self, part: Object) -> None:
        inner = part.get("image_url")
        detail = inner.get("detail") if isinstance(inner, dict) else part.get("detail")
        if detail == "low":
            self._small += 1
        else:
            self._images += 1
        self._others(part, ("image_url", "file_id", "source", "image"))

    def _file(self, part: Object) -> None:
        """A file: OpenAI's stands in the part or in its `file`, Anthropic's in its `source`."""
        for name in ("file", "source"):
            inner = part.get(name)
            if isinstance(inner, dict):
                self._file_source(inner)
        self._file_source(part)
        self._others(part, ("file", "source", "file_data", "file_id", "file_url"))

    def _file_source(self, source: Object) -> None:
        data = source.get("file_data") or source.get("data")
        if source.get("type") == "text":
            self.text(data)
        elif source.get("type") == "content":
            self.content(source.get("content"))
        elif isinstance(data, str):
            self._files += _decoded(data)
        if any(source.get(name) for name in ("file_id", "file_url", "url")):
            self._unseen = True

    def _sound(self, part: Object) -> None:
        inner = part.get("input_audio")
        data = inner.get("data") if isinstance(inner, dict) else None
        if isinstance(data, str):
            self._audio += _decoded(data)
        self._others(part, ("input_audio",))

    def _result(self, part: Object) -> None:
        given = part.get("content")
        if isinstance(given, list) and not any(isinstance(inner, dict) and "content" in inner for inner in given):
            self.content(given)
        else:
            self.text(given)
        self._others(part, ("content",))

    def item(self, item: Object) -> None:
        """An item of the Responses API that is no message: a call, its result, a reference."""
        self._marks += _MARKS_OF_MESSAGE
        for name, value in item.items():
            if name == "result" and item.get("type") == "image_generation_call":
                self._images += 1
            elif name == "output":
                self._output(value)
            elif name == "content" or name not in _LABELS:
                self.text(value)

    def _output(self, output: object) -> None:
        if isinstance(output, dict):
            self._part(output)
        else:
            self.content(output)

    def size(self) -> tuple[InputSize, int]:
        """All of it, and the mean of its tokens, for reports."""
        whole = "\n".join(self._texts)
        is_kept = not self._repeated and len(whole) <= tokenizer.MAX_CHARACTERS
        found = () if is_kept else bounds.features(whole)
        if self._repeated:
            found = tuple(map(sum, zip(found, self._repeated, strict=True)))
        size = InputSize(
            text=whole if is_kept else None,
            features=found,
            marks=self._marks,
            tools=self._tools,
            images=self._images,
            small_images=self._small,
            audio_bytes=self._audio,
            file_bytes=self._files,
            unseen=self._unseen,
            coded=self._coded,
        )
        return size, estimate.tokens(estimate.weight(whole)) + self._marks


def _decoded(base64: str) -> int:
    """Bytes that a base64 text or data URL is at most."""
    return len(base64) * 3 // 4
