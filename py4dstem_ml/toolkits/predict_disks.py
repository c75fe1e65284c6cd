"""The command ``py4dstem-ml predict disks``: a file of patterns to Bragg vectors and a figure."""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import numpy as np

from .hyperspy import Patterns, load_patterns

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
    parser.add_argument("file", type=Path, help="patterns: .h5 of py4DSTEM, .blo, .dm3, .hspy, ...")
    parser.add_argument("--probe", type=Path, help="vacuum probe, .npy or as above; else estimated")
    parser.add_argument("--output", type=Path, default=Path("."), help="folder (default: here)")
    parser.add_argument("--model", help="name or file of weights; else the default ones")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; else a GPU if there is one")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--mc-samples", type=int, default=0, help="dropout passes (default: none)")
    parser.add_argument("--min-relative-intensity", type=float)
    parser.add_argument("--min-spacing", type=float, help="in pixels")
    parser.add_argument("--edge-boundary", type=float, help="in pixels")
    parser.add_argument("--max-num-peaks", type=int)


def run(args: Namespace) -> str:
    """Detect the disks, write ``<file>_bragg.h5`` and ``<file>_bragg.png``, and say so."""
    import matplotlib

    matplotlib.use("Agg")
    import py4DSTEM
    from matplotlib import pyplot

    from ..disks.plot import plot_counts, plot_peaks
    from .py4dstem import find_bragg_disks_aiml

    cube = _as_cube(load_patterns(args.file))
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
    args.output.mkdir(parents=True, exist_ok=True)
    stem = args.output / f"{args.file.stem}_bragg"
    py4DSTEM.save(f"{stem}.h5", vectors, mode="o", tree=None)

    counts = np.array([len(vectors.raw[i].data) for i in np.ndindex(vectors.Rshape)])
    counts = counts.reshape(vectors.Rshape)
    middle = tuple(n // 2 for n in vectors.Rshape)
    fig, (left, right) = pyplot.subplots(1, 2, figsize=(11, 5), layout="constrained")
    raw = vectors.raw[middle]
    plot_peaks(cube.data[middle], np.column_stack([raw.qx, raw.qy, raw.I]), left)
    plot_counts(counts, right)
    fig.savefig(f"{stem}.png", dpi=150)
    pyplot.close(fig)
    return f"{counts.sum()} peaks in {counts.size} patterns: {stem}.h5, {stem}.png"


def _as_cube(patterns: Patterns) -> Any:
    """A data cube; a single pattern or a line of them gets scan axes of length 1."""
    import py4DSTEM

    array = patterns.array
    if array.ndim > 4:
        raise ValueError(f"the file holds {array.ndim}-D data, more than a scan of patterns")
    cube = py4DSTEM.DataCube(array.reshape((1,) * (4 - array.ndim) + tuple(array.shape)))
    spelling = re.sub(r"[\s${}()]", "", patterns.units).lower()
    if spelling in _UNITS:
        units, factor = _UNITS[spelling]
        cube.calibration.set_Q_pixel_size(patterns.pixel_size * factor)
        cube.calibration.set_Q_pixel_units(units)
    return cube


def _load_probe(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    array = np.asarray(load_patterns(path).array)
    return array if array.ndim == 2 else array.reshape(-1, *array.shape[-2:])
