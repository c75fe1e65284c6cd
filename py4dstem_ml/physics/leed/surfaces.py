"""Surfaces by their atoms' coordinates, and those of silicon (001)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ..crystal import Crystal
from .layer import Layer
from .muffin_tin import phase_shifts
from .phase_shifts import Scatterer
from .stack import Bulk, Surface

#: Å.
SILICON_LATTICE_CONSTANT = 5.431
#: Å along each axis at room temperature: a Debye temperature of about 600 K.
SILICON_U_RMS = 0.076

#: Where the atoms of planes 1 to 4 are in the bulk: x and y in a = 3.84 Å.
_SITES = [
    [[0, -0.5], [0, 0.5]],
    [[0.5, -0.5], [0.5, 0.5]],
    [[0.5, 0], [0.5, 1]],
    [[0, 0], [0, 1]],
]
#: How far they are from there along y and z in Å: Keating's forces, with the dimer imposed at
#: 2.30 Å, or at 2.28 Å and a tilt of 18.3 degrees.
_DISPLACEMENTS = {
    "symmetric": [
        [[0.770, -0.130], [-0.770, -0.130]],
        [[0.153, -0.010], [-0.153, -0.010]],
        [[0.0, -0.155], [0.0, 0.137]],
        [[0.0, -0.075], [0.0, 0.068]],
    ],
    "buckled": [
        [[0.841, -0.605], [-0.835, 0.111]],
        [[0.186, -0.213], [-0.129, 0.154]],
        [[0.053, -0.161], [-0.029, 0.139]],
        [[0.035, -0.077], [-0.034, 0.070]],
    ],
}


def layers_of(
    lattice: npt.ArrayLike,
    positions: npt.ArrayLike,
    scatterers: Scatterer | Sequence[Scatterer],
    spacing: float = 1.2,
) -> list[Layer]:
    """Cut atoms into layers, the topmost first.

    Parameters
    ----------
    lattice : array_like, shape (2, 2)
        Rows a1, a2 in Å.
    positions : array_like, shape (n, 3)
        Å, z towards the vacuum, in any order.
    scatterers : Scatterer or sequence of Scatterer
        One for all atoms, or one for each.
    spacing : float
        Atoms whose heights differ by less than this many Å share a composite layer; plane waves
        couple the layers, and need more beams the closer these are.

    Examples
    --------
    >>> from py4dstem_ml.physics.leed.phase_shifts import PhaseShifts
    >>> atom = Scatterer(PhaseShifts([10.0, 100.0], [[0.5], [0.6]]))
    >>> layers = layers_of([[3, 0], [0, 3]], [[0, 0, 0], [1, 1, -0.5], [0, 2, -2.1]], atom)
    >>> [len(layer.positions) for layer in layers]
    [2, 1]
    """
    places = np.asarray(positions, dtype=float)
    kinds = [scatterers] * len(places) if isinstance(scatterers, Scatterer) else list(scatterers)
    whole = Layer(lattice, places, kinds)
    order = np.argsort(-places[:, 2], kind="stable")
    cuts = np.flatnonzero(-np.diff(places[order, 2]) >= spacing) + 1
    return [
        Layer(whole.lattice, places[part], [kinds[i] for i in part])
        for part in np.split(order, cuts)
    ]


@lru_cache(maxsize=4)
def silicon(u_rms: float = SILICON_U_RMS, alpha: float = 2 / 3) -> Scatterer:
    """Return the silicon atom of the bulk crystal, up to 400 eV above the muffin-tin zero.

    ``u_rms`` is in Å along each axis; for ``alpha`` see `muffin_tin.muffin_tins`.
    """
    face_centred = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    places = np.concatenate([face_centred, face_centred + 0.25])
    crystal = Crystal.cubic(SILICON_LATTICE_CONSTANT, [14] * 8, places)
    energies = np.geomspace(5.0, 400.0, 60)
    return Scatterer(phase_shifts(crystal, energies, lmax=10, alpha=alpha)[14], u_rms)


@lru_cache(maxsize=16)
def _silicon_001_bulk(first_plane: int, atom: Scatterer) -> Bulk:
    """Ideal planes from the given one, counted from 1 at height 0, with plane 1 of dimers."""
    a, spacing = SILICON_LATTICE_CONSTANT / np.sqrt(2), SILICON_LATTICE_CONSTANT / 4
    sites = [[0, a / 2], [a / 2, a / 2], [a / 2, 0], [0, 0]]
    lattice = np.diag([a, a])
    layers = [
        Layer(lattice, [[*sites[(plane - 1) % 4], -(plane - 1) * spacing]], atom)
        for plane in (first_plane, first_plane + 1)
    ]
    return Bulk(layers, [a / 2, a / 2, -2 * spacing])


def _plane(reconstruction: str, number: int) -> npt.NDArray[np.float64]:
    """Places in Å of the two atoms of a plane, counted from 1, under dimers or of dimers."""
    a, spacing = SILICON_LATTICE_CONSTANT / np.sqrt(2), SILICON_LATTICE_CONSTANT / 4
    places = np.zeros((2, 3))
    places[:, :2] = a * np.array(_SITES[number - 1])
    places[:, 1:] += _DISPLACEMENTS[reconstruction][number - 1]
    return places - [0, 0, (number - 1) * spacing]


@lru_cache(maxsize=16)
def _relaxed_planes(reconstruction: str, atom: Scatterer) -> tuple[Layer, ...]:
    """Planes 3 and 4 under dimers."""
    a = SILICON_LATTICE_CONSTANT / np.sqrt(2)
    return tuple(Layer(np.diag([a, 2 * a]), _plane(reconstruction, n), atom) for n in (3, 4))


def silicon_001(
    reconstruction: str = "symmetric",
    *,
    height: float = 0.0,
    length: float = 0.0,
    atom: Scatterer | None = None,
    dimer_atom: Scatterer | None = None,
) -> Surface:
    """Return a surface of silicon (001); dimers lie along y, their rows along x.

    Dimers and plane 2 are one composite layer, planes 3 and 4 are relaxed. Surfaces that differ
    in the dimers alone share all that lies below.

    Parameters
    ----------
    reconstruction : {"symmetric", "buckled", "1x1"}
        (2x1) with symmetric dimers, with all dimers tilted up towards +y, or none.
    height, length : float
        Å by which the dimers are raised as a whole, and lengthened.
    atom, dimer_atom : Scatterer, optional
        Default `silicon`; the dimers' default is ``atom``.

    Raises
    ------
    ValueError
        For another reconstruction, or dimers displaced where there are none.

    Examples
    --------
    >>> high, low = silicon_001(height=0.1), silicon_001(height=-0.1)
    >>> high.bulk is low.bulk, round(high.top - low.top, 3)
    (True, 0.2)
    """
    atom = atom or silicon()
    a = SILICON_LATTICE_CONSTANT / np.sqrt(2)
    if reconstruction == "1x1":
        if height or length:
            raise ValueError("the (1x1) surface has no dimers whose height or length could change")
        return Surface([Layer(np.diag([a, a]), [[0, a / 2, 0]], atom)], _silicon_001_bulk(2, atom))
    if reconstruction not in _DISPLACEMENTS:
        raise ValueError(
            f"the reconstruction is 'symmetric', 'buckled' or '1x1'; not {reconstruction!r}"
        )
    dimer, plane_2 = _plane(reconstruction, 1), _plane(reconstruction, 2)
    centre, half = dimer.mean(axis=0), 0.5 * (dimer[1] - dimer[0])
    half *= 1 + 0.5 * length / np.linalg.norm(half)
    dimer = np.array([centre - half, centre + half]) + [0, 0, height]
    top = Layer(
        np.diag([a, 2 * a]),
        np.concatenate([dimer, plane_2]),
        [dimer_atom or atom] * 2 + [atom] * 2,
    )
    return Surface([top, *_relaxed_planes(reconstruction, atom)], _silicon_001_bulk(5, atom))
