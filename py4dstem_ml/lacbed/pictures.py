"""Pictures that users give: checked, and brought onto the directions that are looked at."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.ndimage import map_coordinates, uniform_filter

from ..compute import refuse_masked

#: Pixels of a pattern as a share of those that are looked at, below which there is nothing to see.
_FEWEST = 0.25
#: Pixels by which pictures are continued for splines.
_BEYOND = 8


def sound_pictures(pictures: npt.ArrayLike, what: str) -> npt.NDArray[np.float32]:
    """Return pictures (..., n, n) that hold something, as float32.

    Raises
    ------
    ValueError
        If they are not square, not real, not finite, or constant.
    """
    refuse_masked(pictures, what)
    found = np.asarray(pictures)
    if found.dtype == object and hasattr(pictures, "data"):
        raise ValueError(
            f"the {what} is a {type(pictures).__name__}: give its .data, and its pixel_size"
        )
    if found.ndim < 2 or found.shape[-1] != found.shape[-2] or found.shape[-1] < 8:
        raise ValueError(
            f"a {what} is a square picture of 8 pixels a side at least, or a stack of them "
            f"(..., n, n); this has the shape {found.shape}"
        )
    if found.dtype.kind not in "buif":
        raise ValueError(f"a {what} is of real numbers, not {found.dtype}")
    found = found.astype(np.float32)
    if not np.isfinite(found).all():
        raise ValueError(f"the {what} holds NaN or infinite values; replace them first")
    if (np.ptp(found, axis=(-2, -1)) <= 1e-6 * np.abs(found).max((-2, -1))).any():
        raise ValueError(f"the {what} is constant: there is nothing to read")
    return found


def on_directions(
    patterns: npt.NDArray[np.float32],
    *,
    a: float,
    pixels: int,
    half_width: float,
    pixel_size: float | None = None,
) -> npt.NDArray[np.float32]:
    """Return patterns (n, m, m) of deviation 1 on the directions that networks look at.

    Parameters
    ----------
    patterns : ndarray, shape (n, m, m)
        Centred on [001], of any scale.
    a : float
        Å.
    pixels : int
        Rows and columns of what is returned.
    half_width : float
        How far that reaches, in reciprocal lattice vectors.
    pixel_size : float, optional
        Of the patterns in 1/Å. None: they reach just as far.

    Raises
    ------
    ValueError
        If the pixel size cannot be, or the patterns do not reach as far.
    """
    side = patterns.shape[-1]
    size = 2.0 * half_width / (side * a) if pixel_size is None else float(pixel_size)
    if not 0.0 < size < np.inf:
        raise ValueError(f"pixel_size is in 1/Å and above 0, not {pixel_size}")
    wanted = 2.0 * half_width / (pixels * a)
    if wanted / size < _FEWEST:
        raise ValueError(
            f"only {2.0 * half_width / (size * a):.2g} pixels of the pattern lie within "
            f"{half_width:g} a*: is pixel_size, {size:g}, in 1/Å?"
        )
    reach = 0.5 * side * size
    if reach < half_width / a * (1.0 - 0.5 / pixels):
        raise ValueError(
            f"the pattern reaches {reach:.3g} 1/Å from the axis, but {half_width / a:.3g} 1/Å are "
            f"looked at, {half_width:g} reciprocal lattice vectors"
        )
    # Of any unit: squares of very small or large numbers leave what float32 can hold.
    scale = patterns.std((1, 2), dtype=np.float64, keepdims=True).astype(np.float32)
    return resampled(patterns / scale, size, pixels, wanted)


def resampled(
    pictures: npt.NDArray[np.float32], size: float, pixels: int, wanted: float
) -> npt.NDArray[np.float32]:
    """Return pictures (n, H, W) at other points about the same centre, by cubic splines.

    Library patterns are intensities at points, not means over pixels. Of much finer pixels means
    are taken over half the distance of the points: less noise, and nearly the same pattern.
    """
    side = pictures.shape[-1]
    if side == pixels and abs(size / wanted - 1.0) < 1e-6:
        return pictures
    averaged = 2 * int(wanted / size / 4.0) + 1
    points = (np.arange(pixels) - 0.5 * (pixels - 1)) * (wanted / size) + 0.5 * (side - 1)
    # Beyond the edges as straight on: splines would feel an end.
    beyond = min(_BEYOND + averaged, side - 1)
    grid = np.stack(np.meshgrid(points, points, indexing="ij")) + beyond
    found = np.empty((len(pictures), pixels, pixels), np.float32)
    for number, one in enumerate(pictures):
        wide = np.pad(one.astype(np.float64), beyond, mode="reflect", reflect_type="odd")
        found[number] = map_coordinates(uniform_filter(wide, averaged), grid, order=3)
    return found
