"""Where a search over the shapes of kernels may go: axes, steps and bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kernelpot.terms.base import Term
from kernelpot.terms.parameters import Range

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

    def words(self, sign: int, step: float, n_terms: int, additive: bool) -> str:
        """Return what a step along this axis changes."""
        where = "" if n_terms == 1 else f" of term {self.terms[0]}"
        if n_terms > 1 and len(self.terms) > 1:
            where = " of all terms"
        if additive:
            return f"{self.parameter}{where} {'+' if sign > 0 else '-'} {step:g}"
        return f"{self.parameter}{where} {'x' if sign > 0 else '/'} {step:.3g}"


class Space:
    """Bounded space around some terms.

    Parameters
    ----------
    start : sequence of Term
    parameters : sequence of str, optional
        What may change, among `Term.searched` of the terms; by default what each searches by
        default, and what has bounds.
    bounds : mapping of str to (low, high), optional
        Values, inclusive, that replace the default bounds.

    Raises
    ------
    ValueError
        If a name is unknown, a bound makes no sense, or the start lies outside.
    """

    def __init__(
        self,
        start: Sequence[Term],
        parameters: Sequence[str] | None = None,
        bounds: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        given = dict(bounds or {})
        ranges: dict[str, Range] = {}
        for term in start:
            for name, found in term.searched.items():
                ranges.setdefault(name, found)
        if parameters is None:
            parameters = [n for n, found in ranges.items() if found.by_default or n in given]
        elif isinstance(parameters, str):
            parameters = [parameters]
        _check_names("parameters", parameters, ranges)
        _check_names("bounds", given, ranges)
        if not parameters:
            raise ValueError(
                f"`parameters` is empty: name some of {', '.join(ranges)}"
                if ranges
                else "no parameter of these terms is one that a search changes"
            )
        unused = [name for name in given if name not in parameters]
        if unused:
            raise ValueError(
                f"`bounds` of {', '.join(unused)} have no effect: name it in `parameters` too"
            )
        self.parameters = tuple(name for name in ranges if name in parameters)
        self.start = tuple(start)
        self._bounds = [
            {
                name: _bounds(name, term.searched[name], term.value(name), given.get(name), t)
                for name in self.parameters
                if name in term.searched
            }
            for t, term in enumerate(start)
        ]

    @property
    def axes(self) -> list[Axis]:
        """All terms together first, then one by one."""
        having = {
            name: tuple(t for t, own in enumerate(self._bounds) if name in own)
            for name in self.parameters
        }
        together = [Axis(name, terms) for name, terms in having.items()]
        alone = [Axis(name, (t,)) for name, terms in having.items() for t in terms]
        return together if len(self.start) == 1 else together + alone

    def move(
        self, terms: Sequence[Term], axis: Axis, sign: int, refinement: float
    ) -> tuple[Term, ...] | None:
        """Go a step along an axis.

        Parameters
        ----------
        terms : sequence of Term
        axis : Axis
        sign : {1, -1}
        refinement : float
            Exponent of the factor, 1 for a whole step; what is added is never refined.

        Returns
        -------
        tuple of Term or None
            None where every term concerned is at its bound.
        """
        name = axis.parameter
        moved = list(terms)
        for t in axis.terms:
            found, old = self.start[t].searched[name], terms[t].value(name)
            if found.additive:
                new = old + sign * found.step
            else:
                new = old * found.step ** (sign * refinement)
                new = round(new) if found.integer else _rounded(new)
            low, high = self._bounds[t][name]
            moved[t] = terms[t].changed(**{name: min(max(new, low), high)})
        return None if tuple(moved) == tuple(terms) else tuple(moved)

    def words(self, axis: Axis, sign: int, refinement: float) -> str:
        """Return what a step along an axis changes."""
        found = self.start[axis.terms[0]].searched[axis.parameter]
        step = found.step if found.additive else float(found.step**refinement)
        return axis.words(sign, step, len(self.start), found.additive)

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


def _check_names(
    argument: str, names: Sequence[str] | Mapping[str, Any], ranges: Mapping[str, Range]
) -> None:
    unknown = [str(name) for name in names if name not in ranges]
    if unknown:
        raise ValueError(
            f"`{argument}` names {', '.join(unknown)}; what can be searched is {', '.join(ranges)}"
        )


def _bounds(
    name: str, found: Range, value: float | None, given: Any, term: int
) -> tuple[float, float]:
    """Bounds of a parameter of a term; `value` is where it starts."""
    if value is None:
        raise ValueError(f"`{name}` of term {term} has no value to start from")
    if found.integer and value != int(value):
        raise ValueError(
            f"`{name}` of term {term} must be an integer to be searched, got {value!r}; leave "
            f"{name} out of `parameters`"
        )
    if given is None:
        if found.values is not None:
            return min(found.values[0], value), max(found.values[1], value)
        low, high = (factor * value for factor in found.factors or (1.0, 1.0))
        if found.integer:
            return max(int(found.minimum), round(low)), round(high)
        return max(_rounded(low), found.minimum), _rounded(high)
    try:
        low, high = (float(v) for v in given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`bounds` of {name} must be (low, high), got {given!r}") from error
    if not (math.isfinite(low) and math.isfinite(high) and 0 < low <= high):
        raise ValueError(f"`bounds` of {name} must be positive and ascending, got {given!r}")
    if low < found.minimum:
        raise ValueError(f"`bounds` of {name} must not lie below {found.minimum:g}, got {given!r}")
    if found.integer:
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
