"""`py4dstem-ml predict cbleed`: a file of images, or a folder that fills, to a table of numbers."""

from __future__ import annotations

import csv
import logging
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..cbleed.live import follow
from ..cbleed.predict import COLUMNS, CBLEEDRegressor
from .files import make_room
from .hyperspy import load_patterns

logger = logging.getLogger(__name__)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare ``py4dstem-ml predict cbleed``."""
    parser.add_argument("source", type=Path, help="file of images, or a folder to follow")
    parser.add_argument("--output", type=Path, required=True, help="table, *.csv")
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument("--weights", help="name or file; default: the pretrained reader")
    parser.add_argument("--pixel-size", type=float, help="of the images in rad/Å; resamples them")
    parser.add_argument(
        "--centre", type=float, nargs=2, metavar=("ROW", "COL"), help="pixel of the normal"
    )
    parser.add_argument("--rotation", type=float, default=0.0, help="degrees, see CBLEEDRegressor")
    parser.add_argument("--device", help="default: the GPU if there is one")
    parser.add_argument(
        "--pattern", default="*.npy", help="of the names in a folder; default *.npy"
    )
    parser.add_argument(
        "--patience", type=float, default=60.0, help="seconds without a new file in a folder"
    )


def run(args: Namespace) -> str:
    """Run ``py4dstem-ml predict cbleed``."""
    make_room(args.output, [args.source], args.overwrite)
    folder = args.source.is_dir() and args.source.suffix != ".zspy"  # a file that is a folder
    regressor = CBLEEDRegressor(
        args.weights, device=args.device, pixel_size=args.pixel_size,
        centre=None if args.centre is None else tuple(args.centre), rotation_deg=args.rotation,
        on_bad="flag",
    )  # fmt: skip
    if folder:
        rows = _followed(args, regressor)
    else:
        values = regressor.read(load_patterns(args.source).array).reshape(-1, len(COLUMNS))
        rows = ((str(n), row) for n, row in enumerate(values))
    count = novel = 0
    with args.output.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", *COLUMNS])
        for name, row in rows:
            table.writerow([name, *(f"{value:.6g}" for value in row)])
            file.flush()  # whoever watches a live stream reads along
            count, novel = count + 1, novel + (row[-1] > 1)
    if not count:
        raise ValueError(f"{args.source} holds no image that matches --pattern {args.pattern!r}")
    return f"{count} images, {novel} of them unlike the training set or not readable: {args.output}"


def _followed(args: Namespace, regressor: CBLEEDRegressor) -> Iterable[tuple[str, np.ndarray]]:
    def load(path: Path) -> np.ndarray:
        return np.asarray(load_patterns(path).array)

    for frame in follow(
        args.source, regressor, load=load, pattern=args.pattern, patience_s=args.patience
    ):
        logger.info("%s (%.1f ms)", frame, frame.latency_ms)
        yield frame.name, frame.values
