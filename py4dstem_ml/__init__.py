"""Machine learning for electron diffraction, as methods of py4DSTEM, hyperspy and pyxem.

Importing the package sets its methods on the toolkits' own classes, see `register`. Everything
else is loaded when it is first used, torch included.
"""

import logging

import lazy_loader

__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())

# Attached before registering: the toolkit floor may already use the public names.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

from .registration import register_or_warn  # noqa: E402

register_or_warn()
