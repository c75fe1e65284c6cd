"""Follow a microscope: read frames as they come, from an iterator or a folder that fills."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .predict import COLUMNS, UNREADABLE, CBLEEDRegressor, numbers_of

#: Seconds that a file must have kept its size and time: it is not being written any more.
_SETTLED = 0.2
#: Times that a file is tried before it counts as not readable.
_TRIES = 3


@dataclass(frozen=True)
class Frame:
    """What was read from a frame.

    Attributes
    ----------
    name : str
        Of the file, or the frame's number.
    values : ndarray, shape (8,)
        See `predict.COLUMNS`; NaN where the frame could not be read.
    latency_ms : float
        From the frame in memory to the numbers.
    error : str
        Why the frame could not be read; empty where it could.
    """

    name: str
    values: npt.NDArray[np.float64]
    latency_ms: float
    error: str = ""

    def __str__(self) -> str:
        said = dict(zip(COLUMNS, self.values, strict=True))
        if not np.isfinite(said["novelty"]):
            return f"{self.name}: not readable: {self.error}"
        text = (
            f"{self.name}: {said['energy_ev']:.2f} ± {said['sigma_energy_ev']:.2f} eV, "
            f"height {said['height']:+.3f} ± {said['sigma_height']:.3f} Å, "
            f"length {said['length']:+.3f} ± {said['sigma_length']:.3f} Å, "
            f"{'buckled' if said['buckled'] > 0.5 else 'symmetric'}"
        )
        return text + (" (unlike the training set)" if said["novelty"] > 1 else "")


def follow(
    source: Iterable[Any] | str | Path,
    regressor: CBLEEDRegressor | None = None,
    *,
    load: Callable[[Path], npt.ArrayLike] = np.load,
    pattern: str = "*.npy",
    patience_s: float = 60.0,
    poll_s: float = 0.1,
) -> Iterator[Frame]:
    """Read frames as they come; one that cannot be read is flagged, and the loop goes on.

    Parameters
    ----------
    source : iterable of array_like, or folder
        Frames (H, W); or a folder, in which files are read in the order of their times. A name
        that was read is not read again.
    regressor : CBLEEDRegressor, optional
        Default: the pretrained one. Its ``on_bad`` does not count here.
    load : callable
        What makes an image of a file; the default reads ``.npy``.
    pattern : str
        Of the files' names.
    patience_s : float
        Seconds without a new file after which following a folder ends.
    poll_s : float
        Seconds between looks at the folder.

    Yields
    ------
    Frame

    Raises
    ------
    FileNotFoundError
        If there is no such folder.

    Examples
    --------
    >>> for frame in follow("frames", patience_s=600):  # doctest: +SKIP
    ...     logging.info("%s", frame)
    """
    reads = regressor or CBLEEDRegressor.pretrained()
    reads.loaded  # noqa: B018 - before the first frame comes
    if isinstance(source, str | Path):
        frames = _files(Path(source), load, pattern, patience_s, poll_s)
    else:
        frames = ((str(n), frame) for n, frame in enumerate(source))
    for name, image in frames:
        started = time.perf_counter()
        error = str(image) if isinstance(image, Exception) else ""
        values = UNREADABLE
        if not error:
            try:
                values = numbers_of(reads.reading(np.asanyarray(image)[None]))[0]
            except ValueError as refused:
                error = str(refused)
        yield Frame(name, values, 1e3 * (time.perf_counter() - started), error)


def _files(
    folder: Path, load: Callable[[Path], npt.ArrayLike], pattern: str, patience_s: float,
    poll_s: float,
) -> Iterator[tuple[str, Any]]:  # fmt: skip
    """Yield name and image of each file that has settled, or what kept it from being loaded."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder} to follow")
    read: set[Path] = set()
    looks: dict[Path, tuple[tuple[int, int], float]] = {}  # what it was, and since when
    tries: dict[Path, int] = {}
    last = time.monotonic()
    while True:
        # Before looking: what comes while the others are read is looked at once more.
        now = time.monotonic()
        for path, state in _by_time(folder.glob(pattern), read):
            if looks.get(path, (None, 0.0))[0] != state:
                looks[path] = state, time.monotonic()
                last = time.monotonic()
            if time.monotonic() - looks[path][1] < _SETTLED:
                continue
            try:
                image = load(path)
            except Exception as error:  # whatever a reader of files raises, the loop goes on
                tries[path] = tries.get(path, 0) + 1
                looks[path] = state, time.monotonic()
                if tries[path] < _TRIES:
                    continue
                image = error
            read.add(path)
            yield path.name, image
            last = time.monotonic()
        if now - last >= patience_s:
            return
        time.sleep(poll_s)


def _state(path: Path) -> tuple[int, int] | None:
    """Size and time of a file; None if it is gone."""
    try:
        said = path.stat()
    except OSError:
        return None
    return said.st_size, said.st_mtime_ns


def _by_time(paths: Iterable[Path], read: set[Path]) -> list[tuple[Path, tuple[int, int]]]:
    """Files that are there and were not read, and their states, the oldest first."""
    states = {path: _state(path) for path in paths if path not in read}
    there = [(path, state) for path, state in states.items() if state is not None]
    return sorted(there, key=lambda one: one[1][::-1])
