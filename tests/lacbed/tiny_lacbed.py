"""Cubic crystals and small networks of random weights that several tests share."""

from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from py4dstem_ml.lacbed.dataset import SPLIT_RULE
from py4dstem_ml.lacbed.fit import atlas_of
from py4dstem_ml.lacbed.library import LibraryConfig
from py4dstem_ml.lacbed.linenet import LineGenerator, LineSpec
from py4dstem_ml.lacbed.network import SPECS, build_network, save_network
from py4dstem_ml.lacbed.pix2pix import Pix2PixSpec
from py4dstem_ml.lacbed.vae import VaeSpec
from py4dstem_ml.physics.crystal import Crystal
from py4dstem_ml.physics.structures import name_hash

PIXELS, HALF_WIDTH = 16, 2.0
CONFIG = LibraryConfig(
    thicknesses=(200.0, 600.0), reflections=((0, 0), (2, 0)), pixels=PIXELS, half_width=HALF_WIDTH,
    max_beams=(60, 100), crystals_per_shard=6,
)  # fmt: skip

_SMALL = {"pixels": PIXELS, "half_width": HALF_WIDTH}
_LINES = LineSpec(
    **_SMALL, highest=3, cell=4, reflections=16, lines=4, widths=(8, 8), depth=1, dropout=0.2
)
TINY = {
    "linenet.forward.tiny": _LINES,
    "linenet.inverse.tiny": _LINES,
    "pix2pix.forward.tiny": Pix2PixSpec("forward", **_SMALL, width=4, levels=1, blocks=1),
    "pix2pix.inverse.tiny": Pix2PixSpec("inverse", **_SMALL, width=4, levels=1, blocks=1),
    "vae.forward.tiny": VaeSpec(**_SMALL, width=8, latent=3),
}
METADATA = {
    "range_a": [3.5, 6.0], "thicknesses": [200.0, 600.0], "energy_ev": 200e3,
    "training": {"adversarial": True}, "split_rule": SPLIT_RULE,
}  # fmt: skip


def tiny_network(name):
    """A network of `TINY` with random weights."""
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SPECS, name, TINY[name])
        return build_network(name)


def saved(name, folder, untrained=False, **metadata) -> Path:
    """The path of such a network's weights; a line generator changes the picture of few beams."""
    path = Path(folder) / f"{name}.safetensors"
    network = tiny_network(name)
    if isinstance(network, LineGenerator) and not untrained:
        nn.init.normal_(network.directions.leave[-1].weight)
    save_network(network, path, {**METADATA, **metadata})
    return path


def named(stem, low, high, number):
    """Names of a stem and a number whose hashes lie between two values."""
    names = (f"{stem}{i}" for i in count())
    return list(islice((name for name in names if low <= name_hash(name) < high), number))


FCC = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
CSCL = [[0, 0, 0], [0.5, 0.5, 0.5]]


@dataclass(frozen=True)
class Row:
    """A crystal of the table: what it is made of, and the part that it must come to."""

    a: float
    numbers: list
    positions: list
    formula: str
    prototype: str
    part: str


_HELD = named("P", 0.0, 0.2, 2)
(_WATCHED,) = named("P", 0.2, 0.22, 1)
_PROTOTYPES = named("P", 0.4, 1.0, 3)
_FORMULAS = named("F", 0.05, 1.0, 10)
(_NEW,) = named("F", 0.0, 0.05, 1)
ROWS = [
    Row(3.6, [13, 28], CSCL, _FORMULAS[0], _PROTOTYPES[0], "train"),
    Row(4.05, [13] * 4, FCC, _FORMULAS[1], _PROTOTYPES[1], "train"),
    Row(3.61, [29] * 4, FCC, _FORMULAS[2], _PROTOTYPES[1], "train"),
    Row(3.7, [22, 27], CSCL, _FORMULAS[3], _PROTOTYPES[0], "train"),
    Row(5.3, [19] * 2, CSCL, _FORMULAS[4], _PROTOTYPES[2], "train"),
    Row(4.9, [38] * 4, FCC, _FORMULAS[5], _PROTOTYPES[1], "train"),
    Row(4.12, [55, 17], CSCL, _FORMULAS[6], _HELD[0], "prototype"),
    Row(4.29, [11] * 2, CSCL, _FORMULAS[7], _HELD[1], "prototype"),
    Row(4.0, [11, 17], CSCL, _NEW, _PROTOTYPES[0], "formula"),
    Row(3.3, [41] * 2, CSCL, _FORMULAS[8], _WATCHED, "validation"),
    Row(5.0, [20] * 4, FCC, _FORMULAS[9], _WATCHED, "validation"),
    Row(4.4, [55, 17], CSCL, _FORMULAS[6], _PROTOTYPES[0], "none"),
]


def saved_atlas(rows, folder) -> Path:
    """The path of an atlas of these crystals, each by its formula."""
    crystals = [Crystal.cubic(row.a, row.numbers, row.positions) for row in rows]
    names = [row.formula for row in rows]
    return atlas_of(crystals, names, CONFIG, progress=False).save(
        Path(folder) / "atlas.safetensors"
    )


def write_table(path: Path, rows=ROWS) -> Path:
    """Write a table of these crystals, and of a tetragonal one."""
    lengths = [(row.a, row.a) for row in rows] + [(3.0, 4.0)]
    atoms = [(row.numbers, row.positions) for row in rows] + [([47], [[0, 0, 0]])]
    n = len(lengths)
    np.savez(
        path,
        lattice=np.array([np.diag([a, a, c]) for a, c in lengths]),
        numbers=np.concatenate([numbers for numbers, _ in atoms]),
        positions=np.concatenate([positions for _, positions in atoms]).astype(float),
        offsets=np.cumsum([0, *(len(numbers) for numbers, _ in atoms)]),
        formula=np.array([row.formula for row in rows] + ["Ag"]),
        prototype=np.array([row.prototype for row in rows] + ["A"]),
        material_id=np.array([f"mp-{i}" for i in range(n)]),
        crystal_system=np.array(["cubic"] * len(rows) + ["tetragonal"]),
        spacegroup=np.array([225 if len(row.numbers) == 4 else 221 for row in rows] + [123]),
        cell=np.array([[a, a, c, 90, 90, 90] for a, c in lengths]),
    )
    return path
