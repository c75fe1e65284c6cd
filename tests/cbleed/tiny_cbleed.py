"""Settings so small that tests are quick, and physics so coarse."""

from dataclasses import replace

from py4dstem_ml.cbleed.augment import Disturbance
from py4dstem_ml.cbleed.fit import FitConfig
from py4dstem_ml.cbleed.images import Screen
from py4dstem_ml.cbleed.library import LibraryConfig, Physics
from py4dstem_ml.cbleed.network import NetworkSpec
from py4dstem_ml.cbleed.train import TrainConfig

FAST = Physics(lmax=2, beam_cutoff=3e-2)
#: 45 eV is held out, 48 eV is watched.
TINY = LibraryConfig(
    energies_ev=(44.0, 49.0, 1.0), heights=(-0.1, 0.1, 0.1), lengths=(-0.1, 0.1, 0.1), nodes=4,
    physics=FAST, drawn_energies=4, drawn_structures=5,
)  # fmt: skip
RANDOM = replace(TINY, sampling="random")
SCREEN = Screen(pixels=32, pixel_size=0.127)
GENTLE = Disturbance(counts=(1e5, 1e7))
SHORT = TrainConfig(
    network=NetworkSpec(pixels=32, channels=(8, 8), hidden=48, latent=6), screen=SCREEN,
    batch_size=16, steps=300, learning_rate=5e-3, disturbance=GENTLE,
)  # fmt: skip
QUICK = FitConfig(trees=4, between=120, calibration_copies=2, disturbance=GENTLE)
