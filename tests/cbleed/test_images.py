"""Patterns on a screen, measured images brought there, and what a microscope does to them."""

import numpy as np
import pytest
import torch
from tiny_cbleed import SCREEN

from py4dstem_ml.cbleed.augment import Disturbance, counted, disturbed
from py4dstem_ml.cbleed.images import Screen, normalised, resampled
from py4dstem_ml.cbleed.library import read_shard

STILL = Disturbance(clean=1.0, blur=0.0, shift=0.0, rotation_deg=0.0, scale=0.0)


def test_a_screen_shows_all_disks_and_little_more(tiny_library):
    disks, _ = read_shard(sorted(tiny_library.iterdir())[0])
    drawn = Screen().drawn(disks)
    np.testing.assert_allclose(drawn.sum((1, 2)), 1, rtol=1e-5)
    whole = disks.pattern((96, 96), Screen().pixel_size)
    inside = whole[:, 16:80, 16:80]
    np.testing.assert_allclose(inside.sum((1, 2)), whole.sum((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(drawn, inside / whole.sum((1, 2), keepdims=True), rtol=1e-4)
    assert whole[:, 18:78, 18:78].sum() < 0.999 * whole.sum()


def test_brightness_and_dark_current_do_not_count(data):
    images = data.images[:4]
    seen = normalised(images)
    assert 0.2 < seen.max() <= 1
    torch.testing.assert_close(normalised(1e6 * images), seen)
    torch.testing.assert_close(normalised(images - 1e-9 * (images == 0)), seen)


def gaussian(shape, centre, width):
    rows, cols = np.indices(shape)
    return np.exp(-((rows - centre[0]) ** 2 + (cols - centre[1]) ** 2) / (2 * width**2))


def middle_of(image):
    rows, cols = np.indices(image.shape)
    return np.array([(rows * image).sum(), (cols * image).sum()]) / image.sum()


def test_measured_images_come_to_the_screen():
    # Spots at x = 1, y = 0.5 rad/Å of a camera with smaller pixels, moved and turned.
    pixel, centre, angle = 0.05, (70.0, 62.0), 20.0
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    place = np.array([c * 1.0 - s * 0.5, s * 1.0 + c * 0.5]) / pixel + centre
    image = gaussian((130, 140), place, 4.0)
    found = resampled(np.stack([image, 2 * image]), SCREEN, pixel, centre, angle)
    assert found.shape == (2, 32, 32)
    np.testing.assert_allclose(found[1], 2 * found[0], rtol=1e-5, atol=1e-20)
    wanted = np.array([1.0, 0.5]) / SCREEN.pixel_size + 15.5
    np.testing.assert_allclose(middle_of(found[0]), wanted, atol=0.02)


def test_what_is_on_the_screen_stays(data):
    images = data.images[:2].numpy()
    found = resampled(images, SCREEN, SCREEN.pixel_size)
    np.testing.assert_allclose(found, images, rtol=1e-5, atol=1e-9)


def test_a_camera_of_finer_pixels_is_averaged(data):
    image = data.images[3].numpy()
    fine = np.kron(image, np.ones((8, 8)))
    found = resampled(fine, SCREEN, SCREEN.pixel_size / 8)
    # Between pixels that differ the finer ones are interpolated: a sixteenth of each step.
    assert np.abs(found - image).sum() < 0.1 * image.sum()
    assert found.sum() == pytest.approx(image.sum(), rel=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pixel_size": 0.0}, "above 0"), ({"pixel_size": np.inf}, "above 0"),
        ({"centre": (np.nan, 10)}, "finite"), ({"rotation_deg": np.inf}, "finite"),
        ({"centre": (900, 900)}, "does not reach"), ({"pixel_size": 1e-3}, "does not reach"),
    ],
)  # fmt: skip
def test_images_beside_the_screen_are_refused(options, message):
    with pytest.raises(ValueError, match=message) as error:
        resampled(np.ones((40, 40)), SCREEN, **{"pixel_size": 0.127, **options})
    assert "\n" not in str(error.value)


def test_electrons_are_counted():
    generator = torch.Generator().manual_seed(0)
    images = torch.full((1, 64, 64), 1 / 4096)
    found = counted(images, 4e5, generator)
    assert (found == found.round()).all()
    assert float(found.mean()) == pytest.approx(97.7, rel=0.01)
    assert float(found.var()) == pytest.approx(97.7, rel=0.1)


def test_nothing_done_changes_nothing(data):
    generator = torch.Generator().manual_seed(0)
    torch.testing.assert_close(disturbed(data.images[:3], STILL, generator), data.images[:3])


@pytest.mark.parametrize(
    ("name", "value"), [("shift", 0.5), ("rotation_deg", 2.0), ("scale", 0.02), ("blur", 1.0)]
)
def test_each_disturbance_moves_patterns_as_far_as_it_says(name, value):
    spot = gaussian((32, 32), (15.5, 24.0), 2.0)
    images = torch.from_numpy(np.repeat(spot[None] / spot.sum(), 200, axis=0)).float()
    options = {**vars(STILL), name: value}
    found = disturbed(images, Disturbance(**options), torch.Generator().manual_seed(1)).numpy()
    np.testing.assert_allclose(found.sum((1, 2)), 1, atol=0.15)
    moved = np.array([middle_of(one) for one in found]) - [15.5, 24.0]
    spread = moved.std(0)
    if name == "blur":
        widths = np.array([np.sqrt((one * (np.arange(32)[:, None] - 15.5) ** 2).sum() - 4)
                           for one in np.maximum(found, 1e-12)])  # fmt: skip
        assert 0.8 < np.nanmax(widths) < 1.1 and np.nanmin(widths) < 0.4
        return
    arm = 24.0 - 15.5
    wanted = {
        "shift": (0.5, 0.5),
        "rotation_deg": (arm * np.radians(2), 0),
        "scale": (0, arm * 0.02),
    }
    np.testing.assert_allclose(spread, wanted[name], rtol=0.2, atol=0.02)


@pytest.mark.parametrize("options", [{"counts": (0, 1e5)}, {"counts": (1e6, 1e5)}, {"blur": -1.0}])
def test_impossible_disturbances_are_refused(options):
    with pytest.raises(ValueError):
        Disturbance(**options)


@pytest.mark.parametrize("options", [{"pixels": 60}, {"pixels": 8}, {"pixel_size": 0.0}])
def test_impossible_screens_are_refused(options):
    with pytest.raises(ValueError):
        Screen(**options)
