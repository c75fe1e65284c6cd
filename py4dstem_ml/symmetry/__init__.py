"""Crystal system, space group and lattice from Bragg lists."""
