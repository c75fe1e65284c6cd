"""Make the atlas of known crystals from tables of them."""

from __future__ import annotations

import logging
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..physics.crystal import Crystal
from ..physics.structures import CrystalTable
from ..progress import progress_bar
from .atlas import FINEST, Atlas, names_of
from .bright_field import BrightField, coefficients_of
from .library import LibraryConfig, cubic_crystals
from .natural import optical_potential

logger = logging.getLogger(__name__)

#: Directions whose Bloch waves are kept, and waves of each: at 700 Å they correlate at .98 or more
#: with what all waves make of them (12 crystals), in thin foils less.
_DIRECTIONS, _WAVES = 64, 6


def fit(
    structures: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    config: LibraryConfig | None = None,
    progress: bool | None = None,
) -> Path:
    """Make an atlas of all cubic crystals of some tables, and write it.

    Parameters
    ----------
    structures : str, Path or sequence of them
        Tables of crystals (.npz).
    output : str or Path
        ``*.safetensors``.
    config : LibraryConfig, optional
        Of which the size of the patterns and the voltage count.
    progress : bool, optional
        None: a bar in a terminal or a notebook.

    Raises
    ------
    ValueError
        If a table lacks a column, or holds no cubic crystal.
    """
    paths = [structures] if isinstance(structures, str | Path) else list(structures)
    crystals, names = [], []
    for path in paths:
        table = CrystalTable(path)
        numbers = np.sort(cubic_crystals(table, seed=0))
        if not len(numbers):
            raise ValueError(f"{path} holds no cubic crystal")
        names += names_of(table.formula[numbers], table.field("material_id")[numbers])
        crystals += [table[i] for i in numbers.tolist()]
    return atlas_of(crystals, names, config or LibraryConfig(), progress).save(output)


def atlas_of(
    crystals: list[Crystal], names: list[str], config: LibraryConfig, progress: bool | None = None
) -> Atlas:
    """Return an atlas of cubic crystals.

    Parameters
    ----------
    crystals : list of Crystal
    names : list of str, of the same length
    config : LibraryConfig
    progress : bool, optional
    """
    engine = BrightField(config.pixels, config.half_width, cell_pixels=config.pixels)
    generator = torch.Generator().manual_seed(0)
    pixels = (config.pixels // 2) ** 2
    places = torch.randperm(pixels, generator=generator)[:_DIRECTIONS].sort().values
    levels, shares, dampings, greatest = [], [], [], []
    for crystal in progress_bar(crystals, description="Bloch waves", progress=progress):
        u = optical_potential(crystal, config.pixels, config.energy_ev)
        with torch.no_grad():
            level, share, damping = engine.bloch_waves(coefficients_of(u), places, _WAVES)
        levels.append(level.half())
        shares.append((share * FINEST).round().to(torch.uint8))
        greatest.append(damping.max().clamp(min=1e-9))
        share = damping.clamp(min=0.0) / greatest[-1]
        dampings.append((share * FINEST).round().to(torch.uint8))
    sizes = torch.tensor([0, *(len(crystal.numbers) for crystal in crystals)])
    return Atlas(
        a=torch.stack([torch.linalg.norm(crystal.lattice[0]) for crystal in crystals]),
        offsets=sizes.cumsum(0), places=places, levels=torch.stack(levels),
        shares=torch.stack(shares), dampings=torch.stack(dampings),
        greatest=torch.stack(greatest), names=names,
        numbers=torch.cat([crystal.numbers for crystal in crystals]).to(torch.uint8),
        positions=torch.cat([crystal.positions for crystal in crystals]).float(),
        metadata={
            "energy_ev": config.energy_ev, "pixels": config.pixels,
            "half_width": config.half_width, "crystals": len(crystals),
        },
    )  # fmt: skip


def add_arguments(parser: ArgumentParser) -> None:
    """Declare ``py4dstem-ml fit lacbed``."""
    parser.add_argument("--structures", required=True, nargs="+", help="tables of crystals (.npz)")
    parser.add_argument("--output", required=True, help="*.safetensors")


def run(args: Namespace) -> None:
    """Run ``py4dstem-ml fit lacbed``."""
    logger.info("atlas: %s", fit(args.structures, args.output))
