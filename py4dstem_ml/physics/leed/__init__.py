"""Low-energy electron diffraction: phase shifts, layers, stacks of layers, CBLEED disks.

Multiple scattering after Pendry, Low Energy Electron Diffraction (Academic Press 1974): spherical
waves within a layer, plane waves between layers. Lengths are in Å, wave vectors in rad/Å (2 pi
included, as usual in the field), energies in eV. The surface normal z points into the vacuum.
"""
