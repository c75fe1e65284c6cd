"""Simulate the training set of crystal systems: dynamical Bragg lists of all crystals.

One shard is several crystals, each along axes spread over what its symmetry tells apart, and
along its low-index zones, which microscopists seek. From each axis a few waves, slightly tilted,
go through the crystal together. A crystal's lists are a function of the seed and its number alone.
"""

from __future__ import annotations

import json
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

from ..physics.bragg import BraggSimulator
from ..physics.crystal import Crystal
from ..physics.electrons import wavelength
from ..physics.orientations import (
    from_direction,
    laue_operations,
    low_index_zones,
    spread_directions,
)
from ..physics.structures import cached_table
from ..shards import is_made, make_shards, origin_of, write_lists, written_whole
from .lists import BraggLists

logger = logging.getLogger(__name__)

#: The shortest lattice vectors, of which the low-index zones are drawn.
_SHORTEST = 13
#: Columns of a shard with one value a list.
_COLUMNS = ("material", "zone", "thickness", "energy_ev")


@dataclass(frozen=True)
class LibraryConfig:
    """What is simulated of each crystal.

    Attributes
    ----------
    energies_ev, energy_weights : tuple of float
        One is drawn for each crystal.
    spread_axes, zones : int
        Axes spread over the asymmetric sector, and low-index zones drawn.
    tilts : int
        Incident waves for each axis.
    tilt_mrad : float
        Standard deviation of each component of their tilts.
    thickness : float
        Å; every wave has a list at this thickness.
    thickness_range : (float, float)
        Å, log-uniform; every wave has a list at one drawn from here.
    q_max, s_max, max_beams
        See `BraggSimulator`.
    floor : float
        Weakest intensity kept, relative to the strongest diffracted one.
    max_peaks : int
        How many diffracted peaks are kept.
    crystals_per_shard : int
    """

    energies_ev: tuple[float, ...] = (300e3, 200e3, 120e3, 80e3)
    energy_weights: tuple[float, ...] = (0.6, 0.25, 0.05, 0.1)
    spread_axes: int = 8
    zones: int = 2
    tilts: int = 3
    tilt_mrad: float = 5.0
    thickness: float = 200.0
    thickness_range: tuple[float, float] = (20.0, 1500.0)
    q_max: float = 2.0
    s_max: float = 0.06
    max_beams: int = 250
    floor: float = 1e-4
    max_peaks: int = 100
    crystals_per_shard: int = 64

    def __post_init__(self) -> None:
        if abs(sum(self.energy_weights) - 1.0) > 1e-9:
            raise ValueError("energy_weights must sum to 1")
        if not 0.0 < self.thickness_range[0] <= self.thickness_range[1]:
            raise ValueError("thickness_range must be (lowest, highest) in Å, above 0")
        if not (self.tilts >= 1 and self.spread_axes >= 1 and 0 <= self.zones <= _SHORTEST):
            raise ValueError(
                f"tilts and spread_axes must be at least 1, and zones 0 to {_SHORTEST}"
            )


def draw_axes(
    crystal: Crystal, config: LibraryConfig, rng: np.random.Generator
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return Cartesian directions (n, 3) towards the source, and which are low-index zones."""
    spread = spread_directions(laue_operations(crystal), config.spread_axes, rng)
    drawn = rng.choice(low_index_zones(crystal)[:_SHORTEST], config.zones, replace=False)
    drawn = drawn * rng.choice([-1, 1], (config.zones, 1))
    low = drawn @ crystal.lattice.detach().numpy()
    return np.concatenate([spread, low]), np.arange(len(spread) + len(low)) >= len(spread)


def simulate_crystal(
    crystal: Crystal, config: LibraryConfig, rng: np.random.Generator
) -> tuple[list[npt.NDArray[np.float32]], dict[str, list]]:
    """Return the Bragg lists [qx, qy, intensity] of a crystal, and what each was made with."""
    energy = float(rng.choice(config.energies_ev, p=config.energy_weights))
    simulator = BraggSimulator(
        crystal, energy, q_max=config.q_max, s_max=config.s_max, max_beams=config.max_beams
    )
    lists: list[npt.NDArray[np.float32]] = []
    made: dict[str, list] = {name: [] for name in _COLUMNS[1:]}
    for axis, is_zone in zip(*draw_axes(crystal, config, rng), strict=True):
        orientation = from_direction(axis, rng.uniform(0.0, 2.0 * np.pi))
        tilts = rng.normal(0.0, 1e-3 * config.tilt_mrad, (config.tilts, 2)) / wavelength(energy)
        drawn = float(np.exp(rng.uniform(*np.log(config.thickness_range))))
        thicknesses = [config.thickness, drawn]
        beams, intensities = simulator(orientation, thicknesses, torch.from_numpy(tilts))
        for thickness, series in zip(thicknesses, intensities.mT.numpy(), strict=True):
            for intensity in series:
                lists.append(_strongest(beams.g[:, :2].numpy(), intensity, config))
                for name, value in zip(made, (is_zone, thickness, energy), strict=True):
                    made[name].append(value)
    return lists, made


def _strongest(
    q: npt.NDArray, intensity: npt.NDArray, config: LibraryConfig
) -> npt.NDArray[np.float32]:
    """The direct beam, then the diffracted ones by falling intensity."""
    order = 1 + np.argsort(-intensity[1:], kind="stable")[: config.max_peaks]
    seen = intensity[order] > config.floor * intensity[1:].max(initial=0.0)
    rows = np.concatenate([[0], order[seen]])
    return np.column_stack([q[rows], intensity[rows]]).astype(np.float32)


def simulate_shard(
    number: int, *, structures: str, output: str, seed: int, config: LibraryConfig
) -> Path:
    """Simulate one shard and write it whole, or return the one that is there.

    Parameters
    ----------
    number : int
        The crystals ``number * crystals_per_shard`` and on, in an order drawn from the seed.
    structures : str
        Path of the table of crystals.
    output : str
        Folder.
    seed : int
    config : LibraryConfig

    Returns
    -------
    Path
        ``lists-<number>.h5`` with ``peaks`` (m, 3), ``offsets`` (n + 1), and for each list its
        ``material`` (row of the table), ``zone`` (low-index), ``thickness`` (Å), ``energy_ev``.

    Raises
    ------
    ValueError
        If the shard that is there has another seed, config or table of crystals.
    """
    path = Path(output) / f"lists-{number:06d}.h5"
    origin = origin_of(seed, config, structures)
    if is_made(path, origin):
        return path
    table = cached_table(structures)
    first = number * config.crystals_per_shard
    order = np.random.default_rng(seed).permutation(len(table))
    lists: list[npt.NDArray[np.float32]] = []
    columns: dict[str, list] = {name: [] for name in _COLUMNS}
    for material in order[first : first + config.crystals_per_shard].tolist():
        rng = np.random.default_rng([seed, material])
        with torch.no_grad():
            new, made = simulate_crystal(table[material], config, rng)
        lists += new
        columns["material"] += [material] * len(new)
        for name, values in made.items():
            columns[name] += values
    with written_whole(path) as file:
        write_lists(file, lists, columns)
        file.attrs.update(origin)
    return path


def simulate(
    structures: str | Path,
    output: str | Path,
    *,
    shards: int | None = None,
    first: int = 0,
    seed: int = 0,
    processes: int = 1,
    config: LibraryConfig | None = None,
    progress: bool | None = None,
) -> list[Path]:
    """Simulate shards ``first`` to ``first + shards``, by default of all crystals.

    Those that are there already are not made again, see `simulate_shard`.

    Examples
    --------
    >>> paths = simulate("structures_icsd.npz", "library", shards=2)  # doctest: +SKIP
    """
    config = config or LibraryConfig()
    last = -(-len(cached_table(str(structures))) // config.crystals_per_shard)
    if shards is not None:
        last = min(last, first + shards)
    make = partial(
        simulate_shard, structures=str(structures), output=str(output), seed=seed, config=config
    )
    return make_shards(make, range(first, last), processes=processes, progress=progress)


@dataclass(frozen=True, eq=False)
class ListShard:
    """A shard in memory: Bragg lists, and one value of each column for every list."""

    lists: BraggLists
    material: npt.NDArray[np.int64]
    zone: npt.NDArray[np.bool_]
    thickness: npt.NDArray[np.float64]
    energy_ev: npt.NDArray[np.float64]
    lists_per_axis: int


def read_shard(path: str | Path) -> ListShard:
    """Read a shard that `simulate_shard` wrote."""
    with h5py.File(path, "r") as file:
        lists = BraggLists(file["peaks"][:], file["offsets"][:])
        per_axis = 2 * json.loads(file.attrs["config"])["tilts"]
        columns = {name: file[name][:] for name in _COLUMNS}
        return ListShard(lists, **columns, lists_per_axis=per_axis)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare ``py4dstem-ml simulate symmetry``."""
    defaults = LibraryConfig()
    parser.add_argument("--structures", required=True, help="table of crystals (.npz)")
    parser.add_argument("--output", required=True, help="folder for the shards")
    parser.add_argument("--shards", type=int, help="64 crystals each; default: all crystals")
    parser.add_argument("--first", type=int, default=0, help="number of the first shard")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--spread-axes", type=int, default=defaults.spread_axes)
    parser.add_argument("--zones", type=int, default=defaults.zones, help="low-index, per crystal")


def run(args: Namespace) -> None:
    """Run ``py4dstem-ml simulate symmetry``."""
    config = LibraryConfig(spread_axes=args.spread_axes, zones=args.zones)
    paths = simulate(
        args.structures, args.output, shards=args.shards, first=args.first, seed=args.seed,
        processes=args.processes, config=config,
    )  # fmt: skip
    logger.info("%d shards of Bragg lists are in %s", len(paths), args.output)
