"""Functions of one distance: Lennard-Jones, Morse, Buckingham, Born-Mayer, ZBL, tables.

Every function returns energy, first and second derivative; sums are written ``a + b``.
What they share is in `kernelpot.baseline.pair_function`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ase.units import Bohr, create_units

from kernelpot.baseline.pair_function import (
    Derivatives,
    PairFunction,
    PairSum,
    as_function,
    parts_of,
)
from kernelpot.common.types import FloatArray, IntArray

# of CODATA 2018; ASE's own units, of 2014, are 9e-9 smaller, which files would notice
_UNITS = create_units("2018")
COULOMB = float(_UNITS["Hartree"] * _UNITS["Bohr"])  # e^2 / (4 pi epsilon_0) [eV Å]
_ZBL_AMPLITUDE = np.array([0.18175, 0.50986, 0.28022, 0.02817])
_ZBL_RATE = np.array([3.19980, 0.94229, 0.40290, 0.20162])
# Carbon monoxide is bound by 11.2 eV; a fitted well is no deeper [eV].
STRONGEST_BOND = 12.0
# The sharpest bonds have a Morse width of 0.37 Å (N2: a = 2.7 / Å). Between atoms that are never
# near each other a fit finds much sharper functions, of hundreds of eV inside a bond length.
SHARPEST_BOND = 0.30
COMBINATIONS = ("lorentz-berthelot", "geometric")


@dataclass(frozen=True)
class LennardJones(PairFunction):
    r"""Twelve-six potential.

    Lennard-Jones [1]_:

    .. math:: V(r) = 4 \epsilon [(\sigma/r)^{12} - (\sigma/r)^6]

    Parameters
    ----------
    epsilon : float, optional
        Depth [eV]; None to fit it.
    sigma : float, optional
        Distance of zero energy [Å]; None to fit it.

    Raises
    ------
    ValueError
        If a parameter is given and not positive.

    References
    ----------
    .. [1] Lennard-Jones, Proc. Phys. Soc. 43, 461 (1931).
    """

    epsilon: float | None = None
    sigma: float | None = None

    lengths = ("sigma",)
    energies = ("epsilon",)

    def _derivatives(self, r: FloatArray) -> Derivatives:
        assert self.epsilon is not None
        assert self.sigma is not None
        s6 = (self.sigma / r) ** 6
        s12 = s6 * s6
        scale = 4.0 * self.epsilon
        return (
            scale * (s12 - s6),
            scale * (6.0 * s6 - 12.0 * s12) / r,
            scale * (156.0 * s12 - 42.0 * s6) / r**2,
        )

    def _guess(self, length: float, energy: float) -> dict[str, float]:
        return {"epsilon": energy, "sigma": length / 2 ** (1 / 6)}

    def _least(self, name: str, shortest: float) -> float:
        """Keep the minimum from falling below `shortest`."""
        return shortest / 2 ** (1 / 6) if name == "sigma" else 0.0

    def _most(self, name: str) -> float:
        """No pair binds more than the strongest bond there is."""
        return STRONGEST_BOND if name == "epsilon" else np.inf


def _morse(r: FloatArray, depth: Any, width: Any, r_0: Any) -> Derivatives:
    """`Morse`, with numbers or one of each for every distance."""
    # far below r_0 any finite number will do: nothing but a wall is seen there
    x = np.exp(np.minimum((r_0 - r) / width, 300.0))
    slope = 2.0 * depth / width
    return (
        depth * x * (x - 2.0),
        -slope * x * (x - 1.0),
        slope / width * x * (2.0 * x - 1.0),
    )


@dataclass(frozen=True)
class Morse(PairFunction):
    r"""Morse's bond.

    The anharmonic well of [1]_:

    .. math:: V(r) = D [e^{-2 (r - r_0)/w} - 2 e^{-(r - r_0)/w}]

    Parameters
    ----------
    depth : float, optional
        D [eV]; None to fit it.
    width : float, optional
        w [Å], the inverse of the exponent often called a; None to fit it.
    r_0 : float, optional
        Distance of least energy [Å]; None to fit it.

    Raises
    ------
    ValueError
        If a parameter is given and not positive.

    References
    ----------
    .. [1] Morse, Phys. Rev. 34, 57 (1929).
    """

    depth: float | None = None
    width: float | None = None
    r_0: float | None = None

    lengths = ("width", "r_0")
    energies = ("depth",)

    def _derivatives(self, r: FloatArray) -> Derivatives:
        assert self.depth is not None
        assert self.width is not None
        assert self.r_0 is not None
        return _morse(r, self.depth, self.width, self.r_0)

    def _guess(self, length: float, energy: float) -> dict[str, float]:
        return {"depth": energy, "width": 0.25 * length, "r_0": length}

    def _least(self, name: str, shortest: float) -> float:
        """Keep the minimum from falling below `shortest`, and the bond from a needle."""
        return {"r_0": shortest, "width": SHARPEST_BOND}.get(name, 0.0)

    def _most(self, name: str) -> float:
        """No pair binds more than the strongest bond there is."""
        return STRONGEST_BOND if name == "depth" else np.inf


@dataclass(frozen=True)
class BornMayer(PairFunction):
    r"""Exponential repulsion.

    That of closed shells [1]_:

    .. math:: V(r) = A e^{-r/\rho}

    Parameters
    ----------
    A : float, optional
        [eV]; None to fit it.
    rho : float, optional
        [Å]; None to fit it.

    Raises
    ------
    ValueError
        If a parameter is given and not positive.

    References
    ----------
    .. [1] Born, Mayer, Z. Phys. 75, 1 (1932).
    """

    A: float | None = None
    rho: float | None = None

    lengths = ("rho",)
    energies = ("A",)

    def _derivatives(self, r: FloatArray) -> Derivatives:
        assert self.A is not None
        assert self.rho is not None
        value = self.A * np.exp(-r / self.rho)
        return value, -value / self.rho, value / self.rho**2

    def _guess(self, length: float, energy: float) -> dict[str, float]:
        return {"A": energy * np.exp(8.0), "rho": length / 8.0}

    def _least(self, name: str, shortest: float) -> float:
        """Keep the exponential from becoming a hard sphere."""
        return shortest / 30.0 if name == "rho" else 0.0


@dataclass(frozen=True)
class Buckingham(PairFunction):
    r"""Exponential repulsion and dispersion, damped at short range.

    Buckingham's potential [1]_:

    .. math:: V(r) = A e^{-r/\rho} - f_6(r/\rho) \, C / r^6, \qquad
              f_6(x) = 1 - e^{-x} \sum_{k=0}^6 x^k / k!

    The damping of Tang and Toennies [2]_ takes the range of the repulsion, so that
    dispersion vanishes where the clouds overlap.

    Parameters
    ----------
    A : float, optional
        [eV]; None to fit it.
    rho : float, optional
        [Å]; None to fit it.
    C : float, optional
        [eV Å^6]; None to fit it.
    damping : {"tang-toennies", None}
        None leaves the bare dispersion, which attracts without bound at short range: a
        potential refuses it.

    Raises
    ------
    ValueError
        If a parameter is given and not positive, or the damping is unknown.

    References
    ----------
    .. [1] Buckingham, Proc. R. Soc. Lond. A 168, 264 (1938).
    .. [2] Tang, Toennies, J. Chem. Phys. 80, 3726 (1984), eq. (9).
    """

    A: float | None = None
    rho: float | None = None
    C: float | None = None
    damping: str | None = "tang-toennies"

    lengths = ("rho",)
    energies = ("A", "C")

    def __post_init__(self) -> None:
        """Check parameters and the kind of damping."""
        super().__post_init__()
        if self.damping not in ("tang-toennies", None):
            raise ValueError(f"`damping` must be 'tang-toennies' or None, got {self.damping!r}")

    def _derivatives(self, r: FloatArray) -> Derivatives:
        assert self.A is not None
        assert self.rho is not None
        assert self.C is not None
        repulsion = self.A * np.exp(-r / self.rho)
        bare = self.C / r**6
        f, d, d2 = np.ones_like(r), np.zeros_like(r), np.zeros_like(r)
        if self.damping is not None:
            x = r / self.rho
            from scipy.special import gammainc  # which takes long to import

            f = gammainc(7.0, x)  # the incomplete gamma function is f_6 without cancellation
            d = x**6 * np.exp(-x) / 720.0 / self.rho
            d2 = d * (6.0 / x - 1.0) / self.rho
        return (
            repulsion - bare * f,
            -repulsion / self.rho - bare * (d - 6.0 * f / r),
            repulsion / self.rho**2 - bare * (d2 - 12.0 * d / r + 42.0 * f / r**2),
        )

    def _guess(self, length: float, energy: float) -> dict[str, float]:
        return {
            "A": energy * np.exp(12.0), "rho": length / 12.0, "C": 2.0 * energy * length**6,
        }  # fmt: skip

    def _least(self, name: str, shortest: float) -> float:
        """Keep the exponential from becoming a hard sphere."""
        return shortest / 30.0 if name == "rho" else 0.0


@dataclass(frozen=True)
class ZBL(PairFunction):
    r"""Screened repulsion of nuclei.

    The universal form of [1]_:

    .. math:: V(r) = \frac{e^2}{4 \pi \epsilon_0} \frac{Z_1 Z_2}{r}
              \sum_{k=1}^4 c_k e^{-d_k r / a}, \qquad
              a = \frac{0.88534 \, a_0}{Z_1^{0.23} + Z_2^{0.23}}

    Parameters
    ----------
    z1, z2 : int, optional
        Atomic numbers; a `PairBaseline` fills them in.

    References
    ----------
    .. [1] Ziegler, Biersack, Littmark, The Stopping and Range of Ions in Solids (1985).
    """

    z1: int | None = None
    z2: int | None = None

    def _bind(self, z1: int, z2: int) -> ZBL:
        return ZBL(z1, z2) if self.z1 is None or self.z2 is None else self

    def _derivatives(self, r: FloatArray) -> Derivatives:
        if self.z1 is None or self.z2 is None:
            raise ValueError("ZBL needs atomic numbers: ZBL(z1, z2)")
        length = 0.88534 * Bohr / (self.z1**0.23 + self.z2**0.23)
        rates = _ZBL_RATE / length
        terms = _ZBL_AMPLITUDE * np.exp(-rates * r[:, None])
        screening = terms.sum(axis=1)
        d_screening = -(terms @ rates)
        d2_screening = terms @ rates**2
        bare = COULOMB * self.z1 * self.z2 / r
        return (
            bare * screening,
            bare * (d_screening - screening / r),
            bare * (d2_screening - 2.0 * d_screening / r + 2.0 * screening / r**2),
        )

    def _describe(self, errors: Mapping[str, float]) -> str:
        return "ZBL"


@dataclass(frozen=True)
class Tabulated(PairFunction):
    """A cubic spline through given energies.

    Below the first distance it goes on as a straight line, with which the spline joins
    twice differentiably.

    Parameters
    ----------
    r : sequence of float
        Ascending distances [Å].
    energy : sequence of float
        [eV].

    Raises
    ------
    ValueError
        If there are fewer than four points, numbers that are not finite, or distances
        that are not positive and ascending.
    """

    r: Sequence[float] = ()
    energy: Sequence[float] = ()

    def __post_init__(self) -> None:
        """Check the table; keep it as tuples."""
        r, energy = np.asarray(self.r, dtype=float), np.asarray(self.energy, dtype=float)
        if r.ndim != 1 or r.shape != energy.shape or len(r) < 4:
            raise ValueError(
                "Tabulated needs at least four distances and as many energies, got shapes "
                f"{r.shape} and {energy.shape}"
            )
        if not (np.isfinite(r).all() and np.isfinite(energy).all()):
            raise ValueError("Tabulated needs finite numbers")
        if not (r[0] > 0 and (np.diff(r) > 0).all()):
            raise ValueError("Tabulated needs positive, ascending distances")
        object.__setattr__(self, "r", tuple(r.tolist()))
        object.__setattr__(self, "energy", tuple(energy.tolist()))
        from scipy.interpolate import CubicSpline  # which takes long to import

        spline = CubicSpline(r, energy, bc_type=((2, 0.0), "not-a-knot"))
        object.__setattr__(self, "_spline", spline)

    def _derivatives(self, r: FloatArray) -> Derivatives:
        spline: Callable[..., FloatArray] = vars(self)["_spline"]
        inside = np.maximum(r, self.r[0])
        slope = spline(inside, 1)
        return spline(inside) + slope * (r - inside), slope, spline(inside, 2)

    def _describe(self, errors: Mapping[str, float]) -> str:
        return f"Tabulated at {len(self.r)} distances, {self.r[0]:.3g} to {self.r[-1]:.3g} Å"


FUNCTIONS: dict[str, type[PairFunction]] = {
    cls.__name__: cls for cls in (LennardJones, Morse, BornMayer, Buckingham, ZBL, Tabulated)
}


def from_dict(data: Mapping[str, Any]) -> PairFunction:
    """Inverse of `PairFunction.to_dict`."""
    if data["function"] == "PairSum":
        return PairSum(tuple(from_dict(part) for part in data["parts"]))
    return FUNCTIONS[data["function"]](**{k: v for k, v in data.items() if k != "function"})


@dataclass(frozen=True)
class Bonds:
    """Morse functions of several pairs of species, evaluated together.

    Attributes
    ----------
    table : ndarray of shape (n, 3)
        Depth, width and r_0 of each [eV, Å, Å].
    """

    table: FloatArray

    @classmethod
    def of(cls, functions: Sequence[PairFunction | None]) -> Bonds | None:
        """None where one of them is anything else."""
        if not all(type(f) is Morse and not f.open for f in functions):
            return None
        rows = [[getattr(f, name) for name in ("depth", "width", "r_0")] for f in functions]
        return cls(np.array(rows, dtype=float).reshape(-1, 3))

    def derivatives(self, r: FloatArray, which: IntArray) -> Derivatives:
        """As `PairFunction.derivatives`, of the function that each distance names."""
        depth, width, r_0 = self.table[which].T
        return _morse(r, depth, width, r_0)


def combine(a: PairFunction, b: PairFunction, rule: str) -> PairFunction:
    """Function of an unlike pair from those of the like pairs.

    Parameters
    ----------
    a, b : PairFunction
        Of the same form.
    rule : {"lorentz-berthelot", "geometric"}
        Lengths by the arithmetic mean and everything else by the geometric mean, or all
        by the geometric mean.

    Returns
    -------
    PairFunction

    Raises
    ------
    ValueError
        If the forms differ, or one is a table.
    """
    first, second = parts_of(a), parts_of(b)
    alike = [type(p) for p in first] == [type(p) for p in second]
    if not alike or any(isinstance(p, Tabulated) for p in first):
        raise ValueError(
            f"no combination rule for {a.describe()} with {b.describe()}: give a function for the "
            "unlike pair"
        )
    parts = []
    for p, q in zip(first, second, strict=True):
        values = {}
        for name in (*p.energies, *p.lengths):
            x, y = getattr(p, name), getattr(q, name)
            arithmetic = rule == "lorentz-berthelot" and name in p.lengths
            values[name] = 0.5 * (x + y) if arithmetic else float(np.sqrt(x * y))
        blank = {"z1": None, "z2": None} if isinstance(p, ZBL) else {}
        parts.append(replace(p, **values, **blank))
    return as_function(parts)
