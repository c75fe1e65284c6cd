"""Images to numbers: what a reader says, of good images and of bad ones."""

import os
import pickle
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_cbleed import GENTLE, QUICK, SCREEN

from py4dstem_ml import weights
from py4dstem_ml.cbleed.dataset import split
from py4dstem_ml.cbleed.fit import FitConfig
from py4dstem_ml.cbleed.live import follow
from py4dstem_ml.cbleed.model import Reader
from py4dstem_ml.cbleed.predict import COLUMNS, CBLEEDAutoencoder, CBLEEDRegressor


def test_a_file_holds_all_of_a_reader(data, reader, reader_file):
    one, other = reader.read(data.images[:30]), Reader.load(reader_file).read(data.images[:30])
    for name in ("values", "intervals", "novelty", "codes"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-5, atol=1e-7)
    for name in reader.regressors:
        both = [
            r.read(data.images[:5], (name,) * 4).values for r in (reader, Reader.load(reader_file))
        ]
        np.testing.assert_allclose(*both, rtol=1e-5, atol=1e-7)


def test_trained_images_are_read(data, reader):
    chosen = split(data.labels, "energies")["train"]
    reading = reader.read(data.images[torch.from_numpy(chosen)])
    error = np.abs(reading.values - data.labels[chosen]).mean(0)
    spread = np.abs(data.labels[chosen] - data.labels[chosen].mean(0)).mean(0)
    assert (error[:2] < 0.4 * spread[:2]).all()
    assert ((reading.values[:, 3] > 0.5) == (data.labels[chosen, 3] == 1)).mean() > 0.9
    assert (np.diff(reading.intervals, axis=0) >= 0).all() and (reading.sigma[:, :3] > 0).all()
    assert (reading.novelty < 1).mean() > 0.9


def test_what_is_no_such_pattern_is_flagged(data, reader):
    images = data.images[40:44]
    strange = {
        "turned by 90 degrees": images.mT,
        "one beam only": images
        * (torch.arange(32) // 4 == 4)
        * (torch.arange(32) // 4 == 4)[:, None],
        "noise": torch.rand(4, 32, 32, generator=torch.Generator().manual_seed(0)),
    }
    for name, one in strange.items():
        assert (reader.read(one).novelty > 1).all(), name


def test_one_image_and_many(data, reader_file, image):
    regressor = CBLEEDRegressor(reader_file)
    row = regressor(image)
    assert row.shape == (8,) == (len(COLUMNS),)
    np.testing.assert_allclose(regressor(1000 * image), row, rtol=1e-4, atol=1e-4)
    stack = data.images[38:44].reshape(2, 3, 32, 32).numpy()
    many = regressor.read(stack, progress=False)
    assert many.shape == (2, 3, 8)
    np.testing.assert_allclose(many[0, 2], row, rtol=1e-4, atol=1e-4)
    reading = regressor.reading(stack[0])
    np.testing.assert_allclose(reading.values, many[0, :, :4], rtol=1e-5, atol=1e-5)


def test_stacks_need_not_be_in_memory(data, reader_file):
    dask = pytest.importorskip("dask.array")
    stack = dask.from_array(data.images[:6].reshape(3, 2, 32, 32).numpy(), chunks=(1, 2, 32, 32))
    regressor = CBLEEDRegressor(reader_file)
    found = regressor.read(stack, progress=False)
    np.testing.assert_allclose(found, regressor.read(stack.compute(), progress=False), rtol=1e-4)


def test_other_pixels_are_resampled(data, reader_file, image):
    # The same image of a camera with half the pixels' size, moved.
    fine = np.zeros((90, 100))
    fine[10:74, 20:84] = np.repeat(np.repeat(image, 2, axis=0), 2, axis=1)
    regressor = CBLEEDRegressor(reader_file, pixel_size=0.0635, centre=(41.5, 51.5))
    assert regressor(fine)[0] == pytest.approx(CBLEEDRegressor(reader_file)(image)[0], abs=1.0)
    assert regressor(fine)[-1] < CBLEEDRegressor(reader_file, pixel_size=0.0635)(fine)[-1]


def spoilt(image, what):
    bad = image.copy()
    if what == "NaN":
        bad[3, 4] = np.nan
    elif what == "empty":
        bad[:] = 0
    elif what == "saturated":
        bad = np.minimum(bad, np.quantile(bad, 0.95))
    elif what == "saturated, constant":
        bad[:] = 7
    elif what == "real numbers":
        bad = bad.astype(complex)
    return bad


@pytest.mark.parametrize(
    "what", ["NaN", "empty", "saturated", "saturated, constant", "real numbers"]
)
def test_bad_images_are_refused_or_flagged(reader_file, image, what):
    bad = spoilt(image, what)
    with pytest.raises(ValueError, match=what):
        CBLEEDRegressor(reader_file)(bad)
    if what != "real numbers":
        both = CBLEEDRegressor(reader_file, on_bad="flag").read(np.stack([bad, image]))
        assert np.isnan(both[0, :-1]).all() and both[0, -1] == np.inf
        assert np.isfinite(both[1]).all()


def test_other_sizes_are_refused(reader_file, image):
    with pytest.raises(ValueError, match="32 x 32 pixels of 0.127.*not 30 x 32.*pixel_size"):
        CBLEEDRegressor(reader_file)(image[:30])
    with pytest.raises(ValueError, match="`read` takes stacks"):
        CBLEEDRegressor(reader_file)(image[None])


@pytest.mark.parametrize(
    "options", [{"on_bad": "ignore"}, {"pixel_size": -1.0}, {"centre": (1, 2)}]
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError):
        CBLEEDRegressor(**options)


def test_an_autoencoder_is_no_reader(trained, image):
    with pytest.raises(weights.WeightsError, match="fit cbleed"):
        CBLEEDRegressor(trained / "autoencoder.safetensors")(image)


def test_it_travels_and_works_in_threads(reader_file, reader, image):
    for regressor in (CBLEEDRegressor(reader_file), CBLEEDRegressor.of(reader)):
        row = regressor(image)
        copy = pickle.loads(pickle.dumps(regressor))
        np.testing.assert_allclose(copy(image), row, rtol=1e-5)
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(regressor, [image] * 8))
        np.testing.assert_allclose(found, [row] * 8, rtol=1e-5)


def test_an_autoencoder_of_ones_own(data, tmp_path):
    images = data.images.numpy() * 500
    auto = CBLEEDAutoencoder.train(images, tmp_path, latent=3, steps=2, device="cpu")
    assert auto.encode(images[:5]).shape == (5, 3)
    assert auto.reconstruct(images[:5]).shape == (5, 32, 32)
    assert auto.error(images[:5]).min() > 0
    again = CBLEEDAutoencoder(tmp_path / "autoencoder.safetensors")
    np.testing.assert_allclose(again.encode(images[:5]), auto.encode(images[:5]), rtol=1e-5)
    with pytest.raises(ValueError, match="32, 32"):
        auto.encode(images[:, :30])
    with pytest.raises(ValueError, match="square"):
        CBLEEDAutoencoder.train(images[:, :30], tmp_path)


def test_labels_of_ones_own(data, trained, image):
    auto = CBLEEDAutoencoder(trained / "autoencoder.safetensors")
    config = FitConfig(("neighbours",), between=0, calibration_copies=2, disturbance=GENTLE)
    regressor = auto.with_labels(data.images.numpy(), data.labels, config)
    assert regressor(image)[0] == pytest.approx(data.labels[40, 0], abs=1.5)
    with pytest.raises(ValueError, match="as many rows"):
        auto.with_labels(data.images.numpy(), data.labels[:5])


def test_frames_are_followed(reader_file, image):
    regressor = CBLEEDRegressor(reader_file)
    frames = list(follow([image, image[:10], 0 * image], regressor))
    assert [frame.name for frame in frames] == ["0", "1", "2"]
    np.testing.assert_allclose(frames[0].values, regressor(image))
    assert "eV" in str(frames[0]) and frames[0].latency_ms > 0
    assert str(frames[1]).startswith("1: not readable: the reader takes images of 32 x 32")
    assert str(frames[2]) == "2: not readable: the image is empty: no pixel is above 0"


def test_a_folder_is_followed_while_it_fills(reader_file, image, tmp_path):
    regressor = CBLEEDRegressor(reader_file)
    regressor(image)
    np.save(tmp_path / "b.npy", image)
    (tmp_path / "notes.txt").write_text("no image")
    found = []
    for frame in follow(tmp_path, regressor, patience_s=1.5, poll_s=0.05):
        found.append(frame)
        if len(found) == 1:  # while it is followed
            (tmp_path / "a.npy").write_bytes(b"half a file")
    assert [frame.name for frame in found] == ["b.npy", "a.npy"]
    assert np.isfinite(found[0].values).all() and found[1].values[-1] == np.inf
    with pytest.raises(FileNotFoundError, match="to follow"):
        next(follow(tmp_path / "nowhere", regressor))


def test_masked_images_are_refused(reader_file, image):
    masked = np.ma.masked_greater(image, 0.9 * image.max())
    regressor = CBLEEDRegressor(reader_file, on_bad="flag")
    for given in (lambda: regressor(masked), lambda: regressor.reading(masked[None])):
        with pytest.raises(ValueError, match="masked: replace what is hidden"):
            given()


@pytest.mark.parametrize("unit", [1e-34, 1e34])
def test_any_linear_scale_is_read_alike(reader_file, image, unit):
    regressor = CBLEEDRegressor(reader_file)
    np.testing.assert_allclose(regressor(unit * image), regressor(image), rtol=1e-3, atol=1e-3)


def test_a_few_clipped_bright_pixels_in_a_wide_dark_frame_are_saturation(reader_file, image):
    wide = np.pad(image, 48)
    clipped = wide.clip(max=np.quantile(image[image > 0.1 * image.max()], 0.9))
    regressor = CBLEEDRegressor(reader_file, pixel_size=SCREEN.pixel_size)
    assert np.isfinite(regressor(wide)).all()
    with pytest.raises(ValueError, match="saturated"):
        regressor(clipped)


def test_a_list_is_a_stack(reader_file, image):
    regressor = CBLEEDRegressor(reader_file)
    rows = regressor.read([image, image], progress=False)
    np.testing.assert_allclose(rows[1], regressor(image), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"pixel_size": np.inf}, {"pixel_size": 0.1, "centre": (1.0, np.nan)},
        {"pixel_size": 0.1, "centre": 3.0}, {"pixel_size": 0.1, "rotation_deg": np.nan},
    ],
)  # fmt: skip
def test_geometry_that_cannot_be_is_refused(reader_file, options):
    with pytest.raises(ValueError, match="pixel_size|centre|rotation_deg"):
        CBLEEDRegressor(reader_file, **options)


def test_own_labels_need_no_energies(trained, data):
    labels = data.labels.copy()
    labels[:, 0] = 48.0  # an energy that libraries hold out
    labels[:, 1] = data.labels[:, 0]
    auto = CBLEEDAutoencoder(trained / "autoencoder.safetensors")
    regressor = auto.with_labels(data.images.numpy(), labels, replace(QUICK, between=0))
    rows = regressor.read(data.images.numpy(), progress=False)
    assert np.abs(rows[:, 0] - 48).max() < 1e-3
    assert np.abs(rows[:, 1] - labels[:, 1]).mean() < 0.5


def test_a_file_still_being_written_is_read_when_it_is_whole(reader_file, image, tmp_path):
    path = tmp_path / "slow.npy"
    np.save(tmp_path / "whole.npy", image)
    whole = (tmp_path / "whole.npy").read_bytes()
    path.write_bytes(whole[:200])

    def finish():
        time.sleep(0.5)  # longer than a file needs to count as settled
        path.write_bytes(whole)

    writer = threading.Thread(target=finish)
    writer.start()
    frames = follow(tmp_path, CBLEEDRegressor(reader_file), patience_s=3.0, poll_s=0.02)
    found = {frame.name: frame for frame in frames}
    writer.join()
    assert set(found) == {"whole.npy", "slow.npy"} and not any(f.error for f in found.values())


def test_files_that_cannot_be_loaded_do_not_end_the_loop(reader_file, image, tmp_path):
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", image)
    (tmp_path / "c.npy").symlink_to(tmp_path / "gone.npy")
    ahead = time.time() + 3600  # the clock of the camera's computer
    os.utime(tmp_path / "a.npy", (ahead, ahead))

    def load(path):
        if path.stem == "b":
            raise struct.error("unpack requires 4 bytes")
        return np.load(path)

    regressor = CBLEEDRegressor(reader_file)
    frames = list(follow(tmp_path, regressor, load=load, patience_s=3.0, poll_s=0.02))
    assert sorted(frame.name for frame in frames) == ["a.npy", "b.npy"]
    errors = {frame.name: frame.error for frame in frames}
    assert errors == {"a.npy": "", "b.npy": "unpack requires 4 bytes"}


def test_a_reader_of_own_labels_is_kept(trained, data, tmp_path):
    auto = CBLEEDAutoencoder(trained / "autoencoder.safetensors")
    made = auto.with_labels(data.images.numpy(), data.labels, replace(QUICK, between=0))
    image = data.images[3].numpy()
    kept = CBLEEDRegressor(made.save(tmp_path / "own.safetensors"))
    np.testing.assert_allclose(kept(image), made(image), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="5 patterns are too few"):
        auto.with_labels(data.images[:5].numpy(), data.labels[:5], replace(QUICK, between=0))


@pytest.mark.parametrize(
    ("shape", "message"),
    [((32, 32), "a stack of images"), ((2, 33, 32), "of 32 x 32 pixels"), ((32, 32, 3), "32 x 32")],
)
def test_sizes_are_told_before_contents(reader_file, shape, message):
    regressor = CBLEEDRegressor(reader_file, on_bad="flag")
    with pytest.raises(ValueError, match=message):
        regressor.reading(np.zeros(shape))
