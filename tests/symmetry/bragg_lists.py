"""Bragg lists of no crystal at all."""

import numpy as np

from py4dstem_ml.symmetry.lists import BraggLists


def random_lists(n=12, seed=0, fewest=6, most=40):
    """Lists of diffracted beams only, the strongest first."""
    rng = np.random.default_rng(seed)
    lists = []
    for _ in range(n):
        k = rng.integers(fewest, most)
        q, angle = rng.uniform(0.1, 1.9, k), rng.uniform(0, 2 * np.pi, k)
        intensity = np.sort(rng.exponential(1.0, k))[::-1]
        lists.append(np.column_stack([q * np.cos(angle), q * np.sin(angle), intensity]))
    return BraggLists.pack(lists)
