"""From policies of redaction to profiles: what finds values, together with what becomes of them.

Files of recognizers and the keys of hashes are read here, by each worker as it starts.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from extproc.config import versions
from extproc.config.fields import LocalSecret
from extproc.config.problems import Steps, did_you_mean
from extproc.config.redaction import ENTITY, Names, Redaction
from extproc.redaction import custom
from extproc.redaction.custom import CustomRecognizer
from extproc.redaction.detector import Detector, Settings
from extproc.redaction.entities import DEFAULT, KNOWN, NATIONAL, SECRET, expanded
from extproc.redaction.names import LABELS
from extproc.redaction.output import RUN
from extproc.redaction.patterns import reach_of
from extproc.redaction.placeholders import LITERAL
from extproc.redaction.policy import Action, Mode, NameTier, OnError, RedactionPolicy, Stateful
from extproc.redaction.profile import Profile

GROUPS: Mapping[str, frozenset[str]] = {
    "DEFAULT": expanded(DEFAULT),
    "NATIONAL": frozenset(NATIONAL),
    SECRET: expanded((SECRET,)),
}
"""Names that stand for several entities wherever a policy names one."""
_RESERVED = frozenset((*GROUPS, LITERAL))
_NAMED = frozenset(LABELS.values())  # by models of names
_LEAST_KEY = 32  # bytes: the length of what SHA-256 gives

Mistake = tuple[Steps, str]


class Unusable(ValueError):
    """A policy that cannot be carried out; `steps` lead to the setting within it."""

    def __init__(self, steps: Steps, message: str) -> None:
        super().__init__(message)
        self.steps = steps


class Detectors:
    """Detectors by their settings: each takes a while to build and some memory, so equal ones are one."""

    def __init__(self) -> None:
        self._built: dict[object, Detector] = {}

    def of(self, settings: Settings) -> Detector | None:
        """None where there is nothing to find. Raises ValueError, see Detector."""
        if not settings.entities and not settings.custom:
            return None
        key = _key(settings)
        if key not in self._built:
            self._built[key] = Detector(settings)
        return self._built[key]


def profiles(policies: Mapping[str, Redaction], environ: Mapping[str, str]) -> dict[str, Profile]:
    """The policies by name. Raises Unusable for what `mistakes` would tell."""
    detectors = Detectors()
    return {name: profile(name, given, detectors, environ) for name, given in policies.items()}


def mistakes(policies: Mapping[str, Redaction], environ: Mapping[str, str]) -> Iterator[Mistake]:
    """What no schema sees: files, names of entities, patterns, keys, models that are not installed."""
    detectors = Detectors()
    for name, given in policies.items():
        try:
            found = [*_mistakes(given, _custom(given)), *_not_here(given.names)]
            if not found:
                profile(name, given, detectors, environ)
        except Unusable as error:
            found = [(error.steps, str(error))]
        yield from ((("policies", "redaction", name, *steps), message) for steps, message in found)


def profile(name: str, given: Redaction, detectors: Detectors, environ: Mapping[str, str]) -> Profile:
    """One policy. Of one that is off there is only its name. Raises Unusable."""
    if given.mode == "off":
        return Profile(RedactionPolicy(Mode.OFF, name=name), None, None)
    own = _custom(given)
    for steps, message in _mistakes(given, own):
        raise Unusable(steps, message)
    policy = _policy(name, given, own, environ)
    asked, said = _settings(given, policy.input, own), _settings(given, policy.output, own)
    try:
        return Profile(
            policy,
            detectors.of(asked),
            detectors.of(said),
            _reach(said.custom),
            version=versions.of_redaction(given, own, policy.hash_key),
        )
    except ValueError as error:
        raise Unusable((), str(error)) from None


def _policy(
    name: str, given: Redaction, own: tuple[CustomRecognizer, ...], environ: Mapping[str, str]
) -> RedactionPolicy:
    actions = _input_actions(given, own)
    return RedactionPolicy(
        mode=Mode(given.mode),
        input=actions,
        output={entity: Action(action) for entity, action in _resolved(given.output).items()},
        on_error=OnError(given.on_error),
        max_text=int(given.max_text),
        stateful=Stateful(given.stateful),
        hash_key=b"" if given.hash_key is None else _secret(given.hash_key, environ),
        names=_tier(given.names, actions),
        name=name,
    )


def _input_actions(given: Redaction, own: Iterable[CustomRecognizer]) -> dict[str, Action]:
    """What becomes of what callers send, by single entities. What was added by hand is on without being named."""
    added = [*(one.entity for one in own), *(given.names.entities if given.names else ())]
    actions = dict.fromkeys(added, "placeholder") | _resolved(given.entities)
    return {entity: Action(action) for entity, action in actions.items() if action != "off"}


def _resolved(given: Mapping[str, str]) -> dict[str, str]:
    """With groups taken apart: the smaller speaks over the larger, and a single entity over all."""
    found: dict[str, str] = {}
    for name in sorted(given, key=lambda name: -len(GROUPS.get(name, ()))):
        found |= dict.fromkeys(sorted(GROUPS.get(name, (name,))), given[name])
    return found


def _tier(names: Names | None, actions: Mapping[str, Action]) -> NameTier | None:
    wanted = frozenset(names.entities if names else ()).intersection(actions)
    if names is None or not wanted:
        return None
    return NameTier(
        entities=wanted,
        model=names.model,
        service=names.service,
        language=names.language,
        floor=names.floor,
        max_text=names.max_text,
        timeout=names.timeout.total_seconds(),
    )


def _settings(given: Redaction, entities: Iterable[str], own: Iterable[CustomRecognizer]) -> Settings:
    wanted = frozenset(entities)
    return Settings(
        entities=wanted & KNOWN,
        regions=given.regions,
        floors=_spread(given.floors),
        context=_spread(given.context),
        allowed=given.allow,
        allowed_patterns=given.allow_patterns,
        custom=tuple(one for one in own if one.entity in wanted),
    )


def _spread(given: Mapping[str, Any]) -> dict[str, Any]:
    return {entity: given[name] for name in given for entity in GROUPS.get(name, (name,))} | dict(given)


def _key(settings: Settings) -> object:
    """What tells settings apart, as Settings itself cannot be hashed."""
    context = frozenset((entity, tuple(words)) for entity, words in settings.context.items())
    lists = (settings.regions, settings.allowed, settings.allowed_patterns, settings.custom)
    return settings.entities, frozenset(settings.floors.items()), context, *map(tuple, lists)


# ---- recognizers ----


def _custom(given: Redaction) -> tuple[CustomRecognizer, ...]:
    """Raises Unusable."""
    read = [one for number, path in enumerate(given.recognizers) for one in _file(path, ("recognizers", number))]
    listed = (CustomRecognizer(f"deny.{entity}", entity, deny=words) for entity, words in given.deny.items())
    return (*read, *listed)


def _file(path: Path, steps: Steps) -> tuple[CustomRecognizer, ...]:
    try:
        document = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
        found = custom.read(document)
    except OSError as error:
        raise Unusable(steps, f"the file {path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise Unusable(steps, f"{path} is not UTF-8 text") from None
    except MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise Unusable(steps, f"{path}{line}: not valid YAML: {error.problem}") from None
    except YAMLError:
        raise Unusable(steps, f"{path}: not valid YAML") from None
    except ValueError as error:
        raise Unusable(steps, f"{path}: {error}") from None
    for one in found:
        if not re.fullmatch(ENTITY, one.entity) or one.entity in _RESERVED:
            raise Unusable(steps, f"{path}: recognizer {one.name!r}: {one.entity!r} cannot be the name of an entity")
    return found


def reach(words: Iterable[str], patterns: Iterable[str]) -> int:
    """Characters of the longest thing that these match, as far as it counts where an answer streams."""
    return min(RUN, max((0, *map(len, words), *map(reach_of, patterns))))


def _reach(own: Sequence[CustomRecognizer]) -> int:
    return reach((word for one in own for word in one.deny), (pattern.regex for one in own for pattern in one.patterns))


# ---- what is wrong ----


def _mistakes(given: Redaction, own: Iterable[CustomRecognizer]) -> Iterator[Mistake]:
    added = {one.entity for one in own}
    named = set(given.names.entities) if given.names else set()
    found = KNOWN | GROUPS.keys() | added
    for field, words in (("entities", given.entities), ("floors", given.floors), ("context", given.context)):
        for entity in words:
            if entity in found or (entity in named and field == "entities"):
                continue
            yield (field, entity), _unknown(entity, found | named, not named)
    for entity in given.output:
        if entity not in found:
            is_name = entity in named or entity in _NAMED
            message = "names are not looked for in answers" if is_name else _unknown(entity, found, False)
            yield ("output", entity), message
    for entity in given.deny:
        if entity in _RESERVED:
            yield ("deny", entity), "stands for other entities: choose another name"


def _unknown(entity: str, known: Iterable[str], lacks_names: bool) -> str:
    if entity in _NAMED and lacks_names:
        return "needs `names`: without it names are not found"
    return f"there is no entity {entity!r}{did_you_mean(entity, known)}"


def _not_here(names: Names | None) -> Iterator[Mistake]:
    """Told before anything is served: a worker that found out would refuse every call."""
    if names is None or names.model is None:
        return
    if find_spec("spacy") is None:
        yield ("names", "model"), "needs the extra `names` (spaCy)"
    elif not Path(names.model).is_dir() and not _is_package(names.model):
        yield (
            ("names", "model"),
            f"there is no model {names.model}, neither an installed package nor a folder",
        )


def _is_package(name: str) -> bool:
    return name.isidentifier() and find_spec(name) is not None


def _secret(source: LocalSecret, environ: Mapping[str, str]) -> bytes:
    """Raises Unusable, without the secret."""
    try:
        value = source.file.read_bytes() if source.file is not None else os.fsencode(environ[source.env or ""])
    except OSError as error:
        raise Unusable(("hash_key",), f"the file {source.file} cannot be read ({error.strerror})") from None
    except KeyError:
        raise Unusable(("hash_key",), f"the environment variable {source.env} is not set") from None
    if len(key := value.rstrip(b"\r\n")) < _LEAST_KEY:
        message = f"it must have at least {_LEAST_KEY} bytes, such as `openssl rand -hex 32` makes"
        raise Unusable(("hash_key",), message)
    return key
