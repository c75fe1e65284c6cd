from .cbleed.predict import CBLEEDAutoencoder, CBLEEDRegressor
from .disks.predict import BraggDiskFinder
from .lacbed.predict import LacbedGenerator, PotentialPredictor
from .physics.crystal import Crystal
from .registration import RegistrationError, register, registered_methods, unregister
from .symmetry.predict import CrystalSystemPredictor
from .toolkits.py4dstem import find_bragg_disks_aiml
from .toolkits.py4dstem_lacbed_aiml import predict_projected_potential
from .weights import WeightsError, list_pretrained

__version__: str

__all__ = [
    "BraggDiskFinder",
    "CBLEEDAutoencoder",
    "CBLEEDRegressor",
    "Crystal",
    "CrystalSystemPredictor",
    "LacbedGenerator",
    "PotentialPredictor",
    "RegistrationError",
    "WeightsError",
    "__version__",
    "find_bragg_disks_aiml",
    "list_pretrained",
    "predict_projected_potential",
    "register",
    "registered_methods",
    "unregister",
]
