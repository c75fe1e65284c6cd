"""Against CLEED: Si(001), unreconstructed and with symmetric and buckled dimers."""

import numpy as np
import pytest
from leed.cleed import read_deck, read_phase_shifts, read_result

from py4dstem_ml.physics.leed.stack import amplitudes
from py4dstem_ml.physics.leed.waves import Settings, flux_ratio, incidence

DECKS = [
    f"{surface}_{direction}"
    for surface in ("si11", "si21sym", "si21buck")
    for direction in ("t0p0", "t3p20", "t5p35")
]


def intensities(deck, energies, beams, settings):
    """Of beams in units of the bulk's reciprocal lattice, shape (e, n)."""
    surface = deck.surface
    hk = beams @ np.rint(surface.lattice @ np.linalg.inv(surface.bulk.lattice)).T
    found = np.zeros((len(energies), len(beams)))
    for row, energy in zip(found, energies, strict=True):
        k = incidence(energy, deck.theta_deg, deck.phi_deg)
        all_beams, waves = amplitudes(surface, energy, k, settings)
        ratio = flux_ratio(surface.lattice, energy, k, all_beams)
        intensity = waves[0, 0].abs().square() * ratio
        places = (hk[:, None] == all_beams).all(2)
        row[places.any(1)] = intensity[places.argmax(1)[places.any(1)]]
    return found


@pytest.mark.data
@pytest.mark.parametrize("name", DECKS)
def test_curves_are_those_of_cleed(data_folder, name):
    folder = data_folder / "leed" / "cleed_si001"
    deck = read_deck(folder / f"{name}.inp", read_phase_shifts(folder / "PHASE" / "Si.phs"))
    beams, energies, expected = read_result(folder / f"{name}.res")
    assert len(energies) == 15
    some = slice(0, 15, 2)
    for exact_prefactor, tolerance in ((False, 2e-3), (True, 0.02)):
        settings = Settings(beam_cutoff=1e-3, real_prefactor=not exact_prefactor)
        found = intensities(deck, energies[some], beams, settings)
        difference = np.abs(found - expected[some]).sum() / expected[some].sum()
        assert difference < tolerance
    assert difference > 5e-3  # what CLEED's own prefactor does
