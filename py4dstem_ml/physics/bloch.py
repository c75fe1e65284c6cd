"""The dynamical engine: Bloch waves for many incident directions and thicknesses at once.

The forward-scattered amplitudes obey (De Graef, Introduction to Conventional TEM, eq. 5.51)

    d psi_g / dz = 2 pi i [ s_g psi_g + sum_h U_{g-h} / (2 k_n) psi_h ],

with z along the foil normal. Off the diagonal the matrix is the same for every incident
direction; only the excitation errors s_g change. So a block of directions is carried through
the foil together by matrix products: the exponential is expanded in Chebyshev polynomials of
the matrix (Tal-Ezer & Kosloff, J. Chem. Phys. 81 (1984) 3967), whose vectors do not depend on
the thickness, which makes a thickness series cost no more than its last member.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, pi

import numpy as np
import numpy.typing as npt
import torch

from .crystal import Crystal
from .electrons import wavelength

#: Chebyshev vectors that are summed by one matrix product.
_CHEBYSHEV_CHUNK = 16
#: Products that bound the spectrum.
_LANCZOS_STEPS = 12
#: Largest exponent by which Chebyshev terms may outgrow their sum through absorption.
_LARGEST_GROWTH = 4.0
#: Largest number of complex amplitudes held for one Chebyshev vector.
_BLOCK_ELEMENTS = 2**20


@dataclass(frozen=True, eq=False)
class Beams:
    """Reflections of one orientation, the direct beam first.

    Attributes
    ----------
    hkl : ndarray of int, shape (n, 3)
    g : torch.Tensor, shape (n, 3)
        Laboratory frame, 1/Å: rows, columns, towards the source.
    """

    hkl: npt.NDArray[np.int64]
    g: torch.Tensor

    def __len__(self) -> int:
        return len(self.hkl)


def excitation_errors(
    g: torch.Tensor,
    energy_ev: float,
    incidence: torch.Tensor | None = None,
    foil_normal: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return s_g along the foil normal in 1/Å, positive inside the Ewald sphere.

    Parameters
    ----------
    g : torch.Tensor, shape (n, 3)
        Laboratory frame, 1/Å.
    energy_ev : float
    incidence : torch.Tensor, shape (b, 2), optional
        Transverse wave vectors (row, col) of the incident waves in 1/Å; default (0, 0).
    foil_normal : torch.Tensor, shape (3,), optional
        Unit vector towards the source; default (0, 0, 1).

    Returns
    -------
    torch.Tensor, shape (n, b)
        De Graef eq. 2.90: s = -g.(2k + g) / (2 n.(k + g)) with n along the beam, so that the
        sign turns with our n.
    """
    k, normal = _wave_vectors(g, energy_ev, incidence, foil_normal)
    numerator = 2.0 * g @ k.T + (g * g).sum(-1, keepdim=True)
    along = (g @ normal)[:, None] + (k @ normal)[None, :]
    return 0.5 * numerator / along


def _wave_vectors(
    like: torch.Tensor,
    energy_ev: float,
    incidence: torch.Tensor | None,
    foil_normal: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    if incidence is None:
        incidence = torch.zeros(1, 2)
    if foil_normal is None:
        foil_normal = torch.tensor([0.0, 0.0, 1.0])
    transverse, normal = incidence.to(like), foil_normal.to(like)
    k_z = -torch.sqrt(wavelength(energy_ev) ** -2 - (transverse**2).sum(-1, keepdim=True))
    return torch.cat([transverse, k_z], dim=1), normal


def select_beams(
    crystal: Crystal,
    orientation: npt.ArrayLike,
    energy_ev: float,
    *,
    g_max: float = 2.0,
    s_max: float = 0.06,
    max_beams: int | None = None,
) -> Beams:
    """Choose the reflections with |g| <= ``g_max`` and |s_g| <= ``s_max`` for the central beam.

    Parameters
    ----------
    crystal : Crystal
    orientation : array_like, shape (3, 3)
        See `py4dstem_ml.physics.orientations`.
    energy_ev : float
    g_max, s_max : float
        1/Å. Every lattice vector inside is a beam, forbidden reflections too: several
        scattering can reach them.
    max_beams : int, optional
        Keep this many, those with the largest |U_g| / (s_g^2 + |U_g|^2 / 4k^2)^(1/2) first.

    Returns
    -------
    Beams
        Sorted by |g|; the first is 000.
    """
    hkl = reflections(crystal, g_max)
    g = _laboratory(crystal, orientation, hkl)
    s = excitation_errors(g.detach(), energy_ev)[:, 0]
    near = torch.abs(s) <= s_max
    near[0] = True
    hkl, g, s = hkl[near.numpy()], g[near], s[near]
    if max_beams is not None and len(hkl) > max_beams:
        with torch.no_grad():
            half_gap = torch.abs(crystal.coupling_coefficients(hkl, energy_ev, absorption=False))
        half_gap = half_gap * (0.5 * wavelength(energy_ev))
        kept = strongest_beams(half_gap, s, max_beams)
        hkl, g = hkl[kept.numpy()], g[kept]
    return Beams(hkl, g)


def strongest_beams(half_gap: torch.Tensor, s: torch.Tensor, max_beams: int) -> torch.Tensor:
    """Return the ascending indices of the beams that couple most strongly to the direct one.

    Parameters
    ----------
    half_gap : torch.Tensor, shape (n,)
        |U_g| / 2k in 1/Å; beam 0 is the direct one and is kept.
    s : torch.Tensor, shape (n,)
        Excitation errors in 1/Å.
    max_beams : int
    """
    strength = half_gap / torch.hypot(s, half_gap + 1e-9)
    strength[0] = torch.inf
    return torch.sort(torch.argsort(strength, descending=True)[:max_beams]).values


def reflections(crystal: Crystal, g_max: float) -> npt.NDArray[np.int64]:
    """Return all (h, k, l) with |g| <= ``g_max`` in 1/Å, sorted by |g|, 000 first."""
    lengths = torch.linalg.norm(crystal.lattice.detach(), dim=1).numpy()
    h, k, l = (np.arange(-int(g_max * n), int(g_max * n) + 1) for n in lengths)  # noqa: E741
    hkl = np.stack(np.meshgrid(h, k, l, indexing="ij"), axis=-1).reshape(-1, 3)
    length = np.linalg.norm(hkl @ crystal.reciprocal.detach().numpy(), axis=1)
    inside = np.flatnonzero(length <= g_max)
    return hkl[inside[np.argsort(length[inside], kind="stable")]]


def _laboratory(crystal: Crystal, orientation: npt.ArrayLike, hkl: npt.NDArray) -> torch.Tensor:
    rotation = torch.as_tensor(np.asarray(orientation), dtype=torch.float64)
    return torch.as_tensor(hkl, dtype=torch.float64) @ crystal.reciprocal @ rotation


def structure_matrix(
    crystal: Crystal, beams: Beams, energy_ev: float, *, absorption: bool = True
) -> torch.Tensor:
    """Return the couplings U_{g-h} in 1/Å^2, complex128, shape (n, n).

    The diagonal holds the mean absorption i U'_0; the mean inner potential is left out, being
    a phase common to all beams.
    """
    differences = beams.hkl[:, None, :] - beams.hkl[None, :, :]
    low = differences.min(axis=(0, 1))
    shape = differences.max(axis=(0, 1)) - low + 1
    flat = np.ravel_multi_index(tuple((differences - low).reshape(-1, 3).T), tuple(shape))
    present = np.zeros(int(shape.prod()), dtype=bool)
    present[flat] = True
    unique = np.flatnonzero(present)
    slot = np.empty(len(present), dtype=np.int64)
    slot[unique] = np.arange(len(unique))
    hkl = np.stack(np.unravel_index(unique, tuple(shape)), axis=1) + low
    coupling = crystal.coupling_coefficients(hkl, energy_ev, absorption=absorption)
    n = len(beams)
    matrix = coupling[torch.as_tensor(slot[flat])].reshape(n, n)
    mean = coupling[int(slot[flat[0]])].real
    return matrix - mean * torch.eye(n, dtype=matrix.dtype)


def propagate(
    matrix: torch.Tensor,
    excitation: torch.Tensor,
    k_normal: torch.Tensor,
    thicknesses: Sequence[float] | torch.Tensor,
    *,
    solver: str = "chebyshev",
) -> torch.Tensor:
    """Carry plane waves through a foil.

    Parameters
    ----------
    matrix : torch.Tensor, shape (n, n)
        Couplings U_{g-h} in 1/Å^2, complex64 or complex128 (this sets the precision), on any
        device.
    excitation : torch.Tensor, shape (n, b)
        Excitation errors in 1/Å, one column for each incident direction.
    k_normal : torch.Tensor, shape (b,)
        Normal components of the incident wave vectors in 1/Å.
    thicknesses : sequence of float or torch.Tensor, shape (t,)
        Å, >= 0, any order, on any device.
    solver : {"chebyshev", "eigen"}
        The fast expansion, or the diagonalisation of each direction's matrix as reference.

    Returns
    -------
    torch.Tensor, shape (t, n, b)
        Amplitudes behind the foil; the incident wave has amplitude 1 in beam 0. Differentiable
        with respect to ``matrix`` and ``excitation``; for "eigen" also to the thicknesses, which
        are constants for "chebyshev".

    Raises
    ------
    ValueError
        For a negative or non-finite thickness or an unknown solver.
    """
    thickness = torch.as_tensor(thicknesses, dtype=torch.float64).reshape(-1)
    if not bool(((thickness >= 0) & torch.isfinite(thickness)).all()):
        raise ValueError("thicknesses must be finite and not negative (Å)")
    if solver not in _SOLVERS:
        raise ValueError(f"unknown solver {solver!r}; choose one of {sorted(_SOLVERS)}")
    block = max(1, _BLOCK_ELEMENTS // len(matrix))
    columns = range(0, excitation.shape[1], block)
    parts = [
        _SOLVERS[solver](matrix, excitation[:, i : i + block], k_normal[i : i + block], thickness)
        for i in columns
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def _chebyshev(
    matrix: torch.Tensor,
    excitation: torch.Tensor,
    k_normal: torch.Tensor,
    thickness: torch.Tensor,
) -> torch.Tensor:
    thickness = thickness.detach().cpu()
    operator = _ChebyshevOperator.build(matrix, excitation, k_normal)
    wave = torch.zeros(excitation.mT.shape, dtype=matrix.dtype, device=matrix.device)
    wave[:, 0] = 1.0
    depth, depths, amplitudes = 0.0, [], []
    for stage in operator.stages(thickness):
        amplitudes.append(operator.exponential(wave, stage - depth))
        depths.append(stage)
        depth, wave = float(stage[-1]), amplitudes[-1][-1]
    return torch.cat(amplitudes)[torch.searchsorted(torch.cat(depths), thickness)].mT


@dataclass(frozen=True, eq=False)
class _ChebyshevOperator:
    """The matrix of a block of directions, scaled so that its spectrum lies in [-1, 1].

    In real arithmetic and a row for each direction, where products with few directions are many
    times as fast: a row is the wave's real parts, then its imaginary ones, shape (b, 2n). ``hop``
    and ``diagonal`` hold twice the scaled matrix; ``oblique`` is k_mean / k_n, (b, 1), where
    directions differ in it. The true matrix is ``level + i damping + radius x``, the damping
    (b, 1) being one number for each direction.
    """

    hop: torch.Tensor
    diagonal: torch.Tensor
    oblique: torch.Tensor | None
    level: float
    damping: torch.Tensor
    radius: float
    absorption: float

    @classmethod
    def build(
        cls, matrix: torch.Tensor, excitation: torch.Tensor, k_normal: torch.Tensor
    ) -> _ChebyshevOperator:
        k_mean = k_normal.detach().mean()
        coupling = matrix / (2.0 * k_mean)
        ratio = k_mean / k_normal
        stretch = float(ratio.detach().max())
        # The spectrum of the sum lies within the sum of the spectra (Weyl). Absorption adds a
        # positive imaginary part, of which the centre takes one half.
        constant = coupling.detach()
        lowest, highest = _spectrum_bounds(0.5 * (constant + constant.mH))
        least, most = _spectrum_bounds(0.5j * (constant.mH - constant))
        low = float(excitation.detach().min()) + stretch * min(lowest, 0.0)
        high = float(excitation.detach().max()) + stretch * max(highest, 0.0)
        level, loss = 0.5 * (low + high), 0.5 * (least + most)
        absorption = 0.5 * stretch * (most - least)
        # Never much flatter than the spectrum, or high polynomials grow beyond all digits.
        radius = max(0.51 * (high - low), 8.0 * absorption) + 1e-6
        hop = coupling - 1j * loss * torch.eye(len(matrix)).to(matrix)
        # Transposed, for it stands to the right of the waves.
        real, imag = hop.real.mT, hop.imag.mT
        hop = torch.cat([torch.cat([real, imag], 1), torch.cat([-imag, real], 1)])
        diagonal = ((excitation.mT - level) * (2.0 / radius)).to(hop.dtype)
        differing = torch.abs(ratio.detach() - 1.0) > 4.0 * torch.finfo(hop.dtype).eps
        # With gradients the ratio carries them, also where all are alike.
        oblique = bool(differing.any()) or k_normal.requires_grad
        ratio = ratio.to(hop.dtype)
        return cls(
            hop=hop * (2.0 / radius),
            diagonal=torch.cat([diagonal, diagonal], 1),
            oblique=ratio[:, None] if oblique else None,
            level=level,
            damping=loss * ratio[:, None],
            radius=radius,
            absorption=absorption,
        )

    def twice(self, wave: torch.Tensor, minus: torch.Tensor) -> torch.Tensor:
        """Return 2 x wave - minus."""
        scaled = wave if self.oblique is None else wave * self.oblique
        return (scaled @ self.hop).sub_(minus).addcmul_(self.diagonal, wave)

    def stages(self, thickness: torch.Tensor) -> list[torch.Tensor]:
        """Split the sorted thicknesses so that no expansion's terms outgrow its sum.

        Off the real axis the polynomials grow like exp(2 pi z absorption), which cancels in the
        sum and would cost its digits.
        """
        longest = _LARGEST_GROWTH / (2.0 * pi * max(self.absorption, 1e-9))
        depths = torch.unique(thickness)
        stages = []
        start = 0.0
        while len(depths):
            reach = depths[depths <= start + longest]
            if len(reach) == 0:
                reach = torch.tensor([start + longest], dtype=depths.dtype)
            stages.append(reach)
            start = float(reach[-1])
            depths = depths[depths > start]
        return stages

    def exponential(self, wave: torch.Tensor, thickness: torch.Tensor) -> torch.Tensor:
        """Return exp(2 pi i z matrix) wave for ascending thicknesses, shape (t, b, n)."""
        precision = 0.1 * torch.finfo(wave.dtype).eps
        coefficients = _chebyshev_coefficients(thickness, self.radius, precision)
        coefficients = coefficients.to(wave.device, wave.real.dtype)
        first = torch.cat([wave.real, wave.imag], 1)
        vectors = [first, 0.5 * self.twice(first, torch.zeros_like(first))]
        even, odd = torch.zeros(
            2, len(thickness), first.numel(), dtype=first.dtype, device=first.device
        )
        left = coefficients.shape[1]
        for some in coefficients.split(_CHEBYSHEV_CHUNK, dim=1):
            terms = some.shape[1]
            while len(vectors) < min(left, terms + 2):  # two for the next chunk to go on from
                vectors.append(self.twice(vectors[-1], vectors[-2]))
            left -= terms
            even = torch.addmm(even, some[:, ::2], torch.stack(vectors[:terms:2]).flatten(1))
            if terms > 1:
                odd = torch.addmm(odd, some[:, 1::2], torch.stack(vectors[1:terms:2]).flatten(1))
            vectors = vectors[terms:]
        (real, imag), (odd_real, odd_imag) = (
            part.reshape(len(thickness), *first.shape).chunk(2, 2) for part in (even, odd)
        )
        depth = 2.0 * pi * thickness[:, None, None]
        phase = torch.exp(1j * self.level * depth).to(wave.device, wave.dtype)
        loss = torch.exp(-depth.to(self.damping) * self.damping)
        return torch.complex(real - odd_imag, imag + odd_real) * (phase * loss)


def _spectrum_bounds(hermitian: torch.Tensor) -> tuple[float, float]:
    """Return numbers below and above all eigenvalues, for a few products with a vector.

    Lanczos from a random start; the extreme Ritz values, moved outwards by the norm of the last
    residual, bound the spectrum with a probability that is almost one (Zhou & Li, Linear Algebra
    Appl. 435 (2011) 480).
    """
    n = len(hermitian)
    steps = min(_LANCZOS_STEPS, n)
    start = torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    residual = start.to(hermitian)
    basis = torch.zeros(steps, n, dtype=hermitian.dtype, device=hermitian.device)
    projected = torch.zeros(steps, steps, dtype=torch.float64)
    norm = float(torch.linalg.norm(residual))
    for i in range(steps):
        basis[i] = residual / norm
        image = hermitian @ basis[i]
        residual = image
        for _ in range(2):  # once is not enough to be orthogonal in single precision
            residual = residual - (basis[: i + 1].conj() @ residual) @ basis[: i + 1]
        projected[i, i] = float(torch.vdot(basis[i], image).real)
        norm = float(torch.linalg.norm(residual))
        rounding = 100.0 * torch.finfo(hermitian.dtype).eps * float(torch.linalg.norm(image))
        if i + 1 == steps or norm <= rounding:  # or all that the start reaches is spanned
            break
        projected[i, i + 1] = projected[i + 1, i] = norm
    values = torch.linalg.eigvalsh(projected[: i + 1, : i + 1])
    return float(values[0]) - norm, float(values[-1]) + norm


def _chebyshev_coefficients(
    thickness: torch.Tensor, radius: float, precision: float
) -> torch.Tensor:
    """Return a_k of exp(2 pi i z radius x) = sum_k a_k T_k(x), shape (t, terms).

    They are 2 i^k J_k(2 pi z radius) (1 for 2 at k = 0), found by the Fourier transform of the
    left side at x = cos(theta); even ones are real, odd ones imaginary, given as real numbers.
    """
    argument = 2.0 * pi * radius * thickness.numpy()
    largest = float(argument[-1])
    order = ceil(largest + 12.0 * largest ** (1 / 3) + 20.0)
    nodes = np.cos(np.arange(2 * order) * (pi / order))
    series = np.fft.fft(np.exp(1j * argument[:, None] * nodes), axis=1)[:, :order] / order
    series[:, 0] *= 0.5
    # Terms grow off the real axis, see `_ChebyshevOperator.stages`; what is below the transform's
    # own rounding must not grow with them.
    rounding = np.finfo(float).eps * max(1.0, largest**0.5)
    least = max(precision * np.exp(-_LARGEST_GROWTH), rounding)
    matters = np.abs(series).max(axis=0) > least
    n_terms = int(np.flatnonzero(matters)[-1]) + 1
    coefficients = series.real
    coefficients[:, 1::2] = series.imag[:, 1::2]
    return torch.as_tensor(coefficients[:, :n_terms].copy())


def _eigen(
    matrix: torch.Tensor,
    excitation: torch.Tensor,
    k_normal: torch.Tensor,
    thickness: torch.Tensor,
) -> torch.Tensor:
    directions = []
    thickness = thickness.to(matrix.device)
    for s, k_n in zip(excitation.T, k_normal, strict=True):
        values, vectors = torch.linalg.eig(matrix / (2.0 * k_n) + torch.diag(s.to(matrix.dtype)))
        incident = torch.zeros(len(matrix), 1, dtype=matrix.dtype, device=matrix.device)
        incident[0] = 1.0
        excited = torch.linalg.solve(vectors, incident)
        phases = torch.exp(2j * pi * values[:, None] * thickness[None, :]).to(matrix.dtype)
        directions.append((vectors @ (excited * phases)).T)
    return torch.stack(directions, dim=2)


_SOLVERS = {"chebyshev": _chebyshev, "eigen": _eigen}


def diffract(
    crystal: Crystal,
    beams: Beams,
    energy_ev: float,
    thicknesses: Sequence[float] | torch.Tensor,
    *,
    incidence: torch.Tensor | None = None,
    foil_normal: torch.Tensor | None = None,
    absorption: bool = True,
    solver: str = "chebyshev",
    dtype: torch.dtype = torch.complex64,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Return the amplitudes of all beams for a block of incident directions.

    Parameters
    ----------
    crystal : Crystal
    beams : Beams
        From `select_beams`.
    energy_ev : float
    thicknesses : sequence of float, shape (t,)
        Å.
    incidence : torch.Tensor, shape (b, 2), optional
        Transverse wave vectors (row, col) in 1/Å; default one wave along -z.
    foil_normal : torch.Tensor, shape (3,), optional
        Unit vector in the laboratory frame towards the source; default (0, 0, 1).
    absorption : bool
        Thermal diffuse absorption.
    solver, dtype, device
        See `propagate`.

    Returns
    -------
    torch.Tensor, shape (t, n, b)
        Intensity is its squared modulus; the incident wave has intensity 1.

    Examples
    --------
    >>> from py4dstem_ml.physics.orientations import zone_axis
    >>> gold = Crystal.cubic(4.08, [79] * 4, [[0, 0, 0], [0, .5, .5], [.5, 0, .5], [.5, .5, 0]])
    >>> beams = select_beams(gold, zone_axis(gold, (0, 0, 1)), 200e3)
    >>> diffract(gold, beams, 200e3, [100.0, 200.0]).shape[0]
    2
    """
    matrix = structure_matrix(crystal, beams, energy_ev, absorption=absorption)
    excitation = excitation_errors(beams.g, energy_ev, incidence, foil_normal)
    k, normal = _wave_vectors(beams.g, energy_ev, incidence, foil_normal)
    k_normal = -(k @ normal)
    real = torch.float32 if dtype == torch.complex64 else torch.float64
    return propagate(
        matrix.to(device, dtype),
        excitation.to(device, real),
        k_normal.to(device, real),
        thicknesses,
        solver=solver,
    )
