"""From measured Bragg lists to crystal system, space group and lattice."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .. import weights
from ..compute import pick_device
from ..lazy_model import LazyModel
from ..progress import progress_bar
from .lists import BraggLists
from .network import network_of
from .peakset import PeakSetReader
from .prediction import MIN_PEAKS, CrystalPrediction, Model
from .radial_basis import RadialBasis
from .radial_forests import RadialForests

logger = logging.getLogger(__name__)

#: What `CrystalSystemPredictor` returns of one list.
COLUMNS = (
    "system", "confidence", "difference", "space_group", "space_group_confidence",
    "a", "b", "c", "a_spread", "b_spread", "c_spread", "mixed",
    "p_cubic", "p_hexagonal", "p_trigonal", "p_tetragonal", "p_orthorhombic", "p_monoclinic",
    "p_triclinic",
)  # fmt: skip
#: 1/Å; no crystal's peaks are all as far from the direct beam, or all as near.
_FAR, _NEAR = 4.0, 0.3
#: Lists that are prepared and read at once.
_LISTS_AT_ONCE = 4096


def load_model(name_or_path: str | os.PathLike | None = None, device: Any = None) -> Model:
    """Read weights of either kind, by name or path; None: the default ones.

    Raises
    ------
    WeightsError
        If the file holds neither, or is of another version.
    """
    name_or_path = name_or_path or weights.default_name("symmetry")
    tensors, metadata = weights.load(name_or_path)
    on = pick_device(device)
    if "calibration" not in metadata and {"peakset", "features"} & set(metadata):
        logger.warning("%s: its training was broken off, it is not calibrated", name_or_path)
    if "peakset" in metadata:
        return PeakSetReader(network_of(tensors, metadata, name_or_path, on))
    if "features" in metadata:
        return RadialForests.of(tensors, metadata, name_or_path, on)
    raise weights.WeightsError(
        f"{name_or_path} does not hold a model of crystals; take "
        f"{weights.default_name('symmetry')!r}, or a file of your own training"
    )


def usable(
    lists: BraggLists,
    min_peaks: int = MIN_PEAKS,
    direct_beam: float | Literal["brightest"] = RadialBasis.direct_beam,
) -> tuple[BraggLists, npt.NDArray[np.bool_]]:
    """Return lists without direct beams and far peaks, and which can be read.

    Parameters
    ----------
    lists : BraggLists
        [qx, qy, intensity]; 1/Å, about the direct beam.
    min_peaks : int
        Fewest diffracted peaks within the basis.
    direct_beam : float or "brightest"
        See `RadialBasis`.

    Returns
    -------
    lists : BraggLists
        As many as were given.
    good : ndarray of bool, shape (n,)
        False where there are too few peaks, a value that is no finite number, or a negative
        intensity.

    """
    basis = RadialBasis(direct_beam=direct_beam)
    peaks = lists.peaks
    sound = np.isfinite(peaks).all(1) & (np.nan_to_num(peaks[:, 2]) >= 0)
    broken = np.bincount(lists.owner, ~sound, minlength=len(lists)) > 0
    if broken.any():
        logger.warning(
            "%d of %d patterns have peaks that are NaN or of negative intensity; they are left out",
            broken.sum(), len(lists),
        )  # fmt: skip
    q = np.hypot(np.nan_to_num(peaks[:, 0]), np.nan_to_num(peaks[:, 1]))
    inside = q < basis.q_max + basis.step
    lists = basis.diffracted(lists.keep(inside & sound & (peaks[:, 2] > 0)))
    return lists, (np.diff(lists.offsets) >= max(1, min_peaks)) & ~broken


def refuse_pixels(lists: BraggLists) -> None:
    """Refuse lists whose peaks lie where no crystal's do, and warn of those that hardly can.

    Raises
    ------
    ValueError
        If the median peak is farther than 4 1/Å from the direct beam.
    """
    q = np.hypot(*np.nan_to_num(lists.peaks[:, :2]).T)
    q = q[q > RadialBasis().direct_beam]
    if len(q) and np.median(q) > _FAR:
        raise ValueError(
            f"the median peak is {np.median(q):.3g} away from the direct beam: are the peaks in "
            "pixels, or in 1/nm, or not centred? They must be in 1/Å about the direct beam"
        )
    if len(q) and np.percentile(q, 95) < _NEAR:
        logger.warning(
            "hardly a peak is farther than %.2g 1/Å from the direct beam: is the size of a pixel "
            "right?", np.percentile(q, 95),
        )  # fmt: skip


class CrystalSystemPredictor(LazyModel):
    """Reads crystal system, space group and lattice from Bragg lists.

    Safe to call from several threads, and picklable: the model is loaded when first needed, in
    each process.

    Parameters
    ----------
    model : str or path, optional
        Name of weights (see `list_pretrained`) or a ``.safetensors`` file, forests or network.
        None: the default ones.
    device : str or torch.device, optional
        None: a GPU if there is one.
    min_peaks : int
        Patterns with fewer diffracted peaks within 2 1/Å are not read.
    direct_beam : float or "brightest"
        Radius in 1/Å within which peaks are the direct beam, or the paper's rule, by which it is
        the brightest peak wherever that is.

    Raises
    ------
    ValueError
        If `min_peaks` is below 1.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_ml import CrystalSystemPredictor
    >>> predictor = CrystalSystemPredictor()
    >>> int(predictor(np.zeros((0, 3)))[0])  # nothing to read: no system
    -1

    Notes
    -----
    Forests after Gleason et al., PR Materials 8 (2024) 093802.
    """

    def __init__(
        self,
        model: str | os.PathLike | None = None,
        *,
        device: Any = None,
        min_peaks: int = MIN_PEAKS,
        direct_beam: float | Literal["brightest"] = RadialBasis.direct_beam,
    ) -> None:
        if min_peaks < 1:
            raise ValueError(f"min_peaks must be at least 1, not {min_peaks}")
        super().__init__(model, device)
        self.min_peaks, self.direct_beam = min_peaks, direct_beam

    def _read(self) -> Model:
        return load_model(self.model, self.device)

    def __call__(self, peaks: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Read one list, shape (n, 3), [qx, qy, intensity] in 1/Å about the direct beam.

        Returns
        -------
        ndarray, shape (19,)
            The values of `COLUMNS`: -1 for system and space group and NaN for the rest where
            there is too little to read.
        """
        return as_columns(self._read_lists(BraggLists.pack([peaks]), progress=False))[0]

    def predict(
        self,
        lists: BraggLists | Sequence[npt.ArrayLike],
        *,
        system_only: bool = False,
        progress: bool | None = None,
    ) -> CrystalPrediction:
        """Read many lists, each by itself.

        Parameters
        ----------
        lists : BraggLists, or a sequence of arrays (k, 3)
        system_only : bool
            Space groups and lattices may be left out: forests are three times as fast then.
        progress : bool, optional
            None: a bar in a terminal or a notebook.

        Raises
        ------
        ValueError
            If the peaks are too far from the direct beam, as those in pixels are.
        """
        lists = _packed(lists)
        refuse_pixels(lists)
        return self._read_lists(lists, progress, system_only)

    def _read_lists(
        self, lists: BraggLists, progress: bool | None, system_only: bool = False
    ) -> CrystalPrediction:
        lists, good = usable(lists, self.min_peaks, self.direct_beam)
        found = CrystalPrediction.nothing(len(lists))
        numbers = np.flatnonzero(good)
        bar = progress_bar(total=len(numbers), description="crystals", progress=progress)
        with bar:
            for start in range(0, len(numbers), _LISTS_AT_ONCE):
                some = numbers[start : start + _LISTS_AT_ONCE]
                found.put(some, self.loaded.read(lists.take(some), system_only=system_only))
                bar.update(len(some))
        return found

    def within(
        self, lists: BraggLists, found: CrystalPrediction, system: npt.NDArray[np.int64]
    ) -> CrystalPrediction:
        """Return predictions with the space groups and lattices of other systems.

        Parameters
        ----------
        lists : BraggLists
            As given to `predict`.
        found : CrystalPrediction
            What that returned.
        system : ndarray of int, shape (n,)
            Index in `SYSTEMS`; -1: as it is.
        """
        found = found.take(np.arange(len(found)))
        other = np.flatnonzero(found.valid & (system >= 0) & (system != found.system))
        if len(other):
            lists, _ = usable(lists.take(other), self.min_peaks, self.direct_beam)
            for start in range(0, len(other), _LISTS_AT_ONCE):
                some = slice(start, start + _LISTS_AT_ONCE)
                numbers = np.arange(len(other))[some]
                read = self.loaded.read(lists.take(numbers), system[other[some]].astype(np.int64))
                found.put(other[some], read)
        return found

    def aggregate(
        self, lists: BraggLists | Sequence[npt.ArrayLike], bag: npt.ArrayLike | None = None
    ) -> CrystalPrediction:
        """Read several lists of one crystal together: one prediction for each bag.

        Parameters
        ----------
        lists : BraggLists, or a sequence of arrays (k, 3)
        bag : array_like of int, shape (n,), optional
            Which bag each list is in, from 0; -1: in none. None: all in one.

        Raises
        ------
        ValueError
            If `bag` has another length, or the peaks are too far from the direct beam.
        """
        lists = _packed(lists)
        bag = np.zeros(len(lists), int) if bag is None else np.asarray(bag)
        if bag.shape != (len(lists),):
            raise ValueError(f"bag has shape {bag.shape}, but there are {len(lists)} lists")
        refuse_pixels(lists)
        lists, good = usable(lists, self.min_peaks, self.direct_beam)
        found = CrystalPrediction.nothing(int(bag.max(initial=-1)) + 1)
        rows = np.flatnonzero(good & (bag >= 0))
        if len(rows):
            numbers, of_row = np.unique(bag[rows], return_inverse=True)
            found.put(numbers, self.loaded.pool(lists.take(rows), of_row))
        return found


def _packed(lists: BraggLists | Sequence[npt.ArrayLike]) -> BraggLists:
    return lists if isinstance(lists, BraggLists) else BraggLists.pack(lists)


def as_columns(found: CrystalPrediction) -> npt.NDArray[np.float32]:
    """Return a prediction as an array, shape (n, 19), in the order of `COLUMNS`."""
    return np.column_stack([
        found.system, found.confidence, found.difference, found.space_group,
        found.space_group_confidence, found.lattice, found.lattice_spread, found.mixed,
        found.probabilities,
    ]).astype(np.float32)  # fmt: skip
