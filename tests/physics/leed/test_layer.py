"""One layer: nothing is lost, a supercell changes nothing, planes may be one layer or two."""

from dataclasses import replace

import numpy as np
import pytest
from leed.solids import HEAVY, LIGHT, OBLIQUE, SQUARE, waves_of

from py4dstem_ml.physics.leed.layer import Layer, scatter
from py4dstem_ml.physics.leed.phase_shifts import Scatterer
from py4dstem_ml.physics.leed.stack import join
from py4dstem_ml.physics.leed.waves import Settings, Waves, select_beams

PLANE = Layer(SQUARE, [[0, 0, 0]], HEAVY)
PAIR = Layer(SQUARE, [[0.0, 0, 0], [1.2, 1.5, -0.6]], [LIGHT, HEAVY])


def still(layer):
    """The layer with atoms at rest: thermal motion takes flux away."""
    atoms = [Scatterer(one.phase_shifts) for one in layer.scatterers]
    return Layer(layer.lattice, layer.positions, atoms)


def without_absorption(monkeypatch, nodes):
    """Lattice sums, which need absorption, are extrapolated to none."""
    damped = Waves._lattice_sum
    weights = [
        np.prod([-b / (a - b) for b in nodes if b != a]) for a in nodes
    ]  # Lagrange's, at zero

    def extrapolated(self, lattice, d):
        total = 0
        for weight, absorption in zip(weights, nodes, strict=True):
            settings = replace(self.settings, absorption_ev=absorption)
            total = total + weight * damped(
                Waves(self.energy_ev, self.parallel, settings), lattice, d
            )
        return total

    monkeypatch.setattr(Waves, "_lattice_sum", extrapolated)


@pytest.mark.parametrize("layer", [PLANE, PAIR], ids=["plane", "pair"])
def test_nothing_is_lost_without_absorption(monkeypatch, layer):
    without_absorption(monkeypatch, [1.4, 1.8, 2.2, 2.6, 3.0, 3.4, 3.8])
    settings = Settings(lmax=3, absorption_ev=0.0, lattice_cutoff=1e-8)
    energy = 43.5  # as far from all thresholds as can be
    beams = select_beams(SQUARE, energy, 1.5, settings)
    waves = waves_of(SQUARE, energy, [[0.0, 0.0], [0.06, 0.03]], beams, settings)
    matrices = scatter(still(layer), waves)
    flux = waves.normal.real[:, :, None]
    for transmitted, reflected in (
        (matrices.transmit_down, matrices.reflect_up),
        (matrices.transmit_up, matrices.reflect_down),
    ):
        leaving = (flux * (transmitted.abs() ** 2 + reflected.abs() ** 2)).sum(1)
        open_beams = flux[:, :, 0] > 0
        share = leaving[open_beams] / flux[:, :, 0][open_beams]
        assert len(share) > 8
        np.testing.assert_allclose(share, 1, atol=1e-5)
        assert reflected.abs()[:, 0, 0].min() > 0.01


def test_a_supercell_changes_nothing():
    doubled = np.array([[1, 0], [1, 2]]) @ OBLIQUE
    atoms = [[0.3, 0, 0], [1.2, 1.5, -0.6]]
    one = Layer(OBLIQUE, atoms, [LIGHT, HEAVY])
    two = Layer(doubled, [*atoms, *(atoms + np.append(OBLIQUE[1], 0))], [LIGHT, HEAVY] * 2)
    settings = Settings(lmax=3)
    beams = np.array([[0, 0], [1, 0], [-1, 1]])
    k = [[0.2, -0.1]]
    hk = beams @ np.array([[1, 0], [1, 2]]).T
    found = scatter(two, waves_of(doubled, 55.0, k, np.append(hk, [[0, 1]], axis=0), settings))
    expected = scatter(one, waves_of(OBLIQUE, 55.0, k, beams, settings))
    for name in ("transmit_down", "reflect_up", "transmit_up", "reflect_down"):
        whole = getattr(found, name)
        np.testing.assert_allclose(whole[:, :3, :3], getattr(expected, name), atol=1e-10)
        np.testing.assert_allclose(whole[:, 3, :3], 0, atol=1e-10)  # a beam of no simple cell


def test_two_planes_are_one_layer_or_two():
    upper, lower = Layer(OBLIQUE, [[0.2, 0.1, 0]], HEAVY), Layer(OBLIQUE, [[1.3, 1.6, -1.3]], LIGHT)
    both = Layer(OBLIQUE, [*upper.positions, *lower.positions], [HEAVY, LIGHT])
    settings = Settings(lmax=6, beam_cutoff=1e-5, lattice_cutoff=1e-5)
    k = [[0.2, -0.1], [0.0, 0.0]]
    beams = select_beams(OBLIQUE, 50.0, 1.3, settings)
    waves = waves_of(OBLIQUE, 50.0, k, beams, settings)
    stacked = join(scatter(upper, waves), scatter(lower, waves), waves, upper.origin - lower.origin)
    whole = scatter(both, waves)
    up, down = waves.phases(upper.origin - lower.origin)
    pairs = [
        (whole.reflect_up, stacked.reflect_up),
        (whole.transmit_down * down[:, :, None], stacked.transmit_down),
        (whole.transmit_up * up[:, None, :], stacked.transmit_up),
    ]
    for one, two in pairs:
        one, two = one[:, :9, :9], two[:, :9, :9]
        assert (one - two).abs().max() < 2e-3 * two.abs().max()


def test_weak_atoms_scatter_once():
    weak = Scatterer(type(HEAVY.phase_shifts)([20.0, 99.0], 1e-5 * np.ones((2, 3))))
    layer = Layer(OBLIQUE, [[0, 0, 0], [1.0, 0.4, -0.9]], weak)
    settings = Settings(lmax=2, real_prefactor=False)
    beams = select_beams(OBLIQUE, 50.0, 2.0, settings)[:9]
    waves = waves_of(OBLIQUE, 50.0, [[0.3, 0.2]], beams, settings)
    incoming = np.append(waves.parallel[0, 0], -waves.normal[0, 0])
    outgoing = np.column_stack([waves.parallel[0], waves.normal[0]])
    cos = outgoing @ incoming / waves.kappa**2
    amplitude = sum(
        (2 * n + 1) * np.polynomial.legendre.legval(cos, np.eye(3)[n]) for n in range(3)
    )
    amplitude = amplitude * np.exp(1e-5j) * np.sin(1e-5) / waves.kappa
    lattice_factor = np.exp(1j * (incoming - outgoing) @ layer.positions.T).sum(1)
    expected = 2j * np.pi * amplitude * lattice_factor / (layer.area * waves.normal[0].numpy())
    np.testing.assert_allclose(scatter(layer, waves).reflect_up[0, :, 0], expected, rtol=1e-3)


@pytest.mark.parametrize(
    ("lattice", "positions", "scatterers", "message"),
    [
        ([[1, 0], [2, 0]], [[0, 0, 0]], HEAVY, "not parallel"),
        (SQUARE, [[0, 0]], HEAVY, "rows x, y, z"),
        (SQUARE, [[0, 0, 0]], [HEAVY, HEAVY], "as many scatterers"),
        (SQUARE, [[0.1, 0, 0], [3.0, 2.9, 0.1]], HEAVY, "closer than 0.5 Å"),
    ],
)
def test_bad_layers_are_refused(lattice, positions, scatterers, message):
    with pytest.raises(ValueError, match=message):
        Layer(lattice, positions, scatterers)
