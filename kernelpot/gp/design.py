"""What rows of the regression are made of, besides the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kernelpot.common.types import FloatArray, Group
from kernelpot.data.dataset import Frame
from kernelpot.data.neighbors import neighbor_list
from kernelpot.data.system import species_index
from kernelpot.gp.covariance import KernelTerm, covariance_rows
from kernelpot.gp.labels import Noise, observe
from kernelpot.regression.layout import Layout
from kernelpot.regression.leave_one_out import StructureRows
from kernelpot.regression.whitening import whitening

# energy, forces and virial (Voigt) that the kernels need not explain
KnownLabels = tuple[float, FloatArray, FloatArray]
# Prior standard deviation of the virial offset [eV/atom]: small against bonding, so
# that stresses count, yet overruled by data that contradict it by more.
VIRIAL_OFFSET_PRIOR = 0.05


@dataclass(frozen=True)
class Design:
    """Everything the rows of the regression need besides the data.

    The last column is not a kernel: it is an isotropic virial per atom that labels may
    carry on top of the derivative of the energy. A plane-wave basis that is not
    converged does this (Pulay stress): the energy is computed at constant cutoff, the
    stress at constant number of waves. Fitting the offset keeps a wrong absolute
    pressure from bending the energies; it never enters a prediction.

    Attributes
    ----------
    terms : list of KernelTerm
    species : tuple of int
    raw : Layout
        Columns before whitening (sparse points).
    whitened : Layout
        Columns after whitening (ranks).
    whitening : dict
        ``(species, term) -> T``.
    """

    terms: Sequence[KernelTerm]
    species: tuple[int, ...]
    raw: Layout
    whitened: Layout
    whitening: Mapping[tuple[int, int], FloatArray]

    @classmethod
    def of(cls, terms: Sequence[KernelTerm], species: tuple[int, ...]) -> Design:
        """Whiten the sparse points of every species and term."""
        return cls.known(
            terms,
            species,
            {(z, t): whitening(term.K_mm(z)) for t, term in enumerate(terms) for z in term.sparse},
        )

    @classmethod
    def known(
        cls,
        terms: Sequence[KernelTerm],
        species: tuple[int, ...],
        whitening: Mapping[tuple[int, int], FloatArray],
    ) -> Design:
        """Take over the whitening of a model or a checkpoint."""
        return cls(
            terms,
            species,
            Layout.of({key: len(T) for key, T in whitening.items()}),
            Layout.of({key: T.shape[1] for key, T in whitening.items()}),
            whitening,
        )

    def rescaled(self, factors: Sequence[float]) -> Design:
        """Design with the delta of each term multiplied: same span, same directions.

        Parameters
        ----------
        factors : sequence of float
            One per term. With delta times f, K_mm grows by f^2 and T shrinks by f, so
            whitened rows grow by f.

        Returns
        -------
        Design
        """
        if all(f == 1.0 for f in factors):
            return self
        terms = []
        for term, f in zip(self.terms, factors, strict=True):
            soap, kernel = term.soap, term.kernel
            delta = float(kernel.delta * f)
            terms.append(
                KernelTerm(
                    replace(soap, term=replace(soap.term, delta=delta)),
                    replace(kernel, delta=delta),
                    term.sparse,
                )
            )
        whiten = {(z, t): T / factors[t] for (z, t), T in self.whitening.items()}
        return replace(self, terms=terms, whitening=whiten)

    def rows(
        self, frames: Sequence[Frame], references: Sequence[KnownLabels], noise: Noise
    ) -> list[tuple[Group, FloatArray, FloatArray]]:
        """Whitened rows and targets of a batch of frames, in units of their group's sigma."""
        derivatives = any(f.forces is not None or f.virial is not None for f in frames)
        K = covariance_rows(
            self.terms,
            self.raw,
            self.species,
            [f.atoms for f in frames],
            derivatives=derivatives,
        )
        observed = observe(frames, references, noise)
        K = K[observed.rows]
        K /= observed.unit[:, None]
        phi = np.zeros((len(K), self.n_columns), order="F")
        phi[:, -1] = self._offset_column(frames)[observed.rows] / observed.unit
        for key, T in self.whitening.items():
            phi[:, self.whitened.blocks[key]] = K[:, self.raw.blocks[key]] @ T
        y = observed.y / observed.unit
        members = [observed.group == g for g in range(len(observed.groups))]
        return [(group, phi[m], y[m]) for group, m in zip(observed.groups, members, strict=True)]

    @property
    def n_columns(self) -> int:
        """Columns of the regression."""
        return self.whitened.size + 1

    def work(self, frame: Frame) -> float:
        """Floating-point operations to make and annihilate the rows of a frame, about."""
        has_forces = frame.forces is not None or frame.virial is not None
        z_index = species_index(frame.atoms.numbers, self.species)
        total = 2.0 * frame.n_rows * self.n_columns**2
        total += frame.n_rows * sum(T.size for T in self.whitening.values())
        r_cut = max(term.soap.term.r_cut for term in self.terms)
        pairs = neighbor_list(frame.atoms, r_cut)
        distances = np.linalg.norm(pairs.displacements(frame.atoms.positions), axis=1)
        for term in self.terms:
            n_neighbors = np.bincount(
                pairs.centers[distances < term.soap.term.r_cut], minlength=len(frame)
            )
            points = np.zeros(len(self.species))
            for z, rows in term.sparse.items():
                points[z] = len(rows)
            per_center = 1.0 + 3.0 * n_neighbors * has_forces
            total += 2.0 * term.soap.n_features * float(per_center @ points[z_index])
        return total

    def _offset_column(self, frames: Sequence[Frame]) -> FloatArray:
        sizes = np.array([len(f) for f in frames])
        column = np.zeros(len(frames) + 3 * sizes.sum() + 6 * len(frames))
        first = len(frames) + 3 * sizes.sum()
        for k in range(3):
            column[first + k :: 6] = VIRIAL_OFFSET_PRIOR * sizes
        return column

    def virial_offset(self, whitened_weights: FloatArray) -> float:
        """Isotropic virial per atom of the labels beyond the model's [eV/atom]."""
        return float(VIRIAL_OFFSET_PRIOR * whitened_weights[-1])

    def weights(self, whitened_weights: FloatArray) -> dict[tuple[int, int], FloatArray]:
        """Weight of each sparse point from the whitened solution."""
        return {
            key: T @ whitened_weights[self.whitened.blocks[key]]
            for key, T in self.whitening.items()
        }


def structure_rows(
    design: Design, index: int, frame: Frame, reference: KnownLabels, noise: Noise
) -> StructureRows:
    """Rows of one frame, in the order of its labels.

    Parameters
    ----------
    design : Design
    index : int
        Position of the frame in the list it was taken from.
    frame : Frame
    reference : KnownLabels
    noise : Noise

    Returns
    -------
    StructureRows
    """
    observed = observe([frame], [reference], noise)
    phi = np.empty((len(observed.y), design.n_columns))
    y = np.empty(len(observed.y))
    for group, rows, targets in design.rows([frame], [reference], noise):
        members = observed.group == observed.groups.index(group)
        phi[members], y[members] = rows, targets
    kind = np.where(observed.rows == 0, 0, np.where(observed.rows <= 3 * len(frame), 1, 2))
    volume = frame.atoms.get_volume() if frame.virial is not None else 0.0
    return StructureRows(
        index, len(frame), volume, phi, y, observed.unit, kind, observed.groups, observed.group
    )
