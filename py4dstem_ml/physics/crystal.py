"""A crystal: lattice and atoms, and the Fourier coefficients of its potential."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi
from typing import Any

import numpy as np
import torch

from .electrons import POTENTIAL_VOLT_ANGSTROM2, lorentz_factor
from .scattering_factors import absorptive_factor, thermal_factor

#: B in Å^2 where nothing is known: 0.08 Å rms displacement, as usual in the field.
DEFAULT_B_ISO = 0.5


def _float64(values: Any) -> torch.Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


@dataclass(frozen=True, eq=False, init=False)
class Crystal:
    """Lattice, species, positions, occupancies and isotropic thermal motion.

    Parameters
    ----------
    lattice : array_like, shape (3, 3)
        Rows are a, b, c in Å, right-handed Cartesian.
    numbers : array_like of int, shape (n,)
        Atomic numbers.
    positions : array_like, shape (n, 3)
        Fractional coordinates. A tensor that requires gradients keeps them.
    occupancies : array_like, shape (n,), optional
        0 to 1, default 1.
    b_iso : float or array_like, shape (n,), optional
        Debye-Waller B = 8 pi^2 <u^2> in Å^2, default 0.5.
    name : str, optional

    Notes
    -----
    All are kept as float64 tensors (``numbers`` as int64).

    Raises
    ------
    ValueError
        If shapes disagree, the lattice is singular or left-handed, a value is not finite, an
        atomic number is not whole, an occupancy is not within 0 to 1, or a B is negative.

    Examples
    --------
    >>> gold = Crystal.cubic(4.08, [79] * 4, [[0, 0, 0], [0, .5, .5], [.5, 0, .5], [.5, .5, 0]])
    >>> round(gold.volume, 2)
    67.92
    """

    lattice: torch.Tensor
    numbers: torch.Tensor
    positions: torch.Tensor
    occupancies: torch.Tensor
    b_iso: torch.Tensor
    name: str

    def __init__(
        self,
        lattice: Any,
        numbers: Any,
        positions: Any,
        occupancies: Any = None,
        b_iso: Any = DEFAULT_B_ISO,
        name: str = "",
    ) -> None:
        elements = np.asarray(numbers)
        if not np.array_equal(elements, np.rint(elements)):
            raise ValueError("Crystal.numbers holds an atomic number that is not whole")
        kinds = torch.as_tensor(elements, dtype=torch.int64)
        n = len(kinds)
        shares = _float64(torch.ones(n) if occupancies is None else occupancies)
        thermal = _float64(b_iso)
        fields: dict[str, tuple[torch.Tensor, tuple[int, ...]]] = {
            "lattice": (_float64(lattice), (3, 3)),
            "numbers": (kinds, (n,)),
            "positions": (_float64(positions), (n, 3)),
            "occupancies": (shares, (n,)),
            "b_iso": (thermal.expand(n) if thermal.ndim == 0 else thermal, (n,)),
        }
        for field, (value, wanted) in fields.items():
            if tuple(value.shape) != wanted:
                raise ValueError(f"Crystal.{field} has shape {tuple(value.shape)}, not {wanted}")
            if not bool(torch.isfinite(value).all()):
                raise ValueError(f"Crystal.{field} holds a value that is not finite")
            object.__setattr__(self, field, value)
        object.__setattr__(self, "name", name)
        if not bool(((shares >= 0) & (shares <= 1)).all()):
            raise ValueError("Crystal.occupancies holds a share that is not within 0 to 1")
        if bool((thermal < 0).any()):
            raise ValueError("Crystal.b_iso holds a negative Debye-Waller B")
        if not self.volume > 1e-3:
            raise ValueError("Crystal.lattice must be right-handed with rows a, b, c in Å")
        if n == 0:
            raise ValueError("a Crystal needs at least one atom")

    @classmethod
    def cubic(cls, a: float, numbers: Any, positions: Any, **options: Any) -> Crystal:
        """Return a crystal with the cubic lattice constant ``a`` in Å."""
        return cls(a * torch.eye(3, dtype=torch.float64), numbers, positions, **options)

    @property
    def volume(self) -> float:
        """Unit cell volume in Å^3."""
        return float(torch.linalg.det(self.lattice.detach()))

    @property
    def reciprocal(self) -> torch.Tensor:
        """Rows are a*, b*, c* in 1/Å (no 2 pi), so that g = hkl @ reciprocal."""
        return torch.linalg.inv(self.lattice).T

    def strained(self, deformation: Any) -> Crystal:
        """Return the crystal with every Cartesian vector r mapped to ``deformation @ r``."""
        lattice = self.lattice @ _float64(deformation).T
        return Crystal(
            lattice, self.numbers, self.positions, self.occupancies, self.b_iso, self.name
        )

    def _lattice_sum(self, hkl: torch.Tensor, factor: Any) -> torch.Tensor:
        """Sum factor(Z, B, g) occ exp(-2 pi i g.r) over the atoms, kind by kind."""
        hkl = _float64(hkl)
        g = torch.linalg.norm(hkl @ self.reciprocal, dim=-1)
        total = torch.zeros(hkl.shape[0], dtype=torch.complex128)
        kinds = torch.stack([self.numbers.double(), self.b_iso.detach()], dim=1)
        if self.b_iso.requires_grad:  # each atom's B has a slope of its own
            kinds = torch.column_stack([kinds, torch.arange(len(kinds))])
        for kind in torch.unique(kinds, dim=0):
            atoms = torch.nonzero((kinds == kind).all(dim=1))[:, 0]
            phase = -2.0 * pi * (hkl @ self.positions[atoms].T)
            wave = torch.complex(torch.cos(phase), torch.sin(phase))
            atom_sum = wave @ self.occupancies[atoms].to(torch.complex128)
            total = total + factor(int(kind[0]), self.b_iso[atoms[0]], g) * atom_sum
        return total

    def potential_coefficients(self, hkl: Any) -> torch.Tensor:
        """Return V_g in V, thermal motion included, V(r) = sum_g V_g exp(2 pi i g.r).

        Parameters
        ----------
        hkl : array_like of int, shape (n, 3)

        Returns
        -------
        torch.Tensor
            complex128, shape (n,). No relativistic factor.
        """
        lattice_sum = self._lattice_sum(torch.as_tensor(np.asarray(hkl)), thermal_factor)
        return lattice_sum * (POTENTIAL_VOLT_ANGSTROM2 / torch.linalg.det(self.lattice))

    def coupling_coefficients(
        self, hkl: Any, energy_ev: float, *, absorption: bool = True
    ) -> torch.Tensor:
        """Return U_g + i U'_g in 1/Å^2, the potential as it enters the wave equation.

        Parameters
        ----------
        hkl : array_like of int, shape (n, 3)
        energy_ev : float
            Beam energy in eV.
        absorption : bool
            Add i U'_g of thermal diffuse scattering (see `scattering_factors`).

        Returns
        -------
        torch.Tensor
            complex128, shape (n,). U_g = gamma / (pi V) sum f exp(-B g^2/4) exp(-2 pi i g.r).
        """

        def factor(z: int, b: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
            elastic = thermal_factor(z, b, g)
            if not absorption:
                return elastic
            return torch.complex(elastic, absorptive_factor(z, g, float(b.detach()), energy_ev))

        lattice_sum = self._lattice_sum(torch.as_tensor(np.asarray(hkl)), factor)
        return lattice_sum * (lorentz_factor(energy_ev) / pi / torch.linalg.det(self.lattice))
