"""LACBED bright fields of well-known cubic crystals: exact, of few beams, of the network.

Each from the crystal's potential to a 64 x 64 pattern, with how long it takes and how like the
exact one it is; then how many patterns a second a batch makes, and how many are read: by the
network alone and, where the atlas is at hand, with the known crystals that are tried beside it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch

from py4dstem_ml import weights
from py4dstem_ml.compute import pick_device
from py4dstem_ml.lacbed.bragg_lines import unfolded
from py4dstem_ml.lacbed.bright_field import FINE, QUICK, BrightField, coefficients_of
from py4dstem_ml.lacbed.natural import depth, strength_per_volt
from py4dstem_ml.lacbed.predict import LacbedGenerator, PotentialPredictor
from py4dstem_ml.lacbed.scores import likeness
from py4dstem_ml.physics.crystal import Crystal
from py4dstem_ml.physics.lacbed import lacbed
from py4dstem_ml.physics.projection import projected_potential
from py4dstem_ml.tables import Row, markdown_table

Result = TypeVar("Result")

_FCC = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
_EIGHT = np.indices((2, 2, 2)).reshape(3, -1).T / 2 + 0.25
_SIX = 0.25 * np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])
#: Name: a in Å, and by element its positions.
_CRYSTALS: dict[str, tuple[float, dict[int, np.ndarray]]] = {
    "Cu": (3.615, {29: _FCC}),
    "W": (3.165, {74: np.array([[0, 0, 0], [0.5, 0.5, 0.5]])}),
    "Si": (5.431, {14: np.concatenate([_FCC, _FCC + 0.25])}),
    "GaAs": (5.653, {31: _FCC, 33: _FCC + 0.25}),
    "NaCl": (5.640, {11: _FCC, 17: _FCC + 0.5}),
    "CsCl": (4.123, {55: np.zeros((1, 3)), 17: np.full((1, 3), 0.5)}),
    "SrTiO3": (3.905, {38: np.zeros((1, 3)), 22: np.full((1, 3), 0.5), 8: _FCC[1:]}),
    "Cu2MnAl": (5.95, {25: _FCC, 13: _FCC + 0.5, 29: _EIGHT}),
    "Sr2MgWO6": (7.94, {
        12: _FCC, 74: _FCC + 0.5, 38: _EIGHT, 8: (_FCC[:, None] + 1.02 * _SIX).reshape(-1, 3),
    }),
}  # fmt: skip


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--thickness", type=float, default=500.0, help="Å")
    parser.add_argument("--energy", type=float, default=200e3, help="eV")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--weights", help="forward; default: the registered ones")
    parser.add_argument("--inverse", help="inverse; default: the registered ones")
    parser.add_argument("--device", help="default: the GPU if there is one")
    args = parser.parse_args()
    device = pick_device(args.device)
    print(f"{torch.get_num_threads()} threads, {device.type}; median of {args.repeats}\n")
    generator = LacbedGenerator(args.weights, device=device)
    rows = [
        _compared(name, generator, args.thickness, args.energy, args.repeats) for name in _CRYSTALS
    ]
    columns = (
        "crystal", "exact ms", "fine ms", "R fine", "few beams ms", "R few beams", "network ms",
        "R network",
    )  # fmt: skip
    print(markdown_table(rows, columns))
    reader = PotentialPredictor(args.inverse, atlas=False, device=device)
    print("\n" + markdown_table(_batches(generator, reader, args.repeats), ("", "patterns/s")))


def _crystal(name: str) -> Crystal:
    a, atoms = _CRYSTALS[name]
    numbers = [z for z, places in atoms.items() for _ in places]
    return Crystal.cubic(a, numbers, np.concatenate(list(atoms.values())), name=name)


def _compared(
    name: str, generator: LacbedGenerator, thickness: float, energy: float, repeats: int
) -> Row:  # fmt: skip
    crystal = _crystal(name)
    a, half_width = _CRYSTALS[name][0], generator.half_width
    exact_ms, exact = _timed(lambda: lacbed(
        crystal, (0, 0, 1), energy, [thickness], half_width=half_width / a,
        pixels=generator.pixels, absorption=False, progress=False,
    ).images[0, 0], 1)  # fmt: skip
    potential = projected_potential(crystal, generator.pixels).potential
    u = torch.from_numpy(potential * strength_per_volt(a, energy))
    tau = torch.tensor([depth(a, thickness, energy)])
    row: Row = {"crystal": name, "exact ms": exact_ms}
    for label, reach in (("fine", FINE), ("few beams", QUICK)):
        engine = BrightField(generator.pixels, half_width, reach)
        row[f"{label} ms"], quadrant = _timed(
            lambda e=engine: e(coefficients_of(u), tau)[0], repeats
        )
        row[f"R {label}"] = float(likeness(unfolded(quadrant), exact))
    row["network ms"], image = _timed(
        lambda: generator(potential, a=a, thickness=thickness, energy_ev=energy), repeats
    )
    row["R network"] = float(likeness(torch.from_numpy(image), exact))
    return row


def _batches(generator: LacbedGenerator, reader: PotentialPredictor, repeats: int) -> list[Row]:
    """Patterns a second of a batch of 64 of silicon."""
    potential = projected_potential(_crystal("Si"), generator.pixels).potential
    a, count = _CRYSTALS["Si"][0], 64
    stack = np.repeat(potential[None], count, axis=0)
    forward, patterns = _timed(lambda: generator(stack, a=a, thickness=500), repeats)
    inverse, _ = _timed(lambda: reader(patterns, a=a, thickness=500), repeats)
    single, _ = _timed(lambda: reader(patterns[0], a=a, thickness=500), repeats)
    rows = [
        {"": "forward, 64 together", "patterns/s": 1e3 * count / forward},
        {"": "inverse, 64 together", "patterns/s": 1e3 * count / inverse},
        {"": "inverse, one by one", "patterns/s": 1e3 / single},
    ]
    if weights.locate(weights.default_name("lacbed-atlas")) is None:
        return rows
    explaining = PotentialPredictor(reader.model, device=reader.device)
    seconds = [
        _timed(lambda on=on: explaining(patterns[0], a=a, thickness=500, absorption=on), repeats)[0]
        for on in (False, True)
    ]
    return [
        *rows,
        {"": "explained by network and known crystals", "patterns/s": 1e3 / seconds[0]},
        {"": "the same, with absorption", "patterns/s": 1e3 / seconds[1]},
    ]


def _timed(run: Callable[[], Result], repeats: int) -> tuple[float, Result]:
    """Median milliseconds, and the result."""
    result = run()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return 1e3 * statistics.median(seconds), result


if __name__ == "__main__":
    main()
