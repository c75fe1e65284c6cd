"""Bright fields from a projected potential alone: few beams exact, the others a perturbation.

In natural variables (`natural`) the waves of one direction k of the Brillouin zone pass a foil of
depth tau by exp(i pi tau H), H = u_{h-h'} - |k + h|^2, in the approximation of small angles. Its
diagonal holds the bright field at all directions k + h. Beams far outside join by second order
(Löwdin, J. Chem. Phys. 19 (1951) 1396). Gradients pass the diagonalisation by divided differences
(Daleckii and Krein), which degenerate levels do not disturb.

Absorption damps Bloch waves (Humphreys, Rep. Prog. Phys. 42 (1979) 1825), and mixes excited ones.

Where coefficients equal their transpose, as those of most cubic crystals, the picture does so too,
and directions on one side of its diagonal are enough. For those on the diagonal waves are even or
odd under the swap of h and k: two matrices of half the size.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from math import ceil, pi

import torch

from ..physics.threads import one_thread

#: Coefficients below this share of the greatest couple no beams.
_COUPLED = 1e-4
#: Coefficients that differ by less than this share of the greatest from their transpose equal it.
_SAME = 1e-5
#: By the number of sets of beams that no coefficient joins (one in primitive projections, two or
#: four in centred ones): how far beams that are diagonalised lie from the axis, along a* and b*.
QUICK = {1: 9, 2: 12, 4: 14}
FINE = {1: 11, 2: 15, 4: 19}
#: How far those lie that are a perturbation.
_WEAK = 20
#: States that absorption mixes, the highest ones; with 32 R of gold and tungsten is .999.
_MIXED = 48
#: Half phases that differ by less have the slope of equal ones.
_NEAR = 1e-3
#: Crystals that are computed together on a GPU; on a CPU that costs memory and brings nothing.
_AT_ONCE = 32


class _Propagator(torch.autograd.Function):
    """Diagonals of exp(i pi tau H) of real symmetric matrices (b, n, n), tau (b, t).

    They have the shape (b, n, t, 2).
    """

    @staticmethod
    def forward(ctx, matrix: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        values, vectors = torch.linalg.eigh(matrix)
        ctx.save_for_backward(values, vectors, tau)
        phases = pi * values[..., None] * tau[:, None]
        waves = torch.cat([phases.cos(), phases.sin()], dim=-1)
        return (vectors.square() @ waves).unflatten(-1, (2, -1)).mT

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        values, vectors, tau = ctx.saved_tensors
        total = torch.zeros_like(vectors)
        for number, depth in enumerate(tau.T[:, :, None]):
            # exp(ia) - exp(ib) = 2i sin((a - b) / 2) exp(i (a + b) / 2)
            half = 0.5 * pi * depth * values
            apart = half[:, :, None] - half[:, None, :]
            slope = pi * depth[..., None] * torch.sinc(apart / pi)
            middle = half[:, :, None] + half[:, None, :]
            for part, shape in ((0, -middle.sin()), (1, middle.cos())):
                inner = vectors.mT @ (gradient[:, :, number, part, None] * vectors)
                total = total + inner * slope * shape
        return vectors @ total @ vectors.mT, None


class _AbsorbingPropagator(torch.autograd.Function):
    """Diagonals of exp(i pi tau (H + iW)) of real symmetric matrices, as of `_Propagator`.

    W (b, n, n) mixes the highest states of H, which are those that waves are in; the others it
    damps by its means. Gradients are those of H.
    """

    @staticmethod
    def forward(
        ctx, matrix: torch.Tensor, tau: torch.Tensor, absorbing: torch.Tensor
    ) -> torch.Tensor:
        values, vectors = torch.linalg.eigh(matrix)
        levels = torch.complex(values, _means(absorbing, vectors))
        states = vectors.to(levels.dtype)
        back = states.mT.clone()
        excited = vectors[..., -_MIXED:]
        mixed = torch.complex(
            torch.diag_embed(values[..., -_MIXED:]), excited.mT @ absorbing @ excited
        )
        levels[..., -_MIXED:], turned = torch.linalg.eig(mixed)
        states[..., -_MIXED:] = excited.to(turned.dtype) @ turned
        # Degenerate states come in any basis: the inverse, not the transpose.
        back[..., -_MIXED:, :] = torch.linalg.solve(turned, excited.mT.to(turned.dtype))
        ctx.save_for_backward(levels, states, back, tau)
        waves = (1j * pi * levels[..., None] * tau[:, None]).exp()
        return torch.view_as_real((states * back.mT) @ waves)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        levels, states, back, tau = ctx.saved_tensors
        total = torch.zeros_like(states)
        for number, depth in enumerate(tau.T[:, :, None]):
            half = 0.5 * pi * depth * levels
            apart = half[:, :, None] - half[:, None, :]
            near = apart.abs() < _NEAR
            slope = torch.where(near, 1.0, apart.sin() / torch.where(near, 1.0, apart))
            wave = (1j * half).exp()
            slope = 1j * pi * depth[..., None] * slope * wave[:, :, None] * wave[:, None, :]
            seen = torch.view_as_complex(gradient[:, :, number].contiguous()).conj()
            total = total + slope * (back @ (seen[..., None] * states)).mT
        return (back.mT @ total @ states.mT).real, None, None


def _exponentials(
    matrix: torch.Tensor, tau: torch.Tensor, absorbing: torch.Tensor | None
) -> torch.Tensor:
    """What the propagators return, by scaling and squaring; W mixes all states.

    On a GPU fifty times as fast as diagonalising, on a CPU slower. In single precision bright
    fields differ by .002 at most from those in double, by .0002 in the mean.
    """
    absorbing = torch.zeros_like(matrix) if absorbing is None else absorbing.detach()
    whole = torch.complex(matrix, absorbing)
    waves = [
        torch.matrix_exp(1j * pi * depth[:, None, None] * whole).diagonal(dim1=1, dim2=2)
        for depth in tau.T
    ]
    return torch.view_as_real(torch.stack(waves, dim=2))


def _means(matrix: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Means (..., n) of a matrix in the states that are the columns of vectors (..., n, n)."""
    return ((matrix @ vectors) * vectors).sum(-2)


@dataclass(frozen=True, eq=False)
class _Beams:
    """A set of n strong and m weak beams that coefficients join, for d directions.

    With images (p = 2; without, p = 1) each beam stands for itself and the beam with h and k
    swapped. ``among`` (p, n, n) and ``through`` (p, n, m) say where couplings to beams, and to
    images, stand in a flat table of coefficients; ``strong`` (n,) and ``weak`` (m,) norm the even
    waves, 1 but for beams that are their own images. ``level`` (d, n) and ``gap`` (d, n, m) are in
    natural units; ``seen`` (d, n) are those within the square, ``place`` where in a quadrant's
    flat picture these lie.
    """

    among: torch.Tensor
    through: torch.Tensor
    strong: torch.Tensor
    weak: torch.Tensor
    level: torch.Tensor
    gap: torch.Tensor
    seen: torch.Tensor
    place: torch.Tensor

    def to(self, device: torch.device) -> _Beams:
        """The same on a device."""
        return _Beams(*(getattr(self, field.name).to(device) for field in fields(self)))

    def matrices(self, table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """H, and W of complex tables (None of real ones), (p, b, d, n, n) by flat tables (b, -1).

        With images of even and odd waves. Weak beams count to second order in H, to first in W.
        """
        among, through = self._couplings(table.real)
        # No coupling shifts a level by more than itself, however near the other level lies.
        share = through * self.gap / (self.gap.square() + through.square() + 1e-12)
        through, share = (_even_and_odd(x, self.strong, self.weak) for x in (through, share))
        back = share @ through.mT
        among = _even_and_odd(among, self.strong, self.strong)
        matrix = among + torch.diag_embed(self.level.to(among)) + 0.5 * (back + back.mT)
        if not table.is_complex():
            return matrix, None
        among, through = self._couplings(table.imag)
        back = share @ _even_and_odd(through, self.strong, self.weak).mT
        return matrix, _even_and_odd(among, self.strong, self.strong) + back + back.mT

    def _couplings(self, table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Couplings (p, b, 1, n, n) among strong beams, and (p, b, 1, n, m) to weak ones."""
        return _looked_up(table, self.among), _looked_up(table, self.through)

    def amplitudes(self, table: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        """Real and imaginary amplitudes (b, d, n, t, 2) by flat tables, tau (b, t)."""
        matrix, absorbing = self.matrices(table)
        parts = matrix.shape[:3]
        tau = tau[:, None].expand(*parts, -1).flatten(0, 2)
        matrix = matrix.flatten(0, 2)
        absorbing = None if absorbing is None else absorbing.flatten(0, 2)
        if matrix.device.type == "cuda":
            waves = _exponentials(matrix, tau, absorbing)
        elif absorbing is None:
            waves = _Propagator.apply(matrix, tau)
        else:
            waves = _AbsorbingPropagator.apply(matrix, tau, absorbing)
        waves = waves.unflatten(0, parts)
        # Half of a beam is even, but all of one that is its own image.
        even = 0.5 / self.strong.square()[:, None, None]
        return torch.lerp(waves[-1], waves[0], even.to(waves))


class BrightField:
    """Bright fields of cubic crystals along [001], with gradients with respect to the potential.

    Parameters
    ----------
    pixels : int
        Rows and columns of the pattern, even.
    half_width : float
        Of the square of directions, in reciprocal lattice vectors; each a whole number of pixels.
    reach : dict of int to int
        See `QUICK` and `FINE`.
    cell_pixels : int
        Rows and columns of the potential; its coefficients are used up to half of that.

    Raises
    ------
    ValueError
        If a reciprocal lattice vector is not a whole number of pixels long.
    """

    def __init__(
        self, pixels: int, half_width: float, reach: dict[int, int] = QUICK, cell_pixels: int = 64
    ) -> None:
        steps = round(pixels / (2.0 * half_width))
        if pixels % 2 or abs(steps * 2.0 * half_width - pixels) > 1e-9:
            raise ValueError("a reciprocal lattice vector must be a whole number of pixels long")
        self.half, self.steps, self.cell_pixels = pixels // 2, steps, cell_pixels
        least = ceil(half_width)
        self.reach = {sets: max(far, least) for sets, far in reach.items()}
        self._sets: dict[tuple[int, bool, torch.device], list[_Beams]] = {}

    def __call__(
        self, coefficients: torch.Tensor, tau: torch.Tensor, square: bool | None = None
    ) -> torch.Tensor:
        """Return quadrants of the bright fields, from the centre outwards.

        Parameters
        ----------
        coefficients : torch.Tensor, shape (m, m) or (b, m, m)
            u_h in the order of a Fourier transform, real, as about a centre of inversion; with
            absorption complex, u_h + i u'_h. On the device to compute on.
        tau : torch.Tensor, shape (t,), of a batch (b, t)
        square : bool, optional
            Whether coefficients equal their transpose, which makes it twice as fast; gradients
            are then right along changes that leave it so. None: whether these do and need none.

        Returns
        -------
        torch.Tensor, shape (t, pixels / 2, pixels / 2) or (b, t, pixels / 2, pixels / 2)

        Raises
        ------
        ValueError
            If there are not depths for each crystal.
        """
        if tau.shape[:-1] != coefficients.shape[:-2]:
            raise ValueError(
                f"coefficients {tuple(coefficients.shape)} take depths of the shape "
                f"{(*coefficients.shape[:-2], 't')}, not {tuple(tau.shape)}"
            )
        if coefficients.ndim == 2:
            return self(coefficients[None], tau[None], square)[0]
        sets = uncoupled_sets(coefficients)
        if square is not None:
            squares = torch.full_like(sets, square)
        elif coefficients.requires_grad:
            squares = torch.zeros_like(sets)
        else:
            squares = equal_their_transpose(coefficients)
        tau = tau.to(coefficients.real)
        on_gpu = tau.device.type == "cuda"
        kinds = torch.stack([sets, squares.to(sets)], dim=1)
        work = [
            (rows, *kind.tolist())
            for kind in kinds.unique(dim=0)
            for rows in torch.nonzero((kinds == kind).all(1))[:, 0].split(_AT_ONCE if on_gpu else 1)
        ]

        if not work:
            return tau.new_zeros(*tau.shape, self.half, self.half)
        with_gradients = torch.is_grad_enabled()

        def alike(part: tuple[torch.Tensor, int, int]) -> torch.Tensor:
            rows, sets, square = part
            with one_thread(), torch.set_grad_enabled(with_gradients):
                return self._alike(coefficients[rows], tau[rows], sets, bool(square))

        if on_gpu or len(work) == 1:
            found = [alike(part) for part in work]
        else:  # crystals side by side keep the cores busier than the threads of one
            with ThreadPoolExecutor(torch.get_num_threads()) as pool:
                found = list(pool.map(alike, work))
        order = torch.cat([rows for rows, *_ in work]).argsort()
        return torch.cat(found)[order]

    def _alike(
        self, coefficients: torch.Tensor, tau: torch.Tensor, sets: int, square: bool
    ) -> torch.Tensor:
        """Bright fields (b, t, half, half) of coefficients that join beams alike."""
        image = tau.new_zeros(*tau.shape, self.half**2)
        table = self._table(coefficients)
        for beams in self._beams_of(sets, square, table.device):
            intensity = beams.amplitudes(table, tau).square().sum(-1)[:, beams.seen]
            image = image.index_copy(2, beams.place, intensity.mT)
        image = image.unflatten(2, (self.half, self.half))
        # Of a pixel and its transpose one is still zero, but on the diagonal.
        return torch.maximum(image, image.mT) if square else image

    def bloch_waves(
        self, coefficients: torch.Tensor, places: torch.Tensor, count: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the Bloch waves that matter most at some directions.

        The bright field at any depth is |sum over waves of share exp(i pi tau (level +
        i damping))|^2.

        Parameters
        ----------
        coefficients : torch.Tensor, shape (m, m)
            As for a call.
        places : torch.Tensor, shape (q,)
            Pixels of the flat quadrant; on the device of the coefficients.
        count : int

        Returns
        -------
        levels, shares, dampings : torch.Tensor, shape (q, count)
            Levels are counted from that of the greatest share, which is the first. Dampings are
            the means of what absorbs, zero without.
        """
        levels, shares, dampings = coefficients.real.new_zeros(3, len(places), count)
        table = self._table(coefficients[None])
        sets = int(uncoupled_sets(coefficients))
        for beams in self._beams_of(sets, square=False, device=table.device):
            matrix, absorbing = beams.matrices(table)
            values, vectors = torch.linalg.eigh(matrix[0, 0])
            seen, wanted = torch.nonzero(beams.place[:, None] == places).T
            direction, beam = torch.nonzero(beams.seen)[seen].T
            greatest = vectors[direction, beam].square().topk(count, dim=1)
            level = values[direction].gather(1, greatest.indices)
            levels[wanted], shares[wanted] = level - level[:, :1], greatest.values
            if absorbing is not None:
                means = _means(absorbing[0, 0], vectors)
                dampings[wanted] = means[direction].gather(1, greatest.indices)
        return levels, shares, dampings

    def _table(self, coefficients: torch.Tensor) -> torch.Tensor:
        """Flat tables (b, -1), zero at the place that `_index` takes for what is beyond them."""
        table = coefficients.flatten(1).clone()
        table[:, self.cell_pixels // 2 * (self.cell_pixels + 1)] = 0.0
        return table

    def _beams_of(self, sets: int, square: bool, device: torch.device) -> list[_Beams]:
        key = sets, square, device
        if key not in self._sets:
            self._sets[key] = [beams.to(device) for beams in self._beams(sets, square)]
        return self._sets[key]

    def _beams(self, sets: int, square: bool) -> list[_Beams]:
        inside = torch.arange(self.steps) + 0.5
        # Directions of the Brillouin zone that no mirror joins.
        inside = torch.unique(torch.minimum(inside, self.steps - inside)) / self.steps
        directions = torch.cartesian_prod(inside, inside)
        x, y = directions.T
        far = max(_WEAK, self.reach[sets])
        side = torch.arange(-far, far + 1)
        beams = torch.cartesian_prod(side, side)
        kind = (beams % 2) @ torch.tensor([2, 1]) if sets == 4 else beams.sum(1) % sets
        found = []
        for number in range(sets):
            chosen = beams[kind == number]
            seen, _ = self._pixels(directions, chosen)
            # A beam outside the square swings with those inside.
            lowest = float(_level(directions, chosen)[seen].min())
            along = partial(self._along, reach=self.reach[sets], lowest=lowest)
            if not square or (sets, number) == (4, 1):
                found.append(along(directions, chosen))
            elif (sets, number) != (4, 2):  # those are the images of (4, 1)
                one_of_two = chosen[chosen[:, 0] <= chosen[:, 1]]
                found.append(along(directions[x < y], chosen))
                found.append(along(directions[x == y], one_of_two, images=True))
        return found

    def _along(
        self, directions: torch.Tensor, beams: torch.Tensor, reach: int, lowest: float,
        images: bool = False,
    ) -> _Beams:  # fmt: skip
        """A set of beams for some directions, with or without their images."""
        near = beams.abs().amax(1) <= reach
        strong, weak = beams[near], beams[~near]
        among, through = (
            torch.stack([self._index(strong, x) for x in (to, to.flip(1))[: 1 + images]])
            for to in (strong, weak)
        )
        level = _level(directions, strong)
        gap = level.clamp(min=lowest)[:, :, None] - _level(directions, weak)[:, None]
        seen, place = self._pixels(directions, strong)
        return _Beams(among, through, _norms(strong), _norms(weak), level, gap, seen, place)

    def _pixels(
        self, directions: torch.Tensor, beams: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Which beams (d, n) are within the square, and where in a flat quadrant these lie."""
        toward = directions[:, None] + beams
        place = (toward.abs() * self.steps).long()
        # Half a vector from the axis, beams on either side have the same pixels.
        counted = (toward > 0) | (directions[:, None] < 0.5)
        seen = ((place < self.half) & counted).all(-1)
        return seen, place[seen] @ torch.tensor([self.half, 1])

    def _index(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Where couplings stand in the table; beyond its reach, at the one that is zero."""
        n = self.cell_pixels
        apart = one[:, None] - other
        inside = (apart.abs() < n // 2).all(-1)
        apart = torch.where(inside[..., None], apart, n // 2) % n
        return apart @ torch.tensor([n, 1])


def _level(directions: torch.Tensor, beams: torch.Tensor) -> torch.Tensor:
    """Levels (d, n) of beams that no potential couples."""
    return -(directions[:, None] + beams).square().sum(-1)


def _norms(beams: torch.Tensor) -> torch.Tensor:
    """Of the even waves of beams (n, 2) and their images, which are the same where h = k."""
    return torch.where(beams[:, 0] == beams[:, 1], 0.5, 1.0).double().sqrt()


def _looked_up(table: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """What tables (b, -1) hold at places (p, n, m), shape (p, b, 1, n, m)."""
    found = table.index_select(1, places.flatten()).unflatten(1, places.shape)
    return found.transpose(0, 1)[:, :, None]


def _even_and_odd(couplings: torch.Tensor, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Couplings (2, ..., n, m) of even and of odd waves; without images (1, ...) as they are."""
    if len(couplings) == 1:
        return couplings
    here, there = couplings
    return torch.stack([here + there, here - there]) * (one[:, None] * other).to(here)


def computing_device(device: torch.device) -> torch.device:
    """Return where bright fields are computed: a CUDA device, or the CPU for any other."""
    return device if device.type == "cuda" else torch.device("cpu")


def coefficients_of(u: torch.Tensor) -> torch.Tensor:
    """Return u_h of potentials about their centres of inversion, on whole or half pixels.

    What has no such centre is made to have one: imaginary parts are left out.

    Parameters
    ----------
    u : torch.Tensor, shape (..., m, m)
        In natural units; complex, u + i u', with absorption. Projections of cubic crystals along
        [001] have such a centre.

    Returns
    -------
    torch.Tensor, shape (..., m, m)
        float32, or complex64 with absorption, in the order of a Fourier transform.
    """
    elastic = torch.fft.fft2(u.real.double(), norm="forward")
    turned = _to_centre(elastic)
    found = (elastic * turned).real.float()
    if not u.is_complex():
        return found
    absorptive = torch.fft.fft2(u.imag.double(), norm="forward")
    return torch.complex(found, (absorptive * turned).real.float())


def _to_centre(spectra: torch.Tensor) -> torch.Tensor:
    """Phases (..., m, m) that bring the origin to a picture's centre of inversion."""
    # The potential's convolution with itself is greatest at twice the centre.
    twice = torch.fft.ifft2(spectra.square()).real.flatten(-2).argmax(-1)[..., None, None]
    m = spectra.shape[-1]
    index = torch.fft.fftfreq(m, 1.0 / m, dtype=torch.float64, device=spectra.device)
    turns = (index[:, None] * (twice // m) + index * (twice % m)) * (pi / m)
    return torch.polar(torch.ones_like(turns), turns)


def uncoupled_sets(coefficients: torch.Tensor) -> torch.Tensor:
    """How many sets of beams there are that no coefficient joins: 1, or 2 or 4 in centred cells.

    Of coefficients (..., m, m), shape (...).
    """
    size = coefficients.detach().abs()
    joined = size > _COUPLED * size.amax((-2, -1), keepdim=True)
    odd = torch.arange(size.shape[-1], device=size.device) % 2 == 1
    one_odd = (joined & (odd[:, None] ^ odd)).any(-1).any(-1)
    any_odd = (joined & (odd[:, None] | odd)).any(-1).any(-1)
    return 4 - 2 * any_odd.long() - one_odd.long()


def equal_their_transpose(coefficients: torch.Tensor) -> torch.Tensor:
    """Whether coefficients (..., m, m) are those of a potential with a square's diagonals."""
    c = coefficients.detach()
    return (c - c.mT).abs().amax((-2, -1)) <= _SAME * c.abs().amax((-2, -1))
