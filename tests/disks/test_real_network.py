"""The finder with the networks themselves, at random weights: what they ask for and give."""

import numpy as np
import pytest
import torch
from correlation import disk

from py4dstem_ml.disks import BraggDiskFinder
from py4dstem_ml.disks.network import SPECS, build_network


@pytest.mark.parametrize("name", [name for name in SPECS if name.endswith(".compact")])
def test_the_finder_serves_every_network(name):
    shape = (65, 90)
    probe = disk(shape, 32, 45, 4)
    torch.manual_seed(0)
    network = build_network(name).eval()
    torch.nn.init.normal_(network.head.weight, std=0.1)  # zero at first, which finds nothing
    patterns = np.random.default_rng(0).poisson(100 * np.stack([probe, probe[::-1]]) + 1)
    finder = BraggDiskFinder(probe, model=network, device="cpu")
    for found in finder.find(patterns):
        assert len(found) > 0
        assert found.shape[1] == 3
        assert np.isfinite(found).all()
    sampled = BraggDiskFinder(probe, model=network, device="cpu", mc_samples=3)
    one, two = sampled(patterns[0]), sampled.find(patterns)[0]
    assert one.shape[1] == 6
    assert len(one) > 0
    assert (one[:, 3:] > 0).any(axis=0).all()  # dropout spreads positions and intensities
    np.testing.assert_array_equal(one, two)
