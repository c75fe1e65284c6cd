"""Public names of a package, loaded when they are first used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the ``__getattr__`` and the ``__dir__`` of a package.

    Parameters
    ----------
    package : str
        Its ``__name__``.
    homes : mapping
        Public name -> the module of the package that defines it, e.g. ``"disks.predict"``.

    Examples
    --------
    >>> load, _ = lazy_names("json", {"JSONDecoder": "decoder"})
    >>> load("JSONDecoder").__name__
    'JSONDecoder'
    """

    def load(name: str) -> Any:
        # Nothing is imported for a name that is not ours: emdfile asks every module while it reads.
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return load, names
