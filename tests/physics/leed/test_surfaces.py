"""Layers from coordinates, and the surfaces of silicon (001)."""

import numpy as np
import pytest
from leed.solids import HEAVY, LIGHT, SQUARE

from py4dstem_ml.physics.leed.stack import smallest_spacing
from py4dstem_ml.physics.leed.surfaces import layers_of, silicon, silicon_001


def bonds(surface):
    """Distances in Å of the nearest neighbours of each surface atom, the bulk's first too."""
    a = surface.bulk.lattice[0, 0]
    shifts = np.array([[i * a, 2 * j * a, 0] for i in range(-2, 3) for j in range(-2, 3)])
    atoms = np.concatenate([layer.positions for layer in surface.layers])
    below = [layer.positions + [0, j * a, 0] for layer in surface.bulk.layers for j in range(2)]
    every = np.concatenate([atoms, *below])
    distances = np.linalg.norm(every[:, None, None] - (atoms[:, None] + shifts), axis=-1)
    return [np.sort(one[one > 0.1]) for one in np.moveaxis(distances, 1, 0).reshape(len(atoms), -1)]


@pytest.mark.parametrize(("kind", "dimer"), [("symmetric", 2.30), ("buckled", 2.28)])
def test_atoms_of_a_dimer_surface_have_their_neighbours(kind, dimer):
    surface = silicon_001(kind)
    assert [len(layer.positions) for layer in surface.layers] == [4, 2, 2]
    upper, lower = surface.layers[0].positions[[1, 0]]
    assert np.linalg.norm(upper - lower) == pytest.approx(dimer, abs=0.005)
    for place, lengths in enumerate(bonds(surface)):
        count = 3 if place < 2 else 4
        assert lengths[count - 1] < 2.52 and lengths[count] > 2.8
        assert lengths[0] > 2.2


@pytest.mark.data
@pytest.mark.parametrize(("kind", "name"), [("symmetric", "sym_imposed"), ("buckled", "buckled")])
def test_coordinates_are_those_of_the_relaxed_slabs(data_folder, kind, name):
    slab = np.loadtxt(data_folder / "leed" / f"si001_2x1_{name}_keating.txt")
    surface = silicon_001(kind)
    found = np.concatenate([layer.positions for layer in surface.layers])
    np.testing.assert_allclose(found, slab[:8, 1:], atol=1.5e-3)
    below = slab[8:12, 1:].reshape(2, 2, 3)
    for layer, pair in zip(surface.bulk.layers, below, strict=True):
        off = (pair - layer.origin) / [3.8403, 3.8403, 1]
        assert np.abs(off - np.rint(off) * [1, 1, 0]).max() < 0.02


def test_displaced_dimers():
    for kind in ("symmetric", "buckled"):
        usual, moved = silicon_001(kind), silicon_001(kind, height=0.2, length=-0.1)
        before, after = (one.layers[0].positions for one in (usual, moved))
        np.testing.assert_allclose(after[:2].mean(0) - before[:2].mean(0), [0, 0, 0.2], atol=1e-12)
        lengths = [np.linalg.norm(one[1] - one[0]) for one in (before, after)]
        assert lengths[1] - lengths[0] == pytest.approx(-0.1)
        np.testing.assert_allclose(
            np.cross(before[1] - before[0], after[1] - after[0]), 0, atol=1e-9
        )
        assert (after[2:] == before[2:]).all()
        assert usual.layers[1:] == moved.layers[1:] and usual.bulk is moved.bulk


def test_the_bulk_truncated_surface():
    surface = silicon_001("1x1")
    assert smallest_spacing(surface) == pytest.approx(5.431 / 4)
    planes = [surface.layers[0], *surface.bulk.layers]
    for one, other in zip(planes, planes[1:], strict=False):
        step = one.origin - other.origin
        assert sorted(np.abs(step[:2]) % 3.8403) == pytest.approx([0, 5.431 / 8**0.5], abs=1e-3)


def test_dimers_may_move_more():
    surface = silicon_001(atom=LIGHT, dimer_atom=HEAVY)
    assert surface.layers[0].scatterers == (HEAVY, HEAVY, LIGHT, LIGHT)
    assert silicon().u_rms == 0.076 and silicon() is silicon()


def test_atoms_are_cut_into_layers():
    heights = [0.0, -2.0, -0.7, -3.0]
    places = [[0.1 * n, 0, z] for n, z in enumerate(heights)]
    layers = layers_of(SQUARE, places, [LIGHT, HEAVY, HEAVY, LIGHT])
    assert [layer.positions[:, 2].tolist() for layer in layers] == [[0, -0.7], [-2.0, -3.0]]
    assert layers[1].scatterers == (HEAVY, LIGHT)
    assert len(layers_of(SQUARE, places, LIGHT, spacing=0.9)) == 3


def test_unknown_surfaces_are_refused():
    with pytest.raises(ValueError, match="'symmetric', 'buckled' or '1x1'"):
        silicon_001("c(4x2)")
    with pytest.raises(ValueError, match="no dimers"):
        silicon_001("1x1", height=0.1)
