"""Events as workers put them onto the usage bus: a company's calls, made up, the same for the same seed."""

import random
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from extproc.stores.ledger import Event

_MODELS = tuple((f"model-{number:02}", (f"backend-{number % 7}", f"backend-{7 + number % 5}")) for number in range(20))
_WEIGHTS = tuple(1 / (number + 1) for number in range(len(_MODELS)))
_ENDINGS = (("complete", 200),) * 94 + (("refused", 429),) * 3 + (("failed", 502), ("cut", 200), ("cut", 200))


@dataclass(frozen=True, slots=True)
class Company:
    """How many people there are. Each is of one team, has two keys, and uses three models or four, often the same."""

    users: int = 2_000
    teams: int = 60
    seed: int = 7


def events(count: int, first_ms: int, last_ms: int, company: Company | None = None) -> Iterator[Event]:
    """So many calls, evenly spread over a stretch of Unix time, in its order."""
    company = company or Company()
    dice = random.Random(company.seed)
    people = [_person(number, company, dice) for number in range(company.users)]
    for number in range(count):
        at = first_ms + (last_ms - first_ms) * number // count
        yield Event(f"{at}-0", at, orjson.dumps(_record(number, at, dice.choice(people), dice)))


def _person(number: int, company: Company, dice: random.Random) -> dict[str, Any]:
    team = number % company.teams
    return {
        "user": f"user-{number:05}@example.com",
        "team": f"team-{team:03}",
        "area": f"area-{team % 8}",
        "tier": "standard",
        "key": "laptop",
        "models": dice.choices(range(len(_MODELS)), _WEIGHTS, k=4),
    }


def _record(number: int, at: int, person: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    who = dict(person)
    model, backends = _MODELS[dice.choice(who.pop("models"))]
    ending, status = dice.choice(_ENDINGS)
    given, made = dice.randrange(50, 8_000), dice.randrange(1, 1_500)
    usage = {"input": given, "output": made, "cached_input": given // 3, "source": "reported"}
    record: dict[str, Any] = {
        "id": f"{company_name(number)}.{number:x}",
        "time": at / 1000,
        "kind": "call",
        "request_id": f"{number:08x}-0000-4000-8000-{at:012x}",
        "method": "POST",
        "surface": "chat",
        **who,
        "key_id": f"key_{who['user']}_{number % 2}",
        "model": model,
        "chain": list(backends),
        "backend": backends[number % 10 == 0],
        "status": status,
        "ending": ending,
        "stream": True,
        "held": {"input": given, "output": 4_096, "money": 90_000_000},
        "currency": "USD",
        "first_byte_ms": 400.25,
        "duration_ms": 2_000.5 + made,
        "config": "3f2a9c1b7d0e",
        "session": f"0198a0c2-1111-4222-8333-{at // 600_000:012x}",
        "turn": number % 9,
        "budgets": [_budget(scope, given) for scope in ("company", "team", "user")],
    }
    record["booked"] = [_booked(scope, of, given) for scope, of in _scopes(person)]
    if number % 3 == 0:
        record["caller_tags"] = {"repository": f"shop/repo-{number % 50}", "pull_request": str(number // 1_000)}
    if ending == "refused":
        return {**record, "refusal": "rate_limit_exceeded", "backend": None}
    answer = {"deployed": f"{model}-eu", "stop_reason": "stop", "tool_calls": 0, "answer_bytes": 40 * made}
    times = {"first_token_ms": 450.5, "stream_ms": 1_600.25 + made}
    return {**record, **answer, **times, "usage": usage, "cost": given * 2_500 + made * 10_000, "price": "2026-01"}


def _scopes(person: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [("company", ""), ("team", person["team"]), ("user", person["user"])]


def _booked(scope: str, of: str, given: int) -> list[str | int]:
    """What a limit on money by the month counts, under a digest of whom it counts for."""
    counter = f"money/{zlib.crc32(f'{scope} {of}'.encode()):032x}"
    return [counter, f"{scope}-month", given * 2_500, 1_772_323_200_000, 1_775_001_600_000, 0]


def _budget(scope: str, given: int) -> dict[str, Any]:
    stood = {"amount": 5 * 10**12, "before": 3 * 10**12, "wanted": 90_000_000, "used": given * 2_500}
    return {"limit": f"{scope}-month", "measure": "money", **stood, "until": 1_775_001_600}


def company_name(number: int) -> str:
    """Of one of four workers, as it stands in the ids of its calls."""
    return f"{number % 4:024x}"
