"""The invariants of the radial basis: papers' worked example, rotation, mirror, Friedel."""

import dataclasses

import numpy as np
import pytest

from py4dstem_ml.symmetry.lists import BraggLists, normalised
from py4dstem_ml.symmetry.radial_basis import RadialBasis


@pytest.fixture(scope="module")
def lists():
    rng = np.random.default_rng(0)
    return BraggLists.pack([
        np.column_stack([rng.uniform(-1.3, 1.3, (n, 2)), rng.exponential(1.0, n)])
        for n in (30, 0, 7, 112)
    ])  # fmt: skip


def _turned(lists, angle):
    c, s = np.cos(angle), np.sin(angle)
    peaks = lists.peaks.copy()
    peaks[:, :2] = peaks[:, :2] @ np.array([[c, -s], [s, c]]).T
    return BraggLists(peaks, lists.offsets)


def _by_definition(peaks, basis):
    r = np.zeros((basis.bins, basis.orders), complex)
    for x, y, intensity in peaks:
        q, phi = np.hypot(x, y), np.arctan2(y, x)
        if q <= basis.direct_beam:
            continue
        for m in range(basis.bins):
            tent = max(1 - abs(q / basis.step - m), 0)
            r[m] += intensity * tent * np.exp(1j * phi * np.arange(basis.orders))
    return r


def test_the_basis_has_41_tents_and_1066_features():
    basis = RadialBasis()
    assert (basis.bins, basis.n_features) == (41, 1066)


def test_the_worked_example():
    basis = RadialBasis()
    example = BraggLists.pack([[[0, 0, 1], [0.5, 0, 0.1], [0, 0.525, 0.2]]])
    r = basis.coefficients(basis.diffracted(example))[0]
    p = np.arange(13)
    np.testing.assert_allclose(r[10], 0.1 + 0.1 * 1j**p, atol=1e-12)
    np.testing.assert_allclose(r[11], 0.1 * 1j**p, atol=1e-12)
    assert np.abs(np.delete(r, (10, 11), axis=0)).max() < 1e-12


def test_equal_to_the_definition(lists):
    basis = RadialBasis()
    expected = [_by_definition(lists[i], basis) for i in range(len(lists))]
    np.testing.assert_allclose(basis.coefficients(basis.diffracted(lists)), expected, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 6), (3, 2), (6,)])
def test_lists_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="list 1 has shape"):
        BraggLists.pack([np.ones((2, 3)), np.ones(shape)])


def test_a_limit_between_tents_is_refused():
    with pytest.raises(ValueError, match="no multiple"):
        RadialBasis(q_max=1.99)
    assert RadialBasis(**dataclasses.asdict(RadialBasis(q_max=1.5))).bins == 31


def test_tents_sum_to_the_intensity(lists):
    inner = lists.keep(np.hypot(*lists.peaks[:, :2].T) <= 2.0)
    sums = RadialBasis().coefficients(inner)[:, :, 0].sum(1)
    totals = np.bincount(inner.owner, inner.peaks[:, 2], minlength=len(inner))
    np.testing.assert_allclose(sums, totals, atol=1e-12)


def test_rotation_turns_phases_alone(lists):
    basis, angle = RadialBasis(), 0.7
    r, turned = (
        basis.coefficients(basis.diffracted(lists)),
        basis.coefficients(basis.diffracted(_turned(lists, angle))),
    )
    np.testing.assert_allclose(turned, r * np.exp(1j * angle * np.arange(13)), atol=1e-11)
    assert np.abs(r[:, :, 0].imag).max() == 0


def test_a_mirror_conjugates(lists):
    mirrored = BraggLists(lists.peaks * [1, -1, 1], lists.offsets)
    basis = RadialBasis()
    np.testing.assert_allclose(
        basis.coefficients(basis.diffracted(mirrored)),
        basis.coefficients(basis.diffracted(lists)).conj(),
        atol=1e-12,
    )


def test_friedel_pairs_have_no_odd_orders_and_no_arguments_of_rounding(lists):
    pairs = BraggLists.pack([
        np.concatenate([lists[i], lists[i] * [-1, -1, 1]]) for i in range(len(lists))
    ])  # fmt: skip
    basis = RadialBasis()
    assert np.abs(basis.coefficients(basis.diffracted(pairs))[:, :, 1::2]).max() < 1e-12
    features = basis.features(basis.diffracted(pairs)).reshape(len(pairs), 41, 13, 2)
    assert (features[:, :, 1::2, 1] == 0).all()
    assert (features[0, :, 2::2, 1] != 0).any()


def test_features_are_sizes_and_arguments_by_turns(lists):
    basis = RadialBasis()
    features = basis.features(basis.diffracted(lists))
    r = basis.coefficients(basis.diffracted(lists)).reshape(len(lists), -1)
    np.testing.assert_allclose(features[:, ::2], np.abs(r), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(features[0, 1::2], np.angle(r[0]), atol=1e-5)
    assert features[1].max() == features[1].min() == 0


def test_blocks_change_nothing(lists):
    many = BraggLists.pack([lists[i % len(lists)] for i in range(11)])
    parts = [RadialBasis().features(block) for block in many.blocks(3)]
    np.testing.assert_array_equal(np.concatenate(parts), RadialBasis().features(many))


def test_the_direct_beam_goes_by_position_or_as_the_papers_brightest():
    thick = BraggLists.pack([[[0.01, 0, 0.2], [0.5, 0, 0.7], [0, 0.6, 0.7]], []])
    kept = RadialBasis().diffracted(thick)
    np.testing.assert_array_equal(kept.peaks[:, 2], [0.7, 0.7])
    kept = RadialBasis(direct_beam="brightest").diffracted(thick)
    np.testing.assert_array_equal(kept.peaks, [[0.01, 0, 0.2], [0, 0.6, 0.7]])
    np.testing.assert_array_equal(kept.offsets, [0, 2, 2])


def test_counts_and_fractions_mean_the_same(lists):
    counts = BraggLists(lists.peaks * [1, 1, 5e4], lists.offsets)
    with_beam = BraggLists.pack([
        np.concatenate([counts[i], [[0, 0, 1e6]]]) for i in range(len(lists))
    ])  # fmt: skip
    basis = RadialBasis()

    def expanded(some):
        return basis.coefficients(normalised(basis.diffracted(some)))

    expected = expanded(lists)
    for other in (counts, with_beam):
        np.testing.assert_allclose(expanded(other), expected, atol=1e-12)
    sums = np.abs(expected[:, :, 0]).sum(1)
    np.testing.assert_allclose(sums, [1, 0, 1, 1], atol=1e-9)
