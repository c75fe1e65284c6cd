"""What the networks see: patterns on one screen, as amplitudes between 0 and 1."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array

from ..physics.leed.cbleed import Disks, Images

#: Root mean square of a pattern of disks that are all alike is 0.2 within them.
_BRIGHTNESS = 8.0


@dataclass(frozen=True)
class Screen:
    """A square of pixels about the surface normal; rows follow x, columns y, the dimers' axis.

    Attributes
    ----------
    pixels : int
        Rows and columns.
    pixel_size : float
        rad/Å. The default shows the disks |h| <= 1, |k| <= 2 of Si(001)-(2x1) and little more.

    Raises
    ------
    ValueError
        If ``pixels`` is no multiple of 8, 16 at least, or the pixel's size is not positive.
    """

    pixels: int = 64
    pixel_size: float = 0.0635

    def __post_init__(self) -> None:
        if self.pixels < 16 or self.pixels % 8:
            raise ValueError(f"a screen has 16, 24, 32, ... pixels a side; not {self.pixels!r}")
        if not self.pixel_size > 0:
            raise ValueError(f"a pixel's size is above 0 rad/Å; not {self.pixel_size!r}")

    def drawn(self, disks: Disks) -> Images:
        """Return the patterns (s, H, W) of disks, each of sum 1."""
        whole = disks.pattern((self.pixels, self.pixels), self.pixel_size)
        return whole / whole.sum((1, 2), keepdims=True)


def normalised(images: torch.Tensor) -> torch.Tensor:
    """Return amplitudes (..., H, W) in [0, 1] of intensities on any scale.

    The square root makes counting noise the same everywhere, and the sum takes out the current.
    What is negative, as a dark frame leaves it, counts as dark.
    """
    bright = images.float().clamp(min=0)
    total = bright.sum((-2, -1), keepdim=True).clamp(min=1e-30)
    return (_BRIGHTNESS * (bright / total).sqrt()).clamp(max=1.0)


def resampled(
    images: npt.ArrayLike,
    screen: Screen,
    pixel_size: float,
    centre: tuple[float, float] | None = None,
    rotation_deg: float = 0.0,
) -> npt.NDArray[np.float32]:
    """Return measured images (..., H, W) on a screen.

    Parameters
    ----------
    images : array_like
    screen : Screen
    pixel_size : float
        Of the images in rad/Å.
    centre : (float, float), optional
        Row and column of the surface normal in pixels; default the middle.
    rotation_deg : float
        By which the surface's x axis is turned from the image's rows towards its columns.

    Raises
    ------
    ValueError
        If the images do not reach over the middle half of the screen, or a number is not finite.

    Examples
    --------
    >>> resampled(np.ones((100, 120)), Screen(), 0.05).shape
    (64, 64)
    """
    given = np.asarray(images, dtype=np.float32)
    shape = given.shape[-2:]
    row, col = (0.5 * (n - 1) for n in shape) if centre is None else map(float, centre)
    if not (0 < pixel_size < np.inf and np.isfinite([row, col, rotation_deg]).all()):
        raise ValueError("pixel_size is above 0 rad/Å; it, centre and rotation_deg are finite")
    mean = _mean_over_pixels(shape, screen, float(pixel_size), row, col, float(rotation_deg))
    flat = given.reshape(-1, shape[0] * shape[1])
    found = (mean @ flat.T).T.astype(np.float32)
    return found.reshape(*given.shape[:-2], screen.pixels, screen.pixels)


@lru_cache(maxsize=4)
def _mean_over_pixels(
    shape: tuple[int, int], screen: Screen, pixel_size: float, row: float, col: float,
    rotation_deg: float,
) -> csr_array:  # fmt: skip
    """The matrix (screen's pixels, image's pixels) that averages an image over those of a screen.

    What is outside of the image counts as dark.
    """
    half = 0.5 * (screen.pixels - 1)
    # Each pixel of the screen as the mean over places as fine as the camera's pixels.
    fine = max(1, round(screen.pixel_size / pixel_size))
    steps = (np.arange(fine * screen.pixels) + 0.5) / fine - 0.5 - half
    x, y = np.meshgrid(*[steps * (screen.pixel_size / pixel_size)] * 2, indexing="ij")
    cos, sin = np.cos(np.radians(rotation_deg)), np.sin(np.radians(rotation_deg))
    rows, cols = cos * x - sin * y + row, sin * x + cos * y + col
    middle = slice(fine * screen.pixels // 4, -(fine * screen.pixels // 4))
    seen = (np.abs(rows - 0.5 * (shape[0] - 1)) <= 0.5 * shape[0]) & (
        np.abs(cols - 0.5 * (shape[1] - 1)) <= 0.5 * shape[1]
    )
    if not seen[middle, middle].all():
        raise ValueError(
            f"an image of {shape[0]} x {shape[1]} pixels of {pixel_size:g} rad/Å about row "
            f"{row:g}, column {col:g} does not reach over the middle of the screen: are pixel_size "
            "and centre right?"
        )
    number = np.arange(fine * screen.pixels) // fine
    pixel = number[:, None] * screen.pixels + number
    places, weights, targets = [], [], []
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):  # linear between four pixels
        r, c = np.floor(rows).astype(int) + down, np.floor(cols).astype(int) + right
        share = (1 - np.abs(rows - r)) * (1 - np.abs(cols - c)) / fine**2
        inside = (r >= 0) & (r < shape[0]) & (c >= 0) & (c < shape[1]) & (share > 0)
        places.append((r * shape[1] + c)[inside])
        weights.append(share[inside])
        targets.append(pixel[inside])
    entries = np.concatenate(weights), (np.concatenate(targets), np.concatenate(places))
    return csr_array(entries, shape=(screen.pixels**2, shape[0] * shape[1]), dtype=np.float32)
