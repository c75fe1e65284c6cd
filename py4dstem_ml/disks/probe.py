"""The vacuum probe: checked, freed of background, centred, measured; or estimated from a scan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import fft, ndimage, stats

__all__ = ["VacuumProbe", "estimate_probe", "fourier_shift", "prepare_probe", "sample_patterns"]

# A correlation kernel sums to zero: more negative than this share of the positive signal is one,
# less is noise about a background that has been subtracted.
_NEGATIVE_SHARE = 0.5
# What stands beside the disk higher than this share of its plateau is no halo, and where it covers
# more than this share of the disk's area, the image is not that of one beam.
_STRAY_HEIGHT, _STRAY_AREA = 0.1, 0.5
_HOW_TO_GIVE = (
    "give the probe yourself: probe= a 2-D image of the beam in vacuum, of the same size as the "
    "patterns (with py4DSTEM: datacube.get_vacuum_probe(ROI=...) over positions beside the sample)"
)


@dataclass(frozen=True, eq=False)
class VacuumProbe:
    """A probe ready for the networks.

    Attributes
    ----------
    image : numpy.ndarray, (H, W), float32
        The disk, without background, largest value 1, centred at pixel ``(H // 2, W // 2)``.
    radius : float
        Radius of the disk in pixels.
    """

    image: np.ndarray
    radius: float


def prepare_probe(probe: ArrayLike) -> VacuumProbe:
    """Check a vacuum probe, remove its background and centre it.

    Parameters
    ----------
    probe : array_like, (H, W) or (N, H, W)
        An image of the beam in vacuum, or a stack of them, anywhere in the frame. The images of a
        stack are centred one by one and averaged.

    Returns
    -------
    VacuumProbe

    Raises
    ------
    ValueError
        If it is not 2-D or 3-D, not finite, as negative as positive (a correlation kernel), holds
        no disk, a disk that the edge of the image cuts, or more than one (a diffraction pattern).

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_ml.disks import prepare_probe
    >>> row, col = np.ogrid[:64, :64]
    >>> probe = prepare_probe(np.hypot(row - 30, col - 35) < 6)
    >>> probe.image.shape, round(probe.radius)
    ((64, 64), 6)
    """
    images = np.asarray(probe)
    if images.ndim not in (2, 3) or images.dtype.kind not in "buif" or 0 in images.shape:
        raise ValueError(
            f"the probe must be a 2-D image or a 3-D stack of numbers, not an array of shape "
            f"{images.shape} and type {images.dtype}; for a py4DSTEM Probe give its .probe"
        )
    images = images.astype(float).reshape(-1, *images.shape[-2:])
    if not np.isfinite(images).all():
        raise ValueError("the probe has pixels that are NaN or infinite; replace them first")
    if -images.clip(max=0).sum() > _NEGATIVE_SHARE * images.clip(min=0).sum():
        raise ValueError(
            "the probe is about as negative as it is positive; give the image of the beam in "
            "vacuum (a py4DSTEM Probe's .probe), not the kernel made from it for cross-correlation"
        )
    images = images.clip(min=0)
    mean = np.mean([_centred(image) for image in images], axis=0)
    height, width = mean.shape
    centre, radius, _ = _measure_disk(mean)
    image = fourier_shift(mean, (height // 2 - centre[0], width // 2 - centre[1]))
    image = image.clip(min=0) / image.max()
    # A Fourier shift of a sharp edge rings along rows and columns.
    distance = np.hypot(*np.ogrid[-(height // 2) : -(-height // 2), -(width // 2) : -(-width // 2)])
    image[(distance > 2 * radius + 4) | (image < 1e-3)] = 0.0
    return VacuumProbe(image.astype(np.float32), radius)


def _centred(image: np.ndarray) -> np.ndarray:
    """The disk alone, at the centre of the image, its plateau at 1."""
    (row, col), radius, plateau = _measure_disk(image)
    height, width = image.shape
    if min(row, col, height - 1 - row, width - 1 - col) < 0.9 * radius:
        raise ValueError(
            f"the probe's disk (radius {radius:.1f} px, centre at row {row:.1f}, column "
            f"{col:.1f}) is cut by the edge of its image; {_HOW_TO_GIVE}"
        )
    distance = np.hypot(*np.ogrid[-row : height - row - 0.5, -col : width - col - 0.5])
    _refuse_many(image, distance, radius, plateau)
    outside = image[distance > 2 * radius + 3]
    floor, noise = 0.0, 0.0
    if outside.size:
        floor = np.median(outside)
        noise = 1.5 * np.median(np.abs(outside - floor))
    # The tails of a soft edge belong to the probe; what lies beyond them is the detector's.
    disk = np.where(distance <= 2 * radius + 4, image - floor, 0.0)
    disk[(distance > 1.3 * radius + 1) & (disk < 3 * noise)] = 0.0
    disk = fourier_shift(disk.clip(min=0), (height // 2 - row, width // 2 - col))
    return disk / (plateau - floor)


def _refuse_many(image: np.ndarray, distance: np.ndarray, radius: float, plateau: float) -> None:
    """Refuse what shows more than one beam: it would be fitted to every disk all the same."""
    beside = ndimage.median_filter(image, 3, mode="nearest")[distance > 1.6 * radius + 2]
    if beside.size == 0:
        return
    floor = np.median(beside)
    stray = np.count_nonzero(beside - floor > _STRAY_HEIGHT * (plateau - floor))
    if stray > _STRAY_AREA * np.pi * radius**2:
        raise ValueError(
            f"the probe's image shows more than one disk (the brightest has radius {radius:.1f} "
            f"px); a diffraction pattern, or a mean of them, is no probe; {_HOW_TO_GIVE}"
        )


def _measure_disk(image: np.ndarray) -> tuple[tuple[float, float], float, float]:
    """Centre (row, col), radius in pixels and plateau of the brightest disk of an image.

    As in py4DSTEM the radius is that of a circle with the area of the region above a threshold;
    here the threshold is half the region's own median, which one hot pixel cannot move.
    """
    base = min(np.median(image), image.min() + 0.5 * np.ptp(image))
    image = _without_hot_pixels(image, base)
    smooth = ndimage.median_filter(image, 3, mode="nearest")
    # A spot of one pixel does not survive the median: then the image itself must serve.
    level = smooth if smooth.max() - base > 0.5 * (image.max() - base) else image
    if not level.max() > base:
        raise ValueError(f"the probe's image is constant and shows no disk; {_HOW_TO_GIVE}")
    plateau = level.max() - base
    for _ in range(3):
        labels, _ = ndimage.label(level - base > plateau / 2)
        region = labels == labels[np.unravel_index(level.argmax(), level.shape)]
        plateau = np.median((image - base)[region])
    near = ndimage.binary_dilation(region, iterations=2)
    # Clipped at the plateau, inner structure counts neither for the area nor for the centre.
    weight = np.where(near, ((image - base) / plateau).clip(0, 1), 0.0)
    radius = float(np.sqrt(weight[weight > 0.1].sum() / np.pi))
    # Taken off rather than cut off, a faint rim cannot pull the centre pixel by pixel.
    centre = ndimage.center_of_mass((weight - 0.1).clip(min=0))
    return centre, radius, float(plateau + base)


def _without_hot_pixels(image: np.ndarray, base: float) -> np.ndarray:
    """Single pixels that stand four times higher than all their neighbours, levelled."""
    around = np.ones((3, 3), bool)
    around[1, 1] = False
    highest = ndimage.maximum_filter(image, footprint=around, mode="nearest")
    hot = image - base > 4 * (highest - base).clip(min=0)
    return np.where(hot & (image > highest), highest, image)


def fourier_shift(image: np.ndarray, shift: tuple[float, float]) -> np.ndarray:
    """Move an image by (rows, columns), whole pixels by rolling, the rest by a Fourier phase.

    What leaves on one side enters on the other. Below a hundredth of a pixel nothing is resampled.
    """
    whole = np.rint(shift).astype(int)
    rest = np.asarray(shift) - whole
    moved = np.roll(image, whole, axis=(0, 1))
    if np.abs(rest).max() < 0.01:
        return moved
    height, width = image.shape
    phase = rest[0] * fft.fftfreq(height)[:, None] + rest[1] * fft.rfftfreq(width)
    return fft.irfft2(fft.rfft2(moved) * np.exp(-2j * np.pi * phase), image.shape)


def sample_patterns(data: ArrayLike, count: int = 24) -> np.ndarray:
    """Evenly spaced patterns of a scan, read one by one.

    Parameters
    ----------
    data : array, (..., H, W)
        Anything that is indexed by integers: ndarray, memmap, h5py.Dataset, dask.Array.
    count : int
        How many patterns at most.

    Returns
    -------
    numpy.ndarray, (n, H, W)
    """
    scan = data.shape[:-2]
    total = int(np.prod(scan))
    chosen = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int))
    return np.stack([np.asarray(data[np.unravel_index(i, scan)]) for i in chosen])


def estimate_probe(patterns: ArrayLike) -> np.ndarray:
    """Estimate the vacuum probe from diffraction patterns in which the disks do not overlap.

    The disks are found as blobs, whose common scale is their radius. The bright, isolated and
    unsaturated ones are aligned, and a common radial profile, made to fall monotonically,
    is the probe: round, free of dynamical contrast. An aperture that is not round
    must be given as a measured probe.

    Parameters
    ----------
    patterns : array_like, (N, H, W) or (H, W)
        Some two dozen patterns of a scan are enough. Integer patterns are checked for saturation.

    Returns
    -------
    numpy.ndarray, (H, W), float32
        The probe, centred at ``(H // 2, W // 2)``, largest value 1.

    Raises
    ------
    ValueError
        If there are no disks in sight, all are saturated or cut, or they overlap. The message
        says how to give a probe.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_ml.disks import estimate_probe, prepare_probe
    >>> row, col = np.ogrid[:96, :96]
    >>> pattern = sum(np.hypot(row - r, col - c) < 5 for r, c in [(48, 48), (20, 60), (70, 30)])
    >>> round(prepare_probe(estimate_probe(pattern)).radius)
    5
    """
    patterns = np.asarray(patterns)
    if patterns.ndim == 2:
        patterns = patterns[None]
    if patterns.ndim != 3:
        raise ValueError(f"patterns must be (N, H, W) or (H, W), not {patterns.ndim}-D")
    shape = patterns.shape[1:]
    saturated = _saturated(patterns)
    patterns = np.nan_to_num(patterns.astype(float), nan=0.0, posinf=0.0, neginf=0.0)

    disks = [_find_blobs(pattern) for pattern in patterns]
    found = np.concatenate([np.column_stack([np.full(len(d), i), d]) for i, d in enumerate(disks)])
    if len(found) == 0:
        raise _refusal("no disks stand out from the background")
    # Disks all have one size: the size at which most of the signal stands out.
    significance = found[:, 3] * found[:, 4]
    clear = significance > 0.1 * significance.max()
    radius = _weighted_quantile(found[clear, 3], significance[clear], 0.5)
    found = found[np.abs(np.log(found[:, 3] / radius)) < np.log(1.6)]
    found = found[found[:, 4] > 0.03 * found[:, 4].max()]

    best = found[np.argsort(-found[:, 4])][:200]
    # The first pass measures the radius on the edge itself, the second cuts with it.
    for _ in range(2):
        profile = _common_profile(patterns, saturated, best, radius)
        at = _profile_distances(radius)
        radius = float(np.interp(-0.5, -profile, at))
    row, col = np.ogrid[: shape[0], : shape[1]]
    distance = np.hypot(row - shape[0] // 2, col - shape[1] // 2)
    return np.interp(distance, at, profile, right=0.0).astype(np.float32)


def _refusal(reason: str) -> ValueError:
    return ValueError(f"the probe cannot be estimated from the patterns: {reason}; {_HOW_TO_GIVE}")


def _saturated(patterns: np.ndarray) -> np.ndarray:
    """Pixels at the top of a detector's range: integers of 2^n - 1 that several pixels share."""
    none = np.zeros(patterns.shape, bool)
    if patterns.dtype.kind not in "ui":
        return none
    top = int(patterns.max())
    full_scale = top >= 255 and (top & (top + 1)) == 0
    at_top = patterns == top
    return at_top if full_scale and at_top.sum() > 3 else none


def _find_blobs(pattern: np.ndarray, count: int = 30) -> np.ndarray:
    """Blobs as rows of [row, col, radius, contrast]: maxima of the scale-space Laplacian.

    A disk of radius R answers most strongly at sigma = R / sqrt(2), with nearly its own height.
    """
    limit = min(pattern.shape) / 5
    radii = np.geomspace(1.0, limit, int(np.ceil(np.log(limit) / np.log(1.25))) + 1)
    frequency = np.hypot(fft.fftfreq(pattern.shape[0])[:, None], fft.rfftfreq(pattern.shape[1]))
    # The square root evens out what dynamical diffraction draws into a disk, and Poisson noise.
    spectrum = fft.rfft2(np.sqrt(pattern.clip(min=0)))
    responses = []
    for sigma in radii / np.sqrt(2):
        squared = (2 * np.pi * frequency * sigma) ** 2
        kernel = squared * np.exp(-squared / 2)
        responses.append(fft.irfft2(spectrum * kernel, pattern.shape))
    responses = np.array(responses)
    peaks = responses == ndimage.maximum_filter(responses, 3, mode="nearest")
    peaks[[0, -1]] = False  # at the ends of the range the scale is not a maximum
    # Noise from a fine scale, where disks are rims only; white noise falls as 1 / sigma.
    noise = np.percentile(np.abs(responses[1]), 70) * radii[1] / radii
    scale, row, col = np.nonzero(peaks & (responses > 5 * noise[:, None, None]))
    contrast = responses[scale, row, col]
    order = np.argsort(-contrast)
    blobs = np.column_stack([row, col, radii[scale], contrast])[order]
    return _outermost(blobs[: 10 * count])[:count]


def _outermost(blobs: np.ndarray) -> np.ndarray:
    """Blobs less those that are structure inside a larger one, or a haze around a brighter one."""
    row, col, radius, contrast = blobs.T
    apart = np.hypot(row[:, None] - row, col[:, None] - col)
    nested = (radius[:, None] < radius) & (apart < radius)
    inside = nested & (contrast > 0.4 * contrast[:, None])
    haze = nested.T & (contrast[:, None] <= 0.4 * contrast)
    return blobs[~(inside | haze).any(axis=1)]


def _weighted_quantile(values: np.ndarray, weights: np.ndarray, quantile: float) -> float:
    order = np.argsort(values)
    share = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(share, quantile * share[-1])])


def _profile_distances(radius: float) -> np.ndarray:
    return np.arange(0.0, 2.2 * radius + 2.5, 0.25)


def _profile(
    pattern: np.ndarray, saturated: np.ndarray, near: tuple[float, float], radius: float
) -> tuple[np.ndarray, float] | str:
    """Radial profile of one disk, plateau 1 and background 0, with its weight; or why not."""
    reach = int(np.ceil(2.2 * radius + 2))
    row, col = (int(round(x)) for x in near)
    if min(row, col, pattern.shape[0] - 1 - row, pattern.shape[1] - 1 - col) < reach:
        return "cut by the edge"
    window = (slice(row - reach, row + reach + 1), slice(col - reach, col + reach + 1))
    if saturated[window].any():
        return "saturated"
    cut = pattern[window]
    row_grid, col_grid = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    centre = np.zeros(2)
    for _ in range(4):
        distance = np.hypot(row_grid - centre[0], col_grid - centre[1])
        annulus = cut[(distance > 1.5 * radius + 0.5) & (distance < 2.2 * radius + 1.5)]
        floor = np.median(annulus)
        # The upper part: shadows that dynamical diffraction casts in a disk are not its plateau.
        plateau = np.percentile(cut[distance < max(0.8 * radius, 1.0)] - floor, 60)
        noise = 1.5 * np.median(np.abs(annulus - floor))
        if not plateau > 4 * noise or plateau <= 0:
            return "too faint"
        flat = np.where(distance < 1.4 * radius + 0.5, ((cut - floor) / plateau).clip(0, 0.4), 0)
        flat[flat < 0.15] = 0
        centre = np.array(
            [(flat * row_grid).sum() / flat.sum(), (flat * col_grid).sum() / flat.sum()]
        )
    if np.hypot(*centre) > 0.6 * radius + 1:
        return "overlapping"
    if (annulus - floor > 0.4 * plateau).mean() > 0.15:
        return "overlapping"
    distance = np.hypot(row_grid - centre[0], col_grid - centre[1])
    profile = _ring_means(distance, (cut - floor) / plateau, _profile_distances(radius))
    return profile, float(plateau)


def _ring_means(distance: np.ndarray, values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Mean of the middle values in rings of half a pixel either side of each distance.

    Robust against a neighbour's rim as a median is, but not quantised where counts are few.
    """
    return np.array(
        [stats.trim_mean(values[np.abs(distance - r) <= (0.5 if r > 1 else 1.0)], 0.1) for r in at]
    )


def _common_profile(
    patterns: np.ndarray, saturated: np.ndarray, found: np.ndarray, radius: float
) -> np.ndarray:
    """Common radial profile of the usable disks, 1 inside, falling to 0."""
    reasons = {"saturated": 0, "cut by the edge": 0, "overlapping": 0, "too faint": 0}
    profiles, weights = [], []
    for index, row, col, _, _ in found:
        which = int(index)
        verdict = _profile(patterns[which], saturated[which], (row, col), radius)
        if isinstance(verdict, str):
            reasons[verdict] += 1
        else:
            profiles.append(verdict[0])
            weights.append(verdict[1])
    if not profiles:
        worst = max(reasons, key=reasons.get)
        raise _refusal(f"the disks (radius about {radius:.1f} px) are {worst}")
    # Diffraction may darken a disk's rim but never widens it: hence more than the median.
    rings, weights = np.transpose(profiles), np.array(weights)
    profile = np.array([_weighted_quantile(ring, weights, 0.7) for ring in rings])
    # Falling only: what rises again belongs to a neighbour or to noise.
    profile = np.minimum.accumulate(profile)
    inner = np.median(profile[_profile_distances(radius) <= max(0.6 * radius, 0.5)])
    profile = np.minimum(profile, inner) / inner
    return np.where(profile < 0.02, 0.0, profile)
