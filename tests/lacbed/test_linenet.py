"""LineNets: what their answers must not depend on, whatever the weights."""

from dataclasses import replace

import pytest
import torch
from tiny_lacbed import TINY, tiny_network

from py4dstem_ml.lacbed.bragg_lines import unfolded
from py4dstem_ml.lacbed.linenet import LineSpec, signed_root

TAU = torch.tensor([0.1, 0.4, 0.8])


def _pictures(seed=0):
    return torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(seed))


def _potentials(seed=0):
    """With a centre of inversion in projection, as cubic crystals have along [001]."""
    u = _pictures(seed)
    return u + u.flip(1, 2).roll((1, 1), (1, 2))


@pytest.fixture
def generator():
    """A network that changes the picture of few beams, which an untrained one does not."""
    network = tiny_network("linenet.forward.tiny").eval()
    with torch.no_grad():
        network.mix.weight.mul_(5.0)
        network.weigh.weight.mul_(20.0)
        network.directions.leave[-1].weight.normal_()
    return network


@pytest.fixture
def inverse():
    return tiny_network("linenet.inverse.tiny").eval()


@torch.no_grad()
def test_an_untrained_network_leaves_the_picture_of_few_beams():
    network, u = tiny_network("linenet.forward.tiny").eval(), _potentials()
    spectrum = torch.fft.fft2(u.double(), norm="forward").real
    expected = [
        network.few_beams(c, tau[None])[0] for c, tau in zip(spectrum, TAU, strict=True)
    ]  # fmt: skip
    found = network(u, TAU)
    torch.testing.assert_close(found, unfolded(torch.stack(expected)).float(), atol=1e-4, rtol=1e-3)
    assert found.std() > 0.05


@torch.no_grad()
def test_a_known_picture_of_few_beams_is_taken(generator):
    u = _potentials()
    few = generator.few_beam_patterns(u, TAU)
    torch.testing.assert_close(generator(u, TAU, few), generator(u, TAU))
    assert (generator(u, TAU, 0.5 * few) - generator(u, TAU)).abs().max() > 0.01


@torch.no_grad()
def test_a_shift_of_the_potential_changes_no_pattern(generator):
    u = _potentials()
    found = generator(u, TAU)
    for shift in ((5, 0), (3, 11), (15, 1)):
        torch.testing.assert_close(
            generator(u.roll(shift, (1, 2)), TAU), found, atol=1e-3, rtol=1e-3
        )
    assert (generator(_potentials(1), TAU) - found).abs().max() > 0.1


@torch.no_grad()
def test_the_network_sees_more_of_reflections_than_their_size(generator):
    spectrum, phases = (torch.fft.rfft2(_pictures(seed)) for seed in (0, 1))
    u, other = (
        torch.fft.irfft2(spectrum.abs() * each / each.abs(), s=(16, 16))
        for each in (spectrum, phases)
    )
    sizes = [generator.lines.coefficients(x) for x in (u, other)]
    torch.testing.assert_close(*sizes, atol=1e-5, rtol=1e-4)
    few = generator.few_beam_patterns(_potentials(), TAU)
    assert (generator(u, TAU, few) - generator(other, TAU, few)).abs().max() > 1e-3


@torch.no_grad()
def test_patterns_have_both_mirrors(generator):
    found = generator(_potentials(), TAU)
    assert found.shape == (3, 16, 16) and found.std() > 0.01
    torch.testing.assert_close(found, found.flip(1))
    torch.testing.assert_close(found, found.flip(2))


@torch.no_grad()
def test_depth_and_strength_count(generator):
    u = _potentials()
    found = generator(u, TAU)
    assert (generator(u, 1.5 * TAU) - found).abs().max() > 0.01
    assert (generator(2 * u, TAU) - found).abs().max() > 0.01


@torch.no_grad()
def test_without_a_potential_the_beam_passes():
    found = tiny_network("linenet.forward.tiny").eval()(torch.zeros(3, 16, 16), TAU)
    torch.testing.assert_close(found, torch.ones_like(found), atol=1e-4, rtol=0.0)


@torch.no_grad()
def test_a_pattern_is_read_on_any_scale(inverse):
    patterns = _pictures()
    found = inverse(patterns, TAU)
    assert found.shape == (3, 16, 16) and found.std() > 1e-3
    scale = torch.tensor([1e-4, 30.0, 1e4])[:, None, None]
    torch.testing.assert_close(inverse(scale * patterns, TAU), found, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(inverse(patterns + 7.0, TAU), found, atol=1e-4, rtol=1e-3)
    assert (inverse(-patterns, TAU) - found).abs().max() > 1e-3


@torch.no_grad()
def test_a_pattern_is_read_by_its_four_quadrants_together(inverse):
    patterns = _pictures()
    folded = 0.25 * sum(patterns.flip(axes) for axes in ((), (1,), (2,), (1, 2)))
    torch.testing.assert_close(inverse(folded, TAU), inverse(patterns, TAU), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_potentials_have_no_mean_and_depend_on_depth(inverse):
    found = inverse(_pictures(), TAU)
    assert found.mean((1, 2)).abs().max() < 1e-6
    assert (inverse(_pictures(), 2 * TAU) - found).abs().max() > 1e-4


def test_every_weight_is_used(generator, inverse):
    for network in (generator, inverse):
        network.train()
        network(_potentials(), TAU).square().mean().backward()
        idle = [
            name for name, p in network.named_parameters()
            if p.grad is None or not torch.isfinite(p.grad).all() or not p.grad.any()
        ]  # fmt: skip
        assert idle == []


def test_gradients_stay_finite_where_nothing_is_seen(generator, inverse):
    for network in (generator, inverse):
        blank = torch.zeros(2, 16, 16, requires_grad=True)
        network(blank, TAU[:2]).sum().backward()
        assert torch.isfinite(blank.grad).all()
        assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_roots_with_signs():
    x = torch.tensor([-4.0, 0.0, 9.0], requires_grad=True)
    torch.testing.assert_close(signed_root(x), torch.tensor([-2.0, 0.0, 3.0]))
    signed_root(x).sum().backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixels": 18}, "multiple of 4"), ({"pixels": 8}, "16 or more"),
        ({"highest": 0}, "1 or more"), ({"highest": 8}, "below half the pixels"),
    ],
)  # fmt: skip
def test_impossible_specs_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY["linenet.forward.tiny"], **change)


def test_a_spec_is_the_same_from_a_list():
    assert LineSpec(widths=[32, 64, 96]) == LineSpec()
