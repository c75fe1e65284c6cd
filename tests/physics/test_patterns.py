"""From beams to images: probe, disks, their overlap, and the structure factor peaks."""

import numpy as np
import pytest
import torch
from materials import gallium_arsenide, lithium_manganate, silicon, strontium_titanate

from py4dstem_ml.physics.bloch import Beams, diffract, excitation_errors, select_beams
from py4dstem_ml.physics.orientations import tilted, zone_axis
from py4dstem_ml.physics.patterns import (
    Detector,
    aperture_radius,
    cbed,
    disk_amplitudes,
    incident_grid,
    probe_image,
    render_peaks,
    structure_factor_peaks,
)

ENERGY = 200e3
DETECTOR = Detector((96, 128), 0.02)


def made_up(g_px: list[list[float]], waves: list[complex], semiangle_mrad: float = 2.0):
    """Beams at given pixels (from the centre) with one amplitude in all of each disk."""
    g = torch.zeros(len(g_px), 3, dtype=torch.float64)
    g[:, :2] = torch.tensor(g_px, dtype=torch.float64) * DETECTOR.pixel_size
    beams = Beams(np.zeros((len(g_px), 3), dtype=np.int64), g)
    radius_px = aperture_radius(semiangle_mrad, ENERGY) / DETECTOR.pixel_size
    size = len(incident_grid(radius_px)[0])
    amplitudes = torch.tensor(waves, dtype=torch.complex64)[None, :, None, None]
    return amplitudes.expand(1, len(waves), size, size), beams


def centroid(image: np.ndarray) -> np.ndarray:
    rows, cols = np.indices(image.shape)
    return np.array([(rows * image).sum(), (cols * image).sum()]) / image.sum()


@pytest.mark.parametrize("semiangle_mrad", [0.5, 1.3, 2.0, 4.0])
def test_the_probe_is_a_centred_disk_of_unit_intensity(semiangle_mrad: float) -> None:
    probe = probe_image(DETECTOR, semiangle_mrad, ENERGY).numpy()
    assert probe.shape == DETECTOR.shape and probe.dtype == np.float32
    assert probe.sum() == pytest.approx(1.0, abs=1e-5)
    assert centroid(probe) == pytest.approx([48, 64], abs=1e-5)
    radius_px = semiangle_mrad * 1e-3 / 0.0250793 / 0.02
    area = (probe / probe.max()).sum()
    assert np.sqrt(area / np.pi) == pytest.approx(radius_px, abs=0.25)


@pytest.mark.parametrize("g_px", [(0.0, 0.0), (13.0, -20.0), (-13.37, 20.71), (7.5, 8.02)])
def test_a_disk_is_the_probe_moved_to_g(g_px: tuple[float, float]) -> None:
    image = cbed(*made_up([list(g_px)], [1.0]), DETECTOR, 2.0, ENERGY)[0].numpy()
    assert centroid(image) == pytest.approx(np.array([48, 64]) + g_px, abs=0.03)
    assert image.sum() == pytest.approx(1.0, abs=0.02)
    if all(x == round(x) for x in g_px):
        shift = tuple(int(x) for x in g_px)
        probe = np.roll(probe_image(DETECTOR, 2.0, ENERGY).numpy(), shift, axis=(0, 1))
        assert image == pytest.approx(probe, abs=1e-7)


def test_a_smaller_aperture_is_cut_from_the_amplitudes_of_a_larger() -> None:
    amplitudes, beams = made_up([[10.0, 4.0]], [1.0], semiangle_mrad=4.0)
    small, _ = made_up([[10.0, 4.0]], [1.0], semiangle_mrad=2.0)
    images = [cbed(a, beams, DETECTOR, 2.0, ENERGY) for a in (amplitudes, small)]
    assert torch.allclose(*images)
    with pytest.raises(ValueError, match="made for a smaller semi-angle"):
        cbed(small, beams, DETECTOR, 4.0, ENERGY)


def test_disks_off_the_detector_are_cut_at_its_edge() -> None:
    image = cbed(*made_up([[0, 0], [48, 0], [200, 3]], [1, 1, 1]), DETECTOR, 2.0, ENERGY)[0]
    assert 1.0 < float(image.sum()) < 1.6
    assert float(image[:4].sum()) == 0.0


def test_intensity_is_conserved_when_every_disk_is_inside() -> None:
    crystal = strontium_titanate()
    detector = Detector((128, 128), 1 / (3.905 * 6))
    beams = select_beams(crystal, np.eye(3), ENERGY, g_max=1.5)
    options = {"absorption": False}
    amplitudes = disk_amplitudes(
        crystal, beams, ENERGY, [0.0, 150.0], 2.0, detector.pixel_size, **options
    )
    images = cbed(amplitudes, beams, detector, 2.0, ENERGY)
    assert images.shape == (2, 128, 128) and images.dtype == torch.float32
    assert images.sum((1, 2)).numpy() == pytest.approx(1.0, abs=1e-4)
    vacuum = probe_image(detector, 2.0, ENERGY)
    assert torch.allclose(images[0], vacuum, atol=1e-6)
    assert float(torch.abs(images[1] - vacuum).max()) > 1e-3


def test_a_disk_holds_the_wave_of_each_incident_direction() -> None:
    # Beam 220 at pixel g + q must be that of the plane wave q.
    crystal = silicon()
    detector = Detector((128, 128), 1 / (5.431 * 8))
    beams = select_beams(crystal, np.eye(3), ENERGY, g_max=1.0)
    amplitudes = disk_amplitudes(crystal, beams, ENERGY, [300.0], 2.0, detector.pixel_size)
    image = cbed(amplitudes, beams, detector, 2.0, ENERGY)[0]
    beam = int(np.flatnonzero((beams.hkl == [2, 2, 0]).all(1))[0])
    q = torch.tensor([[2.0, -1.0]], dtype=torch.float64)
    wave = diffract(
        crystal, beams, ENERGY, [300.0], incidence=q * detector.pixel_size, dtype=torch.complex128
    )
    row, col = 64 + 16 + 2, 64 + 16 - 1
    unit = probe_image(detector, 2.0, ENERGY).max()
    expected = float(torch.abs(wave[0, beam, 0]) ** 2) * float(unit)
    assert float(image[row, col]) == pytest.approx(expected, rel=1e-4)


def test_overlapping_disks_interfere_with_the_probe_position() -> None:
    amplitudes, beams = made_up([[0.0, 0.0], [0.0, 5.0]], [1.0, 1.0])
    alone = cbed(*made_up([[0.0, 0.0]], [1.0]), DETECTOR, 2.0, ENERGY)[0]
    other = cbed(*made_up([[0.0, 5.0]], [1.0]), DETECTOR, 2.0, ENERGY)[0]
    for position in ((0.0, 0.0), (0.0, 2.5), (1.7, 1.3)):
        image = cbed(amplitudes, beams, DETECTOR, 2.0, ENERGY, probe_position=position)[0]
        fringe = 2.0 * np.cos(2.0 * np.pi * 0.1 * position[1])
        expected = alone + other + fringe * torch.sqrt(alone * other)
        assert torch.allclose(image, expected, atol=1e-7)
    assert bool(((alone > 0) & (other > 0)).any() and ((alone > 0) & (other == 0)).any())


def test_disks_that_do_not_overlap_know_nothing_of_the_probe_position() -> None:
    amplitudes, beams = made_up([[0.0, 0.0], [20.0, 12.0]], [0.6, 0.8j])
    images = [
        cbed(amplitudes, beams, DETECTOR, 2.0, ENERGY, probe_position=position)
        for position in ((0.0, 0.0), (1.1, 0.7))
    ]
    assert torch.allclose(*images, atol=1e-8)


def test_the_probe_position_moves_with_the_crystal() -> None:
    # Moving the probe by r is moving the crystal by -r.
    crystal = gallium_arsenide()
    orientation = tilted(zone_axis(crystal, (1, 1, 0)), 8.0)
    detector = Detector((96, 96), 0.02)
    shift = np.array([0.7, -1.2, 0.0])
    fractional = (orientation @ shift) @ np.linalg.inv(crystal.lattice.numpy())
    moved = type(crystal)(crystal.lattice, crystal.numbers, crystal.positions - fractional)
    images = []
    for subject, position in ((crystal, (0.7, -1.2)), (moved, (0.0, 0.0)), (crystal, (0.0, 0.0))):
        beams = select_beams(subject, orientation, ENERGY, g_max=0.9)
        amplitudes = disk_amplitudes(subject, beams, ENERGY, [120.0], 6.0, detector.pixel_size)
        images.append(cbed(amplitudes, beams, detector, 6.0, ENERGY, probe_position=position))
    # The shift in the detector plane is all that differs; g's component along the beam sees none.
    assert torch.allclose(images[0], images[1], atol=1e-7)
    assert float(torch.abs(images[0] - images[2]).max()) > 1e-5


def test_structure_factor_peaks_are_weighted_projected_and_sorted() -> None:
    crystal = lithium_manganate()
    orientation = zone_axis(crystal, (1, 1, 0), 0.3)
    peaks = structure_factor_peaks(crystal, orientation, ENERGY, DETECTOR)
    assert np.all(np.diff(peaks[:, 2].numpy()) <= 0)
    assert peaks[0, :2].tolist() == [48, 64]
    assert float(peaks[-1, 2]) >= 1e-4 * float(peaks[0, 2])
    hkl = np.array([0, 0, 2])
    g = torch.as_tensor(hkl @ crystal.reciprocal.numpy() @ orientation)[None]
    wanted = np.array(DETECTOR.centre) + g[0, :2].numpy() / DETECTOR.pixel_size
    nearest = peaks[np.hypot(*(peaks[:, :2].numpy() - wanted).T).argmin()].numpy()
    s = float(excitation_errors(g, ENERGY)[0, 0])
    volts = float(torch.abs(crystal.potential_coefficients([hkl])[0]))
    assert nearest[:2] == pytest.approx(wanted, abs=1e-9)
    assert nearest[2] == pytest.approx(volts * np.exp(-0.5 * (s / 0.05) ** 2))
    thick = structure_factor_peaks(crystal, orientation, ENERGY, DETECTOR, thickness=250.0)
    assert thick[:, 2].numpy() == pytest.approx(250.0 * peaks[:, 2].numpy())
    # Of equal weights, as Friedel's pairs have, either may come first.
    places = [np.sort(p[:, 0].numpy() + 1000.0 * p[:, 1].numpy()) for p in (thick, peaks)]
    assert places[0] == pytest.approx(places[1])


def test_rendered_peaks_keep_their_heights_and_the_larger_wins() -> None:
    peaks = torch.tensor([[[10.0, 20.0, 0.5], [10.0, 22.0, 1.0], [30.4, 5.7, 2.0], [0, 0, 0]]])
    image = render_peaks(peaks, (40, 48), sigma_px=1.0)
    assert image.shape == (1, 40, 48) and image.dtype == torch.float32
    assert float(image[0, 10, 20]) == pytest.approx(0.5)
    assert float(image[0, 10, 22]) == pytest.approx(1.0)
    # Between the two: the larger one's flank, not their sum.
    assert float(image[0, 10, 21]) == pytest.approx(np.exp(-0.5))
    assert float(image[0, 30, 6]) == pytest.approx(2.0 * np.exp(-(0.4**2 + 0.3**2) / 2))
    assert float(image[0, 0, 0]) == 0.0


def test_peaks_at_the_edge_are_cut_and_those_outside_are_not_seen() -> None:
    peaks = torch.tensor([[[0.0, 47.0, 1.0], [-30.0, 20.0, 5.0], [39.2, 90.0, 5.0]]])
    image = render_peaks(peaks, (40, 48))[0]
    assert float(image[0, 47]) == 1.0 and float(image[1, 47]) == pytest.approx(np.exp(-0.5))
    alone = render_peaks(peaks[:, :1], (40, 48))[0]
    assert torch.equal(image, alone)


def test_patterns_of_a_batch_do_not_mix() -> None:
    peaks = torch.tensor([[[5.0, 5.0, 1.0]], [[9.0, 3.0, 2.0]]])
    images = render_peaks(peaks, (12, 12))
    assert torch.equal(images[1], render_peaks(peaks[1:], (12, 12))[0])
    assert images.flatten(1).max(1).values.tolist() == [1.0, 2.0]
