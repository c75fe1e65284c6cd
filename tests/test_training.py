"""Runs: their average, losses that are not finite, checkpoints; batches of another thread."""

import threading
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from py4dstem_ml.training import Run, prefetched


@dataclass(frozen=True)
class Config:
    """The least that a run needs to know."""

    learning_rate: float = 0.1
    weight_decay: float = 0.0
    clip: float = 1.0
    warmup: float = 0.1
    averaging: float = 0.9
    steps: int = 150
    time_limit_s: float | None = None
    seed: int = 0


def _run(folder, **options):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
    return Run(network.to(memory_format=torch.channels_last), Config(**options), folder, CPU)


CPU = torch.device("cpu")
PICTURES = torch.rand(4, 2, 8, 8, generator=torch.Generator().manual_seed(0))


def _descended(run):
    loss = (run.network(PICTURES) - 1.0).square().mean()
    run.descend(loss)
    return {"loss": loss.detach()}


def test_the_average_follows_the_network_quickly_at_first(tmp_path):
    run = _run(tmp_path)
    _descended(run)
    weight, average = run.network[0].weight, run.average.module[0].weight
    torch.testing.assert_close(average, weight, atol=0, rtol=0)
    before = average.detach().clone()
    _descended(run)
    torch.testing.assert_close(average, before.lerp(weight, 9 / 11))
    run.step, before = 10_000, average.detach().clone()
    _descended(run)
    torch.testing.assert_close(average, before.lerp(weight, 0.1))
    counted = run.average.module[1].num_batches_tracked, run.network[1].num_batches_tracked
    assert counted[0] == counted[1] == run.average.n_averaged == 3


@pytest.mark.parametrize("ending", ["done", "interrupted", "saving"])
def test_nothing_is_saved_after_a_loss_that_is_not_finite(ending, tmp_path):
    run, saved = _run(tmp_path), []

    def step(number):
        run.count_step()
        if ending == "interrupted" and run.step == 130:
            raise KeyboardInterrupt
        return {"loss": torch.tensor(float("nan") if run.step == 120 else 1.0)}

    with pytest.raises(RuntimeError, match="last checkpoint"):
        run.follow(
            iter(int, 1), step, lambda: saved.append(run.step),
            save_every_s=0.0 if ending == "saving" else 1e9,
        )  # fmt: skip
    assert all(number < 120 for number in saved)


def test_moments_are_resumed_in_the_memory_format_of_their_weights(tmp_path):
    run = _run(tmp_path)
    for _ in range(3):
        _descended(run)
    run.save_checkpoint()
    again = _run(tmp_path)
    again.resume()
    weight = again.network[0].weight
    moment = again.optimizer.state[weight]["exp_avg"]
    assert again.step == 3 and moment.stride() == weight.stride() != (18, 9, 3, 1)
    torch.testing.assert_close(moment, run.optimizer.state[run.network[0].weight]["exp_avg"])
    for one in (run, again):
        _descended(one)
    torch.testing.assert_close(weight, run.network[0].weight)


def test_items_come_in_order_from_another_thread():
    made = prefetched((i, threading.get_ident()) for i in range(20))
    numbers, threads = zip(*made, strict=True)
    assert numbers == tuple(range(20))
    assert set(threads) != {threading.get_ident()} and len(set(threads)) == 1


def test_an_error_there_is_raised_here():
    def failing():
        yield 1
        raise RuntimeError("no more")

    items = prefetched(failing())
    assert next(items) == 1
    with pytest.raises(RuntimeError, match="no more"):
        list(items)


def test_threads_are_shared_and_given_back():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        items = prefetched(iter(int, 1))
        next(items)
        assert torch.get_num_threads() == 2
        items.close()
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
