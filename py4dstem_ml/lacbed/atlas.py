"""An atlas of known cubic crystals, which are found by their [001] bright fields at any depth."""

from __future__ import annotations

import os
from collections.abc import Container
from dataclasses import dataclass, replace
from functools import cached_property
from math import pi
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from .. import weights
from ..physics.crystal import Crystal
from .bragg_lines import quadrant

#: Shares and dampings of Bloch waves are stored as whole numbers of this part.
FINEST = 255
_TENSORS = (
    "a", "offsets", "numbers", "positions", "places", "levels", "shares", "dampings", "greatest"
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Atlas:
    """Cubic crystals, and their Bloch waves at some directions.

    From these follow bright fields at any depth, which find the crystal: see
    `BrightField.bloch_waves`.

    Attributes
    ----------
    a : torch.Tensor, shape (n,)
        Å.
    offsets : torch.Tensor, shape (n + 1,)
        Where the atoms of each crystal begin.
    numbers, positions : torch.Tensor, shape (atoms,), (atoms, 3)
        Elements, and fractions of the cell.
    places : torch.Tensor, shape (q,)
        Directions: pixels of the flat quadrant.
    levels, shares : torch.Tensor, shape (n, q, w)
        Of the Bloch waves, float16 in natural units and uint8 in 255ths.
    dampings : torch.Tensor, shape (n, q, w)
        By thermal diffuse absorption, uint8 in 255ths of ``greatest`` (n,), in natural units.
    names : list of str, length n
        See `names_of`.
    metadata : dict
        ``pixels`` and ``half_width`` of the patterns, and what the atlas was made from.
    """

    a: torch.Tensor
    offsets: torch.Tensor
    numbers: torch.Tensor
    positions: torch.Tensor
    places: torch.Tensor
    levels: torch.Tensor
    shares: torch.Tensor
    dampings: torch.Tensor
    greatest: torch.Tensor
    names: list[str]
    metadata: dict[str, Any]

    @property
    def pixels(self) -> int:
        """Rows and columns of the patterns."""
        return int(self.metadata["pixels"])

    @property
    def half_width(self) -> float:
        """Half the side of the patterns, in reciprocal lattice vectors a*."""
        return float(self.metadata["half_width"])

    def __len__(self) -> int:
        return len(self.a)

    def __getitem__(self, number: int) -> Crystal:
        if not 0 <= number < len(self):
            raise IndexError(f"crystal {number} of {len(self)}")
        atoms = slice(*self.offsets[number : number + 2].tolist())
        return Crystal.cubic(
            float(self.a[number]), self.numbers[atoms], self.positions[atoms],
            name=self.names[number],
        )  # fmt: skip

    def intensities(self, tau: float, absorbed: float = 0.0) -> torch.Tensor:
        """Return the bright fields (n, q) of all crystals at a depth, see `natural`.

        ``absorbed`` is the depth that dampings are counted at; 0 without absorption.
        """
        levels, shares, dampings = self._waves
        if absorbed:
            shares = shares * (-pi * absorbed * dampings).exp()
        phases = pi * tau * levels
        return (shares * phases.cos()).sum(2).square() + (shares * phases.sin()).sum(2).square()

    def nearest(
        self, pattern: torch.Tensor, tau: float, count: int, absorbed: float = 0.0
    ) -> list[int]:
        """Return the numbers of the crystals whose bright fields correlate best with a pattern.

        Parameters
        ----------
        pattern : torch.Tensor, shape (pixels, pixels)
            Of any scale.
        tau : float
            Its depth. Strengths are those at the voltage of the atlas: at others what is alike is
            found less surely.
        count : int
        absorbed : float
            See `intensities`; measured patterns have absorption.
        """
        seen = _centred(quadrant(pattern).flatten()[self.places])
        correlation = self._keys(tau, absorbed) @ seen
        return correlation.topk(min(count, len(self))).indices.tolist()

    def only(self, names: Container[str]) -> Atlas:
        """Return the atlas of those crystals that have these names."""
        kept = [number for number, name in enumerate(self.names) if name in names]
        sizes = self.offsets.diff()
        atoms = torch.isin(torch.repeat_interleave(sizes), torch.tensor(kept, dtype=torch.int64))
        return replace(
            self, a=self.a[kept], offsets=torch.cat([self.offsets[:1], sizes[kept].cumsum(0)]),
            numbers=self.numbers[atoms], positions=self.positions[atoms],
            levels=self.levels[kept], shares=self.shares[kept],
            dampings=self.dampings[kept], greatest=self.greatest[kept],
            names=[self.names[number] for number in kept],
        )  # fmt: skip

    def _keys(self, tau: float, absorbed: float) -> torch.Tensor:
        keys = self._last.get((tau, absorbed))
        if keys is None:  # another thread may clear them: they are returned from here
            keys = _centred(self.intensities(tau, absorbed))
            self._last.clear()
            self._last[tau, absorbed] = keys
        return keys

    @cached_property
    def _last(self) -> dict[tuple[float, float], torch.Tensor]:
        """What patterns of the last depth are compared with: those of a stack have one."""
        return {}

    @cached_property
    def _waves(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        dampings = self.dampings * (self.greatest / FINEST)[:, None, None]
        return self.levels.float(), self.shares.float() / FINEST, dampings

    def save(self, path: str | os.PathLike) -> Path:
        """Write the atlas as weights are."""
        tensors = {name: getattr(self, name) for name in _TENSORS}
        return weights.save(path, tensors, {**self.metadata, "lacbed_atlas": self.names})

    @classmethod
    def load(cls, name_or_path: str | os.PathLike) -> Atlas:
        """Read what `save` wrote, by name or path.

        Raises
        ------
        WeightsError
            If the file holds no atlas, or one of an earlier version.
        """
        tensors, metadata = weights.load(name_or_path)
        if "lacbed_atlas" in metadata and set(_TENSORS) - set(tensors) == {"dampings", "greatest"}:
            raise weights.WeightsError(
                f"{name_or_path} is an atlas without absorption, of an earlier version: make it "
                "again with py4dstem-ml fit lacbed"
            )
        if "lacbed_atlas" not in metadata or set(tensors) != set(_TENSORS):
            raise weights.WeightsError(f"{name_or_path} does not hold an atlas of LACBED patterns")
        names = metadata.pop("lacbed_atlas")
        return cls(**tensors, names=names, metadata=metadata)


def names_of(formula: npt.NDArray[np.str_], material_id: npt.NDArray[np.str_]) -> list[str]:
    """Return the names that crystals (n,) have in an atlas."""
    return [f"{one} ({name})" for one, name in zip(formula, material_id, strict=True)]


def _centred(rows: torch.Tensor) -> torch.Tensor:
    """Rows (..., q) of mean 0 and length 1."""
    rows = rows - rows.mean(-1, keepdim=True)
    return rows / rows.norm(dim=-1, keepdim=True).clamp(min=1e-30)
