"""One way to show progress: a bar in a terminal or a notebook, silence everywhere else."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm import tqdm


def progress_bar(
    iterable: Iterable | None = None,
    *,
    total: int | None = None,
    description: str = "",
    progress: bool | None = None,
) -> tqdm:
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
    tqdm
        Iterates over the same items.

    Examples
    --------
    >>> from py4dstem_ml.progress import progress_bar
    >>> sum(progress_bar(range(4), description="adding", progress=False))
    6
    """
    from tqdm.auto import tqdm

    shown = is_interactive() if progress is None else progress
    return tqdm(iterable, total=total, desc=description or None, disable=not shown)


def is_interactive() -> bool:
    """Whether someone watches: stderr is a terminal, or a notebook runs."""
    if sys.stderr is not None and sys.stderr.isatty():
        return True
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "IPKernelApp" in shell.config
