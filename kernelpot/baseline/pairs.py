"""A sum of pair functions, switched off smoothly, given or fitted to the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations_with_replacement
from typing import Any, ClassVar, cast

import numpy as np
from ase.data import atomic_numbers, chemical_symbols, covalent_radii

from kernelpot.baseline.pair_function import (
    PairFunction,
    as_function,
    is_a_length,
    parameters,
    parts_of,
    with_parameters,
)
from kernelpot.baseline.pair_functions import (
    COMBINATIONS,
    Bonds,
    Morse,
    Tabulated,
    combine,
    from_dict,
)
from kernelpot.baseline.reference import Reference, add_pairs, add_values
from kernelpot.baseline.wall import WALL_OUTER
from kernelpot.common.smoothstep import smoothstep
from kernelpot.common.types import FloatArray, Pair
from kernelpot.data.dataset import Dataset
from kernelpot.data.distances import contact_distances
from kernelpot.data.neighbors import MANY_PAIRS
from kernelpot.data.system import Contribution, System

Functions = Mapping[Pair, PairFunction | None]
SWITCHES = ("energy", "force")
# r_on where none is given, as a share of r_cut.
DEFAULT_ON = 0.7
# Guesses of the depth of a bond that fits start from [eV]; the best result is kept.
DEPTHS = (0.3, 3.0)
# Fitted parameters stay within these factors of the guess for 1 eV and the bond length.
ENERGY_RANGE = 1e-4, 1e4
LENGTH_RANGE = 0.02, 2.5


@dataclass(frozen=True)
class PairBaseline:
    r"""Pair functions by species, twice differentiable up to the cutoff.

    With ``switch="energy"`` the function is multiplied by a C2 step that falls from 1 at
    `r_on` to 0 at `r_cut`. With ``switch="force"`` a polynomial beyond `r_on` lets the
    force and its slope end at `r_cut`, and a constant the energy [1]_: nothing bumps,
    but energies below `r_on` are shifted.

    Parameters
    ----------
    pairs : mapping of (symbol, symbol) to pair function
        For example ``{("Si", "Si"): Morse(depth=1.0, width=0.7, r_0=2.4)}``. A sequence
        of functions is summed; None leaves a pair out. Parameters left None are fitted.
    r_cut : float
        Distance at which energy, force and its slope vanish [Å].
    r_on : float, optional
        Where switching starts [Å], 0.7 of `r_cut` by default.
    switch : {"energy", "force"}
        What is switched.
    combine : {"lorentz-berthelot", "geometric"}, optional
        Rule for pairs of unlike species that are not named.
    errors : mapping, optional
        Standard errors of fitted parameters, kept by `fit`; 0 for one at its bound.

    Raises
    ------
    ValueError
        If a distance, the switch or the rule makes no sense, no pair or one pair twice is
        named, or a table ends before `r_cut`.
    TypeError
        If a pair is given something that is no pair function.

    References
    ----------
    .. [1] Steinbach, Brooks, J. Comput. Chem. 15, 667 (1994).
    """

    pairs: Mapping[Any, PairFunction | Sequence[PairFunction] | None]
    r_cut: float
    r_on: float | None = None
    switch: str = "energy"
    combine: str | None = None
    errors: Mapping[Pair, Mapping[str, float]] = field(default_factory=dict)

    kind: ClassVar[str] = "pairs"
    local: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check every value once; order every pair by atomic number."""
        if not (np.isfinite(self.r_cut) and self.r_cut > 0):
            raise ValueError(f"`r_cut` must be positive, got {self.r_cut!r} Å")
        r_on = DEFAULT_ON * self.r_cut if self.r_on is None else float(self.r_on)
        if not 0 < r_on < self.r_cut:
            raise ValueError(
                f"`r_on` must lie between 0 and r_cut, got r_on {r_on:g} Å and r_cut "
                f"{self.r_cut:g} Å"
            )
        object.__setattr__(self, "r_on", r_on)
        if self.switch not in SWITCHES:
            raise ValueError(f"`switch` must be one of {', '.join(SWITCHES)}, got {self.switch!r}")
        if self.combine is not None and self.combine not in COMBINATIONS:
            raise ValueError(
                f"`combine` must be one of {', '.join(COMBINATIONS)} or None, got {self.combine!r}"
            )
        if not self.pairs:
            raise ValueError("`pairs` must name at least one pair of species, got none")
        ordered: dict[Pair, PairFunction | None] = {}
        for key, value in self.pairs.items():
            pair = _pair(key)
            if pair in ordered:
                raise ValueError(f"`pairs` names {_name(pair)} twice")
            ordered[pair] = None if value is None else as_function(value)
            for part in [] if value is None else parts_of(value):
                if isinstance(part, Tabulated) and part.r[-1] < self.r_cut:
                    raise ValueError(
                        f"the table of {_name(pair)} ends at {part.r[-1]:g} Å, before r_cut "
                        f"{self.r_cut:g} Å: lower r_cut or extend the table"
                    )
        object.__setattr__(self, "pairs", ordered)

    # ---- functions -----------------------------------------------------------------

    @property
    def _given(self) -> dict[Pair, PairFunction | None]:
        return cast(dict[Pair, "PairFunction | None"], self.pairs)

    @cached_property
    def functions(self) -> Functions:
        """Function of every pair of the named species, unlike pairs combined."""
        given = self._given
        species = sorted({z for pair in given for z in pair})
        result: dict[Pair, PairFunction | None] = {}
        for a in species:
            for b in species:
                if a > b:
                    continue
                function = given.get((a, b))
                if (a, b) not in given:
                    like = given.get((a, a)), given.get((b, b))
                    if self.combine is None or like[0] is None or like[1] is None:
                        continue
                    if like[0].open or like[1].open:
                        continue
                    function = combine(like[0], like[1], self.combine)
                result[a, b] = None if function is None else function.bind(a, b)
        return result

    def _function(self, z1: int, z2: int) -> PairFunction | None:
        pair = min(z1, z2), max(z1, z2)
        if pair not in self.functions:
            raise ValueError(_unknown(pair))
        function = self.functions[pair]
        if function is not None and function.open:
            raise ValueError(
                f"{_name(pair)}: {', '.join(function.open)} of {function.describe()} must be "
                "given, or fitted with the potential"
            )
        return function

    def pair_energy(self, r: FloatArray, z1: int, z2: int) -> tuple[FloatArray, FloatArray]:
        """Energy of one pair and its derivative.

        Parameters
        ----------
        r : ndarray of shape (n,)
            Distances [Å].
        z1, z2 : int
            Atomic numbers.

        Returns
        -------
        energy, derivative : ndarray of shape (n,)
            [eV] and [eV/Å].

        Raises
        ------
        ValueError
            If the pair has no function, or one with open parameters.
        """
        function = self._function(z1, z2)
        r = np.asarray(r, dtype=float)
        if function is None:
            return np.zeros(r.shape), np.zeros(r.shape)
        pair = min(z1, z2), max(z1, z2)
        if self.switch == "force" and pair not in self._tails:
            self._tails[pair] = self._tail(function)
        return self._switched(function, r, self._tails.get(pair))

    @cached_property
    def _tails(self) -> dict[Pair, tuple[float, float, float]]:
        """What `_tail` is of each pair."""
        return {}

    def _tail(self, function: PairFunction) -> tuple[float, float, float]:
        """The a, b and shift of ``V(r) + a x^3 + b x^4 - shift`` with x = r - r_on."""
        assert self.r_on is not None
        width = self.r_cut - self.r_on
        v, d, d2 = (float(x[0]) for x in function.derivatives(np.array([self.r_cut])))
        # the polynomial's slope and curvature at r_cut are -V' and -V''
        a = (width * d2 - 3.0 * d) / (3.0 * width**2)
        b = (2.0 * d - width * d2) / (4.0 * width**3)
        return a, b, v + (a + b * width) * width**3

    def _switched(
        self,
        function: PairFunction,
        r: FloatArray,
        tail: tuple[float, float, float] | None,
    ) -> tuple[FloatArray, FloatArray]:
        assert self.r_on is not None
        value, slope, _ = function.derivatives(r)
        inside = r < self.r_cut
        if self.switch == "energy":
            value, slope = self._switched_energy(r, value, slope)
            return np.where(inside, value, 0.0), np.where(inside, slope, 0.0)
        assert tail is not None
        a, b, shift = tail
        x = np.maximum(r - self.r_on, 0.0)
        square = x * x
        value = value + (a + b * x) * (x * square) - shift
        slope = slope + (3.0 * a + 4.0 * b * x) * square
        return np.where(inside, value, 0.0), np.where(inside, slope, 0.0)

    def _switched_energy(
        self, r: FloatArray, value: FloatArray, slope: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Values and slopes within reach, switched off."""
        assert self.r_on is not None
        width = self.r_cut - self.r_on
        step, d_step = smoothstep((self.r_cut - r) / width)
        return value * step, slope * step - value * d_step / width

    def evaluate(self, system: System, result: Contribution) -> None:
        """Add energies and gradients of all pairs within reach.

        Parameters
        ----------
        system : System
        result : Contribution
            Changed in place; a pair's energy is shared half and half.

        Raises
        ------
        ValueError
            If a pair has no function, or one with open parameters.
        """
        if system.pairs.n_pairs > MANY_PAIRS or not self._add_bonds(system, result):
            add_pairs(system, result, self.r_cut, self.pair_energy)

    def _add_bonds(self, system: System, result: Contribution) -> bool:
        """Add the few pairs of a molecule in one go, whatever their species, if all are alike.

        False, and nothing is added, where they are not. It is calls that cost here.
        """
        codes, present = system.pairs.species_codes(system.numbers)
        known = system.pairs.memo.get(id(self))
        if known is None or known[0] is not self or known[1] is not codes:
            functions = [self.functions.get(divmod(code, 1000)) for code in present.tolist()]
            bonds = Bonds.of(functions) if self.switch == "energy" else None
            known = self, codes, np.searchsorted(present, codes), bonds
            system.pairs.memo[id(self)] = known
        _, _, which, bonds = known
        if bonds is None:
            return False
        close = np.flatnonzero(system.distances < self.r_cut)
        if len(close):
            r = system.distances[close]
            value, slope, _ = bonds.derivatives(r, which[close])
            add_values(system, result, close, r, *self._switched_energy(r, value, slope))
        return True

    # ---- fitting -------------------------------------------------------------------

    def fit(self, data: Dataset, species: Sequence[int], known: Reference) -> PairBaseline:
        """Fit open parameters by robust least squares to energies, forces and virials.

        Each kind of label counts alike, in units of its spread, with the loss soft L1.
        Where e0 are energies of free atoms, energies are binding energies; where e0 are
        least squares, a constant per species is fitted beside and dropped, for their
        zero means nothing. The minimum of a pair stays above the distance at which the
        wall ends, so that closer is always higher.

        Parameters
        ----------
        data : Dataset
        species : sequence of int
            Atomic numbers whose pairs must have a function.
        known : Reference
            What is explained already.

        Returns
        -------
        PairBaseline
            With every parameter and the standard errors of the fitted ones.

        Raises
        ------
        ValueError
            If a pair of `species` has no function, or open parameters and no data.
        """
        found = self._fitted(data, known) if self._open else self
        for a in species:
            for b in species:
                if a <= b and (a, b) not in found.functions:
                    raise ValueError(_unknown((a, b)))
        return found

    @property
    def _open(self) -> dict[Pair, PairFunction]:
        return {pair: f for pair, f in self._given.items() if f is not None and f.open}

    def _fitted(self, data: Dataset, known: Reference) -> PairBaseline:
        from kernelpot.baseline import pairs_fit  # SciPy's optimizers take long to import

        frames = pairs_fit.some_frames(data)
        bonds = pairs_fit.bond_lengths(frames, self.r_cut)
        opened = self._open
        unseen = [_name(pair) for pair in opened if pair not in bonds]
        if unseen:
            raise ValueError(
                f"the data have no pair {', '.join(unseen)} closer than r_cut {self.r_cut:g} Å to "
                "fit to: give the parameters, or a longer r_cut"
            )
        contact = contact_distances(data, data.species)
        names = [(pair, name) for pair, function in opened.items() for name in function.open]

        def guess(energy: float) -> FloatArray:
            return np.log(
                [
                    value
                    for pair, function in opened.items()
                    for value in parameters(function.start(bonds[pair], energy), function.open)
                ]
            )

        def filled(logarithms: FloatArray) -> PairBaseline:
            values: dict[Pair, dict[str, float]] = {}
            for (pair, name), value in zip(names, np.exp(logarithms), strict=True):
                values.setdefault(pair, {})[name] = float(value)
            new = {pair: with_parameters(opened[pair], v) for pair, v in values.items()}
            return replace(self, pairs={**self.pairs, **new}, errors={})

        every = sorted(bonds)
        for pair in every:
            if pair not in filled(guess(1.0)).functions:
                raise ValueError(_unknown(pair))
        design = pairs_fit.labels(frames, known, every, self.r_cut)

        def table(logarithms: FloatArray) -> FloatArray:
            trial = filled(logarithms)
            parts = [trial.pair_energy(design.knots, *pair) for pair in every]
            return np.concatenate([np.concatenate(part) for part in parts])

        middle = guess(1.0)
        is_length = np.array([is_a_length(opened[pair], name) for pair, name in names])
        low = np.where(is_length, *(np.log(x[0]) for x in (LENGTH_RANGE, ENERGY_RANGE))) + middle
        high = np.where(is_length, *(np.log(x[1]) for x in (LENGTH_RANGE, ENERGY_RANGE))) + middle
        limits = [opened[p].bounds(name, WALL_OUTER * contact[p]) for p, name in names]
        low = np.maximum(low, np.log(np.maximum([least for least, _ in limits], 1e-300)))
        high = np.minimum(high, np.log([most for _, most in limits]))
        best = min(
            (pairs_fit.solve(design, table, guess(e), low, high) for e in DEPTHS),
            key=lambda solution: solution.cost,
        )
        spread = np.exp(best.logarithms) * np.sqrt(np.diag(best.covariance))
        margin = np.minimum(best.logarithms - low, high - best.logarithms)
        spread = np.where(margin < 1e-4, 0.0, spread)
        errors: dict[Pair, dict[str, float]] = {}
        for (pair, name), error in zip(names, spread, strict=True):
            errors.setdefault(pair, {})[name] = float(error)
        return replace(filled(best.logarithms), errors=errors)

    # ---- file and report -----------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the model file.

        Returns
        -------
        dict
        """
        return {
            "kind": self.kind,
            "pairs": [
                [a, b, None if f is None else f.to_dict()]
                for (a, b), f in sorted(self._given.items(), key=lambda item: item[0])
            ],
            "r_on": self.r_on,
            "r_cut": self.r_cut,
            "switch": self.switch,
            "combine": self.combine,
            "errors": [[a, b, dict(e)] for (a, b), e in sorted(self.errors.items())],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PairBaseline:
        """Inverse of `to_dict`.

        Parameters
        ----------
        data : mapping

        Returns
        -------
        PairBaseline
        """
        return cls(
            {(a, b): None if f is None else from_dict(f) for a, b, f in data["pairs"]},
            data["r_cut"],
            data["r_on"],
            data["switch"],
            data["combine"],
            {(a, b): e for a, b, e in data["errors"]},
        )

    @classmethod
    def example(cls, species: Sequence[int]) -> PairBaseline:
        """Weak bonds of all pairs, to try things out with: the tests of all kinds do.

        Parameters
        ----------
        species : sequence of int
            Atomic numbers it will be used for.

        Returns
        -------
        PairBaseline
            Morse functions of 0.1 eV, least at the sum of covalent radii.
        """
        bonds = {
            (a, b): Morse(depth=0.1, width=0.6, r_0=float(covalent_radii[a] + covalent_radii[b]))
            for a, b in combinations_with_replacement(sorted(species), 2)
        }
        return cls(bonds, r_cut=5.0)

    def describe(self) -> list[str]:
        """Return a heading and one line per pair of species for reports.

        Returns
        -------
        list of str
        """
        heading = f"Pair functions ({self.switch} switched off from {self.r_on:.2f} to "
        lines = [f"{heading}{self.r_cut:.2f} Å; eV, Å):"]
        shown = {**self._given, **self.functions}
        for pair in sorted(shown):
            function = shown[pair]
            errors = self.errors.get(pair)
            text = "none" if function is None else function.describe(errors)
            combined = "" if pair in self.pairs else f" ({self.combine})"
            lines.append(f"{_name(pair)}: {text}{combined}")
        return lines


def _pair(key: Any) -> Pair:
    """Atomic numbers, ascending, of a pair of symbols or numbers."""
    if isinstance(key, str) or not isinstance(key, Sequence) or len(key) != 2:
        raise ValueError(f"a pair must be two species such as ('Si', 'O'), got {key!r}")
    numbers = []
    for species in key:
        number = atomic_numbers.get(species) if isinstance(species, str) else species
        if not isinstance(number, (int, np.integer)) or not 0 < number < len(chemical_symbols):
            raise ValueError(f"not a chemical symbol or atomic number in a pair: {species!r}")
        numbers.append(int(number))
    return min(numbers), max(numbers)


def _name(pair: Pair) -> str:
    return f"{chemical_symbols[pair[0]]}-{chemical_symbols[pair[1]]}"


def _unknown(pair: Pair) -> str:
    a, b = (chemical_symbols[z] for z in pair)
    rule = "" if a == b else ", or a rule such as combine='lorentz-berthelot' for unlike pairs"
    return (
        f"PairBaseline has no function for {a}-{b}: add ('{a}', '{b}') to `pairs` (None for no "
        f"interaction){rule}"
    )
