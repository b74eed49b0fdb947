r"""Functions of one distance: Lennard-Jones, Morse, Buckingham, Born-Mayer, ZBL, tables.

Every function returns energy, first and second derivative; sums are written
``a + b``. A parameter that is None is open: it is fitted to data before use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from ase.units import Bohr
from scipy.interpolate import CubicSpline
from scipy.special import gammainc

FloatArray = npt.NDArray[np.float64]
Derivatives = tuple[FloatArray, FloatArray, FloatArray]

COULOMB = 14.399645478  # e^2 / (4 pi epsilon_0) [eV Å]
_ZBL_AMPLITUDE = np.array([0.18175, 0.50986, 0.28022, 0.02817])
_ZBL_RATE = np.array([3.19980, 0.94229, 0.40290, 0.20162])

# Carbon monoxide is bound by 11.2 eV; a fitted well is no deeper [eV].
STRONGEST_BOND = 12.0

COMBINATIONS = ("lorentz-berthelot", "geometric")


@dataclass(frozen=True)
class PairFunction:
    """Energy of a pair as a function of its distance.

    Attributes
    ----------
    lengths : tuple of str
        Open parameters that are lengths.
    energies : tuple of str
        Other open parameters.
    """

    lengths: ClassVar[tuple[str, ...]] = ()
    energies: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        """Refuse parameters without physical meaning."""
        for name in (*self.energies, *self.lengths):
            value = getattr(self, name)
            if value is not None and not (np.isfinite(value) and value > 0):
                raise ValueError(
                    f"`{name}` of {type(self).__name__} must be positive, or None to be fitted, "
                    f"got {value!r}"
                )

    def __add__(self, other: PairFunction) -> PairSum:
        """Sum of two functions."""
        return PairSum((*parts_of(self), *parts_of(other)))

    @property
    def open(self) -> tuple[str, ...]:
        """Names of the parameters that are to be fitted."""
        return tuple(n for n in (*self.energies, *self.lengths) if getattr(self, n) is None)

    def bind(self, z1: int, z2: int) -> PairFunction:
        """Return the function for a pair of atomic numbers.

        Parameters
        ----------
        z1, z2 : int

        Returns
        -------
        PairFunction
        """
        return self._bind(z1, z2)

    def _bind(self, z1: int, z2: int) -> PairFunction:
        return self

    def derivatives(self, r: FloatArray) -> Derivatives:
        """Energy [eV] and its first and second derivative by distance.

        Parameters
        ----------
        r : ndarray of shape (n,)
            Distances [Å].

        Returns
        -------
        tuple of ndarray of shape (n,)
            [eV], [eV/Å] and [eV/Å^2].
        """
        return self._derivatives(r)

    def _derivatives(self, r: FloatArray) -> Derivatives:
        raise NotImplementedError

    def start(self, length: float, energy: float) -> PairFunction:
        """Fill open parameters with guesses for a bond of this length and energy.

        Parameters
        ----------
        length : float
            [Å].
        energy : float
            [eV].

        Returns
        -------
        PairFunction
        """
        guess = self._guess(length, energy)
        return replace(self, **{name: guess[name] for name in self.open})

    def _guess(self, length: float, energy: float) -> dict[str, float]:
        return {}

    def bounds(self, name: str, shortest: float) -> tuple[float, float]:
        """Bounds of a fitted parameter, so that there is no minimum below `shortest`.

        Parameters
        ----------
        name : str
            As in `open`.
        shortest : float
            [Å].

        Returns
        -------
        tuple of float
        """
        return self._least(name, shortest), self._most(name)

    def _least(self, name: str, shortest: float) -> float:
        return 0.0

    def _most(self, name: str) -> float:
        return np.inf

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the model file.

        Returns
        -------
        dict
        """
        return {
            "function": type(self).__name__,
            **{f.name: getattr(self, f.name) for f in fields(self)},
        }

    def describe(self, errors: Mapping[str, float] | None = None) -> str:
        """Return name and parameters, with their errors where they were fitted.

        Parameters
        ----------
        errors : mapping of parameter to float, optional

        Returns
        -------
        str
        """
        return self._describe(errors or {})

    def _describe(self, errors: Mapping[str, float]) -> str:
        words = []
        for name in (*self.energies, *self.lengths):
            value = getattr(self, name)
            error = errors.get(name)
            text = "to be fitted" if value is None else f"{value:.4g}"
            if error is not None:
                text += f" ± {error:.1g}" if error > 0 else " (at its bound)"
            words.append(f"{name} {text}")
        return " ".join([type(self).__name__, ", ".join(words)]).rstrip()


@dataclass(frozen=True)
class LennardJones(PairFunction):
    r"""Twelve-six potential.

    .. math:: V(r) = 4 \epsilon [(\sigma/r)^{12} - (\sigma/r)^6]

    Parameters
    ----------
    epsilon : float, optional
        Depth [eV]; None to fit it.
    sigma : float, optional
        Distance of zero energy [Å]; None to fit it.
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


@dataclass(frozen=True)
class Morse(PairFunction):
    r"""Morse's bond.

    .. math:: V(r) = D [e^{-2 (r - r_0)/w} - 2 e^{-(r - r_0)/w}]

    Parameters
    ----------
    depth : float, optional
        D [eV]; None to fit it.
    width : float, optional
        w [Å], the inverse of the exponent often called a; None to fit it.
    r_0 : float, optional
        Distance of least energy [Å]; None to fit it.
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
        # far below r_0 any finite number will do: nothing but a wall is seen there
        x = np.exp(np.minimum((self.r_0 - r) / self.width, 300.0))
        slope = 2.0 * self.depth / self.width
        return (
            self.depth * x * (x - 2.0),
            -slope * x * (x - 1.0),
            slope / self.width * x * (2.0 * x - 1.0),
        )

    def _guess(self, length: float, energy: float) -> dict[str, float]:
        return {"depth": energy, "width": 0.25 * length, "r_0": length}

    def _least(self, name: str, shortest: float) -> float:
        """Keep the minimum from falling below `shortest`, and the bond from a needle."""
        return {"r_0": shortest, "width": 0.05 * shortest}.get(name, 0.0)

    def _most(self, name: str) -> float:
        """No pair binds more than the strongest bond there is."""
        return STRONGEST_BOND if name == "depth" else np.inf


@dataclass(frozen=True)
class BornMayer(PairFunction):
    r"""Exponential repulsion.

    .. math:: V(r) = A e^{-r/\rho}

    Parameters
    ----------
    A : float, optional
        [eV]; None to fit it.
    rho : float, optional
        [Å]; None to fit it.
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

    .. math:: V(r) = A e^{-r/\rho} - f_6(r/\rho) \, C / r^6, \qquad
              f_6(x) = 1 - e^{-x} \sum_{k=0}^6 x^k / k!

    The damping of Tang and Toennies [1]_ takes the range of the repulsion, so that
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

    References
    ----------
    .. [1] Tang, Toennies, J. Chem. Phys. 80, 3726 (1984), eq. (9).
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
    r"""Screened repulsion of nuclei, the universal form of [1]_.

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
        spline = CubicSpline(r, energy, bc_type=((2, 0.0), "not-a-knot"))
        object.__setattr__(self, "_spline", spline)

    def _derivatives(self, r: FloatArray) -> Derivatives:
        spline: Callable[..., FloatArray] = vars(self)["_spline"]
        inside = np.maximum(r, self.r[0])
        slope = spline(inside, 1)
        return spline(inside) + slope * (r - inside), slope, spline(inside, 2)

    def _describe(self, errors: Mapping[str, float]) -> str:
        return f"Tabulated at {len(self.r)} distances, {self.r[0]:.3g} to {self.r[-1]:.3g} Å"


@dataclass(frozen=True)
class PairSum(PairFunction):
    """Sum of functions of the same pair, also written ``a + b``.

    Parameters
    ----------
    parts : sequence of PairFunction
    """

    parts: tuple[PairFunction, ...] = ()

    @property
    def open(self) -> tuple[str, ...]:
        """Names of the parameters that are to be fitted, prefixed by their part."""
        return tuple(f"{k}.{name}" for k, part in enumerate(self.parts) for name in part.open)

    def _bind(self, z1: int, z2: int) -> PairSum:
        """Return the function for a pair of atomic numbers."""
        return PairSum(tuple(part.bind(z1, z2) for part in self.parts))

    def _derivatives(self, r: FloatArray) -> Derivatives:
        found = [part.derivatives(r) for part in self.parts]
        value, slope, curvature = (np.sum(part, axis=0) for part in zip(*found, strict=True))
        return value, slope, curvature

    def start(self, length: float, energy: float) -> PairSum:
        """Fill open parameters with guesses; see `PairFunction`."""
        return PairSum(tuple(part.start(length, energy) for part in self.parts))

    def _least(self, name: str, shortest: float) -> float:
        """Lower bound of a fitted parameter."""
        part, inner = name.split(".")
        return self.parts[int(part)].bounds(inner, shortest)[0]

    def _most(self, name: str) -> float:
        """Upper bound of a fitted parameter."""
        part, inner = name.split(".")
        return self.parts[int(part)].bounds(inner, np.inf)[1]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the model file."""
        return {"function": "PairSum", "parts": [part.to_dict() for part in self.parts]}

    def _describe(self, errors: Mapping[str, float]) -> str:
        own = [
            {n.split(".")[1]: e for n, e in errors.items() if n.startswith(f"{k}.")}
            for k in range(len(self.parts))
        ]
        return " + ".join(part.describe(e) for part, e in zip(self.parts, own, strict=True))


FUNCTIONS: dict[str, type[PairFunction]] = {
    cls.__name__: cls for cls in (LennardJones, Morse, BornMayer, Buckingham, ZBL, Tabulated)
}


def parts_of(function: PairFunction | Sequence[PairFunction]) -> tuple[PairFunction, ...]:
    """List the parts of a sum, of a sequence, or the one function there is.

    Raises
    ------
    TypeError
        If something is not a pair function.
    """
    if isinstance(function, PairSum):
        return function.parts
    parts = (function,) if isinstance(function, PairFunction) else function
    if not isinstance(parts, Sequence) or not all(isinstance(p, PairFunction) for p in parts):
        raise TypeError(
            "a pair needs a function such as kernelpot.Morse(), or a sequence to sum, got "
            f"{function!r}"
        )
    return tuple(p for part in parts for p in (parts_of(part) if part is not function else (part,)))


def as_function(function: PairFunction | Sequence[PairFunction]) -> PairFunction:
    """Return one function of what may be a sequence of them."""
    parts = parts_of(function)
    if not parts:
        raise ValueError("a pair needs at least one function, got an empty sequence")
    return parts[0] if len(parts) == 1 else PairSum(parts)


def from_dict(data: Mapping[str, Any]) -> PairFunction:
    """Inverse of `PairFunction.to_dict`."""
    if data["function"] == "PairSum":
        return PairSum(tuple(from_dict(part) for part in data["parts"]))
    return FUNCTIONS[data["function"]](**{k: v for k, v in data.items() if k != "function"})


def parameters(function: PairFunction, names: Sequence[str]) -> list[float]:
    """Values of parameters, by the names `PairFunction.open` gave them."""
    return [
        float(getattr(function.parts[int(n.split(".")[0])], n.split(".")[1]))
        if isinstance(function, PairSum)
        else float(getattr(function, n))
        for n in names
    ]


def is_a_length(function: PairFunction, name: str) -> bool:
    """Whether a parameter, by the name `PairFunction.open` gave it, is a length."""
    if isinstance(function, PairSum):
        part, name = name.split(".")
        function = function.parts[int(part)]
    return name in function.lengths


def with_parameters(function: PairFunction, values: Mapping[str, float]) -> PairFunction:
    """Return the function with other values of some parameters."""
    if not isinstance(function, PairSum):
        return replace(function, **values)
    parts = list(function.parts)
    for name, value in values.items():
        k, inner = name.split(".")
        parts[int(k)] = replace(parts[int(k)], **{inner: value})
    return PairSum(tuple(parts))


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
