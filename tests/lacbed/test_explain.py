"""Explanations: whose potential is taken, and what is told of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_lacbed import CSCL, FCC

from py4dstem_ml import Crystal
from py4dstem_ml.lacbed.atlas import Atlas
from py4dstem_ml.lacbed.bragg_lines import unfolded
from py4dstem_ml.lacbed.bright_field import BrightField, coefficients_of
from py4dstem_ml.lacbed.explain import best_explained
from py4dstem_ml.lacbed.natural import depth, optical_potential, strength_per_volt
from py4dstem_ml.physics.electrons import wavelength
from py4dstem_ml.physics.lacbed import lacbed
from py4dstem_ml.physics.projection import projected_potential

AT = {"a": 4.05, "thickness": 200.0, "energy_ev": 200e3, "half_width": 2.0, "absorption": False}


#: Of the table, by their numbers there.
KNOWN = range(6)


@pytest.fixture(scope="module")
def atlas(atlas_file):
    """Of the crystals that networks are trained on."""
    whole = Atlas.load(atlas_file)
    return whole.only({whole.names[number] for number in KNOWN})


@pytest.fixture(scope="module")
def aluminium(data):
    """The exact pattern at 200 Å of a crystal of the atlas."""
    (row,) = np.flatnonzero(data.material_id == "mp-1")
    return unfolded(data.patterns[row, 0].float()).numpy()


@pytest.fixture(scope="module")
def potential():
    return projected_potential(Crystal.cubic(4.05, [13] * 4, FCC), 16).potential


@pytest.fixture(scope="module")
def noise():
    """A reading that is wrong."""
    return 20.0 * np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)


def _quick(potential, a, thickness, energy_ev):
    """The bright field with few beams."""
    u = torch.from_numpy(potential) * strength_per_volt(a, energy_ev)
    tau = torch.tensor([depth(a, thickness, energy_ev)])
    return unfolded(BrightField(16, 2.0, cell_pixels=16)(coefficients_of(u), tau)[0]).numpy()


def test_the_known_crystal_of_a_pattern_explains_it(atlas, aluminium, noise, potential):
    found = best_explained(aluminium, noise, atlas, **AT)
    assert found.crystal.name.endswith("(mp-1)") and found.likeness > 0.999
    assert found.crystal.numbers.tolist() == [13] * 4
    np.testing.assert_allclose(found.potential, potential, atol=1e-4 * np.ptp(potential))
    np.testing.assert_allclose(found.pattern, aluminium, atol=0.02)
    assert found.potential.dtype == found.pattern.dtype == np.float32


def test_a_reading_that_is_right_goes_before_known_crystals(atlas):
    held_out = projected_potential(Crystal.cubic(4.0, [11, 17], CSCL), 16).potential
    pattern = _quick(held_out, 4.0, 300.0, 200e3)
    found = best_explained(
        pattern, held_out.astype(np.float32), atlas, **{**AT, "a": 4.0, "thickness": 300.0}
    )
    assert found.crystal is None and found.likeness > 0.9999
    np.testing.assert_allclose(found.potential, held_out, atol=1e-4 * np.ptp(held_out))


def test_a_reading_of_the_wrong_strength_does_not(atlas, aluminium, potential):
    found = best_explained(aluminium, 2 * potential.astype(np.float32), atlas, **AT)
    assert found.crystal is not None
    np.testing.assert_allclose(found.potential, potential, atol=1e-4 * np.ptp(potential))


def test_likeness_is_that_of_the_pattern_that_is_told(atlas, data, noise):
    # Of a crystal that is held out: nothing explains it fully.
    (row,) = np.flatnonzero(data.material_id == "mp-8")
    pattern = unfolded(data.patterns[row, 1].float()).numpy()
    found = best_explained(pattern, noise, atlas, **{**AT, "a": 4.0, "thickness": 600.0})
    correlation = np.corrcoef(found.pattern.ravel(), pattern.ravel())[0, 1]
    assert found.likeness == pytest.approx((1 + correlation) / 2, abs=1e-5)
    assert 0.6 < found.likeness < 0.99


def test_the_pattern_that_is_told_is_the_potentials(atlas, data, noise):
    (row,) = np.flatnonzero(data.material_id == "mp-8")
    pattern = unfolded(data.patterns[row, 1].float()).numpy()
    found = best_explained(pattern, noise, atlas, **{**AT, "a": 4.0, "thickness": 600.0})
    again = _quick(found.potential, 4.0, 600.0, 200e3)
    np.testing.assert_allclose(found.pattern, again, atol=2e-3)


def test_the_scale_and_the_offset_of_a_pattern_do_not_count(atlas, aluminium, noise):
    one, other = (best_explained(x, noise, atlas, **AT) for x in (aluminium, 7 * aluminium + 3))
    assert other.likeness == pytest.approx(one.likeness, abs=1e-5)
    np.testing.assert_allclose(other.potential, one.potential)


def test_patterns_of_absorbing_crystals_are_explained_with_absorption(atlas, noise):
    copper = Crystal.cubic(3.61, [29] * 4, FCC)
    (pattern,) = lacbed(
        copper, (0, 0, 1), 200e3, [600.0], half_width=2 / 3.61, pixels=16
    ).images[0].numpy()  # fmt: skip
    potential = projected_potential(copper, 16).potential
    given = {**AT, "a": 3.61, "thickness": 600.0}
    found, without = (
        best_explained(pattern, noise, atlas, **{**given, "absorption": on}) for on in (True, False)
    )
    assert found.likeness > max(0.95, without.likeness + 0.02)
    assert without.absorbed is None and found.absorbed.shape == (16, 16)
    u = optical_potential(copper, 16, 200e3).imag / strength_per_volt(3.61, 200e3)
    np.testing.assert_allclose(found.absorbed, u, atol=1e-4 * float(u.max()))
    assert found.crystal.name.endswith("(mp-2)")
    np.testing.assert_allclose(found.potential, potential, atol=1e-4 * np.ptp(potential))
    # As bright as it is, not only alike.
    assert found.pattern.mean() == pytest.approx(pattern.mean(), rel=0.15)
    # A reading, whose atoms are not known, absorbs a share of it.
    read = best_explained(
        pattern, potential.astype(np.float32), atlas.only(()), **{**given, "absorption": True}
    )
    assert read.crystal is None and read.likeness > 0.93


def test_a_known_crystal_counts_at_other_lattice_constants(atlas, noise):
    """Patterns do not tell a from strength: V a and t / a^2 are all they show."""
    copper = projected_potential(Crystal.cubic(3.61, [29] * 4, FCC), 16).potential
    pattern = _quick(copper, 3.61, 300.0, 200e3)
    wider = {"a": 4.0, "thickness": 300.0 * (4.0 / 3.61) ** 2}
    found = best_explained(pattern, noise, atlas, **{**AT, **wider})
    assert found.crystal.name.endswith("(mp-2)") and found.likeness > 0.9999
    expected = copper * 3.61 / 4.0
    np.testing.assert_allclose(found.potential, expected, atol=1e-4 * np.ptp(expected))


def test_other_voltages_are_counted_in(atlas, potential, noise):
    given = {"a": 4.05, "thickness": 150.0, "energy_ev": 80e3}
    found = best_explained(_quick(potential, **given), noise, atlas, **{**AT, **given})
    assert found.crystal.name.endswith("(mp-1)") and found.likeness > 0.9999
    np.testing.assert_allclose(found.potential, potential, atol=1e-4 * np.ptp(potential))


def test_candidates_are_judged_by_their_patterns_not_by_what_found_them(atlas, aluminium, noise):
    # Waves of the next crystal: the right one is not the nearest.
    wrong = replace(atlas, levels=atlas.levels.roll(1, 0), shares=atlas.shares.roll(1, 0))
    first = best_explained(aluminium, noise, wrong, **AT, candidates=1)
    every = best_explained(aluminium, noise, wrong, **AT, candidates=6)
    assert first.crystal is None or not first.crystal.name.endswith("(mp-1)")
    assert every.crystal.name.endswith("(mp-1)") and every.likeness > first.likeness


def test_likeness_of_a_pattern_without_mirrors_is_of_the_whole(atlas, aluminium, noise):
    oblique = aluminium * np.linspace(0.4, 1.6, 16, dtype=np.float32)[:, None]
    found = best_explained(oblique, noise, atlas, **AT)
    correlation = np.corrcoef(found.pattern.ravel(), oblique.ravel())[0, 1]
    assert found.likeness == pytest.approx((1 + correlation) / 2, abs=1e-5)
    # The quadrants' mean is just what the crystal's own pattern is.
    folded = 0.25 * sum(np.flip(oblique, axes) for axes in ((), (0,), (1,), (0, 1)))
    assert np.corrcoef(found.pattern.ravel(), folded.ravel())[0, 1] > correlation + 0.05


def test_without_known_crystals_the_reading_explains_the_pattern(atlas, aluminium, potential):
    reading = potential.astype(np.float32)
    found = best_explained(aluminium, reading, atlas.only(()), **AT)
    assert found.crystal is None and found.likeness > 0.999
    np.testing.assert_allclose(found.potential, reading, rtol=1e-5)


def test_at_another_voltage_crystals_are_looked_up_at_another_depth(atlas, aluminium, noise):
    asked, damped = [], []

    class Spied(Atlas):
        def nearest(self, pattern, tau, count, absorbed):
            asked.append(tau)
            damped.append(absorbed)
            return super().nearest(pattern, tau, count, absorbed)

    spied = Spied(**{one: getattr(atlas, one) for one in vars(atlas) if not one.startswith("_")})
    for energy_ev in (200e3, 300e3):
        best_explained(aluminium, noise, spied, **{**AT, "energy_ev": energy_ev})
    assert asked[0] == depth(4.05, 200.0, 200e3)
    # Electrons of 300 kV are 14 % heavier than those of 200 kV.
    assert asked[1] / depth(4.05, 200.0, 300e3) == pytest.approx(1.141**0.75, rel=1e-3)
    assert damped == [0.0, 0.0]
    best_explained(aluminium, noise, spied, **{**AT, "energy_ev": 300e3, "absorption": True})
    assert damped[2] / depth(4.05, 200.0, 300e3) == pytest.approx(
        1.141**2 * wavelength(300e3) / wavelength(200e3), rel=1e-3
    )


def test_a_pattern_of_a_stronger_potential_is_explained_by_one_made_stronger(atlas, potential):
    pattern = _quick(1.1 * potential, 4.05, 200.0, 200e3)
    wrong = np.ones((16, 16), np.float32)
    wrong[3, 5] = 2.0
    found = best_explained(pattern, wrong, atlas, **AT)
    assert found.crystal.name.endswith("(mp-1)") and found.likeness > 0.9999
    np.testing.assert_allclose(found.potential, 1.1 * potential, atol=1e-3 * np.ptp(potential))
