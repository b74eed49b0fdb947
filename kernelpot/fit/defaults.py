"""Hyper-parameters from the training data: one rule for every system."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from ase.data import covalent_radii

from kernelpot.baseline.free_atoms import AtomicEnergies
from kernelpot.data.dataset import Dataset
from kernelpot.gp.labels import bulk_volume
from kernelpot.terms.base import Term
from kernelpot.terms.polynomial_soap import PolynomialSOAP
from kernelpot.terms.soap import SOAPTerm

# Terms with sparse points, or one whole quadratic form.
Basis = Literal["sparse", "form"]
# Sparse points per term.
N_SPARSE = {"fast": 300, "default": 1000, "accurate": 3000}
# Noise of energies [eV/atom]; of forces as a share of their root mean square; of
# stresses [eV/Å^3]. They stand for what the model cannot represent more than for errors
# of the labels. Chosen, like the shapes below, on validation splits of training data.
SIGMA_ENERGY = 0.001
FORCES_SHARE = 0.03
SIGMA_STRESS = 0.005
MINIMUM_SIGMA_FORCES = 1e-3


@dataclass(frozen=True)
class Shape:
    """A default term; lengths in units of `length_scale`."""

    cutoff: float
    width: float
    l_max: int
    zeta: int


# One element: a short- and a long-ranged term. Several: the sparse points are shared among
# species, and a third term of yet shorter range lowers the force error of molecules (ethanol,
# validation split: 20.4 to 17.5 meV/Å).
ELEMENT = (Shape(1.75, 0.145, 6, 2), Shape(2.6, 0.22, 8, 3))
COMPOUND = (Shape(1.4, 0.12, 6, 2), Shape(1.9, 0.145, 6, 2), Shape(2.7, 0.22, 8, 3))
# Molecules: one whole quadratic form, which reaches as far as the longest shape of compounds.
MOLECULE_CUTOFF, MOLECULE_WIDTH = 2.7, 0.2


# Channels of the density are contracted to what is more than this share of it, and so many of a
# degree: errors on validation splits are within 3 % of those with all channels (of few frames
# less than these), and the cost hardly grows with the number of species.
CONTRACTION = 1e-7
MAX_CHANNELS = 12


@dataclass(frozen=True)
class Detail:
    """Features of a whole form."""

    n_max: int
    l_max: int
    n_directions: int
    n_channels: int = MAX_CHANNELS


DETAIL = {
    "fast": Detail(6, 4, 100),
    "default": Detail(6, 4, 200),
    "accurate": Detail(8, 5, 300, 20),
}
# The long cutoff of systems without three-dimensional periodicity is at least this [Å].
MINIMUM_CUTOFF = 4.5
# The length scale is at most so many nearest-neighbor distances, and these at most so
# many covalent radii (atoms without bonds between heavy atoms).
BONDS_PER_LENGTH = 1.5
RADII_PER_BOND = 2.4


def length_scale(data: Dataset) -> tuple[float, str]:
    """Length that cutoffs and widths are scaled to [Å], and where it came from.

    The cube root of the volume per atom where there is a bulk, bounded by the bond
    length between heavy atoms (hydrogen's bonds say nothing of the range of forces; a
    molecule in a periodic box has a volume that says nothing either).
    """
    volume = bulk_volume(list(data))
    heavy, nearest = data.distances.heavy, data.distances.nearest_heavy
    radius = float(np.median(covalent_radii[heavy])) if len(heavy) else 0.6
    bond = RADII_PER_BOND * radius
    if len(nearest):
        bond = min(bond, float(np.median(nearest)))
    limit = BONDS_PER_LENGTH * bond
    length = volume ** (1 / 3)
    if length <= limit:
        return length, f"cube root of the volume per atom, {volume:.1f} Å^3"
    return limit, f"{BONDS_PER_LENGTH:g} x the bond length of {bond:.2f} Å"


def sigmas(data: Dataset) -> tuple[dict[str, float], dict[str, str]]:
    """Default noise of energies, forces and stresses, and why.

    Returns
    -------
    sigmas : dict
        ``sigma_energy`` [eV], ``sigma_forces`` [eV/Å], ``sigma_stress`` [eV/Å^3].
    notes : dict
        Why, under the same names.
    """
    found = [f.forces.ravel() for f in data if f.forces is not None and not f.is_isolated_atom]
    forces = np.concatenate(found) if found else np.empty(0)
    rms = float(np.sqrt((forces**2).mean())) if forces.size else 0.0
    if rms < 1e-4:  # no forces, or only rounding: perfect crystals
        rms = 0.0
    sigma_forces = max(FORCES_SHARE * rms, MINIMUM_SIGMA_FORCES) if rms > 0 else 0.05
    notes = {
        "sigma_energy": f"sigma_energy {1e3 * SIGMA_ENERGY:g} meV/atom: the default",
        "sigma_forces": f"sigma_forces {sigma_forces:.4f} eV/Å: {FORCES_SHARE:g} x the root mean "
        f"square force of the data ({rms:.3f} eV/Å)"
        if rms > 0
        else f"sigma_forces {sigma_forces:g} eV/Å: the default (no forces in the data)",
        "sigma_stress": f"sigma_stress {SIGMA_STRESS:g} eV/Å^3: the default",
    }
    return {
        "sigma_energy": SIGMA_ENERGY,
        "sigma_forces": sigma_forces,
        "sigma_stress": SIGMA_STRESS,
    }, notes


def terms(
    data: Dataset,
    e0: AtomicEnergies,
    *,
    n_sparse: int | None = None,
    preset: str = "default",
    basis: Basis | None = None,
) -> tuple[list[Term], list[str]]:
    """Terms scaled to the material: for molecules a whole quadratic form, else SOAP terms.

    Parameters
    ----------
    data : Dataset
    e0 : AtomicEnergies
    n_sparse : int, optional
        Sparse points (monomials) per term; None leaves it to the preset.
    preset : str
        How many features a whole form has.
    basis : {"sparse", "form"}, optional
        One or the other, whatever the material.

    Returns
    -------
    terms : list of Term
    notes : list of str
    """
    length, reason = length_scale(data)
    e0_spread = energy_scale(data, e0)
    delta = round(max(1.0, e0_spread), 3)
    chosen: list[Term] = []
    if basis == "form" or (basis is None and is_of_molecules(data)):
        chosen.append(
            PolynomialSOAP(
                r_cut=round(max(MOLECULE_CUTOFF * length, MINIMUM_CUTOFF), 3),
                sigma_atom=round(MOLECULE_WIDTH * length, 4),
                full=True,
                delta=delta,
                n_sparse=n_sparse,
                contraction=CONTRACTION,
                **asdict(DETAIL[preset]),
            )
        )
        notes = []
        if is_of_molecules(data):
            notes = ["molecules (nothing is periodic): one whole quadratic form"]
    else:
        shapes = ELEMENT if len(data.species) == 1 else COMPOUND
        cutoffs = [shape.cutoff * length for shape in shapes]
        if not any(np.all(f.atoms.pbc) for f in data):
            cutoffs[-1] = max(cutoffs[-1], MINIMUM_CUTOFF)
        chosen += [
            SOAPTerm(
                r_cut=round(cutoff, 3),
                sigma_atom=round(shape.width * length, 4),
                l_max=shape.l_max,
                zeta=shape.zeta,
                delta=delta,
                n_sparse=n_sparse,
                contraction=CONTRACTION,
                n_channels=MAX_CHANNELS,
            )
            for cutoff, shape in zip(cutoffs, shapes, strict=True)
        ]
        notes = []
    notes += [
        f"cutoffs and widths scale with {length:.3f} Å, the {reason}",
        f"delta {delta:.2f} eV: at least 1 eV, or the root mean square energy per atom "
        f"relative to e0 ({e0_spread:.2f} eV)",
    ]
    return chosen, notes


def is_of_molecules(data: Dataset) -> bool:
    """Whether nothing in the data is periodic, and there is more than one atom."""
    bound = [f for f in data if len(f) > 1]
    return bool(bound) and not any(f.atoms.pbc.any() for f in bound)


def energy_scale(data: Dataset, e0: AtomicEnergies) -> float:
    """Root mean square of the energy per atom relative to free atoms [eV]."""
    found = [
        (f.energy - e0.total(f.atoms.numbers)) / len(f)
        for f in data
        if f.energy is not None and not f.is_isolated_atom
    ]
    return float(np.sqrt(np.mean(np.square(found)))) if found else 0.0
