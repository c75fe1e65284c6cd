"""Make tests/data/abtem_cbed.npz: nanobeam patterns of abTEM, to hold our own against.

Multislice with infinite projections of Lobato atoms, smeared by their thermal motion and without
thermal diffuse scattering; slices of 0.5 to 0.7 Å. Run it with abTEM installed:

    python tests/physics/oracles/make_abtem_cbed.py
"""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass
from math import pi
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(__file__).parents[2] / "data" / "abtem_cbed.npz"
ENERGY_EV = 200e3
SHAPE = (96, 96)

FCC = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
FCC_QUARTER = [[x + 0.25, y + 0.25, z + 0.25] for x, y, z in FCC]
PEROVSKITE = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
RUTILE = [[0, 0, 0], [0.5, 0.5, 0.5], [0.305, 0.305, 0], [0.695, 0.695, 0]]
RUTILE += [[0.805, 0.195, 0.5], [0.195, 0.805, 0.5]]


@dataclass(frozen=True)
class Case:
    """A tetragonal or cubic crystal along [001] and how it is looked at.

    ``cell`` is a = b and c in Å; ``repeats`` the cells along a (and b) and c, so that the box is
    ``repeats[0] * cell[0]`` wide and a pixel one over that. ``tilt_mrad`` is the direction of the
    beam towards (row, col); ``focus_at_exit`` puts the probe's focus on the exit surface.
    """

    name: str
    cell: tuple[float, float]
    numbers: list[int]
    positions: list[list[float]]
    repeats: tuple[int, int]
    gpts_per_cell: int
    slices_per_cell: int
    semiangle_mrad: float = 2.0
    rms_displacement: float = 0.08
    tilt_mrad: tuple[float, float] = (0.0, 0.0)
    probe_position: tuple[float, float] = (0.0, 0.0)
    focus_at_exit: bool = False

    @property
    def pixel_size(self) -> float:
        return 1.0 / (self.repeats[0] * self.cell[0])

    @property
    def thickness(self) -> float:
        return self.repeats[1] * self.cell[1]

    @property
    def b_iso(self) -> float:
        return 8.0 * pi**2 * self.rms_displacement**2


SI = ((5.431, 5.431), [14] * 8, FCC + FCC_QUARTER, (10, 37), 80, 8)
SRTIO3 = ((3.905, 3.905), [38, 22, 8, 8, 8], PEROVSKITE, (14, 51), 60, 6)
CASES = [
    Case("Si", *SI),
    Case("Si tilted", *SI, tilt_mrad=(12.0, 5.0)),
    Case("SrTiO3", *SRTIO3),
    Case(
        "SrTiO3 overlapping",
        *SRTIO3,
        semiangle_mrad=6.0,
        probe_position=(1.0, 0.6),
        focus_at_exit=True,
    ),
    Case("GaAs", (5.653, 5.653), [31] * 4 + [33] * 4, FCC + FCC_QUARTER, (10, 35), 80, 8),
    Case("Au", (4.078, 4.078), [79] * 4, FCC, (13, 49), 64, 8),
    Case("TiO2", (4.594, 2.959), [22, 22, 8, 8, 8, 8], RUTILE, (12, 68), 72, 4),
]


def simulate(case: Case) -> np.ndarray:
    """Return abTEM's pattern of one case, float32, direct beam at pixel (H // 2, W // 2)."""
    import abtem
    from ase import Atoms

    abtem.config.set({"device": "cpu", "precision": "float32"})
    a, c = case.cell
    atoms = Atoms(case.numbers, scaled_positions=case.positions, cell=[a, a, c], pbc=True)
    atoms.wrap()
    unit = abtem.Potential(
        atoms,
        gpts=(case.gpts_per_cell, case.gpts_per_cell),
        slice_thickness=c / case.slices_per_cell,
        parametrization=abtem.parametrizations.LobatoParametrization(sigmas=case.rms_displacement),
        projection="infinite",
    ).build(lazy=False)
    wide, deep = case.repeats
    potential = abtem.CrystalPotential(unit, (wide, wide, deep))
    probe = abtem.Probe(
        energy=ENERGY_EV,
        semiangle_cutoff=case.semiangle_mrad,
        soft=True,
        tilt=case.tilt_mrad,
        defocus=case.thickness if case.focus_at_exit else 0.0,
    )
    probe.grid.match(potential)
    wave = probe.build(scan=case.probe_position, lazy=False).multislice(potential)
    pattern = wave.diffraction_patterns(max_angle=None).array
    rows, cols = (n // 2 - m // 2 for n, m in zip(pattern.shape, SHAPE, strict=True))
    return pattern[rows : rows + SHAPE[0], cols : cols + SHAPE[1]]


def provenance() -> dict[str, Any]:
    """Return how the file was made."""
    import abtem

    return {
        "generator": "tests/physics/oracles/make_abtem_cbed.py",
        "abtem": abtem.__version__,
        "python": platform.python_version(),
        "energy_ev": ENERGY_EV,
        "unit": "1000 = the whole incident beam",
        "cases": [asdict(case) for case in CASES],
    }


if __name__ == "__main__":
    patterns = np.stack([simulate(case) for case in CASES])
    np.savez_compressed(
        DATA,
        patterns=(1e3 * patterns).astype(np.float16),
        provenance=np.array(json.dumps(provenance())),
    )
