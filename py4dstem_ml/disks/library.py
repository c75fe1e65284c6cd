"""Simulate the training set of the disk networks: CBED patterns and their structure factors.

One shard is one instrument setting (voltage, pixel size, two semi-angles) and several crystals,
so that two patterns of a shard can be laid over each other as two grains. A shard is a function
of the seed and its number alone: a broken-off run continues where it stopped, on any machine, and
refuses to mix with shards that were made from anything else.
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

from ..physics.bloch import select_beams
from ..physics.crystal import Crystal
from ..physics.orientations import (
    low_index_zones,
    random_orientation,
    tilted,
    zone_axis,
)
from ..physics.patterns import (
    Detector,
    aperture_radius,
    cbed,
    disk_amplitudes,
    structure_factor_peaks,
)
from ..physics.structures import CrystalTable, cached_table, split_by_material
from ..shards import is_made, make_shards, origin_of, write_lists, written_whole

logger = logging.getLogger(__name__)

#: Patterns are stored as this times sqrt(intensity / maximum), in 16 bits.
_FULL_SCALE = 65535.0
ORIENTATION_KINDS = ("zone", "tilted", "random")
#: Of `structures.split_by_material`; the order is part of the seed.
PARTS = ("train", "test", "validation")


@dataclass(frozen=True)
class LibraryConfig:
    """What is drawn for a shard. Ranges are (lowest, highest).

    Attributes
    ----------
    size : int
        Pixels of a side.
    energies_ev, energy_weights : tuple of float
    pixel_size : (float, float)
        1/Å, log-uniform; half of the shards keep to 0.018-0.024.
    semiangle_mrad : (float, float)
        Log-uniform, two for each shard.
    radius_px : (float, float)
        Disk radii outside are drawn again.
    thickness : (float, float)
        Å, uniform, ``n_thickness`` for each orientation.
    tilt_mrad : (float, float)
        Of the "tilted" orientations, away from a low-index zone axis.
    kind_weights : tuple of float
        Shares of exact zones, tilted zones and random orientations.
    g_margin, s_max, max_beams
        Beam selection: ``g_margin`` times the detector's edge, see `bloch.select_beams`.
    """

    size: int = 128
    energies_ev: tuple[float, ...] = (60e3, 80e3, 100e3, 120e3, 200e3, 300e3)
    energy_weights: tuple[float, ...] = (0.07, 0.13, 0.07, 0.08, 0.3, 0.35)
    pixel_size: tuple[float, float] = (0.015, 0.04)
    semiangle_mrad: tuple[float, float] = (0.8, 4.5)
    radius_px: tuple[float, float] = (1.8, 11.0)
    thickness: tuple[float, float] = (20.0, 500.0)
    tilt_mrad: tuple[float, float] = (3.0, 80.0)
    kind_weights: tuple[float, ...] = (0.35, 0.3, 0.35)
    crystals_per_shard: int = 16
    n_thickness: int = 3
    g_margin: float = 1.1
    s_max: float = 0.05
    max_beams: int = 240


@dataclass(frozen=True)
class Setting:
    """One instrument setting."""

    energy_ev: float
    semiangles_mrad: tuple[float, ...]
    detector: Detector


def draw_setting(config: LibraryConfig, rng: np.random.Generator) -> Setting:
    """Draw a voltage, a pixel size and two semi-angles whose disks fit the detector."""
    energy = float(rng.choice(config.energies_ev, p=config.energy_weights))
    while True:
        low, high = (0.018, 0.024) if rng.random() < 0.5 else config.pixel_size
        pixel_size = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        angles = np.exp(rng.uniform(*np.log(config.semiangle_mrad), 2))
        radii = [aperture_radius(a, energy) / pixel_size for a in angles]
        if config.radius_px[0] <= min(radii) and max(radii) <= config.radius_px[1]:
            detector = Detector((config.size, config.size), pixel_size)
            return Setting(energy, tuple(sorted(map(float, angles))), detector)


def draw_orientation(
    crystal: Crystal, config: LibraryConfig, rng: np.random.Generator
) -> tuple[str, npt.NDArray[np.float64]]:
    """Draw the kind of orientation and one of that kind, turned at random in the plane."""
    kind = ORIENTATION_KINDS[rng.choice(3, p=config.kind_weights)]
    if kind == "random":
        return kind, random_orientation(rng)
    zones = low_index_zones(crystal)[:13]
    axis = zone_axis(crystal, zones[rng.integers(len(zones))], rng.uniform(0, 2 * np.pi))
    angle = rng.uniform(*config.tilt_mrad) if kind == "tilted" else abs(rng.normal(0, 1.5))
    return kind, tilted(axis, angle, rng.uniform(0, 2 * np.pi))


def simulate_orientation(
    crystal: Crystal,
    orientation: npt.NDArray,
    setting: Setting,
    thicknesses: npt.NDArray,
    config: LibraryConfig,
    rng: np.random.Generator,
    device: str = "cpu",
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return patterns (semi-angles, thicknesses, H, W) and peaks (n, 3) of one orientation."""
    detector, energy = setting.detector, setting.energy_ev
    beams = select_beams(
        crystal, orientation, energy,
        g_max=config.g_margin * detector.g_max, s_max=config.s_max, max_beams=config.max_beams,
    )  # fmt: skip
    amplitudes = disk_amplitudes(
        crystal, beams, energy, list(thicknesses), max(setting.semiangles_mrad),
        detector.pixel_size, device=device,
    )  # fmt: skip
    position = tuple(rng.uniform(0, 10, 2))
    patterns = [
        cbed(amplitudes, beams, detector, angle, energy, probe_position=position)
        for angle in setting.semiangles_mrad
    ]
    peaks = structure_factor_peaks(crystal, orientation, energy, detector)
    return torch.stack(patterns).cpu().numpy(), peaks.float().numpy()


def draw_crystals(
    table: CrystalTable, part: str, n: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Draw crystals of one part of the split: a prototype by the root of its count, then one.

    Cells above 150 Å^3 are drawn less often, by the inverse of their volume to the power 0.7:
    users look at simple crystals more often than the database holds them.
    """
    members = split_by_material(table.formula, table.prototype)[part]
    volume = np.abs(np.linalg.det(table.field("lattice")[members]))
    _, inverse, counts = np.unique(
        table.prototype[members], return_inverse=True, return_counts=True
    )
    weights = counts[inverse] ** -0.5 * np.minimum(1.0, 150.0 / volume) ** 0.7
    return rng.choice(members, n, p=weights / weights.sum())


def simulate_shard(
    number: int, *, structures: str, output: str, part: str, seed: int, config: LibraryConfig,
    device: str = "cpu",
) -> Path:  # fmt: skip
    """Simulate one shard and write it whole, or return the one that is there.

    Parameters
    ----------
    number : int
    structures : str
        Path of the table of crystals.
    output : str
        Folder.
    part : {"train", "validation", "test"}
        See `structures.split_by_material`.
    seed : int
    config : LibraryConfig
    device : str

    Returns
    -------
    Path
        ``<part>-<number>.h5`` with ``patterns`` (n, H, W) uint16, ``peaks`` flat (m, 3),
        ``offsets`` (n + 1), and one row of ``crystal``, ``kind``, ``thickness``, ``semiangle``
        for each pattern; voltage and pixel size as attributes.

    Raises
    ------
    ValueError
        If the shard that is there has another seed, config or table of crystals.
    """
    path = Path(output) / f"{part}-{number:06d}.h5"
    origin = origin_of(seed, config, structures)
    if is_made(path, origin):
        return path
    rng = np.random.default_rng([seed, number, PARTS.index(part)])
    table = cached_table(structures)
    setting = draw_setting(config, rng)
    rows: dict[str, list] = {key: [] for key in ("crystal", "kind", "thickness", "semiangle")}
    patterns, peak_lists = [], []
    for index in draw_crystals(table, part, config.crystals_per_shard, rng):
        crystal = table[int(index)]
        kind, orientation = draw_orientation(crystal, config, rng)
        thicknesses = rng.uniform(*config.thickness, config.n_thickness)
        with torch.no_grad():
            images, peaks = simulate_orientation(
                crystal, orientation, setting, thicknesses, config, rng, device
            )
        for angle, series in zip(setting.semiangles_mrad, images, strict=True):
            for thickness, image in zip(thicknesses, series, strict=True):
                patterns.append(np.sqrt(image / image.max()) * _FULL_SCALE + 0.5)
                peak_lists.append(peaks)
                values = (index, ORIENTATION_KINDS.index(kind), thickness, angle)
                for key, value in zip(rows, values, strict=True):
                    rows[key].append(value)
    _write(path, np.array(patterns, dtype=np.uint16), peak_lists, rows, setting, origin)
    return path


def _write(
    path: Path, patterns: npt.NDArray, peak_lists: list, rows: dict[str, list],
    setting: Setting, origin: dict[str, int | str],
) -> None:  # fmt: skip
    with written_whole(path) as file:
        file["patterns"] = patterns
        write_lists(file, peak_lists, rows)
        file.attrs["energy_ev"] = setting.energy_ev
        file.attrs["pixel_size"] = setting.detector.pixel_size
        file.attrs.update(origin)


@dataclass(frozen=True, eq=False)
class Shard:
    """A shard in memory: the arrays of `simulate_shard`, patterns as float32 of maximum 1."""

    patterns: npt.NDArray[np.float32]
    peaks: list[npt.NDArray[np.float32]]
    crystal: npt.NDArray[np.int64]
    kind: npt.NDArray[np.int64]
    thickness: npt.NDArray[np.float64]
    semiangle_mrad: npt.NDArray[np.float64]
    energy_ev: float
    pixel_size: float

    @property
    def radius_px(self) -> npt.NDArray[np.float64]:
        """Radius of each pattern's disks in pixels."""
        return self.semiangle_mrad * (aperture_radius(1.0, self.energy_ev) / self.pixel_size)


def read_shard(path: str | Path) -> Shard:
    """Read a shard that `simulate_shard` wrote."""
    with h5py.File(path, "r") as file:
        offsets = file["offsets"][:]
        return Shard(
            patterns=(file["patterns"][:].astype(np.float32) / _FULL_SCALE) ** 2,
            peaks=np.split(file["peaks"][:], offsets[1:-1]),
            crystal=file["crystal"][:],
            kind=file["kind"][:],
            thickness=file["thickness"][:],
            semiangle_mrad=file["semiangle"][:],
            energy_ev=float(file.attrs["energy_ev"]),
            pixel_size=float(file.attrs["pixel_size"]),
        )


def simulate(
    structures: str | Path,
    output: str | Path,
    *,
    shards: int,
    part: str = "train",
    first: int = 0,
    seed: int = 0,
    processes: int = 1,
    config: LibraryConfig | None = None,
    device: str = "cpu",
    progress: bool | None = None,
) -> list[Path]:
    """Simulate shards ``first`` to ``first + shards`` and return their paths.

    Those that are there already are not made again, see `simulate_shard`.

    Examples
    --------
    >>> paths = simulate("structures_icsd.npz", "library", shards=2)  # doctest: +SKIP
    """
    work = partial(
        simulate_shard, structures=str(structures), output=str(output), part=part, seed=seed,
        config=config or LibraryConfig(), device=device,
    )  # fmt: skip
    numbers = range(first, first + shards)
    return make_shards(work, numbers, processes=processes, progress=progress)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare ``py4dstem-ml simulate disks``."""
    parser.add_argument("--structures", required=True, help="table of crystals (.npz)")
    parser.add_argument("--output", required=True, help="folder for the shards")
    parser.add_argument("--shards", type=int, default=100, help="96 patterns each")
    parser.add_argument("--first", type=int, default=0, help="number of the first shard")
    parser.add_argument("--part", choices=PARTS, default="train")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--size", type=int, default=128, help="pixels of a side")
    parser.add_argument("--device", default="cpu")


def run(args: Namespace) -> None:
    """Run ``py4dstem-ml simulate disks``."""
    paths = simulate(
        args.structures, args.output, shards=args.shards, part=args.part, first=args.first,
        seed=args.seed, processes=args.processes, config=LibraryConfig(size=args.size),
        device=args.device,
    )  # fmt: skip
    logger.info("%d shards of %s patterns are in %s", len(paths), args.part, args.output)
