"""What rows of the regression are made of, besides the data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kernelpot.common.types import Array, FloatArray, IntArray
from kernelpot.data.dataset import Frame
from kernelpot.data.system import System
from kernelpot.gp.blocks import Block, BoundTerm, Points, lay_out, reach
from kernelpot.gp.covariance import covariance_rows
from kernelpot.gp.labels import Noise, observe
from kernelpot.regression.layout import Layout
from kernelpot.regression.rows import Rows, StructureRows
from kernelpot.regression.whitening import whitening
from kernelpot.terms.base import OwnPoints, is_long_ranged
from kernelpot.terms.kinds import term_from_dict, term_to_dict

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
    species : tuple of int
        Atomic numbers, ascending.
    terms : sequence of BoundTerm
    blocks : sequence of Block
        Sparse points, their whitening and columns.
    """

    species: tuple[int, ...]
    terms: Sequence[BoundTerm]
    blocks: Sequence[Block]

    @classmethod
    def of(
        cls, species: tuple[int, ...], terms: Sequence[BoundTerm], points: Iterable[Points]
    ) -> Design:
        """Whiten the sparse points of every class of environments and term.

        At a delta of one: it scales columns, and what they span does not depend on it.
        """
        unit = [term.term.changed(delta=1.0).kernel_of(term.descriptor) for term in terms]

        def whiten(p: Points) -> FloatArray:
            delta = terms[p.term].kernel.delta
            if unit[p.term].uncorrelated:
                return np.full(len(p.points), 1.0 / delta)
            return whitening(unit[p.term].gram(p.points)) / delta

        return cls.known(species, terms, [(p, whiten(p)) for p in points if len(p.points)])

    @classmethod
    def known(
        cls,
        species: tuple[int, ...],
        terms: Sequence[BoundTerm],
        points: Iterable[tuple[Points, FloatArray]],
    ) -> Design:
        """Take over the whitening of each entry of `points`.

        A class of environments that has no points gets a block without any: nothing is
        known of its energies but their prior.
        """
        given = list(points)
        named = {(p.term, p.key) for p, _ in given}
        for t, term in enumerate(terms):
            nothing = np.zeros((0, term.descriptor.n_features))
            given += [
                (Points(t, key, nothing), np.zeros((0, 0)))
                for key in term.descriptor.keys
                if (t, key) not in named
            ]
        return cls(species, terms, lay_out(given))

    @property
    def layout(self) -> Layout:
        """Whitened columns of each block."""
        return Layout([b.columns for b in self.blocks], [b.term for b in self.blocks])

    @property
    def of_molecules(self) -> bool:
        """Whether a term has whole molecules as environments, and knows no others."""
        return any(
            not (term.descriptor.has_centers or is_long_ranged(term.descriptor))
            for term in self.terms
        )

    @property
    def n_sparse(self) -> int:
        """Number of sparse points."""
        return max((b.sparse.stop for b in self.blocks), default=0)

    @property
    def n_columns(self) -> int:
        """Columns of the regression."""
        return self.layout.size + 1

    @property
    def r_cut(self) -> float:
        """Largest radial cutoff [Å]."""
        return reach(self.terms)

    def blocks_of(self, number: int) -> Iterator[tuple[int, Block]]:
        """Blocks that the local energies of a species depend on, with their indices.

        Parameters
        ----------
        number : int
            Atomic number.
        """
        for index, block in enumerate(self.blocks):
            if number in self.terms[block.term].descriptor.center_species(block.key):
                yield index, block

    def columns_of(self, number: int) -> IntArray:
        """Whitened columns that the local energies of a species depend on."""
        own = [np.arange(b.columns.start, b.columns.stop) for _, b in self.blocks_of(number)]
        return np.concatenate([np.empty(0, dtype=np.int64), *own])

    @property
    def present(self) -> list[int]:
        """Indices of the species whose atoms have energies of their own in some term."""
        return [z for z, number in enumerate(self.species) if any(self.blocks_of(number))]

    def n_points_of(self, number: int) -> int:
        """Sparse points that the local energies of a species depend on.

        Parameters
        ----------
        number : int
            Atomic number.
        """
        return sum(len(block.points) for _, block in self.blocks_of(number))

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
        for bound, f in zip(self.terms, factors, strict=True):
            term = bound.term.changed(delta=float(bound.term.delta * f))
            terms.append(BoundTerm(term, bound.descriptor, term.kernel_of(bound.descriptor)))
        blocks = [replace(b, T=b.T / factors[b.term]) for b in self.blocks]
        return replace(self, terms=terms, blocks=blocks)

    def rows(self, frames: Sequence[Frame], noise: Noise) -> Rows:
        """Whitened rows and targets of a batch of frames, in units of their group's sigma.

        Parameters
        ----------
        frames : sequence of Frame
            Labels less what the kernels need not explain (`Reference.remainder`).
        noise : Noise

        Returns
        -------
        Rows
        """
        derivatives = any(f.forces is not None or f.virial is not None for f in frames)
        system = System.of([f.atoms for f in frames], self.r_cut)
        observed = observe(frames, noise)
        unit = observed.unit
        y = observed.y / unit
        phi = np.zeros((len(unit), self.n_columns), order="F")
        phi[:, -1] = self.offset_column(frames)[observed.rows] / unit
        for index, K in covariance_rows(self.terms, self.blocks, system, derivatives=derivatives):
            block = self.blocks[index]
            K = K[observed.rows]
            K /= unit[:, None]
            known = self.known_weights(block)
            if known is not None:
                y -= K @ known
            phi[:, block.columns] = block.whitened(K)
        return Rows(phi, y, unit, observed.kind, observed.groups, observed.group)

    def structure_rows(self, index: int, frame: Frame, noise: Noise) -> StructureRows:
        """Rows of one frame, in the order of its labels.

        Parameters
        ----------
        index : int
            Position of the frame in the list it was taken from.
        frame : Frame
        noise : Noise

        Returns
        -------
        StructureRows
        """
        volume = frame.atoms.get_volume() if frame.virial is not None else 0.0
        found = self.rows([frame], noise)
        return StructureRows(**vars(found), index=index, n_atoms=len(frame), volume=volume)

    def work(self, frame: Frame, n_pairs: float) -> float:
        """Floating-point operations to make and annihilate the rows of a frame, about.

        Parameters
        ----------
        frame : Frame
        n_pairs : float
            Pairs of its atoms within `r_cut`.
        """
        has_forces = frame.forces is not None or frame.virial is not None
        total = 2.0 * frame.n_rows * self.n_columns**2
        total += frame.n_rows * sum(b.T.size for b in self.blocks)
        share = sum(
            self.terms[b.term].descriptor.n_features * len(b.points) for b in self.blocks
        ) / len(self.species)
        return total + 2.0 * share * (len(frame) + 3.0 * n_pairs * has_forces)

    def offset_column(self, frames: Sequence[Frame]) -> FloatArray:
        """The last column, of all energies, forces and virials of some frames."""
        sizes = np.array([len(f) for f in frames])
        column = np.zeros(len(frames) + 3 * sizes.sum() + 6 * len(frames))
        first = len(frames) + 3 * sizes.sum()
        for k in range(3):
            column[first + k :: 6] = VIRIAL_OFFSET_PRIOR * sizes
        return column

    def virial_offset(self, whitened_weights: FloatArray) -> float:
        """Isotropic virial per atom of the labels beyond the model's [eV/atom]."""
        return float(VIRIAL_OFFSET_PRIOR * whitened_weights[-1])

    def weights(self, whitened_weights: FloatArray) -> FloatArray:
        """Weight of each sparse point from the whitened solution, shape (n_sparse,) [1/eV]."""
        found = np.empty(self.n_sparse)
        for block in self.blocks:
            found[block.sparse] = block.of_points(whitened_weights[block.columns])
            known = self.known_weights(block)
            if known is not None:
                found[block.sparse] += known
        return found

    def known_weights(self, block: Block) -> FloatArray | None:
        """Part of the weights of a block's points that no label changes, or None [1/eV].

        Parameters
        ----------
        block : Block
        """
        bound = self.terms[block.term]
        if not isinstance(bound.descriptor, OwnPoints):
            return None
        return np.asarray(bound.descriptor.known_weights / bound.kernel.diagonal())

    # ---- in files ------------------------------------------------------------------

    def to_arrays(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """What the design can be rebuilt from: plain data, and arrays by name.

        Returns
        -------
        header : dict
        arrays : dict of str to ndarray
        """
        arrays: dict[str, Array] = {}
        for index, block in enumerate(self.blocks):
            arrays[f"points_{index}"], arrays[f"whitening_{index}"] = block.points, block.T
            if block.sites is not None:
                arrays[f"sites_{index}"] = block.sites
        constants = []
        for t, bound in enumerate(self.terms):
            found = bound.descriptor.to_arrays()
            constants.append(sorted(found))
            arrays.update({f"constant_{t}_{name}": array for name, array in found.items()})
        header = {
            "species": [int(z) for z in self.species],
            "terms": [term_to_dict(bound.term) for bound in self.terms],
            "constants": constants,
            "blocks": [[block.term, list(map(int, block.key))] for block in self.blocks],
        }
        return header, arrays

    @classmethod
    def from_arrays(cls, header: Mapping[str, Any], arrays: Mapping[str, Array]) -> Design:
        """Inverse of `to_arrays`.

        Parameters
        ----------
        header : mapping
        arrays : mapping of str to ndarray

        Returns
        -------
        Design
        """
        species = tuple(header["species"])
        terms = []
        for t, (entry, names) in enumerate(zip(header["terms"], header["constants"], strict=True)):
            constants = {name: arrays[f"constant_{t}_{name}"] for name in names}
            terms.append(BoundTerm.of(term_from_dict(entry), species, constants))
        points = [
            (
                Points(t, tuple(key), arrays[f"points_{index}"], arrays.get(f"sites_{index}")),
                arrays[f"whitening_{index}"],
            )
            for index, (t, key) in enumerate(header["blocks"])
        ]
        return cls.known(species, terms, points)
