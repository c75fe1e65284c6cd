"""Figures of CBLEED: reconstructions, the latent space, loss by its size, readings and truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..figures import figure_and_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = ["plot_latent", "plot_latent_sizes", "plot_predictions", "plot_reconstructions"]

#: Codes that are embedded at least.
_FEWEST = 20
#: What codes are coloured by, and the unit.
_PARAMETERS = ("beam energy (eV)", "height (Å)", "length (Å)", "buckled")


def plot_reconstructions(
    images: npt.ArrayLike,
    reconstructions: Mapping[str, npt.ArrayLike],
    ax: npt.ArrayLike | None = None,
) -> tuple[Figure | SubFigure, npt.NDArray]:
    """Show images beside what an autoencoder made of them in the course of its training.

    Parameters
    ----------
    images : array_like, shape (n, H, W)
        Amplitudes, a row each.
    reconstructions : mapping
        Title -> array_like (n, H, W), a column each; `train.read_reconstructions` reads them.
    ax : array_like of Axes, shape (n, 1 + columns), optional
        None: a new figure.

    Examples
    --------
    >>> images = np.random.default_rng(0).random((2, 16, 16))
    >>> fig, axes = plot_reconstructions(images, {"step 100": images})
    """
    from matplotlib import pyplot

    columns = {"seen": np.asarray(images), **{k: np.asarray(v) for k, v in reconstructions.items()}}
    rows = len(columns["seen"])
    if ax is None:
        size = (1.6 * len(columns), 1.7 * rows)
        fig, ax = pyplot.subplots(
            rows, len(columns), figsize=size, squeeze=False, layout="constrained"
        )
    axes = np.asarray(ax, dtype=object).reshape(rows, len(columns))
    for column, (title, shown) in enumerate(columns.items()):
        axes[0, column].set_title(title, fontsize="small")
        for row in range(rows):
            top = columns["seen"][row].max()
            axes[row, column].imshow(shown[row], cmap="gray", vmin=0, vmax=top)
            axes[row, column].set_axis_off()
    return axes[0, 0].figure, axes


def embedded(
    codes: npt.ArrayLike, *, neighbours: int = 12, most: int = 800
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return codes in two dimensions by Hessian locally linear embedding, and which they are.

    Parameters
    ----------
    codes : array_like, shape (n, d)
    neighbours : int
        Above 5; fewer where there are fewer codes.
    most : int
        Codes that are embedded at most, evenly taken.

    Notes
    -----
    Donoho and Grimes, PNAS 100 (2003) 5591.
    """
    from sklearn.manifold import LocallyLinearEmbedding

    given = np.asarray(codes, dtype=float)
    chosen = np.arange(0, len(given), max(1, -(-len(given) // most)))
    given = given[chosen]
    given = (given - given.mean(0)) / given.std(0).clip(min=1e-9)
    embedding = LocallyLinearEmbedding(
        n_neighbors=min(neighbours, len(given) - 1), method="hessian", eigen_solver="dense"
    )
    return embedding.fit_transform(given), chosen


def plot_latent(
    codes: npt.ArrayLike,
    labels: npt.ArrayLike,
    ax: Sequence[Axes] | None = None,
    *,
    neighbours: int = 12,
) -> tuple[Figure | SubFigure, Sequence[Axes]]:
    """Show the latent space in two dimensions, coloured by each parameter.

    Patterns of symmetric and of buckled dimers, between which there are none, are embedded one by
    one and shown side by side.

    Parameters
    ----------
    codes : array_like, shape (n, d)
    labels : array_like, shape (n, 4)
        See `dataset.TARGETS`.
    ax : sequence of four Axes, optional
        None: a new figure.
    neighbours : int
        Of the Hessian locally linear embedding, see `embedded`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.random((80, 4))
    >>> fig, axes = plot_latent(np.column_stack([labels[:, :2], labels[:, 0] ** 2]), labels)
    """
    from matplotlib import pyplot

    given, said = np.asarray(codes, dtype=float), np.asarray(labels, dtype=float)
    shown, places = [], []
    kinds = said[:, 3] > 0.5
    if min(kinds.sum(), (~kinds).sum()) < _FEWEST:
        kinds = np.zeros(len(said), dtype=bool)  # too few for a picture of their own
    for kind in np.unique(kinds):
        rows = np.flatnonzero(kinds == kind)
        found, chosen = embedded(given[rows], neighbours=neighbours)
        wide = np.ptp(found, axis=0).clip(min=1e-30)
        places.append((found - found.min(0)) / wide + [1.2 * len(places), 0.0])
        shown.append(rows[chosen])
    where, said = np.concatenate(places), said[np.concatenate(shown)]
    if ax is None:
        _, ax = pyplot.subplots(1, 4, figsize=(14, 3.4), layout="constrained")
    for axes, column, title in zip(ax, said.T, _PARAMETERS, strict=True):
        drawn = axes.scatter(*where.T, c=column, s=4, cmap="viridis")
        axes.figure.colorbar(drawn, ax=axes)
        axes.set(title=title, xticks=[], yticks=[])
    return ax[0].figure, ax


def plot_latent_sizes(
    losses: Mapping[int, float], ax: Axes | None = None
) -> tuple[Figure | SubFigure, Axes]:
    """Show the loss on held-out images by the numbers in the code.

    Parameters
    ----------
    losses : mapping
        Latent size -> loss, of `train.sweep`.
    ax : Axes, optional
        None: a new figure.

    Examples
    --------
    >>> fig, ax = plot_latent_sizes({2: 0.004, 4: 0.002, 8: 0.0005})
    """
    fig, ax = figure_and_axes(ax)
    sizes = sorted(losses)
    ax.plot(sizes, [losses[size] for size in sizes], "o-")
    ax.set(
        xlabel="numbers in the code", ylabel="cross-entropy above the images' own",
        yscale="log", xticks=sizes,
    )  # fmt: skip
    return fig, ax


def plot_predictions(
    truth: npt.ArrayLike,
    found: npt.ArrayLike,
    sigma: npt.ArrayLike | None = None,
    ax: Axes | None = None,
    *,
    name: str = "beam energy (eV)",
) -> tuple[Figure | SubFigure, Axes]:
    """Show what was read against the truth.

    Parameters
    ----------
    truth, found : array_like, shape (n,)
    sigma : array_like, shape (n,), optional
        Half widths of intervals.
    ax : Axes, optional
        None: a new figure.
    name : str
        Of the quantity.

    Examples
    --------
    >>> fig, ax = plot_predictions([30, 40, 50], [30.2, 39.9, 50.1], [0.2, 0.2, 0.3])
    """
    fig, ax = figure_and_axes(ax)
    one, other = np.asarray(truth, dtype=float), np.asarray(found, dtype=float)
    ends = [min(one.min(), other.min()), max(one.max(), other.max())]
    ax.plot(ends, ends, color="grey", lw=0.8)
    error = float(np.abs(one - other).mean())
    style = {"ms": 3, "lw": 0.6, "label": f"mean absolute error {error:.3g}"}
    if sigma is None:
        ax.plot(one, other, ".", **style)
    else:
        ax.errorbar(one, other, yerr=np.asarray(sigma, dtype=float), fmt=".", **style)
    ax.set(xlabel=f"true {name}", ylabel=f"read {name}", aspect="equal")
    ax.legend(frameon=False, fontsize="small")
    return fig, ax
