"""The demo, on a scan made here and with a stand-in for the network."""

import numpy as np
import py4DSTEM
import pytest
from correlation import Correlation, disk, draw

from py4dstem_ml import demo

SHAPE = (128, 128)


@pytest.fixture
def strained_scan():
    """A square lattice that is stretched along the rows from -1 to 1 % over the scan."""
    index = np.stack(np.meshgrid(np.arange(-3, 4), np.arange(-3, 4)), -1).reshape(-1, 2)
    height = np.random.default_rng(0).uniform(0.05, 0.5, len(index))
    height[len(index) // 2] = 2
    patterns = []
    for stretch in np.linspace(0.99, 1.01, 5):
        spots = 64 + index @ np.array([[16 * stretch, 0], [0, 16]])
        patterns.append(draw(SHAPE, np.column_stack([spots, height]), disk, 4))
    counts = np.random.default_rng(1).poisson(200 * np.stack(patterns)[None].repeat(3, 0))
    return demo.Scan(counts.astype(np.uint16), disk(SHAPE, 64, 64, 4), 0.02)


def test_the_demo_writes_vectors_and_figures(strained_scan, monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "embedded_scan", lambda: strained_scan)
    text = demo.run(tmp_path / "demo", model=Correlation(), device="cpu")
    assert "15 patterns" in text
    vectors = py4DSTEM.read(str(tmp_path / "demo" / "demo_bragg.h5"))
    assert type(vectors) is py4DSTEM.BraggVectors
    assert vectors.calibration.get_Q_pixel_size() == 0.02
    for figure in ("demo_peaks.png", "demo_strain.png"):
        content = (tmp_path / "demo" / figure).read_bytes()
        assert content.startswith(b"\x89PNG")


def test_the_callers_figures_and_backend_stay(strained_scan, monkeypatch, tmp_path):
    from matplotlib import pyplot

    monkeypatch.setattr(demo, "embedded_scan", lambda: strained_scan)
    pyplot.switch_backend("svg")
    mine, show = pyplot.figure(), pyplot.show
    try:
        demo.run(tmp_path, model=Correlation(), device="cpu")
        assert pyplot.get_backend() == "svg"
        assert pyplot.get_fignums() == [mine.number]
        assert pyplot.show is show
    finally:
        pyplot.close(mine)
        pyplot.switch_backend("Agg")


def test_the_demos_strain_is_that_of_the_scan(strained_scan):
    cube = py4DSTEM.DataCube(strained_scan.data)
    vectors = cube.find_bragg_disks_aiml(strained_scan.probe, model=Correlation(), device="cpu")
    strain = demo._strain(vectors)
    # A lattice that is stretched in diffraction is compressed in space.
    expected = np.linspace(0.01, -0.01, 5)[None].repeat(3, 0)
    np.testing.assert_allclose(strain["e_xx"], expected, atol=1e-3)
    np.testing.assert_allclose(strain["e_yy"], 0, atol=1e-3)
