"""The notebooks run from top to bottom; they are kept small, with what measured data showed."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_kept_small_and_sound(path):
    assert path.stat().st_size < 800_000
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for out in (out for cell in notebook.cells for out in cell.get("outputs", [])):
        assert out["output_type"] != "error"
        assert "/tmp" not in out.get("text", "") and "/home" not in out.get("text", "")


def test_measured_data_are_shown():
    assert (FOLDER / "lacbed.ipynb").read_text("utf-8").count("image/png") >= 5
    text = (FOLDER / "symmetry.ipynb").read_text("utf-8")
    assert text.count("image/png") >= 4 and "LiMn2O4" in text


def test_it_runs(notebook, tmp_path, monkeypatch):
    monkeypatch.delenv("MPLBACKEND")  # the kernel's own shows figures as outputs
    NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    shown = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    assert any("image/png" in out.get("data", {}) for out in shown)
