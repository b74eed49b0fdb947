"""Hyper-parameters of the kernels a potential is a sum of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

COMPRESSIONS = ("off", "mu1nu1", "mu2", "crossover")
SELECTIONS = ("farthest_point", "cur", "kmeans", "random")


def _require(condition: bool, name: str, expected: str, value: object) -> None:
    if not condition:
        raise ValueError(f"`{name}` must be {expected}, got {value!r}")


@dataclass(frozen=True)
class SOAPTerm:
    r"""One SOAP kernel of the model: descriptor, kernel and sparse points.

    The kernel between two environments with power spectra p and q is
    :math:`\delta^2 (p \cdot q / |p||q|)^\zeta` [1]_.

    Parameters
    ----------
    r_cut : float
        Radial cutoff [Å]; must exceed 1 Å (the radial basis of dscribe starts there).
    n_max : int, default=8
        Number of radial functions (more than 12 lose digits in dscribe's basis).
    l_max : int, default=6
        Largest degree of the spherical harmonics.
    sigma_atom : float, default=0.5
        Width of the Gaussian that stands for one atom [Å].
    zeta : float, default=2
        Kernel exponent; a positive integer (a non-integer is accepted only if the
        kernel matrix of the sparse points turns out positive definite).
    delta : float, default=1.0
        Prior standard deviation of a local energy [eV].
    n_sparse : int or None, default=None
        Sparse points of this term, all species together. None: the number of the
        potential's `n_sparse` or preset, or of distinct environments if there are fewer.
    cutoff_power : float, default=2
        The density is weighted by ``(1 + 2 (r/r_cut)^3 - 3 (r/r_cut)^2)^cutoff_power``.
        At 1 forces have a kink at the cutoff; from 2 on they are smooth.
    central_weight : float, default=0.2
        Weight of the central atom in its own density; positive.
    compression : {"off", "mu1nu1", "mu2", "crossover"}, default="off"
        How features are shared between neighbor species (dscribe's modes) [2]_.
    species_weighting : mapping of symbol to float, optional
        Weight of each neighbor species in the density.
    sparse_method : {"farthest_point", "cur", "kmeans", "random"}
        How sparse points are chosen; default farthest-point sampling.

    Raises
    ------
    ValueError
        If a value is out of range; the message names it.

    References
    ----------
    .. [1] Bartók, Kondor, Csányi, Phys. Rev. B 87, 184115 (2013).
    .. [2] Darby, Kermode, Csányi, npj Comput. Mater. 8, 166 (2022).
    """

    r_cut: float
    n_max: int = 8
    l_max: int = 6
    sigma_atom: float = 0.5
    zeta: float = 2
    delta: float = 1.0
    n_sparse: int | None = None
    cutoff_power: float = 2.0
    central_weight: float = 0.2
    compression: str = "off"
    species_weighting: Mapping[str, float] | None = None
    sparse_method: str = "farthest_point"

    def __post_init__(self) -> None:
        """Check every value once, before any work starts."""
        numbers = ("r_cut", "sigma_atom", "zeta", "delta", "cutoff_power", "central_weight")
        for name in numbers:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
                raise TypeError(f"`{name}` must be a number, got {value!r}")
            _require(math.isfinite(value), name, "finite", value)
        _require(self.r_cut > 1.0, "r_cut", "larger than 1 Å", self.r_cut)
        _require(int(self.n_max) == self.n_max >= 1, "n_max", "an integer >= 1", self.n_max)
        _require(
            int(self.l_max) == self.l_max and 0 <= self.l_max <= 20,
            "l_max",
            "an integer from 0 to 20",
            self.l_max,
        )
        _require(self.sigma_atom > 0, "sigma_atom", "positive", self.sigma_atom)
        _require(self.zeta > 0, "zeta", "positive", self.zeta)
        _require(self.delta > 0, "delta", "positive", self.delta)
        _require(
            self.cutoff_power >= 1,
            "cutoff_power",
            "at least 1 (below, forces diverge at the cutoff)",
            self.cutoff_power,
        )
        _require(
            self.central_weight > 0,
            "central_weight",
            "positive (at zero the normalized kernel jumps when the last neighbor leaves)",
            self.central_weight,
        )
        _require(
            self.n_sparse is None or int(self.n_sparse) == self.n_sparse >= 1,
            "n_sparse",
            "a positive integer or None",
            self.n_sparse,
        )
        for name in ("n_max", "l_max", "n_sparse"):  # 6.0, as numbers in files may be
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, int(value))
        for symbol, weight in (self.species_weighting or {}).items():
            _require(
                math.isfinite(weight) and weight > 0,
                f"species_weighting[{symbol}]",
                "positive (an environment of zero weight cannot be normalized)",
                weight,
            )
        _require(
            self.compression in COMPRESSIONS,
            "compression",
            f"one of {', '.join(COMPRESSIONS)}",
            self.compression,
        )
        _require(
            self.sparse_method in SELECTIONS,
            "sparse_method",
            f"one of {', '.join(SELECTIONS)}",
            self.sparse_method,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data that the term can be rebuilt from.

        Returns
        -------
        dict
        """
        result: dict[str, Any] = {}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if isinstance(value, Mapping):
                value = {str(k): float(v) for k, v in value.items()}
            elif isinstance(value, np.generic):
                value = value.item()
            result[name] = value
        return result
