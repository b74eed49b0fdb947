"""What is known of charges without energies: kernels, totals, labels of charges and dipoles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg
from ase.data import chemical_symbols

from kernelpot.common.types import Array, FloatArray
from kernelpot.data.dataset import Dataset, Frame
from kernelpot.data.distances import contact_distances
from kernelpot.data.system import System
from kernelpot.fit.sparse_points import choose_sparse_points
from kernelpot.gp.blocks import BoundTerm
from kernelpot.terms.charges import ChargesDescriptor, KernelCharges, total_charge

# Gaussian width of charges over the shortest distance of their species.
SMEARING = 0.35
# Standard deviations of labels of charges [e] and dipoles [e Å].
SIGMA_CHARGE, SIGMA_DIPOLE = 0.05, 0.1
# Names of the labels of charges and dipoles.
CHARGES, DIPOLE = "REF_charges", "REF_dipole"
# Charges per electronegativity that fits start from [e].
STARTS = (0.1, 0.4, 1.0)
# Electronegativities of Pauling, for the sign of charges; of other elements 2.
_PAULING = {
    1: 2.20, 3: 0.98, 4: 1.57, 5: 2.04, 6: 2.55, 7: 3.04, 8: 3.44, 9: 3.98, 11: 0.93, 12: 1.31,
    13: 1.61, 14: 1.90, 15: 2.19, 16: 2.58, 17: 3.16, 19: 0.82, 20: 1.00, 21: 1.36, 22: 1.54,
    23: 1.63, 24: 1.66, 25: 1.55, 26: 1.83, 27: 1.88, 28: 1.91, 29: 1.90, 30: 1.65, 31: 1.81,
    32: 2.01, 33: 2.18, 34: 2.55, 35: 2.96, 37: 0.82, 38: 0.95, 39: 1.22, 40: 1.33, 47: 1.93,
    48: 1.69, 49: 1.78, 50: 1.96, 51: 2.05, 52: 2.10, 53: 2.66, 55: 0.79, 56: 0.89, 57: 1.10,
    72: 1.30, 79: 2.54, 80: 2.00, 82: 2.33, 83: 2.02,
}  # fmt: skip


@dataclass(frozen=True)
class ChargesPrior:
    """Descriptor of charges, and the Gaussian prior of their coefficients.

    Attributes
    ----------
    descriptor : ChargesDescriptor
        With coefficients themselves as weights.
    precision, right : ndarray
        The prior has the mean ``solve(precision, right)``.
    charged, n_labelled : int
        Structures whose total is not zero, and that have labels of charges or dipoles.
    """

    descriptor: ChargesDescriptor
    precision: FloatArray
    right: FloatArray
    charged: int
    n_labelled: int

    @classmethod
    def of(
        cls, term: KernelCharges, data: Dataset, frames: Sequence[Frame], *, seed: int
    ) -> ChargesPrior:
        """Sparse points of charges, and what is known of their coefficients.

        Parameters
        ----------
        term : KernelCharges
        data : Dataset
            For distances and species.
        frames : sequence of Frame
        seed : int
        """
        species = data.species
        bound = BoundTerm.of(term.soap, species)
        chosen = choose_sparse_points(
            bound,
            0,
            frames,
            default_n_sparse=term.default_n_sparse(0, len(species)),
            seed=seed,
        ).points
        chosen = sorted(chosen, key=lambda p: p.key)
        points = np.concatenate([p.points for p in chosen])
        keys = np.concatenate([np.full(len(p.points), species.index(p.key[0])) for p in chosen])
        n = len(points) + len(species)
        descriptor = term.descriptor(
            species,
            {
                **bound.descriptor.to_arrays(),
                "points": points,
                "point_key": keys,
                "sigma": _smearing(term, data),
                "at": np.zeros(n),
                "mean": np.zeros(n),
                "whitening": np.eye(n),
            },
        )
        gram = bound.kernel.gram(points) * (keys[:, None] == keys)
        gram[np.diag_indices_from(gram)] += 1e-8
        precision = scipy.linalg.block_diag(
            gram / term.sigma_charge**2, np.eye(len(species)) / term.sigma_species**2
        )
        precision /= term.delta**2
        right = np.zeros(n)
        charged = labelled = 0
        for frame in frames:
            rows, targets, own = _linear_rows(term, descriptor, frame)
            precision += rows.T @ rows
            right += rows.T @ targets
            charged += bool(abs(total_charge(frame.atoms)) > 1e-6)
            labelled += own
        return cls(descriptor, precision, right, charged, labelled)

    def constants(self, beta: FloatArray) -> dict[str, Array]:
        """What a model needs of charges around coefficients."""
        lower = np.linalg.cholesky(self.precision)
        whitening = scipy.linalg.solve_triangular(lower, np.eye(len(lower)), lower=True).T
        mean = scipy.linalg.cho_solve((lower, True), self.right)
        return {**self.descriptor.to_arrays(), "at": beta, "mean": mean, "whitening": whitening}

    def species_alone(self) -> ChargesPrior:
        """Without environments."""
        d, n = self.descriptor, len(self.descriptor.points)
        zero = np.zeros(len(d.species))
        alone = replace(
            d,
            points=d.points[:0],
            point_key=d.point_key[:0],
            at=zero,
            mean=zero,
            whitening=np.eye(len(zero)),
        )
        return replace(
            self, descriptor=alone, precision=self.precision[n:, n:], right=self.right[n:]
        )

    def starts(self) -> list[FloatArray]:
        """Charges of the species that a fit may start from."""
        chi = np.array([_PAULING.get(z, 2.0) for z in self.descriptor.species])
        found = [size * (chi.mean() - chi) for size in STARTS]
        if not np.ptp(chi) > 0:
            found = [np.zeros(len(chi))]
        if self.charged or self.n_labelled:  # the sign matters
            found += [-start for start in found]
        return found

    def signed(
        self, beta: FloatArray, frames: Sequence[Frame], *, free: bool
    ) -> tuple[FloatArray, str]:
        """Coefficients with the sign that nature has, and how it is known."""
        if not free:
            return beta, "from total charges or labels"
        chi = np.array([_PAULING.get(z, 2.0) for z in self.descriptor.species])
        total = 0.0
        for frame in frames:
            system = System.of([frame.atoms], self.descriptor.r_cut)
            q = self.descriptor.charges(system, beta)
            total += float(q @ chi[system.z_index(self.descriptor.species)])
        # without charged structures the energy is that of the opposite charges
        return (-beta if total > 0 else beta), "electronegative species are negative on average"

    def summary(self, beta: FloatArray, frames: Sequence[Frame]) -> str:
        """Means and spreads of the species' charges."""
        d = self.descriptor
        found: dict[int, list[FloatArray]] = {z: [] for z in d.species}
        for frame in frames:
            q = d.charges(System.of([frame.atoms], d.r_cut), beta)
            for z, own in found.items():
                own.append(q[frame.atoms.numbers == z])
        return ", ".join(
            f"{chemical_symbols[z]} {np.concatenate(q).mean():+.3f} ± {np.concatenate(q).std():.3f}"
            for z, q in found.items()
            if sum(map(len, q))
        )


def _smearing(term: KernelCharges, data: Dataset) -> FloatArray:
    """Gaussian width of the charges of each species [Å]."""
    given = term.smearing
    nearest = dict.fromkeys(data.species, np.inf)
    for pair, distance in contact_distances(data, data.species).items():
        for z in pair:
            nearest[z] = min(nearest[z], distance)
    widths = []
    for z in data.species:
        own = given.get(chemical_symbols[z]) if isinstance(given, Mapping) else given
        widths.append(SMEARING * nearest[z] if own is None else float(own))
    return np.array(widths)


def _linear_rows(
    term: KernelCharges, descriptor: ChargesDescriptor, frame: Frame
) -> tuple[FloatArray, FloatArray, bool]:
    """Rows of what is known of a structure's charges without energies, in units of their noise."""
    system = System.of([frame.atoms], descriptor.r_cut)
    raw = descriptor.raw_columns(system)
    n, total = len(raw), total_charge(frame.atoms)
    rows = [raw.sum(axis=0)[None] / term.sigma_total]
    targets = [np.array([total]) / term.sigma_total]
    neutral = raw - raw.mean(axis=0)
    labelled = False
    charges = frame.atoms.arrays.get(CHARGES)
    if charges is not None and np.isfinite(charges).all():
        labelled = True
        rows.append(neutral / SIGMA_CHARGE)
        targets.append((np.asarray(charges, dtype=float) - total / n) / SIGMA_CHARGE)
    dipole = frame.atoms.info.get(DIPOLE)
    if dipole is not None and not frame.atoms.pbc.any() and abs(total) < 1e-6:
        labelled = True
        rows.append(frame.atoms.positions.T @ neutral / SIGMA_DIPOLE)
        targets.append(np.asarray(dipole, dtype=float).reshape(3) / SIGMA_DIPOLE)
    return np.concatenate(rows), np.concatenate(targets), labelled
