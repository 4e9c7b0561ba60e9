"""What goes over the wire: the JSON of requests and answers.

Belongs here: pydantic models; their docstrings are the API's documentation (OpenAPI). Does not belong here:
how an answer comes about (`detector`).
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class DetectRequest(BaseModel):
    """A photo as JSON."""

    model_config = ConfigDict(extra="forbid")

    image: str = Field(
        description="Base64 of a JPEG, PNG or WebP; also as a data: URL. An http(s) URL only of a host that the "
        "server allows."
    )


class BatchRequest(BaseModel):
    """Several photos as JSON."""

    model_config = ConfigDict(extra="forbid")

    images: list[str] = Field(min_length=1, description="As `image` of /v1/detect, each.")


class FoundBox(BaseModel):
    """A nutrition table."""

    label: str
    px: tuple[float, float, float, float] = Field(
        description="x0, y0, x1, y1 in pixels of the photo, upright (EXIF rotation applied)."
    )
    unit: tuple[float, float, float, float] = Field(description="The same in 0..1.")


class ModelInfo(BaseModel):
    """Which model answered."""

    name: str
    version: str | None = Field(description="In the registry; null for a folder.")
    digest: str = Field(description="sha256 over the weights' files.")
    contract: str = Field(description="Hash of prompt, resize and answer grammar.")
    engine: str


class ListedModel(BaseModel):
    """A model and how to choose it."""

    id: str = Field(description="For `model`; empty for the one that is served without it.")
    model: ModelInfo


class ModelList(BaseModel):
    """The model that is served, and those beside it."""

    data: list[ListedModel]


class Timing(BaseModel):
    """Milliseconds."""

    decode: float = Field(description="Photo to pixels, as far as the model waited for it.")
    wait: float = Field(description="Before the model began: room in memory, place in a batch.")
    answer: float = Field(description="The model, its own photo preparation included.")
    total: float = Field(description="From the photo's last byte to the answer.")


class Detection(BaseModel):
    """What the model found in one photo."""

    boxes: list[FoundBox]
    score: float | None = Field(description="Geometric mean of the answer's token probabilities; null if unknown.")
    text: str = Field(description="What the model wrote.")
    form: str = Field(description="How the boxes were written; negative when it says that there is no table.")
    problems: list[str] = Field(description="What was wrong with the answer.")
    failed: bool = Field(description="Whether the answer could not be read in full.")
    size: tuple[int, int] = Field(description="Width and height of the upright photo, px.")
    model: ModelInfo
    timing_ms: Timing


class Problem(BaseModel):
    """Why there is no answer."""

    type: str
    message: str
    field: str
    remedy: str


class ErrorBody(BaseModel):
    """The body of every status from 400 on."""

    error: Problem


class BatchItem(BaseModel):
    """One photo of a batch: a detection or an error."""

    detection: Detection | None = None
    error: Problem | None = None


class BatchAnswer(BaseModel):
    """In the order of the photos."""

    results: list[BatchItem]


class ChatRequest(BaseModel):
    """As OpenAI's clients send it. Only the photo counts: question and sampling are the contract's."""

    model_config = ConfigDict(extra="allow")

    messages: list[dict[str, Any]]
    model: str = ""
    stream: bool = False
    n: int = 1
