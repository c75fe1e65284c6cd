"""Our multislice conserves what it must, and agrees with the Bloch waves, made otherwise."""

import numpy as np
import pytest
import torch

from py4dstem_ml.physics.bloch import select_beams
from py4dstem_ml.physics.crystal import Crystal
from py4dstem_ml.physics.multislice import (
    Atoms,
    Grid,
    SliceTransmissions,
    cut_box,
    detect,
    multislice_patterns,
    probe_waves,
    propagate,
    propagator,
)
from py4dstem_ml.physics.orientations import random_orientation
from py4dstem_ml.physics.patterns import Detector, cbed, disk_amplitudes, probe_image

ENERGY = 200e3
FCC = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
SILICON = Crystal.cubic(5.431, [14] * 8, np.concatenate([FCC, FCC + 0.25]))
TITANATE = Crystal.cubic(
    3.905,
    [38, 22, 8, 8, 8],
    [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
)


def test_a_commensurate_box_holds_whole_cells():
    atoms = cut_box(TITANATE, np.eye(3), (39.05, 39.05, 78.1))
    assert len(atoms) == 10 * 10 * 20 * 5


def test_a_box_cut_at_random_holds_the_crystal_once():
    rotation = random_orientation(np.random.default_rng(3))
    atoms = cut_box(TITANATE, rotation, (39.0, 37.0, 90.0))
    assert len(atoms) == pytest.approx(39 * 37 * 90 * 5 / TITANATE.volume, rel=0.01)
    assert (atoms.positions > -1e-3).all() and (atoms.positions < atoms.size).all()
    # Every atom is a lattice point of its kind, and none is there twice.
    lattice = TITANATE.lattice.numpy() @ (rotation * [1.0, 1.0, -1.0])
    fractions = atoms.positions @ np.linalg.inv(lattice)
    assert np.allclose(2 * fractions, np.rint(2 * fractions), atol=1e-6)
    assert len(np.unique(np.rint(2 * fractions), axis=0)) == len(atoms)


def test_the_potential_is_exact_between_the_pixels():
    grid = Grid((64, 64), (16.0, 16.0))

    def potential(row, col):
        atoms = Atoms(
            size=(16.0, 16.0, 2.0),
            numbers=np.array([14]),
            positions=np.array([[row, col, 1.0]]),
            occupancies=np.ones(1),
            b_iso=np.array([0.5]),
        )
        return SliceTransmissions(atoms, grid, ENERGY).potential(0)

    centred, moved = potential(8.0, 8.0), potential(8.0 + 0.1, 8.0 - 0.07)
    k_row, k_col = grid.frequencies
    shift = torch.exp(-2j * torch.pi * (0.1 * k_row - 0.07 * k_col))
    expected = torch.fft.ifft2(torch.fft.fft2(centred.double()) * shift).real
    assert (moved - expected).abs().max() < 1e-4 * centred.max()
    assert centred.argmax() == 32 * 64 + 32


def test_vacuum_gives_the_probe():
    detector = Detector((64, 64), 0.03)
    grid = Grid.for_detector(detector)
    waves = probe_waves(grid, 3.0, ENERGY, [(5.0, 20.0), (16.0, 16.0)])
    slices = [torch.ones(grid.shape, dtype=torch.complex64)] * 10
    spectra = propagate(waves, slices, propagator(grid, 2.0, ENERGY, (0.02, -0.01)), [0, 10])
    patterns = detect(spectra, detector)
    expected = probe_image(detector, 3.0, ENERGY)
    assert (patterns - expected).abs().max() < 1e-4 * expected.max()
    assert patterns.sum((-2, -1)).allclose(torch.ones(2, 2), atol=1e-4)


def test_a_tilted_beam_walks():
    grid = Grid((96, 96), (30.0, 30.0))
    wave = probe_waves(grid, 6.0, ENERGY, [(15.0, 12.0)])
    slices = [torch.ones(grid.shape, dtype=torch.complex64)] * 2
    spectra = propagate(wave, slices, propagator(grid, 50.0, ENERGY, (0.03, 0.05)), [2])
    intensity = torch.fft.ifft2(spectra[0, 0], norm="ortho").abs().square()
    place = np.unravel_index(int(intensity.argmax()), grid.shape)
    assert np.allclose(np.array(place) * 30 / 96, [18.0, 17.0], atol=0.4)


def test_flux_is_conserved_where_the_band_holds_it():
    detector = Detector((64, 64), 1 / (5.431 * 5))
    grid = Grid.for_detector(detector, k_max=4.0)
    atoms = cut_box(SILICON, np.eye(3), (*grid.extent, 54.31))
    slices = SliceTransmissions(atoms, grid, ENERGY, 5.431 / 4)
    free_space = propagator(grid, slices.slice_thickness, ENERGY)
    spectra = propagate(probe_waves(grid, 3.0, ENERGY), slices, free_space, [0, 20, 40])
    flux = spectra.abs().square().sum((-2, -1))[:, 0]
    assert float(flux[0]) == pytest.approx(1.0, abs=1e-5)
    assert flux[1:].tolist() == pytest.approx([1.0, 1.0], abs=1e-3)


@pytest.mark.parametrize(
    ("crystal", "cells", "slice_thickness"),
    [(SILICON, 9, 5.431 / 4), (TITANATE, 12, 3.905 / 2)],
    ids=["Si", "SrTiO3"],
)
def test_agreement_with_bloch_waves(crystal, cells, slice_thickness):
    side = float(crystal.lattice[0, 0]) * cells
    detector = Detector((96, 96), 1 / side)
    count = round(200 / slice_thickness)
    thicknesses = [slice_thickness * round(count / 2), slice_thickness * count]
    ours = multislice_patterns(
        crystal, np.eye(3), detector, [2.0], ENERGY, thicknesses, slice_thickness=slice_thickness
    )[0]
    beams = select_beams(crystal, np.eye(3), ENERGY, g_max=2.5, s_max=0.2)
    amplitudes = disk_amplitudes(
        crystal, beams, ENERGY, thicknesses, 2.0, detector.pixel_size, absorption=False
    )
    bloch = cbed(amplitudes, beams, detector, 2.0, ENERGY, probe_position=(side / 2, side / 2))
    away = torch.ones(96, 96, dtype=torch.bool)
    away[40:57, 40:57] = False
    for a, b in zip(ours, bloch, strict=True):
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.99
        assert np.corrcoef(a[away], b[away])[0, 1] > 0.99


def test_several_probes_at_once_are_several_probes():
    detector = Detector((48, 48), 0.04)
    rotation = random_orientation(np.random.default_rng(1))
    both = multislice_patterns(TITANATE, rotation, detector, [2.0, 5.0], ENERGY, [20.0, 40.0])
    one = multislice_patterns(TITANATE, rotation, detector, [5.0], ENERGY, [20.0, 40.0])
    assert both.shape == (2, 2, 48, 48)
    assert torch.allclose(both[1], one[0], atol=1e-6)


def test_stops_ascend():
    grid = Grid((32, 32), (10.0, 10.0))
    with pytest.raises(ValueError, match="ascending"):
        propagate(probe_waves(grid, 2.0, ENERGY), [], propagator(grid, 1.0, ENERGY), [3, 1])


@pytest.mark.parametrize("semiangle_mrad", [6.0, 9.0])
def test_overlapping_disks_interfere_as_in_the_bloch_engine(semiangle_mrad):
    """The phases of the waves where disks overlap: of the probe's focus, position and path."""
    a, thickness = 3.905, 200.0
    crystal = Crystal.cubic(
        a,
        [38, 22, 8, 8, 8],
        [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
    )
    detector = Detector((96, 96), 1 / (9 * a))
    expected = multislice_patterns(
        crystal, np.eye(3), detector, [semiangle_mrad], 200e3, [thickness]
    )
    beams = select_beams(crystal, np.eye(3), 200e3, g_max=2.2, s_max=0.1)

    def agreement(defocus, position):
        amplitudes = disk_amplitudes(
            crystal, beams, 200e3, [thickness], semiangle_mrad, detector.pixel_size,
            defocus=defocus, absorption=False,
        )  # fmt: skip
        image = cbed(amplitudes, beams, detector, semiangle_mrad, 200e3, probe_position=position)
        return np.corrcoef(image[0].numpy().ravel(), expected[0, 0].numpy().ravel())[0, 1]

    on_column = agreement(0.0, (a / 2, a / 2))
    assert on_column > 0.99
    assert agreement(-thickness, (a / 2, a / 2)) < on_column - 0.01
    assert agreement(0.0, (a / 4, a / 4)) < on_column - 0.01
