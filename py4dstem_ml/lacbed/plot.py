"""Figures of LACBED: potential, generated, exact, what differs; R by space group; training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..figures import figure_and_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure


def plot_comparison(
    potential: npt.ArrayLike,
    generated: npt.ArrayLike,
    exact: npt.ArrayLike,
    *,
    half_width: float = 8.0,
    ax: Sequence[Axes] | None = None,
) -> tuple[Figure | SubFigure, Sequence[Axes]]:
    """Show potential, generated and exact pattern, and their squared difference in a row.

    Patterns are stretched from 0 to 1, each by itself, as the papers do.

    Parameters
    ----------
    potential : array_like, shape (n, n)
        V·Å of one cell.
    generated, exact : array_like, shape (m, m)
        Bright fields.
    half_width : float
        Of the patterns, in reciprocal lattice vectors.
    ax : sequence of four Axes, optional
        None: a new figure.

    Examples
    --------
    >>> import numpy as np
    >>> picture = np.random.default_rng(0).random((16, 16))
    >>> fig, axes = plot_comparison(picture, picture, picture)
    """
    import torch
    from matplotlib import pyplot

    from .scores import likeness, stretched

    if ax is None:
        fig, ax = pyplot.subplots(1, 4, figsize=(12, 3.2), layout="constrained")
    else:
        fig = ax[0].figure
    one, two = (stretched(torch.as_tensor(np.array(x, dtype=float))) for x in (generated, exact))
    span = (-half_width, half_width, half_width, -half_width)
    shown = [
        (np.asarray(potential), "potential", (0, 1, 1, 0), "viridis"),
        (one, f"generated, R = {float(likeness(one, two)):.3f}", span, "gray"),
        (two, "exact", span, "gray"),
        ((one - two).square(), f"squared difference, mean {float((one - two).square().mean()):.1e}",
         span, "magma"),
    ]  # fmt: skip
    for axes, (image, title, extent, colours) in zip(ax, shown, strict=True):
        axes.imshow(image, extent=extent, cmap=colours)
        axes.set_title(title, fontsize="medium")
    ax[0].set(xlabel="y / b", ylabel="x / a")
    for axes in ax[1:]:
        axes.set(xlabel="k / b*", ylabel="h / a*")
    return fig, ax


def plot_by_group(
    likeness: npt.ArrayLike, spacegroup: npt.ArrayLike, *, ax: Axes | None = None
) -> tuple[Figure | SubFigure, Axes]:
    """Show R of crystals by space group: each a dot, the mean a line.

    Parameters
    ----------
    likeness : array_like, shape (n,)
        R.
    spacegroup : array_like of int, shape (n,)
    ax : Axes, optional
        None: a new figure.

    Notes
    -----
    Webb, Beanland and Römer, arXiv 2503.02852, figure 4.

    Examples
    --------
    >>> fig, ax = plot_by_group([0.9, 0.95, 0.99], [225, 225, 227])
    """
    fig, ax = figure_and_axes(ax)
    values, groups = np.asarray(likeness, dtype=float), np.asarray(spacegroup)
    names, place = np.unique(groups, return_inverse=True)
    scatter = np.random.default_rng(0).uniform(-0.3, 0.3, len(values))
    ax.plot(place + scatter, values, ".", markersize=3, alpha=0.5)
    means = [values[place == number].mean() for number in range(len(names))]
    ax.hlines(means, np.arange(len(names)) - 0.4, np.arange(len(names)) + 0.4, color="black")
    counts = np.bincount(place)
    ax.set_xticks(
        np.arange(len(names)), [f"{g}\n{n}" for g, n in zip(names, counts, strict=True)],
        fontsize="x-small",
    )  # fmt: skip
    ax.set(xlabel="space group, crystals", ylabel="R", ylim=(min(0.5, values.min()), 1.0))
    return fig, ax
