"""Crystals of the physics tests: high and low symmetry, with and without an inversion centre."""

import numpy as np

from py4dstem_ml.physics.crystal import Crystal

FCC = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])


def silicon(**options: float) -> Crystal:
    return Crystal.cubic(5.431, [14] * 8, np.concatenate([FCC, FCC + 0.25]), **options)


def gold(**options: float) -> Crystal:
    return Crystal.cubic(4.078, [79] * 4, FCC, **options)


def gallium_arsenide(**options: float) -> Crystal:
    numbers = [31] * 4 + [33] * 4
    return Crystal.cubic(5.653, numbers, np.concatenate([FCC, FCC + 0.25]), **options)


def strontium_titanate(**options: float) -> Crystal:
    positions = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    return Crystal.cubic(3.905, [38, 22, 8, 8, 8], positions, **options)


def lithium_manganate(**options: float) -> Crystal:
    """Li2MnO3, C2/m (Strobel & Lambert-Andron, J. Solid State Chem. 75 (1988) 90)."""
    a, b, c, beta = 4.937, 8.532, 5.030, np.radians(109.46)
    lattice = [[a, 0, 0], [0, b, 0], [c * np.cos(beta), 0, c * np.sin(beta)]]
    sites = [
        (25, (0, 0.16708, 0)),
        (3, (0, 0.5, 0)),
        (3, (0, 0, 0.5)),
        (3, (0, 0.6606, 0.5)),
        (8, (0.2189, 0, 0.2273)),
        (8, (0.2540, 0.32119, 0.2233)),
    ]
    numbers, positions = [], []
    for number, (x, y, z) in sites:
        orbit = np.array([[x, y, z], [-x, y, -z], [-x, -y, -z], [x, -y, z]])
        orbit = np.concatenate([orbit, orbit + [0.5, 0.5, 0]]) % 1.0
        orbit = np.unique(np.round(orbit, 6), axis=0)
        numbers += [number] * len(orbit)
        positions.append(orbit)
    return Crystal(lattice, numbers, np.concatenate(positions), **options)


MATERIALS = {
    "Si": silicon,
    "Au": gold,
    "SrTiO3": strontium_titanate,
    "GaAs": gallium_arsenide,
    "Li2MnO3": lithium_manganate,
}
