"""Simulate the training set of LACBED: cubic crystals along [001], potential and patterns.

All lengths are counted in the crystal's own: patterns reach as many reciprocal lattice vectors
from the axis, whatever a is, and potentials show one unit cell. What the pictures do not show is
stored beside them: a, intensities on a linear scale, the dark fields, formula and prototype.
"""

from __future__ import annotations

import logging
import os
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import torch

from ..physics.crystal import Crystal
from ..physics.lacbed import lacbed
from ..physics.projection import projected_potential
from ..physics.structures import CrystalTable, cached_table
from ..shards import is_made, make_shards, origin_of, written_whole
from .bright_field import BrightField, coefficients_of, uncoupled_sets
from .natural import depth, strength_per_volt
from .random_cells import random_cell

logger = logging.getLogger(__name__)

#: How the names of random cells begin.
RANDOM = "random-"
#: Columns of a shard that are copied from the table of crystals.
_COPIED = ("material_id", "formula", "prototype", "spacegroup")
_DEEPEST = 65535


@dataclass(frozen=True)
class LibraryConfig:
    """What is simulated of each crystal.

    Attributes
    ----------
    energy_ev : float
    thicknesses : tuple of float
        Å.
    reflections : tuple of (h, k)
        The disks along [001], the bright field first.
    pixels : int
        Rows and columns of potentials and patterns.
    half_width : float
        Of the square of directions, in reciprocal lattice vectors: 8 / a is 0.20 / a rad at
        200 kV, a in Å.
    max_beams : (int, int)
        Beams diagonalised together, of centred and of primitive projections; the others count as a
        perturbation. R of a bright field with all of them (up to 2500) is above .999 at 50 nm but
        for a few heavy primitive cells of 10 Å, e.g. CaHg11 (.95).
    absorption : bool
    crystals_per_shard : int
    """

    energy_ev: float = 200e3
    thicknesses: tuple[float, ...] = (500.0, 1000.0, 1500.0, 2000.0)
    reflections: tuple[tuple[int, int], ...] = ((0, 0), (2, 0), (2, 2), (4, 0))
    pixels: int = 64
    half_width: float = 8.0
    max_beams: tuple[int, int] = (400, 700)
    absorption: bool = False
    crystals_per_shard: int = 64

    def __post_init__(self) -> None:
        if self.reflections[:1] != ((0, 0),):
            raise ValueError("the first of the reflections is the bright field, (0, 0)")


def cubic_crystals(table: CrystalTable, seed: int) -> npt.NDArray[np.int64]:
    """Return the numbers of a table's cubic crystals, in an order drawn from the seed."""
    cubic = np.flatnonzero(table.field("crystal_system") == "cubic")
    return np.random.default_rng(seed).permutation(cubic)


def simulate_shard(
    number: int, *, structures: str | None, output: str, seed: int, config: LibraryConfig
) -> Path:
    """Simulate one shard and write it whole, or return the one that is there.

    Parameters
    ----------
    number : int
        The cubic crystals ``number * crystals_per_shard`` and on, see `cubic_crystals`.
    structures : str or None
        Path of the table of crystals; None: random cells, see `random_cells`.
    output : str
        Folder.
    seed : int
    config : LibraryConfig

    Returns
    -------
    Path
        ``lacbed-<number>.h5``. Pictures are linear in 16 bits, from the least to the greatest
        value in ``*_range`` (..., 2): ``potential`` (n, H, W) in V·Å, see `projected_potential`,
        and ``patterns`` (n, t, r, H, W), the incident intensity being 1. ``few_beams``
        (n, t, H / 2, W / 2) are quadrants of the bright field with few beams, see `bright_field`,
        always without absorption.
        ``a`` (n,) is in Å; the other columns are those of the table.

    Raises
    ------
    ValueError
        If the shard that is there has another seed, config or table of crystals.
    """
    path = Path(output) / f"lacbed-{number:06d}.h5"
    origin = origin_of(seed, config, structures)
    if is_made(path, origin):
        return path
    numbers = range(number * config.crystals_per_shard, (number + 1) * config.crystals_per_shard)
    if structures is None:
        crystals, said = _random_cells(numbers, seed)
    else:
        crystals, said = _crystals_of(cached_table(structures), numbers, seed)
    few_beams = BrightField(config.pixels, config.half_width, cell_pixels=config.pixels)
    columns: dict[str, list] = {"potential": [], "patterns": [], "few_beams": [], "a": []}
    for crystal in crystals:
        with torch.no_grad():
            for name, value in simulate_crystal(crystal, config, few_beams).items():
                columns[name].append(value)
    with written_whole(path) as file:
        for name in ("potential", "patterns"):
            _write_pictures(file, name, np.array(columns[name]))
        few = np.array(columns["few_beams"])
        file.create_dataset("few_beams", data=few, compression="lzf", shuffle=True)
        file["a"] = np.array(columns["a"])
        for name, column in said.items():
            file[name] = column.astype("S") if column.dtype.kind == "U" else column
        file.attrs.update(origin)
    return path


def simulate_crystal(
    crystal: Crystal, config: LibraryConfig, few_beams: BrightField
) -> dict[str, npt.NDArray | float]:
    """Return the columns of a shard for one cubic crystal: potential, patterns, few_beams, a."""
    a = float(torch.linalg.norm(crystal.lattice[0]))
    potential = projected_potential(crystal, config.pixels).potential
    disks = lacbed(
        crystal, (0, 0, 1), config.energy_ev, config.thicknesses,
        half_width=config.half_width / a, pixels=config.pixels,
        reflections=[(*hk, 0) for hk in config.reflections],
        max_beams=config.max_beams[_is_primitive(potential)], absorption=config.absorption,
        progress=False,
    )  # fmt: skip
    u = torch.from_numpy(potential * strength_per_volt(a, config.energy_ev))
    tau = [depth(a, thickness, config.energy_ev) for thickness in config.thicknesses]
    few = few_beams(coefficients_of(u), torch.tensor(tau))
    return {
        "potential": potential, "patterns": disks.images.numpy(), "few_beams": few.half().numpy(),
        "a": a,
    }  # fmt: skip


def _crystals_of(
    table: CrystalTable, numbers: range, seed: int
) -> tuple[list[Crystal], dict[str, npt.NDArray]]:
    """Crystals of a table, and what it says of them."""
    chosen = cubic_crystals(table, seed)[numbers.start : numbers.stop]
    return [table[i] for i in chosen.tolist()], {
        name: table.field(name)[chosen] for name in _COPIED
    }


def _random_cells(numbers: range, seed: int) -> tuple[list[Crystal], dict[str, npt.NDArray]]:
    """Random cells, each a function of the seed and its number, of a prototype of its own."""
    cells = [random_cell(np.random.default_rng([seed, number])) for number in numbers]
    names = np.array([f"{RANDOM}{seed}-{number}" for number in numbers])
    said = {name: names for name in ("material_id", "formula", "prototype")}
    return cells, {**said, "spacegroup": np.zeros(len(cells), dtype=np.int64)}


def _is_primitive(potential: npt.NDArray) -> bool:
    """Whether a projected cell has no smaller one."""
    return bool(uncoupled_sets(coefficients_of(torch.from_numpy(potential))) == 1)


def _write_pictures(file: h5py.File, name: str, pictures: npt.NDArray) -> None:
    low, high = pictures.min((-2, -1)), pictures.max((-2, -1))
    span = np.maximum(high - low, 1e-12)[..., None, None]
    whole = np.rint((pictures - low[..., None, None]) / span * _DEEPEST).astype(np.uint16)
    chunks = (1,) * (whole.ndim - 2) + whole.shape[-2:]
    file.create_dataset(name, data=whole, chunks=chunks, compression="lzf", shuffle=True)
    file[f"{name}_range"] = np.stack([low, high], axis=-1).astype(np.float32)


def read_pictures(file: h5py.File, name: str, index: tuple = ()) -> npt.NDArray[np.float32]:
    """Read pictures of a shard in their own units, shape (n, ..., H, W).

    Parameters
    ----------
    file : h5py.File
    name : str
        "potential" or "patterns".
    index : tuple of int or slice
        Of the axes between the crystals and the pictures.
    """
    bounds = file[f"{name}_range"][(slice(None), *index)]
    low, high = bounds[..., 0, None, None], bounds[..., 1, None, None]
    return low + (high - low) / _DEEPEST * file[name][(slice(None), *index)].astype(np.float32)


def simulate(
    structures: str | Path | None,
    output: str | Path,
    *,
    shards: int | None = None,
    first: int = 0,
    seed: int = 0,
    processes: int = 1,
    config: LibraryConfig | None = None,
    progress: bool | None = None,
) -> list[Path]:
    """Simulate shards ``first`` to ``first + shards``, by default of all cubic crystals.

    Those that are there already are not made again, see `simulate_shard`. Without a table they are
    of random cells, as many as are asked for.

    Raises
    ------
    ValueError
        If there is neither a table nor a number of shards.

    Examples
    --------
    >>> paths = simulate("structures_icsd.npz", "library", shards=2)  # doctest: +SKIP
    """
    config = config or LibraryConfig()
    if structures is None:
        if shards is None:
            raise ValueError("random cells have no end: say how many shards are to be made")
        last = first + shards
    else:
        structures = str(structures)
        count = len(cubic_crystals(cached_table(structures), seed))
        last = -(-count // config.crystals_per_shard)
        last = last if shards is None else min(last, first + shards)
    make = partial(
        simulate_shard, structures=structures, output=str(output), seed=seed, config=config
    )
    return make_shards(make, range(first, last), processes=processes, progress=progress)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare ``py4dstem-ml simulate lacbed``."""
    defaults = LibraryConfig()
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--structures", help="table of crystals (.npz)")
    source.add_argument("--random", action="store_true", help="random cells, --shards of them")
    parser.add_argument("--output", required=True, help="folder for the shards; one a table")
    parser.add_argument("--shards", type=int, help="64 crystals each; default: all cubic crystals")
    parser.add_argument("--first", type=int, default=0, help="number of the first shard")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--pixels", type=int, default=defaults.pixels)
    parser.add_argument("--absorption", action="store_true", help="thermal diffuse absorption")


def run(args: Namespace) -> None:
    """Run ``py4dstem-ml simulate lacbed``."""
    config = LibraryConfig(pixels=args.pixels, absorption=args.absorption)
    paths = simulate(
        args.structures, args.output, shards=args.shards, first=args.first, seed=args.seed,
        processes=args.processes, config=config,
    )  # fmt: skip
    logger.info("%d shards of LACBED patterns are in %s", len(paths), args.output)
