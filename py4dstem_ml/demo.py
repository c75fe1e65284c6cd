"""The main job on an embedded scan: patterns in, Bragg vectors, an overlay and a strain map out."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

__all__ = ["Scan", "embedded_scan", "run"]


class Scan(NamedTuple):
    """A small simulated 4D-STEM scan.

    Attributes
    ----------
    data : numpy.ndarray, (Rx, Ry, 128, 128), uint16
        Counts.
    probe : numpy.ndarray, (128, 128), float32
        The beam in vacuum.
    pixel_size : float
        In 1/Å.
    """

    data: np.ndarray
    probe: np.ndarray
    pixel_size: float


def embedded_scan() -> Scan:
    """The scan that the package carries.

    Raises
    ------
    FileNotFoundError
        If the installation lacks it.
    """
    file = resources.files("py4dstem_ml") / "data" / "demo_scan.npz"
    with resources.as_file(file) as path, np.load(path, allow_pickle=False) as arrays:
        return Scan(arrays["data"], arrays["probe"], float(arrays["pixel_size"]))


def run(
    output_folder: str | os.PathLike = "demo",
    *,
    model: Any = None,
    device: Any = None,
) -> str:
    """Detect the disks of the embedded scan and map its strain.

    Writes ``demo_bragg.h5`` (py4DSTEM's BraggVectors), ``demo_peaks.png`` and
    ``demo_strain.png``.

    Parameters
    ----------
    output_folder : str or path
        Made if need be.
    model, device
        See `BraggDiskFinder`.

    Returns
    -------
    str
        What was found and written.
    """
    import py4DSTEM

    from .toolkits.py4dstem import find_bragg_disks_aiml

    folder = Path(output_folder)
    folder.mkdir(parents=True, exist_ok=True)
    scan = embedded_scan()
    cube = py4DSTEM.DataCube(scan.data)
    cube.calibration.set_Q_pixel_size(scan.pixel_size)
    cube.calibration.set_Q_pixel_units("A^-1")
    vectors = find_bragg_disks_aiml(cube, scan.probe, model=model, device=device)
    py4DSTEM.save(str(folder / "demo_bragg.h5"), vectors, mode="o", tree=False)

    _save_overlay(folder / "demo_peaks.png", cube, vectors)
    strain = _strain(vectors)
    _save_strain(folder / "demo_strain.png", strain)

    positions = int(np.prod(vectors.Rshape))
    peaks = sum(len(vectors.raw[i].data) for i in np.ndindex(vectors.Rshape))
    low, high = 100 * strain["e_xx"].min(), 100 * strain["e_xx"].max()
    return (
        f"{peaks} peaks in {positions} patterns; strain e_xx from {low:+.2f} to {high:+.2f} %. "
        f"Written to {folder}: demo_bragg.h5, demo_peaks.png, demo_strain.png"
    )


def _strain(vectors: Any) -> dict[str, np.ndarray]:
    """Strain of each position against the scan's median, by py4DSTEM's own workflow."""
    import py4DSTEM

    qx0, qy0, _ = vectors.measure_origin()
    vectors.calibration.set_origin((qx0, qy0))
    vectors.calibration.set_QR_rotation_degrees(0)
    vectors.setcal(center=True, ellipse=False, pixel=False, rotate=True)
    with _quiet():
        strainmap = py4DSTEM.StrainMap(braggvectors=vectors)
        strainmap.choose_basis_vectors(
            minSpacing=6, maxNumPeaks=60, minRelativeIntensity=0.005, edgeBoundary=4
        )
        strainmap.fit_basis_vectors(max_peak_spacing=2.0)
        strainmap.get_strain()
    return {name: strainmap.get_slice(name).data for name in ("e_xx", "e_yy", "e_xy", "theta")}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Only the result: py4DSTEM warns, prints and shows its figures as it goes.

    The caller's backend and figures stay as they are.
    """
    from matplotlib import pyplot

    before = set(pyplot.get_fignums())
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        pyplot.rc_context({"interactive": False}),
        mock.patch.object(pyplot, "show"),
    ):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            for number in set(pyplot.get_fignums()) - before:
                pyplot.close(number)


def _save_overlay(path: Path, cube: Any, vectors: Any) -> None:
    from matplotlib.figure import Figure

    from .disks.plot import plot_peaks

    middle = tuple(n // 2 for n in vectors.Rshape)
    raw = vectors.raw[middle]
    fig = Figure()
    plot_peaks(cube.data[middle], np.column_stack([raw.qx, raw.qy, raw.I]), fig.subplots())
    fig.savefig(path, dpi=150)


def _save_strain(path: Path, strain: dict[str, np.ndarray]) -> None:
    from matplotlib.figure import Figure

    fig = Figure(figsize=(14, 3.5), layout="constrained")
    # One scale for all strains, or noise looks as strong as the signal.
    common = max(np.abs(values).max() for name, values in strain.items() if name != "theta")
    for ax, (name, values) in zip(fig.subplots(1, len(strain)), strain.items(), strict=True):
        shown, unit = (np.degrees(values), "degrees") if name == "theta" else (100 * values, "%")
        limit = max(np.abs(shown).max(), 0.1) if name == "theta" else 100 * common
        image = ax.imshow(shown, cmap="RdBu_r", vmin=-limit, vmax=limit)
        fig.colorbar(image, ax=ax, label=unit)
        ax.set(title=name, xlabel="scan column", ylabel="scan row")
    fig.savefig(path, dpi=150)
