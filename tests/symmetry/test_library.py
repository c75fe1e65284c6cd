"""The library of Bragg lists: seeded, resumable, and what the engine says."""

import json

import h5py
import numpy as np
import pytest
import torch

from py4dstem_ml import cli
from py4dstem_ml.physics.bloch import diffract, select_beams
from py4dstem_ml.physics.crystal import Crystal
from py4dstem_ml.physics.electrons import wavelength
from py4dstem_ml.physics.orientations import from_direction
from py4dstem_ml.physics.structures import CrystalTable
from py4dstem_ml.symmetry import library

TINY = library.LibraryConfig(
    spread_axes=3, zones=1, q_max=1.2, max_beams=60, crystals_per_shard=2, max_peaks=25,
    thickness_range=(20.0, 200.0),
)  # fmt: skip


@pytest.fixture(scope="module")
def structures(write_crystals):
    return write_crystals(
        [np.diag([3.5, 3.6 + 0.1 * i, 4.4]) for i in range(5)],
        [f"F{i}" for i in range(5)],
        [f"P{i}" for i in range(5)],
    )


@pytest.fixture(scope="module")
def shards(structures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lists")
    return library.simulate(structures, folder, config=TINY, progress=False)


def test_all_crystals_are_simulated_once(shards):
    read = [library.read_shard(path) for path in shards]
    materials = np.concatenate([shard.material for shard in read])
    assert len(shards) == 3 and set(materials) == set(range(5))
    for shard in read:
        assert len(shard.lists) == len(shard.material) == len(shard.thickness)
        of_one = shard.material == shard.material[0]
        axes = of_one.sum() // (2 * TINY.tilts)  # two thicknesses each
        assert shard.zone[of_one].sum() == 2 * TINY.tilts * TINY.zones
        assert 2 <= axes - TINY.zones <= 5
        assert (shard.thickness == 200.0).mean() == 0.5


def test_lists_begin_with_the_direct_beam_and_fall(shards):
    shard = library.read_shard(shards[0])
    for i in range(len(shard.lists)):
        peaks = shard.lists[i]
        assert np.hypot(*peaks[0, :2]) == 0
        assert (np.diff(peaks[1:, 2]) <= 0).all()
        assert 1 < len(peaks) <= 1 + TINY.max_peaks
        assert peaks[:, 2].sum() <= 1.0 + 1e-4
        assert peaks[1:, 2].min() > TINY.floor * peaks[1, 2]
        assert np.hypot(peaks[:, 0], peaks[:, 1]).max() <= TINY.q_max + 1e-6


def test_a_crystal_depends_on_seed_and_number_alone(structures, shards, tmp_path):
    (again,) = library.simulate(
        structures, tmp_path, shards=1, first=1, config=TINY, processes=2, progress=False
    )
    one, other = library.read_shard(again), library.read_shard(shards[1])
    np.testing.assert_array_equal(one.material, other.material)
    np.testing.assert_allclose(one.lists.peaks, other.lists.peaks, atol=1e-6)
    with h5py.File(again) as file:
        assert json.loads(file.attrs["config"])["spread_axes"] == 3


def test_lists_are_what_the_engine_says(structures):
    table = CrystalTable(structures)
    for material in range(3):
        crystal = table[material]
        lists, made = library.simulate_crystal(crystal, TINY, np.random.default_rng(material))
        rng = np.random.default_rng(material)
        energy = float(rng.choice(TINY.energies_ev, p=TINY.energy_weights))
        axes, zone = library.draw_axes(crystal, TINY, rng)
        expected = []
        for axis in axes:
            orientation = from_direction(axis, rng.uniform(0, 2 * np.pi))
            tilts = rng.normal(0, 1e-3 * TINY.tilt_mrad, (TINY.tilts, 2)) / wavelength(energy)
            drawn = float(np.exp(rng.uniform(*np.log(TINY.thickness_range))))
            beams = select_beams(
                crystal, orientation, energy, g_max=TINY.q_max, s_max=0.08, max_beams=90
            )
            for thickness in (TINY.thickness, drawn):
                for tilt in tilts:
                    wave = torch.from_numpy(tilt)[None]
                    psi = diffract(crystal, beams, energy, [thickness], incidence=wave)
                    places = map(tuple, beams.g[:, :2].tolist())
                    spots = dict(zip(places, (psi[0, :, 0].abs() ** 2).tolist(), strict=True))
                    expected.append((spots, thickness))
        assert len(lists) == len(expected) == len(made["zone"])
        assert made["zone"] == np.repeat(zone, 2 * TINY.tilts).tolist()
        for peaks, thickness, (spots, wanted) in zip(
            lists, made["thickness"], expected, strict=True
        ):
            assert thickness == wanted
            for x, y, intensity in peaks[:8]:
                near = min(spots, key=lambda q: np.hypot(q[0] - x, q[1] - y))
                assert np.hypot(near[0] - x, near[1] - y) < 2e-4
                # A few weak beams more or less move intensities a little.
                assert spots[near] == pytest.approx(intensity, rel=0.1, abs=5e-3)


def test_a_shard_that_is_there_is_left_as_it_is(structures, shards):
    before = shards[0].stat().st_mtime_ns
    library.simulate(structures, shards[0].parent, shards=1, config=TINY, progress=False)
    assert shards[0].stat().st_mtime_ns == before


def test_the_command_line_simulates(structures, tmp_path):
    arguments = ["simulate", "symmetry", "--structures", str(structures), "--output", str(tmp_path)]
    limits = ["--shards", "1", "--spread-axes", "1", "--zones", "1", "--processes", "1"]
    assert cli.main([*arguments, *limits]) == 0
    assert len(library.read_shard(tmp_path / "lists-000000.h5").lists) > 0


@pytest.mark.parametrize(
    "bad",
    [
        {"energy_weights": (1.0, 1.0, 0.0, 0.0)}, {"thickness_range": (0.0, 10.0)}, {"tilts": 0},
        {"zones": 99},
    ],
)  # fmt: skip
def test_impossible_configs_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        library.LibraryConfig(**bad)


def test_shards_of_another_seed_are_refused(structures, shards):
    with pytest.raises(ValueError, match="another seed"):
        library.simulate(structures, shards[0].parent, seed=1, config=TINY, progress=False)


def test_spots_lie_on_the_reciprocal_lattice():
    crystal = Crystal.cubic(
        4.078, [79] * 4, [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
    )
    config = library.LibraryConfig(spread_axes=2, zones=1, thickness_range=(50.0, 60.0))
    lists, made = library.simulate_crystal(crystal, config, np.random.default_rng(0))
    indices = [h for h in np.ndindex(9, 9, 9) if len({i % 2 for i in h}) == 1]
    shells = {sum(i * i for i in h) for h in indices}
    zones = [peaks for peaks, is_zone in zip(lists, made["zone"], strict=True) if is_zone]
    assert zones
    for peaks in zones:
        in_zero_zone = peaks[1:6]  # the strongest lie in the zero-order zone
        squared = (np.hypot(in_zero_zone[:, 0], in_zero_zone[:, 1]) * 4.078) ** 2
        assert np.abs(squared - np.rint(squared)).max() < 0.01
        assert set(np.rint(squared).astype(int)) <= shells
