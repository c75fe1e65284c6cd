"""What pictures are refused, and how they come onto other pixels."""

import numpy as np
import pytest

from py4dstem_ml.lacbed.pictures import on_directions, resampled, sound_pictures


def test_resampling_keeps_what_is_linear():
    x = np.arange(30) - 14.5
    plane = (2.0 * x[:, None] - x + 3.0).astype(np.float32)[None]
    for pixels, wanted in ((16, 0.7), (7, 2.3), (29, 1.0)):
        y = (np.arange(pixels) - 0.5 * (pixels - 1)) * wanted
        found = resampled(plane, 1.0, pixels, wanted)[0]
        np.testing.assert_allclose(found, 2.0 * y[:, None] - y + 3.0, atol=1e-4)


@pytest.mark.parametrize("unit", [1e-30, 1.0, 1e30])
def test_patterns_have_deviation_one_whatever_their_unit(unit):
    given = np.random.default_rng(0).random((2, 16, 16)).astype(np.float32)
    found = on_directions(np.float32(unit) * given, a=4.0, pixels=16, half_width=2.0)
    np.testing.assert_allclose(found.std((1, 2)), 1.0, rtol=1e-4)
    np.testing.assert_allclose(found, given / given.std((1, 2), keepdims=True), rtol=1e-4)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.ones((16, 12)), "square picture"), (np.eye(7), "square picture"),
        (np.eye(16) * 1j, "real numbers"), (np.full((16, 16), np.nan), "NaN"),
        (np.ones((16, 16)), "the scan is constant"),
        (np.ma.masked_less(np.eye(16), 0.5), "the scan is masked"),
    ],
)  # fmt: skip
def test_what_holds_nothing_is_refused(picture, message):
    with pytest.raises(ValueError, match=message) as error:
        sound_pictures(picture, "scan")
    assert "\n" not in str(error.value)


def test_a_camera_of_twice_as_many_pixels_shows_the_same_points():
    """Means over four pixels would not: patterns vary within a pixel."""
    x = (np.arange(64) - 31.5) / 64
    fine = (np.arange(128) - 63.5) / 128
    wave = lambda at: np.cos(2 * np.pi * 11 * at)[:, None] * np.cos(2 * np.pi * 7 * at)  # noqa: E731
    found = resampled(wave(fine)[None].astype(np.float32), 0.5, 64, 1.0)[0]
    inner = slice(4, -4)
    np.testing.assert_allclose(found[inner, inner], wave(x)[inner, inner], atol=0.03)


def test_a_slice_is_told_to_be_given_as_its_data():
    class Slice:
        data = np.eye(16)

    with pytest.raises(ValueError, match="is a Slice: give its .data, and its pixel_size"):
        sound_pictures(Slice(), "pattern")
