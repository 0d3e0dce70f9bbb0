"""What a request to Google's Gemini API says: the conversation, its media and tools, how to generate.

As strict as Google: a field that it does not know is refused, and so is a history of tool calls that does not add up.
"""

from collections import Counter
from typing import Any

from loadtest.fake_llm import content, tokenizer, turn
from loadtest.fake_llm.answer import Json
from loadtest.fake_llm.errors import ApiError
from loadtest.fake_llm.turn import FILE_TOKENS, IMAGE_TOKENS, Ask, ToolCall

_FIELDS = frozenset(
    {
        *("contents", "systemInstruction", "tools", "toolConfig", "safetySettings", "generationConfig"),
        *("cachedContent", "x_fake"),
    }
)
_GENERATION_FIELDS = frozenset(
    {
        *("candidateCount", "maxOutputTokens", "stopSequences", "seed", "temperature", "topP", "topK"),
        *("presencePenalty", "frequencyPenalty", "responseLogprobs", "logprobs", "mediaResolution"),
        *("responseMimeType", "responseJsonSchema", "thinkingConfig"),
    }
)
_DATA = ("text", "inlineData", "fileData", "functionCall", "functionResponse")
_OF_PARTS = ("thought", "thoughtSignature")
_MODALITIES = {"image": "IMAGE", "audio": "AUDIO", "video": "VIDEO"}
_OLDER = ("gemini-1.", "gemini-2.")
_UNSIGNED = (
    "Function call is missing a thought_signature in functionCall parts. This is required for tools to work correctly."
)
_UNEVEN = (
    "Please ensure that the number of function response parts is equal to the number of function call parts of the "
    "function call turn."
)


def is_older(model: str) -> bool:
    """Whether a model is from before Gemini 3: its calls have no ids, and it signs no thoughts."""
    return model.startswith(_OLDER)


def known(fields: Json, names: frozenset[str], where: str = "") -> None:
    """Raise ApiError for a field that is none of these, in Google's words."""
    for name in fields.keys() - names:
        place = f" at '{where}'" if where else ""
        raise ApiError(400, f'Invalid JSON payload received. Unknown name "{name}"{place}: Cannot find field.')


def read(body: Json, model: str) -> Ask:
    """Read a request. Raises ApiError as Google would refuse it."""
    known(body, _FIELDS)
    contents = _contents(body)
    _check_history(contents, signs=not is_older(model))
    generation = body.get("generationConfig") or {}
    known(generation, _GENERATION_FIELDS, "generation_config")
    texts = [said for one in contents if one.get("role", "user") == "user" and (said := _text_of(one["parts"]))]
    return Ask(
        last_text=texts[-1] if texts else "",
        input_tokens=sum(map(_tokens, _parts(body))) + content.count_json(body.get("tools")),
        limit=generation.get("maxOutputTokens"),
        tools=_tools_to_call(body, any("functionResponse" in part for part in contents[-1]["parts"])),
        schema=_schema(generation),
    )


def media_tokens(body: Json) -> Counter[str]:
    """The tokens of what is no text in a request that was read, by modality as Google names them."""
    counts: Counter[str] = Counter()
    for part in _parts(body):
        if media := part.get("inlineData") or part.get("fileData"):
            kind = str(media.get("mimeType", "")).partition("/")[0]
            counts[_MODALITIES.get(kind, "DOCUMENT")] += _tokens(part)
    return counts


def _contents(body: Json) -> list[Json]:
    contents = body.get("contents")
    if not isinstance(contents, list) or not contents:
        raise ApiError(400, "* GenerateContentRequest.contents: contents is not specified\n")
    for at, one in enumerate(contents):
        known(one, frozenset({"role", "parts"}), f"contents[{at}]")
        if one.get("role", "user") not in ("user", "model"):
            raise ApiError(400, "Please use a valid role: user, model.")
        if not one.get("parts"):
            raise ApiError(400, f"* GenerateContentRequest.contents[{at}].parts: contents.parts must not be empty.\n")
    for at, part in enumerate(_parts(body)):
        known(part, frozenset({*_DATA, *_OF_PARTS}), f"parts[{at}]")
        if sum(name in part for name in _DATA) != 1:
            raise ApiError(400, f"* parts[{at}].data: required oneof field 'data' must have one initialized field\n")
    return contents


def _parts(body: Json) -> list[Json]:
    contents = [*body["contents"], body.get("systemInstruction") or {}]
    return [part for one in contents for part in one.get("parts") or ()]


def _check_history(contents: list[Json], *, signs: bool) -> None:
    for one, following in zip(contents, [*contents[1:], {"parts": []}], strict=True):
        calls = [part for part in one["parts"] if "functionCall" in part]
        if not calls:
            continue
        if signs and not calls[0].get("thoughtSignature"):
            raise ApiError(400, _UNSIGNED)
        names = Counter(part["functionCall"]["name"] for part in calls)
        answered = [part["functionResponse"] for part in following["parts"] if "functionResponse" in part]
        if names != Counter(response["name"] for response in answered):
            raise ApiError(400, _UNEVEN)


def _text_of(parts: list[Json]) -> str:
    return " ".join(part["text"] for part in parts if part.get("text"))


def _tokens(part: Json) -> int:
    if media := part.get("inlineData") or part.get("fileData"):
        return IMAGE_TOKENS if str(media.get("mimeType", "")).startswith("image/") else FILE_TOKENS
    if call := part.get("functionCall"):
        return content.count_json(call.get("args"))
    if response := part.get("functionResponse"):
        return content.count_json(response["response"])
    return tokenizer.count(part["text"])


def _tools_to_call(body: Json, answered: bool) -> tuple[ToolCall, ...]:
    """Every declared function once, until one has answered. Those of Google's own tools never."""
    calling = (body.get("toolConfig") or {}).get("functionCallingConfig") or {}
    mode, allowed = calling.get("mode", "AUTO"), calling.get("allowedFunctionNames")
    if allowed and mode not in ("ANY", "VALIDATED"):
        raise ApiError(400, "Allowed function names can only be set in the modes ANY and VALIDATED.")
    functions = [one for tool in body.get("tools") or () for one in tool.get("functionDeclarations") or ()]
    if mode == "NONE" or (answered and mode != "ANY"):
        return ()
    return tuple(
        turn.tool_call(one["name"], one.get("parametersJsonSchema"))
        for one in functions
        if not allowed or one["name"] in allowed
    )


def _schema(generation: Json) -> Any:
    described = generation.get("responseJsonSchema")
    if generation.get("responseMimeType", "text/plain") == "application/json":
        return described or {}
    if described is not None:
        raise ApiError(400, "A response schema needs the response mime type application/json.")
    return None
