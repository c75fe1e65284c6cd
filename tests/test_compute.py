"""Devices, and the reading of any scan in blocks."""

from pathlib import Path

import numpy as np
import pytest

from py4dstem_ml.compute import iter_blocks, pick_device

SHAPE = (5, 7, 6, 4)


@pytest.fixture(scope="module")
def scan() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 1000, SHAPE).astype("uint16")


def sources(scan: np.ndarray, folder: Path) -> dict[str, object]:
    import dask.array
    import h5py

    np.save(folder / "scan.npy", scan)
    file = h5py.File(folder / "scan.h5", "w")
    return {
        "ndarray": scan,
        "not contiguous": scan[::-1, ::-1][::-1, ::-1],
        "memmap": np.load(folder / "scan.npy", mmap_mode="r"),
        "h5py contiguous": file.create_dataset("contiguous", data=scan),
        "h5py chunked": file.create_dataset("chunked", data=scan, chunks=(2, 3, 6, 2)),
        "h5py by pattern": file.create_dataset("one", data=scan, chunks=(1, 1, 6, 4)),
        "dask": dask.array.from_array(scan, chunks=(2, 4, 3, 4)),
        "dask irregular": dask.array.from_array(scan, chunks=((1, 4), (5, 2), (6,), (4,))),
    }


NAMES = ["ndarray", "not contiguous", "memmap", "h5py contiguous", "h5py chunked"]
NAMES += ["h5py by pattern", "dask", "dask irregular"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("batch_size", [1, 4, 7, 8, 100])
def test_every_source_is_read_once_and_whole(
    scan: np.ndarray, tmp_path: Path, name: str, batch_size: int
) -> None:
    source = sources(scan, tmp_path)[name]
    blocks = list(iter_blocks(source, batch_size))
    sizes = [len(indices) for indices, _ in blocks]
    assert sizes[:-1] == [batch_size] * (len(sizes) - 1) and 0 < sizes[-1] <= batch_size
    indices = np.concatenate([indices for indices, _ in blocks])
    patterns = np.concatenate([block for _, block in blocks])
    assert sorted(indices) == list(range(35))
    assert patterns.dtype == np.float32
    np.testing.assert_array_equal(patterns, scan.reshape(35, 6, 4)[indices])


@pytest.mark.parametrize("name", NAMES)
def test_positions_come_in_their_order(scan: np.ndarray, tmp_path: Path, name: str) -> None:
    positions = [(4, 6), (0, 0), (2, 3), (0, 0)]
    blocks = list(iter_blocks(sources(scan, tmp_path)[name], 3, positions))
    assert [indices.tolist() for indices, _ in blocks] == [[34, 0, 17], [0]]
    for indices, block in blocks:
        np.testing.assert_array_equal(block, scan.reshape(35, 6, 4)[indices])


@pytest.mark.parametrize("scan_shape", [(), (3,), (2, 3, 2), (0, 4)])
def test_any_number_of_navigation_axes(scan_shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod([*scan_shape, 4, 6])).reshape(*scan_shape, 4, 6)
    blocks = list(iter_blocks(array, 5))
    count = int(np.prod(scan_shape))
    assert sum(len(indices) for indices, _ in blocks) == count
    if count:
        read = np.concatenate([block for _, block in blocks])
        np.testing.assert_array_equal(read, array.reshape(-1, 4, 6))


def test_memory_is_in_the_order_of_storage(scan: np.ndarray) -> None:
    indices = [indices for indices, _ in iter_blocks(scan, 4)]
    assert np.concatenate(indices).tolist() == list(range(35))


class Counted:
    """An array that counts what is read of it."""

    def __init__(self, array: np.ndarray, chunks: tuple[int, ...] | None) -> None:
        self.array, self.chunks = array, chunks
        self.shape, self.dtype = array.shape, array.dtype
        self.reads: list[int] = []

    def __getitem__(self, key: tuple[slice, ...]) -> np.ndarray:
        part = self.array[key]
        self.reads.append(part.size // part.shape[-1] // part.shape[-2])
        return part


@pytest.mark.parametrize("chunks", [None, (1, 1, 6, 4), (2, 3, 6, 4)])
def test_reads_are_bounded_and_never_repeated(
    scan: np.ndarray, chunks: tuple[int, ...] | None
) -> None:
    counted = Counted(scan, chunks)
    list(iter_blocks(counted, 4))
    assert sum(counted.reads) == 35
    assert max(counted.reads) <= 8  # a batch, and a chunk


def test_the_blocks_are_copies(scan: np.ndarray) -> None:
    source = scan.astype(np.float32)
    before = source.copy()
    for _, block in iter_blocks(source, 4):
        block[:] = -1
    np.testing.assert_array_equal(source, before)


@pytest.mark.parametrize(
    ("array", "batch_size", "message"),
    [
        (np.zeros(4), 1, "two axes"),
        (np.zeros((4, 4), complex), 1, "real numbers"),
        (np.zeros((4, 4), object), 1, "real numbers"),
        (np.zeros((4, 4)), 0, "at least 1"),
    ],
)
def test_bad_input_gets_a_sentence(array: np.ndarray, batch_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        iter_blocks(array, batch_size)


@pytest.mark.parametrize("position", [(5, 0), (0, -1)])
def test_a_position_outside_the_scan(scan: np.ndarray, position: tuple[int, int]) -> None:
    with pytest.raises(IndexError, match="outside the scan"):
        list(iter_blocks(scan, 4, [(0, 0), position]))


def test_a_device_that_does_not_exist_gets_a_sentence() -> None:
    with pytest.raises(ValueError, match="There is no device 'gpu'"):
        pick_device("gpu")


def test_the_device_is_chosen() -> None:
    import torch

    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match="is not there"):
        pick_device(f"cuda:{torch.cuda.device_count()}")


@pytest.mark.parametrize("instructions", ["_is_amx_tile_supported", "_is_avx512_bf16_supported"])
def test_precision_is_chosen_without_what_torch_does_not_promise(monkeypatch, instructions) -> None:
    import torch

    from py4dstem_ml.compute import mixed_precision

    # Neither may be there.
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported", raising=False)
    with mixed_precision(torch.device("cpu")):
        assert not torch.is_autocast_enabled("cpu")
    monkeypatch.setattr(torch.cpu, instructions, lambda: True, raising=False)
    with mixed_precision(torch.device("cpu")):
        assert torch.is_autocast_enabled("cpu")
