"""One thread for small matrices, and as many as before afterwards."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event

import pytest
import torch

from py4dstem_ml.physics.threads import one_thread


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_there_is_one_thread_inside_and_as_many_as_before_outside():
    with pytest.raises(RuntimeError, match="failed"), one_thread():
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
        raise RuntimeError("failed")
    assert torch.get_num_threads() == 2


def test_what_works_side_by_side_leaves_as_many_as_before():
    together = Barrier(4)

    def work(_):
        with one_thread():
            together.wait()
            return torch.get_num_threads()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [1] * 4
    assert torch.get_num_threads() == 2


def test_a_thread_of_one_takes_nothing_from_another():
    entered, left = Event(), Event()

    def work():
        torch.set_num_threads(1)
        with one_thread():
            entered.set()
            left.wait(10)

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(work)
        entered.wait(10)
        torch.set_num_threads(2)
        with one_thread():
            assert torch.get_num_threads() == 1
        left.set()
        done.result()
    assert torch.get_num_threads() == 2
