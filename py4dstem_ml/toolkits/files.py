"""What commands check of the files they will write, before the work."""

from __future__ import annotations

import os
from pathlib import Path


def make_room(path: Path, inputs: list[Path], overwrite: bool) -> None:
    """Check before the work that its result can be written, and that nothing is lost by it."""
    if any(path.exists() and path.samefile(given) for given in inputs):
        raise FileExistsError(f"the result would replace what it is made from, {path}")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file in it")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} is there already; --overwrite replaces it")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise PermissionError(f"{path} cannot be written")


def check_figure(path: Path | None) -> None:
    """Check that a figure can be drawn under this name."""
    from matplotlib.backend_bases import FigureCanvasBase

    kinds = FigureCanvasBase.get_supported_filetypes()
    if path is not None and path.suffix[1:].lower() not in kinds:
        raise ValueError(f"no figure can be drawn as {path.name}; take one of {', '.join(kinds)}")
