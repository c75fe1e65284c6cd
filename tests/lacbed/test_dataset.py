"""What is read of a library, and a split in which nothing is shared."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from scipy import constants
from tiny_lacbed import CONFIG, ROWS

from py4dstem_ml.lacbed import library
from py4dstem_ml.lacbed.bragg_lines import unfolded
from py4dstem_ml.lacbed.bright_field import BrightField, coefficients_of
from py4dstem_ml.lacbed.dataset import LacbedData, split_materials
from py4dstem_ml.lacbed.scores import likeness
from py4dstem_ml.physics.structures import prototype_class


def test_bright_fields_are_those_of_the_shards(data, shards):
    assert len(data) == len(ROWS) and data.thicknesses == (200.0, 600.0)
    assert (data.energy_ev, data.half_width) == (200e3, 2.0)
    with h5py.File(shards[0]) as file:
        wanted = library.read_pictures(file, "patterns")[:, :, 0]
        potential = library.read_pictures(file, "potential")
    np.testing.assert_allclose(unfolded(data.patterns[:6].float()), wanted, atol=2e-3)
    np.testing.assert_array_equal(data.potential[:6], potential)
    assert [ROWS[int(name[3:])].formula for name in data.material_id] == data.formula.tolist()


def test_pictures_of_few_beams_are_read_beside_them(data):
    some = np.array([2, 5])
    few_beams = BrightField(16, 2.0, cell_pixels=16)
    for crystal, u, tau in zip(
        some, data.potential[some] * data.strength(some)[:, None, None], data.tau(some),
        strict=True,
    ):  # fmt: skip
        expected = few_beams(coefficients_of(u), tau)
        torch.testing.assert_close(data.few_beams[crystal].float(), expected, atol=2e-3, rtol=0)
    assert likeness(data.few_beams.float(), data.patterns.float()).mean() > 0.9


def test_natural_units_follow_from_the_constants_of_nature(data):
    e, m, c, h = constants.e, constants.m_e, constants.c, constants.h
    gamma = 1 + e * 200e3 / (m * c**2)
    wavelength = h / (m * c * (gamma**2 - 1) ** 0.5)
    some = np.array([0, 3])
    a = data.a[some] * 1e-10
    thickness = np.array([200.0, 600.0]) * 1e-10
    np.testing.assert_allclose(data.tau(some), wavelength * thickness / a[:, None] ** 2, rtol=1e-5)
    # u = 2 m e gamma V a^2 / h^2, V the projected potential over a.
    np.testing.assert_allclose(data.strength(some), 2 * m * e * gamma * 1e-10 * a / h**2, rtol=1e-5)


def test_several_folders_are_one_library(small_library, data):
    twice = LacbedData.read([small_library, small_library], progress=False)
    assert len(twice) == 2 * len(data)


def test_folders_without_shards_are_refused(small_library, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no shard lacbed-.* in {tmp_path}"):
        LacbedData.read([small_library, tmp_path])


def test_settings_are_not_mixed(structures, small_library, tmp_path):
    other = replace(CONFIG, thicknesses=(200.0, 700.0), crystals_per_shard=1)
    library.simulate(structures, tmp_path, shards=1, config=other, progress=False)
    with pytest.raises(ValueError, match="different thicknesses"):
        LacbedData.read([small_library, tmp_path], progress=False)


def test_every_crystal_comes_to_its_part(data):
    parts = split_materials(data.formula, data.prototype)
    for name in ("prototype", "formula", "validation", "train"):
        wanted = {f"mp-{i}" for i, row in enumerate(ROWS) if row.part == name}
        assert set(data.material_id[parts[name]]) == wanted and wanted


@pytest.fixture(scope="module")
def many():
    rng = np.random.default_rng(0)
    formula = np.array([f"A{i}" for i in rng.integers(1500, size=6000)])
    letters = rng.choice(list("abcd"), 6000)
    prototype = [f"AB{i}|225|4{x},8c" for i, x in zip(rng.integers(300, size=6000), letters,
                                                     strict=True)]  # fmt: skip
    return formula, np.array(prototype)


def test_parts_share_neither_crystals_nor_names(many):
    formula, prototype = many
    parts = split_materials(formula, prototype)
    assert len(np.concatenate(list(parts.values()))) == len(
        np.unique(np.concatenate(list(parts.values())))
    )
    classes = np.array([prototype_class(name) for name in prototype])
    for held_out in ("prototype", "validation"):
        assert not set(formula[parts[held_out]]) & set(formula[parts["train"]])
        assert not set(classes[parts[held_out]]) & set(classes[parts["train"]])
        assert not set(classes[parts[held_out]]) & set(classes[parts["formula"]])
    assert not set(classes[parts["prototype"]]) & set(classes[parts["validation"]])
    assert not set(formula[parts["formula"]]) & set(formula[parts["train"]])
    assert set(classes[parts["formula"]]) <= set(classes[parts["train"]])


def test_shares_of_the_parts(many):
    _, prototype = many
    parts = split_materials(np.array([f"A{i}" for i in range(len(prototype))]), prototype)
    shares = {name: len(numbers) / len(prototype) for name, numbers in parts.items()}
    assert shares["prototype"] == pytest.approx(0.2, abs=0.05)
    assert shares["validation"] == pytest.approx(0.06, abs=0.03)
    assert shares["formula"] == pytest.approx(0.05 * 0.74, abs=0.01)
    assert sum(shares.values()) == pytest.approx(1.0)


def test_random_cells_are_all_trained_on(many):
    formula, prototype = (np.concatenate([x, [f"random-0-{i}" for i in range(99)]]) for x in many)
    parts = split_materials(formula, prototype)
    assert set(range(6000, 6099)) <= set(parts["train"])
    assert parts["prototype"].tolist() == split_materials(*many)["prototype"].tolist()


def test_what_is_held_out_stays_so_when_crystals_are_added(many):
    formula, prototype = many
    few, every = (split_materials(formula[:n], prototype[:n]) for n in (2000, 6000))
    for name in ("prototype", "validation"):
        assert every[name][every[name] < 2000].tolist() == few[name].tolist()
    trained = every["train"][every["train"] < 2000]
    assert set(trained) <= set(few["train"])
