"""One way to show progress: a bar in a terminal or a notebook, silence everywhere else."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm import tqdm


def progress_bar(
    iterable: Iterable | None = None,
    *,
    total: int | None = None,
    description: str = "",
    progress: bool | None = None,
) -> tqdm | NoBar:
    """Wrap an iterable in a progress bar.

    Parameters
    ----------
    iterable : iterable, optional
        What is iterated over. Without it the bar is moved by its ``update(n)``.
    total : int, optional
        The number of items, where ``len(iterable)`` does not say.
    description : str
        A word or two in front of the bar.
    progress : bool, optional
        None: shown in a terminal or a notebook. True, False: always, never.

    Returns
    -------
    tqdm or NoBar
        Iterates over the same items; where tqdm is not installed, without a bar.

    Examples
    --------
    >>> from py4dstem_ml.progress import progress_bar
    >>> sum(progress_bar(range(4), description="adding", progress=False))
    6
    """
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return NoBar(iterable)
    shown = is_interactive() if progress is None else progress
    return tqdm(iterable, total=total, desc=description or None, disable=not shown)


class NoBar:
    """What is used of a bar, and nothing to see: training machines need no tqdm."""

    def __init__(self, iterable: Iterable | None) -> None:
        self.iterable = () if iterable is None else iterable

    def __iter__(self) -> Iterator:
        return iter(self.iterable)

    def __enter__(self) -> NoBar:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self, n: float = 1) -> None:
        """Take note of nothing."""


def is_interactive() -> bool:
    """Whether someone watches: stderr is a terminal, or a notebook runs."""
    if sys.stderr is not None and sys.stderr.isatty():
        return True
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "IPKernelApp" in shell.config
