"""What Gemini takes, as its REST reference has it, so that nothing is sent that it would not know."""

from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Blob(_Shape):
    mimeType: Annotated[str, StringConstraints(pattern="^[a-z]+/[a-z0-9.+-]+$")]  # noqa: N815 - Gemini's names
    data: str


class FileData(_Shape):
    mimeType: str = ""  # noqa: N815
    fileUri: str  # noqa: N815


class FunctionCall(_Shape):
    id: str
    name: str
    args: dict[str, Any]


class FunctionResponse(_Shape):
    id: str
    name: str
    response: dict[str, Any]


class Part(_Shape):
    text: str | None = None
    inlineData: Blob | None = None  # noqa: N815
    fileData: FileData | None = None  # noqa: N815
    functionCall: FunctionCall | None = None  # noqa: N815
    functionResponse: FunctionResponse | None = None  # noqa: N815
    thoughtSignature: str | None = None  # noqa: N815

    @model_validator(mode="after")
    def _has_one(self) -> "Part":
        kinds = (self.text, self.inlineData, self.fileData, self.functionCall, self.functionResponse)
        assert sum(kind is not None for kind in kinds) == 1
        return self


class Content(_Shape):
    role: Literal["user", "model"]
    parts: Annotated[list[Part], Field(min_length=1)]


class Instruction(_Shape):
    parts: Annotated[list[Part], Field(min_length=1)]


class FunctionDeclaration(_Shape):
    name: str
    description: str = ""
    parametersJsonSchema: dict[str, Any] | None = None  # noqa: N815


class Tool(_Shape):
    functionDeclarations: Annotated[list[FunctionDeclaration], Field(min_length=1)]  # noqa: N815


class FunctionCallingConfig(_Shape):
    mode: Literal["AUTO", "ANY", "NONE", "VALIDATED"]
    allowedFunctionNames: list[str] = []  # noqa: N815


class ToolConfig(_Shape):
    functionCallingConfig: FunctionCallingConfig  # noqa: N815


class ThinkingConfig(_Shape):
    thinkingBudget: int | None = None  # noqa: N815
    thinkingLevel: Literal["minimal", "low", "medium", "high"] | None = None  # noqa: N815


class GenerationConfig(_Shape):
    maxOutputTokens: int | None = None  # noqa: N815
    temperature: float | None = None
    topP: float | None = None  # noqa: N815
    candidateCount: int | None = None  # noqa: N815
    stopSequences: list[str] | None = None  # noqa: N815
    seed: int | None = None
    presencePenalty: float | None = None  # noqa: N815
    frequencyPenalty: float | None = None  # noqa: N815
    responseLogprobs: bool | None = None  # noqa: N815
    logprobs: int | None = None
    responseMimeType: Literal["application/json"] | None = None  # noqa: N815
    responseJsonSchema: dict[str, Any] | None = None  # noqa: N815
    mediaResolution: Literal["MEDIA_RESOLUTION_LOW", "MEDIA_RESOLUTION_HIGH"] | None = None  # noqa: N815
    thinkingConfig: ThinkingConfig | None = None  # noqa: N815


class GenerateContentRequest(_Shape):
    contents: Annotated[list[Content], Field(min_length=1)]
    systemInstruction: Instruction | None = None  # noqa: N815
    tools: list[Tool] | None = None
    toolConfig: ToolConfig | None = None  # noqa: N815
    generationConfig: GenerationConfig | None = None  # noqa: N815


class EmbedContentRequest(_Shape):
    model: Annotated[str, StringConstraints(pattern="^models/")]
    content: Instruction
    outputDimensionality: int | None = None  # noqa: N815


class BatchEmbedContentsRequest(_Shape):
    requests: Annotated[list[EmbedContentRequest], Field(min_length=1, max_length=100)]


def validated(body: dict[str, Any], shape: type[_Shape] = GenerateContentRequest) -> dict[str, Any]:
    """The body as it goes over the wire, if Gemini knows every field of it."""
    sent = orjson.dumps(body)
    shape.model_validate_json(sent)
    said: dict[str, Any] = orjson.loads(sent)
    return said
