"""Crystals read from Bragg lists of another simulator: py4DSTEM's own Bloch waves.

Its beams (2 1/Å, three times 0.02 1/Å from the Ewald sphere; the strongest by its kinematic
intensities), its scattering factors with absorption (Weickenmeier and Kohl, 0.08 Å of thermal
motion), 300 kV, 20 nm, random axes; crystals of the test part of a split. The lists are kept in the
output folder and used again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import warnings
from pathlib import Path

import numpy as np
import torch

from py4dstem_ml.physics.structures import CrystalTable
from py4dstem_ml.progress import progress_bar
from py4dstem_ml.symmetry import evaluate
from py4dstem_ml.symmetry.dataset import HeldOutLists, Labels, split_materials
from py4dstem_ml.symmetry.lists import BraggLists
from py4dstem_ml.symmetry.predict import load_model, usable
from py4dstem_ml.tables import markdown_table

_ENERGY, _THICKNESS, _Q_MAX, _SIGMA = 300e3, 200.0, 2.0, 0.02


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--structures", required=True, help="table of crystals (.npz)")
    parser.add_argument("--model", nargs="+", required=True, help="names or files of weights")
    parser.add_argument("--split", choices=("strict", "paper"), default="strict")
    parser.add_argument("--crystals", type=int, default=20, help="of each system")
    parser.add_argument("--axes", type=int, default=10)
    parser.add_argument("--max-beams", type=int, default=250, help="the strongest")
    parser.add_argument("--output", type=Path, default=Path("results"))
    args = parser.parse_args()
    table = CrystalTable(args.structures)
    labels = Labels.of(table)
    chosen = chosen_crystals(labels, split_materials(table, args.split)["test"], args.crystals)
    args.output.mkdir(parents=True, exist_ok=True)
    options = f"{args.split}-{args.crystals}-{args.axes}-{args.max_beams}"
    path = args.output / f"py4dstem-{options}.npz"
    if not path.exists():
        simulate(table, chosen, args.axes, args.max_beams, path)
    with np.load(path) as stored:
        lists, material = BraggLists(stored["peaks"], stored["offsets"]), stored["material"]
    lists, good = usable(lists)
    lists, material = lists.take(np.flatnonzero(good)), material[good]
    crystals, bag = np.unique(material, return_inverse=True)
    test = HeldOutLists(
        lists, bag, labels.system[crystals], labels.group[crystals], labels.lattice[crystals]
    )
    rows = []
    for name in args.model:
        model = load_model(name)
        evaluate.refuse_other_split(name, model, args.split)
        scores = evaluate.Scores.of(model, test)
        rows += evaluate.accuracy_rows(name, "py4DSTEM, 20 nm", scores)
    print(f"{len(crystals)} crystals, {args.split} split, simulated by py4DSTEM\n")
    print(markdown_table(rows, list(rows[0])))


def chosen_crystals(labels: Labels, test: np.ndarray, each: int) -> np.ndarray:
    """Return as many crystals of every system."""
    rng = np.random.default_rng(0)
    drawn = rng.permutation(test)
    return np.concatenate([drawn[labels.system[drawn] == s][:each] for s in range(7)])


def simulate(
    table: CrystalTable, chosen: np.ndarray, axes: int, max_beams: int, path: Path
) -> None:
    """Simulate lists with py4DSTEM and keep them."""
    peaks, offsets, material = [], [0], []
    torch.set_num_threads(1)
    for number in progress_bar(chosen, description="py4DSTEM"):
        rng = np.random.default_rng(number)
        with quiet():
            made = patterns(table, int(number), axes, max_beams, rng)
        for one in made:
            peaks.append(one)
            offsets.append(offsets[-1] + len(one))
            material.append(number)
    np.savez(path, peaks=np.concatenate(peaks), offsets=offsets, material=material)


@contextlib.contextmanager
def quiet():
    """Hide py4DSTEM's notes and bars."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


def patterns(
    table: CrystalTable, number: int, axes: int, max_beams: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Return lists [qx, qy, intensity] along random axes, turned at random."""
    from py4DSTEM.process.diffraction import Crystal

    ours = table[number]
    crystal = Crystal(ours.positions.numpy(), ours.numbers.numpy(), ours.lattice.numpy())
    crystal.setup_diffraction(_ENERGY)
    crystal.calculate_dynamical_structure_factors(
        _ENERGY, method="WK-CP", k_max=2 * _Q_MAX, thermal_sigma=0.08, tol_structure_factor=-1.0
    )
    made = []
    for _ in range(axes):
        axis = rng.normal(size=3)
        beams = crystal.generate_diffraction_pattern(
            zone_axis_cartesian=axis, sigma_excitation_error=_SIGMA, tol_intensity=0.0, k_max=_Q_MAX
        )
        beams.data = np.sort(beams.data, order="intensity")[::-1][:max_beams]
        pattern = crystal.generate_dynamical_diffraction_pattern(
            beams, [_THICKNESS], zone_axis_cartesian=axis, always_return_list=True
        )[0].data
        angle = rng.uniform(0, 2 * np.pi)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        q = np.column_stack([pattern["qx"], pattern["qy"]]) @ turn
        made.append(np.column_stack([q, pattern["intensity"]]).astype(np.float32))
    return made


if __name__ == "__main__":
    main()
