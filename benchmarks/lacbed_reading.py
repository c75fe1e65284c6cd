"""How well potentials are read from LACBED bright fields under conditions that microscopes have.

Cubic crystals of prototypes that the network was not trained on, exact patterns with and without
absorption, at several thicknesses and voltages, and off centre; once with an atlas that knows the
crystals, once with one of training crystals alone.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from py4dstem_ml.lacbed.atlas import Atlas, names_of
from py4dstem_ml.lacbed.dataset import split_materials
from py4dstem_ml.lacbed.explain import CANDIDATES, best_explained
from py4dstem_ml.lacbed.predict import PotentialPredictor
from py4dstem_ml.lacbed.scores import at_best_origin, likeness
from py4dstem_ml.physics.crystal import Crystal
from py4dstem_ml.physics.lacbed import lacbed
from py4dstem_ml.physics.projection import projected_potential
from py4dstem_ml.physics.structures import CrystalTable
from py4dstem_ml.progress import progress_bar
from py4dstem_ml.tables import Row, markdown_table
from py4dstem_ml.weights import default_name

_TABLES = ("structures_icsd.npz", "structures_cubic_extra.npz")
#: The atlas that knows the crystals, and the one that does not.
_KNOWN, _NEW = "known crystals", "new prototypes"
#: Reciprocal lattice vectors simulated beyond the picture's edge, so that it can be moved.
_MARGIN = 1


@dataclass(frozen=True)
class Condition:
    """How a pattern is taken, and whether absorption is counted in when it is read."""

    thickness: float = 500.0
    energy_ev: float = 200e3
    absorption: bool = True
    counted: bool = True
    pixels_off: int = 0

    def __str__(self) -> str:
        said = [f"{self.thickness:g} Å, {self.energy_ev / 1e3:g} kV"]
        if not self.absorption:
            said.append("without absorption")
        elif not self.counted:
            said.append("absorption not counted in")
        if self.pixels_off:
            said.append(f"{self.pixels_off} pixel off centre")
        return ", ".join(said)


_CONDITIONS = (
    *(Condition(thickness=t, absorption=False, counted=False) for t in (500.0, 2000.0)),
    *(Condition(thickness=t) for t in (500.0, 1000.0, 2000.0)),
    *(Condition(thickness=t, counted=False) for t in (500.0, 2000.0)),
    *(Condition(thickness=1000.0, energy_ev=energy) for energy in (100e3, 300e3)),
    Condition(pixels_off=1),
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, type=Path, help="folder of the tables of crystals")
    parser.add_argument("--crystals", type=int, default=32)
    parser.add_argument("--weights", help="of the reader; default: the registered ones")
    parser.add_argument("--atlas", help="default: the registered one")
    args = parser.parse_args()
    crystals, trained = _crystals(args.data, args.crystals)
    atlas = Atlas.load(args.atlas or default_name("lacbed-atlas"))
    reader = PotentialPredictor(args.weights, atlas=False)
    atlases = {_KNOWN: atlas, _NEW: atlas.only(trained)}
    found: dict[tuple[Condition, str], list[tuple[bool, float, float]]] = {}
    for crystal in progress_bar(crystals, description="reading"):
        patterns = {}
        for condition in _CONDITIONS:
            key = condition.thickness, condition.energy_ev, condition.absorption
            if key not in patterns:
                patterns[key] = _simulated(crystal, reader, *key)
            for name, known in atlases.items():
                scores = _read(reader, known, crystal, patterns[key], condition)
                found.setdefault((condition, name), []).append(scores)
    print(f"{len(crystals)} crystals; R = (1 + Pearson) / 2 at the best origin\n")
    rows = [_row(condition, found) for condition in _CONDITIONS]
    print(markdown_table(rows, tuple(rows[0])))


def _crystals(folder: Path, count: int) -> tuple[list[Crystal], set[str]]:
    """Crystals of prototypes that are tested on, and the names of those that are trained on."""
    names, formula, prototype, places = [], [], [], []
    for file in _TABLES:
        table = CrystalTable(folder / file)
        cubic = np.flatnonzero(table.field("crystal_system") == "cubic")
        formula.append(table.formula[cubic])
        prototype.append(table.field("prototype")[cubic])
        names += names_of(table.formula[cubic], table.field("material_id")[cubic])
        places += [(table, number) for number in cubic.tolist()]
    parts = split_materials(np.concatenate(formula), np.concatenate(prototype))
    chosen = np.random.default_rng(0).permutation(parts["prototype"])[:count]
    crystals = []
    for number in chosen.tolist():
        table, row = places[number]
        one = table[row]
        a = float(torch.linalg.norm(one.lattice[0]))
        crystals.append(Crystal.cubic(a, one.numbers, one.positions, name=names[number]))
    return crystals, {names[number] for number in parts["train"].tolist()}


def _simulated(
    crystal: Crystal, reader: PotentialPredictor, thickness: float, energy_ev: float,
    absorption: bool,
) -> np.ndarray:  # fmt: skip
    """The exact bright field, `_MARGIN` wider than the reader looks."""
    half_width = reader.half_width + _MARGIN
    pixels = round(reader.pixels * half_width / reader.half_width)
    a = float(torch.linalg.norm(crystal.lattice[0]))
    return lacbed(
        crystal, (0, 0, 1), energy_ev, [thickness], half_width=half_width / a, pixels=pixels,
        absorption=absorption, progress=False,
    ).images[0, 0].numpy()  # fmt: skip


def _read(
    reader: PotentialPredictor, atlas: Atlas, crystal: Crystal, wide: np.ndarray,
    condition: Condition,
) -> tuple[bool, float, float]:  # fmt: skip
    """Whether the crystal is taken, R of the potential, and R of the pattern."""
    margin = (len(wide) - reader.pixels) // 2
    rows = slice(margin + condition.pixels_off, margin + condition.pixels_off + reader.pixels)
    pattern = np.ascontiguousarray(wide[rows, margin : margin + reader.pixels])
    a = float(torch.linalg.norm(crystal.lattice[0]))
    known = {"a": a, "thickness": condition.thickness, "energy_ev": condition.energy_ev}
    best = best_explained(
        pattern, reader(pattern, **known), atlas, half_width=reader.half_width,
        absorption=condition.counted, candidates=CANDIDATES, **known,
    )  # fmt: skip
    true = torch.from_numpy(projected_potential(crystal, reader.pixels).potential)[None].float()
    read = torch.from_numpy(best.potential)[None]
    taken = best.crystal is not None and best.crystal.name == crystal.name
    return taken, float(likeness(read, at_best_origin(true, read))), best.likeness


def _row(condition: Condition, found: dict) -> Row:
    row: Row = {"pattern": str(condition)}
    for name in (_KNOWN, _NEW):
        taken, potential, pattern = np.array(found[condition, name]).T
        if name == _KNOWN:
            row[f"{name}: taken"] = f"{int(taken.sum())} of {len(taken)}"
        row[f"{name}: R mean"] = float(potential.mean())
        row[f"{name}: R median"] = float(np.median(potential))
        row[f"{name}: R of the pattern"] = float(pattern.mean())
    return row


if __name__ == "__main__":
    main()
