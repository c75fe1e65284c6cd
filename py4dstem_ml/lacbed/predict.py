"""Bright fields of potentials and potentials of bright fields: arrays in, arrays out."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from .. import weights
from ..compute import mixed_precision, pick_device
from ..lazy_model import LazyModel
from ..physics.electrons import wavelength
from ..progress import progress_bar
from .atlas import Atlas
from .explain import Explanation, best_explained
from .natural import depth, strength_per_volt
from .network import load_network
from .pictures import on_directions, sound_pictures
from .scores import at_best_origin

_log = logging.getLogger(__name__)

#: How far beyond the thicknesses of the training library networks are asked, as a factor.
_BEYOND = 1.05
#: V; a microscope's, as they can be expressed by those of the training library.
_VOLTAGES = (60e3, 400e3)
#: What the registry calls the two directions.
_SYSTEMS = {"forward": "lacbed", "inverse": "lacbed-inverse"}
_ATLAS = "lacbed-atlas"
#: R below which an explanation is doubtful: few good ones have less.
_DOUBTFUL = 0.9
#: V·Å: the least and the greatest standard deviation of a projected potential that is taken for
#: one. Those of the library have 30 to 500, of light atoms that move much 10.
_VARYING = (1.0, 1500.0)
#: Pictures that are worked on at once.
_AT_ONCE = 64


class _Predictor(LazyModel):
    """What both directions share: a network of that direction, and the range it holds in."""

    direction: ClassVar[str]
    #: What to do about that, in the error that refuses it.
    elsewhere: ClassVar[str] = ""

    def __init__(self, model: str | os.PathLike | None = None, *, device: Any = None) -> None:
        super().__init__(model, device)

    @classmethod
    def pretrained(cls, model: str | None = None, **options: Any) -> _Predictor:
        """Take weights by name; None: the default ones. Options are the constructor's."""
        return cls(model, **options)

    def _read(self) -> nn.Module:
        """The network; WeightsError if the file holds none of this direction."""
        chosen = self.model or weights.default_name(_SYSTEMS[self.direction])
        network = load_network(chosen, pick_device(self.device))
        if network.direction != self.direction:
            raise weights.WeightsError(
                f"{chosen} is a network of the {network.direction} direction, not "
                f"{self.direction}; model=None takes one that is"
            )
        return network

    @property
    def pixels(self) -> int:
        """Rows and columns of the network's pictures."""
        return int(self.loaded.spec.pixels)

    @property
    def half_width(self) -> float:
        """Half the side of its patterns, in reciprocal lattice vectors a*."""
        return float(self.loaded.spec.half_width)

    @property
    def learned_absorption(self) -> bool:
        """Whether the patterns it was trained on have thermal diffuse absorption."""
        return bool(self.loaded.metadata.get("absorption", False))

    def refuse_conditions(self, a: float, thickness: float, energy_ev: float) -> None:
        """Refuse what the network was not trained for.

        Raises
        ------
        ValueError
            If a, the thickness or the voltage is outside the range of the training library.
        """
        said = self.loaded.metadata
        if np.ndim(a) or np.ndim(thickness) or np.ndim(energy_ev):
            raise ValueError(
                "a, thickness and voltage are one number each, those of all pictures: call once "
                "for each thickness"
            )
        if not _VOLTAGES[0] <= energy_ev <= _VOLTAGES[1]:
            raise ValueError(
                f"the voltage must be {_VOLTAGES[0]:g} to {_VOLTAGES[1]:g} V, not {energy_ev:g}"
            )
        least, most = said["range_a"]
        if not least <= a <= most:
            raise ValueError(
                f"the network knows cubic crystals with a from {least:.3g} to {most:.3g} Å, not "
                f"{a:.4g} Å{self.elsewhere}"
            )
        # A voltage scales depth: what counts is the thickness that is as deep at the library's.
        share = wavelength(said["energy_ev"]) / wavelength(energy_ev)
        thinnest, thickest = (
            share * t for t in (min(said["thicknesses"]), max(said["thicknesses"]))
        )
        if not thinnest / _BEYOND <= thickness <= thickest * _BEYOND:
            raise ValueError(
                f"the network knows foils from {thinnest:.0f} to {thickest:.0f} Å at "
                f"{energy_ev / 1e3:g} kV, not {thickness:g} Å{self.elsewhere}"
            )

    def _run(
        self, network: nn.Module, pictures: npt.NDArray, tau: float
    ) -> npt.NDArray[np.float32]:
        """What a network makes of pictures (n, H, W)."""
        found = [np.zeros((0, self.pixels, self.pixels), np.float32)]
        device = next(network.parameters()).device
        for start in range(0, len(pictures), _AT_ONCE):
            given = torch.from_numpy(pictures[start : start + _AT_ONCE]).float().to(device)
            depths = torch.full((len(given),), tau, device=device)
            with torch.no_grad(), mixed_precision(device):
                found.append(network(given, depths).float().cpu().numpy())
        return np.concatenate(found)


class LacbedGenerator(_Predictor):
    """Generates the [001] bright-field LACBED pattern of a cubic crystal from its potential.

    Parameters
    ----------
    model : str or path, optional
        Name of weights (see `list_pretrained`) or a ``.safetensors`` file. None: the default ones.
    device : str or torch.device, optional
        None: a GPU if there is one.

    Examples
    --------
    >>> from py4dstem_ml.physics.projection import projected_potential
    >>> from py4dstem_ml import Crystal
    >>> gold = Crystal.cubic(4.08, [79] * 4, [[0, 0, 0], [0, .5, .5], [.5, 0, .5], [.5, .5, 0]])
    >>> potential = projected_potential(gold).potential
    >>> LacbedGenerator.pretrained()(potential, a=4.08, thickness=500).shape
    (64, 64)

    Notes
    -----
    After Webb, Beanland and Römer, arXiv 2503.02852, who train one network for each thickness.
    """

    direction = "forward"
    elsewhere = '; generate_lacbed computes any, as generate_lacbed_aiml(..., outside="exact") does'

    def __call__(
        self,
        potential: npt.ArrayLike,
        *,
        a: float,
        thickness: float,
        energy_ev: float = 200e3,
    ) -> npt.NDArray[np.float32]:
        """Generate patterns of projected potentials.

        Parameters
        ----------
        potential : array_like, shape (..., n, n)
            V·Å of one cell along [001], a down the rows, see `projected_potential`; n as
            `pixels`, 64. Its mean does not count.
        a : float
            Å.
        thickness : float
            Å.
        energy_ev : float

        Returns
        -------
        ndarray of float32, shape (..., n, n)
            The incident intensity is 1; directions up to `half_width` a* from the axis.

        Raises
        ------
        ValueError
            If the picture is not of this size, not finite, constant or not in V·Å, or a, the
            thickness or the voltage is outside the training range.
        """
        found = sound_pictures(potential, "projected potential")
        self.refuse_conditions(a, thickness, energy_ev)
        if found.shape[-1] != self.pixels:
            raise ValueError(
                f"the projected potential must have {self.pixels} x {self.pixels} pixels, not "
                f"{found.shape[-1]}: projected_potential(crystal, {self.pixels}) makes it"
            )
        flat = found.reshape(-1, *found.shape[-2:])
        flat = flat - flat.mean((1, 2), keepdims=True)
        for varying in flat.std((1, 2), dtype=np.float64):
            if not _VARYING[0] <= varying <= _VARYING[1]:
                raise ValueError(
                    f"the projected potential varies by {varying:.3g} V·Å, those of crystals by 10 "
                    "to 500: is it in V·Å, as projected_potential(crystal) makes it?"
                )
        tau = depth(a, thickness, energy_ev)
        images = self._run(self.loaded, flat * strength_per_volt(a, energy_ev), tau)
        return images.clip(min=0.0).reshape(found.shape)


class _Known(LazyModel):
    """The atlas of known crystals."""

    def _read(self) -> Atlas:
        return Atlas.load(self.model or weights.default_name(_ATLAS))


class PotentialPredictor(_Predictor):
    """Finds the projected potential of a cubic crystal from its [001] bright-field pattern.

    A network reads one, and known crystals with patterns alike are looked up; the bright field of
    each is computed with few beams, and the potential is returned whose is the most alike.

    Parameters
    ----------
    model : str or path, optional
        Name of weights (see `list_pretrained`) or a ``.safetensors`` file. None: the default ones.
    atlas : str, path or False, optional
        The known crystals, likewise; False: the network's reading alone, at once.
    device : str or torch.device, optional
        None: a GPU if there is one.

    Notes
    -----
    A bright field does not tell where the unit cell begins: the origin is the one that training
    crystals have, the point with the most symmetry where the potential is highest.

    Thermal motion is that of B = 0.5 Å^2. The default network was trained on patterns without
    absorption, see `learned_absorption`.
    """

    direction = "inverse"

    def __init__(
        self,
        model: str | os.PathLike | None = None,
        *,
        atlas: str | os.PathLike | Literal[False] | None = None,
        device: Any = None,
    ) -> None:
        super().__init__(model, device=device)
        self._known = None if atlas is False else _Known(atlas, None)

    def __call__(
        self,
        pattern: npt.ArrayLike,
        *,
        a: float,
        thickness: float,
        energy_ev: float = 200e3,
        pixel_size: float | None = None,
        absorption: bool = True,
    ) -> npt.NDArray[np.float32]:
        """Find potentials of patterns.

        Parameters
        ----------
        pattern : array_like, shape (..., m, m)
            Bright fields, centred on [001], a* down the rows, in any units.
        a : float
            Å.
        thickness : float
            Å.
        energy_ev : float
        pixel_size : float, optional
            1/Å. None: the pattern reaches just `half_width` a* from the axis.
        absorption : bool
            Whether thermal diffuse scattering has taken from the pattern, as from measured ones
            and those of `generate_lacbed`. Explanations count with it, the network does not.

        Returns
        -------
        ndarray of float32, shape (..., n, n)
            V·Å of one cell, its mean left out; n is `pixels`.

        Raises
        ------
        ValueError
            If the picture is not square, not finite or constant, does not reach far enough, or
            a, the thickness or the voltage is outside the training range.
        """
        shape, flat = self._prepared(pattern, a, thickness, energy_ev, pixel_size)
        if self._known is None:
            found = self._read_by_network(flat, a, thickness, energy_ev)
        else:
            explained = self._explained(flat, a, thickness, energy_ev, absorption)
            found = np.zeros((len(flat), self.pixels, self.pixels), np.float32)
            for number, one in enumerate(explained):
                found[number] = one.potential
        return found.reshape(*shape, *found.shape[1:])

    def explained(
        self,
        pattern: npt.ArrayLike,
        *,
        a: float,
        thickness: float,
        energy_ev: float = 200e3,
        pixel_size: float | None = None,
        absorption: bool = True,
    ) -> Explanation:
        """Find the potential of one pattern, and tell how well it explains that.

        Parameters
        ----------
        pattern : array_like, shape (m, m)
        a, thickness, energy_ev, pixel_size, absorption
            As for a call.

        Returns
        -------
        Explanation
            Its ``likeness`` says how far it is to be trusted, and ``crystal`` whose potential it
            is, if that of a known one.

        Raises
        ------
        ValueError
            As for a call, and if there is more than one pattern, or no atlas.

        Examples
        --------
        >>> import numpy as np
        >>> from py4dstem_ml import Crystal, LacbedGenerator, PotentialPredictor
        >>> from py4dstem_ml.physics.projection import projected_potential
        >>> gold = Crystal.cubic(4.08, [79] * 4, [[0, 0, 0], [0, .5, .5], [.5, 0, .5], [.5, .5, 0]])
        >>> at = {"a": 4.08, "thickness": 500}
        >>> pattern = LacbedGenerator.pretrained()(projected_potential(gold).potential, **at)
        >>> reader = PotentialPredictor.pretrained()
        >>> reader.explained(pattern, **at, absorption=False).likeness > 0.9
        True
        """
        if self._known is None:
            raise ValueError("an explanation needs the atlas: leave atlas=False out")
        shape, flat = self._prepared(pattern, a, thickness, energy_ev, pixel_size)
        if shape:
            raise ValueError(f"one pattern is explained at a time, not {shape}")
        return next(self._explained(flat, a, thickness, energy_ev, absorption))

    def _read_by_network(
        self, flat: npt.NDArray[np.float32], a: float, thickness: float, energy_ev: float
    ) -> npt.NDArray[np.float32]:
        found = self._run(self.loaded, flat, depth(a, thickness, energy_ev))
        return found / np.float32(strength_per_volt(a, energy_ev))

    def _explained(
        self, flat: npt.NDArray[np.float32], a: float, thickness: float, energy_ev: float,
        absorption: bool,
    ) -> Iterator[Explanation]:  # fmt: skip
        atlas = self._known.loaded
        if atlas.pixels != self.pixels or atlas.half_width != self.half_width:
            raise weights.WeightsError(
                f"the atlas knows patterns of {atlas.pixels} pixels that reach "
                f"{atlas.half_width:g} a* from the axis, the network reads {self.pixels} and "
                f"{self.half_width:g}: take another, or atlas=False"
            )
        readings = self._read_by_network(flat, a, thickness, energy_ev)
        pairs = list(zip(flat, readings, strict=True))
        shown = None if len(pairs) > 1 else False
        for pattern, reading in progress_bar(pairs, description="explaining", progress=shown):
            found = best_explained(
                pattern, reading, atlas, a=a, thickness=thickness,
                energy_ev=energy_ev, half_width=self.half_width, absorption=absorption,
                device=pick_device(self.device),
            )  # fmt: skip
            if found.likeness < _DOUBTFUL:
                _log.warning(
                    "nothing explains the pattern well, R = %.2f: is it a bright field along "
                    "[001], centred to a pixel, a* down the rows, of this a and thickness, %s "
                    "absorption?", found.likeness, "with" if absorption else "without",
                )  # fmt: skip
            yield found

    def with_spread(
        self,
        pattern: npt.ArrayLike,
        *,
        a: float,
        thickness: float,
        energy_ev: float = 200e3,
        pixel_size: float | None = None,
        draws: int = 16,
        seed: int = 0,
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Read potentials by the network alone, and how they vary when parts of it are left out.

        Parameters
        ----------
        pattern, a, thickness, energy_ev, pixel_size
            As for a call.
        draws : int
            Readings with Monte Carlo dropout (Gal & Ghahramani 2016), two at least.
        seed : int

        Returns
        -------
        potential, spread : ndarray of float32, shape (..., n, n)
            V·Å: the network's reading, and the standard deviation of the draws, each moved to
            where it is most like that.

        Raises
        ------
        ValueError
            As for a call, and if the network has no dropout, or there are too few draws.
        """
        if draws < 2:
            raise ValueError(f"a spread takes two draws at least, not {draws}")
        network = _with_dropout(self.loaded)
        shape, flat = self._prepared(pattern, a, thickness, energy_ev, pixel_size)
        tau, unit = depth(a, thickness, energy_ev), strength_per_volt(a, energy_ev)
        found = self._run(self.loaded, flat, tau)
        middle = torch.from_numpy(found)
        total, squares = torch.zeros_like(middle), torch.zeros_like(middle)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for _ in range(draws):
                drawn = at_best_origin(torch.from_numpy(self._run(network, flat, tau)), middle)
                total += drawn - middle
                squares += (drawn - middle).square()
        spread = ((squares - total.square() / draws) / (draws - 1)).clamp(min=0.0).sqrt().numpy()
        return tuple((x / unit).reshape(*shape, *x.shape[1:]) for x in (found, spread))

    def _prepared(
        self, pattern: npt.ArrayLike, a: float, thickness: float, energy_ev: float,
        pixel_size: float | None,
    ) -> tuple[tuple[int, ...], npt.NDArray[np.float32]]:  # fmt: skip
        """The stack's shape, and the patterns (n, pixels, pixels) on the network's directions."""
        patterns = sound_pictures(pattern, "pattern")
        self.refuse_conditions(a, thickness, energy_ev)
        flat = patterns.reshape(-1, *patterns.shape[-2:])
        return patterns.shape[:-2], on_directions(
            flat, a=a, pixels=self.pixels, half_width=self.half_width, pixel_size=pixel_size
        )


def _with_dropout(network: nn.Module) -> nn.Module:
    """A copy whose dropout stays on."""
    copied = copy.deepcopy(network)
    layers = [m for m in copied.modules() if isinstance(m, nn.Dropout) and m.p > 0]
    if not layers:
        raise ValueError(f"{network.name} has no dropout to draw from; take a linenet")
    for layer in layers:
        layer.train()
    return copied
