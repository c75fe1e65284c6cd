"""Spots of a map to a list of peaks: local maxima, sub-pixel fit, suppression, for a whole batch.

Maps come from the disk networks: spots of Gaussian sigma 1 px whose *square* means intensity.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch.nn import functional

__all__ = ["find_peaks", "peak_spread"]

# Neighbours this far below a maximum are noise: their logarithm must not steer the fit.
_FIT_FLOOR = 0.02
# A fit that leaves the pixel by more than this has not found a spot; the pixel itself is kept.
_MAX_OFFSET = 0.75

Limits = tuple[tuple[float, float], tuple[float, float]]


def find_peaks(
    maps: torch.Tensor,
    *,
    min_relative_intensity: float = 0.0,
    min_spacing: float = 2.0,
    edge_boundary: float = 1.0,
    max_num_peaks: int | None = None,
    limits: Limits | None = None,
) -> list[np.ndarray]:
    """Peaks of every map of a batch, strongest first.

    A peak is a pixel not exceeded by its eight neighbours, refined by a quadratic fit to the
    logarithm of the 3 x 3 pixels around it (exact for a Gaussian spot). Of two peaks closer than
    `min_spacing` the stronger stays.

    Parameters
    ----------
    maps : torch.Tensor, (B, H, W)
        Square roots of intensity; anything negative or not finite counts as zero.
    min_relative_intensity : float
        Weakest intensity kept, relative to the strongest peak of the same map.
    min_spacing : float
        Smallest distance between two peaks, in pixels.
    edge_boundary : float
        Smallest distance of a peak from the outermost pixels' centres, in pixels.
    max_num_peaks : int, optional
        How many of the strongest peaks to keep in each map.
    limits : ((row_min, row_max), (col_min, col_max)), optional
        Where peaks may lie, in pixels; replaces `edge_boundary`.

    Returns
    -------
    list of numpy.ndarray, (n, 3), float64
        ``[row, col, intensity]`` in pixels; the strongest intensity is 1. A flat map gives (0, 3).

    Examples
    --------
    >>> import torch
    >>> from py4dstem_ml.disks import find_peaks
    >>> row, col = torch.meshgrid(torch.arange(32.), torch.arange(32.), indexing="ij")
    >>> spot = torch.exp(-((row - 10.3) ** 2 + (col - 20.4) ** 2) / 2)
    >>> find_peaks(spot[None])[0].round(3).tolist()
    [[10.3, 20.4, 1.0]]
    """
    if maps.ndim != 3:
        raise ValueError(f"maps must be (B, H, W), not {maps.ndim}-D")
    if len(maps) == 0:
        return []
    maps = _as_heights(maps)
    batch, rows, cols = _candidates(maps, min_relative_intensity)
    moves, heights = _fit(maps, batch, rows, cols)
    index = batch.cpu().numpy()
    points = (torch.stack([rows, cols], -1) + moves).cpu().numpy()
    intensities = heights.double().square().cpu().numpy()

    if limits is None:
        limits = tuple((edge_boundary, size - 1 - edge_boundary) for size in maps.shape[1:])
    low, high = np.transpose(limits)
    inside = ((points >= low) & (points <= high)).all(axis=1)
    index, points, intensities = index[inside], points[inside], intensities[inside]

    strongest = np.zeros(len(maps))
    np.maximum.at(strongest, index, intensities)
    intensities = intensities / strongest[index]
    keep = intensities >= min_relative_intensity
    index, points, intensities = index[keep], points[keep], intensities[keep]

    order = np.lexsort((-intensities, index))
    index, points, intensities = index[order], points[order], intensities[order]
    keep = _greedy(index, points, min_spacing)
    peaks = np.column_stack([points, intensities])[keep]
    splits = np.searchsorted(index[keep], np.arange(1, len(maps)))
    return [found[:max_num_peaks] for found in np.split(peaks, splits)]


def peak_spread(maps: torch.Tensor, points: np.ndarray, reach: int = 1) -> np.ndarray:
    """How much peaks move and change over repeated maps of one pattern.

    In each map the highest pixel within `reach` of a peak is refined as `find_peaks` does; the
    spread is the standard deviation over the maps.

    Parameters
    ----------
    maps : torch.Tensor, (S, H, W)
        S >= 2 maps of the same pattern, as from Monte Carlo dropout.
    points : numpy.ndarray, (n, 2)
        Peaks ``[row, col]`` of the mean map, in pixels.
    reach : int
        Half the side of the searched window, in pixels.

    Returns
    -------
    numpy.ndarray, (n, 3), float64
        ``[sigma_row, sigma_col, sigma_intensity]``; the intensity relative to the strongest of
        the listed peaks.
    """
    if len(points) == 0:
        return np.empty((0, 3))
    maps = _as_heights(maps)
    samples, height, width = maps.shape
    near = torch.as_tensor(np.rint(points), dtype=torch.long, device=maps.device)
    step = torch.arange(-reach, reach + 1, device=maps.device)
    rows = (near[:, 0, None] + step).clamp(0, height - 1)
    cols = (near[:, 1, None] + step).clamp(0, width - 1)
    window = maps[:, rows[:, :, None], cols[:, None, :]].flatten(2)
    best = window.argmax(-1)
    which = torch.arange(len(near), device=maps.device).expand(samples, -1)
    row, col = rows[which, best // len(step)], cols[which, best % len(step)]
    sample = torch.arange(samples, device=maps.device)[:, None].expand_as(row)
    moves, heights = _fit(maps, sample.flatten(), row.flatten(), col.flatten())
    positions = torch.stack([row, col], -1).double() + moves.view(samples, -1, 2)
    intensity = heights.double().square().view(samples, -1)
    intensity = intensity / intensity.mean(0).max().clamp_min(1e-30)
    spread = torch.cat([positions, intensity[..., None]], -1).std(0)
    return spread.cpu().numpy()


def _as_heights(maps: torch.Tensor) -> torch.Tensor:
    return torch.nan_to_num(maps.float(), nan=0.0, posinf=0.0, neginf=0.0).clamp_min(0)


def _candidates(maps: torch.Tensor, min_relative_intensity: float) -> tuple[torch.Tensor, ...]:
    """Indices (map, row, col) of the local maxima that could pass the threshold once refined."""
    highest = _neighbour_maximum(_neighbour_maximum(maps).mT).mT
    strongest = maps.amax((1, 2), keepdim=True)
    lifts = strongest > maps.amin((1, 2), keepdim=True)
    # A spot between four pixels shows 0.78 of its height: refinement may still lift it over.
    threshold = 0.7 * max(min_relative_intensity, 0.0) ** 0.5 * strongest
    return torch.nonzero((maps >= highest) & (maps > threshold) & lifts, as_tuple=True)


def _neighbour_maximum(maps: torch.Tensor) -> torch.Tensor:
    """Maximum over three rows; three times as fast on a CPU as a pooling layer."""
    highest = maps.clone()
    torch.maximum(highest[:, 1:], maps[:, :-1], out=highest[:, 1:])
    torch.maximum(highest[:, :-1], maps[:, 1:], out=highest[:, :-1])
    return highest


def _fit(
    maps: torch.Tensor, batch: torch.Tensor, rows: torch.Tensor, cols: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Offset (n, 2) and height (n,) of each peak: least squares of a quadratic in the logarithm."""
    padded = functional.pad(maps[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    step = torch.arange(3, device=maps.device)
    patch = padded[
        batch[:, None, None], (rows[:, None] + step)[:, :, None], (cols[:, None] + step)[:, None, :]
    ].double()
    centre = patch[:, 1:2, 1:2].clamp_min(1e-30)
    logs = (patch / centre).clamp_min(_FIT_FLOOR).log()

    x = (step - 1).double()
    curved = x.square() - 2 / 3
    by_row, by_col = logs.sum(2), logs.sum(1)
    slope_r, slope_c = by_row @ x / 6, by_col @ x / 6
    bend_r, bend_c = by_row @ curved, by_col @ curved
    cross = (logs * x[:, None] * x).sum((1, 2)) / 4

    determinant = bend_r * bend_c - cross.square()
    shift_r = (cross * slope_c - bend_c * slope_r) / determinant
    shift_c = (cross * slope_r - bend_r * slope_c) / determinant
    offsets = torch.stack([shift_r, shift_c], -1)
    peaked = (bend_r < 0) & (determinant > 0) & (offsets.abs() <= _MAX_OFFSET).all(-1)
    offsets = torch.where(peaked[:, None], offsets, 0.0)

    base = logs.mean((1, 2)) - (bend_r + bend_c) / 3
    top = base + (slope_r * offsets[:, 0] + slope_c * offsets[:, 1]) / 2
    # No spot of sigma 1 px stands more than exp(1/4) above its highest pixel.
    gain = torch.where(peaked, top.exp().clamp(1.0, 1.3), 1.0)
    return offsets, centre[:, 0, 0] * gain


def _greedy(index: np.ndarray, points: np.ndarray, min_spacing: float) -> np.ndarray:
    """Which peaks stay, where `points` are sorted strongest first within each map.

    A peak stays if all stronger ones within `min_spacing` have gone. Decided in rounds over the
    pairs that conflict, which are few, rather than peak by peak.
    """
    keep = np.ones(len(points), bool)
    if min_spacing <= 0 or len(points) < 2:
        return keep
    # One tree for the batch: the maps lie apart along a third direction.
    apart = np.column_stack([points, index * (2.0 * min_spacing)])
    pairs = cKDTree(apart).query_pairs(min_spacing * (1 - 1e-9), output_type="ndarray")
    strong, weak = pairs.min(axis=1), pairs.max(axis=1)
    decided = np.ones(len(points), bool)
    decided[weak] = False
    while not decided.all():
        beaten = ~decided[weak] & decided[strong] & keep[strong]
        keep[weak[beaten]] = False
        decided[weak[beaten]] = True
        waiting = np.zeros(len(points), bool)
        waiting[weak[~decided[strong]]] = True
        decided |= ~waiting
    return keep
