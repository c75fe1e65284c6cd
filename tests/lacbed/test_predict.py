"""From potentials to patterns and back: what comes out, and what is refused."""

import logging
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_lacbed import FCC, saved

from py4dstem_ml import Crystal, LacbedGenerator, PotentialPredictor, WeightsError
from py4dstem_ml.lacbed.atlas import Atlas
from py4dstem_ml.lacbed.bragg_lines import unfolded
from py4dstem_ml.lacbed.natural import depth, strength_per_volt
from py4dstem_ml.lacbed.scores import at_best_origin, likeness
from py4dstem_ml.physics.electrons import wavelength
from py4dstem_ml.physics.projection import projected_potential

AT = {"a": 4.05, "thickness": 400.0}
#: Where the first of the library's patterns of aluminium is.
SEEN = {"a": 4.05, "thickness": 200.0, "absorption": False}


@pytest.fixture(scope="module")
def generator(forward_file):
    return LacbedGenerator(forward_file, device="cpu")


@pytest.fixture(scope="module")
def predictor(inverse_file):
    return PotentialPredictor(inverse_file, atlas=False, device="cpu")


@pytest.fixture(scope="module")
def explainer(inverse_file, atlas_file):
    """With all crystals of the table, aluminium among them."""
    return PotentialPredictor(inverse_file, atlas=atlas_file, device="cpu")


@pytest.fixture(scope="module")
def aluminium(data):
    """Its patterns at 200 and 600 Å, as the library has them."""
    (row,) = np.flatnonzero(data.material_id == "mp-1")
    return unfolded(data.patterns[row].float()).numpy()


@pytest.fixture(scope="module")
def potential():
    return projected_potential(Crystal.cubic(4.05, [13] * 4, FCC), 16).potential


@pytest.fixture(scope="module")
def pattern():
    return np.random.default_rng(0).random((16, 16))


def test_a_pattern_is_the_networks(generator, potential):
    found = generator(potential, **AT)
    u = torch.from_numpy(potential).float() * strength_per_volt(4.05, 200e3)
    with torch.no_grad():
        expected = generator.loaded(u[None], torch.tensor([depth(4.05, 400.0, 200e3)]))[0]
    assert found.shape == (16, 16) and found.dtype == np.float32 and found.min() >= 0
    np.testing.assert_allclose(found, expected.clamp(min=0), atol=3e-4)


def test_a_potential_is_the_networks(predictor, pattern):
    found = predictor(pattern, **AT)
    with torch.no_grad():
        expected = predictor.loaded(
            torch.from_numpy(pattern).float()[None], torch.tensor([depth(4.05, 400.0, 200e3)])
        )[0]
    assert found.shape == (16, 16) and found.dtype == np.float32
    expected = expected / strength_per_volt(4.05, 200e3)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_mean_and_the_origin_of_a_potential_do_not_count(generator, potential):
    found = generator(potential, **AT)
    np.testing.assert_allclose(generator(potential + 50.0, **AT), found, atol=1e-4)
    np.testing.assert_allclose(generator(np.roll(potential, 5, 0), **AT), found, atol=1e-4)
    assert np.abs(generator(2 * potential, **AT) - found).max() > 1e-3


def test_the_scale_and_the_offset_of_a_pattern_do_not_count(predictor, pattern):
    found = predictor(pattern, **AT)
    counts = np.rint(1000 * pattern).astype(np.uint16)
    np.testing.assert_allclose(predictor(counts, **AT), predictor(counts / 7 + 3, **AT), atol=1e-3)
    np.testing.assert_allclose(predictor(counts, **AT), found, atol=0.02 * np.abs(found).max())


@pytest.mark.parametrize("name", ["generator", "predictor"])
def test_stacks_are_as_each_by_itself(name, request, monkeypatch):
    call = request.getfixturevalue(name)
    monkeypatch.setattr("py4dstem_ml.lacbed.predict._AT_ONCE", 4)
    stack = 100.0 * np.random.default_rng(1).random((2, 3, 16, 16))
    found = call(stack, **AT)
    assert found.shape == (2, 3, 16, 16)
    for place in np.ndindex(2, 3):
        np.testing.assert_allclose(found[place], call(stack[place], **AT), atol=1e-3, rtol=1e-3)


def test_equal_depths_at_other_voltages_are_equal_patterns(generator, potential):
    thickness = 400.0 * wavelength(200e3) / wavelength(80e3)
    scale = strength_per_volt(4.05, 200e3) / strength_per_volt(4.05, 80e3)
    found = generator(scale * potential, a=4.05, thickness=thickness, energy_ev=80e3)
    np.testing.assert_allclose(found, generator(potential, **AT), atol=1e-4)


def test_finer_patterns_are_averaged_and_wider_ones_cut(predictor):
    rng = np.random.default_rng(0)
    coarse = rng.random((16, 16)).astype(np.float32)
    fine = np.kron(coarse, np.ones((3, 3), np.float32))
    expected = predictor(coarse, **AT)
    np.testing.assert_allclose(predictor(fine, **AT), expected, atol=1e-3, rtol=1e-3)
    size = 4.0 / (16 * 4.05)
    wide = rng.random((24, 24))
    wide[4:-4, 4:-4] = coarse
    found = predictor(wide, **AT, pixel_size=size)
    np.testing.assert_allclose(found, expected, atol=1e-3, rtol=1e-3)
    assert np.abs(predictor(wide, **AT) - expected).max() > 1e-2 * np.abs(expected).max()


def test_spread_is_of_what_is_left_out(predictor, pattern):
    torch.manual_seed(0)
    found, spread = predictor.with_spread(np.stack([pattern, pattern.T]), **AT, draws=8)
    assert found.shape == spread.shape == (2, 16, 16)
    np.testing.assert_allclose(found[0], predictor(pattern, **AT), atol=1e-3, rtol=1e-3)
    assert spread.min() >= 0 and spread.mean() > 1e-3 * found.std()
    assert not any(module.training for module in predictor.loaded.modules())


def test_a_spread_is_the_standard_deviation_of_the_draws(predictor, pattern, monkeypatch):
    unit = strength_per_volt(4.05, 200e3)
    middle = np.random.default_rng(2).normal(size=(1, 16, 16)).astype(np.float32)
    # Draws scale what is read, and lie at other origins.
    answers = iter([middle, *(np.roll(s * middle, (3, 5), (1, 2)) for s in (0.9, 1.0, 1.3))])
    monkeypatch.setattr(PotentialPredictor, "_run", lambda *_: next(answers))
    found, spread = predictor.with_spread(pattern, **AT, draws=3)
    np.testing.assert_allclose(found, middle[0] / unit, rtol=1e-5)
    expected = np.std([0.9, 1.0, 1.3], ddof=1) * np.abs(middle[0]) / unit
    np.testing.assert_allclose(spread, expected, rtol=1e-3, atol=1e-4 / unit)


def test_a_spread_needs_dropout_and_draws(predictor, pattern, tmp_path):
    with pytest.raises(ValueError, match="two draws at least, not 1"):
        predictor.with_spread(pattern, **AT, draws=1)
    other = PotentialPredictor(saved("pix2pix.inverse.tiny", tmp_path), atlas=False, device="cpu")
    with pytest.raises(ValueError, match="has no dropout"):
        other.with_spread(pattern, **AT)


@pytest.mark.parametrize("name", ["generator", "predictor"])
@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.ones(16), "square picture"), (np.ones((16, 15)), r"shape \(16, 15\)"),
        (np.eye(4), "square picture"), (np.ones((16, 16)), "is constant"),
        (np.zeros((16, 16), np.uint8), "is constant"),
        (np.stack([np.eye(16), np.full((16, 16), 1e5)]), "is constant"),
        (np.where(np.eye(16) > 0, np.nan, 1.0), "NaN or infinite"),
        (np.where(np.eye(16) > 0, np.inf, 1.0), "NaN or infinite"),
        (np.eye(16) * 1j, "real numbers, not complex"), (np.full((16, 16), "a"), "real numbers"),
    ],
)  # fmt: skip
def test_bad_pictures_are_refused(name, picture, message, request):
    with pytest.raises(ValueError, match=message) as error:
        request.getfixturevalue(name)(picture, **AT)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["generator", "predictor"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": 3.0}, "a from 3.5 to 6 Å, not 3 Å"), ({"a": 0.4}, "not 0.4 Å"),
        ({"a": np.nan}, "not nan"), ({"thickness": 900.0}, "foils from 200 to 600 Å at 200 kV"),
        ({"thickness": 50}, "not 50 Å"), ({"thickness": -400.0}, "not -400"),
        ({"thickness": np.nan}, "not nan"), ({"energy_ev": 200}, "60000 to 400000 V, not 200"),
        ({"energy_ev": 1e6}, "not 1e"), ({"energy_ev": np.nan}, "not nan"),
        ({"energy_ev": 300e3, "thickness": 240.0}, "from 255 to 764 Å at 300 kV"),
    ],
)  # fmt: skip
def test_what_was_never_trained_on_is_refused(name, change, message, request):
    with pytest.raises(ValueError, match=message) as error:
        request.getfixturevalue(name)(np.eye(16), **{**AT, **change})
    assert "\n" not in str(error.value)


def test_a_little_beyond_the_thicknesses_is_allowed(generator, potential):
    for thickness in (191.0, 629.0):
        assert generator(potential, a=4.05, thickness=thickness).shape == (16, 16)


def test_potentials_of_another_size_are_refused(generator):
    with pytest.raises(ValueError, match=r"must have 16 x 16 pixels, not 64: projected_potential"):
        generator(np.eye(64), **AT)


def test_patterns_must_reach_far_enough(predictor, pattern):
    size = 4.0 / (16 * 4.05)
    predictor(pattern, **AT, pixel_size=0.98 * size)
    with pytest.raises(ValueError, match="reaches 0.444 1/Å from the axis, but 0.494 1"):
        predictor(pattern, **AT, pixel_size=0.9 * size)
    for bad in (0.0, -size, np.nan, np.inf):
        with pytest.raises(ValueError, match="pixel_size is in 1/Å and above 0"):
            predictor(pattern, **AT, pixel_size=bad)


def test_an_empty_stack_is_an_empty_answer(generator, predictor):
    for call in (generator, predictor):
        assert call(np.zeros((0, 16, 16)), **AT).shape == (0, 16, 16)
    assert predictor(np.zeros((0, 40, 40)), **AT).shape == (0, 16, 16)


def test_in_threads_and_pickled(predictor, pattern, inverse_file):
    expected = predictor(pattern, **AT)
    again = pickle.loads(pickle.dumps(predictor))
    np.testing.assert_allclose(again(pattern, **AT), expected, rtol=1e-5)
    fresh = PotentialPredictor(inverse_file, atlas=False, device="cpu")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda picture: fresh(picture, **AT), [pattern] * 8))
    for one in found:
        np.testing.assert_allclose(one, expected, rtol=1e-5)


def test_weights_are_read_when_first_needed(tmp_path, pattern):
    late = PotentialPredictor(tmp_path / "none.safetensors", atlas=False, device="cpu")
    with pytest.raises(WeightsError, match="none.safetensors"):
        late(pattern, **AT)


def test_networks_of_the_other_direction_are_refused(forward_file, pattern):
    with pytest.raises(WeightsError, match="of the forward direction, not inverse"):
        PotentialPredictor(forward_file, atlas=False, device="cpu")(pattern, **AT)


def test_default_weights_are_those_of_the_direction(monkeypatch, forward_file, potential):
    asked = []
    monkeypatch.setattr(
        "py4dstem_ml.weights.default_name",
        lambda system: asked.append(system) or forward_file,
    )
    LacbedGenerator.pretrained(device="cpu")(potential, **AT)
    assert asked == ["lacbed"]


def test_sizes_are_the_networks(predictor):
    assert (predictor.pixels, predictor.half_width) == (16, 2.0)


def _likeness(found, wanted):
    found, wanted = (torch.from_numpy(x).float()[None] for x in (found, wanted))
    return float(likeness(found, at_best_origin(wanted, found)))


@pytest.mark.parametrize(("number", "thickness"), [(0, 200.0), (1, 600.0)])
def test_the_pattern_of_a_known_crystal_gives_that_crystals_potential(
    number, thickness, explainer, predictor, aluminium, potential
):
    at = {"a": 4.05, "thickness": thickness}
    found = explainer(aluminium[number], **at)
    assert found.shape == (16, 16) and found.dtype == np.float32
    assert _likeness(found, potential) > 0.99
    assert np.ptp(found) == pytest.approx(np.ptp(potential), rel=0.01)
    assert _likeness(predictor(aluminium[number], **at), potential) < 0.95


def test_an_explanation_tells_what_the_call_returns(explainer, aluminium):
    told = explainer.explained(aluminium[0], **SEEN)
    np.testing.assert_array_equal(told.potential, explainer(aluminium[0], **SEEN))
    assert told.crystal.name.endswith("(mp-1)")
    assert told.likeness > 0.99 and told.pattern.shape == (16, 16)


def test_absorption_counts_where_it_is_told(explainer, aluminium):
    """The pattern has none: with absorption, which is the default, it is explained less well."""
    told, damped = (
        explainer.explained(aluminium[1], a=4.05, thickness=600.0, absorption=on)
        for on in (False, True)
    )
    assert told.likeness > damped.likeness + 1e-4
    default = explainer.explained(aluminium[1], a=4.05, thickness=600.0)
    assert default.likeness == damped.likeness
    np.testing.assert_array_equal(default.pattern, damped.pattern)
    assert damped.pattern.mean() < told.pattern.mean()


def test_explanations_of_a_stack_are_those_of_each(explainer, aluminium):
    # Of patterns that nothing explains, rounding decides what is the most alike.
    stack = np.stack([aluminium, aluminium[::-1] ** 0.9])
    found = explainer(stack, **SEEN)
    assert found.shape == (2, 2, 16, 16) and found.dtype == np.float32
    for place in np.ndindex(2, 2):
        one = explainer(stack[place], **SEEN)
        np.testing.assert_allclose(found[place], one, atol=1e-3 * np.ptp(one))


def test_an_empty_stack_has_no_explanations(explainer):
    found = explainer(np.zeros((0, 16, 16)), **AT)
    assert found.shape == (0, 16, 16) and found.dtype == np.float32


def test_one_pattern_is_explained_at_a_time_and_with_an_atlas(explainer, predictor, aluminium):
    for stack in (aluminium, aluminium[:1]):
        with pytest.raises(ValueError, match="one pattern is explained at a time"):
            explainer.explained(stack, **AT)
    with pytest.raises(ValueError, match="an explanation needs the atlas"):
        predictor.explained(aluminium[0], **SEEN)
    with pytest.raises(ValueError, match="is constant"):
        explainer.explained(np.ones((16, 16)), **AT)


@pytest.mark.parametrize(
    ("pixels", "half_width", "message"),
    [(16, 4.0, "16 pixels that reach 4 a"), (32, 2.0, "32 pixels that reach 2 a")],
)
def test_an_atlas_of_other_patterns_is_refused(
    pixels, half_width, message, inverse_file, atlas_file, pattern, tmp_path
):
    atlas = Atlas.load(atlas_file)
    said = {**atlas.metadata, "pixels": pixels, "half_width": half_width}
    other = replace(atlas, metadata=said).save(tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=f"{message}.*the network reads 16 and 2"):
        PotentialPredictor(inverse_file, atlas=other, device="cpu")(pattern, **AT)


def test_a_network_is_no_atlas(inverse_file, pattern):
    with pytest.raises(WeightsError, match="does not hold an atlas"):
        PotentialPredictor(inverse_file, atlas=inverse_file, device="cpu")(pattern, **AT)


def test_the_default_atlas_is_that_of_lacbed(monkeypatch, inverse_file, atlas_file, aluminium):
    asked = []
    monkeypatch.setattr(
        "py4dstem_ml.weights.default_name", lambda system: asked.append(system) or atlas_file
    )
    found = PotentialPredictor(inverse_file, device="cpu").explained(aluminium[0], **SEEN)
    assert asked == ["lacbed-atlas"] and found.crystal is not None


def test_the_network_alone_needs_no_atlas(tmp_path, inverse_file, predictor, pattern):
    absent = tmp_path / "none.safetensors"
    late = PotentialPredictor(inverse_file, atlas=absent, device="cpu")
    np.testing.assert_allclose(
        late.with_spread(pattern, **AT, draws=2)[0], predictor(pattern, **AT), rtol=1e-4, atol=1e-3
    )
    with pytest.raises(WeightsError, match="none.safetensors"):
        late(pattern, **AT)


def test_an_atlas_is_kept_but_does_not_travel(explainer, predictor, aluminium, inverse_file,
                                              atlas_file):  # fmt: skip
    expected = explainer(aluminium[0], **SEEN)
    fresh = PotentialPredictor(inverse_file, atlas=atlas_file, device="cpu")
    parcel = pickle.dumps(explainer)
    assert len(parcel) == len(pickle.dumps(fresh))
    np.testing.assert_allclose(pickle.loads(parcel)(aluminium[0], **SEEN), expected, rtol=1e-5)
    alone = pickle.loads(pickle.dumps(predictor))
    with pytest.raises(ValueError, match="needs the atlas"):
        alone.explained(aluminium[0], **SEEN)


def test_explanations_in_threads(inverse_file, atlas_file, explainer, aluminium):
    expected = explainer(aluminium[0], **SEEN)
    fresh = PotentialPredictor(inverse_file, atlas=atlas_file, device="cpu")
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda picture: fresh(picture, **SEEN), [aluminium[0]] * 3))
    for one in found:
        np.testing.assert_allclose(one, expected, rtol=1e-5)


@pytest.mark.parametrize("unit", [1e-20, 1e-3, 1e25])
def test_patterns_of_any_unit_are_the_same(unit, explainer, predictor, aluminium, pattern):
    for call, picture, at in (
        (predictor, pattern, AT), (explainer, aluminium[0], SEEN), (explainer, pattern, AT),
    ):  # fmt: skip
        expected, found = call(picture, **at), call(unit * picture.astype(np.float64), **at)
        np.testing.assert_allclose(found, expected, atol=1e-3 * np.ptp(expected))
    one, other = (explainer.explained(x, **SEEN) for x in (aluminium[0], unit * aluminium[0]))
    assert other.likeness == pytest.approx(one.likeness, abs=1e-5)
    assert other.crystal.name == one.crystal.name
    spreads = [predictor.with_spread(x, **AT, draws=3)[1] for x in (pattern, unit * pattern)]
    np.testing.assert_allclose(*spreads, atol=1e-2 * spreads[0].max())


def test_patterns_of_a_stack_may_have_units_of_their_own(predictor, pattern):
    found = predictor(np.stack([pattern, 1e20 * pattern, 1e-20 * pattern]), **AT)
    for one in found[1:]:
        np.testing.assert_allclose(one, found[0], atol=1e-3 * np.ptp(found[0]))


def test_likeness_is_of_the_whole_pattern(explainer, aluminium):
    oblique = aluminium[0] * np.linspace(0.4, 1.6, 16)[:, None]
    told = explainer.explained(oblique, **SEEN)
    correlation = np.corrcoef(told.pattern.ravel(), oblique.ravel())[0, 1]
    assert told.likeness == pytest.approx((1 + correlation) / 2, abs=1e-5)
    assert told.likeness < 0.99


def test_patterns_that_nothing_explains_are_warned_of(explainer, predictor, aluminium, pattern,
                                                      caplog):  # fmt: skip
    with caplog.at_level(logging.WARNING):
        assert explainer.explained(aluminium[0], **SEEN).likeness > 0.8
        predictor(pattern, **AT)
        assert not caplog.text
        told = explainer.explained(pattern, **AT)
    assert told.likeness < 0.8
    assert f"nothing explains the pattern well, R = {told.likeness:.2f}" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        explainer(np.stack([aluminium[0], pattern, pattern.T]), **SEEN)
    assert len(caplog.records) == 2


@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_potentials_of_another_unit_are_refused(generator, scale):
    with pytest.raises(ValueError, match=r"varies by .* V·Å, those of crystals by 10 to 500"):
        generator(scale * np.random.default_rng(0).random((16, 16)), **AT)


@pytest.mark.parametrize("name", ["generator", "predictor"])
def test_masked_pictures_are_refused(name, request):
    call, picture = request.getfixturevalue(name), 100.0 * np.random.default_rng(0).random((16, 16))
    hidden = np.ma.masked_greater(picture, 0.9)
    for masked in (hidden, np.ma.stack([np.ma.array(picture), hidden])):
        with pytest.raises(ValueError, match="is masked: replace what is hidden") as error:
            call(masked, **AT)
        assert "\n" not in str(error.value)
    # Nothing is hidden of this one.
    np.testing.assert_array_equal(call(np.ma.array(picture), **AT), call(picture, **AT))


@pytest.mark.parametrize("name", ["generator", "predictor"])
@pytest.mark.parametrize("key", ["a", "thickness", "energy_ev"])
def test_conditions_are_one_number_each(name, key, request):
    call, picture = request.getfixturevalue(name), 100.0 * np.eye(16)
    given = {**AT, "energy_ev": 200e3}
    for several in ([given[key]] * 2, np.array([given[key]]), (given[key],)):
        with pytest.raises(ValueError, match="are one number each"):
            call(picture, **{**given, key: several})
    one = call(picture, **{**given, key: np.array(given[key])})
    np.testing.assert_allclose(one, call(picture, **given), rtol=1e-5)


@pytest.mark.parametrize("factor", [4.5, 1e3, 1e10])
def test_pixels_must_be_small_enough(factor, predictor, pattern):
    size = 4.0 / (16 * 4.05)
    wide = np.random.default_rng(3).random((64, 64))
    assert predictor(wide, **AT, pixel_size=3.9 * size).shape == (16, 16)
    with pytest.raises(ValueError, match=r"pixels of the pattern lie within 2 a\*: is pixel_size"):
        predictor(wide, **AT, pixel_size=factor * size)
    with pytest.raises(ValueError, match="is pixel_size, .* in 1/Å"):
        predictor.with_spread(wide, **AT, pixel_size=factor * size)


def test_equal_seeds_are_equal_spreads(predictor, pattern):
    torch.manual_seed(3)
    _, one = predictor.with_spread(pattern, **AT, draws=4)
    torch.manual_seed(4)
    before = torch.get_rng_state()
    _, same = predictor.with_spread(pattern, **AT, draws=4)
    _, other = predictor.with_spread(pattern, **AT, draws=4, seed=1)
    np.testing.assert_array_equal(one, same)
    assert np.abs(other - one).max() > 1e-3 * one.max()
    # Nobody else's random numbers are drawn.
    assert torch.equal(torch.get_rng_state(), before)
