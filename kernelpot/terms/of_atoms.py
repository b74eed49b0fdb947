"""For descriptors of which every atom has one environment."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from kernelpot.common.types import IntArray
from kernelpot.data.system import System
from kernelpot.terms.base import Key


class OfAtoms:
    """What a `Descriptor` of one environment per atom gets for nothing: its classes are species."""

    has_centers: ClassVar[bool] = True
    one_per_atom: ClassVar[bool] = True

    if TYPE_CHECKING:

        @property
        def species(self) -> tuple[int, ...]:
            """Atomic numbers that may occur, ascending."""

    @cached_property
    def keys(self) -> Sequence[Key]:
        """The species of the central atom."""
        return [(z,) for z in self.species]

    def center_species(self, key: Key) -> Sequence[int]:
        """The species that the key names."""
        return key

    def count(self, system: System) -> IntArray:
        """Number of atoms of each species."""
        return np.bincount(system.z_index(self.species), minlength=len(self.species))
