"""Covariates of cells as learned embeddings, side by side."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mocli.models.base import Conditions
from mocli.nn.layers import ContinuousResponse


class Levels(nn.Module):
    """Embedding of one categorical covariate; rows that a query adds are parameters of their own.

    So existing rows stay the same bit for bit, whatever an optimiser does: not even weight decay reaches
    them.
    """

    def __init__(self, n_known: int, n_added: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_known, width))
        self.added = nn.Parameter(torch.randn(n_added, width)) if n_added else None

    @property
    def table(self) -> Tensor:
        """All rows, `(n_known + n_added, width)`."""
        return self.weight if self.added is None else torch.cat([self.weight, self.added])

    def forward(self, codes: Tensor) -> Tensor:
        """`(B,)` to `(B, width)`; -1 stands at the mean of the levels."""
        table = self.table
        is_known = (codes >= 0).unsqueeze(1)
        return torch.where(is_known, table[codes.clamp_min(0)], table.mean(0))

    def extend(self, smaller: Levels) -> None:
        """Copy the rows of a smaller table; new levels start at the mean of its levels."""
        with torch.no_grad():
            rows = smaller.table
            self.weight.copy_(rows)
            if self.added is not None:
                self.added.copy_(rows.mean(0).expand_as(self.added))


class Covariates(nn.Module):
    """Embeddings of covariates: one for each categorical covariate, and one for all continuous ones together.

    Parameters
    ----------
    n_levels
        Number of levels by key: those of the model, and those that a query adds.
    n_continuous
        Number of continuous covariates.
    """

    def __init__(
        self, n_levels: Mapping[str, tuple[int, int]], n_continuous: int, width: int, response: str
    ) -> None:
        super().__init__()
        self.keys = list(n_levels)
        self.tables = nn.ModuleList(Levels(n_known, added, width) for n_known, added in n_levels.values())
        self.response = ContinuousResponse(n_continuous, width, response) if n_continuous else None
        self.width = width * (len(self.keys) + (self.response is not None))

    def forward(self, n: int, conditions: Conditions | None) -> Tensor:
        """`(n, width)`; a missing level, or no conditions at all, stands at the mean level."""
        device = next(self.parameters()).device if self.width else None
        codes, continuous = conditions if conditions is not None else ({}, None)
        parts = []
        for key, table in zip(self.keys, self.tables, strict=True):
            codes_of_key = codes[key] if key in codes else torch.full((n,), -1, device=device)
            parts.append(table(codes_of_key))
        if self.response is not None:
            values = self.response.mean.expand(n, -1) if continuous is None else continuous
            parts.append(self.response(values))
        return torch.cat(parts, dim=1) if parts else torch.zeros(n, 0, device=device)
