"""What terms of a few distances have in common: pairs and triplets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from kernelpot.terms.parameters import N_SPARSE_RANGE, Range, TermBase, require, require_number
from kernelpot.terms.stationary import NAMES, require_function


class FewDistancesTerm(TermBase):
    """A stationary kernel on a few distances, switched off before the cutoff; see `TermBase`.

    Fields of such a term beside those of every term: `length_scale` [Å], `cutoff_width` [Å] and
    `function`; they are checked here.
    """

    r_cut: float
    length_scale: float
    cutoff_width: float
    delta: float
    function: str

    # Sparse points of each kind of pair or triplet: of a smooth function of so few numbers.
    points_of_key: ClassVar[int]

    def __post_init__(self) -> None:
        """Check every value once, before any work starts."""
        super().__post_init__()
        for name in ("r_cut", "length_scale", "cutoff_width"):
            value = getattr(self, name)
            require_number(name, value)
            require(value > 0, name, "positive", value)
        require(
            self.cutoff_width <= self.r_cut,
            "cutoff_width",
            f"at most r_cut ({self.r_cut:g} Å)",
            self.cutoff_width,
        )
        require_function(self.function)

    @property
    def searched(self) -> Mapping[str, Range]:
        """Parameters that a search over kernels may change."""
        return {
            "r_cut": Range(1.12, factors=(0.6, 1.6), minimum=self.cutoff_width),
            "length_scale": Range(1.3, factors=(0.3, 3.0), of_features=False),
            "n_sparse": N_SPARSE_RANGE,
        }

    def default_n_sparse(self, usual: int, n_keys: int) -> int:
        """Sparse points where `n_sparse` is None.

        Parameters
        ----------
        usual : int
            Number of a term whose points are not named.
        n_keys : int
            Kinds of pairs or triplets that the data have.

        Returns
        -------
        int
        """
        return min(usual, self.points_of_key * n_keys)

    def _described(self, what: str, more: str = "") -> list[str]:
        """The parameters in words."""
        return [
            f"{what} r_cut {self.r_cut:.2f} Å, switched off over the last "
            f"{self.cutoff_width:.2f} Å",
            f"{NAMES[self.function]} kernel of length scale {self.length_scale:.3g} Å, prior std "
            f"delta {self.delta:.3g} eV{more}",
        ]
