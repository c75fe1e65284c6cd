"""Orientations: zone axes, random rotations, tilts.

An orientation is a (3, 3) rotation whose columns are the laboratory axes x (detector rows), y
(detector columns) and z (towards the electron source) written in the crystal's Cartesian frame,
so that ``g_lab = g @ orientation``. The beam runs along -z; this is py4DSTEM's convention.
"""

from __future__ import annotations

from itertools import product
from math import gcd

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from .crystal import Crystal

Matrix = npt.NDArray[np.float64]

#: Structure factors that differ by less than this share of the largest are the same.
_SAME_FACTOR = 1e-3


def from_direction(direction: npt.ArrayLike, in_plane: float = 0.0) -> Matrix:
    """Return an orientation whose z is the Cartesian ``direction``, turned ``in_plane`` rad."""
    z = np.asarray(direction, dtype=float)
    norm = np.linalg.norm(z)
    if z.shape != (3,) or not norm > 0:
        raise ValueError("a direction is three numbers that are not all zero")
    z = z / norm
    helper = np.eye(3)[np.argmin(np.abs(z))]
    x = np.cross(helper, z)
    x /= np.linalg.norm(x)
    y = np.cross(z, x)
    c, s = np.cos(in_plane), np.sin(in_plane)
    return np.stack([c * x + s * y, c * y - s * x, z], axis=1)


def zone_axis(crystal: Crystal, uvw: npt.ArrayLike, in_plane: float = 0.0) -> Matrix:
    """Return the orientation that looks down the lattice direction [uvw].

    Examples
    --------
    >>> silicon = Crystal.cubic(5.43, [14], [[0, 0, 0]])
    >>> zone_axis(silicon, (0, 0, 1))[:, 2].tolist()
    [0.0, 0.0, 1.0]
    """
    direction = np.asarray(uvw, dtype=float) @ crystal.lattice.detach().numpy()
    return from_direction(direction, in_plane)


def low_index_zones(crystal: Crystal, max_index: int = 2) -> npt.NDArray[np.int64]:
    """Return primitive [uvw] up to ``max_index``, shortest lattice vector first, one sign only."""
    indices = [
        uvw
        for uvw in product(range(-max_index, max_index + 1), repeat=3)
        if uvw > (0, 0, 0) and gcd(*uvw) == 1
    ]
    zones = np.array(indices)
    lengths = np.linalg.norm(zones @ crystal.lattice.detach().numpy(), axis=1)
    return zones[np.argsort(lengths, kind="stable")]


def random_orientation(rng: np.random.Generator) -> Matrix:
    """Return a rotation drawn uniformly from SO(3)."""
    return Rotation.random(random_state=rng).as_matrix()


def tilted(orientation: Matrix, angle_mrad: float, azimuth: float = 0.0) -> Matrix:
    """Return the orientation with the crystal tilted by ``angle_mrad``.

    The tilt axis lies in the detector plane, at ``azimuth`` rad from the x axis.
    """
    axis = np.array([np.cos(azimuth), np.sin(azimuth), 0.0])
    rotation = Rotation.from_rotvec(axis * angle_mrad * 1e-3).as_matrix()
    return np.asarray(orientation) @ rotation


def laue_operations(crystal: Crystal, g_max: float = 1.0) -> npt.NDArray[np.float64]:
    """Return the rotations and mirrors that leave all |V_g| alike: the crystal's Laue group.

    Parameters
    ----------
    crystal : Crystal
        In a cell whose vectors are short and near to right angles, as conventional and reduced
        cells are: symmetries that need whole numbers beyond -1 to 1 are not found.
    g_max : float
        1/Å; reflections up to here are compared.

    Returns
    -------
    ndarray, shape (n, 3, 3)
        Orthogonal matrices for Cartesian row vectors, ``v @ operation``.

    Examples
    --------
    >>> len(laue_operations(Crystal.cubic(3.6, [29], [[0, 0, 0]])))
    48
    """
    basis = crystal.reciprocal.detach().numpy()
    metric = basis @ basis.T
    matrices = _metric_operations(metric)
    reach = 1.05 * g_max  # an image may be a little longer, by rounding
    limit = np.ceil(reach * np.linalg.norm(crystal.lattice.detach().numpy(), axis=1)).astype(int)
    hkl = np.indices(2 * limit + 1).reshape(3, -1).T - limit
    squared = np.einsum("ni,ij,nj->n", hkl, metric, hkl)
    hkl, squared = hkl[squared <= reach**2], squared[squared <= reach**2]
    factors = np.zeros(2 * limit + 1)
    factors[tuple((hkl + limit).T)] = crystal.potential_coefficients(hkl).detach().abs().numpy()
    hkl = hkl[squared <= g_max**2]
    expected = factors[tuple((hkl + limit).T)]
    kept = [
        matrix
        for matrix in matrices
        if np.abs(factors[tuple((hkl @ matrix + limit).T)] - expected).max()
        <= _SAME_FACTOR * expected.max()
    ]
    return np.linalg.inv(basis) @ np.array(kept) @ basis


def _metric_operations(metric: Matrix) -> list[npt.NDArray[np.int64]]:
    """Integer matrices W, entries -1 to 1, with W metric W^T = metric."""
    tolerance = 1e-4 * np.abs(metric).max()
    vectors = np.array([v for v in product((-1, 0, 1), repeat=3) if any(v)])
    products = vectors @ metric @ vectors.T
    rows = [np.flatnonzero(np.abs(np.diag(products) - metric[i, i]) < tolerance) for i in range(3)]
    return [
        vectors[[a, b, c]]
        for a in rows[0]
        for b in rows[1]
        if abs(products[a, b] - metric[0, 1]) < tolerance
        for c in rows[2]
        if abs(products[a, c] - metric[0, 2]) < tolerance
        and abs(products[b, c] - metric[1, 2]) < tolerance
    ]


def spread_directions(
    operations: npt.NDArray[np.float64], n: int, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Return about ``n`` directions, evenly spread over those that the Laue group tells apart.

    Each is drawn from its images: a Laue group joins directions, opposite ones for example, whose
    patterns differ in hand, or, where the crystal has no inversion centre, in intensities.

    Parameters
    ----------
    operations : ndarray, shape (m, 3, 3)
        From `laue_operations`.
    n : int
    rng : numpy.random.Generator

    Returns
    -------
    ndarray, shape (about n, 3)
        Unit vectors, at least one.
    """
    count = n * len(operations)
    step = np.arange(count)
    z = 1.0 - (2.0 * step + 1.0) / count  # a Fibonacci sphere
    angle = np.pi * (3.0 - np.sqrt(5.0)) * step
    ring = np.sqrt(1.0 - z * z)
    points = np.stack([ring * np.cos(angle), ring * np.sin(angle), z], axis=1)
    points = points @ random_orientation(rng)
    generic = random_orientation(rng)[0]  # on no mirror
    nearness = points @ generic
    nearest = np.max([points @ operation @ generic for operation in operations], axis=0)
    inside = nearness >= nearest - 1e-12
    inside[np.argmax(nearness)] = True
    sector = points[inside]
    drawn = operations[rng.integers(len(operations), size=len(sector))]
    return np.einsum("ni,nij->nj", sector, drawn)
