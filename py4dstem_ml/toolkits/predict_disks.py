"""The command ``py4dstem-ml predict disks``: a file of patterns to Bragg vectors and a figure."""

from __future__ import annotations

import logging
import re
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import weights
from .files import check_figure, make_room
from .hyperspy import load_patterns, load_probe
from .py4dstem import find_bragg_disks_aiml

if TYPE_CHECKING:
    from py4DSTEM import BraggVectors, DataCube

_log = logging.getLogger(__name__)

_NAME = "braggvectors_aiml"
# How files spell the units that py4DSTEM knows, and what one is worth in those.
_UNITS = {
    "1/a": ("A^-1", 1.0),
    "1/å": ("A^-1", 1.0),
    "a^-1": ("A^-1", 1.0),
    "å^-1": ("A^-1", 1.0),
    "1/nm": ("A^-1", 0.1),
    "nm^-1": ("A^-1", 0.1),
    "mrad": ("mrad", 1.0),
}


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("file", type=Path, help="patterns: py4DSTEM .h5, .blo, .dm3, .npy, ...")
    parser.add_argument(
        "--probe", type=Path, help="py4DSTEM Probe, image or scan in vacuum; estimated by default"
    )
    parser.add_argument("--output", type=Path, help="Bragg vectors (default: <file>_bragg.h5)")
    parser.add_argument("--figure", type=Path, help="draw the peaks and their number")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    parser.add_argument("--model", help="name or file of weights; the default ones otherwise")
    parser.add_argument("--device", help="cpu, cuda, ...; a GPU by default if there is one")
    parser.add_argument("--batch-size", type=int, default=64, help="in patterns of 128 x 128")
    parser.add_argument("--mc-samples", type=int, default=0, help="dropout passes (default: none)")
    parser.add_argument(
        "--min-relative-intensity", type=float,
        help="weakest peak, relative to the strongest (default: 0.0003, all that may be one; "
        "0.005 keeps what is plainly seen)",
    )  # fmt: skip
    parser.add_argument(
        "--min-spacing", type=float, help="in pixels (default: by the probe's radius)"
    )
    parser.add_argument(
        "--edge-boundary", type=float, help="in pixels (default: by the probe's radius)"
    )
    parser.add_argument("--max-num-peaks", type=int, help="in a pattern (default: 1000)")


def run(args: Namespace) -> str:
    """Detect the disks, save them, and draw them where asked to; return what was done."""
    import py4DSTEM

    output = args.output or args.file.with_name(f"{args.file.stem}_bragg.h5")
    inputs = [path for path in (args.file, args.probe) if path is not None]
    for path in (output, args.figure):
        if path is not None:
            make_room(path, inputs, args.overwrite)
    check_figure(args.figure)
    if args.model is not None:
        weights.resolve(args.model)
    cube = load_datacube(args.file)
    probe = None if args.probe is None else load_probe(args.probe)
    try:
        vectors = find_bragg_disks_aiml(
            cube,
            probe,
            model=args.model,
            device=args.device,
            batch_size=args.batch_size,
            mc_samples=args.mc_samples,
            min_relative_intensity=args.min_relative_intensity,
            min_spacing=args.min_spacing,
            edge_boundary=args.edge_boundary,
            max_num_peaks=args.max_num_peaks,
            name=_NAME,
        )
    except BaseException:
        if _NAME in cube._branch.keys():  # noqa: SIM118
            py4DSTEM.save(str(output), cube.tree(_NAME), mode="o", tree=False)
            _log.warning("they are saved to %s", output)
        raise
    py4DSTEM.save(str(output), vectors, mode="o", tree=False)
    counts = np.array([len(vectors.raw[i].data) for i in np.ndindex(*vectors.Rshape)])
    text = f"{counts.sum()} peaks in {counts.size} patterns, saved to {output}"
    if args.figure is not None:
        _draw(args.figure, cube, vectors, counts.reshape(vectors.Rshape))
        text += f", drawn in {args.figure}"
    return text


def load_datacube(path: Path) -> DataCube:
    """Read a file as a data cube; a single pattern or a line of them gets scan axes of length 1.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it holds no patterns, or more axes than a scan has.
    """
    import py4DSTEM

    patterns = load_patterns(path)
    array = patterns.array
    if not 2 <= array.ndim <= 4:
        raise ValueError(f"what {path} holds has {array.ndim} axes; a scan has four")
    if array.ndim < 4:
        array = array.reshape((1,) * (4 - array.ndim) + tuple(array.shape))
    cube = py4DSTEM.DataCube(array)
    spelling = re.sub(r"[\s${}()]", "", patterns.units).lower()
    if spelling in _UNITS:
        units, factor = _UNITS[spelling]
        cube.calibration.set_Q_pixel_size(patterns.pixel_size * factor)
        cube.calibration.set_Q_pixel_units(units)
    return cube


def _draw(path: Path, cube: DataCube, vectors: BraggVectors, counts: np.ndarray) -> None:
    from matplotlib.figure import Figure

    from ..disks.plot import plot_counts, plot_peaks

    middle = tuple(n // 2 for n in vectors.Rshape)
    raw = vectors.raw[middle]
    panels = 1 if counts.size == 1 else 2  # of one position there is no map
    fig = Figure(figsize=(5.5 * panels, 5), layout="constrained")
    axes = np.ravel(fig.subplots(1, panels))
    plot_peaks(cube.data[middle], np.column_stack([raw.qx, raw.qy, raw.I]), axes[0])
    for ax in axes[1:]:
        plot_counts(counts, ax)
    fig.savefig(path, dpi=150)
