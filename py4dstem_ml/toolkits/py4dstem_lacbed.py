"""LACBED disks of py4DSTEM's crystals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from py4DSTEM.data import DiffractionSlice
    from py4DSTEM.process.diffraction import Crystal

#: Half the side of an image, in lattice vectors, where none is given: as far as the networks look.
_HALF_SIDE = 8.0
#: Pixels a side: with fewer, directions share no work, and an image takes minutes.
_FEWEST = 8
#: mrad; what is beyond is no column of a microscope.
_WIDEST = 200.0


def generate_lacbed(
    crystal: Crystal,
    thickness: float | Sequence[float],
    *,
    zone_axis_lattice: npt.ArrayLike = (0, 0, 1),
    accelerating_voltage: float = 200e3,
    semiangle_mrad: float | None = None,
    pixels: int = 128,
    reflections: npt.ArrayLike = ((0, 0, 0),),
    b_iso: Any = None,
    absorption: bool = True,
    layers: int = 0,
    q_max: float = 3.5,
    max_beams: int = 1000,
    device: Any = None,
    progress: bool | None = None,
) -> dict[tuple[int, int, int], DiffractionSlice]:
    """Simulate large-angle CBED disks of a zone axis: those of a small cell take a second or so.

    Parameters
    ----------
    crystal : py4DSTEM.process.diffraction.Crystal
    thickness : float or sequence of float
        Å.
    zone_axis_lattice : array_like of int, shape (3,)
        [uvw] towards the source.
    accelerating_voltage : float
        V.
    semiangle_mrad : float, optional
        Half the side of the square of directions. None: 8 of the zone's shortest reciprocal
        vectors, about 0.20 / a rad at 200 kV for a cubic crystal along [001]. Small squares, where
        no directions a lattice vector apart share their work, take tens of seconds: for a few mrad
        take `py4dstem_ml.physics.patterns.cbed`.
    pixels : int
        Rows and columns of an image, 8 at least; the axis is in the middle, between pixels. Where
        a vector of the zone is a whole number of pixels long, as by default, work is shared: 100
        pixels take five times as long as 96.
    reflections : array_like of int, shape (r, 3)
        hkl of the disks, normal to the zone; default the bright field.
    b_iso : float or array_like, shape (n,), optional
        Isotropic thermal motion B in Å^2, which py4DSTEM's crystal does not hold; default 0.5.
    absorption : bool
        Thermal diffuse absorption, as a measured pattern has it; several times as long as without.
    layers : int
        Higher-order Laue zones taken into account.
    q_max, max_beams
        Which beams count, see `py4dstem_ml.physics.lacbed.lacbed`.
    device : str or torch.device, optional
        None: the CPU, where one diagonalisation after another is faster: silicon takes 0.25 s on
        a core, 1.8 s on an H100.
    progress : bool, optional
        None: a bar in a terminal or a notebook.

    Returns
    -------
    dict of (h, k, l) to DiffractionSlice
        Intensities, the incident beam being 1: (pixels, pixels) for one thickness, else
        (t, pixels, pixels) with the thicknesses as labels; calibrated in 1/Å. The zone's shortest
        reciprocal vector runs down the rows. ``metadata["lacbed"]`` says how they were made.

    Raises
    ------
    ValueError
        If the zone is none, a reflection is not normal to it, or a number is out of range.

    Examples
    --------
    >>> from py4DSTEM.process.diffraction import Crystal
    >>> import py4dstem_ml
    >>> gold = Crystal([[0, 0, 0], [0, .5, .5], [.5, 0, .5], [.5, .5, 0]], 79, 4.08)
    >>> disks = gold.generate_lacbed(500, pixels=32, reflections=[(0, 0, 0), (2, 0, 0)])
    >>> disks[2, 0, 0].shape
    (32, 32)

    See Also
    --------
    py4dstem_ml.physics.lacbed.lacbed
    """
    from ..compute import pick_device
    from ..physics.electrons import wavelength
    from ..physics.lacbed import Zone, lacbed
    from .py4dstem import crystal_from_py4dstem

    if not 1e4 <= accelerating_voltage <= 1e7:
        raise ValueError(
            f"accelerating_voltage is in V, 200e3 for example, not {accelerating_voltage}"
        )
    if not (isinstance(pixels, int | np.integer) and pixels >= _FEWEST):
        raise ValueError(f"pixels is a whole number, {_FEWEST} at least, not {pixels!r}")
    ours = crystal_from_py4dstem(crystal, b_iso)
    if semiangle_mrad is None:
        vectors = Zone.of(ours, zone_axis_lattice).vectors
        half_width = _HALF_SIDE * float(np.linalg.norm(vectors[0]))
    else:
        half_width = 1e-3 * _sound_semiangle(semiangle_mrad) / wavelength(accelerating_voltage)
    disks = lacbed(
        ours, zone_axis_lattice, accelerating_voltage, np.atleast_1d(thickness).tolist(),
        half_width=half_width, pixels=pixels, reflections=reflections, absorption=absorption,
        layers=layers, q_max=q_max, max_beams=max_beams, progress=progress,
        device=pick_device("cpu" if device is None else device),
    )  # fmt: skip
    series = None if np.ndim(thickness) == 0 else [f"{t:g}" for t in disks.thicknesses]
    images = disks.images.numpy()
    made = made_by(zone_axis_lattice, thickness, accelerating_voltage, absorption)
    return {
        tuple(hkl): diffraction_slice(images[:, number], hkl, disks.pixel_size, series, made)
        for number, hkl in enumerate(disks.hkl.tolist())
    }


def _sound_semiangle(semiangle_mrad: float) -> float:
    if not 0.0 < semiangle_mrad <= _WIDEST:
        raise ValueError(
            f"semiangle_mrad must be above 0 and up to {_WIDEST}, not {semiangle_mrad}"
        )
    return semiangle_mrad


def made_by(
    zone: npt.ArrayLike, thickness: npt.ArrayLike, accelerating_voltage: float, absorption: bool
) -> dict[str, Any]:
    """Return what a slice says of how it was made, see `diffraction_slice`."""
    return {
        "zone_axis_lattice": np.asarray(zone), "thickness": np.atleast_1d(thickness),
        "accelerating_voltage": float(accelerating_voltage), "absorption": bool(absorption),
    }  # fmt: skip


def diffraction_slice(
    images: npt.NDArray[np.float32], hkl: list[int], pixel_size: float, labels: list[str] | None,
    made: dict[str, Any],
) -> DiffractionSlice:  # fmt: skip
    """Images (t, n, n) of a disk as py4DSTEM's own, the first alone where there are no labels.

    ``metadata["lacbed"]`` holds what is said in ``made``.
    """
    from emdfile import Metadata
    from py4DSTEM.data import DiffractionSlice

    data = images[0] if labels is None else images.copy()
    name = "lacbed " + " ".join(map(str, hkl))
    found = DiffractionSlice(data, name=name, slicelabels=labels)
    found.calibration.set_Q_pixel_size(pixel_size)
    found.calibration.set_Q_pixel_units("A^-1")
    found.metadata = Metadata("lacbed", made)
    return found
