"""Machine learning for electron diffraction, as methods of py4DSTEM, hyperspy and pyxem.

Importing the package sets its methods on the toolkits' own classes, see `register`. Everything
else is loaded when it is first used, torch included.
"""

import logging
from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "BraggDiskFinder": "disks.predict",
    "Crystal": "physics.crystal",
    "RegistrationError": "registration",
    "WeightsError": "weights",
    "find_bragg_disks_aiml": "toolkits.py4dstem",
    "list_pretrained": "weights",
    "register": "registration",
    "registered_methods": "registration",
    "unregister": "registration",
}
__all__ = sorted(["__version__", *_HOMES])

logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    # Nothing is imported for a name that is not ours: emdfile asks every module while it reads.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


from .registration import register_or_warn  # noqa: E402

register_or_warn()
