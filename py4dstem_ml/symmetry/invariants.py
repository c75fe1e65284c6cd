"""What a Bragg list says that no rotation and no mirror of the pattern changes.

The network's input. Lengths are compared with each other in steps of 0.8 %, so that a cubic
crystal's, whose squares are as whole numbers, can be told from others whatever its size; the
radial basis, in steps of 0.05 1/Å, says where and with which symmetry the intensity lies.
Everything is in tensors, on any device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

#: Weakest share of intensity that a weight is drawn from; below it there is no spot.
_NO_SPOT = 1e-20
#: Lists that a CPU works on together.
_LISTS_AT_ONCE = 64
#: 1/Å; a net's short vector is not shorter.
_SHORTEST = 0.02
#: Lengths relative to it are counted from here.
_NO_SHORTER = 0.9
#: Angles by which a pattern may be turned onto itself.
_TURNS = (180.0, 120.0, 90.0, 72.0, 60.0, 45.0, 30.0)
#: Ratios |q_i| / |q_j| at which the angle between two spots tells the net.
_RATIOS = (1.0, math.sqrt(2.0), math.sqrt(3.0), 2.0)


@dataclass(frozen=True)
class Invariants:
    """The numbers that are drawn from a list's strongest spots.

    Attributes
    ----------
    spots : int
        Spots whose positions are expanded in the radial basis.
    pair_spots : int
        Spots that are compared in pairs.
    step, bins, orders
        Of the radial basis, see `RadialBasis`.
    ratio_step : float
        Of the logarithms of ratios of lengths.

    Examples
    --------
    >>> square = torch.tensor([[[1.0, 0, 1], [0, 1, 1], [-1, 0, 1], [0, -1, 1]]])
    >>> invariants = Invariants()
    >>> invariants(square).shape[1] == invariants.n_features
    True
    """

    spots: int = 64
    pair_spots: int = 64
    step: float = 0.05
    bins: int = 41
    orders: int = 13
    ratio_step: float = 0.008

    @property
    def n_features(self) -> int:
        """Length of what is returned."""
        return self(torch.zeros(1, self.spots, 3)).shape[1]

    def __call__(self, peaks: torch.Tensor) -> torch.Tensor:
        """Return the features, float32, shape (n, n_features).

        Parameters
        ----------
        peaks : torch.Tensor, shape (n, k, 3)
            Diffracted beams [qx, qy, intensity], the strongest first, then zeros; see
            `BraggLists.padded`.
        """
        missing = max(self.spots, self.pair_spots) - peaks.shape[1]
        peaks = torch.nn.functional.pad(peaks, (0, 0, 0, max(0, missing)))
        # Blocks that fit the caches of a CPU: twice as fast.
        block = len(peaks) if peaks.is_cuda else _LISTS_AT_ONCE
        parts = [self._of_block(some) for some in peaks.split(max(1, block))]
        return torch.cat(parts)

    def _of_block(self, peaks: torch.Tensor) -> torch.Tensor:
        spots = _Spots(peaks[:, : self.spots].float())
        pairs = _Pairs(_Spots(peaks[:, : self.pair_spots].float()))
        return torch.cat(
            [
                *self._harmonics(spots),
                self._ratios(pairs),
                *self._angles(pairs),
                self._ratios_and_angles(pairs),
                *self._net(pairs),
            ],
            dim=1,
        )

    def spectrum(self, peaks: torch.Tensor) -> torch.Tensor:
        """Return where on the axis of log |q| there are spots, shape (n, SPECTRUM_BINS).

        Added up over patterns of one crystal it is as its powder pattern.
        """
        spots = _Spots(peaks[:, : self.spots].float())
        weight = spots.weight.sqrt()
        weight = weight / weight.sum(1, keepdim=True).clamp(min=_NO_SPOT)
        position = (spots.q.clamp(min=0.06) / 0.06).log() / SPECTRUM_STEP
        return _histogram(position, weight, SPECTRUM_BINS)

    def _harmonics(self, spots: _Spots) -> tuple[torch.Tensor, torch.Tensor]:
        """|r_mp|, and how alike the pattern is to its mirror images and to itself, turned."""
        order = torch.arange(self.orders, device=spots.q.device, dtype=torch.float32)
        centres = torch.arange(self.bins, device=spots.q.device)
        tents = (1.0 - (spots.q[..., None] / self.step - centres).abs()).clamp_(min=0.0)
        tents *= spots.weight[..., None]
        angle = spots.angle[..., None] * order
        r = torch.bmm(tents.transpose(1, 2), torch.cat([angle.cos(), angle.sin()], dim=-1))
        real, imaginary = r[..., : self.orders], r[..., self.orders :]
        power = real.square() + imaginary.square()
        total = power.sum((1, 2)).clamp(min=_NO_SPOT)[:, None]
        # The mirror at angle phi turns r_mp into conj(r_mp) exp(2 i p phi).
        square_real = (real.square() - imaginary.square()).sum(1) / total
        square_imaginary = 2.0 * (real * imaginary).sum(1) / total
        phi = torch.arange(180, device=order.device) * (math.pi / 180.0)
        mirrors = square_real @ torch.cos(2.0 * order[:, None] * phi)
        mirrors += square_imaginary @ torch.sin(2.0 * order[:, None] * phi)
        by_order = power.sum(1) / total
        turns = torch.tensor(_TURNS, device=order.device) * (math.pi / 180.0)
        symmetry = torch.cat(
            [
                mirrors.sort(dim=1, descending=True).values[:, ::15],
                by_order @ torch.cos(order[:, None] * turns),
                by_order,
                torch.hypot(square_real, square_imaginary),
            ],
            dim=1,
        )
        return power.flatten(1).clamp(min=_NO_SPOT).pow(0.25), symmetry

    def _ratios(self, pairs: _Pairs) -> torch.Tensor:
        """How often |q_i| / |q_j| occurs, from 1 to 5."""
        return _histogram(pairs.log_ratio / self.ratio_step, pairs.weight, 200).sqrt()

    def _angles(self, pairs: _Pairs) -> list[torch.Tensor]:
        """Angles between spots: where the ratio of their lengths is a special one, and all."""
        # One histogram, a block for each ratio: no pair has two of them.
        block = torch.full_like(pairs.angle, float(len(_RATIOS)))
        for number, ratio in enumerate(_RATIOS):
            block -= (len(_RATIOS) - number) * ((pairs.log_ratio - math.log(ratio)).abs() < 0.012)
        special = _histogram(91.0 * block + pairs.angle / 2.0, pairs.weight, 91 * len(_RATIOS))
        return [special.sqrt(), _histogram(pairs.angle, pairs.weight, 181).sqrt()]

    def _ratios_and_angles(self, pairs: _Pairs) -> torch.Tensor:
        """The two together, coarsely: 24 ratios in steps of 5 % by 24 angles in steps of 4°."""
        ratio = (pairs.log_ratio / 0.05).clamp(max=23).round()
        acute = 90.0 - (pairs.angle - 90.0).abs()
        return _histogram(24 * ratio + acute / 4.0, pairs.weight, 24 * 24).sqrt()

    def _net(self, pairs: _Pairs) -> list[torch.Tensor]:
        """Differences of spots, and spots, in units of the net's short vector; and that vector."""
        lengths = pairs.difference.topk(21, dim=1, largest=False).values
        # The fourth shortest: one of them may come of noise, a true one occurs many times.
        short = lengths[:, 3:4].clamp(min=_SHORTEST)
        by_difference = (pairs.difference / short).clamp(min=_NO_SHORTER).log()
        by_spot = (pairs.spots.q / short).clamp(min=_NO_SHORTER).log()
        step, first = self.ratio_step, math.log(_NO_SHORTER)
        return [
            _histogram((by_difference - first) / step, pairs.weight, 250).sqrt(),
            _histogram((by_spot - first) / step, pairs.spots.weight, 300).sqrt(),
            lengths[:, [0, 3, 8, 20]].clamp(max=2.0),
        ]


#: Steps of log |q| in a spectrum, and how many there are, from 0.06 1/Å.
SPECTRUM_STEP, SPECTRUM_BINS = 0.006, 600


class _Spots:
    """Lengths, and the roots of the shares of intensity: a sum of 1 over their squares."""

    def __init__(self, peaks: torch.Tensor) -> None:
        self.x, self.y, intensity = peaks.unbind(-1)
        self.q = torch.hypot(self.x, self.y)
        self.angle = torch.atan2(self.y, self.x)
        total = intensity.sum(1, keepdim=True).clamp(min=_NO_SPOT)
        self.weight = (intensity / total).clamp(min=0.0).sqrt()


class _Pairs:
    """All pairs of spots: ratios of lengths, angles, lengths of differences, weights."""

    def __init__(self, spots: _Spots) -> None:
        k = spots.q.shape[1]
        i, j = torch.triu_indices(k, k, 1, device=spots.q.device)
        self._pair = i * k + j
        self.spots = spots
        root = spots.weight.sqrt()
        both = self._of_pairs(root[:, :, None] * root[:, None])
        self.weight = both / both.sum(1, keepdim=True).clamp(min=_NO_SPOT)
        log_q = spots.q.clamp(min=1e-3).log()
        self.log_ratio = self._of_pairs(log_q[:, :, None] - log_q[:, None]).abs_()
        turn = self._of_pairs(spots.angle[:, :, None] - spots.angle[:, None]).abs_()
        self.angle = (180.0 - (turn * (180.0 / math.pi) - 180.0).abs()).abs()
        x, y = (v[:, :, None] - v[:, None] for v in (spots.x, spots.y))
        self.difference = self._of_pairs(x.square_() + y.square_()).sqrt_() + 9.0 * (both <= 0.0)

    def _of_pairs(self, of_all: torch.Tensor) -> torch.Tensor:
        return of_all.flatten(1).index_select(1, self._pair)


def _histogram(position: torch.Tensor, weight: torch.Tensor, bins: int) -> torch.Tensor:
    """Share weights (n, k) out to the two bins nearest to positions (n, k), in bins from 0."""
    position = position.clamp(0.0, float(bins))
    lower = position.long()
    upper = weight * (position - lower)
    # What lies beyond the last bin falls into two more, which are cut off.
    out = torch.zeros(len(position), bins + 2, device=position.device)
    out.scatter_add_(1, lower, weight - upper)
    out.scatter_add_(1, lower.add_(1), upper)
    return out[:, :bins]
