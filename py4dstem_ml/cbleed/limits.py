"""How well counted electrons can tell energy and displacements at all: the Cramér-Rao limit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .dataset import Between, Floats

#: Steps in eV and Å over which patterns are differentiated.
_STEPS = (0.1, 0.01, 0.01)


def cramer_rao(between: Between, labels: npt.ArrayLike, counts: float) -> Floats:
    """Return the least standard deviations of an unbiased estimate, shape (n, 3).

    Energy, height and length are unknown together; the shape of the pattern alone tells them, not
    its brightness; alignment and the kind of dimer are known.

    Parameters
    ----------
    between : Between
        Of a whole grid: patterns are differentiated between its points.
    labels : array_like, shape (n, 4)
        Where; see `dataset.TARGETS`.
    counts : float
        Electrons in a pattern.

    Returns
    -------
    ndarray, shape (n, 3)
        eV, Å, Å.
    """
    return np.array([_limit(between, row, counts) for row in np.asarray(labels, dtype=float)])


def _limit(between: Between, label: Floats, counts: float) -> Floats:
    def share(place: Floats) -> Floats:
        one = between.at(place[0], int(label[3]), place[None, 1:3])[0].double().cpu().numpy()
        return one.ravel() / one.sum()

    here = share(label[:3])
    lit = here > 1e-3 / here.size  # beyond is rounding
    slopes = []
    for axis, step in enumerate(_STEPS):
        move = np.eye(3)[axis] * step
        slopes.append((share(label[:3] + move) - share(label[:3] - move))[lit] / (2 * step))
    slope = np.array(slopes)
    information = counts * (slope / here[lit]) @ slope.T
    return np.sqrt(np.diag(np.linalg.inv(information)))
