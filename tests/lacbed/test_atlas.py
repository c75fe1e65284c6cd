"""Known crystals: their bright fields at any depth, and what a file of them keeps."""

import pickle
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from tiny_lacbed import CONFIG, ROWS

from py4dstem_ml import Crystal, WeightsError, weights
from py4dstem_ml.lacbed.atlas import Atlas
from py4dstem_ml.lacbed.bragg_lines import quadrant, unfolded
from py4dstem_ml.lacbed.fit import atlas_of
from py4dstem_ml.lacbed.natural import depth
from py4dstem_ml.physics.lacbed import lacbed

#: Å; none is of the library.
THICKNESSES = (137.0, 333.0, 900.0)
TENSORS = (
    "a", "offsets", "numbers", "positions", "places", "levels", "shares", "dampings", "greatest"
)  # fmt: skip


@pytest.fixture(scope="module")
def atlas(atlas_file):
    return Atlas.load(atlas_file)


def _crystal(row):
    return Crystal.cubic(row.a, row.numbers, row.positions)


def _exact(row, thicknesses, energy_ev=200e3):
    """Bright fields (t, 32, 32) of the exact engine, which knows nothing of our Bloch waves."""
    return lacbed(
        _crystal(row), (0, 0, 1), energy_ev, list(thicknesses), half_width=8 / row.a, pixels=32,
        absorption=False,
    ).images[:, 0].float()  # fmt: skip


@pytest.fixture(scope="module")
def wide():
    """The same crystals, of patterns as wide as those of the shipped atlas."""
    config = replace(CONFIG, pixels=32, half_width=8.0)
    names = [str(number) for number in range(len(ROWS))]
    return atlas_of([_crystal(row) for row in ROWS], names, config, progress=False)


@pytest.fixture(scope="module")
def patterns():
    return torch.stack([_exact(row, THICKNESSES) for row in ROWS])


def _seen(pattern, atlas):
    return quadrant(pattern).flatten()[atlas.places].numpy()


def test_few_waves_show_bright_fields_at_any_depth(wide, patterns):
    likeness = np.zeros((len(ROWS), len(THICKNESSES)))
    for number, row in enumerate(ROWS):
        for i, thickness in enumerate(THICKNESSES):
            found = wide.intensities(depth(row.a, thickness, 200e3))[number].numpy()
            expected = _seen(patterns[number, i], wide)
            likeness[number, i] = np.corrcoef(found, expected)[0, 1]
    assert likeness[:, 1:].min() > 0.97
    # Thin foils of light or heavy crystals show little.
    assert likeness[:, 0].min() > 0.85 and np.median(likeness[:, 0]) > 0.95


def test_few_damped_waves_show_the_bright_fields_of_absorbing_crystals(wide):
    better = []
    for number, row in enumerate(ROWS):
        (pattern,) = lacbed(
            _crystal(row), (0, 0, 1), 200e3, [900.0], half_width=8 / row.a, pixels=32
        ).images[:, 0].float()  # fmt: skip
        tau, expected = depth(row.a, 900.0, 200e3), _seen(pattern, wide)
        damped, elastic = (
            np.corrcoef(wide.intensities(tau, absorbed)[number], expected)[0, 1]
            for absorbed in (tau, 0.0)
        )
        assert damped > 0.93
        better.append(damped > elastic)
        assert number in wide.nearest(pattern, tau, 2, tau)
    assert np.mean(better) > 0.8


def test_few_waves_show_how_bright_a_field_is(wide, patterns):
    for number in (1, 2, 7):
        tau = depth(ROWS[number].a, 333.0, 200e3)
        found, expected = wide.intensities(tau)[number], _seen(patterns[number, 1], wide)
        np.testing.assert_allclose(found, expected, atol=0.12)
        assert expected.std() > 0.1


def test_without_depth_hardly_anything_is_missing(wide):
    found = wide.intensities(0.0)
    assert found.shape == (len(ROWS), 64)
    # The waves' shares, squared: six waves are nearly all.
    assert found.mean() > 0.85 and found.max() < 1.02


def test_a_crystal_is_found_by_its_own_pattern_at_any_depth(wide, patterns):
    for number, row in enumerate(ROWS):
        for i, thickness in enumerate(THICKNESSES):
            tau = depth(row.a, thickness, 200e3)
            found = wide.nearest(patterns[number, i], tau, 2)
            assert number in found
            if thickness == 900.0:
                assert found[0] == number


@pytest.mark.parametrize("energy_ev", [80e3, 300e3])
def test_a_crystal_is_found_at_other_voltages(energy_ev, wide):
    """Its potential is stronger for faster electrons, which the atlas does not know."""
    for number, row in enumerate(ROWS):
        (pattern,) = _exact(row, [300.0], energy_ev)
        assert number in wide.nearest(pattern, depth(row.a, 300.0, energy_ev), 4)


def test_the_scale_and_the_offset_of_a_pattern_do_not_count(wide, patterns):
    pattern, tau = patterns[3, 0], depth(ROWS[3].a, THICKNESSES[0], 200e3)
    expected = wide.nearest(pattern, tau, 5)
    assert wide.nearest(1e4 * pattern + 300.0, tau, 5) == expected
    assert wide.nearest(1e-3 * pattern - 5e-4, tau, 5) == expected


def test_the_nearest_are_those_that_correlate_best(atlas):
    pattern = unfolded(torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0)))[0]
    seen = pattern[8:, 8:].flatten()[atlas.places]
    for tau in (0.2, 0.9):
        scores = np.corrcoef(seen, atlas.intensities(tau))[0, 1:]
        assert atlas.nearest(pattern, tau, 4) == np.argsort(-scores)[:4].tolist()


def test_of_a_pattern_without_mirrors_the_mean_of_quadrants_counts(atlas):
    pattern = torch.rand(16, 16, generator=torch.Generator().manual_seed(1))
    whole = sum(pattern.flip(axes) for axes in ((), (0,), (1,), (0, 1)))
    assert atlas.nearest(pattern, 0.4, 12) == atlas.nearest(whole, 0.4, 12)


def test_each_crystal_counts_once_and_no_more_than_there_are(wide, patterns):
    for count, wanted in ((0, 0), (1, 1), (5, 5), (12, 12), (50, 12)):
        found = wide.nearest(patterns[0, 0], 0.3, count)
        assert len(found) == len(set(found)) == wanted
        assert all(type(number) is int for number in found)


def _equal(one, other):
    return all(
        getattr(one, name).dtype == getattr(other, name).dtype
        and torch.equal(getattr(one, name), getattr(other, name))
        for name in TENSORS
    )  # fmt: skip


def test_some_crystals_are_an_atlas_of_their_own(atlas):
    kept = [1, 4, 11]
    some = atlas.only({atlas.names[i] for i in kept} | {"unknown (mp-77)"})
    rows = [ROWS[i] for i in kept]
    alone = atlas_of(
        [_crystal(row) for row in rows], [atlas.names[i] for i in kept], CONFIG, progress=False
    )
    assert some.names == alone.names == [atlas.names[i] for i in kept] and len(some) == 3
    assert _equal(some, alone)
    assert len(atlas) == len(atlas.names) == 12
    for number, row in enumerate(rows):
        crystal = some[number]
        assert crystal.numbers.tolist() == row.numbers and crystal.name == some.names[number]
        assert crystal.lattice[0, 0] == row.a
        np.testing.assert_allclose(crystal.positions, row.positions, atol=1e-6)
    # Whatever the whole atlas has computed before is not taken for what the part knows.
    torch.testing.assert_close(some.intensities(0.3), atlas.intensities(0.3)[kept])
    assert some.pixels == 16 and some.half_width == 2.0


def test_all_crystals_and_none_are_an_atlas_too(atlas, tmp_path):
    assert _equal(atlas.only(set(atlas.names)), atlas)
    for chosen in ((), {"unknown (mp-77)"}, {"mp-1"}):
        none = atlas.only(chosen)
        assert len(none) == 0 and none.names == [] and none.offsets.tolist() == [0]
        assert none.numbers.shape == (0,) and none.positions.shape == (0, 3)
        assert none.nearest(torch.eye(16), 0.3, 4) == []
        assert none.only(atlas.names).names == []
    assert len(Atlas.load(none.save(tmp_path / "none.safetensors"))) == 0


def test_what_is_saved_is_read(atlas, tmp_path):
    again = Atlas.load(atlas.save(tmp_path / "again.safetensors"))
    assert {field.name for field in fields(Atlas)} == {*TENSORS, "names", "metadata"}
    assert again.names == atlas.names and _equal(again, atlas)
    assert {**again.metadata, "sha256": ""} == {**atlas.metadata, "sha256": ""}
    assert (again.pixels, again.half_width, len(again)) == (16, 2.0, 12)


def test_an_atlas_travels(atlas):
    tau = torch.tensor(0.3).item()
    expected = atlas.intensities(tau)
    assert torch.equal(pickle.loads(pickle.dumps(atlas)).intensities(tau), expected)


def test_crystals_have_their_atoms(atlas):
    assert len(atlas) == 12
    for number, row in enumerate(ROWS):
        crystal = atlas[number]
        assert crystal.name == f"{row.formula} (mp-{number})"
        assert crystal.lattice.tolist() == [[row.a, 0, 0], [0, row.a, 0], [0, 0, row.a]]
        assert crystal.numbers.tolist() == row.numbers
        np.testing.assert_allclose(crystal.positions, row.positions, atol=1e-6)
    for beyond in (-1, 12):
        with pytest.raises(IndexError, match=f"crystal {beyond} of 12"):
            atlas[beyond]


def test_other_files_are_refused(inverse_file, atlas, tmp_path):
    with pytest.raises(WeightsError, match="tiny.safetensors does not hold an atlas"):
        Atlas.load(inverse_file)
    part = weights.save(tmp_path / "part.safetensors", {"a": atlas.a}, {"lacbed_atlas": ["x"]})
    with pytest.raises(WeightsError, match="part.safetensors does not hold an atlas"):
        Atlas.load(part)
    earlier = {name: getattr(atlas, name) for name in TENSORS[:-2]}
    old = weights.save(tmp_path / "old.safetensors", earlier, {"lacbed_atlas": atlas.names})
    with pytest.raises(WeightsError, match="without absorption, of an earlier version: make it"):
        Atlas.load(old)
    with pytest.raises(WeightsError, match="no weights file"):
        Atlas.load(tmp_path / "none.safetensors")


def test_the_shipped_atlas_knows_the_patterns_of_the_shipped_networks():
    atlas = Atlas.load(weights.default_name("lacbed-atlas"))
    assert (atlas.pixels, atlas.half_width) == (64, 8.0)
    assert len(set(atlas.names)) == len(atlas.names) == len(atlas) > 1000
    assert atlas.offsets[0] == 0 and (atlas.offsets.diff() > 0).all()
    assert atlas.offsets[-1] == len(atlas.numbers) == len(atlas.positions)
    assert len(atlas.levels) == len(atlas.shares) == len(atlas)
    assert atlas.places.min() >= 0 and atlas.places.max() < 32**2
