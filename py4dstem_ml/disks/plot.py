"""Figures of detected Bragg disks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from ..figures import figure_and_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = ["plot_counts", "plot_peaks"]


def plot_peaks(
    pattern: ArrayLike,
    peaks: ArrayLike,
    ax: Axes | None = None,
    *,
    power: float = 0.25,
    marker_area: float = 300.0,
) -> tuple[Figure | SubFigure, Axes]:
    """Show a diffraction pattern with its peaks as circles whose area is their intensity.

    Parameters
    ----------
    pattern : array_like, (H, W)
        Shown as its `power`, so that weak disks are seen beside the direct beam.
    peaks : array_like, (n, 3) or wider
        ``[row, col, intensity]`` in pixels.
    ax : matplotlib.axes.Axes, optional
        Where to draw; None: a new figure.
    power : float
    marker_area : float
        Of the strongest peak, in square points. The weakest still show as a dot.

    Returns
    -------
    fig, ax

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_ml.disks import plot_peaks
    >>> fig, ax = plot_peaks(np.eye(16), [[8, 8, 1.0], [4, 4, 0.1]])
    """
    fig, ax = figure_and_axes(ax)
    image = np.nan_to_num(np.asarray(pattern, dtype=float)).clip(min=0) ** power
    ax.imshow(image, cmap="gray", vmin=np.percentile(image, 20), vmax=np.percentile(image, 99.9))
    peaks = np.asarray(peaks, dtype=float)
    if len(peaks):
        area = marker_area * peaks[:, 2] / peaks[:, 2].max()
        ax.scatter(
            peaks[:, 1], peaks[:, 0], s=area.clip(min=4), facecolors="none", edgecolors="orangered"
        )
    ax.set(xlabel="column (px)", ylabel="row (px)", title=f"{len(peaks)} peaks")
    return fig, ax


def plot_counts(counts: ArrayLike, ax: Axes | None = None) -> tuple[Figure | SubFigure, Axes]:
    """Show how many peaks were found at each scan position.

    Parameters
    ----------
    counts : array_like, (Rx, Ry)
    ax : matplotlib.axes.Axes, optional
        Where to draw; None: a new figure.

    Returns
    -------
    fig, ax

    Examples
    --------
    >>> from py4dstem_ml.disks import plot_counts
    >>> fig, ax = plot_counts([[12, 13], [9, 11]])
    """
    from matplotlib.ticker import MaxNLocator

    fig, ax = figure_and_axes(ax)
    counts = np.asarray(counts)
    lowest = 0 if np.ptp(counts) == 0 else counts.min()
    image = ax.imshow(counts, cmap="viridis", vmin=lowest, vmax=max(counts.max(), lowest + 1))
    fig.colorbar(image, ax=ax, label="peaks", ticks=MaxNLocator(integer=True))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="scan column", ylabel="scan row")
    return fig, ax
