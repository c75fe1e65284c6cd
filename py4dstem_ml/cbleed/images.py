"""What the networks see: patterns on one screen, as amplitudes between 0 and 1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

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

    Examples
    --------
    >>> resampled(np.ones((100, 120)), Screen(), 0.05).shape
    (64, 64)
    """
    given = torch.as_tensor(np.asarray(images, dtype=np.float32))
    shape = given.shape[-2:]
    middle = centre or tuple(0.5 * (n - 1) for n in shape)
    half = 0.5 * (screen.pixels - 1)
    # Each pixel as the mean over a fine grid of places, as a larger pixel of the camera is.
    fine = max(1, round(2 * screen.pixel_size / pixel_size))
    steps = (np.arange(fine * screen.pixels) + 0.5) / fine - 0.5 - half
    x, y = np.meshgrid(*[steps * (screen.pixel_size / pixel_size)] * 2, indexing="ij")
    cos, sin = np.cos(np.radians(rotation_deg)), np.sin(np.radians(rotation_deg))
    places = (cos * x - sin * y + middle[0], sin * x + cos * y + middle[1])
    grid = [
        torch.from_numpy(2 * (place + 0.5) / n - 1) for place, n in zip(places, shape, strict=True)
    ]
    flat = given.reshape(-1, 1, *shape)
    where = torch.stack(grid[::-1], dim=-1).float().expand(len(flat), -1, -1, -1)
    found = torch.nn.functional.grid_sample(flat, where, align_corners=False)
    found = torch.nn.functional.avg_pool2d(found, fine)
    return found.reshape(*given.shape[:-2], screen.pixels, screen.pixels).numpy()
