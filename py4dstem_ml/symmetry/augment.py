"""Make simulated Bragg lists as real ones are: incomplete, impure, inexact and badly scaled.

What belongs to a scan (calibration, ellipticity, range of q) is drawn once for all lists of a
bag; what belongs to a pattern is drawn for each list.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

#: Peaks of a list that are drawn from.
PEAKS = 100
#: Fewest peaks a list is left with, where it had as many.
_FEWEST = 5


@dataclass(frozen=True)
class AugmentConfig:
    """Ranges that are drawn from.

    Attributes
    ----------
    scale, strain : float
        Standard deviations of the error of the pixel size and of the elliptical distortion.
    q_limit : (float, float)
        1/Å, with `q_limit_share`: how many bags end there.
    direct_beam : (float, float)
        1/Å; spots nearer to the direct beam are lost.
    jitter : (float, float)
        1/Å, log-uniform; standard deviation of a list's positions.
    origin : float
        1/Å, standard deviation of a list's centre.
    power, noise : (float, float)
        Intensities are raised to a power, as detectors and peak finders do, and multiplied by
        log-normal noise.
    floor : (float, float)
        Log-uniform; weaker spots, relative to the strongest, are lost.
    missing, spurious : float
        Largest shares of spots that are lost at random, and added; half of the lists have none.
    grain_share : float
        Lists that get the spots of another list of the batch as well.
    grain_fraction : (float, float)
        Share of the intensity that the second grain has.
    """

    scale: float = 0.01
    strain: float = 0.004
    q_limit: tuple[float, float] = (0.9, 2.05)
    q_limit_share: float = 0.5
    direct_beam: tuple[float, float] = (0.05, 0.09)
    jitter: tuple[float, float] = (2e-4, 6e-3)
    origin: float = 0.0015
    power: tuple[float, float] = (0.6, 1.2)
    noise: tuple[float, float] = (0.0, 0.4)
    floor: tuple[float, float] = (1e-4, 2e-2)
    missing: float = 0.5
    spurious: float = 0.3
    grain_share: float = 0.1
    grain_fraction: tuple[float, float] = (0.15, 0.5)


class Augmentation:
    """Draw the distortions of batches, reproducibly.

    Parameters
    ----------
    config : AugmentConfig
    seed : int
    device : torch.device or str

    Examples
    --------
    >>> augmentation = Augmentation(AugmentConfig(), seed=0)
    >>> lists, mixed = augmentation(torch.rand(2, 3, 40, 3))
    >>> lists.shape, mixed.shape
    (torch.Size([2, 3, 40, 3]), torch.Size([2, 3]))
    """

    def __init__(
        self, config: AugmentConfig, seed: int, device: torch.device | str = "cpu"
    ) -> None:
        self.config, self.device = config, torch.device(device)
        self.generator = torch.Generator(self.device).manual_seed(seed)

    def __call__(self, peaks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return distorted lists, the strongest spot first, and which hold a second grain.

        Parameters
        ----------
        peaks : torch.Tensor, shape (bags, lists, k, 3)
            Diffracted beams [qx, qy, intensity], padded with zeros. A bag is of one crystal.
        """
        bags, lists, k = peaks.shape[:3]
        peaks = peaks.clone().reshape(bags * lists, k, 3)
        peaks[..., 2] /= peaks[..., 2].sum(1, keepdim=True).clamp(min=1e-20)
        peaks, mixed = self._with_second_grain(peaks)
        peaks = self._distorted(self._intensities(peaks), bags, lists)
        peaks = self._with_spurious(self._without_missing(peaks, bags, lists))
        order = peaks[..., 2].argsort(dim=1, descending=True)[:, :k]
        peaks = peaks.gather(1, order[..., None].expand(-1, -1, 3))
        return peaks.reshape(bags, lists, k, 3), mixed.reshape(bags, lists)

    def _uniform(self, n: int, low: float, high: float) -> torch.Tensor:
        return low + (high - low) * self._random(n, 1)

    def _log_uniform(self, n: int, low: float, high: float) -> torch.Tensor:
        return self._uniform(n, math.log(low), math.log(high)).exp()

    def _random(self, *shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=self.generator, device=self.device)

    def _normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self.generator, device=self.device)

    def _with_second_grain(self, peaks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        n = len(peaks)
        mixed = self._random(n) < self.config.grain_share
        partner = torch.randint(n, (n,), generator=self.generator, device=self.device)
        other = peaks[partner]
        angle = self._uniform(n, 0.0, 2.0 * math.pi)
        x, y = other[..., 0], other[..., 1]
        turned = (angle.cos() * x - angle.sin() * y, angle.sin() * x + angle.cos() * y)
        share = self._uniform(n, *self.config.grain_fraction) * mixed[:, None]
        other = torch.stack([*turned, other[..., 2] * share], dim=-1)
        first = torch.cat([peaks[..., :2], (peaks[..., 2] * (1.0 - share))[..., None]], dim=-1)
        return torch.cat([first, other], dim=1), mixed

    def _intensities(self, peaks: torch.Tensor) -> torch.Tensor:
        n, k = peaks.shape[:2]
        power = self._uniform(n, *self.config.power)
        noise = self._normal(n, k) * self._uniform(n, *self.config.noise)
        intensity = peaks[..., 2].clamp(min=0.0).pow(power) * noise.exp()
        return torch.cat([peaks[..., :2], intensity[..., None]], dim=-1)

    def _distorted(self, peaks: torch.Tensor, bags: int, lists: int) -> torch.Tensor:
        n, k = peaks.shape[:2]
        scale = 1.0 + self.config.scale * self._normal(bags, 1)
        strain = self.config.strain * self._normal(bags, 2)
        rows = torch.stack(
            [scale[:, 0] + strain[:, 0], strain[:, 1], strain[:, 1], scale[:, 0] - strain[:, 0]], -1
        )
        matrix = rows.reshape(bags, 2, 2).repeat_interleave(lists, dim=0)
        moved = peaks[..., :2] @ matrix
        moved += self._normal(n, k, 2) * self._log_uniform(n, *self.config.jitter)[..., None]
        moved += self.config.origin * self._normal(n, 1, 2)
        return torch.cat([moved, peaks[..., 2:]], dim=-1)

    def _without_missing(self, peaks: torch.Tensor, bags: int, lists: int) -> torch.Tensor:
        n, k = peaks.shape[:2]
        intensity = peaks[..., 2]
        q = peaks[..., :2].norm(dim=-1)
        strongest = intensity.amax(1, keepdim=True)
        limit = self._uniform(bags, *self.config.q_limit)
        limit[self._random(bags) > self.config.q_limit_share] = torch.inf
        share = self._sometimes(n, self.config.missing)
        kept = (intensity > strongest * self._log_uniform(n, *self.config.floor)) & (intensity > 0)
        kept &= q < limit.repeat_interleave(lists, dim=0)
        kept &= q > self._uniform(bags, *self.config.direct_beam).repeat_interleave(lists, dim=0)
        kept &= self._random(n, k) >= share
        kept |= (kept.sum(1, keepdim=True) < _FEWEST) & (intensity > 0)
        return torch.cat([peaks[..., :2], (intensity * kept)[..., None]], dim=-1)

    def _with_spurious(self, peaks: torch.Tensor) -> torch.Tensor:
        """Add weak spots, anywhere as far as the spots go."""
        n = len(peaks)
        count = (peaks[..., 2] > 0).sum(1, keepdim=True)
        most = max(1, round(self.config.spurious * peaks.shape[1]))
        seen = peaks[..., 2] > 0
        radius = (peaks[..., :2].norm(dim=-1) * seen).amax(1, keepdim=True)
        q = radius * self._random(n, most).sqrt()
        angle = 2.0 * math.pi * self._random(n, most)
        mean = peaks[..., 2].sum(1, keepdim=True) / count.clamp(min=1)
        intensity = mean * self._random(n, most).square()
        wanted = self._sometimes(n, self.config.spurious) * count
        intensity = intensity * (torch.arange(most, device=self.device) < wanted)
        added = torch.stack([q * angle.cos(), q * angle.sin(), intensity], dim=-1)
        return torch.cat([peaks, added], dim=1)

    def _sometimes(self, n: int, most: float) -> torch.Tensor:
        """Uniform up to a share, zero for half of the lists."""
        return self._uniform(n, 0.0, most) * (self._random(n, 1) < 0.5)
