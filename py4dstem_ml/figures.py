"""What all plots share: draw into given axes, or into a new figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure


def figure_and_axes(ax: Axes | None = None) -> tuple[Figure | SubFigure, Axes]:
    """Return the given axes with their figure, or new ones.

    Examples
    --------
    >>> fig, ax = figure_and_axes()
    """
    if ax is None:
        from matplotlib import pyplot

        return pyplot.subplots(layout="constrained")
    return ax.figure, ax
