"""What every function of one distance can do, and sums of them.

A parameter that is None is open: it is fitted to data before use. Open parameters have
names, in a sum prefixed by the number of their part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np

from kernelpot.common.types import FloatArray

Derivatives = tuple[FloatArray, FloatArray, FloatArray]


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
