"""Shared by all tests: no display, and the folder of measured data."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The measured data, for tests marked `data`."""
    return Path(os.environ["PY4DSTEM_ML_DATA"])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("PY4DSTEM_ML_DATA"):
        return
    absent = pytest.mark.skip(reason="set PY4DSTEM_ML_DATA to the folder of measured data")
    for item in items:
        if "data" in item.keywords:
            item.add_marker(absent)
