"""Which columns of the design matrix belong to what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kernelpot.common.types import FloatArray, IntArray


@dataclass(frozen=True)
class Layout:
    """Columns of the design matrix, block by block.

    The last column of a design is the virial offset, which belongs to no block.

    Attributes
    ----------
    columns : sequence of slice
        Columns of each block.
    terms : sequence of int
        The term each block is part of: its columns share one prior scale.
    """

    columns: Sequence[slice]
    terms: Sequence[int]

    @classmethod
    def of(cls, sizes: Sequence[int], terms: Sequence[int]) -> Layout:
        """Lay out blocks of the given sizes, one after the other."""
        ends = np.cumsum([0, *sizes]).tolist()
        return cls([slice(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True)], list(terms))

    @property
    def size(self) -> int:
        """Number of columns."""
        return max((s.stop for s in self.columns), default=0)

    @property
    def n_terms(self) -> int:
        """Number of terms."""
        return 1 + max(self.terms)

    def of_term(self, term: int) -> IntArray:
        """Columns of a term."""
        pairs = zip(self.columns, self.terms, strict=True)
        own = [np.arange(s.start, s.stop) for s, t in pairs if t == term]
        return np.concatenate([np.empty(0, dtype=np.int64), *own])

    def scale(self, factors: Sequence[float]) -> FloatArray:
        """Scale of each column from that of each term; one for the virial offset."""
        scale = np.ones(self.size + 1)
        for columns, term in zip(self.columns, self.terms, strict=True):
            scale[columns] = factors[term]
        return scale
