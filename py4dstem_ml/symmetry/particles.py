"""Particles in a dark-field image: where they are, and which positions belong to each."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from .lists import BraggLists


def dark_field(
    lists: BraggLists, scan: tuple[int, int], annulus: tuple[float, float] = (0.1, 2.0)
) -> npt.NDArray[np.float64]:
    """Return the sum of Bragg intensities within an annulus, shape `scan`.

    Parameters
    ----------
    lists : BraggLists
        A list a position, row by row.
    scan : (int, int)
    annulus : (float, float)
        1/Å.

    Raises
    ------
    ValueError
        If the lists are not as many as the positions.
    """
    if len(lists) != scan[0] * scan[1]:
        raise ValueError(f"{len(lists)} lists do not fill a scan of {scan}")
    q = np.hypot(lists.peaks[:, 0], lists.peaks[:, 1])
    inside = (q >= annulus[0]) & (q <= annulus[1])
    weight = np.where(inside, np.nan_to_num(lists.peaks[:, 2]), 0.0)
    return np.bincount(lists.owner, weight, minlength=len(lists)).reshape(scan)


def find_particles(
    image: npt.ArrayLike,
    *,
    sigma: float = 1.0,
    min_intensity: float | None = None,
    relative_height: float = 0.5,
) -> npt.NDArray[np.int64]:
    """Number the particles of a dark-field image from 1; 0 where there is none.

    A particle stands around a strict local maximum of the smoothed image, above a threshold and
    not on the border; to it belong the connected positions that are nearest to it and at least so
    bright, relative to it.

    Parameters
    ----------
    image : array_like, (R_Nx, R_Ny)
        See `dark_field`.
    sigma : float
        Standard deviation of the smoothing, positions.
    min_intensity : float, optional
        Of a maximum of the smoothed image. None: that image's mean plus its standard deviation.
    relative_height : float
        1: the maxima alone, as in the paper.

    Returns
    -------
    ndarray of int, (R_Nx, R_Ny)

    Raises
    ------
    ValueError
        If the image is not two-dimensional or has values that are no finite numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_ml.symmetry import find_particles
    >>> row, col = np.ogrid[:20, :20]
    >>> two = np.exp(-((row - 6) ** 2 + (col - 6) ** 2) / 8)
    >>> two = two + np.exp(-((row - 14) ** 2 + (col - 13) ** 2) / 8)
    >>> int(find_particles(two).max())
    2

    Notes
    -----
    Maxima after Gleason et al., PR Materials 8 (2024) 093802, who take one position a particle.
    """
    image = np.asarray(image, dtype=float)
    if image.ndim != 2 or not np.isfinite(image).all():
        raise ValueError("the image must be two-dimensional and have finite values only")
    smooth = ndimage.gaussian_filter(image, sigma)
    threshold = smooth.mean() + smooth.std() if min_intensity is None else min_intensity
    around = np.ones((3, 3), bool)
    around[1, 1] = False
    peak = smooth > ndimage.maximum_filter(smooth, footprint=around, mode="constant", cval=np.inf)
    peak &= smooth > threshold
    seeds, count = ndimage.label(peak)
    if count == 0:
        return np.zeros(image.shape, dtype=np.int64)
    nearest = ndimage.distance_transform_edt(
        seeds == 0, return_distances=False, return_indices=True
    )
    owner = seeds[tuple(nearest)]
    top = np.concatenate([[0.0], ndimage.maximum(smooth, seeds, np.arange(1, count + 1))])
    bright = smooth >= relative_height * top[owner]
    # Neighbours of two owners are kept apart: each part is connected within its owner.
    labels = np.zeros(image.shape, dtype=np.int64)
    for number, box in enumerate(ndimage.find_objects(owner), start=1):
        inside = (owner[box] == number) & bright[box]
        parts, _ = ndimage.label(inside)
        own = parts[seeds[box] == number][0]
        labels[box][(parts == own) & (own > 0)] = number
    return labels
