"""Dense supervision of the vision tower: what covers every cell of a view, and where that begins and ends.

The loss over a few digits says little about where to look: with it alone, the loss stood still for the first
thousand steps and then sank slowly (docs/log.md). A linear head on the visual tokens predicts, per quarter
of a cell, how much of it each kind of object covers and, per cell, the edges of the object on it, as FCOS
does (Tian et al., 2019). The head is thrown away after pretraining; the tokens it taught stay.

Belongs here: the head, its targets and its loss. Does not belong here: the answers' loss (`network`).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

_EDGES = 4
_PARTS = 2  # of a cell, across and down
_EDGE_WEIGHT = 4.0  # an edge is off by about a tenth of the view at first, a bit of coverage by much more
_COVER_WEIGHT = 4.0


class DenseHead(nn.Module):
    """Predicts coverage and edges from visual tokens."""

    def __init__(self, hidden: int, labels: int) -> None:
        super().__init__()
        self.labels = labels
        self.project = nn.Linear(hidden, labels * _PARTS**2 + _EDGES)

    def forward(self, tokens: torch.Tensor, objects: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """The loss.

        Args:
            tokens: `(views, cells, hidden)`, cells in reading order.
            objects: `(views, objects, 5)`, as in `views.Batch`.
            grid: cells down and across.
        """
        found = self.project(tokens).float()
        cover = coverage(objects, self.labels, grid)
        seen, edges = edges_of(objects, grid)
        covered = functional.binary_cross_entropy_with_logits(found[..., _EDGES:], cover)
        apart = (found[..., :_EDGES] - edges).abs().mean(-1)
        off: torch.Tensor = (apart * seen).sum() / seen.sum().clamp(min=1)
        return _COVER_WEIGHT * covered + _EDGE_WEIGHT * off


def coverage(objects: torch.Tensor, labels: int, grid: tuple[int, int]) -> torch.Tensor:
    """Covered share of every part of a cell, `(views, cells, parts * labels)` in 0..1."""
    rows, columns = (_PARTS * cells for cells in grid)
    kind, x0, y0, x1, y1 = objects.unbind(-1)
    across, down = _overlap(x0, x1, columns), _overlap(y0, y1, rows)
    one_hot = functional.one_hot(kind.long().clamp(min=0), labels).float() * (kind >= 0).unsqueeze(-1)
    share = torch.einsum("vor,voc,vol->vrcl", down, across, one_hot).clamp(max=1)
    parts = share.reshape(len(objects), grid[0], _PARTS, grid[1], _PARTS, labels).permute(0, 1, 3, 2, 4, 5)
    return parts.reshape(len(objects), grid[0] * grid[1], _PARTS**2 * labels)


def edges_of(objects: torch.Tensor, grid: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether an object covers the middle of each cell `(views, cells)`, and x0, y0, x1, y1 of the smallest."""
    rows, columns = grid
    kind, box = objects[..., 0], objects[..., 1:]
    y = ((torch.arange(rows, device=box.device) + 0.5) / rows).repeat_interleave(columns)
    x = ((torch.arange(columns, device=box.device) + 0.5) / columns).repeat(rows)
    x0, y0, x1, y1 = (edge.unsqueeze(1) for edge in box.unbind(-1))  # (views, 1, objects)
    x, y = x[:, None], y[:, None]
    inside = (x0 < x) & (x < x1) & (y0 < y) & (y < y1) & (kind >= 0).unsqueeze(1)
    area = ((x1 - x0) * (y1 - y0)).expand(inside.shape)
    smallest = area.masked_fill(~inside, torch.inf).argmin(-1)
    edges = torch.gather(box, 1, smallest.unsqueeze(-1).expand(-1, -1, _EDGES))
    return inside.any(-1), edges


def _overlap(low: torch.Tensor, high: torch.Tensor, parts: int) -> torch.Tensor:
    """Share of each of `parts` equal intervals of 0..1 that `low..high` covers, `(views, objects, parts)`."""
    edges = torch.arange(parts + 1, device=low.device) / parts
    first, last = edges[:-1], edges[1:]
    covered = torch.minimum(high.unsqueeze(-1), last) - torch.maximum(low.unsqueeze(-1), first)
    return covered.clamp(min=0) * parts
