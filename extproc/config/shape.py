"""What a schema says of each place in a tree, and pydantic's errors in words for people."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from extproc.config.fields import MOST
from extproc.config.problems import Steps, did_you_mean


class Shape:
    """A schema, asked place by place.

    `later` are fields that are known and not carried out, with what is said to whoever writes one.
    """

    def __init__(self, model: type[BaseModel], later: Mapping[str, str] = MappingProxyType({})) -> None:
        self._schema = model.model_json_schema()
        self._later = later

    def fields(self, steps: Steps) -> list[str]:
        """The names that may stand in a mapping; none where they are the user's choice."""
        place = self._at(steps)
        return [*place.get("properties", {}), *place.get("propertyNames", {}).get("enum", ())]

    def kind(self, steps: Steps) -> str:
        """The JSON type of a value; empty where the schema knows no such place."""
        return str(self._at(steps).get("type", ""))

    def is_text(self, steps: Steps) -> bool:
        return self.kind(steps) == "string"

    def message(self, details: ErrorDetails, steps: Steps) -> str:
        """One of pydantic's errors, about the value at `steps`. It never quotes the value."""
        kind, context = details["type"], details.get("ctx", {})
        if kind == "extra_forbidden" and steps[-1] in self._later:
            return self._later[str(steps[-1])]
        if kind == "extra_forbidden":
            return "unknown field" + did_you_mean(str(steps[-1]), self.fields(steps[:-1]))
        if kind == "string_pattern_mismatch":
            return _PATTERNS.get(context["pattern"], f"must match {context['pattern']}")
        if kind == "int_parsing_size":
            rules = self._at(steps)
            return f"must be {rules.get('minimum', 0)} to {rules.get('maximum', MOST)}"
        if kind.endswith("_type") and details["input"] is None:
            return "has no value"
        return _MESSAGES.get(kind, details["msg"]).format_map(context)

    def _at(self, steps: Steps) -> dict[str, Any]:
        place = self._schema
        for number, step in enumerate(steps, 1):
            in_list = number < len(steps) and isinstance(steps[number], int)
            place = self._resolved(_inner(place, step), in_list)
        return place

    def _resolved(self, place: dict[str, Any], in_list: bool = False) -> dict[str, Any]:
        """Behind references and optional values; of several types the first, or that of lists."""
        choices = [choice for choice in _choices(place) if choice.get("type") != "null"]
        for choice in sorted(choices, key=lambda choice: in_list and not _is_list(choice)):
            return self._resolved(choice, in_list)
        if "$ref" not in place:
            return place
        definition: dict[str, Any] = self._schema["$defs"][place["$ref"].rsplit("/", 1)[1]]
        return definition


def _choices(place: dict[str, Any]) -> Sequence[dict[str, Any]]:
    found: Sequence[dict[str, Any]] = place.get("anyOf") or place.get("oneOf") or ()
    return found


def _is_list(place: dict[str, Any]) -> bool:
    return place.get("type") == "array" or any(map(_is_list, _choices(place)))


def _inner(place: dict[str, Any], step: str | int) -> dict[str, Any]:
    """One element of a list, one field, or one entry of a free mapping."""
    choices = [place.get("items"), place.get("additionalProperties"), *place.get("patternProperties", {}).values()]
    if not isinstance(step, int):
        choices.insert(0, place.get("properties", {}).get(step))
    return next((choice for choice in choices if isinstance(choice, dict)), {})


_MESSAGES = {
    "missing": "is required",
    "string_type": "must be text",
    "path_type": "must be a path",
    "model_type": "must be a mapping",
    "dict_type": "must be a mapping",
    "tuple_type": "must be a list",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "literal_error": "must be {expected}",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "too_short": "must not be empty",
    "too_long": "must have at most {max_length} entries",
    "string_too_short": "must not be empty",
    "string_too_long": "must not be longer than {max_length} characters",
    "byte_size": "must be a size: a number of bytes, or like 512KiB, 8MiB",
    "byte_size_unit": "must be a size: a number of bytes, or like 512KiB, 8MiB",
    "value_error": "{error}",
}

_PATTERNS = {
    r"^[a-z0-9][a-z0-9-]{0,62}$": "must be lower-case letters, digits and dashes, at most 63, no dash first",
    r"^[a-z0-9][a-z0-9-]{0,62}(\.[a-z0-9][a-z0-9-]{0,62})?$": (
        "must be a backend's name: lower-case letters, digits and dashes; behind a team's name and a dot for one of it"
    ),
    r"^[A-Z][A-Z0-9_]*_[A-Z0-9]+$": "must be a variable of the team, see `byob.credentials.env` of the gateway",
    r"^[A-Za-z][A-Za-z0-9_]{0,62}$": "must be the name of an entity: letters, digits and _, at most 63, a letter first",
    r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$": "must be letters, digits and . _ : / @ + -, beginning with a letter or digit",
    r"^(\*|[A-Za-z0-9][A-Za-z0-9._:/@+-]*)$": "must be the name of a model, or * for every model open to the tier",
    r"^(\*\.)?[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*$": "must be the name of a host, or like *.example.com",
    r"^[a-z][a-z0-9_]{0,62}$": "must be lower-case letters, digits and _, at most 63, a letter first",
    r"^[A-Za-z0-9][A-Za-z0-9-]*$": "must be the name of a header: letters, digits and dashes",
    r"^[!-~]([ -~]*[!-~])?$": "must be printable ASCII on one line, with no space at its ends",
    r"^(/[A-Za-z0-9._~-]+)+$": "must be a path, such as /health",
    r"^(team|prompt|header:[A-Za-z0-9][A-Za-z0-9-]*|cookie:[A-Za-z0-9_.-]+)$": (
        "must be team, prompt, header:NAME or cookie:NAME"
    ),
    r"^[A-Z]{2}$": "must be a country, such as GB",
    r"^[0-9A-Za-z][0-9A-Za-z.-]{0,199}$": "must be an id, or the domain of a tenant",
    r"^[0-9A-Za-z_./:-]+/\.default$": "must be like https://cognitiveservices.azure.com/.default",
    r"^https://[0-9A-Za-z.-]+(:[0-9]+)?/?$": "must be like https://login.microsoftonline.us",
    r"^https://[0-9A-Za-z-]{3,24}\.vault\.(azure\.net|azure\.cn|usgovcloudapi\.net)/?$": (
        "must be like https://NAME.vault.azure.net"
    ),
    r"^[0-9A-Za-z-]{1,127}$": "must be the name of a secret: letters, digits and dashes, at most 127",
    r"^[0-9a-f]{32}$": "must be a version: 32 digits of 0 to 9 and a to f",
    r"^[a-z]{2,3}$": "must be a language, such as en",
    r"^(sqlite:///|postgresql\+?\w*://).+": "must be like sqlite:///var/sluice.db or postgresql://user@host/name",
    r"^(\*|https?://(\*\.)?[A-Za-z0-9.-]+(:[0-9]{1,5})?)$": "must be like https://chat.example.com, or * for any",
}
