"""Tangents of any descriptor from its rows: slow, and right as far as the rows are."""

from __future__ import annotations

import numpy as np

from kernelpot.common.types import FloatArray, IntArray
from kernelpot.data.system import System
from kernelpot.terms.base import Descriptor, Environments, RowGradient


class RowTangents:
    """`kernelpot.terms.base.Tangents` in terms of `Descriptor.add_rows`.

    A row with the unit vectors of feature space as points is the Jacobian of an environment.
    Memory is that of all of them, so this is for few environments and for tests; a descriptor
    of many has its own.

    Parameters
    ----------
    descriptor : Descriptor
    system : System
        Of one structure.
    environments : Environments
    """

    def __init__(self, descriptor: Descriptor, system: System, environments: Environments) -> None:
        n, n_features = environments.x.shape
        self._weighted = environments.weight is not None
        by_position = np.zeros((n, 3 * system.n_atoms, n_features + 1))
        by_strain = np.zeros((n, 6, n_features + 1))
        for e in range(n):
            for part, slope, by_weight in ((slice(n_features), 1.0, 0.0), (-1, 0.0, 1.0)):
                # features with unit vectors as points, or the weight as if by one point
                points = np.eye(n_features) if slope else np.zeros((1, n_features))
                shape = (1, len(points))
                gradient = RowGradient(
                    points,
                    environments.x[[e]],
                    np.full(shape, slope),
                    np.zeros(shape),
                    np.full(shape, by_weight),
                )
                forces = np.zeros((3 * system.n_atoms, len(points)))
                virials = np.zeros((6, len(points)))
                descriptor.add_rows(system, environments, np.array([e]), gradient, forces, virials)
                by_position[e, :, part] = -forces if slope else -forces[:, 0]
                by_strain[e, :, part] = -virials if slope else -virials[:, 0]
        # with unit vectors as points the derivative by the weight is among the rows too
        self._by_position = by_position.reshape(n, system.n_atoms, 3, n_features + 1)
        self._by_strain = by_strain

    def moved_by(self, atom: int) -> tuple[IntArray, FloatArray, FloatArray | None]:
        """Environments that depend on an atom's position, and how; see `Tangents`."""
        own = self._by_position[:, atom]
        members = np.flatnonzero(own.any(axis=(1, 2)))
        return members, *self._split(own[members])

    def strained(self, members: IntArray) -> tuple[FloatArray, FloatArray | None]:
        """How environments change under strain; see `Tangents`."""
        return self._split(self._by_strain[members])

    def _split(self, derivatives: FloatArray) -> tuple[FloatArray, FloatArray | None]:
        by_x = derivatives[:, :, :-1].copy()
        return by_x, derivatives[:, :, -1].copy() if self._weighted else None
