"""The command ``py4dstem-ml predict disks``: a file of patterns to Bragg vectors and a figure."""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .hyperspy import Patterns, load_patterns
from .py4dstem import find_bragg_disks_aiml

if TYPE_CHECKING:
    from py4DSTEM import BraggVectors, DataCube

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
    parser.add_argument("--probe", type=Path, help="vacuum probe; estimated by default")
    parser.add_argument("--output", type=Path, help="Bragg vectors (default: <file>_bragg.h5)")
    parser.add_argument("--figure", type=Path, help="draw the peaks and their number")
    parser.add_argument("--model", help="name or file of weights; the default ones otherwise")
    parser.add_argument("--device", help="cpu, cuda, ...; a GPU by default if there is one")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--mc-samples", type=int, default=0, help="dropout passes (default: none)")
    parser.add_argument("--min-relative-intensity", type=float)
    parser.add_argument("--min-spacing", type=float, help="in pixels")
    parser.add_argument("--edge-boundary", type=float, help="in pixels")
    parser.add_argument("--max-num-peaks", type=int)


def run(args: Namespace) -> str:
    """Detect the disks, save them, and draw them where asked to; return what was done."""
    import py4DSTEM

    cube = load_datacube(args.file)
    vectors = find_bragg_disks_aiml(
        cube,
        None if args.probe is None else _load_probe(args.probe),
        model=args.model,
        device=args.device,
        batch_size=args.batch_size,
        mc_samples=args.mc_samples,
        min_relative_intensity=args.min_relative_intensity,
        min_spacing=args.min_spacing,
        edge_boundary=args.edge_boundary,
        max_num_peaks=args.max_num_peaks,
    )
    output = args.output or args.file.with_name(f"{args.file.stem}_bragg.h5")
    output.parent.mkdir(parents=True, exist_ok=True)
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

    patterns = _load(path)
    array = patterns.array
    if not 2 <= array.ndim <= 4:
        raise ValueError(f"what {path} holds has {array.ndim} axes; a scan has four")
    cube = py4DSTEM.DataCube(array.reshape((1,) * (4 - array.ndim) + tuple(array.shape)))
    spelling = re.sub(r"[\s${}()]", "", patterns.units).lower()
    if spelling in _UNITS:
        units, factor = _UNITS[spelling]
        cube.calibration.set_Q_pixel_size(patterns.pixel_size * factor)
        cube.calibration.set_Q_pixel_units(units)
    return cube


def _load(path: Path) -> Patterns:
    if path.suffix == ".npy":
        return Patterns(np.load(path, mmap_mode="r", allow_pickle=False), 1.0, "pixels")
    return load_patterns(path)


def _load_probe(path: Path) -> np.ndarray:
    """An image, or the mean of all the images in a file."""
    array = _load(path).array
    return np.asarray(array.mean(axis=tuple(range(array.ndim - 2)), dtype=float))


def _draw(path: Path, cube: DataCube, vectors: BraggVectors, counts: np.ndarray) -> None:
    from matplotlib import pyplot

    from ..disks.plot import plot_counts, plot_peaks

    pyplot.switch_backend("Agg")
    path.parent.mkdir(parents=True, exist_ok=True)
    middle = tuple(n // 2 for n in vectors.Rshape)
    raw = vectors.raw[middle]
    fig, (left, right) = pyplot.subplots(1, 2, figsize=(11, 5), layout="constrained")
    plot_peaks(cube.data[middle], np.column_stack([raw.qx, raw.qy, raw.I]), left)
    plot_counts(counts, right)
    fig.savefig(path, dpi=150)
    pyplot.close(fig)
