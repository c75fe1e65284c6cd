"""Beam energy and dimer displacements of CBLEED patterns: an image in, eight numbers out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from .. import weights
from ..compute import iter_blocks, pick_device, refuse_masked
from ..lazy_model import LazyModel
from ..progress import progress_bar
from .augment import Disturbance
from .dataset import CbleedData
from .fit import FitConfig, fit_on
from .images import Screen, resampled
from .library import LibraryConfig
from .model import Reader, Reading, codes_of
from .network import Autoencoder, NetworkSpec, load_network
from .train import TrainConfig, train_on

#: What `CBLEEDRegressor` returns of an image; eV, Å, a score from 0 to 1, half widths of the 68 %
#: intervals in eV and Å, and the novelty, above 1 for a pattern that must not be trusted.
COLUMNS = (
    "energy_ev", "height", "length", "buckled", "sigma_energy_ev", "sigma_height", "sigma_length",
    "novelty",
)  # fmt: skip
#: These numbers of an image that cannot be read.
UNREADABLE = np.append(np.full(len(COLUMNS) - 1, np.nan), np.inf)
#: Share of an image's bright pixels at its greatest value from which it counts as saturated,
#: and the share of that value from which a pixel is bright.
_SATURATED, _LIT = 0.03, 0.1
#: Bright pixels that share the greatest value by chance, where electrons are counted.
_FEW = 3
#: Images that are read at once.
_AT_ONCE = 256


class CBLEEDRegressor(LazyModel):
    """Reads beam energy and dimer displacements of Si(001)-(2x1) from CBLEED patterns.

    Parameters
    ----------
    model : str or path, optional
        Name of weights (see `list_pretrained`) or a ``.safetensors`` file. None: the default ones.
    device : str or torch.device, optional
        None: a GPU if there is one; a single image is read as fast on a CPU.
    pixel_size : float, optional
        Of the images in rad/Å; they are resampled then. None: they are on the reader's `Screen`.
    centre : (float, float), optional
        Row and column of the surface normal; None: the middle. Only with ``pixel_size``.
    rotation_deg : float
        By which the surface's x axis, along the dimer rows, is turned from the images' first axis
        towards the second.
    on_bad : {"raise", "flag"}
        An image that cannot be read is refused, or is NaN with infinite novelty, as a live stream
        may want it.

    Raises
    ------
    ValueError
        If ``on_bad`` is neither, or a pixel size is not positive.

    Examples
    --------
    >>> from py4dstem_ml import CBLEEDRegressor
    >>> reader = CBLEEDRegressor.pretrained()
    >>> energy_ev, height, length, *_ = reader(image)  # doctest: +SKIP
    >>> maps = signal.map(reader, inplace=False)  # doctest: +SKIP

    Notes
    -----
    A pattern tells the energy above the solid's inner potential: energies hold at that of the
    training library, and are as uncertain as it is, whatever the interval says.
    """

    def __init__(
        self,
        model: str | os.PathLike | None = None,
        *,
        device: Any = None,
        pixel_size: float | None = None,
        centre: tuple[float, float] | None = None,
        rotation_deg: float = 0.0,
        on_bad: Literal["raise", "flag"] = "raise",
    ) -> None:
        super().__init__(model, device)
        self._made: Reader | None = None
        if on_bad not in ("raise", "flag"):
            raise ValueError(f"on_bad is 'raise' or 'flag'; not {on_bad!r}")
        if pixel_size is not None and not 0 < pixel_size < np.inf:
            raise ValueError(f"pixel_size is above 0 rad/Å; not {pixel_size!r}")
        if centre is not None and (np.shape(centre) != (2,) or not np.isfinite(centre).all()):
            raise ValueError(f"centre is a row and a column; not {centre!r}")
        if not np.isfinite(rotation_deg):
            raise ValueError(f"rotation_deg is finite; not {rotation_deg!r}")
        if pixel_size is None and (centre is not None or rotation_deg):
            raise ValueError("centre and rotation_deg need the images' pixel_size in rad/Å")
        self.pixel_size, self.centre = pixel_size, centre
        self.rotation_deg, self.on_bad = rotation_deg, on_bad

    @classmethod
    def pretrained(cls, model: str | None = None, **options: Any) -> CBLEEDRegressor:
        """Take weights by name; None: the default ones. Options are those of the class."""
        return cls(model, **options)

    @classmethod
    def of(cls, reader: Reader, **options: Any) -> CBLEEDRegressor:
        """Take a reader that is in memory, e.g. of `fit.fit_on`."""
        made = cls(None, **options)
        made._made = reader  # there is no file to read it from: it travels
        return made

    def _read(self) -> Reader:
        if self._made is not None:
            return self._made
        chosen = self.model or weights.default_name("cbleed")
        return Reader.load(chosen, pick_device(self.device))

    def __call__(self, image: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return the numbers of `COLUMNS` of an image, shape (8,).

        Parameters
        ----------
        image : array_like, shape (H, W)
            Intensities in any unit, the background subtracted and the camera's gain divided out;
            the first axis along the dimer rows, the second along the dimers.

        Raises
        ------
        ValueError
            If it is of another size; if it is empty, saturated, or not finite, unless ``on_bad``
            is "flag".
        """
        if np.ndim(image) != 2:
            raise ValueError(f"one image has two axes; not {np.ndim(image)}: `read` takes stacks")
        return self._rows(_unmasked(image)[None])[0]

    def read(self, images: Any, *, progress: bool | None = None) -> npt.NDArray[np.float64]:
        """Return the numbers of `COLUMNS` of all images, shape (..., 8).

        Parameters
        ----------
        images : array_like, shape (..., H, W)
            In memory or not: an ndarray, memmap, h5py.Dataset or dask array.
        progress : bool, optional
            None: a bar in a terminal or a notebook.

        Raises
        ------
        ValueError
            As for one image.
        """
        if not hasattr(images, "shape"):
            images = np.asarray(images)
        shape = tuple(images.shape[:-2])
        found = np.empty((int(np.prod(shape)), len(COLUMNS)))
        with progress_bar(total=len(found), description="reading", progress=progress) as bar:
            for index, block in iter_blocks(images, _AT_ONCE):
                found[index] = self._rows(_unmasked(block))
                bar.update(len(index))
        return found.reshape(*shape, len(COLUMNS))

    def reading(self, images: npt.ArrayLike) -> Reading:
        """Return all that is known of images (n, H, W): other intervals, codes.

        Raises
        ------
        ValueError
            As for one image; ``on_bad`` does not count.
        """
        given = _unmasked(images)
        if given.ndim != 3:
            raise ValueError(f"give a stack of images, (n, H, W); not {given.shape}")
        self._refuse_size(given)
        for image in given:
            _refuse(image)
        seen = self._on_screen(given)
        for image in seen:
            _refuse(image, resampled=True)
        return self.loaded.read(torch.from_numpy(seen))

    def _rows(self, images: npt.NDArray) -> npt.NDArray[np.float64]:
        if self.on_bad == "raise":
            return numbers_of(self.reading(images))
        self._refuse_size(images)
        found = np.tile(UNREADABLE, (len(images), 1))
        good = _readable(images)
        if len(good):
            seen = self._on_screen(images[good])
            clear = _readable(seen, resampled=True)
            if len(clear):
                found[good[clear]] = numbers_of(self.loaded.read(torch.from_numpy(seen[clear])))
        return found

    def _refuse_size(self, images: npt.NDArray) -> None:
        if self.pixel_size is not None:
            return
        screen = self.loaded.screen
        wanted = (screen.pixels, screen.pixels)
        if images.shape[1:] != wanted:
            raise ValueError(
                f"the reader takes images of {wanted[0]} x {wanted[1]} pixels of "
                f"{screen.pixel_size:g} rad/Å, not {images.shape[1]} x {images.shape[2]}; give "
                "pixel_size (and centre) to have them resampled"
            )

    def save(self, path: str | os.PathLike) -> Path:
        """Write the reader, e.g. one of `CBLEEDAutoencoder.with_labels`; its path is a model.

        Parameters
        ----------
        path : str or path
            ``*.safetensors``.
        """
        return self.loaded.save(path)

    def _on_screen(self, images: npt.NDArray) -> npt.NDArray[np.float32]:
        screen = self.loaded.screen
        # Of any unit: float32 cannot hold the sums of very small or large numbers.
        images = images / images.max((1, 2), keepdims=True).astype(np.float64)
        if self.pixel_size is not None:
            return resampled(images, screen, self.pixel_size, self.centre, self.rotation_deg)
        return images.astype(np.float32)


def numbers_of(reading: Reading) -> npt.NDArray[np.float64]:
    """Return the numbers of `COLUMNS` of a reading, shape (n, 8)."""
    return np.column_stack([reading.values, reading.sigma[:, :3], reading.novelty])


def _readable(images: npt.NDArray, resampled: bool = False) -> npt.NDArray[np.int64]:
    """The numbers of the images that hold a pattern."""
    good = []
    for n, image in enumerate(images):
        with suppress(ValueError):
            _refuse(image, resampled)
            good.append(n)
    return np.array(good, dtype=np.int64)


def _unmasked(images: npt.ArrayLike) -> npt.NDArray:
    refuse_masked(images, "image")
    return np.asarray(images)


def _refuse(image: npt.NDArray, resampled: bool = False) -> None:
    """Refuse an image that holds no pattern; on the screen it cannot be saturated any more."""
    if image.dtype.kind not in "buif":
        raise ValueError(f"an image is of real numbers, not {image.dtype}")
    if not np.isfinite(image).all():
        raise ValueError("the image holds NaN or infinite values; mask or replace them first")
    top = image.max(initial=0)
    if not top > 0:
        where = " within the screen: are pixel_size and centre right?" if resampled else ""
        raise ValueError(f"the image is empty: no pixel is above 0{where}")
    lit = image > _LIT * top
    if not resampled and (image[lit] == top).mean() > _SATURATED and lit.sum() > _FEW / _SATURATED:
        raise ValueError(
            "the image is saturated, constant or nearly empty: more than "
            f"{100 * _SATURATED:g} % of its bright pixels share its greatest value; change the "
            "exposure"
        )


class CBLEEDAutoencoder(LazyModel):
    """Patterns as a few latent numbers and back, without any label.

    Parameters
    ----------
    model : str or path, optional
        Weights of an autoencoder, or of a reader that holds one. None: the default ones.
    device : str or torch.device, optional
        None: a GPU if there is one.

    Examples
    --------
    >>> import tempfile
    >>> images = np.random.default_rng(0).random((40, 64, 64))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     auto = CBLEEDAutoencoder.train(images, folder, latent=4, steps=1)
    ...     auto.encode(images).shape
    (40, 4)
    """

    def __init__(self, model: str | os.PathLike | None = None, *, device: Any = None) -> None:
        super().__init__(model, device)

    def _read(self) -> Autoencoder:
        network = self._any()
        if not isinstance(network, Autoencoder):
            raise weights.WeightsError(f"{self.model} is a direct regressor, not an autoencoder")
        return network.to(pick_device(self.device))

    def _any(self) -> Any:
        chosen = self.model or weights.default_name("cbleed")
        if "cbleed_reader" in weights.load(chosen)[1]:
            return Reader.load(chosen).network
        return load_network(chosen)

    @classmethod
    def pretrained(cls, model: str | None = None, *, device: Any = None) -> CBLEEDAutoencoder:
        """Take weights by name; None: the default ones."""
        return cls(model, device=device)

    @classmethod
    def train(
        cls,
        images: npt.ArrayLike,
        output: str | os.PathLike,
        *,
        latent: int = 8,
        steps: int = 10_000,
        time_limit_s: float | None = None,
        disturbance: Disturbance | None = None,
        device: Any = None,
        seed: int = 0,
    ) -> CBLEEDAutoencoder:
        """Train on images of one's own, of any material, measured or simulated.

        Parameters
        ----------
        images : array_like, shape (n, H, H)
            Intensities; the side a multiple of 8.
        output : str or path
            Folder for ``autoencoder.safetensors``, checkpoint and log.
        latent : int
            Numbers of the code.
        steps : int
        time_limit_s : float, optional
        disturbance : Disturbance, optional
            What is added to the images; by default what simulated ones need. Measured ones have
            noise of their own.
        device : str or torch.device, optional
            None: a GPU if there is one.
        seed : int

        Raises
        ------
        ValueError
            If images are not square, too small, or hold no pattern.
        """
        data = own_data(images, np.zeros((len(images), 4)))
        side = data.screen.pixels
        config = TrainConfig(
            network=NetworkSpec(latent=latent, pixels=side), screen=data.screen, split="random",
            between=0.0, steps=steps, time_limit_s=time_limit_s, seed=seed,
            disturbance=disturbance or Disturbance(),
        )  # fmt: skip
        path = train_on(data, Path(output), config, device=device)
        return cls(path, device=device)

    def with_labels(
        self, images: npt.ArrayLike, labels: npt.ArrayLike, config: FitConfig | None = None
    ) -> CBLEEDRegressor:
        """Fit regressors to the codes of labelled images.

        Parameters
        ----------
        images : array_like, shape (n, H, H)
        labels : array_like, shape (n, 4)
            Energy in eV, height and length in Å, 1 or 0 for buckled or not; or three numbers and
            a flag of another meaning.
        config : FitConfig, optional

        Raises
        ------
        ValueError
            If they are not as many, or too few for a calibration.
        """
        config = config or FitConfig(between=0)
        return CBLEEDRegressor.of(
            fit_on(own_data(images, labels), self.loaded, config, rule="random")
        )

    def encode(self, images: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Return the codes (n, latent) of images (n, H, W)."""
        return codes_of(self.loaded, self._checked(images))[0]

    def error(self, images: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return the relative errors of the reconstruction (n,): large for what is new."""
        return codes_of(self.loaded, self._checked(images))[1][:, 0]

    def reconstruct(self, images: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Return images (n, H, W) as their codes tell them, as amplitudes from 0 to 1.

        `images.normalised` brings the images themselves to the same scale.
        """
        given = self._checked(images)
        codes = torch.from_numpy(codes_of(self.loaded, given)[0])
        device = next(self.loaded.parameters()).device
        with torch.no_grad():
            return self.loaded.decode(codes.to(device)).cpu().numpy()

    def _checked(self, images: npt.ArrayLike) -> torch.Tensor:
        given = _unmasked(images)
        side = self.loaded.spec.pixels
        if given.ndim != 3 or given.shape[1:] != (side, side):
            raise ValueError(
                f"the autoencoder takes images of shape (n, {side}, {side}); not {given.shape}"
            )
        for image in given:
            _refuse(image)
        return torch.from_numpy(given.astype(np.float32))


def own_data(images: npt.ArrayLike, labels: npt.ArrayLike | Sequence) -> CbleedData:
    """Return images (n, H, H) and labels (n, 4) of one's own as what is trained on.

    Raises
    ------
    ValueError
        If shapes disagree, or an image holds no pattern.
    """
    given, said = _unmasked(images), np.asarray(labels, dtype=float)
    if given.ndim != 3 or given.shape[1] != given.shape[2]:
        raise ValueError(f"images are square, of shape (n, H, H); not {given.shape}")
    if said.shape != (len(given), 4) or not np.isfinite(said).all():
        raise ValueError(
            f"{len(given)} images need as many rows of 4 labels, all finite; not {said.shape}"
        )
    for image in given:
        _refuse(image)
    bright = given.clip(min=0).astype(np.float32)
    bright /= bright.sum((1, 2), keepdims=True)
    screen = Screen(pixels=given.shape[1])
    return CbleedData(torch.from_numpy(bright), said, screen, LibraryConfig(), ())
