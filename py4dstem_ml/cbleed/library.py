"""Simulate a library of CBLEED: disks of Si(001)-(2x1) over energies and dimer displacements.

A shard holds one energy, at which the structures share most of the calculation. What is kept are
the few numbers that the disks are splines of, so that patterns of any pixel size can be drawn.
"""

from __future__ import annotations

import json
import logging
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ..physics.leed.cbleed import DEFAULT_RADIUS, Disks, beams_up_to, cbleed, semiangle_radius
from ..physics.leed.surfaces import SILICON_U_RMS, silicon, silicon_001
from ..physics.leed.waves import Settings, incidence
from ..shards import is_made, make_shards, written_whole

logger = logging.getLogger(__name__)

#: The rows of ``structures``: number in this list, height and length displacement in Å.
RECONSTRUCTIONS = ("symmetric", "buckled")

Structures = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Physics:
    """What electrons meet, and how exactly that is computed.

    Attributes
    ----------
    inner_potential_ev, absorption_ev, lmax, beam_cutoff
        See `waves.Settings`.
    alpha, u_rms : float
        Exchange of the muffin tins; thermal motion in Å. See `surfaces.silicon`.
    mistilt_deg, azimuth_deg : float
        Direction of the cone's axis, from the surface normal, and from x to y.
    multiple_scattering : bool
        False: kinematic.
    """

    inner_potential_ev: float = 10.0
    absorption_ev: float = 4.0
    lmax: int = 6
    beam_cutoff: float = 3e-4
    alpha: float = 2 / 3
    u_rms: float = SILICON_U_RMS
    mistilt_deg: float = 0.0
    azimuth_deg: float = 30.0
    multiple_scattering: bool = True


#: What a model can be tried on beside the physics that it was trained on.
PHYSICS: dict[str, Physics] = {
    "reference": Physics(),
    "exchange": Physics(alpha=1.0),
    "absorption": Physics(absorption_ev=5.0),
    "deeper": Physics(inner_potential_ev=12.0),
    "shallower": Physics(inner_potential_ev=8.0),
    "warmer": Physics(u_rms=0.095),
    "mistilt": Physics(mistilt_deg=1.0),
    "kinematic": Physics(multiple_scattering=False),
}


@dataclass(frozen=True)
class LibraryConfig:
    """What is simulated.

    Attributes
    ----------
    sampling : {"grid", "random"}
        All combinations of the steps, as in the paper; or values drawn within the same ranges,
        which lie off the grid.
    energies_ev, heights, lengths : (float, float, float)
        First, last and step; heights and lengths in Å, see `surfaces.silicon_001`.
    reconstructions : tuple of str
    drawn_energies, drawn_structures : int
        Energies, and structures at each, where they are drawn.
    radius : float
        Of the disks in rad/Å, the same at all energies.
    semiangle_mrad : float or None
        The semi-angle, if that is the same at all energies instead.
    orders : (int, int)
        Greatest |h| and |k| of the disks.
    nodes : int
        Directions along each side of a disk's square.
    physics : Physics

    Raises
    ------
    ValueError
        If a range does not rise, or a name is unknown.
    """

    sampling: str = "grid"
    energies_ev: tuple[float, float, float] = (30.0, 100.0, 1.0)
    heights: tuple[float, float, float] = (-0.3, 0.3, 0.1)
    lengths: tuple[float, float, float] = (-0.2, 0.2, 0.1)
    reconstructions: tuple[str, ...] = RECONSTRUCTIONS
    drawn_energies: int = 142
    drawn_structures: int = 14
    radius: float = DEFAULT_RADIUS
    semiangle_mrad: float | None = None
    orders: tuple[int, int] = (1, 2)
    nodes: int = 9
    physics: Physics = field(default_factory=Physics)

    def __post_init__(self) -> None:
        if self.sampling not in ("grid", "random"):
            raise ValueError(f"sampling is 'grid' or 'random'; not {self.sampling!r}")
        for name in ("energies_ev", "heights", "lengths"):
            first, last, step = getattr(self, name)
            if not (first <= last and step > 0):
                raise ValueError(
                    f"{name} are first, last and step, rising; not {first, last, step}"
                )
        if not self.energies_ev[0] > 0:
            raise ValueError("energies are above 0 eV")
        unknown = set(self.reconstructions) - set(RECONSTRUCTIONS)
        if unknown or not self.reconstructions:
            raise ValueError(
                f"reconstructions are some of {RECONSTRUCTIONS}; not {self.reconstructions}"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LibraryConfig:
        """Rebuild a config from what JSON makes of it."""
        read = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**{**read, "physics": Physics(**read["physics"])})

    @property
    def shards(self) -> int:
        """Number of energies."""
        return len(_steps(self.energies_ev)) if self.sampling == "grid" else self.drawn_energies

    def samples(self, number: int, seed: int) -> tuple[float, Structures]:
        """Return the energy of a shard, and its structures (n, 3), see `RECONSTRUCTIONS`."""
        kinds = [RECONSTRUCTIONS.index(one) for one in self.reconstructions]
        if self.sampling == "grid":
            grid = product(kinds, _steps(self.heights), _steps(self.lengths))
            return float(_steps(self.energies_ev)[number]), np.array(list(grid), dtype=float)
        rng = np.random.default_rng([seed, number])
        n = self.drawn_structures
        columns = [rng.choice(kinds, n), rng.uniform(*self.heights[:2], n)]
        columns.append(rng.uniform(*self.lengths[:2], n))
        # Every part of the range has as many energies.
        low, high = self.energies_ev[:2]
        energy = low + (high - low) * (number + rng.random()) / self.drawn_energies
        return float(energy), np.column_stack(columns)


def _steps(bounds: tuple[float, float, float]) -> npt.NDArray[np.float64]:
    first, last, step = bounds
    return np.round(first + step * np.arange(round((last - first) / step) + 1), 9)


def simulate_disks(
    energy_ev: float, structures: npt.ArrayLike, config: LibraryConfig | None = None
) -> Disks:
    """Return the disks of structures (n, 3), see `RECONSTRUCTIONS`, at one energy.

    Parameters
    ----------
    energy_ev : float
    structures : array_like, shape (n, 3)
        0 or 1 for symmetric or buckled dimers, height and length displacement in Å.
    config : LibraryConfig, optional
        Of which physics, disks and nodes count.

    Raises
    ------
    ValueError
        If structures have another shape or kind, or the energy is not positive.

    Examples
    --------
    >>> fast = LibraryConfig(nodes=4, physics=Physics(lmax=3, beam_cutoff=1e-2))
    >>> simulate_disks(40.0, [[0, 0.1, 0.0]], fast).reflectivity.shape
    (1, 15, 4, 4)
    """
    config = config or LibraryConfig()
    physics, structures = config.physics, np.asarray(structures, dtype=float)
    if structures.ndim != 2 or structures.shape[1] != 3:
        raise ValueError(
            "a structure is three numbers, kind, height and length: an array (n, 3), not "
            f"{structures.shape}"
        )
    if not 0 < energy_ev < np.inf:
        raise ValueError(f"an energy is above 0 eV; not {energy_ev!r}")
    if not np.isin(structures[:, 0], range(len(RECONSTRUCTIONS))).all():
        raise ValueError("a structure's kind is 0 for symmetric dimers or 1 for buckled ones")
    atom = silicon(physics.u_rms, physics.alpha)
    surfaces = [
        silicon_001(RECONSTRUCTIONS[int(kind)], height=height, length=length, atom=atom)
        for kind, height, length in structures
    ]
    radius = config.radius
    if config.semiangle_mrad is not None:
        radius = semiangle_radius(energy_ev, config.semiangle_mrad)
    options = {
        "radius": radius, "beams": beams_up_to(*config.orders), "nodes": config.nodes,
        "centre": incidence(energy_ev, physics.mistilt_deg, physics.azimuth_deg),
        "settings": Settings(
            inner_potential_ev=physics.inner_potential_ev, absorption_ev=physics.absorption_ev,
            lmax=physics.lmax, beam_cutoff=physics.beam_cutoff,
        ),
        "multiple_scattering": physics.multiple_scattering,
    }  # fmt: skip
    # Surfaces of one kind share what lies below the dimers, and their mirrors.
    kinds = structures[:, 0]
    values = None
    for kind in np.unique(kinds):
        these = np.flatnonzero(kinds == kind)
        disks = cbleed([surfaces[i] for i in these], energy_ev, **options)
        if values is None:
            values = np.empty((len(kinds), *disks.reflectivity.shape[1:]))
        values[these] = disks.reflectivity
    return Disks(
        disks.lattice, energy_ev, disks.radius, disks.centre, disks.beams, np.asarray(values)
    )


def simulate_shard(number: int, *, output: str, seed: int, config: LibraryConfig) -> Path:
    """Simulate one energy and write it whole, or return the shard that is there.

    Parameters
    ----------
    number : int
        Of the energy.
    output : str
        Folder.
    seed : int
        Of what is drawn.
    config : LibraryConfig

    Returns
    -------
    Path
        ``cbleed-<number>.h5``: what `Disks` is made of, and ``structures`` (n, 3).

    Raises
    ------
    ValueError
        If the shard that is there has another seed or config.
    """
    path = Path(output) / f"cbleed-{number:06d}.h5"
    origin = {"seed": seed, "config": json.dumps(asdict(config))}
    if is_made(path, origin):
        return path
    energy, structures = config.samples(number, seed)
    disks = simulate_disks(energy, structures, config)
    with written_whole(path) as file:
        file["reflectivity"] = disks.reflectivity.astype(np.float32)
        file["structures"] = structures
        file["lattice"], file["beams"] = disks.lattice, disks.beams
        file["centre"], file["radius"], file["energy_ev"] = disks.centre, disks.radius, energy
        file.attrs.update(origin)
    return path


def read_shard(path: str | Path) -> tuple[Disks, Structures]:
    """Read the disks and the structures (n, 3) of a shard."""
    with h5py.File(path, "r") as file:
        disks = Disks(
            file["lattice"][:], float(file["energy_ev"][()]), float(file["radius"][()]),
            file["centre"][:], file["beams"][:], file["reflectivity"][:],
        )  # fmt: skip
        return disks, file["structures"][:]


def simulate(
    output: str | Path,
    *,
    config: LibraryConfig | None = None,
    seed: int = 0,
    shards: int | None = None,
    first: int = 0,
    processes: int = 1,
    progress: bool | None = None,
) -> list[Path]:
    """Simulate energies ``first`` to ``first + shards``, by default all.

    Those that are there already are not made again, see `simulate_shard`. The 4970 patterns of
    the default take about half an hour of one core.

    Examples
    --------
    >>> paths = simulate("library/cbleed", shards=2)  # doctest: +SKIP
    """
    config = config or LibraryConfig()
    last = config.shards if shards is None else min(config.shards, first + shards)
    make = partial(simulate_shard, output=str(output), seed=seed, config=config)
    return make_shards(make, range(first, last), processes=processes, progress=progress)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare ``py4dstem-ml simulate cbleed``."""
    defaults = LibraryConfig()
    parser.add_argument("--output", required=True, help="folder for the shards; one a config")
    parser.add_argument("--sampling", choices=("grid", "random"), default=defaults.sampling)
    parser.add_argument(
        "--physics", choices=sorted(PHYSICS), default="reference", help="other than the reference"
    )
    for name, unit in (("energies", "eV"), ("heights", "Å"), ("lengths", "Å")):
        parser.add_argument(
            f"--{name}", type=float, nargs=3, metavar=("FIRST", "LAST", "STEP"), help=unit,
            default=getattr(defaults, "energies_ev" if name == "energies" else name),
        )  # fmt: skip
    parser.add_argument("--drawn-energies", type=int, default=defaults.drawn_energies)
    parser.add_argument("--drawn-structures", type=int, default=defaults.drawn_structures)
    parser.add_argument("--semiangle-mrad", type=float, help="default: disks of constant radius")
    parser.add_argument("--orders", type=int, nargs=2, default=defaults.orders, metavar=("H", "K"))
    parser.add_argument("--nodes", type=int, default=defaults.nodes)
    parser.add_argument("--shards", type=int, help="energies; default: all")
    parser.add_argument("--first", type=int, default=0, help="number of the first energy")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)


def run(args: Namespace) -> None:
    """Run ``py4dstem-ml simulate cbleed``."""
    config = LibraryConfig(
        sampling=args.sampling, energies_ev=tuple(args.energies), heights=tuple(args.heights),
        lengths=tuple(args.lengths), drawn_energies=args.drawn_energies,
        drawn_structures=args.drawn_structures, semiangle_mrad=args.semiangle_mrad,
        orders=tuple(args.orders), nodes=args.nodes, physics=PHYSICS[args.physics],
    )  # fmt: skip
    paths = simulate(
        args.output, config=config, seed=args.seed, shards=args.shards, first=args.first,
        processes=args.processes,
    )  # fmt: skip
    logger.info("%d energies of CBLEED disks are in %s", len(paths), args.output)
