"""LACBED networks on py4DSTEM's crystals and slices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import os

    from py4DSTEM.data import DiffractionSlice, RealSlice
    from py4DSTEM.process.diffraction import Crystal

    from ..physics.crystal import Crystal as OurCrystal

#: Share of a that edges and angles of a cubic cell may differ by.
_CUBIC = 1e-3
#: Operations of the Laue group m-3, the smallest of the cubic ones; 4/mmm has 16.
_OPERATIONS = 24


def generate_lacbed_aiml(
    crystal: Crystal,
    thickness: float,
    *,
    zone_axis_lattice: npt.ArrayLike = (0, 0, 1),
    accelerating_voltage: float = 200e3,
    b_iso: Any = None,
    weights: str | os.PathLike | None = None,
    outside: Literal["refuse", "exact"] = "refuse",
    device: Any = None,
) -> dict[tuple[int, int, int], DiffractionSlice]:
    """Generate the [001] bright-field LACBED pattern of a cubic crystal with a network.

    Parameters
    ----------
    crystal : py4DSTEM.process.diffraction.Crystal
        Cubic, in its conventional cell.
    thickness : float
        Å.
    zone_axis_lattice : array_like of int, shape (3,)
        [0, 0, 1]: the zone that networks know.
    accelerating_voltage : float
        V.
    b_iso : float or array_like, shape (n,), optional
        Isotropic thermal motion B in Å^2, which py4DSTEM's crystal does not hold; default 0.5.
    weights : str or path, optional
        Name of weights (see `list_pretrained`) or a ``.safetensors`` file. None: the default ones.
    outside : {"refuse", "exact"}
        What to do where the network was not trained: raise, or compute with `generate_lacbed`,
        with absorption where the training had it (the default network's had none), and log that.
    device : str or torch.device, optional
        None: a GPU if there is one.

    Returns
    -------
    dict of (0, 0, 0) to DiffractionSlice
        As of `generate_lacbed`: intensities, the incident beam being 1, calibrated in 1/Å; 64 x 64
        pixels, 8 a* from the axis to the edges, those of the longest cell edge where it is not
        cubic and is computed.

    Raises
    ------
    ValueError
        If the crystal is not cubic, its lattice constant, the thickness, the voltage or the zone
        is not within the range of the training, unless ``outside`` is "exact"; if that is no such
        choice.

    Examples
    --------
    >>> from py4DSTEM.process.diffraction import Crystal
    >>> import py4dstem_ml
    >>> gold = Crystal([[0, 0, 0], [0, .5, .5], [.5, 0, .5], [.5, .5, 0]], 79, 4.08)
    >>> gold.generate_lacbed_aiml(500)[0, 0, 0].shape
    (64, 64)

    See Also
    --------
    py4dstem_ml.toolkits.py4dstem_lacbed.generate_lacbed

    Notes
    -----
    After Webb, Beanland and Römer, arXiv 2503.02852.
    """
    import logging
    from pathlib import Path

    from ..lacbed.predict import LacbedGenerator
    from ..physics.electrons import wavelength
    from ..physics.projection import projected_potential
    from ..weights import default_name
    from .py4dstem import crystal_from_py4dstem
    from .py4dstem_lacbed import diffraction_slice, generate_lacbed, made_by

    if outside not in ("refuse", "exact"):
        raise ValueError(f"outside is 'refuse' or 'exact', not {outside!r}")
    generator = LacbedGenerator(weights, device=device)
    ours = crystal_from_py4dstem(crystal, b_iso)
    try:
        a = _lattice_constant(ours, zone_axis_lattice)
        generator.refuse_conditions(a, thickness, accelerating_voltage)
        potential = projected_potential(ours, generator.pixels).potential
        image = generator(potential, a=a, thickness=thickness, energy_ev=accelerating_voltage)
    except ValueError as error:
        if outside == "refuse":
            raise
        logging.getLogger(__name__).warning("%s: computed exactly instead", error)
        longest = float(np.linalg.norm(ours.lattice.numpy(), axis=1).max())
        semiangle = generator.half_width / longest * wavelength(accelerating_voltage)
        return generate_lacbed(
            crystal, thickness, zone_axis_lattice=zone_axis_lattice,
            accelerating_voltage=accelerating_voltage, semiangle_mrad=1e3 * semiangle,
            pixels=generator.pixels, b_iso=b_iso, absorption=generator.learned_absorption,
            device=device,
        )  # fmt: skip
    size = 2.0 * generator.half_width / (a * generator.pixels)
    made = made_by(zone_axis_lattice, thickness, accelerating_voltage, generator.learned_absorption)
    made["weights"] = Path(weights or default_name("lacbed")).name.removesuffix(".safetensors")
    return {(0, 0, 0): diffraction_slice(image[None], [0, 0, 0], size, None, made)}


def _lattice_constant(crystal: OurCrystal, zone: npt.ArrayLike) -> float:
    """a in Å of a cubic crystal seen along [001].

    Raises
    ------
    ValueError
        If it is not cubic, or the zone is another.
    """
    from ..physics.orientations import laue_operations

    lattice = crystal.lattice.numpy()
    metric = lattice @ lattice.T
    a = float(np.sqrt(metric[0, 0]))
    if np.abs(metric - a**2 * np.eye(3)).max() > _CUBIC * a**2:
        raise ValueError(
            "the network knows cubic crystals in their conventional cell, but this cell is not "
            "cubic; generate_lacbed computes any"
        )
    if len(laue_operations(crystal)) < _OPERATIONS:
        raise ValueError(
            "the network knows cubic crystals, but the atoms of this one are not placed with "
            "cubic symmetry; generate_lacbed computes any"
        )
    if not np.array_equal(np.abs(np.asarray(zone)), [0, 0, 1]):
        raise ValueError(
            f"the network knows the zone [0, 0, 1], not {np.asarray(zone).tolist()}; "
            "generate_lacbed computes any"
        )
    return a


def predict_projected_potential(
    pattern: Any,
    *,
    a: float,
    thickness: float,
    accelerating_voltage: float | None = None,
    pixel_size: float | None = None,
    absorption: bool | None = None,
    weights: str | os.PathLike | None = None,
    atlas: str | os.PathLike | Literal[False] | None = None,
    device: Any = None,
) -> npt.NDArray[np.float32] | RealSlice:
    """Find the projected potential of a cubic crystal from its [001] bright-field LACBED pattern.

    Of a network's reading and the potentials of known crystals that have patterns alike, the one
    that explains the pattern best.

    Parameters
    ----------
    pattern : DiffractionSlice, or array_like, shape (..., m, m)
        Centred on the zone axis to a pixel (the middle, n/2, of an even number lies between
        pixels), a* down the rows, in any units; reaches 8 a* at least. A slice of one
        thickness.
    a : float
        Lattice constant, Å.
    thickness : float
        Å.
    accelerating_voltage : float, optional
        V. None: what a slice of `generate_lacbed` says; others are of 200 kV.
    pixel_size : float, optional
        1/Å. None: the slice's own calibration; an array reaches just 8 a*.
    absorption : bool, optional
        Whether the pattern has thermal diffuse absorption. None: what a slice of `generate_lacbed`
        or `generate_lacbed_aiml` says; others have it, as measured ones do.
    weights : str or path, optional
        Name of weights (see `list_pretrained`) or a ``.safetensors`` file. None: the default ones.
    atlas : str, path or False, optional
        The known crystals, likewise; False: the network's reading alone.
    device : str or torch.device, optional
        None: a GPU if there is one.

    Returns
    -------
    ndarray of float32, shape (..., 64, 64), or RealSlice of a DiffractionSlice
        V·Å of one unit cell, its mean left out.

    Raises
    ------
    ValueError
        If the pattern is not square, not finite, constant, or does not reach far enough; if a
        slice is not calibrated in 1/Å, of several thicknesses, another disk, or made at another
        thickness or voltage; if a, the thickness or the voltage is outside the range of the
        training.

    Examples
    --------
    >>> from py4DSTEM.process.diffraction import Crystal
    >>> import py4dstem_ml
    >>> gold = Crystal([[0, 0, 0], [0, .5, .5], [.5, 0, .5], [.5, .5, 0]], 79, 4.08)
    >>> pattern = gold.generate_lacbed(500, semiangle_mrad=50)[0, 0, 0]
    >>> py4dstem_ml.predict_projected_potential(pattern, a=4.08, thickness=500).shape
    (64, 64)

    See Also
    --------
    py4dstem_ml.PotentialPredictor : for hyperspy's ``map``, and how well the pattern is explained

    Notes
    -----
    A bright field does not show where the unit cell begins, see `PotentialPredictor`.
    """
    from ..lacbed.predict import PotentialPredictor

    predictor = PotentialPredictor(weights, atlas=atlas, device=device)
    is_slice = hasattr(pattern, "calibration")
    made = _refuse_slice(pattern, thickness, accelerating_voltage) if is_slice else {}
    if accelerating_voltage is None:
        accelerating_voltage = float(made.get("accelerating_voltage", 200e3))
    if absorption is None:
        absorption = bool(made.get("absorption", True))
    if is_slice and pixel_size is None:
        units = pattern.calibration.get_Q_pixel_units()
        if units != "A^-1":
            raise ValueError(
                f"the slice's pixels are calibrated in {units}, not A^-1: give pixel_size in 1/Å"
            )
        pixel_size = float(pattern.calibration.get_Q_pixel_size())
    found = predictor(
        pattern.data if is_slice else pattern, a=a, thickness=thickness,
        energy_ev=accelerating_voltage, pixel_size=pixel_size, absorption=absorption,
    )  # fmt: skip
    if not is_slice:
        return found
    from py4DSTEM.data import RealSlice

    potential = RealSlice(found, name="projected potential")
    potential.calibration.set_R_pixel_size(a / predictor.pixels)
    potential.calibration.set_R_pixel_units("A")
    return potential


def _refuse_slice(
    pattern: DiffractionSlice, thickness: float, accelerating_voltage: float | None
) -> dict[str, Any]:
    """Refuse slices of something else than one bright field of these; return how it was made."""
    if np.ndim(pattern.data) > 2:
        raise ValueError(
            "the slice is a series, and each of its patterns has a thickness of its own: give one, "
            "series[label].data, with pixel_size and, if it has none, absorption=False"
        )
    name = str(getattr(pattern, "name", ""))
    if name.startswith("lacbed ") and name != "lacbed 0 0 0":
        raise ValueError(f"the slice is the disk {name[7:]}: the bright field, 0 0 0, is read")
    said = getattr(pattern, "metadata", {})
    made = said.get("lacbed") if isinstance(said, dict) else None
    made = {} if made is None else {name: made[name] for name in made.keys}
    zone = made.get("zone_axis_lattice", (0, 0, 1))
    if np.count_nonzero(zone) != 1:
        raise ValueError(f"the slice is of the zone {list(map(int, zone))}: [0, 0, 1] is read")
    given = {"thickness": thickness, "accelerating_voltage": accelerating_voltage}
    for name, value in given.items():
        if name in made and value is not None and not np.allclose(made[name], value):
            raise ValueError(f"the slice was made at {name} = {made[name]}, not {value:g}")
    return made
