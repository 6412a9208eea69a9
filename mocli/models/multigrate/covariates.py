"""Covariates of cells as learned embeddings, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from mocli.nn.layers import Response

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mocli.models.base import Conditions


class Covariates(nn.Module):
    """Embeddings of categorical covariates, one each, and one of all continuous ones together.

    Parameters
    ----------
    n_levels
        Number of levels by key.
    n_continuous
        Number of continuous covariates.
    """

    def __init__(self, n_levels: Mapping[str, int], n_continuous: int, width: int, response: str) -> None:
        super().__init__()
        self.keys = list(n_levels)
        self.tables = nn.ModuleList(nn.Embedding(n, width) for n in n_levels.values())
        self.response = Response(n_continuous, width, response) if n_continuous else None
        self.width = width * (len(self.keys) + (self.response is not None))

    def forward(self, n: int, conditions: Conditions | None) -> Tensor:
        """`(n, width)`; a level that is missing counts as none, no conditions at all as the mean level."""
        device = next(self.parameters()).device if self.width else None
        codes, continuous = conditions if conditions is not None else ({}, None)
        parts = []
        for key, module in zip(self.keys, self.tables, strict=True):
            table = cast("nn.Embedding", module)
            if key in codes:
                known = (codes[key] >= 0).to(table.weight.dtype).unsqueeze(1)
                parts.append(table(codes[key].clamp_min(0)) * known)
            else:
                parts.append(table.weight.mean(0).expand(n, -1))
        if self.response is not None:
            values = self.response.mean.expand(n, -1) if continuous is None else continuous
            parts.append(self.response(values))
        return torch.cat(parts, dim=1) if parts else torch.zeros(n, 0, device=device)
