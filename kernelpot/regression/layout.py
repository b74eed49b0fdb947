"""Which columns of the design matrix belong to what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """Columns of the design matrix: species by species, in each term by term.

    Attributes
    ----------
    blocks : dict
        ``(species index, term index) -> slice`` of columns.
    """

    blocks: Mapping[tuple[int, int], slice]

    @classmethod
    def of(cls, sizes: Mapping[tuple[int, int], int]) -> Layout:
        """Lay out blocks of the given sizes in the order (species, term)."""
        blocks, start = {}, 0
        for key in sorted(sizes):
            blocks[key] = slice(start, start + sizes[key])
            start += sizes[key]
        return cls(blocks)

    @property
    def size(self) -> int:
        """Number of columns."""
        return max((s.stop for s in self.blocks.values()), default=0)

    def species(self, species: int) -> slice:
        """Columns of one species, all terms."""
        found = [s for (z, _), s in self.blocks.items() if z == species]
        return slice(found[0].start, found[-1].stop)
