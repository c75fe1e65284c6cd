"""The conditional GAN: generators, and what their adversaries are told."""

import pytest
import torch
from tiny_lacbed import tiny_network

from py4dstem_ml.lacbed.pix2pix import (
    Discriminators,
    Pix2PixSpec,
    discriminator_loss,
    generator_loss,
    normalised,
)

TAU = torch.tensor([0.1, 0.4, 0.8])


@pytest.fixture
def pictures():
    return torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("direction", ["forward", "inverse"])
@torch.no_grad()
def test_pictures_of_the_other_kind(direction, pictures):
    network = tiny_network(f"pix2pix.{direction}.tiny").eval()
    found = network(pictures, TAU)
    assert found.shape == (3, 16, 16) and found.std() > 1e-3
    torch.testing.assert_close(network(pictures[1:2], TAU[1:2])[0], found[1], atol=1e-5, rtol=1e-4)
    assert (network(pictures, 2 * TAU) - found).abs().max() > 1e-4
    stronger = network(5 * pictures + 1, TAU)
    if direction == "forward":
        assert (stronger - found).abs().max() > 1e-4
    else:
        torch.testing.assert_close(stronger, found, atol=1e-4, rtol=1e-3)
        assert found.mean((1, 2)).abs().max() < 1e-5


def test_all_of_both_generators_is_trained(pictures):
    network = tiny_network("pix2pix.inverse.tiny")
    network(pictures, TAU).square().mean().backward()
    # What an instance norm follows has no use for its bias.
    idle = {n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    assert all(name.endswith("convolve.bias") or name.endswith("second.bias") for name in idle)


def test_pictures_are_normalised(pictures):
    found = normalised(7 * pictures - 3)
    torch.testing.assert_close(found.mean((1, 2)), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.std((1, 2)), torch.ones(3))
    assert torch.isfinite(normalised(torch.ones(2, 4, 4))).all()


def test_discriminators_look_at_two_scales(pictures):
    judges = Discriminators(width=4)
    told = torch.zeros(3, 2)
    one, other = judges(pictures, pictures.flip(1), told)
    assert len(one) == len(other) == 5
    assert all(seen.shape[1] == 1 for seen in (one[-1], other[-1]))
    assert one[0].shape[-1] > other[0].shape[-1]
    with_other_picture = judges(pictures, pictures, told)[0][-1]
    with_other_conditions = judges(pictures, pictures.flip(1), told + 1)[0][-1]
    for changed in (with_other_picture, with_other_conditions):
        assert (changed - one[-1]).abs().max() > 1e-5


def test_losses_of_judgements():
    def judged(value, seen=0.0):
        return [[torch.full((2, 3), seen), torch.full((2, 1), value)]] * 2

    assert float(discriminator_loss(judged(1.0), judged(0.0))) == 0.0
    assert float(discriminator_loss(judged(0.0), judged(1.0))) == pytest.approx(2.0)
    assert float(generator_loss(judged(1.0), judged(1.0), 10.0)) == 0.0
    assert float(generator_loss(judged(1.0), judged(0.0), 10.0)) == pytest.approx(2.0)
    assert float(generator_loss(judged(1.0, 0.2), judged(1.0, 0.5), 10.0)) == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"direction": "back"}, "not 'back'"), ({"pixels": 36}, "multiple of 8")],
)
def test_impossible_specs_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Pix2PixSpec(**{"direction": "forward", **change})
