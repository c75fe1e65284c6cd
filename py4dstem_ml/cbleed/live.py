"""Follow a microscope: read frames as they come, from an iterator or a folder that fills."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .predict import COLUMNS, CBLEEDRegressor

#: Seconds that a file must have kept its size: it is not being written any more.
_SETTLED = 0.2


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
        From the frame to the numbers.
    """

    name: str
    values: npt.NDArray[np.float64]
    latency_ms: float

    def __str__(self) -> str:
        said = dict(zip(COLUMNS, self.values, strict=True))
        if not np.isfinite(said["novelty"]):
            return f"{self.name}: not readable"
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
        Frames (H, W); or a folder, in which files are read in the order in which they appear.
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
    if isinstance(source, str | Path):
        frames = _files(Path(source), load, pattern, patience_s, poll_s)
    else:
        frames = ((str(n), frame) for n, frame in enumerate(source))
    for name, image in frames:
        started = time.perf_counter()
        try:
            values = reads(np.asarray(image))
        except ValueError:
            values = np.append(np.full(len(COLUMNS) - 1, np.nan), np.inf)
        yield Frame(name, values, 1e3 * (time.perf_counter() - started))


def _files(
    folder: Path, load: Callable[[Path], npt.ArrayLike], pattern: str, patience_s: float,
    poll_s: float,
) -> Iterator[tuple[str, npt.ArrayLike]]:  # fmt: skip
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder} to follow")
    seen: set[Path] = set()
    last = time.monotonic()
    while time.monotonic() - last < patience_s:
        now = time.time()
        fresh = [(path.stat().st_mtime, path) for path in folder.glob(pattern) if path not in seen]
        for written, path in sorted(fresh):
            if now - written < _SETTLED:
                break  # and so are those after it
            seen.add(path)
            try:
                image = load(path)
            except (OSError, ValueError, EOFError):
                image = np.full((1, 1), np.nan)
            yield path.name, image
            last = time.monotonic()
        time.sleep(poll_s)
