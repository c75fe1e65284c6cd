"""Partial waves against scipy's functions."""

import numpy as np
import torch
from scipy.special import factorial, lpmv, spherical_jn, spherical_yn

from py4dstem_ml.physics.leed.angular import (
    degrees,
    gaunt,
    orders,
    spherical_hankel,
    spherical_harmonics,
)

RNG = np.random.default_rng(3)


def reference(cos, phi, lmax):
    degree, m = degrees(lmax), orders(lmax)
    share = (2 * degree + 1) / (4 * np.pi) * factorial(degree - abs(m)) / factorial(degree + abs(m))
    flat = np.sqrt(share) * lpmv(abs(m), degree, cos[:, None])
    return np.where(m < 0, (-1.0) ** m, 1) * flat * np.exp(1j * phi[:, None] * m)


def test_spherical_harmonics():
    cos, phi = RNG.uniform(-1, 1, 20), RNG.uniform(0, 7, 20)
    found = spherical_harmonics(
        torch.from_numpy(cos),
        torch.from_numpy(np.sqrt(1 - cos**2)),
        torch.from_numpy(np.exp(1j * phi)),
        8,
    )
    np.testing.assert_allclose(found, reference(cos, phi, 8), atol=1e-12)


def test_harmonics_of_complex_directions_continue_those_of_real_ones():
    # The addition theorem holds for any two complex unit vectors.
    a, b = (RNG.normal(size=(10, 3)) + 0.4j * RNG.normal(size=(10, 3)) for _ in range(2))
    a, b = (v / np.sqrt((v**2).sum(1))[:, None] for v in (a, b))
    a[:, :2], b[:, :2] = a[:, :2].real, b[:, :2].real  # parallel components are real
    a[:, 2], b[:, 2] = (np.sqrt(1 - (v[:, :2] ** 2).sum(1)) for v in (a, b))

    def harmonics(v, sign):
        across = np.hypot(v[:, 0].real, v[:, 1].real)
        turn = (v[:, 0] + sign * 1j * v[:, 1]) / across
        parts = (v[:, 2], across, turn)
        return spherical_harmonics(*(torch.from_numpy(x) for x in parts), 6).numpy()

    product = harmonics(a, 1) * harmonics(b, -1)
    cos = (a * b).sum(1)
    for degree in range(7):
        found = product[:, degrees(6) == degree].sum(1) * 4 * np.pi / (2 * degree + 1)
        expected = np.polynomial.legendre.legval(cos, np.eye(7)[degree])
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_spherical_hankel_functions():
    z = np.array([0.8 + 0.1j, 5 + 0.3j, 40 + 2j])
    found = spherical_hankel(torch.from_numpy(z), 12).numpy()
    for degree in range(13):
        expected = spherical_jn(degree, z) + 1j * spherical_yn(degree, z)
        np.testing.assert_allclose(found[:, degree], expected, rtol=1e-8)


def test_gaunt_integrals_multiply_harmonics():
    # Y_L* Y_L' of a direction is the sum of the integrals times Y_L''.
    cos, phi = RNG.uniform(-1, 1, 5), RNG.uniform(0, 7, 5)
    one, all_of_them = reference(cos, phi, 3), reference(cos, phi, 6)
    found = (gaunt(3).to_dense().numpy() / (4 * np.pi) @ all_of_them.T).reshape(16, 16, 5)
    np.testing.assert_allclose(found, np.einsum("nl,nk->lkn", one.conj(), one), atol=1e-12)
