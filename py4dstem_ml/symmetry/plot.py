"""Figures of predicted crystals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..figures import figure_and_axes
from .calibration import calibration_error, reliability
from .crystal_classes import SYSTEMS
from .lists import BraggLists, normalised
from .radial_basis import RadialBasis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = ["plot_basis", "plot_lattice", "plot_reliability", "plot_shares", "plot_systems"]

#: Of the systems, told apart with the common colour blindnesses (Okabe and Ito).
COLOURS = ("#d55e00", "#e69f00", "#f0e442", "#009e73", "#56b4e9", "#0072b2", "#cc79a7")


def plot_systems(
    system: ArrayLike,
    confidence: ArrayLike | None = None,
    ax: Axes | None = None,
    *,
    full_brightness: float | None = None,
) -> tuple[Figure | SubFigure, Axes]:
    """Show a map of crystal systems in colour, with the confidence as brightness.

    Parameters
    ----------
    system : array_like of int, (R_Nx, R_Ny)
        Index in `SYSTEMS`, -1 where there is none: black.
    confidence : array_like, (R_Nx, R_Ny), optional
        None: full brightness everywhere.
    ax : matplotlib.axes.Axes, optional
        Where to draw; None: a new figure.
    full_brightness : float, optional
        Confidence of full brightness; None: the 95th percentile of the map.

    Returns
    -------
    fig, ax

    Examples
    --------
    >>> from py4dstem_ml.symmetry import plot_systems
    >>> fig, ax = plot_systems([[0, 0], [1, -1]], [[0.9, 0.4], [0.7, 0.0]])
    """
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Patch

    fig, ax = figure_and_axes(ax)
    system, confidence = _array(system), None if confidence is None else _array(confidence)
    colours = np.array([to_rgb(colour) for colour in COLOURS] + [(0.0, 0.0, 0.0)])
    image = colours[system]
    if confidence is not None:
        brightness = np.nan_to_num(np.asarray(confidence, dtype=float))
        seen = brightness[system >= 0]
        top = full_brightness or (np.percentile(seen, 95) if len(seen) else 1.0)
        image = image * (brightness / max(float(top), 1e-9)).clip(0.25, 1.0)[..., None]
    ax.imshow(image)
    present = [i for i in range(len(SYSTEMS)) if (system == i).any()]
    ax.legend(
        handles=[
            Patch(color=COLOURS[i], label=f"{SYSTEMS[i]} {100 * (system == i).mean():.0f} %")
            for i in present
        ],
        loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False,
    )  # fmt: skip
    ax.set(xlabel="scan column", ylabel="scan row", title="crystal system")
    return fig, ax


def plot_shares(
    shares: ArrayLike, ax: Axes | None = None, *, label: str = "probability"
) -> tuple[Figure | SubFigure, Axes]:
    """Show the shares of votes, or the probabilities, of the systems as bars.

    Parameters
    ----------
    shares : array_like, (7,) or (n, 7)
        Of several, the mean is shown, with the central 68 % as a line.
    ax : matplotlib.axes.Axes, optional
        Where to draw; None: a new figure.
    label : str
        Of the axis.

    Returns
    -------
    fig, ax

    Examples
    --------
    >>> from py4dstem_ml.symmetry import plot_shares
    >>> fig, ax = plot_shares([0.6, 0.1, 0.1, 0.1, 0.05, 0.05, 0.0], label="votes")
    """
    fig, ax = figure_and_axes(ax)
    shares = np.atleast_2d(np.asarray(shares, dtype=float))
    shares = shares[np.isfinite(shares).all(1)]
    mean = shares.mean(0) if len(shares) else np.zeros(len(SYSTEMS))
    ax.bar(SYSTEMS, mean, color=COLOURS)
    if len(shares) > 1:
        low, high = np.percentile(shares, [16, 84], axis=0)
        ax.vlines(range(len(SYSTEMS)), low, high, color="black", lw=1)
    ax.set(ylabel=label, ylim=(0, None))
    ax.tick_params(axis="x", rotation=45)
    return fig, ax


def plot_lattice(
    lattice: ArrayLike,
    ax: Axes | None = None,
    *,
    expected: dict[str, tuple[float, float, float]] | None = None,
    bins: int = 60,
) -> tuple[Figure | SubFigure, Axes]:
    """Show histograms of a, b and c, and the lengths of candidate phases as lines.

    Parameters
    ----------
    lattice : array_like, (..., 3)
        a, b, c in Å; NaN where there is none.
    ax : matplotlib.axes.Axes, optional
        Where to draw; None: a new figure.
    expected : dict, optional
        Lengths in Å by the name of a phase.
    bins : int

    Returns
    -------
    fig, ax

    Examples
    --------
    >>> from py4dstem_ml.symmetry import plot_lattice
    >>> fig, ax = plot_lattice([[4.1, 4.1, 4.1], [4.0, 4.0, 4.0]], expected={"Au": (4.08,) * 3})
    """
    fig, ax = figure_and_axes(ax)
    values = np.asarray(lattice, dtype=float).reshape(-1, 3)
    values = values[np.isfinite(values).all(1)]
    edges = np.linspace(2.0, max(12.0, np.percentile(values, 99) if len(values) else 0.0), bins)
    for name, column in zip("abc", values.T, strict=True):
        median = f", median {np.median(column):.2f} Å" if len(column) else ""
        ax.hist(column, edges, histtype="step", label=f"{name}{median}")
    for i, (name, lengths) in enumerate((expected or {}).items()):
        for length in sorted(set(lengths)):
            ax.axvline(length, color=f"C{3 + i}", lw=1, ls="--", label=name)
            name = None  # one entry a phase
    ax.set(xlabel="length (Å)", ylabel="positions")
    ax.legend(frameon=False)
    return fig, ax


def plot_reliability(
    probabilities: ArrayLike, label: ArrayLike, ax: Axes | None = None, *, name: str = ""
) -> tuple[Figure | SubFigure, Axes]:
    """Show how often calls of a certain probability are right.

    Parameters
    ----------
    probabilities : array_like, (n, 7)
    label : array_like of int, (n,)
        Index in `SYSTEMS` of what is true.
    ax : matplotlib.axes.Axes, optional
        Where to draw; None: a new figure.
    name : str
        Of the curve, to which the expected calibration error is added.

    Returns
    -------
    fig, ax

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_ml.symmetry import plot_reliability
    >>> fig, ax = plot_reliability(np.eye(7), range(7), name="an oracle")
    """
    fig, ax = figure_and_axes(ax)
    probabilities, label = np.asarray(probabilities, dtype=float), np.asarray(label)
    mean, accuracy, _ = reliability(probabilities, label)
    filled = np.isfinite(mean)
    error = calibration_error(probabilities, label)
    ax.plot([0, 1], [0, 1], color="grey", lw=0.8)
    text = f"{name}: error {error:.3f}" if name else f"error {error:.3f}"
    ax.plot(mean[filled], accuracy[filled], "o-", label=text)
    ax.set(xlabel="probability of the call", ylabel="share that is right", aspect="equal")
    ax.legend(frameon=False, fontsize="small")
    return fig, ax


def plot_basis(
    peaks: ArrayLike, ax: Axes | None = None, *, basis: RadialBasis | None = None
) -> tuple[Figure | SubFigure, Axes]:
    """Show a Bragg list on the rings of the radial basis, each as dark as its strongest harmonic.

    Parameters
    ----------
    peaks : array_like, (n, 3)
        ``[qx, qy, intensity]``; 1/Å, about the direct beam.
    ax : matplotlib.axes.Axes, optional
        Where to draw; None: a new figure.
    basis : RadialBasis, optional

    Returns
    -------
    fig, ax

    Examples
    --------
    >>> from py4dstem_ml.symmetry import plot_basis
    >>> fig, ax = plot_basis([[0.5, 0, 1], [0, 0.5, 1], [-0.5, 0, 1], [0, -0.5, 1]])
    """
    from matplotlib.patches import Annulus

    fig, ax = figure_and_axes(ax)
    basis = basis or RadialBasis()
    lists = normalised(basis.diffracted(BraggLists.pack([peaks])))
    size = np.abs(basis.coefficients(lists)[0])
    top = max(float(size.max()), 1e-12)
    for m, row in enumerate(size):
        if m and row.max() > 1e-3 * top:
            order = 1 + int(row[1:].argmax())
            shade = 0.6 * float(row.max() / top) ** 0.5
            ax.add_patch(
                Annulus((0, 0), (m + 0.5) * basis.step, basis.step, color="C0", alpha=shade, lw=0)
            )
            if row[order] > 0.1 * top:
                ax.annotate(f"p = {order}", (0.0, m * basis.step), fontsize=7, ha="center")
    q, intensity = lists.peaks[:, :2], lists.peaks[:, 2]
    if len(q):
        ax.scatter(q[:, 1], q[:, 0], s=4 + 150 * intensity / intensity.max(), c="black", lw=0)
    reach = 1.1 * max(0.5, float(np.abs(q).max(initial=0.0)))
    ax.set(
        xlim=(-reach, reach), ylim=(reach, -reach), aspect="equal",
        xlabel="q, columns (1/Å)", ylabel="q, rows (1/Å)",
    )  # fmt: skip
    return fig, ax


def _array(values: Any) -> np.ndarray:
    """An array, or the one that a RealSlice holds."""
    return np.asarray(values if isinstance(values, np.ndarray | list) else values.data)
