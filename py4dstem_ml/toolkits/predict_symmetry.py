"""The command ``py4dstem-ml predict symmetry``: Bragg vectors to maps of crystals and a figure."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .files import check_figure, make_room
from .py4dstem_symmetry import predict_crystal

if TYPE_CHECKING:
    from py4DSTEM import BraggVectors


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("file", type=Path, help="a py4DSTEM .h5 with calibrated Bragg vectors")
    parser.add_argument("--output", type=Path, help="the maps (default: <file>_crystals.h5)")
    parser.add_argument("--figure", type=Path, help="draw the map of crystal systems")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    parser.add_argument("--model", help="name or file of weights; the default ones otherwise")
    parser.add_argument("--device", help="cpu, cuda, ...; a GPU by default if there is one")
    parser.add_argument("--min-peaks", type=int, default=5, help="(default: 5)")
    parser.add_argument("--median-filter", type=int, default=5, help="positions (default: 5)")
    parser.add_argument("--min-difference", type=float, default=0.005, help="(default: 0.005)")
    parser.add_argument("--particles", action="store_true", help="read particles as a whole")
    parser.add_argument("--pixel-size", type=float, help="1/Å, where the file does not say")


def run(args: Namespace) -> str:
    """Run the command; returns what to tell the user."""
    import py4DSTEM

    output = args.output or args.file.with_name(f"{args.file.stem}_crystals.h5")
    for path in filter(None, (output, args.figure)):
        make_room(path, [args.file], args.overwrite)
    check_figure(args.figure)
    vectors = load_vectors(args.file)
    if args.pixel_size:
        vectors.calibration.set_Q_pixel_size(args.pixel_size)
        vectors.calibration.set_Q_pixel_units("A^-1")
    if vectors.calibration.get_origin() is None:
        vectors.calibration.set_origin(vectors.measure_origin()[:2])
    maps = predict_crystal(
        vectors, model=args.model, device=args.device, min_peaks=args.min_peaks,
        median_filter=args.median_filter, min_difference=args.min_difference,
        regions="particles" if args.particles else None,
    )  # fmt: skip
    py4DSTEM.save(str(output), vectors, mode="o")
    if args.figure:
        _draw(maps, args.figure)
    return "\n".join([*_shares(maps["crystal_system"].data), f"maps: {output}"])


def load_vectors(path: Path) -> BraggVectors:
    """Read the only Bragg vectors of a py4DSTEM file.

    Raises
    ------
    FileNotFoundError
    ValueError
        If there are none, or several.
    """
    import py4DSTEM

    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        content = py4DSTEM.read(str(path))
    except Exception as error:  # whatever: emdfile asserts
        raise ValueError(f"{path} is no file that py4DSTEM reads: {error}") from error
    found = [node for node in _nodes(content) if isinstance(node, py4DSTEM.BraggVectors)]
    if len(found) != 1:
        raise ValueError(
            f"{path} holds {len(found)} Bragg vectors; give a file with one, as "
            "'py4dstem-ml predict disks' writes it"
        )
    return found[0]


def _nodes(node: Any) -> Iterator[Any]:
    yield node
    branch = getattr(node, "_branch", None)
    for name in branch.keys() if branch is not None else ():  # noqa: SIM118
        yield from _nodes(branch[name])


def _shares(system: np.ndarray) -> list[str]:
    from ..symmetry.crystal_classes import SYSTEMS

    rows = [(name, int((system == i).sum())) for i, name in enumerate(SYSTEMS)]
    rows.append(("none", int((system < 0).sum())))
    return [f"{name:13s} {count:8d}  {100 * count / system.size:5.1f} %" for name, count in rows]


def _draw(maps: dict[str, Any], path: Path) -> None:
    from ..symmetry.plot import plot_systems

    fig, _ = plot_systems(maps["crystal_system"].data, maps["crystal_confidence"]["lead"].data)
    fig.savefig(path, dpi=150, bbox_inches="tight")
