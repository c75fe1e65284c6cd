"""Refinement: what it recovers, keeps and refuses."""

import numpy as np
import pytest
from tiny_lacbed import CSCL, FCC

from py4dstem_ml.lacbed import refine
from py4dstem_ml.lacbed.natural import optical_potential, strength_per_volt
from py4dstem_ml.lacbed.refine import refine_potential
from py4dstem_ml.physics.crystal import Crystal
from py4dstem_ml.physics.lacbed import lacbed
from py4dstem_ml.physics.projection import projected_potential

ENERGY = 200e3


@pytest.fixture
def few_beams(monkeypatch):
    monkeypatch.setattr(refine, "FINE", {1: 5, 2: 6, 4: 8})


def _lithium_aluminium():
    """A potential, its pattern, and what refining is told of them."""
    crystal = Crystal.cubic(3.8, [3, 13], CSCL)
    given = {"a": 3.8, "thickness": 400.0, "half_width": 2.0, "highest": 5, "progress": False}
    truth = projected_potential(crystal, 16).potential
    pattern = refine_potential(truth, np.eye(16) + 1, steps=0, **given).pattern
    return truth, pattern, given


@pytest.mark.usefixtures("few_beams")
def test_a_distorted_potential_is_recovered():
    truth, pattern, given = _lithium_aluminium()
    spectrum = np.fft.fft2(truth)
    for place in ((1, 0), (0, 1), (-1, 0), (0, -1)):
        spectrum[place] *= 0.9
    for place in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        spectrum[place] *= 1.1
    start = np.fft.ifft2(spectrum).real
    found = refine_potential(start, 40.0 * pattern + 3.0, steps=10, **given)
    assert found.likeness_before < 0.99 and found.likeness > 0.9995
    errors = [np.abs(p - truth).max() for p in (start, found.potential)]
    assert errors[1] < 0.3 * errors[0]
    np.testing.assert_allclose(found.pattern, pattern, atol=0.05)
    assert found.potential.shape == found.pattern.shape == (16, 16)
    assert found.potential.dtype == found.pattern.dtype == np.float32


@pytest.mark.usefixtures("few_beams")
def test_refining_goes_on_after_a_step_that_was_too_long():
    truth, pattern, given = _lithium_aluminium()
    found = [refine_potential(1.3 * truth, pattern, steps=n, **given).likeness for n in (0, 1, 10)]
    assert found[0] < found[1] - 0.01 < found[2] - 0.05 and found[2] > 0.98


def test_absorption_is_counted_in():
    gold = Crystal.cubic(4.08, [79] * 4, FCC)
    potential = projected_potential(gold, 32).potential
    absorbed = optical_potential(gold, 32, ENERGY).imag / strength_per_volt(4.08, ENERGY)
    given = {"a": 4.08, "thickness": 500.0, "half_width": 2.0, "progress": False}
    disks = lacbed(gold, (0, 0, 1), ENERGY, [500.0], half_width=2 / 4.08, pixels=16)
    pattern = disks.images[0, 0]
    found, guessed, without = (
        refine_potential(potential, pattern, steps=0, **given, **absorption)
        for absorption in ({"absorbed": absorbed}, {}, {"absorption": False})
    )
    assert found.likeness > 0.995 and found.likeness > guessed.likeness > without.likeness
    # What is right is left so, and what is wrong by a tenth found.
    for start in (potential, 1.1 * potential):
        near = refine_potential(start, pattern, steps=5, absorbed=absorbed, **given)
        assert near.likeness > 0.995
        assert near.potential.std() == pytest.approx(potential.std(), rel=0.03)


def test_no_steps_only_compare():
    crystal = Crystal.cubic(4.29, [11] * 2, CSCL)
    potential = projected_potential(crystal, 24).potential
    disks = lacbed(
        crystal, (0, 0, 1), ENERGY, [400.0], half_width=2 / 4.29, pixels=16, absorption=False
    )
    found = refine_potential(
        potential, disks.images[0, 0], a=4.29, thickness=400.0, half_width=2.0, steps=0,
        absorption=False,
    )  # fmt: skip
    assert found.likeness == found.likeness_before > 0.999
    np.testing.assert_allclose(found.potential, potential, atol=1e-3 * np.ptp(potential))


@pytest.mark.usefixtures("few_beams")
def test_refined_potentials_keep_their_mirrors_and_extinctions():
    crystal = Crystal.cubic(4.05, [13] * 4, FCC)
    potential = projected_potential(crystal, 16).potential
    pattern = refine_potential(
        1.2 * potential, np.eye(16) + 1, a=4.05, thickness=300.0, half_width=2.0, steps=0
    ).pattern
    # As a network reads it: with a little of everything. Face centring stays.
    noise = np.random.default_rng(0).normal(size=(8, 8))
    read = potential + 0.02 * np.ptp(potential) * np.tile(noise, (2, 2))
    found = refine_potential(
        read, pattern, a=4.05, thickness=300.0, half_width=2.0, steps=4, progress=False
    )
    assert found.likeness > found.likeness_before
    flipped = -np.arange(16) % 16
    tolerance = 1e-4 * np.ptp(found.potential)
    for other in (found.potential[flipped], found.potential[:, flipped], found.potential.T):
        np.testing.assert_allclose(found.potential, other, atol=tolerance)
    np.testing.assert_allclose(found.potential, np.roll(found.potential, 8, 0), atol=tolerance)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"potential": np.stack([np.eye(16)] * 2)}, "one potential is refined at a time"),
        ({"pattern": np.ones((16, 12))}, r"a pattern is a square picture.*\(16, 12\)"),
        ({"pattern": np.ones((16, 16))}, "the pattern is constant"),
        ({"pattern": np.ma.masked_less(np.eye(16), 0.5)}, "the pattern is masked"),
        ({"pattern": np.eye(16), "pixel_size": 0.01}, "only|looked at"),
        ({"potential": np.full((16, 16), np.nan)}, "the potential holds NaN"),
        ({"pattern": np.full((16, 16), np.inf)}, "the pattern holds NaN"),
        ({"pattern": np.eye(18)}, "whole number of pixels"),
        ({"pattern": np.eye(15)}, "whole number of pixels"),
        ({"absorbed": np.eye(8)}, r"shape \(8, 8\), the potential \(16, 16\)"),
    ],
)
def test_bad_pictures_are_refused(change, message):
    given = {"potential": np.eye(16), "pattern": np.eye(16), **change}
    with pytest.raises(ValueError, match=message):
        refine_potential(**given, a=4.0, thickness=400.0, half_width=2.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": 0.0}, "a = 0 Å.* must be positive"), ({"a": -4.0}, "a = -4 Å"),
        ({"a": np.nan}, "a = nan Å"), ({"a": np.inf}, "a = inf Å"),
        ({"thickness": 0.0}, "thickness = 0 Å"), ({"thickness": -400.0}, "thickness = -400 Å"),
        ({"thickness": np.nan}, "thickness = nan Å"), ({"energy_ev": 200.0}, "200 V, above 10 kV"),
        ({"energy_ev": -200e3}, "-200000 V, above 10 kV"), ({"energy_ev": np.nan}, "nan V"),
        ({"steps": -1}, "steps = -1 must be positive"),
    ],
)  # fmt: skip
def test_conditions_that_cannot_be_are_refused(change, message):
    given = {"a": 4.0, "thickness": 400.0, "half_width": 2.0, "steps": 0, **change}
    with pytest.raises(ValueError, match=message) as error:
        refine_potential(np.eye(16), np.eye(16), **given)
    assert "\n" not in str(error.value)


@pytest.fixture
def read():
    """A potential of lithium aluminide and a pattern without mirrors that it half explains."""
    potential = projected_potential(Crystal.cubic(3.8, [3, 13], CSCL), 16).potential
    given = {"a": 3.8, "thickness": 400.0, "half_width": 2.0, "progress": False}
    seen = refine_potential(1.2 * potential, np.eye(16), steps=0, **given).pattern
    noise = np.random.default_rng(0).normal(size=(16, 16))
    return potential, seen + seen.std() * noise, given


@pytest.mark.usefixtures("few_beams")
def test_likenesses_are_of_the_whole_pattern(read):
    potential, pattern, given = read
    before = refine_potential(potential, pattern, steps=0, **given)
    after = refine_potential(potential, pattern, steps=2, **given)
    for said, picture in (
        (after.likeness_before, before.pattern), (after.likeness, after.pattern),
    ):  # fmt: skip
        correlation = np.corrcoef(picture.ravel(), pattern.ravel())[0, 1]
        assert said == pytest.approx((1 + correlation) / 2, abs=1e-5)
        # That of the quadrants' mean is another.
        folded = sum(np.flip(pattern, axes) for axes in ((), (0,), (1,), (0, 1)))
        folded = np.corrcoef(picture.ravel(), folded.ravel())[0, 1]
        assert abs((1 + folded) / 2 - said) > 0.02


@pytest.mark.usefixtures("few_beams")
def test_a_pattern_of_finer_pixels_that_reaches_farther_is_resampled(read):
    potential, _, given = read
    truth = {**given, "steps": 0}
    exact = refine_potential(potential, np.eye(16), **truth).pattern
    # Each pixel as two by two, and a frame around that is looked past.
    finer = np.pad(np.kron(exact, np.ones((2, 2))), 8, mode="edge")
    size = 2 * 2.0 / (32 * given["a"])
    found = refine_potential(potential, finer, pixel_size=size, **truth)
    assert found.pattern.shape == (16, 16) and found.likeness > 0.98
    told_wrong = refine_potential(potential, finer, **truth)
    assert told_wrong.likeness < found.likeness - 0.1


@pytest.mark.parametrize("unit", [1e-20, 1e25])
@pytest.mark.usefixtures("few_beams")
def test_the_unit_of_a_pattern_does_not_count(unit, read):
    potential, pattern, given = read
    one = refine_potential(potential, pattern, steps=2, **given)
    other = refine_potential(potential, unit * pattern, steps=2, **given)
    assert other.likeness == pytest.approx(one.likeness, abs=1e-4)
    np.testing.assert_allclose(other.potential, one.potential, atol=1e-3 * np.ptp(one.potential))
