"""LACBED disks: how fast, beside py4DSTEM and the engine direction by direction, and how true.

Speed on silicon [001] at equal beams; py4DSTEM is timed on few pixels and reckoned up, for it takes
half an hour for the whole image. Convergence: how the bright field changes with the beams that are
diagonalised, the others being a perturbation. Truth: the measured digital-LACBED patterns of
Felix-python; the thickness is fitted, and whether c lies along the rows.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from py4dstem_ml.compute import pick_device
from py4dstem_ml.lacbed.scores import likeness
from py4dstem_ml.physics.crystal import Crystal
from py4dstem_ml.physics.electrons import wavelength
from py4dstem_ml.physics.lacbed import lacbed
from py4dstem_ml.tables import markdown_table

_FCC = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
_ENERGY = 200e3
_THICKNESSES = [500.0, 1000.0, 1500.0, 2000.0]
_REFLECTIONS = [(0, 0, 0), (2, 2, 0), (4, 0, 0), (4, 4, 0)]
#: 1/Å, how far beams go.
_Q_MAX = 3.0
#: Sides of the images that py4DSTEM is timed on.
_SIDES = (6, 12)
#: a in Å, elements, B in Å^2: for GaAs as in the authors' fit, whose others are effective ones.
_MEASURED = {
    "Si_110_152x152": (5.431, (14, 14), (0.5, 0.5)),
    "diamond_110_200x200": (3.56672, (6, 6), (0.15, 0.15)),
    "GaAs_110_84x84": (5.65325, (31, 33), (0.5854, 0.3528)),
}
_EIGHT = np.indices((2, 2, 2)).reshape(3, -1).T / 2 + 0.25
_SIX = 0.25 * np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])
_A15 = np.array([[0.25, 0, 0.5], [0.75, 0, 0.5], [0.5, 0.25, 0], [0.5, 0.75, 0], [0, 0.5, 0.25],
                 [0, 0.5, 0.75]])  # fmt: skip
#: Heavy crystals, where weak beams count: a in Å, and by element its positions.
_HEAVY = {
    "W": (3.165, {74: np.array([[0, 0, 0], [0.5, 0.5, 0.5]])}),
    "Nb3Ge": (5.166, {41: _A15, 32: np.array([[0, 0, 0], [0.5, 0.5, 0.5]])}),
    "Sr2MgWO6": (7.94, {
        12: _FCC, 74: _FCC + 0.5, 38: _EIGHT, 8: (_FCC[:, None] + 1.02 * _SIX).reshape(-1, 3),
    }),
}  # fmt: skip
#: Beams diagonalised; the last are all.
_MAX_BEAMS = (200, 400, 700, 4000)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of measured data: adds the comparison")
    parser.add_argument("--figure", type=Path, help="draw measured and simulated disks")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", help="default: the GPU if there is one")
    args = parser.parse_args()
    device = pick_device(args.device)
    print(f"{torch.get_num_threads()} threads, {device.type}; median of {args.repeats}\n")
    print(markdown_table(*_speed(args.repeats, device)))
    rows = [row for name in _HEAVY for row in _converging(name, device)]
    columns = ("crystal", "at most", "diagonalised", "R, 50 nm", "R, 200 nm", "64 x 64, s")
    print("\n" + markdown_table(rows, columns))
    if args.data:
        rows = [_compared(args.data / "experimental" / f"{name}.npz") for name in _MEASURED]
        columns = ("measured", "ZNCC", "thickness Å", "of the authors' fit Å", "seconds")
        print("\n" + markdown_table(rows, columns))
        if args.figure:
            _draw(rows, args.figure)


def diamond_like(a: float, numbers: tuple[int, int], b_iso: tuple[float, float]) -> Crystal:
    """Return a crystal of the diamond or zinc blende type."""
    positions = np.concatenate([_FCC, _FCC + 0.25])
    return Crystal.cubic(a, np.repeat(numbers, 4), positions, b_iso=np.repeat(b_iso, 4))


def _speed(repeats: int, device: torch.device) -> tuple[list[dict], tuple[str, ...]]:
    silicon = diamond_like(5.431, (14, 14), (0.5, 0.5))
    half_width = 64 / 9 / 5.431
    beams = 0
    rows = []
    for absorption in (False, True):

        def run(absorption: bool = absorption) -> None:
            nonlocal beams
            disks = lacbed(
                silicon, (0, 0, 1), _ENERGY, _THICKNESSES, half_width=half_width, q_max=_Q_MAX,
                reflections=_REFLECTIONS, absorption=absorption, device=device, progress=False,
            )  # fmt: skip
            beams = disks.beams

        run()
        seconds = statistics.median(_timed(run) for _ in range(repeats))
        name = "this engine, with absorption" if absorption else "this engine"
        rows.append({"engine": name, "beams": beams, "128 x 128, s": seconds})
    py4dstem, count = _py4dstem_seconds(silicon, half_width, beams)
    rows.append({"engine": "py4DSTEM (reckoned)", "beams": count, "128 x 128, s": py4dstem})
    for row in rows:
        row["times as fast"] = py4dstem / row["128 x 128, s"]
    return rows, ("engine", "beams", "128 x 128, s", "times as fast")


def _timed(run: Callable[[], None]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _converging(name: str, device: torch.device) -> list[dict]:
    """How alike bright fields of few beams are to that of all."""
    a, atoms = _HEAVY[name]
    numbers = [z for z, places in atoms.items() for _ in places]
    crystal = Crystal.cubic(a, numbers, np.concatenate(list(atoms.values())))
    rows, images = [], []
    for most in _MAX_BEAMS:
        started = time.perf_counter()
        disks = lacbed(
            crystal, (0, 0, 1), _ENERGY, [500.0, 2000.0], half_width=8 / a, pixels=64,
            max_beams=most, absorption=False, device=device, progress=False,
        )  # fmt: skip
        seconds = time.perf_counter() - started
        images.append(disks.images[:, 0].cpu())
        rows.append({
            "crystal": name, "at most": most, "diagonalised": disks.beams, "64 x 64, s": seconds
        })  # fmt: skip
    for row, image in zip(rows, images, strict=True):
        row["R, 50 nm"], row["R, 200 nm"] = likeness(image, images[-1]).tolist()
    return rows


def _py4dstem_seconds(crystal: Crystal, half_width: float, beams: int) -> tuple[float, int]:
    """Seconds for 128 x 128 directions, four thicknesses, and the number of beams."""
    from py4dstem_ml.toolkits.py4dstem import crystal_to_py4dstem

    theirs = crystal_to_py4dstem(crystal)
    theirs.setup_diffraction(_ENERGY)
    theirs.calculate_dynamical_structure_factors(
        _ENERGY, method="Lobato", k_max=2 * _Q_MAX + 0.1, tol_structure_factor=-1.0
    )
    pattern = theirs.generate_diffraction_pattern(
        zone_axis_lattice=(0, 0, 1), sigma_excitation_error=0.05, tol_intensity=0.0, k_max=_Q_MAX
    )
    pattern.data = np.sort(pattern.data, order="intensity")[::-1][:beams]

    def run(side: int) -> float:
        return _timed(
            lambda: theirs.generate_CBED(
                pattern, _THICKNESSES, alpha_mrad=1e3 * half_width * wavelength(_ENERGY),
                pixel_size_inv_A=2 * half_width / side, zone_axis_lattice=np.array([0, 0, 1]),
                LACBED=True, progress_bar=False,
            )
        )  # fmt: skip

    small, large = run(_SIDES[0]), run(_SIDES[1])
    # Their disks are round; what is prepared once drops out of the difference.
    directions = np.pi / 4 * (_SIDES[1] ** 2 - _SIDES[0] ** 2)
    return (large - small) * 128**2 / directions, len(pattern.data)


def _compared(path: Path) -> dict:
    """How alike the bright field is, at the thickness that fits best."""
    a, numbers, b_iso = _MEASURED[path.stem]
    with np.load(path) as file:
        given = dict(re.findall(r"(\w+)\s*=\s*(\S+)", str(file["felix_inp"])))
        measured = file["images"][[not row.any() for row in file["hkl"]]][0]
        structure = json.loads(str(file["structure"]))
    assert abs(float(structure["_cell_length_a"].split("(")[0]) - a) < 1e-9
    thicknesses = np.arange(200.0, 3001.0, 20.0)
    started = time.perf_counter()
    disks = lacbed(
        diamond_like(a, numbers, b_iso), (1, -1, 0), 1e3 * float(given["accelerating_voltage_kv"]),
        thicknesses, half_width=float(given["convergence_angle"]), pixels=len(measured),
        progress=False,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    # One pixel of blur, as the authors' fit has.
    simulated = [gaussian_filter(image, 1.0) for image in disks.images[:, 0].numpy()]
    # c lies along the rows here, along the columns of the measurement or its rows.
    best = max(
        (float(np.corrcoef(image.ravel(), view.ravel())[0, 1]), thickness, turned)
        for turned, view in enumerate((measured, measured.T))
        for image, thickness in zip(simulated, thicknesses.tolist(), strict=True)
    )
    index = thicknesses.tolist().index(best[1])
    return {
        "measured": path.stem, "ZNCC": best[0], "thickness Å": best[1], "seconds": seconds,
        "of the authors' fit Å": float(given["initial_thickness"]),
        "images": (measured.T if best[2] else measured, simulated[index]),
    }  # fmt: skip


def _draw(rows: list[dict], path: Path) -> None:
    from matplotlib import pyplot

    fig, axes = pyplot.subplots(2, len(rows), figsize=(3 * len(rows), 6.3), layout="constrained")
    for column, row in zip(axes.T, rows, strict=True):
        for ax, image, title in zip(column, row["images"], ("measured", "simulated"), strict=True):
            ax.imshow(image, cmap="gray")
            ax.set(xticks=[], yticks=[], title=f"{row['measured'].split('_')[0]}, {title}")
        column[1].set_xlabel(f"{row['thickness Å']:.0f} Å, ZNCC {row['ZNCC']:.3f}")
    fig.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
