"""A container's environment, as its manifest and the cluster's objects give it."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from tests.support.pods.volumes import Find, MissingObject, contents

Json = Mapping[str, Any]

_REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")


def expanded(text: str, known: Mapping[str, str]) -> str:
    """`$(NAME)` replaced where it is known; `$$` is a dollar."""

    def value(found: re.Match[str]) -> str:
        return "$" if found[1] is None else known.get(found[1], found[0])

    return _REFERENCE.sub(value, text)


def environ(spec: Json, base: Mapping[str, str], find: Find, field: Callable[[str], str]) -> dict[str, str]:
    """All variables of a container. Raises MissingObject."""
    variables = dict(base)
    for source in spec.get("envFrom", []):
        for reference, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
            if reference in source:
                held = _object(find, kind, source[reference]) or {}
                variables |= {source.get("prefix", "") + key: value.decode() for key, value in held.items()}
    for one in spec.get("env", []):
        value = expanded(one["value"], variables) if "value" in one else _from(one.get("valueFrom"), spec, find, field)
        if value is not None:
            variables[one["name"]] = value
    return variables


def _object(find: Find, kind: str, reference: Json) -> dict[str, bytes] | None:
    found = find(kind, reference["name"])
    if found is None and not reference.get("optional"):
        raise MissingObject(f"{kind} {reference['name']!r} not found")
    return None if found is None else contents(found)


def _from(source: Json | None, spec: Json, find: Find, field: Callable[[str], str]) -> str | None:
    if source is None:
        return ""
    if "fieldRef" in source:
        return field(source["fieldRef"]["fieldPath"])
    if "resourceFieldRef" in source:
        kind, _, name = source["resourceFieldRef"]["resource"].partition(".")
        return str(spec.get("resources", {}).get(kind, {}).get(name, ""))
    reference, kind = next(
        (source[name], kind)
        for name, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap"))
        if name in source
    )
    held = _object(find, kind, reference)
    if held is None or reference["key"] not in held:
        if reference.get("optional"):
            return None
        raise MissingObject(f"{kind} {reference['name']!r} has no key {reference['key']!r}")
    return held[reference["key"]].decode()
