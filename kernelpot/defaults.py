"""Hyper-parameters from the training data: one rule for every system."""

from __future__ import annotations

import numpy as np

from kernelpot.dataset import Dataset
from kernelpot.descriptors import SOAPTerm
from kernelpot.observations import bulk_volume

# Sparse points per term.
N_SPARSE = {"fast": 300, "default": 1000, "accurate": 3000}

# Noise of energies [eV/atom]; of forces as a share of their root mean square; of
# stresses [eV/Å^3].
SIGMA_ENERGY = 0.002
FORCES_SHARE = 0.06
SIGMA_STRESS = 0.005

# Cutoffs and atom widths of the two terms in units of (volume per atom)^(1/3).
CUTOFFS = (1.75, 2.6)
WIDTHS = (0.16, 0.24)


def sigmas(data: Dataset) -> tuple[dict[str, float], list[str]]:
    """Default noise of energies, forces and stresses, and why.

    Returns
    -------
    sigmas : dict
        ``sigma_energy`` [eV], ``sigma_forces`` [eV/Å], ``sigma_stress`` [eV/Å^3].
    notes : list of str
    """
    found = [f.forces.ravel() for f in data if f.forces is not None and len(f) > 1]
    forces = np.concatenate(found) if found else np.empty(0)
    rms = float(np.sqrt((forces**2).mean())) if forces.size else 0.0
    sigma_forces = FORCES_SHARE * rms if rms > 0 else 0.05
    notes = [
        f"sigma_energy {1e3 * SIGMA_ENERGY:g} meV/atom: the default",
        f"sigma_forces {sigma_forces:.4f} eV/Å: {FORCES_SHARE:g} x the root mean square "
        f"force of the data ({rms:.3f} eV/Å)"
        if rms > 0
        else f"sigma_forces {sigma_forces:g} eV/Å: the default (no forces in the data)",
        f"sigma_stress {SIGMA_STRESS:g} eV/Å^3: the default",
    ]
    return {
        "sigma_energy": SIGMA_ENERGY,
        "sigma_forces": sigma_forces,
        "sigma_stress": SIGMA_STRESS,
    }, notes


def terms(data: Dataset, *, n_sparse: int | None = None) -> tuple[list[SOAPTerm], list[str]]:
    """Two SOAP terms, short- and long-ranged, scaled to the material.

    Parameters
    ----------
    data : Dataset
    n_sparse : int, optional
        Sparse points per term; None leaves it to the preset.

    Returns
    -------
    terms : list of SOAPTerm
    notes : list of str
    """
    volume = bulk_volume(list(data))
    length = volume ** (1 / 3)
    return [
        SOAPTerm(r_cut=c * length, sigma_atom=s * length, n_sparse=n_sparse)
        for c, s in zip(CUTOFFS, WIDTHS, strict=True)
    ], []
