"""One request as the operations see it: read, routed and with its faults known."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from loadtest.fake_llm.answer import Json
from loadtest.fake_llm.errors import ApiError, Face, missing
from loadtest.fake_llm.faults import Faults
from loadtest.fake_llm.store import Store


@dataclass(frozen=True, slots=True)
class Inquiry:
    """A call of one operation. `serial` counts the calls of an instance and makes the ids of its answers.

    `deployment` is the model of an Azure path, `item` the id in a path, `action` what follows that id.
    `files` are a multipart body's files, by field, as (file name, content); its other fields are in `body`.
    """

    face: Face
    instance: str
    serial: int
    faults: Faults
    store: Store
    method: str = "POST"
    body: Json = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, tuple[str, bytes]] = field(default_factory=dict)
    deployment: str = ""
    item: str = ""
    action: str = ""

    @property
    def model(self) -> str:
        """The model asked for. Raises ApiError when the call names none."""
        model = self.deployment or self.body.get("model")
        if not isinstance(model, str) or not model:
            raise ApiError(400, "you must provide a model parameter", param="model")
        return model

    def need(self, name: str) -> Any:
        """A required field of the body. Raises ApiError when it is absent or null."""
        value = self.body.get(name)
        if value is None:
            raise missing(name)
        return value

    def id(self, prefix: str, index: int = 0) -> str:
        """An id that is unique in this instance, and the same in every run."""
        return f"{prefix}{self.instance}{self.serial:06d}" + (f"x{index}" if index else "")
