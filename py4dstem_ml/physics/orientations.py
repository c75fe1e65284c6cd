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
