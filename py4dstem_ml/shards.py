"""Shards: files that a seed and a number alone decide, made whole, resumed, and never mixed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache, partial
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import torch

from .progress import progress_bar


@cache
def table_hash(path: str | Path) -> str:
    """Return the sha256 of a table of crystals, read once a process."""
    return sha256(Path(path).read_bytes()).hexdigest()


def origin_of(seed: int, config: Any, structures: str | Path | None) -> dict[str, int | str]:
    """Return what a shard is made from, as its attributes: seed, config, table of crystals."""
    table = "" if structures is None else table_hash(structures)
    return {"seed": seed, "config": json.dumps(asdict(config)), "table": table}


def is_made(path: Path, origin: Mapping[str, int | str]) -> bool:
    """Whether a shard is there; one that was made from something else is refused.

    Parameters
    ----------
    path : Path
    origin : mapping
        See `origin_of`; compared as far as the shard says what it was made from.

    Raises
    ------
    ValueError
        If one of them differs.
    """
    if not path.exists():
        return False
    with h5py.File(path, "r") as file:
        differing = [
            key for key, value in origin.items() if key in file.attrs and file.attrs[key] != value
        ]
    if differing:
        raise ValueError(
            f"{path} was simulated with another {' and '.join(differing)}: choose another output "
            "folder, or move the shards away"
        )
    return True


def shards_of(folder: str | Path, prefix: str, command: str) -> list[Path]:
    """Return the shards of a folder, sorted.

    Parameters
    ----------
    folder : str or Path
    prefix : str
        Of their names, before the number.
    command : str
        What ``py4dstem-ml simulate`` makes them with, but for the output.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    found = sorted(Path(folder).glob(f"{prefix}-*.h5"))
    if not found:
        raise FileNotFoundError(
            f"no shard {prefix}-*.h5 in {folder}; make them with 'py4dstem-ml simulate {command} "
            "--output FOLDER'"
        )
    return found


@contextmanager
def written_whole(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file that takes its name only when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.part")
    try:
        with h5py.File(unfinished, "w") as file:
            yield file
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_lists(
    file: h5py.File, lists: Sequence[npt.NDArray], columns: Mapping[str, Sequence]
) -> None:
    """Write lists of peaks flat, as ``peaks`` and ``offsets``, and columns of one value a list."""
    file["peaks"] = np.concatenate(lists)
    file["offsets"] = np.cumsum([0, *map(len, lists)])
    for name, values in columns.items():
        file[name] = np.array(values)


def make_shards(
    make: Callable[[int], Path],
    numbers: range,
    *,
    processes: int = 1,
    progress: bool | None = None,
) -> list[Path]:
    """Return ``make(number)`` of all numbers, in several processes with one thread each.

    Parameters
    ----------
    make : callable
        Picklable, where there is more than one process.
    numbers : range
    processes : int
    progress : bool, optional
        None: a bar in a terminal or a notebook.
    """
    bar = partial(progress_bar, total=len(numbers), description="shards", progress=progress)
    if processes == 1:
        return list(bar(map(make, numbers)))
    with ProcessPoolExecutor(
        processes, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        return list(bar(pool.map(make, numbers)))
