"""Surfaces: reciprocity, mirrors, and the same solid cut into layers in different ways."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from leed.solids import HEAVY, LIGHT, OBLIQUE, SKEW, SQUARE, waves_of

from py4dstem_ml.physics.leed import stack
from py4dstem_ml.physics.leed.layer import Layer
from py4dstem_ml.physics.leed.stack import Bulk, Surface, amplitudes, smallest_spacing
from py4dstem_ml.physics.leed.waves import Settings, incidence, reciprocal, select_beams

SETTINGS = Settings(lmax=3)
#: A superlattice twice as large, with no symmetry.
CELL = np.array([[1, 0], [1, 2]]) @ OBLIQUE
TOP = Layer(CELL, [[0.2, 0.3, 2.4], [1.9, 3.1, 2.0]], [LIGHT, HEAVY])
MIDDLE = Layer(CELL, [[1.0, 1.2, 1.0], [0.4, 4.0, 0.9]], [HEAVY, HEAVY])
SURFACE = Surface([TOP, MIDDLE], SKEW)


def test_reciprocity():
    # A wave sent back along a beam leaves along the incident one, as strong.
    energy, k = 60.0, incidence(60.0, 11.0, 25.0)
    beams = select_beams(CELL, energy, smallest_spacing(SURFACE), SETTINGS, k)
    _, forth = amplitudes(SURFACE, energy, k, SETTINGS, beams)
    normal = waves_of(CELL, energy, k, beams, SETTINGS).normal[0]
    b = reciprocal(CELL)
    for n in range(1, 6):
        turned = np.concatenate([[[0, 0]], np.delete(beams[n] - beams, n, axis=0)])
        _, back = amplitudes(SURFACE, energy, -(k + beams[n] @ b), SETTINGS, turned)
        place = int(np.flatnonzero((turned == beams[n]).all(1))[0])
        there, here = forth[0, 0, n] * normal[n], back[0, 0, place] * normal[0]
        assert abs(there) > 1e-3
        np.testing.assert_allclose(here, there, rtol=1e-10)


def test_mirror_symmetry():
    cell = np.diag([2.9, 5.8])
    # Symmetric under x -> -x, not under y -> -y.
    bulk = Bulk(
        [Layer(SQUARE, [[0, 0, 0]], HEAVY), Layer(SQUARE, [[1.45, 1.2, -1.8]], LIGHT)], [0, 0, -3.6]
    )
    top = Layer(cell, [[0.7, 0.3, 2.0], [-0.7, 0.3, 2.0], [1.45, 2.9, 1.7]], [LIGHT, LIGHT, HEAVY])
    surface = Surface([top], bulk)
    k = np.array([[0.31, 0.12], [-0.31, 0.12], [0.31, -0.12]])
    beams, waves = amplitudes(surface, 45.0, k, SETTINGS)
    beams = select_beams(cell, 45.0, smallest_spacing(surface), SETTINGS)
    _, waves = amplitudes(surface, 45.0, k, SETTINGS, beams)
    mirrored = [int(np.flatnonzero((beams == b).all(1))[0]) for b in beams * [-1, 1]]
    one, other, third = waves[0]
    scale = one.abs().max()
    assert (one - other[mirrored]).abs().max() < 1e-10 * scale
    assert (one - third[mirrored]).abs().max() > 0.1 * scale


def test_layers_of_the_bulk_may_be_counted_to_the_surface():
    bulk = Bulk([one.moved([0.1, 0.2, 0.3]) for one in SKEW.layers], SKEW.repeat)
    k = incidence(50.0, 9.0, 50.0)
    clean = Surface(bulk.layers, Bulk([one.moved(bulk.repeat) for one in bulk.layers], bulk.repeat))
    one_off = Surface(
        bulk.layers[:1], Bulk([bulk.layers[1], bulk.layers[0].moved(bulk.repeat)], bulk.repeat)
    )
    found = [amplitudes(one, 50.0, k, SETTINGS)[1] for one in (clean, one_off)]
    np.testing.assert_allclose(*found, atol=1e-8 * found[0].abs().max())


def test_a_surface_without_reconstruction_is_the_same_in_a_supercell():
    layer, bulk = SKEW.layers[0].moved([0.4, 0.1, 2.1]), SKEW
    doubled = Layer(CELL, [layer.origin, layer.origin + np.append(OBLIQUE[1], 0)], HEAVY)
    k = incidence(50.0, 9.0, 50.0)
    beams = np.array(select_beams(OBLIQUE, 50.0, 1.5, SETTINGS, k))
    hk = beams @ np.array([[1, 0], [1, 2]]).T
    fractional = np.array([[0, 1], [1, 0]])
    _, expected = amplitudes(Surface([layer], bulk), 50.0, k, SETTINGS, beams)
    _, found = amplitudes(
        Surface([doubled], bulk), 50.0, k, SETTINGS, np.concatenate([hk, fractional])
    )
    np.testing.assert_allclose(found[..., :-2], expected, atol=1e-9)
    np.testing.assert_allclose(found[..., -2:], 0, atol=1e-9)


def test_many_directions_and_surfaces_are_as_one_by_one(monkeypatch):
    monkeypatch.setattr(stack, "_BLOCK", 2)
    other = Surface([TOP.moved([0, 0, 0.1]), MIDDLE], SKEW)
    k = np.array([incidence(50.0, 9.0, 50.0), incidence(50.0, 3.0, -20.0), [0, 0.1]])
    beams, together = amplitudes([SURFACE, other], 50.0, k, SETTINGS)
    assert together.shape == (2, 3, len(beams))
    for i, surface in enumerate((SURFACE, other)):
        for j in range(3):
            _, alone = amplitudes(surface, 50.0, k[j], SETTINGS, beams)
            np.testing.assert_allclose(together[i, j], alone[0, 0], atol=1e-12)


def test_waves_are_damped_from_the_potentials_edge():
    k = incidence(50.0, 9.0, 50.0)
    beams, near = amplitudes(SURFACE, 50.0, k, SETTINGS)
    _, far = amplitudes(SURFACE, 50.0, k, replace(SETTINGS, onset=2.0), beams)
    normal = waves_of(CELL, 50.0, k, beams, SETTINGS).normal[0]
    np.testing.assert_allclose(far[0, 0], near[0, 0] * torch.exp(0.75j * (normal + normal[0])))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    k = incidence(50.0, 9.0, 50.0)
    here, there = (
        amplitudes(SURFACE, 50.0, k, SETTINGS, device=device)[1].cpu() for device in ("cpu", "cuda")
    )
    np.testing.assert_allclose(here, there, atol=1e-10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Bulk(SKEW.layers, [0, 0, 3.0]), "z below 0"),
        (lambda: Bulk(SKEW.layers[::-1], SKEW.repeat), "from the top down"),
        (lambda: Bulk([], SKEW.repeat), "one layer at least"),
        (lambda: Surface([TOP, Layer(SQUARE, [[0, 0, 1.0]], HEAVY)], SKEW), "share one lattice"),
        (lambda: Surface([TOP.moved([0, 0, -3])], SKEW), "below those of the surface"),
        (lambda: Surface([Layer(SQUARE, [[0, 0, 1.0]], HEAVY)], SKEW), "whole-number sums"),
        (lambda: amplitudes([], 50.0, (0, 0)), "one surface at least"),
        (lambda: amplitudes(SURFACE, 50.0, (9.0, 0)), "run in the vacuum"),
        (lambda: amplitudes(SURFACE, 50.0, (0, 0), beams=np.array([[1, 0]])), "specular"),
        (lambda: amplitudes(SURFACE, 500.0, (0, 0)), "table"),
        (lambda: amplitudes(SURFACE, 50.0, (0, 0), Settings(absorption_ev=0.0)), "absorption_ev"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
