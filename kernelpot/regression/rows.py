"""Rows of the regression: whitened features, targets and noise of some labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kernelpot.common.types import FloatArray, Group, IntArray


@dataclass(frozen=True)
class Rows:
    """Rows of some labels at unit noise.

    Attributes
    ----------
    phi : ndarray of shape (n, n_columns)
        Whitened rows in units of their group's sigma.
    y : ndarray of shape (n,)
        Targets in the same units.
    unit : ndarray of shape (n,)
        The noise of each label in units of its group's sigma.
    kind : ndarray of shape (n,)
        Index in `kernelpot.common.types.KINDS`; a label of the last is a virial.
    groups : sequence of Group
        The groups that occur, sorted.
    group : ndarray of shape (n,)
        Index of each label's group in `groups`.
    """

    phi: FloatArray
    y: FloatArray
    unit: FloatArray
    kind: IntArray
    groups: Sequence[Group]
    group: IntArray

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.y)

    @staticmethod
    def joined(parts: Sequence[Rows]) -> Rows:
        """Rows of several parts, one after the other."""
        if len(parts) == 1:
            return parts[0]
        groups = sorted({group for part in parts for group in part.groups})
        renumbered = [
            np.array([groups.index(group) for group in part.groups])[part.group] for part in parts
        ]
        phi = np.empty((sum(map(len, parts)), parts[0].phi.shape[1]), order="F")
        np.concatenate([part.phi for part in parts], out=phi)
        return Rows(
            phi,
            np.concatenate([part.y for part in parts]),
            np.concatenate([part.unit for part in parts]),
            np.concatenate([part.kind for part in parts]),
            groups,
            np.concatenate(renumbered),
        )

    def by_group(self) -> Iterator[tuple[Group, FloatArray, FloatArray]]:
        """Iterate over groups, with features and targets of each."""
        for index, group in enumerate(self.groups):
            members = self.group == index
            yield group, self.phi[members], self.y[members]

    def noise(self, sigma: Callable[[Group], float] | Mapping[Group, float]) -> FloatArray:
        """Noise of each row in units of `unit`, shape (n,)."""
        value = sigma.__getitem__ if isinstance(sigma, Mapping) else sigma
        return np.array([value(group) for group in self.groups])[self.group]


@dataclass(frozen=True)
class StructureRows(Rows):
    """Rows of one structure, in the order energy, forces, virial.

    Attributes
    ----------
    index : int
        Position of the structure in the list it was taken from.
    n_atoms : int
    volume : float
        [Å^3]; 0 without labels that need it.
    """

    index: int
    n_atoms: int
    volume: float
