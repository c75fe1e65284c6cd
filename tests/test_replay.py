"""Replayed steps are the ordinary ones; all but the last test need a GPU."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from py4dstem_ml.replay import ReplayedStep, replayable
from py4dstem_ml.training import TensorBatch

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@dataclass
class Batch(TensorBatch):
    """Pictures of one size."""

    x: torch.Tensor


BATCHES = [Batch(torch.rand(4, 8, generator=torch.Generator().manual_seed(i))) for i in range(12)]


def _learner(device):
    torch.manual_seed(0)
    network = nn.Linear(8, 1).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), **replayable(0.1, torch.device(device)))

    def step(batch):
        loss = (network(batch.x) - 1.0).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return network, optimizer, step


@needs_gpu
def test_replayed_steps_are_those_of_a_cpu_at_any_rate():
    (here, slow, step), (there, fast, other) = _learner("cpu"), _learner("cuda")
    replayed = ReplayedStep(other, torch.device("cuda"))
    for number, batch in enumerate(BATCHES):
        slow.param_groups[0]["lr"] = 0.1 / (1 + number)
        fast.param_groups[0]["lr"].fill_(0.1 / (1 + number))
        torch.testing.assert_close(replayed(batch).cpu(), step(batch), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(there.weight.cpu(), here.weight, atol=1e-5, rtol=1e-5)


@needs_gpu
def test_a_batch_of_another_shape_is_refused():
    replayed = ReplayedStep(_learner("cuda")[2], torch.device("cuda"))
    replayed(BATCHES[0])
    with pytest.raises(ValueError, match=r"x of the shape \(4, 8\)"):
        replayed(Batch(torch.rand(1, 8)))


def test_on_a_cpu_there_is_nothing_to_replay():
    assert replayable(0.1, torch.device("cpu")) == {"lr": 0.1}
