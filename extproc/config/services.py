"""Services that policies ask: what judges texts, finds names in them, or makes vectors of them.

Envoy calls them, with their credentials.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from extproc.config.fields import Credential, Strict, check_endpoint

MODERATING = ("openai-moderation", "azure-content-safety")
"""What services speak that moderate."""
EMBEDDING = ("openai-embeddings",)
"""What services speak that turn texts into vectors."""


class Service(Strict):
    """A service beside the models. It gets texts of calls: after redaction, but for one that finds what to redact."""

    api: Literal["openai-moderation", "azure-content-safety", "presidio", "openai-embeddings"] = Field(
        description="what it speaks"
    )
    url: str = Field(description="where it is: the base, as its own clients take it")
    credential: Credential | None = Field(default=None, description="what it wants to be shown")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_endpoint(self.url)
        return self
