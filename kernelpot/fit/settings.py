"""What the user asked for: the parameters of a potential."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from ase import Atoms

from kernelpot.baseline.reference import BaselineTerm
from kernelpot.fit import defaults
from kernelpot.terms.base import Term
from kernelpot.terms.charges import KernelCharges

# Instead of a number in `config_type_sigma`, where None cannot be written (TOML).
SEARCH = "search"


@dataclass(frozen=True)
class Settings:
    """What the user asked for: the parameters of `KernelPotential`."""

    terms: Sequence[Term] | None = None
    preset: str = "default"
    n_sparse: int | None = None
    sigma_energy: float | None = None
    sigma_forces: float | None = None
    sigma_stress: float | None = None
    config_type_sigma: Mapping[str, Mapping[str, float | str | None]] | None = None
    e0: Mapping[str, float] | Mapping[int, float] | str | None = None
    baseline: BaselineTerm | Sequence[BaselineTerm] | None = None
    sparse_points: Sequence[Sequence[tuple[Atoms, int]] | None] | None = None
    charges: KernelCharges | None = None
    seed: int = 0

    @property
    def default_n_sparse(self) -> int:
        """Sparse points of a term that names no number."""
        return defaults.N_SPARSE[self.preset]

    @property
    def own_sigmas(self) -> dict[str, dict[str, float | None]]:
        """`config_type_sigma` with None for what `fit` is to choose.

        Raises
        ------
        ValueError
            If a value is neither a number, None nor "search".
        """
        return {name: sigmas_of(name, own) for name, own in (self.config_type_sigma or {}).items()}


def sigmas_of(name: str, own: Any) -> dict[str, float | None]:
    """Noise of one config type by kind, None for what `fit` is to choose."""
    if not isinstance(own, Mapping):
        raise ValueError(
            f"`config_type_sigma` of {name!r} must be a mapping such as {{'forces': 0.1}}, "
            f"got {own!r}"
        )
    sigmas: dict[str, float | None] = {}
    for kind, value in own.items():
        searched = value is None or (isinstance(value, str) and value == SEARCH)
        if not searched and (isinstance(value, bool) or not isinstance(value, Real)):
            raise ValueError(
                f"`config_type_sigma` of {name!r}, {kind}, must be a number, or {SEARCH!r} (or "
                f"None) to let the fit choose it, got {value!r}"
            )
        sigmas[kind] = None if searched else float(value)
    return sigmas
