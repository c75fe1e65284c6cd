"""Make py4dstem_ml/data/demo_scan.npz: a strained SrTiO3 film, simulated with the package's engine.

python tools/make_demo_scan.py
"""

from pathlib import Path

import numpy as np
import torch

from py4dstem_ml.physics.bloch import select_beams
from py4dstem_ml.physics.crystal import Crystal
from py4dstem_ml.physics.orientations import tilted
from py4dstem_ml.physics.patterns import Detector, cbed, disk_amplitudes, probe_image

OUTPUT = Path(__file__).parents[1] / "py4dstem_ml" / "data" / "demo_scan.npz"
ENERGY_EV, SEMIANGLE_MRAD, THICKNESS, ELECTRONS = 200e3, 2.5, 250.0, 3e4
DETECTOR = Detector((128, 128), 0.02)
SHAPE = (12, 12)

STRONTIUM_TITANATE = Crystal.cubic(
    3.905,
    [38, 22, 8, 8, 8],
    [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
)


def strain_field() -> np.ndarray:
    """e_xx of each position: a stretched inclusion of Gaussian shape, at most 2 %."""
    rows, cols = np.indices(SHAPE)
    return 0.02 * np.exp(-((rows - 6.5) ** 2 + (cols - 4.5) ** 2) / (2 * 2.2**2))


def pattern(strain: float, rng: np.random.Generator) -> np.ndarray:
    """Counts of one position."""
    crystal = STRONTIUM_TITANATE.strained(np.diag([1.0 + strain, 1.0, 1.0]))
    # The film is bent by a few mrad, as films are; x of the crystal stays along the rows.
    orientation = np.eye(3)  # [001] towards the source, a along the rows
    orientation = tilted(orientation, rng.normal(0, 4), rng.uniform(0, 2 * np.pi))
    beams = select_beams(crystal, orientation, ENERGY_EV, g_max=1.4, s_max=0.05)
    amplitudes = disk_amplitudes(
        crystal, beams, ENERGY_EV, [THICKNESS], SEMIANGLE_MRAD, DETECTOR.pixel_size
    )
    image = cbed(amplitudes, beams, DETECTOR, SEMIANGLE_MRAD, ENERGY_EV)[0].numpy()
    return rng.poisson(ELECTRONS * image / image.sum()).astype(np.uint16)


def main() -> None:
    """Simulate and write the scan."""
    rng = np.random.default_rng(0)
    strain = strain_field()
    with torch.no_grad():
        data = np.array([pattern(value, rng) for value in strain.ravel()])
    OUTPUT.parent.mkdir(exist_ok=True)
    np.savez_compressed(
        OUTPUT,
        data=data.reshape(*SHAPE, *DETECTOR.shape),
        probe=probe_image(DETECTOR, SEMIANGLE_MRAD, ENERGY_EV).numpy(),
        pixel_size=DETECTOR.pixel_size,
        e_xx=strain.astype(np.float32),
    )


if __name__ == "__main__":
    main()
