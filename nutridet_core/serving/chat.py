"""The chat endpoint, for clients that speak OpenAI's protocol, the seed's among them.

Belongs here: finding the one photo in the messages, and an answer in the form that the seed documents. Does not
belong here: the prompt: whatever the client asks, the model is asked what it was trained on, because
a model asked something else answers something else.
"""

from __future__ import annotations

import time
import uuid
from typing import Any

from nutridet_core.answers import LABEL, NO_TABLE
from nutridet_core.serving import refusals
from nutridet_core.serving.schemas import ChatRequest, Detection


def photo_reference(chat: ChatRequest) -> str:
    """The URL of the one photo.

    Raises:
        RefusedError: when there is not exactly one, or the client wants what this endpoint does not do.
    """
    if chat.stream:
        raise refusals.bad_request("answers are not streamed", field="stream", remedy="Leave stream out.")
    if chat.n != 1:
        raise refusals.bad_request("there is one answer", field="n", remedy="Leave n out.")
    references = [url for message in chat.messages for url in _references(message)]
    if len(references) != 1:
        raise refusals.bad_request(
            f"{len(references)} photos, not one", field="messages",
            remedy="Send one content part of type image_url; several photos go to /v1/detect/batch.",
        )  # fmt: skip
    return references[0]


def completion(chat: ChatRequest, detection: Detection) -> dict[str, Any]:
    """A chat completion; `nutridet` holds the whole detection."""
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": chat.model or detection.model.name,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": flat_text(detection)},
                "finish_reason": "length" if "truncated" in detection.problems else "stop",
            }
        ],
        "nutridet": detection.model_dump(),
    }


def flat_text(detection: Detection) -> str:
    """`nutrition table(273,304,713,679)` in thousandths of the photo; what the model wrote where that is unreadable."""
    if detection.boxes:
        return ", ".join(
            f"{LABEL}({','.join(str(round(value * 1000)) for value in box.unit)})" for box in detection.boxes
        )
    return detection.text if detection.failed else NO_TABLE


def _references(message: dict[str, Any]) -> list[str]:
    content = message.get("content")
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    found = []
    for part in parts:
        image = part.get("image_url") if part.get("type") == "image_url" else None
        url = image.get("url") if isinstance(image, dict) else image
        if isinstance(url, str):
            found.append(url)
    return found
