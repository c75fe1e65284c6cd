"""Shared by all tests: no display, one precision, and the folder of measured data."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(scope="session", autouse=True)
def full_precision() -> Iterator[None]:
    """What is compared to many digits is so on CPUs with bfloat16 instructions, too."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
            patch.setattr(torch.cpu, name, lambda: False, raising=False)
        yield


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The measured data, for tests marked `data`."""
    return Path(os.environ["PY4DSTEM_ML_DATA"])


@pytest.fixture(scope="session")
def write_crystals(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a table of copper oxides of the CsCl type, as `CrystalTable` reads it."""

    def write(lattices: list, formula: list[str], prototype: list[str]) -> Path:
        path = tmp_path_factory.mktemp("table") / "structures.npz"
        n = len(lattices)
        np.savez(
            path,
            lattice=np.array(lattices),
            numbers=np.tile([29, 8], n),
            positions=np.tile([[0, 0, 0], [0.5, 0.5, 0.5]], (n, 1)).astype(float),
            offsets=np.arange(0, 2 * n + 1, 2),
            formula=np.array(formula),
            prototype=np.array(prototype),
        )
        return path

    return write


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("PY4DSTEM_ML_DATA"):
        return
    absent = pytest.mark.skip(reason="set PY4DSTEM_ML_DATA to the folder of measured data")
    for item in items:
        if "data" in item.keywords:
            item.add_marker(absent)
