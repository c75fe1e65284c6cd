"""LACBED disks against the engine that takes one direction at a time, and against symmetry."""

import numpy as np
import pytest
import torch

from py4dstem_ml.physics import lacbed as module
from py4dstem_ml.physics.bloch import Beams, diffract, reflections
from py4dstem_ml.physics.crystal import Crystal
from py4dstem_ml.physics.lacbed import Zone, lacbed

FCC = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
SILICON = Crystal.cubic(5.431, [14] * 8, np.concatenate([FCC, FCC + 0.25]))
#: No inversion centre, and none in projection along [110].
GAAS = Crystal.cubic(5.653, [31] * 4 + [33] * 4, np.concatenate([FCC, FCC + 0.25]))
TRICLINIC = Crystal(
    [[4.0, 0, 0], [-0.7, 4.6, 0], [0.5, 0.8, 5.0]], [28, 14, 8],
    [[0, 0, 0], [0.4, 0.1, 0.2], [0.1, 0.7, 0.3]],
)  # fmt: skip
THICKNESSES = [300.0, 1000.0]


def one_by_one(crystal, disks, pixel, q_max, layers=0, absorption=False):
    """Intensities (t, r) at a pixel, from all beams about the zone axis."""
    step = np.array(pixel) - 0.5 * (disks.images.shape[-1] - 1)
    k = step * disks.pixel_size
    hkl = reflections(crystal, q_max + 0.5)
    g = hkl @ crystal.reciprocal.numpy() @ disks.orientation
    spacing = min((abs(z) for z in g[:, 2] if abs(z) > 1e-6), default=np.inf)
    layer = np.rint(g[:, 2] / spacing)
    kept = (np.linalg.norm(k + g[:, :2], axis=1) <= q_max) & (layer >= 0) & (layer <= layers)
    beams = Beams(hkl[kept], torch.from_numpy(g[kept]))
    wave = diffract(
        crystal, beams, 200e3, disks.thicknesses, incidence=torch.from_numpy(k[None]),
        absorption=absorption, dtype=torch.complex128,
    )  # fmt: skip
    rows = [int(np.flatnonzero((beams.hkl == one).all(1))[0]) for one in disks.hkl]
    return wave[:, rows, 0].abs().square().numpy()


@pytest.mark.parametrize("absorption", [False, True])
@pytest.mark.parametrize(
    ("crystal", "zone", "pixels", "looked_at"),
    [
        (SILICON, (0, 0, 1), 16, [(0, 0, 0), (2, 2, 0), (4, 0, 0)]),
        (SILICON, (0, 0, 1), 15, [(0, 0, 0), (2, 2, 0)]),
        (GAAS, (0, 0, 1), 16, [(0, 0, 0), (4, 0, 0), (2, 2, 0)]),
        (GAAS, (1, 1, 0), 16, [(0, 0, 0), (1, -1, 1), (1, -1, -1)]),
        (GAAS, (1, 1, 1), 16, [(0, 0, 0), (2, -2, 0), (0, 2, -2)]),
        (TRICLINIC, (0, 0, 1), 16, [(0, 0, 0), (0, 1, 0), (-2, 1, 0)]),
    ],
)
def test_all_directions_are_as_each_by_itself(crystal, zone, pixels, looked_at, absorption):
    side = np.linalg.norm(Zone.of(crystal, zone).vectors[0])
    disks = lacbed(
        crystal, zone, 200e3, THICKNESSES, half_width=pixels / 2 * side / 9, pixels=pixels,
        reflections=looked_at, q_max=2.2, absorption=absorption, dtype=torch.float64,
    )  # fmt: skip
    # There couplings are divided by the normal component of the incident wave, here by those of
    # both beams; where splines lie between, they are the larger error.
    tolerance = 4e-3 if zone == (0, 0, 1) and crystal is not TRICLINIC else 0.015
    for pixel in ((8, 8), (3, 12), (10, 6)):
        expected = one_by_one(crystal, disks, pixel, 2.2, absorption=absorption)
        found = disks.images[:, :, pixel[0], pixel[1]]
        np.testing.assert_allclose(found, expected, atol=tolerance)
    weakest = disks.images.amax((2, 3)).min()
    assert weakest > 2 * tolerance  # all disks have something to show


def test_higher_layers():
    tall = Crystal(np.diag([3.0, 3.0, 12.0]), [79, 29], [[0, 0, 0], [0.5, 0.5, 0.2]], b_iso=0.2)
    options = {"half_width": 4 / 9 / 3, "pixels": 8, "q_max": 3.0, "absorption": False}
    disks = lacbed(tall, (0, 0, 1), 200e3, [200.0, 800.0], layers=1, **options)
    flat = lacbed(tall, (0, 0, 1), 200e3, [200.0, 800.0], **options)
    for pixel in ((3, 3), (1, 6)):
        expected = one_by_one(tall, disks, pixel, 3.0, layers=1)
        np.testing.assert_allclose(disks.images[:, :, pixel[0], pixel[1]], expected, atol=5e-3)
    assert (disks.images - flat.images).abs().max() > 0.01


def test_layers_are_counted_where_there_are_reflections():
    # Along [110] every other layer of a face-centred cell is empty.
    options = {"half_width": 0.15, "pixels": 4, "q_max": 1.2, "absorption": False}
    zone = Zone.of(SILICON, (1, 1, 0))
    assert (
        module._layer_period(zone) == 2 and module._layer_period(Zone.of(SILICON, (0, 0, 1))) == 1
    )
    with_one = lacbed(SILICON, (1, 1, 0), 200e3, [800.0], layers=1, max_beams=500, **options)
    without = lacbed(SILICON, (1, 1, 0), 200e3, [800.0], **options)
    assert with_one.beams > without.beams and (with_one.images != without.images).any()


def test_a_supercell_changes_nothing():
    gold = Crystal.cubic(4.08, [79] * 4, FCC)
    shifts = np.array([[i, j, 0] for i in range(2) for j in range(2)])
    large = Crystal(
        np.diag([8.16, 8.16, 4.08]), [79] * 16,
        ((FCC[:, None] + shifts) / [2, 2, 1]).reshape(-1, 3),
    )  # fmt: skip
    options = {"half_width": 64 / 9 / 4.08, "pixels": 16, "q_max": 2.0}
    one = lacbed(gold, (0, 0, 1), 200e3, [400.0], reflections=[(0, 0, 0), (2, 0, 0)], **options)
    two = lacbed(large, (0, 0, 1), 200e3, [400.0], reflections=[(0, 0, 0), (4, 0, 0)], **options)
    np.testing.assert_allclose(one.images, two.images, atol=1e-3)


def test_absorption_mixes_what_is_excited(monkeypatch):
    gold = Crystal.cubic(4.08, [79] * 4, FCC, b_iso=0.6)
    options = {"half_width": 4 / 9 / 4.08, "pixels": 8, "q_max": 5.0}
    some = lacbed(gold, (0, 0, 1), 200e3, [300.0, 1500.0], **options)
    monkeypatch.setattr(module, "_EXCITED", -1.0)
    every = lacbed(gold, (0, 0, 1), 200e3, [300.0, 1500.0], **options)
    np.testing.assert_allclose(some.images, every.images, atol=1e-3)
    monkeypatch.setattr(module, "_EXCITED", 1.0)
    none = lacbed(gold, (0, 0, 1), 200e3, [300.0, 1500.0], **options)
    assert (none.images - every.images).abs().max() > 0.01  # there is something to mix


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    options = {"half_width": 0.4, "pixels": 12}
    here, there = (
        lacbed(GAAS, (0, 0, 1), 200e3, THICKNESSES, device=device, **options).images
        for device in ("cpu", "cuda")
    )
    np.testing.assert_allclose(here, there, atol=2e-3)


def test_symmetry_saves_work_and_changes_nothing(monkeypatch):
    options = {"half_width": 6 / 5 / 5.653, "pixels": 12, "reflections": [(0, 0, 0), (2, 2, 0)]}
    solved = []
    solve = module._Solver.intensities
    monkeypatch.setattr(
        module._Solver, "intensities", lambda *args: solved.append(1) or solve(*args)
    )
    with_all = lacbed(GAAS, (0, 0, 1), 200e3, THICKNESSES, q_max=1.5, **options).images
    few = len(solved)
    monkeypatch.setattr(module, "_operations", lambda *_: [np.eye(3, dtype=np.int64)])
    without = lacbed(GAAS, (0, 0, 1), 200e3, THICKNESSES, q_max=1.5, **options).images
    assert few < 0.25 * (len(solved) - few)
    np.testing.assert_allclose(with_all, without, atol=2e-4)


def test_bright_field_of_silicon_has_its_zones_symmetry(monkeypatch):
    monkeypatch.setattr(module, "_operations", lambda *_: [np.eye(3, dtype=np.int64)])
    image = lacbed(SILICON, (0, 0, 1), 200e3, [500.0], half_width=0.6, pixels=30, q_max=1.5).images
    image = image[0, 0]
    assert image.std() > 0.05
    for other in (image.T, image.flip(0), image.rot90()):
        np.testing.assert_allclose(image, other, atol=2e-3)


def test_nothing_is_lost_without_absorption():
    gold = Crystal.cubic(4.08, [79] * 4, FCC)
    hkl = [(h, k, 0) for h in range(-10, 11, 2) for k in range(-10, 11, 2)]
    disks = lacbed(
        gold, (0, 0, 1), 200e3, [0.0, 400.0], half_width=0.2, pixels=6, reflections=hkl, q_max=1.5,
        absorption=False,
    )  # fmt: skip
    total = disks.images.sum(1)  # what is beyond the listed beams is little
    assert total.max() < 1 + 1e-5 and total.min() > 0.999
    np.testing.assert_allclose(disks.images[0, hkl.index((0, 0, 0))], 1.0, atol=1e-5)


def test_few_beams_are_those_that_matter():
    options = {"half_width": 0.4, "pixels": 20, "absorption": False}
    every = lacbed(SILICON, (0, 0, 1), 200e3, [500.0], q_max=4.0, **options)
    some = lacbed(SILICON, (0, 0, 1), 200e3, [500.0], q_max=4.0, max_beams=120, **options)
    assert some.beams == 120 < every.beams
    assert np.corrcoef(some.images.ravel(), every.images.ravel())[0, 1] > 0.999


def _intermetallic(a=3.6):
    return Crystal.cubic(a, [38, 78], [[0, 0, 0], [0.5, 0.5, 0.5]])


@pytest.mark.parametrize("used", [True, False])
def test_disks_of_a_primitive_crystal_have_their_symmetry(used, monkeypatch):
    if not used:
        monkeypatch.setattr(module, "_operations", lambda *_: [np.eye(3, dtype=np.int64)])
    disks = lacbed(
        _intermetallic(), (0, 0, 1), 200e3, [500.0], half_width=0.6, pixels=12, absorption=False,
        reflections=[(0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0), (-1, 0, 0)], max_beams=300,
    )  # fmt: skip
    bright, along, across, diagonal, opposite = disks.images[0]
    assert min(image.std() for image in disks.images[0]) > 0.03
    options = {"atol": 2e-3, "rtol": 0}
    for other in (bright.T, bright.flip(0), bright.flip(1)):
        torch.testing.assert_close(bright, other.contiguous(), **options)
    torch.testing.assert_close(along, along.flip(1), **options)
    torch.testing.assert_close(along, across.T.contiguous(), **options)
    torch.testing.assert_close(along, opposite.flip(0), **options)
    torch.testing.assert_close(diagonal, diagonal.T.contiguous(), **options)


def test_what_is_looked_at_does_not_change_the_bright_field():
    options = {"half_width": 0.6, "pixels": 12, "absorption": False, "max_beams": 300}
    alone = lacbed(_intermetallic(), (0, 0, 1), 200e3, [500.0], **options).images
    beside = lacbed(
        _intermetallic(), (0, 0, 1), 200e3, [500.0], reflections=[(0, 0, 0), (2, 0, 0)], **options
    ).images
    torch.testing.assert_close(alone[:, 0], beside[:, 0], atol=5e-3, rtol=0)


@pytest.mark.parametrize("absorption", [False, True])
def test_weak_beams_count_as_a_perturbation(absorption, monkeypatch):
    options = {"half_width": 0.6, "pixels": 12, "absorption": absorption, "q_max": 3.5}
    options["reflections"] = [(0, 0, 0), (1, 0, 0), (1, 1, 0)]

    def disks(max_beams):
        return lacbed(_intermetallic(), (0, 0, 1), 200e3, [200.0, 500.0], max_beams=max_beams,
                      **options)  # fmt: skip

    every, some = disks(2000), disks(300)
    assert some.beams < 0.7 * every.beams
    monkeypatch.setattr(module._Solver, "_through", lambda *_: 0.0)
    none = disks(300)
    errors = [float((other.images - every.images).abs().max()) for other in (some, none)]
    assert errors[0] < 0.02 and errors[0] < 0.5 * errors[1]


def test_beams_that_are_no_perturbation_are_kept_however_few_are_asked_for():
    options = {"half_width": 0.3, "pixels": 8, "absorption": False}
    few = lacbed(SILICON, (0, 0, 1), 200e3, [300.0], max_beams=3, **options)
    every = lacbed(SILICON, (0, 0, 1), 200e3, [300.0], **options)
    assert 3 < few.beams < every.beams
    assert np.corrcoef(few.images.ravel(), every.images.ravel())[0, 1] > 0.99


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"zone": (0, 0, 0)}, "not all of them zero"),
        ({"zone": (0, 0.5, 1)}, "three whole numbers"),
        ({"reflections": [(1, 1, 1)]}, "normal to the zone"),
        ({"thicknesses": [-5.0]}, "not negative"),
        ({"half_width": 0.0}, "above 0"),
        ({"half_width": 30.0}, "below 19.9"),
        ({"reflections": [(0.5, 0, 0)]}, "whole numbers"),
        ({"reflections": []}, "one at least"),
        ({"reflections": [(1, 0, -1, 0)]}, "rows of whole numbers h, k, l"),
        ({"pixels": 0}, "pixels, 0, must be above 0"),
        ({"layers": -1}, "layers, -1, not below"),
        ({"max_beams": 0}, "max_beams"),
        ({"max_beams": -1}, "max_beams"),
    ],
)
def test_bad_input_is_refused(change, message):
    given = {"zone": (0, 0, 1), "thicknesses": [100.0], "half_width": 0.5, "pixels": 8, **change}
    zone, thicknesses = given.pop("zone"), given.pop("thicknesses")
    with pytest.raises(ValueError, match=message):
        lacbed(SILICON, zone, 200e3, thicknesses, **given)
