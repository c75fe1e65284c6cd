"""CBLEED disks: as direction by direction, with their symmetry, in either geometry."""

from dataclasses import replace

import numpy as np
import pytest
from leed.solids import HEAVY, LIGHT, SQUARE

from py4dstem_ml.physics.leed import cbleed as module
from py4dstem_ml.physics.leed.cbleed import beams_up_to, cbleed, mirrors, semiangle_radius
from py4dstem_ml.physics.leed.layer import Layer
from py4dstem_ml.physics.leed.stack import Bulk, Surface, amplitudes
from py4dstem_ml.physics.leed.surfaces import silicon_001
from py4dstem_ml.physics.leed.waves import Settings, flux_ratio, reciprocal

FAST = Settings(lmax=4, beam_cutoff=1e-2)
BUCKLED = silicon_001("buckled")


def test_splines_lie_close_to_the_directions_between_nodes():
    energy = 60.0
    disks = cbleed(BUCKLED, energy, settings=FAST)
    k = np.array([[0.05, -0.21], [0.17, 0.3], [-0.1, 0.02], [-0.33, -0.05]])
    beams, waves = amplitudes(BUCKLED, energy, k, FAST)
    direct = waves[0].abs().square().numpy() * flux_ratio(BUCKLED.lattice, energy, k, beams)
    places = [int(np.flatnonzero((beams == b).all(1))[0]) for b in disks.beams]
    found = [
        [disks.intensities(n, ([[x]], [[y]]))[0, 0, 0] for n in range(len(places))] for x, y in k
    ]
    assert np.abs(found - direct[:, places]).sum() < 5e-3 * direct[:, places].sum()
    assert found[0] != found[1]


def test_mirrors_save_directions_and_change_nothing(monkeypatch):
    surface = silicon_001("symmetric", height=0.1)
    assert mirrors(surface) == (True, True) and mirrors(BUCKLED) == (True, False)
    asked = []
    real = module.amplitudes
    monkeypatch.setattr(
        module, "amplitudes", lambda *args: (asked.append(len(args[2])), real(*args))[1]
    )
    for one, count in ((surface, 9), (BUCKLED, 15)):
        few = cbleed(one, 50.0, nodes=5, settings=FAST)
        assert asked[-1] == count
        monkeypatch.setattr(module, "mirrors", lambda _: (False, False))
        every = cbleed(one, 50.0, nodes=5, settings=FAST)
        monkeypatch.setattr(module, "mirrors", mirrors)
        assert asked[-1] == 25
        np.testing.assert_allclose(
            few.reflectivity, every.reflectivity, atol=1e-10 * every.reflectivity.max()
        )


def test_a_glide_line_is_a_mirror_to_the_beams():
    cell = np.diag([2.9, 5.8])
    bulk = Bulk([Layer(SQUARE, [[0, 0, 0]], HEAVY)], [0, 0, -2.0])
    zigzag = Layer(cell, [[0.6, 0, 1.8], [-0.6, 2.9, 1.8]], LIGHT)
    assert mirrors(Surface([zigzag], bulk)) == (True, True)
    uneven = Layer(cell, zigzag.positions, [LIGHT, HEAVY])
    assert mirrors(Surface([uneven], bulk)) == (False, True)
    assert mirrors(Surface([zigzag.moved([0.3, 0.2, 0])], bulk)) == (False, False)
    oblique = Bulk([Layer([[2.9, 0], [0.4, 2.9]], [[0, 0, 0]], HEAVY)], [0, 0, -2.0])
    assert mirrors(Surface(oblique.layers, one_period_below(oblique))) == (False, False)


def one_period_below(bulk):
    return Bulk([one.moved(bulk.repeat) for one in bulk.layers], bulk.repeat)


def test_both_tilts_are_the_mean_of_two_surfaces():
    def turned(layer):
        return Layer(layer.lattice, layer.positions * [1, -1, 1], layer.scatterers)

    bulk = Bulk([turned(one) for one in BUCKLED.bulk.layers], BUCKLED.bulk.repeat)
    other = Surface([turned(one) for one in BUCKLED.layers], bulk)
    one, two = (cbleed(s, 45.0, nodes=5, settings=FAST) for s in (BUCKLED, other))
    mean = one.averaged_over_tilts()
    np.testing.assert_allclose(
        mean.reflectivity, 0.5 * (one.reflectivity + two.reflectivity), rtol=1e-8
    )
    assert (one.reflectivity != two.reflectivity).any()
    with pytest.raises(ValueError, match="centred on y = 0"):
        replace(one, centre=np.array([0.0, 0.1])).averaged_over_tilts()
    with pytest.raises(ValueError, match="mirror image"):
        lonely = replace(one, beams=one.beams[-1:], reflectivity=one.reflectivity[:, -1:])
        lonely.averaged_over_tilts()


def test_beams_end_where_they_no_longer_leave():
    # (2, 0) of the bulk's cell is 3.27 rad/Å away, beyond the vacuum's wave vector for k_x > 0.
    disks = cbleed(BUCKLED, 41.0, beams=beams_up_to(2, 0), nodes=5, settings=FAST)
    image = disks.images(48)[0, -1]
    x = (np.arange(48) - 23.5) * (2 * disks.radius / 48)
    k = 2 * reciprocal(BUCKLED.lattice)[0, 0] + x[:, None]
    leaves = np.hypot(k, x) ** 2 < 41.0 / 3.809982
    inside = np.hypot(x[:, None], x) < disks.radius - 0.02
    assert (image[inside & leaves] > 0).all() and (image[inside & ~leaves] == 0).all()
    assert 0.1 < leaves[inside].mean() < 0.9


def test_patterns_show_the_disks_at_their_places():
    disks = cbleed([BUCKLED, silicon_001("buckled", height=0.2)], 60.0, nodes=5, settings=FAST)
    pixel = 0.02
    whole = disks.pattern((221, 225), pixel)
    assert whole.shape == (2, 221, 225) and whole.dtype == np.float32
    single = disks.images(36)  # as large pixels, half a pixel apart
    for n, g in enumerate(disks.beams @ reciprocal(BUCKLED.lattice)):
        row, col = np.rint(g / pixel + [110, 112]).astype(int)
        part = whole[:, row - 19 : row + 20, col - 19 : col + 20]
        np.testing.assert_allclose(part.sum((1, 2)), single[:, n].sum((1, 2)), rtol=0.02)
    assert np.count_nonzero(whole[0]) == pytest.approx(15 * np.pi * 18**2, rel=0.06)
    assert np.abs(whole[0] - whole[1]).sum() > 0.1 * whole[0].sum()
    assert np.allclose(whole, whole[:, ::-1], atol=1e-6 * whole.max())  # the mirror in x


def test_a_tilted_cone_is_looked_at_from_aside():
    centre = (0.15, 0.1)
    straight = cbleed(BUCKLED, 50.0, settings=FAST)
    tilted = cbleed(BUCKLED, 50.0, centre=centre, radius=0.12, nodes=5, settings=FAST)
    k = (np.linspace(0.1, 0.2, 5)[:, None], np.linspace(0.05, 0.15, 5)[None])
    for n in (7, 3, 12):
        np.testing.assert_allclose(tilted.intensities(n, k), straight.intensities(n, k), rtol=0.05)


def test_the_semiangle_geometry():
    assert semiangle_radius(100.0, 70.0) == pytest.approx(0.5123 * 10 * np.sin(0.07), rel=1e-4)
    assert semiangle_radius(50.0, 70.0) < semiangle_radius(100.0, 70.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nodes": 3}, "4 nodes"),
        ({"radius": 0.0}, "above 0"),
        ({"beams": np.array([[30, 0]])}, r"beam \(30, 0\)"),
        ({"radius": 5.0}, "run in the vacuum"),
    ],
)
def test_bad_input_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        cbleed(BUCKLED, 50.0, settings=FAST, **options)


def test_overlapping_disks_make_no_pattern():
    disks = cbleed(BUCKLED, 60.0, radius=0.45, nodes=4, settings=FAST)
    with pytest.raises(ValueError, match="take one below 0.409"):
        disks.pattern((100, 100), 0.04)
    assert disks.images(8).shape == (1, 15, 8, 8)
    with pytest.raises(ValueError, match="2 pixels"):
        disks.images(1)
