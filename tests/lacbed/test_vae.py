"""The autoencoder: a potential passes by few numbers."""

import pytest
import torch
from tiny_lacbed import tiny_network

from py4dstem_ml.lacbed.vae import VaeSpec

TAU = torch.tensor([0.1, 0.4, 0.8])


@pytest.fixture
def network():
    return tiny_network("vae.forward.tiny").eval()


@pytest.fixture
def u():
    return torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_patterns_follow_from_the_latent_means(network, u):
    mean, log_variance = network.latent(u)
    assert mean.shape == log_variance.shape == (3, 3)
    found = network(u, TAU)
    assert found.shape == (3, 16, 16)
    torch.testing.assert_close(found, network.decoded(mean, u.std((1, 2)), TAU))
    assert (network.decoded(mean + 1, u.std((1, 2)), TAU) - found).abs().max() > 1e-3
    assert (network.decoded(mean, 4 * u.std((1, 2)), TAU) - found).abs().max() > 1e-3
    assert (network(u, 3 * TAU) - found).abs().max() > 1e-3


@torch.no_grad()
def test_latent_numbers_are_of_the_shape_alone(network, u):
    for one, other in zip(network.latent(u), network.latent(9 * u - 2), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert (network.latent(u.flip(0))[0] - network.latent(u)[0]).abs().max() > 1e-3


@torch.no_grad()
def test_variances_stay_within_bounds(network, u):
    network.encode[-1].bias.add_(100.0)
    assert network.latent(u)[1].max() == 6.0


def test_other_sizes_are_refused():
    with pytest.raises(ValueError, match="multiple of 16"):
        VaeSpec(pixels=24)
