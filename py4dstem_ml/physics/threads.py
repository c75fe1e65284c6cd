"""How many threads small matrices get."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_lock = threading.Lock()
_inside = 0
_before = 1
_mine = threading.local()


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread meanwhile; within another such block nothing changes.

    Diagonalising matrices of a few hundred rows gains nothing from a second one, and where other
    work has the cores, threads that wait for each other make it a hundred times as slow. A thread
    that uses torch for the first time meanwhile has one for good: torch counts them so.

    Examples
    --------
    >>> with one_thread():
    ...     torch.get_num_threads()
    1
    """
    global _inside, _before
    if getattr(_mine, "inside", False):
        yield
        return
    with _lock:
        own = torch.get_num_threads()
        if not _inside:
            _before = own
        restored = max(own, _before)  # a thread that was born meanwhile reads 1
        _inside += 1
        torch.set_num_threads(1)
    _mine.inside = True
    try:
        yield
    finally:
        _mine.inside = False
        with _lock:
            _inside -= 1
            torch.set_num_threads(restored)
