"""Batches as model inputs: pixels cut, lit and divided into patches on the device, text as tokens.

Belongs here: what stands in for Qwen2-VL's processor during pretraining, at thousands of views a
second. Does not belong here: the network (`network`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional

from nutridet_core.answers import LABEL
from nutridet_core.prompts import Contract, prompt_messages
from nutridet_core.tiny.architecture import pretraining_question
from nutridet_core.tiny.views import CELL, Batch

Text = dict[str, torch.Tensor]


def look(batch: Batch) -> torch.Tensor:
    """The views, `(views, height, width, 3)` float 0..255: each pixel the mean of four samples of its sheet."""
    height, width = (2 * CELL * cells for cells in batch.grid)
    device = batch.sheets.device
    sheets = batch.sheets.permute(0, 3, 1, 2).float()
    x0, y0, x1, y1 = batch.windows[..., None].unbind(2)
    across = (torch.arange(width, device=device) + 0.5) / width
    down = (torch.arange(height, device=device) + 0.5) / height
    x = 2 * (x0 + (x1 - x0) * across) / sheets.shape[3] - 1  # (sheets, views, width), the sheet spans -1..1
    y = 2 * (y0 + (y1 - y0) * down) / sheets.shape[2] - 1
    shape = (*x.shape[:2], height, width)
    where = torch.stack([x[:, :, None].expand(shape), y[..., None].expand(shape)], dim=-1)
    fine = functional.grid_sample(sheets, where.flatten(1, 2), padding_mode="border", align_corners=False)
    views: torch.Tensor = functional.avg_pool2d(fine, 2)  # (sheets, 3, views * height, width), views below each other
    return views.reshape(len(sheets), 3, shape[1], height // 2, width // 2).permute(0, 2, 3, 4, 1).flatten(0, 1)


def relight(views: torch.Tensor) -> torch.Tensor:
    """Other contrast, exposure, tint, sharpness and noise for every view, `(n, height, width, 3)` 0..255."""

    def draw(low: float, high: float, channels: int = 1) -> torch.Tensor:
        return torch.empty(len(views), 1, 1, channels, device=views.device).uniform_(low, high)

    middle = views.mean(dim=(1, 2, 3), keepdim=True)
    views = (middle + (views - middle) * draw(0.55, 1.25)) * draw(0.7, 1.25) * draw(0.9, 1.1, channels=3)
    views = torch.where(draw(0, 1) < 0.1, views.mean(dim=3, keepdim=True), views)
    smooth = functional.avg_pool2d(views.permute(0, 3, 1, 2), 3, stride=1, padding=1, count_include_pad=False)
    views = torch.lerp(views, smooth.permute(0, 2, 3, 1), draw(-0.5, 0.9))  # below 0 it sharpens
    return (views + torch.randn_like(views) * draw(0, 8)).clamp(0, 255)


def patchify(views: torch.Tensor, mean: list[float], std: list[float]) -> torch.Tensor:
    """`(n, height, width, 3)` 0..255 to `(n * patches, 1176)` in the order of Qwen2-VL's processor."""
    n, height, width, _ = views.shape
    scale = views.new_tensor([255 * s for s in std], dtype=torch.float32)
    shift = views.new_tensor([255 * m for m in mean], dtype=torch.float32)
    pixels = ((views.float() - shift) / scale).permute(0, 3, 1, 2)
    cells = pixels.reshape(n, 3, height // CELL, 2, 14, width // CELL, 2, 14)
    patches = cells.permute(0, 2, 5, 3, 6, 1, 4, 7)  # n, cell row, cell column, row, column, channel, y, x
    doubled = patches.unsqueeze(6).expand(*patches.shape[:6], 2, 14, 14)  # a photo is a video of two equal frames
    return doubled.reshape(n * height * width // 196, 1176)


class Encoder:
    """Turns a `Batch` into model inputs: `text` in the workers, `inputs` on the device."""

    def __init__(self, processor: Any, contract: Contract) -> None:
        self.processor, self.tokenizer, self.contract = processor, processor.tokenizer, contract
        self.prompts: dict[tuple[str, int], list[int]] = {}
        self.photo_at = self._prompt(LABEL, 1).index(self.tokenizer.convert_tokens_to_ids("<|image_pad|>"))
        """Where in every prompt the photo's tokens begin."""

    def text(self, batch: Batch) -> Text:
        """Token ids, labels on the answers only, and `(3, length)` positions."""
        height, width = batch.grid
        prompts = [self._prompt(label, height * width) for label in batch.labels]
        answers = self.tokenizer([answer + "<|im_end|>" for answer in batch.answers]).input_ids
        length = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
        ids = np.full((len(prompts), length), self.tokenizer.pad_token_id)
        labels = np.full_like(ids, -100)
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            ids[row, : len(prompt)] = prompt
            ids[row, len(prompt) : len(prompt) + len(answer)] = answer
            labels[row, len(prompt) : len(prompt) + len(answer)] = answer
        positions = mrope_positions(length, self.photo_at, height, width)
        return {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels), "position_ids": positions}

    def inputs(self, batch: Batch, text: Text, *, light: bool = True) -> dict[str, torch.Tensor]:
        """What the model takes, and `labels` and `objects`, on the device that batch and text are on.

        The grids stay on the CPU: reading them back would wait for the GPU.
        """
        height, width = batch.grid
        views = look(batch)
        image_processor = self.processor.image_processor
        patches = patchify(relight(views) if light else views, image_processor.image_mean, image_processor.image_std)
        return {
            **text,
            "position_ids": text["position_ids"][:, None].expand(3, len(batch.labels), -1),
            "pixel_values": patches,
            "image_grid_thw": torch.tensor([[1, 2 * height, 2 * width]]).expand(len(views), 3),
            "objects": batch.objects,
        }

    def _prompt(self, label: str, cells: int) -> list[int]:
        if (label, cells) not in self.prompts:
            messages = prompt_messages(self.contract, question=pretraining_question(label))
            text = self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            text = text.replace("<|image_pad|>", "<|image_pad|>" * cells)
            self.prompts[label, cells] = self.tokenizer(text).input_ids
        return self.prompts[label, cells]


def mrope_positions(length: int, start: int, height: int, width: int) -> torch.Tensor:
    """Qwen2-VL's `(3, length)` time, row and column positions for one photo that begins at `start`."""
    positions = torch.arange(length).repeat(3, 1)
    cells = torch.arange(height * width)
    image = torch.stack([torch.zeros_like(cells), cells // width, cells % width])
    end = start + height * width
    positions[:, start:end] = start + image
    positions[:, end:] = start + max(height, width) + torch.arange(length - end)
    return positions
