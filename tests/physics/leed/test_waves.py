"""Beams, and what waves from the other atoms of a lattice bring to an atom."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from leed.solids import OBLIQUE, SQUARE, waves_of
from scipy.special import spherical_jn

from py4dstem_ml.physics.leed.angular import degrees, spherical_hankel, spherical_harmonics
from py4dstem_ml.physics.leed.waves import (
    Settings,
    flux_ratio,
    incidence,
    reciprocal,
    select_beams,
)


def partial_waves(radial, r, lmax):
    """f_l(|r|) Y_L(r) at one point."""
    length = np.linalg.norm(r)
    x, y, z = r
    turn = torch.tensor([(x + 1j * y) / np.hypot(x, y)], dtype=torch.complex128)
    y_l = spherical_harmonics(
        torch.tensor([z / length], dtype=torch.float64),
        torch.tensor([np.hypot(x, y) / length], dtype=torch.float64),
        turn,
        lmax,
    )[0].numpy()
    return radial(length)[degrees(lmax)] * y_l


def test_waves_of_one_atom_are_expanded_about_another():
    lmax, away = 12, np.array([1.3, -0.4, 0.9])
    settings = Settings(lmax=lmax, lattice_cutoff=0.5)
    waves = waves_of(np.diag([900.0, 900.0]), 40.0, (0.2, 0.1), [(0, 0)], settings)
    g = waves.structure_constants(np.diag([900.0, 900.0]), away)[0].numpy()
    degree = degrees(lmax)
    g = 1j ** (degree[:, None] - degree) * g
    r = np.array([0.06, 0.1, -0.05])
    kappa = waves.kappa
    regular = partial_waves(
        lambda x: np.array([spherical_jn(n, kappa * x) for n in range(lmax + 1)]), r, lmax
    )
    outgoing = partial_waves(
        lambda x: spherical_hankel(torch.tensor([kappa * x], dtype=torch.complex128), lmax)[
            0
        ].numpy(),
        r + away,
        lmax,
    )
    few = degree <= 2
    np.testing.assert_allclose((regular @ g)[few], outgoing[few], rtol=1e-7)


def test_lattice_sums_end_where_waves_have_died():
    d = (0.8, 1.0, 1.4)
    k = incidence(60.0, 12.0, 40.0)
    sums = [
        waves_of(
            OBLIQUE, 60.0, k, [(0, 0)], Settings(lmax=3, lattice_cutoff=cutoff)
        ).structure_constants(OBLIQUE, d)
        for cutoff in (1e-3, 1e-8)
    ]
    assert (sums[0] - sums[1]).abs().max() < 0.02 * sums[1].abs().max()


def test_a_bloch_vector_counts_modulo_the_reciprocal_lattice():
    settings = Settings(lmax=2)
    k = np.array([[0.3, 0.2]])
    one = waves_of(OBLIQUE, 60.0, k, [(0, 0)], settings)
    other = waves_of(OBLIQUE, 60.0, k, [(2, -1)], settings)
    for d in ((0, 0, 0), (0.4, 0.3, 1.0)):
        np.testing.assert_allclose(
            one.structure_constants(OBLIQUE, d), other.structure_constants(OBLIQUE, d), atol=1e-9
        )


def test_beams_are_those_that_reach_the_next_layer():
    settings = Settings(beam_cutoff=1e-3)
    beams = select_beams(SQUARE, 50.0, 1.4, settings, centre=(0.3, 0.1))
    assert beams[0].tolist() == [0, 0]
    every = np.indices((31, 31)).reshape(2, -1).T - 15
    decay = waves_of(SQUARE, 50.0, (0.3, 0.1), every, replace(settings, absorption_ev=0.0))
    kept = every[np.exp(-1.4 * decay.normal[0].imag.numpy()) >= 1e-3]
    assert {tuple(b) for b in beams} == {tuple(b) for b in kept}


def test_fluxes_of_vacuum_beams():
    k = incidence(40.0, 30.0, 0.0)
    assert np.hypot(*k) == pytest.approx(0.512317 * np.sqrt(40) * 0.5, rel=1e-4)
    ratio = flux_ratio(SQUARE, 40.0, k, np.array([[0, 0], [-1, 0], [5, 0]]))
    out = np.sqrt(40 / 3.809982 - (k[0] - reciprocal(SQUARE)[0, 0]) ** 2)
    np.testing.assert_allclose(
        ratio, [1, out / (0.512317 * np.sqrt(40) * np.sqrt(0.75)), 0], rtol=1e-4
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"beam_cutoff": 0.0}, "between 0 and 1"),
        ({"lattice_cutoff": 1.5}, "between 0 and 1"),
        ({"lmax": -1}, "not negative"),
        ({"absorption_ev": -4.0}, "not negative"),
    ],
)
def test_bad_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Settings(**wrong)
