"""Where and in what portions things are computed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """Choose the device to compute on.

    Parameters
    ----------
    device : str or torch.device, optional
        None: the GPU if there is one, the CPU otherwise.

    Returns
    -------
    torch.device

    Raises
    ------
    ValueError
        If there is no such kind of device, or a GPU is asked for and this machine, or this build
        of torch, has none.

    Examples
    --------
    >>> from py4dstem_ml.compute import pick_device
    >>> pick_device("cpu")
    device(type='cpu')
    """
    import torch

    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ValueError(
            f"There is no device {str(device)!r}: give 'cpu', 'cuda', 'cuda:1', ..., or None."
        ) from None
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"The device {str(chosen)!r} is not there: torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} GPUs. Use device=None or 'cpu'."
        )
    return chosen


def mixed_precision(device: torch.device) -> torch.autocast:
    """Compute convolutions in bfloat16 where the device is faster at it, in float32 elsewhere.

    Parameters
    ----------
    device : torch.device

    Returns
    -------
    torch.autocast
        A context manager; it does nothing on a CPU without bfloat16 instructions (AMX, or
        AVX-512 BF16, with which disks are found in two thirds of the time).

    Examples
    --------
    >>> from py4dstem_ml.compute import mixed_precision, pick_device
    >>> with mixed_precision(pick_device("cpu")):
    ...     pass
    """
    import torch

    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported()
    else:
        # Not public: torch may rename them, and older versions lack them.
        names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
        has_any = any(getattr(torch.cpu, name, lambda: False)() for name in names)
        fast = device.type == "cpu" and has_any
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=fast)


def refuse_masked(array: Any, what: str) -> None:
    """Refuse an array whose mask numpy would drop without a word.

    Raises
    ------
    ValueError
        If something in it is masked.
    """
    import numpy as np

    if np.ma.is_masked(array):
        raise ValueError(f"the {what} is masked: replace what is hidden, e.g. by its neighbours")


def iter_blocks(
    array: Any, batch_size: int, positions: Sequence | np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read a scan in blocks of patterns, from memory or from disk.

    What is stored together is read together and once: the chunks of an HDF5 data set or of a dask
    array, whole rows otherwise. At any time about one batch and one chunk are in memory, never
    the scan.

    Parameters
    ----------
    array : array-like, (..., H, W), real
        An ndarray, memmap, h5py.Dataset, dask array, or whatever has `shape` and `dtype` and can
        be sliced. The leading axes are the navigation axes; there may be none.
    batch_size : int
        The number of patterns in a block; the last one may have fewer.
    positions : (n, k) ints, optional
        Read only these navigation positions, k of them the number of navigation axes, in this
        order. All by default.

    Yields
    ------
    indices : (b,) ndarray of int64
        Where the patterns stand in the scan, counted along its flattened navigation axes (see
        `numpy.unravel_index`). They are in the order of storage.
    block : (b, H, W) ndarray of float32
        The patterns.

    Raises
    ------
    ValueError
        If the array has fewer than two axes, is complex, or the batch size is not positive.
    IndexError
        If a position is outside the scan.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_ml.compute import iter_blocks
    >>> scan = np.zeros((3, 2, 8, 8), dtype="uint16")
    >>> [(indices.tolist(), block.shape) for indices, block in iter_blocks(scan, 4)]
    [([0, 1, 2, 3], (4, 8, 8)), ([4, 5], (2, 8, 8))]
    """
    if len(array.shape) < 2:
        raise ValueError(f"Patterns have two axes; this array has the shape {tuple(array.shape)}.")
    if np.dtype(array.dtype).kind not in "buif":
        raise ValueError(f"Patterns are real numbers; this array is of type {array.dtype}.")
    if batch_size < 1:
        raise ValueError(f"batch_size is at least 1, not {batch_size}.")
    if positions is None:
        parts = _read_boxes(array, batch_size)
    else:
        parts = _read_positions(array, batch_size, positions)
    return _rebatch(parts, batch_size)


def _read_boxes(array: Any, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Boxes of the navigation axes that follow the chunks of the storage."""
    scan_shape = tuple(array.shape[:-2])
    flat = np.arange(math.prod(scan_shape), dtype=np.int64).reshape(scan_shape)
    for box in itertools.product(*_box_slices(array, batch_size)):
        indices = flat[box].ravel()
        patterns = np.asarray(array[box] if box else array[...])
        yield indices, patterns.reshape(len(indices), *array.shape[-2:])


def _box_slices(array: Any, batch_size: int) -> list[list[slice]]:
    """For each navigation axis, the pieces to read: whole chunks, enough of them for a batch."""
    slices: list[list[slice]] = []
    edges = _chunk_edges(array)
    missing = math.ceil(batch_size / math.prod(max(np.diff(e), default=1) for e in edges))
    for axis_edges in reversed(edges):  # the last axis first: its patterns are neighbours on disk
        chunks = len(axis_edges) - 1
        step = max(1, min(missing, chunks))
        missing = math.ceil(missing / step)
        ends = [*axis_edges[:-1:step], axis_edges[-1]]
        slices.insert(0, list(itertools.starmap(slice, itertools.pairwise(ends))))
    return slices


def _chunk_edges(array: Any) -> list[list[int]]:
    """For each navigation axis, where the chunks of the storage begin, and the axis' end."""
    scan_shape = array.shape[:-2]
    chunks = getattr(array, "chunks", None) or (1,) * len(array.shape)
    edges = []
    for length, chunk in zip(scan_shape, chunks, strict=False):
        if isinstance(chunk, tuple):  # dask: the length of every chunk
            edges.append([0, *itertools.accumulate(chunk)])
        else:  # h5py, zarr: one length for all
            edges.append([*range(0, length, chunk), length])
    return edges


def _read_positions(
    array: Any, batch_size: int, positions: Sequence | np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    scan_shape = tuple(array.shape[:-2])
    chosen = np.asarray(positions, dtype=np.int64).reshape(-1, len(scan_shape))
    outside = ((chosen < 0) | (chosen >= scan_shape)).any(axis=1)
    if outside.any():
        first = tuple(chosen[outside][0].tolist())
        raise IndexError(f"The position {first} is outside the scan of {scan_shape}.")
    flat = np.ravel_multi_index(tuple(chosen.T), scan_shape)
    for start in range(0, len(chosen), batch_size):
        batch = slice(start, start + batch_size)
        yield flat[batch], _pick(array, chosen[batch])


def _pick(array: Any, positions: np.ndarray) -> np.ndarray:
    if isinstance(array, np.ndarray):
        return array[tuple(positions.T)]
    if hasattr(array, "dask"):  # computes a chunk once for all the positions in it
        return np.asarray(array.vindex[tuple(positions.T)])
    return np.stack([array[tuple(position)] for position in positions.tolist()])


def _rebatch(
    parts: Iterator[tuple[np.ndarray, np.ndarray]], batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cut what was read into batches of one size, in float32; what is left over waits."""
    rest: tuple[np.ndarray, np.ndarray] | None = None
    for indices, patterns in parts:
        if rest is not None:
            indices = np.concatenate([rest[0], indices])
            patterns = np.concatenate([rest[1], patterns])
        whole = len(indices) - len(indices) % batch_size
        for start in range(0, whole, batch_size):
            batch = slice(start, start + batch_size)
            yield indices[batch], patterns[batch].astype(np.float32)
        rest = (indices[whole:], patterns[whole:])
    if rest is not None and len(rest[0]):
        yield rest[0], rest[1].astype(np.float32)
