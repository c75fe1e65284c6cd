"""Models that are read when first needed: what all predictors share."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from typing import Any


class LazyModel(ABC):
    """A model by name, file, or the default one; safe in threads, and picklable.

    It is read when first needed, in each process: weights do not travel.

    Parameters
    ----------
    model : str or path, optional
        None: the default weights.
    device : str or torch.device, optional
        None: a GPU if there is one.
    """

    def __init__(self, model: str | os.PathLike | None, device: Any) -> None:
        self.model, self.device = model, device
        self._loaded: Any = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("_loaded", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _loaded=None, _lock=threading.Lock())

    @abstractmethod
    def _read(self) -> Any:
        """Read the model."""

    @property
    def loaded(self) -> Any:
        """The model, read when first needed."""
        with self._lock:
            if self._loaded is None:
                self._loaded = self._read()
            return self._loaded
