"""Layers of the LACBED networks: blocks that are told the conditions, and attention."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn import functional

#: "circular" for a unit cell; "replicate" for a quadrant whose inner edges are mirrors.
Padding = Literal["circular", "replicate", "reflect"]


def convolution(n_in: int, n_out: int, padding: Padding, size: int = 3, stride: int = 1):
    """Return a convolution that keeps the size of a picture, or divides it by the stride."""
    return nn.Conv2d(n_in, n_out, size, stride, size // 2, padding_mode=padding)


class Block(nn.Module):
    """Two convolutions past an identity, scaled and shifted by the conditions (FiLM)."""

    def __init__(self, n_in: int, n_out: int, padding: Padding, told: int) -> None:
        super().__init__()
        self.first = convolution(n_in, n_out, padding)
        self.second = convolution(n_out, n_out, padding)
        with torch.no_grad():
            self.second.weight.mul_(0.1)
        self.tell = nn.Linear(told, 2 * n_out)
        self.past = nn.Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()

    def forward(self, x: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        scale, shift = self.tell(told)[..., None, None].chunk(2, dim=1)
        inner = self.first(functional.relu(x))
        return self.past(x) + self.second(functional.relu(inner * (1.0 + scale) + shift))


class Attention(nn.Module):
    """A transformer layer over tokens (b, n, width), told the conditions."""

    def __init__(self, width: int, told: int, heads: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.mix = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.tell = nn.Linear(told, width)
        self.inner = nn.Sequential(
            nn.Linear(width, 2 * width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )

    def forward(self, x: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        mixed = self.mix(self.norms[0](x) + self.tell(told)[:, None])
        parts = mixed.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return x + self.inner(self.norms[1](x))


class Told(nn.Module):
    """The conditions (b, n) as features (b, width) for the blocks."""

    def __init__(self, conditions: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(conditions, width), nn.GELU(), nn.Linear(width, width), nn.GELU()
        )

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.layers(values)
