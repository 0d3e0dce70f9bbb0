"""The responses that an instance remembers, and the ids of their items. No other instance knows them."""

from collections import OrderedDict
from dataclasses import dataclass, field

from loadtest.fake_llm.answer import Json

_KEPT = 10_000


@dataclass(slots=True)
class Stored:
    """A response, the input that led to it, and whether a background run still has to be asked about."""

    response: Json
    input_items: list[Json]
    queued: bool = False


@dataclass(slots=True)
class Store:
    """Responses by id, the oldest forgotten beyond 10,000."""

    _responses: OrderedDict[str, Stored] = field(default_factory=OrderedDict)

    def add(self, stored: Stored) -> None:
        """Remember a response under its id."""
        self._responses[stored.response["id"]] = stored
        if len(self._responses) > _KEPT:
            self._responses.popitem(last=False)

    def get(self, response_id: str) -> Stored | None:
        """The response, or None when this instance never made it or forgot it."""
        return self._responses.get(response_id)

    def remove(self, response_id: str) -> bool:
        """Forget a response; False when it was not known."""
        return self._responses.pop(response_id, None) is not None

    def has_item(self, item_id: str) -> bool:
        """Whether an output item of a remembered response has this id."""
        return any(
            item.get("id") == item_id for stored in self._responses.values() for item in stored.response["output"]
        )
