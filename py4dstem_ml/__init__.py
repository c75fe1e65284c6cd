"""Machine learning for electron diffraction, as methods of py4DSTEM, hyperspy and pyxem.

Importing the package sets its methods on the toolkits' own classes, see `register`. Everything
else is loaded when it is first used, torch included.
"""

import logging
import warnings

import lazy_loader

__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())

# Attached before registering: the toolkit floor may already use the public names.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

from .registration import RegistrationError, register  # noqa: E402

try:
    register()
except RegistrationError as error:
    # Someone else's method keeps its place; the functions of this package work without ours.
    warnings.warn(str(error), UserWarning, stacklevel=2)
