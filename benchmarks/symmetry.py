"""How well and how fast crystals are read from Bragg lists: the paper's table beside ours.

Accuracy on held-out material of a library (``py4dstem-ml simulate symmetry``), and the speed of
each step from peaks to maps beside what a user would do instead.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from py4dstem_ml.compute import pick_device
from py4dstem_ml.symmetry import evaluate
from py4dstem_ml.symmetry.library import read_shard
from py4dstem_ml.symmetry.lists import BraggLists
from py4dstem_ml.symmetry.predict import CrystalSystemPredictor, load_model, usable
from py4dstem_ml.symmetry.radial_basis import RadialBasis
from py4dstem_ml.symmetry.radial_forests import FEATURES, RadialForests, radial_features
from py4dstem_ml.tables import markdown_table

#: Lists in the speed measurements, and for what loops over lists in Python.
_LISTS, _FEW = 16384, 256


def main() -> None:
    """Print the tables, and write them to a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--library", required=True, help="folder of shards")
    parser.add_argument("--structures", help="table of crystals (.npz), for the accuracies")
    parser.add_argument("--model", nargs="+", required=True, help="names or files of weights")
    parser.add_argument("--split", choices=("strict", "paper"), default="strict")
    parser.add_argument("--materials", type=int, help="crystals of the test part; default: all")
    parser.add_argument("--scans", type=int, nargs="*", default=[128], help="sides of scans")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("results"))
    parser.add_argument("--device", help="default: the GPU if there is one")
    args = parser.parse_args()
    parts = ["# Crystals from Bragg lists", speed_table(args)]
    if args.structures:
        args_of_table = argparse.Namespace(**vars(args))
        args_of_table.output = None
        args_of_table.figure = args.output / f"reliability-{args.split}.png"
        parts.append(evaluate.run(args_of_table))
    text = "\n\n".join(parts)
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / f"symmetry-{args.split}.md").write_text(text + "\n", "utf-8")
    print(text)


def speed_table(args: argparse.Namespace) -> str:
    """Return patterns a second of each step, and seconds of loading."""
    shards = [read_shard(path).lists for path in sorted(Path(args.library).glob("*.h5"))[:5]]
    lists = RadialBasis().diffracted(BraggLists.joined(shards))
    lists = lists.take(np.arange(_LISTS) % len(lists))
    few = lists.take(np.arange(_FEW))
    rows = [
        _row("radial basis, vectorised", lambda: radial_features(lists), len(lists), args.repeats),
        _row("radial basis, a loop over peaks", lambda: _looped(few), len(few), args.repeats),
    ]
    for name in args.model:
        rows.append(_row(f"{name}: loading", lambda n=name: load_model(n, args.device), 0, 3))
        rows += _model_rows(name, lists, args)
    device = pick_device(args.device)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    head = f"Speed on {where}, {torch.get_num_threads()} threads, median of {args.repeats}"
    mean = f"{np.diff(lists.offsets).mean():.0f} peaks a pattern"
    columns = ("step", "patterns/s", "seconds", "fastest", "slowest", "peak memory MB")
    return f"{head}; {mean}.\n\n" + markdown_table(rows, columns)


def _model_rows(name: str, lists: BraggLists, args: argparse.Namespace) -> list[dict]:
    predictor = CrystalSystemPredictor(name, device=args.device)
    bag = np.arange(len(lists)) // 10
    model = predictor.loaded
    rows = []
    if isinstance(model, RadialForests):
        x = FEATURES[model.features](usable(lists)[0])
        rows.append(_row(f"{name}: votes", lambda: model.system.votes(x), len(lists), args.repeats))
    rows.append(
        _row(
            f"{name}: peaks to predictions",
            lambda: predictor.predict(lists, progress=False),
            len(lists),
            args.repeats,
        )  # fmt: skip
    )
    for side in args.scans:
        vectors = _bragg_vectors(lists, side)
        rows.append(
            _row(
                f"{name}: predict_crystal of {side} x {side}",
                lambda v=vectors: v.predict_crystal(model=name, device=args.device, progress=False),
                side * side,
                1,
            )  # fmt: skip
        )
        rows[-1]["peak memory MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    rows.append(
        _row(
            f"{name}: tens together",
            lambda: predictor.aggregate(lists, bag),
            len(lists),
            args.repeats,
        )  # fmt: skip
    )
    return rows


def _bragg_vectors(lists: BraggLists, side: int) -> Any:
    """Calibrated Bragg vectors of a square scan."""
    import py4DSTEM

    import py4dstem_ml  # noqa: F401 - registers the method

    vectors = py4DSTEM.BraggVectors((side, side), (256, 256))
    for number, place in enumerate(np.ndindex(side, side)):
        peaks = lists[number % len(lists)]
        records = np.zeros(len(peaks), vectors._v_uncal.dtype)
        for field, column in zip(("qx", "qy", "intensity"), peaks.T, strict=True):
            records[field] = column
        vectors._v_uncal[place].add(records)
    vectors.calibration.set_origin((0, 0))
    vectors.calibration.set_Q_pixel_size(1.0)
    vectors.calibration.set_Q_pixel_units("A^-1")
    return vectors


def _row(step: str, run: Callable[[], object], patterns: int, repeats: int) -> dict:
    if repeats > 1:
        run()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    median = statistics.median(seconds)
    rate = f"{patterns / median:,.0f}" if patterns else None
    return {
        "step": step, "patterns/s": rate, "seconds": median, "fastest": min(seconds),
        "slowest": max(seconds),
    }  # fmt: skip


def _looped(lists: BraggLists) -> np.ndarray:
    """The basis as the definition reads: a loop over lists, tents and orders."""
    basis = RadialBasis()
    out = np.zeros((len(lists), basis.bins, basis.orders), complex)
    for i in range(len(lists)):
        x, y, intensity = lists[i].T
        q, phi = np.hypot(x, y), np.arctan2(y, x)
        for m in range(basis.bins):
            tent = np.maximum(1.0 - np.abs(q / basis.step - m), 0.0)
            for order in range(basis.orders):
                out[i, m, order] = np.sum(intensity * tent * np.exp(1j * order * phi))
    return out


if __name__ == "__main__":
    main()
