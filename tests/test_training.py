"""Batches that another thread makes."""

import threading

import pytest
import torch

from py4dstem_ml.training import prefetched


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
