"""Machine learning for electron diffraction, as methods of py4DSTEM, hyperspy and pyxem.

Importing the package sets its methods on the toolkits' own classes, see `register`. Everything
else is loaded when it is first used, torch included.
"""

from .lazy import lazy_names

__version__ = "0.1.0"

_HOMES = {
    "BraggDiskFinder": "disks.predict",
    "CBLEEDAutoencoder": "cbleed.predict",
    "CBLEEDRegressor": "cbleed.predict",
    "Crystal": "physics.crystal",
    "CrystalSystemPredictor": "symmetry.predict",
    "LacbedGenerator": "lacbed.predict",
    "PotentialPredictor": "lacbed.predict",
    "RegistrationError": "registration",
    "WeightsError": "weights",
    "find_bragg_disks_aiml": "toolkits.py4dstem",
    "list_pretrained": "weights",
    "predict_projected_potential": "toolkits.py4dstem_lacbed_aiml",
    "register": "registration",
    "registered_methods": "registration",
    "unregister": "registration",
}
__all__ = sorted(["__version__", *_HOMES])

__getattr__, __dir__ = lazy_names(__name__, _HOMES)

from .registration import register_or_warn  # noqa: E402

register_or_warn()
