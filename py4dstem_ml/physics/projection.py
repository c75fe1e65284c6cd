"""The potential of a crystal projected along its c axis, from a symmetric origin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .crystal import Crystal

Floats = npt.NDArray[np.float64]

#: Symmetric points of a projection lie at whole multiples of this share of the cell.
_STEPS = 16
#: Two potentials that agree this well, as a share of their variance, are the same.
_ALIKE = 1e-3
#: The rotations and mirrors of a square, as they act on (h, k); the identity is left out.
_SQUARE = np.array(
    [
        [[-1, 0], [0, -1]], [[0, 1], [-1, 0]], [[0, -1], [1, 0]], [[1, 0], [0, -1]],
        [[-1, 0], [0, 1]], [[0, 1], [1, 0]], [[0, -1], [-1, 0]],
    ]
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Projection:
    """The potential of a unit cell, projected along c.

    Attributes
    ----------
    potential : ndarray of float64, shape (pixels, pixels)
        V·Å, its mean left out; pixel (i, j) is the point x = i / pixels, y = j / pixels of the
        cell: a runs down the rows.
    origin : ndarray, shape (2,)
        Where pixel (0, 0) lies, in fractions of the crystal's own cell.
    """

    potential: Floats
    origin: Floats


def projected_potential(crystal: Crystal, pixels: int = 64) -> Projection:
    """Project a crystal's potential along [001].

    The Fourier series ends at a circle, h^2 + k^2 <= (pixels / 2 - 1)^2, so that the picture has
    no direction of its own. The origin is the point with the most of a square's symmetry in
    projection, of those at sixteenths of the cell, where settings of space groups have them; where
    there are several, the one where the potential is highest.

    Parameters
    ----------
    crystal : Crystal
        Its c axis normal to a and b.
    pixels : int
        Rows and columns, 8 at least.

    Returns
    -------
    Projection

    Raises
    ------
    ValueError
        If c is not normal to a and b, or there are too few pixels.

    Examples
    --------
    >>> gold = Crystal.cubic(4.08, [79] * 4, [[0, 0, 0], [0, .5, .5], [.5, 0, .5], [.5, .5, 0]])
    >>> projected_potential(gold).potential.argmax()
    0
    """
    if pixels < 8:
        raise ValueError(f"a projected potential has 8 pixels a side at least, not {pixels}")
    lattice = crystal.lattice.detach().numpy()
    if np.abs(lattice[:2] @ lattice[2]).max() > 1e-6 * np.abs(lattice).max() ** 2:
        raise ValueError("the potential is projected along c, which must be normal to a and b")
    hkl = zone_reflections(pixels)
    hk = hkl[:, :2]
    v = crystal.potential_coefficients(hkl).detach().numpy() * np.linalg.norm(lattice[2])
    origin = _symmetric_origin(hk, v)
    v = v * np.exp(2j * np.pi * (hk @ origin))
    spectrum = np.zeros((pixels, pixels), dtype=complex)
    spectrum[hk[:, 0], hk[:, 1]] = v
    return Projection(np.fft.ifft2(spectrum, norm="forward").real, origin)


def zone_reflections(pixels: int) -> npt.NDArray[np.int64]:
    """Return hk0 (n, 3) of the Fourier series of a picture, 000 left out."""
    highest = pixels // 2 - 1
    hk = np.indices((2 * highest + 1,) * 2).reshape(2, -1).T - highest
    hk = hk[(np.square(hk).sum(1) <= highest**2) & hk.any(1)]
    return np.column_stack([hk, np.zeros(len(hk), dtype=np.int64)])


def _symmetric_origin(hk: npt.NDArray[np.int64], v: npt.NDArray[np.complex128]) -> Floats:
    """The point (2,), as fractions of the cell, with the most symmetry and potential."""
    span = 2 * np.abs(hk).max() + 1
    place = {int(code): number for number, code in enumerate(hk @ [span, 1])}
    power = np.square(np.abs(v)).sum() + 1e-300
    kept = np.zeros((_STEPS, _STEPS), dtype=np.int64)
    for operation in _SQUARE:
        turned = hk @ operation
        partner = v[[place[int(code)] for code in turned @ [span, 1]]]
        # As a sum over points x of phases exp(2 pi i (h - Rh) x): a Fourier transform.
        moved = np.zeros((_STEPS, _STEPS), dtype=complex)
        np.add.at(moved, tuple(((hk - turned) % _STEPS).T), v * partner.conj())
        agreement = np.fft.ifft2(moved, norm="forward").real / power
        kept += agreement > 1.0 - _ALIKE
    there = np.zeros((_STEPS, _STEPS), dtype=complex)
    np.add.at(there, tuple((hk % _STEPS).T), v)
    potential = np.fft.ifft2(there, norm="forward").real
    # Symmetric copies of a point differ by rounding: the first of them is taken.
    best = (kept == kept.max()) & (potential > potential[kept == kept.max()].max() - 1e-6)
    return np.argwhere(best)[0] / _STEPS
