"""Where a search over the shapes of kernels may go: axes, steps and bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kernelpot.terms.soap import SOAPTerm

# One step of each parameter: a factor, or a number to add.
STEPS = {"r_cut": 1.12, "sigma_atom": 1.2, "central_weight": 2.0, "zeta": 1, "n_sparse": 2.0}
PARAMETERS = tuple(STEPS)
# Searched if nothing else is said: more sparse points are always better, and cost.
DEFAULT_PARAMETERS = ("r_cut", "sigma_atom", "central_weight", "zeta")
INTEGERS = ("zeta", "n_sparse")
# Default bounds: factors on the start, or values.
FACTORS = {
    "r_cut": (0.6, 1.6),
    "sigma_atom": (0.4, 2.5),
    "central_weight": (0.1, 10.0),
    "n_sparse": (0.25, 4.0),
}
ZETA = (1, 6)
# Values are rounded to so many significant digits: finer differences mean nothing.
DIGITS = 4


@dataclass(frozen=True)
class Axis:
    """A direction to go: one parameter of some terms.

    Attributes
    ----------
    parameter : str
    terms : tuple of int
    """

    parameter: str
    terms: tuple[int, ...]

    def words(self, sign: int, step: float, n_terms: int) -> str:
        """Return what a step along this axis changes."""
        where = "" if n_terms == 1 else f" of term {self.terms[0]}"
        if n_terms > 1 and len(self.terms) > 1:
            where = " of all terms"
        if self.parameter == "zeta":
            return f"zeta{where} {'+' if sign > 0 else '-'} 1"
        return f"{self.parameter}{where} {'x' if sign > 0 else '/'} {step:.3g}"


class Space:
    """Bounded space around some terms.

    Parameters
    ----------
    start : sequence of SOAPTerm
    parameters : sequence of str, optional
        What may change, among `PARAMETERS`; by default all but `n_sparse`, and that if
        it has bounds.
    bounds : mapping of str to (low, high), optional
        Values, inclusive, that replace the default bounds.

    Raises
    ------
    ValueError
        If a name is unknown, a bound makes no sense, or the start lies outside.
    """

    def __init__(
        self,
        start: Sequence[SOAPTerm],
        parameters: Sequence[str] | None = None,
        bounds: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        given = dict(bounds or {})
        if parameters is None:
            parameters = [p for p in PARAMETERS if p in DEFAULT_PARAMETERS or p in given]
        elif isinstance(parameters, str):
            parameters = [parameters]
        _check_names("parameters", parameters)
        _check_names("bounds", given)
        if not parameters:
            raise ValueError(f"`parameters` is empty: name some of {', '.join(PARAMETERS)}")
        unused = [name for name in given if name not in parameters]
        if unused:
            raise ValueError(
                f"`bounds` of {', '.join(unused)} have no effect: name it in `parameters` too"
            )
        self.parameters = tuple(p for p in PARAMETERS if p in parameters)
        self.start = tuple(start)
        self._bounds = [
            {name: _bounds(name, getattr(term, name), given.get(name), t) for name in parameters}
            for t, term in enumerate(start)
        ]

    @property
    def axes(self) -> list[Axis]:
        """All terms together first, then one by one."""
        n = len(self.start)
        together = [Axis(name, tuple(range(n))) for name in self.parameters]
        alone = [Axis(name, (t,)) for name in self.parameters for t in range(n)]
        return together if n == 1 else together + alone

    def move(
        self, terms: Sequence[SOAPTerm], axis: Axis, sign: int, refinement: float
    ) -> tuple[SOAPTerm, ...] | None:
        """Go a step along an axis.

        Parameters
        ----------
        terms : sequence of SOAPTerm
        axis : Axis
        sign : {1, -1}
        refinement : float
            Exponent of the factor, 1 for a whole step; a zeta always changes by one.

        Returns
        -------
        tuple of SOAPTerm or None
            None where every term concerned is at its bound.
        """
        name = axis.parameter
        moved = list(terms)
        for t in axis.terms:
            old = getattr(terms[t], name)
            if name == "zeta":
                new = old + sign * STEPS[name]
            else:
                new = old * STEPS[name] ** (sign * refinement)
                new = round(new) if name in INTEGERS else _rounded(new)
            low, high = self._bounds[t][name]
            moved[t] = replace(terms[t], **{name: min(max(new, low), high)})
        return None if tuple(moved) == tuple(terms) else tuple(moved)

    def step(self, axis: Axis, refinement: float) -> float:
        """Return the factor of a step."""
        return float(STEPS[axis.parameter] ** refinement)

    def to_dict(self) -> dict[str, Any]:
        """Plain data that identify the space."""
        return {
            "start": [term.to_dict() for term in self.start],
            "parameters": list(self.parameters),
            "bounds": [
                {name: [float(v) for v in pair] for name, pair in sorted(b.items())}
                for b in self._bounds
            ],
        }


def _check_names(argument: str, names: Sequence[str] | Mapping[str, Any]) -> None:
    unknown = [str(name) for name in names if name not in PARAMETERS]
    if unknown:
        raise ValueError(
            f"`{argument}` names {', '.join(unknown)}; what can be searched is "
            f"{', '.join(PARAMETERS)}"
        )


def _bounds(name: str, value: float | None, given: Any, term: int) -> tuple[float, float]:
    """Bounds of a parameter of a term; `value` is where it starts."""
    if value is None:
        raise ValueError(f"`{name}` of term {term} has no value to start from")
    if name in INTEGERS and value != int(value):
        raise ValueError(
            f"`{name}` of term {term} must be an integer to be searched, got {value!r}; leave "
            f"{name} out of `parameters`"
        )
    if given is None:
        if name == "zeta":
            return min(ZETA[0], value), max(ZETA[1], value)
        low, high = (factor * value for factor in FACTORS[name])
        if name in INTEGERS:
            return max(1, round(low)), round(high)
        return max(_rounded(low), 1.01 if name == "r_cut" else 0.0), _rounded(high)
    try:
        low, high = (float(v) for v in given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`bounds` of {name} must be (low, high), got {given!r}") from error
    if not (math.isfinite(low) and math.isfinite(high) and 0 < low <= high):
        raise ValueError(f"`bounds` of {name} must be positive and ascending, got {given!r}")
    if name == "r_cut" and low <= 1.0:
        raise ValueError(f"`bounds` of r_cut must exceed 1 Å, got {given!r}")
    if name in INTEGERS:
        if low != int(low) or high != int(high):
            raise ValueError(f"`bounds` of {name} must be integers, got {given!r}")
        low, high = int(low), int(high)
    if not low <= value <= high:
        raise ValueError(
            f"the search starts from {name} = {value:g} of term {term}, outside its bounds "
            f"{low:g} to {high:g}: widen them, or give a `potential` with other terms to start from"
        )
    return low, high


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
