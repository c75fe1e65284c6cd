"""Bloch waves for CBED: this package against py4DSTEM, side by side in one run.

Both get the same beams, factors, absorption, directions and ten thicknesses. The beams lie within
0.06 1/Å of the Ewald sphere, py4DSTEM's default, or farther off where it has too few of them; the
table says how far, for it sets our cost and not py4DSTEM's. py4DSTEM runs at its best: two worker
processes with one BLAS thread each, its dynamical matrix cached. Ours runs in one process with two
threads and has to make its matrix in each run. Prints a markdown table.

    python benchmarks/bloch.py [--quick]
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from py4dstem_ml.physics.bloch import Beams, diffract, excitation_errors, select_beams
from py4dstem_ml.physics.crystal import Crystal
from py4dstem_ml.physics.electrons import wavelength
from py4dstem_ml.physics.orientations import random_orientation, zone_axis
from py4dstem_ml.physics.patterns import Detector, aperture_radius, cbed, disk_amplitudes

ENERGY_EV = 200e3
DETECTOR = Detector((128, 128), 0.02)
THICKNESSES = np.linspace(50.0, 500.0, 10).tolist()
WORKERS = 2
#: 1/Å; the first that gives enough beams.
S_MAX = (0.06, 0.1, 0.2)


def silicon() -> Crystal:
    fcc = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    return Crystal.cubic(5.431, [14] * 8, np.concatenate([fcc, fcc + 0.25]), name="Si")


def strontium_titanate() -> Crystal:
    sites = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    return Crystal.cubic(3.905, [38, 22, 8, 8, 8], sites, name="SrTiO3")


def zirconia() -> Crystal:
    """Return baddeleyite, P2_1/c (Howard et al., Acta Cryst. B44 (1988) 116)."""
    beta = np.radians(99.23)
    lattice = [[5.1505, 0, 0], [0, 5.2116, 0], [5.3173 * np.cos(beta), 0, 5.3173 * np.sin(beta)]]
    sites = np.array([[0.2754, 0.0395, 0.2083], [0.0700, 0.3317, 0.3447], [0.4496, 0.7569, 0.4792]])
    glide = sites * [1, -1, 1] + [0, 0.5, 0.5]
    positions = np.concatenate([sites, -sites, glide, -glide])
    return Crystal(lattice, [40, 8, 8] * 4, positions, name="ZrO2 (monoclinic)")


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    crystal: Crystal
    view: str
    orientation: np.ndarray
    semiangle_mrad: float
    n_beams: int

    @property
    def beams(self) -> Beams:
        for s_max in S_MAX:
            limits = {"g_max": 3.0, "s_max": s_max, "max_beams": self.n_beams}
            beams = select_beams(self.crystal, self.orientation, ENERGY_EV, **limits)
            if len(beams) == self.n_beams:
                return beams
        return beams

    @property
    def directions(self) -> torch.Tensor:
        """Transverse wave vectors of the aperture in 1/Å, shape (b, 2), as py4DSTEM draws them."""
        radius = aperture_radius(self.semiangle_mrad, ENERGY_EV) / DETECTOR.pixel_size
        axis = torch.arange(-int(radius), int(radius) + 1, dtype=torch.float64)
        offsets = torch.cartesian_prod(axis, axis)
        return offsets[torch.linalg.norm(offsets, dim=1) < radius] * DETECTOR.pixel_size


def cases(quick: bool) -> Iterator[Case]:
    rng = np.random.default_rng(1)
    crystals = [silicon()] if quick else [silicon(), strontium_titanate(), zirconia()]
    for crystal in crystals:
        for view in ("zone", "random"):
            orientation = (
                zone_axis(crystal, (0, 0, 1)) if view == "zone" else random_orientation(rng)
            )
            for semiangle_mrad in (2.0,) if quick else (2.0, 4.0):
                for n_beams in (50,) if quick else (50, 100, 200, 300):
                    yield Case(crystal, view, orientation, semiangle_mrad, n_beams)


# --- py4DSTEM, in its worker processes ------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """What a worker needs, as plain arrays."""

    cell: tuple[np.ndarray, np.ndarray, np.ndarray]
    couplings: dict[tuple[int, int, int], complex]
    hkl: np.ndarray
    beam_axes: np.ndarray
    normal: np.ndarray


def make_task(case: Case, beams: Beams, directions: torch.Tensor) -> Task:
    differences = (beams.hkl[:, None] - beams.hkl[None]).reshape(-1, 3)
    hkl = np.unique(differences, axis=0)
    # py4DSTEM's phases have the other sign, so that its U_g is our U_-g.
    couplings = case.crystal.coupling_coefficients(-hkl, ENERGY_EV).tolist()
    k_z = np.sqrt(wavelength(ENERGY_EV) ** -2 - (directions.numpy() ** 2).sum(1))
    towards_source = np.column_stack([-directions.numpy(), k_z])
    crystal = case.crystal
    return Task(
        (crystal.positions.numpy(), crystal.numbers.numpy(), crystal.lattice.numpy()),
        dict(zip(map(tuple, hkl.tolist()), couplings, strict=True)),
        beams.hkl,
        towards_source @ case.orientation.T,
        case.orientation[:, 2],
    )


def run_theirs(task: Task) -> tuple[float, float, np.ndarray]:
    """Return start, end and the intensities, shape (directions, thicknesses, beams)."""
    import warnings

    from emdfile import PointList
    from py4DSTEM.process.diffraction import Crystal as Py4DSTEMCrystal
    from py4DSTEM.process.diffraction.crystal_bloch import DynamicalMatrixCache
    from threadpoolctl import threadpool_limits

    warnings.simplefilter("ignore", DeprecationWarning)
    crystal: Any = Py4DSTEMCrystal(*task.cell)
    crystal.Ug_dict = task.couplings
    crystal.accel_voltage, crystal.wavelength = ENERGY_EV, wavelength(ENERGY_EV)
    data = np.zeros(len(task.hkl), [(name, float) for name in ("qx", "qy", "intensity", *"hkl")])
    data["h"], data["k"], data["l"] = task.hkl.T
    run = partial(
        crystal.generate_dynamical_diffraction_pattern,
        PointList(data),
        THICKNESSES,
        foil_normal_cartesian=task.normal,
        dynamical_matrix_cache=DynamicalMatrixCache(),
    )
    with threadpool_limits(1):
        run(zone_axis_cartesian=task.beam_axes[0])  # fills the cache, untimed
        start = time.monotonic()
        found = [run(zone_axis_cartesian=axis) for axis in task.beam_axes]
        end = time.monotonic()
    intensities = [[pattern.data["intensity"] for pattern in series] for series in found]
    return start, end, np.array(intensities)


def time_theirs(pool: ProcessPoolExecutor, task: Task) -> tuple[float, np.ndarray]:
    """Return seconds for each direction, all workers busy, and the intensities."""
    results = list(pool.map(run_theirs, [task] * WORKERS))
    starts, ends, intensities = zip(*results, strict=True)
    return (max(ends) - min(starts)) / (WORKERS * len(task.beam_axes)), intensities[0]


# --- ours -----------------------------------------------------------------------------------


def seconds(function: Callable[[], Any]) -> float:
    start = time.monotonic()
    function()
    return time.monotonic() - start


def make_pattern(case: Case, beams: Beams) -> torch.Tensor:
    amplitudes = disk_amplitudes(
        case.crystal, beams, ENERGY_EV, THICKNESSES, case.semiangle_mrad, DETECTOR.pixel_size
    )
    return cbed(amplitudes, beams, DETECTOR, case.semiangle_mrad, ENERGY_EV)


def product_gflop(function: Callable[[], Any]) -> float:
    """Return the 10^9 operations of a run's matrix products, which are real in the engine."""
    with FlopCounterMode(display=False) as counter:
        function()
    return 1e-9 * counter.get_total_flops()


def matrix_product_peak(size: int) -> float:
    """Return the machine's GFLOP/s in float32 matrix products, the best of five."""
    a, b = torch.randn(2, size, size)
    return 2e-9 * size**3 / min(seconds(lambda: a @ b) for _ in range(5))


# --- the table ------------------------------------------------------------------------------

HEADER = (
    "| crystal | view | mrad | beams | largest s, 1/Å | directions | py4DSTEM ms / direction "
    "| ours ms / direction | ratio | directions / s | GFLOP/s | of peak "
    "| CBED of 10 thicknesses, ms | max difference |"
)


def compare(
    case: Case, pool: ProcessPoolExecutor, repeats: int, sample: int, peak: float
) -> tuple[int, float]:
    """Print one line; return beams and ratio."""
    beams, directions = case.beams, case.directions
    few = directions[:: max(1, len(directions) // sample)][:sample]
    task = make_task(case, beams, few)
    ours = partial(diffract, case.crystal, beams, ENERGY_EV, THICKNESSES, incidence=directions)
    gflop = product_gflop(ours)  # warms up too
    make_pattern(case, beams)
    times: dict[str, list[float]] = {"ours": [], "theirs": [], "pattern": []}
    for _ in range(repeats):
        times["ours"].append(seconds(ours))
        each, expected = time_theirs(pool, task)
        times["theirs"].append(each)
        times["pattern"].append(seconds(partial(make_pattern, case, beams)))
    found = diffract(case.crystal, beams, ENERGY_EV, THICKNESSES, incidence=few)
    intensities = (torch.abs(found) ** 2).permute(2, 0, 1).numpy()
    difference = np.abs(intensities - expected).max()
    farthest = float(excitation_errors(beams.g, ENERGY_EV).abs().max())

    block, theirs = median(times["ours"]), median(times["theirs"])
    each = block / len(directions)
    speed = gflop / block
    print(
        f"| {case.crystal.name} | {case.view} | {case.semiangle_mrad:g} | {len(beams)} "
        f"| {farthest:.2f} | {len(directions)} | {1e3 * theirs:.2f} | {1e3 * each:.3f} "
        f"| {theirs / each:.1f} | {1 / each:.0f} | {speed:.0f} | {100 * speed / peak:.0f} % "
        f"| {1e3 * median(times['pattern']):.1f} | {difference:.0e} |",
        flush=True,
    )
    return len(beams), theirs / each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two small cases, once")
    parser.add_argument("--repeats", type=int, default=5, help="medians are taken over these")
    parser.add_argument("--sample", type=int, default=16, help="directions for each worker")
    options = parser.parse_args()
    repeats, sample = (1, 2) if options.quick else (options.repeats, options.sample)

    torch.set_num_threads(WORKERS)
    peak = matrix_product_peak(256 if options.quick else 2048)
    print(
        f"{platform.processor() or platform.machine()}, {WORKERS} threads, torch "
        f"{torch.__version__}, numpy {np.__version__}; float32 matrix products: "
        f"{peak:.0f} GFLOP/s.\n\n{HEADER}\n{'|---' * HEADER.count(' | ')}|---|"
    )
    ratios = []
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
        for case in cases(options.quick):
            ratios.append(compare(case, pool, repeats, sample, peak))
    print()
    for label, some in (
        ("100 beams and more", [ratio for n, ratio in ratios if n >= 100]),
        ("50 beams", [ratio for n, ratio in ratios if n < 100]),
    ):
        if some:
            print(f"- {label}: {min(some):.1f} to {max(some):.1f} times faster")


if __name__ == "__main__":
    main()
