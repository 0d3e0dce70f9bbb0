"""Budgets that a crowd draws on, and the verdict on what came of it: was one overspent, or anybody refused in vain?"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from loadtest.spenders import Ask, Spent, Told, alike, outcomes, unruly

INPUT, OUTPUT = 2_500, 10_000
"""What a token of input and of output costs, in billionths."""

AMOUNTS: Mapping[str, int] = {"requests": 70, "tokens": 6_000, "money": 40_000_000}
"""What the crowd that is alike may spend of each measure; money in billionths."""

UNRULY: Mapping[str, int] = {"tokens": 12_000, "money": 60_000_000}
LEASED = 1_900
"""Tokens of output of the crowd whose streams are leased in slices where the model's most, 400, does not fit."""

SLICE = 32
CAP = 50
_NANO = 10**9
_REQUESTED = re.compile(r"Requested ([0-9.]+)")

Json = dict[str, Any]


# ---- the gateways ------------------------------------------------------------------------------------


def settings(backend: str, counters: str, workers: int, rounds: int) -> Json:
    """Of a gateway with a budget of each measure for each round, and one for the unruly. `backend`: its URL."""
    return {
        "workers": workers,
        "stores": {"counters": counters, "counters_wait": "1s"},
        "timeouts": {"policy": "20s"},  # all come at once, to one worker: who waits for it has not failed
        "backends": {
            "openai": {"dialect": "openai", "url": backend},
            "anthropic": {"dialect": "anthropic", "url": backend},
        },
        "models": _models(rounds),
        "policies": {"limits": _limits(rounds)},
    }


def _models(rounds: int) -> Json:
    """No cap is lowered in the rounds, where it is the floor; among the unruly many are."""
    price = {"input": INPUT / 1000, "output": OUTPUT / 1000}
    alikes = {
        model_of(measure, number): {"max_output": CAP, "min_output": CAP}
        for measure in AMOUNTS
        for number in range(rounds)
    }
    unruly = {f"unruly-{number}": {"max_output": 200, "min_output": 16} for number in range(rounds)}
    leased = {f"leased-{number}": {"max_output": 400, "min_output": 16} for number in range(rounds)}
    made = {
        name: {**bounds, "price": price, "targets": [[{"backend": "openai"}]]}
        for name, bounds in (alikes | unruly | leased).items()
    }
    claudes = {f"{name}-claude": {**made[name], "targets": [[{"backend": "anthropic"}]]} for name in unruly}
    return made | claudes


def model_of(measure: str, number: int) -> str:
    """The public name of the model of a round."""
    return f"{measure}-{number}"


def _limits(rounds: int) -> Json:
    limits: Json = {
        measure: {
            "scope": "model",
            **_amount(measure, amount),
            "only": {"models": [model_of(measure, number) for number in range(rounds)]},
        }
        for measure, amount in AMOUNTS.items()
    }
    limits["leased"] = {
        "scope": "model",
        "output_tokens": LEASED,
        "per": "hour",
        "when_short": "lease",
        "slice": SLICE,
        "only": {"models": [f"leased-{number}" for number in range(rounds)]},
    }
    for number in range(rounds):
        only = {"models": [f"unruly-{number}", f"unruly-{number}-claude"]}
        limits |= {
            f"unruly-{measure}-{number}": {**_amount(measure, amount), "only": only}
            for measure, amount in UNRULY.items()
        }
    return limits


def _amount(measure: str, amount: int) -> Json:
    return {measure: str(Decimal(amount) / _NANO) if measure == "money" else amount, "per": "hour"}


# ---- what came of a crowd ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verdict:
    """A crowd against a budget. Amounts are of the measure; `held` is the sum of what the admitted had reserved.

    `smallest`: the least that a call asked for that this budget refused, None where there was none. `used`: as the
    provider counts. `above`: what calls used above what they had reserved, as the gateway's records tell, and the
    tokens of it by `causes`.
    """

    measure: str
    amount: int
    admitted: int
    refused: int
    failed: int
    held: int
    smallest: int | None
    used: int
    above: int
    causes: Mapping[str, int]

    @property
    def overspent(self) -> int:
        return max(0, self.used - self.amount)

    @property
    def exact(self) -> bool:
        """Whether the budget was shared out to the last call that fits, and nobody was told otherwise."""
        fits = self.smallest is None or self.amount - self.held < self.smallest
        return self.failed == 0 and self.held <= self.amount and fits

    @property
    def explained(self) -> bool:
        """Whether all that was overspent is in the records, by cause."""
        return self.failed == 0 and self.overspent <= self.above


def judge(
    measure: str, amount: int, told: Sequence[Told], spent: Iterable[Spent], records: Mapping[str, Json]
) -> Verdict:
    """`records`: the gateway's records of these calls, by request id."""
    came = outcomes(told)
    of_admitted = [records[one.request_id] for one in told if one.admitted]
    causes: Counter[str] = Counter()
    for record in of_admitted:
        causes.update(record.get("overspent", {}))
    return Verdict(
        measure=measure,
        amount=amount,
        admitted=came["admitted"],
        refused=came["refused"],
        failed=came["failed"],
        held=sum(_held(measure, record) for record in of_admitted),
        smallest=min((requested(measure, one) for one in told if one.refused_by.startswith(measure)), default=None),
        used=sum(_used(measure, one) for one in spent),
        above=sum(record.get("overspent_money", 0) for record in of_admitted) if measure == "money" else causes.total(),
        causes=causes,
    )


def _held(measure: str, record: Json) -> int:
    held = record["held"]
    return {"requests": 1, "tokens": int(held["input"] + held["output"]), "money": int(held["money"])}[measure]


def _used(measure: str, spent: Spent) -> int:
    money = spent.input * INPUT + spent.output * OUTPUT
    return {"requests": spent.calls, "tokens": spent.tokens, "money": money}[measure]


def requested(measure: str, refusal: Told) -> int:
    """What a refused call asked for, by its message."""
    found = _REQUESTED.search(str(refusal.error["message"]))
    if found is None:
        raise ValueError("the refusal does not tell what was asked for")
    amount = Decimal(found[1].rstrip("."))
    return int(amount * _NANO if measure == "money" else amount)


def crowd_of(measure: str, number: int, callers: int) -> list[Ask]:
    """The callers of one round, whom the provider keeps until all have been decided."""
    return alike(callers, model_of(measure, number), CAP, held=0, length=CAP // 5)


def unruly_crowd(number: int, callers: int) -> list[Ask]:
    models = dict.fromkeys(("chat", "completions", "responses"), (f"unruly-{number}",))
    return list(unruly(callers, {**models, "messages": (f"unruly-{number}-claude",)}, seed=number))


def leased_crowd(number: int, callers: int) -> list[Ask]:
    """Streams that would all go on for as long as the model can, at a model's pace: what is on its way is little."""
    fake = {"length": 400, "tokens_per_second": 100}
    return [Ask("chat", f"leased-{number}", cap=None, stream=True, fake=fake) for _ in range(callers)]
