"""Reads CLEED's decks, phase shifts and results."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from py4dstem_ml.physics.leed.layer import Layer
from py4dstem_ml.physics.leed.phase_shifts import PhaseShifts, Scatterer
from py4dstem_ml.physics.leed.stack import Bulk, Surface

HARTREE_EV = 27.211386


def read_phase_shifts(path: Path) -> PhaseShifts:
    """Blocks of an energy in Hartree and a line of delta_l."""
    lines = path.read_text().splitlines()
    count = int(lines[0].split()[0])
    energies = [float(line) * HARTREE_EV for line in lines[1 : 2 * count : 2]]
    delta = [[float(x) for x in line.split()] for line in lines[2 : 2 * count + 1 : 2]]
    return PhaseShifts(energies, delta)


@dataclass
class Deck:
    """A calculation as CLEED was given it."""

    surface: Surface
    theta_deg: float
    phi_deg: float


def read_deck(path: Path, phase_shifts: PhaseShifts) -> Deck:
    """Planes of `po` closer than 1.2 Å make one layer, as CLEED made them."""
    given: dict[str, list[list[str]]] = {}
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        given.setdefault(key, []).append(value.split())
    one = {key: [float(x) for x in values[0]] for key, values in given.items() if key[0] in "ami"}
    bulk_lattice = np.array([one["a1"][:2], one["a2"][:2]])
    lattice = np.array([one["m1"], one["m2"]]) @ bulk_lattice

    # CLEED's exponent is twice the usual one.
    atom = Scatterer(phase_shifts, float(given["po"][0][5]) * np.sqrt(2))
    places = {
        key: np.array([[float(x) for x in row[1:4]] for row in given[key]]) for key in ("po", "pb")
    }
    over = places["po"][np.argsort(-places["po"][:, 2])]
    gaps = np.flatnonzero(-np.diff(over[:, 2]) > 1.2) + 1
    bulk = Bulk([Layer(bulk_lattice, [place], atom) for place in places["pb"]], one["a3"])
    layers = [Layer(lattice, part, atom) for part in np.split(over, gaps)]
    return Deck(Surface(layers, bulk), one["it"][0], one["ip"][0])


def read_result(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Beams (n, 2), energies (e,), intensities (e, n)."""
    lines = path.read_text().splitlines()
    beams = [[float(x) for x in line.split()[2:4]] for line in lines if line.startswith("#bi")]
    table = np.array([[float(x) for x in line.split()] for line in lines if line[0] != "#"])
    return np.array(beams), table[:, 0], table[:, 1:]
