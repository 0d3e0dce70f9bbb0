"""What the gateway tells people of by itself, and where."""

from datetime import timedelta
from typing import Literal

from pydantic import Field

from extproc.config.fields import Duration, LocalSecret, Name, Strict

Kind = Literal["budgets", "backends", "errors", "ledger"]
KINDS: tuple[Kind, ...] = ("budgets", "backends", "errors", "ledger")


class Webhook(Strict):
    """Where alerts are posted to."""

    url: LocalSecret = Field(
        description="where its https URL is, which is a secret: who has it can post; read again for every message"
    )
    format: Literal["slack", "json"] = Field(
        default="slack", description="slack: a message, as Slack and others take it; json: the facts, for programs"
    )
    alerts: tuple[Kind, ...] = Field(default=KINDS, min_length=1, description="the kinds that it gets")
    plain_http: bool = Field(
        default=False, description="its URL may be http, although not of this machine: anybody between can read it"
    )


class Share(Strict):
    """A share of many that is too high."""

    share: float = Field(gt=0, le=1, description="of 1, from which an alert is sent")
    least: int = Field(default=20, ge=1, le=1_000_000, description="of fewer nothing is said")
    within: Duration = Field(
        default=timedelta(minutes=5),
        ge=timedelta(seconds=10),
        le=timedelta(hours=1),
        description="of how long before now",
    )


class Alerts(Strict):
    """What the gateway tells people of by itself, each once. Sent by who writes the ledger."""

    webhooks: dict[Name, Webhook] = Field(default_factory=dict, description="where to, by name; empty: no alerts")
    backends: Share = Field(
        default=Share(share=0.5), description="attempts at one backend that failed: no answer, or a 429 or 5xx"
    )
    errors: Share = Field(default=Share(share=0.1, least=50), description="calls that ended with a 5xx")
    ledger_lag: Duration = Field(
        default=timedelta(minutes=2), description="what calls used has been waiting for the ledger for so long"
    )
    again: Duration = Field(
        default=timedelta(hours=1),
        ge=timedelta(minutes=1),
        le=timedelta(days=7),
        description="of backends, errors and the ledger: when an alert is repeated while it holds",
    )
