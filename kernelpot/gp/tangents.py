"""How positions and strain move the environments of a structure.

The adjoint pass of a prediction never forms these derivatives; variances of forces and
stresses need them, an atom or a few at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kernelpot.common.parallel import map_in_order
from kernelpot.common.types import FloatArray, IntArray
from kernelpot.data.system import System
from kernelpot.gp.blocks import BoundTerm
from kernelpot.terms.base import Environments, Tangents

# Environments whose derivatives by strain are formed together.
CHUNK = 32


@dataclass(frozen=True)
class Motion:
    """Environments of one class that n coordinates move.

    Attributes
    ----------
    u : ndarray of shape (n_env, n_features)
        Embedded features.
    by_u : ndarray of shape (n, n_env, n_features)
        Their derivatives.
    weight : ndarray of shape (n_env,) or None
        Factors of their energies; None for 1.
    by_weight : ndarray of shape (n, n_env) or None
        Derivatives of these; None for 0.
    """

    u: FloatArray
    by_u: FloatArray
    weight: FloatArray | None = None
    by_weight: FloatArray | None = None

    def take(self, part: slice | IntArray) -> Motion:
        """Some of the environments."""
        return Motion(
            self.u[part],
            self.by_u[:, part],
            None if self.weight is None else self.weight[part],
            None if self.by_weight is None else self.by_weight[:, part],
        )


@dataclass(frozen=True)
class StructureEnvironments:
    """The environments of one structure in one term, and how they move.

    Attributes
    ----------
    term : BoundTerm
    found : Environments
    u, norm : ndarray
        Embedded features, and what their derivatives are divided by.
    tangents : Tangents
    """

    term: BoundTerm
    found: Environments
    u: FloatArray
    norm: FloatArray
    tangents: Tangents

    @classmethod
    def of(cls, term: BoundTerm, system: System) -> StructureEnvironments:
        """Environments of a system of one structure.

        Parameters
        ----------
        term : BoundTerm
        system : System
            All pairs within the cutoff of the term (longer ones are skipped).
        """
        found = term.descriptor.environments(system, slice(0, system.n_atoms))
        u, norm = term.kernel.embed(found.x)
        return cls(term, found, u, norm, term.descriptor.tangents(system, found))

    def weight(self, members: IntArray) -> FloatArray | None:
        """Factors of the energies of some environments; None for 1."""
        return None if self.found.weight is None else self.found.weight[members]

    def moved_by(self, atom: int) -> tuple[IntArray, Motion]:
        """Environments that depend on an atom's position, and how.

        Parameters
        ----------
        atom : int

        Returns
        -------
        members : ndarray of shape (n_env,)
        motion : Motion
            By the three coordinates [1/Å].
        """
        members, by_x, by_weight = self.tangents.moved_by(atom)
        u = self.u[members]
        return members, Motion(
            u,
            self.term.kernel.tangent(u, self.norm[members], by_x),
            self.weight(members),
            None if by_weight is None else by_weight.T,
        )

    def strained(self, members: IntArray, n_threads: int) -> Motion:
        """How environments change under strain.

        Parameters
        ----------
        members : ndarray of shape (n_env,)
        n_threads : int

        Returns
        -------
        Motion
            By xx yy zz yz xz xy.
        """
        by_u = np.empty((6, len(members), self.u.shape[1]))
        by_weight = None if self.found.weight is None else np.zeros((6, len(members)))

        def work(start: int) -> None:
            some = slice(start, start + CHUNK)
            chosen = members[some]
            by_x, weights = self.tangents.strained(chosen)
            by_u[:, some] = self.term.kernel.tangent(self.u[chosen], self.norm[chosen], by_x)
            if by_weight is not None and weights is not None:
                by_weight[:, some] = weights.T

        starts = range(0, len(members), CHUNK)
        for _ in map_in_order(work, starts, max(1, min(n_threads, len(starts)))):
            pass
        return Motion(self.u[members], by_u, self.weight(members), by_weight)
