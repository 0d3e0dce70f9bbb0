"""Names of what answers come from, so that none outlives a change of it: the same for the same configuration and code.

What is paid, and in which order backends are asked, changes no answer: that has no part in them.
"""

import hmac
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import cache
from hashlib import blake2b
from pathlib import Path

from extproc import guardrails, redaction
from extproc.config.backends import Backend
from extproc.config.guardrails import Guardrails
from extproc.config.models import Model
from extproc.config.prices import Bounded
from extproc.config.redaction import Redaction
from extproc.config.services import Service
from extproc.redaction.custom import CustomRecognizer

_LENGTH = 16  # bytes
_KEY_CONTEXT = b"sluice redaction policy"
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
_OF_BACKEND = {"dialect", "url", "api_version", "headers", "surfaces", "cap_field", "identity_header"}
_OF_MODEL = {"modality", *Bounded.model_fields}


def of_model(
    name: str, models: Mapping[str, Model], backends: Mapping[str, Backend], public: Mapping[str, str], owner: str = ""
) -> str:
    """Of what serves a model, and of the models that may serve in its place. `owner`: the team that brings it."""
    served = {other: _served(other, models[other], backends) for other in _reached(name, models, public)}
    return _digest([owner, name, served])


def _reached(name: str, models: Mapping[str, Model], public: Mapping[str, str]) -> list[str]:
    found = [name]
    for one in found:
        found += sorted({public[other] for other in models[one].stand_ins.values()}.difference(found))
    return found


def _served(name: str, given: Model, backends: Mapping[str, Backend]) -> object:
    targets = [(backends[target.backend], target.model or name) for group in given.targets for target in group]
    asked = {_canonical([backend.model_dump(mode="json", include=_OF_BACKEND), model]) for backend, model in targets}
    stand_ins = {cause.value: other for cause, other in given.stand_ins.items()}
    return [given.model_dump(mode="json", include=_OF_MODEL), sorted(asked), stand_ins]


def of_redaction(given: Redaction, own: Iterable[CustomRecognizer], key: bytes) -> str:
    """Of a policy with its recognizers and the key of its hashes, which it does not tell."""
    told = hmac.digest(key, _KEY_CONTEXT, "sha256").hex() if key else ""
    policy = given.model_dump(mode="json", exclude={"recognizers", "hash_key"})
    return _digest([_code(), policy, [asdict(one) for one in own], told])


def of_guardrails(given: Guardrails, services: Mapping[str, Service]) -> str:
    """Of rules with the service that judges for them."""
    judge = services[given.moderation.service] if given.moderation is not None else None
    asked = None if judge is None else [judge.api, judge.url]
    return _digest([_code(), given.model_dump(mode="json"), asked])


@cache
def _code() -> str:
    """Of what looks at texts: its source."""
    digest = blake2b(digest_size=_LENGTH)
    for package in (redaction, guardrails):
        for path in sorted(Path(package.__path__[0]).iterdir()):
            if path.is_file():
                digest.update(blake2b(path.read_bytes()).digest())
    return digest.hexdigest()


def _digest(facts: object) -> str:
    return blake2b(_canonical(facts).encode(), digest_size=_LENGTH).hexdigest()
