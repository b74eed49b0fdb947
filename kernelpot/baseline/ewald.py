r"""Electrostatics of point charges as a term of the baseline.

Each pair of atoms interacts by

.. math:: E(r) = \frac{e^2}{4 \pi \epsilon_0} \, q_i q_j \, \frac{\mathrm{erf}(r / w)}{r}

with a damping width w that is 0.3 of the shortest training distance of the two species:
where there are data it differs from Coulomb's law by less than 3e-6, and inside them it
stays finite, so that no wall is beaten by two charges that fall on each other.
Molecules and clusters are summed pair by pair, crystals by Ewald's method
(`kernelpot.baseline.coulomb`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols, covalent_radii

from kernelpot.baseline.coulomb import CoulombSum, finite_sum, periodic_sum
from kernelpot.baseline.pair_functions import COULOMB
from kernelpot.baseline.reference import Reference
from kernelpot.baseline.wall import Wall
from kernelpot.common.types import FloatArray, Pair
from kernelpot.data.dataset import ISOLATED, Dataset
from kernelpot.data.neighbors import neighbor_list
from kernelpot.data.system import Contribution, System

# Damping width over shortest distance; erfc(1 / 0.3) = 2.4e-6.
WIDTH_FRACTION = 0.3
# A cell of N atoms is neutral up to this times sqrt(N) [e]: what rounding of charges
# in a text file leaves.
NEUTRAL = 1e-4


@dataclass(frozen=True)
class Ewald:
    """Coulomb interaction of point charges, damped at short range.

    In crystals by Ewald's sum [1]_. Structures must be periodic in all three directions or
    in none. A crystal is surrounded by a conductor (no surface term). A free atom - a single
    one further than 7 Å from its images - is alone and needs no charge.

    Parameters
    ----------
    charges : mapping of symbol to float, or str
        Charge of each species [e]; or the name of a per-atom array of ``atoms.arrays``
        such as ``"initial_charges"``; or ``"fit"``: charges per species from the
        training data, see `kernelpot.baseline.charges_fit.fit_charges`.
    accuracy : float, default=1e-8
        Factor ``exp(-s^2)`` that the first terms left out of both of Ewald's sums carry
        (`kernelpot.baseline.coulomb.splitting`). For rattled rock salt of 8 to 14,000 atoms the
        default gives energies within 3e-9 of their value, and forces within 1e-7 eV/Å.
    background : {None, "neutralizing"}
        What to do with a charged periodic cell: refuse it, or fill it with a uniform
        opposite charge.
    widths : float or mapping of (symbol, symbol) to float, optional
        Damping widths [Å], 0 for bare point charges. What is not given is filled in by
        `fit`; less than a third of the shortest training distance.
    errors : mapping of symbol to float, optional
        Standard errors of fitted charges [e], filled in by `fit`.
    ranges : mapping of symbol to (float, float), optional
        Least and largest charge of each species in the training data, filled in by
        `fit` for per-atom charges [e].

    Raises
    ------
    ValueError
        If charges are not finite or name no species, `accuracy` or `background` makes no
        sense, or a width is negative.

    References
    ----------
    .. [1] Ewald, Ann. Phys. 369, 253 (1921).
    """

    charges: Mapping[str, float] | str
    accuracy: float = 1e-8
    background: str | None = None
    widths: Mapping[Any, float] | float | None = None
    errors: Mapping[str, float] | None = None
    ranges: Mapping[str, tuple[float, float]] | None = None

    kind: ClassVar[str] = "ewald"
    # The sums find their own pairs: their reach grows with the cell.
    r_cut: ClassVar[float] = 0.0
    local: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check everything given; key the widths by ordered atomic numbers."""
        if isinstance(self.charges, str):
            if not self.charges:
                raise ValueError("`charges` names no array of atoms.arrays")
        elif isinstance(self.charges, Mapping) and self.charges:
            wrong = [s for s in self.charges if s not in atomic_numbers]
            if wrong:
                raise ValueError(f"`charges`: not a chemical symbol: {', '.join(map(repr, wrong))}")
            bad = {s: q for s, q in self.charges.items() if not np.isfinite(q)}
            if bad:
                raise ValueError(f"`charges` must be finite, got {bad} e")
            object.__setattr__(self, "charges", {s: float(q) for s, q in self.charges.items()})
        else:
            raise ValueError(
                "`charges` must be such as {'Na': 1.0, 'Cl': -1.0}, the name of a per-atom "
                f"array, or 'fit'; got {self.charges!r}"
            )
        if not 1e-15 <= self.accuracy <= 1e-3:
            raise ValueError(f"`accuracy` must be between 1e-15 and 1e-3, got {self.accuracy!r}")
        if self.background not in (None, "neutralizing"):
            raise ValueError(
                f"`background` must be None or 'neutralizing', got {self.background!r}"
            )
        if isinstance(self.widths, Mapping):
            object.__setattr__(
                self, "widths", {_pair(pair): float(w) for pair, w in self.widths.items()}
            )
        given = self.widths.values() if isinstance(self.widths, Mapping) else [self.widths]
        for width in given:
            if width is not None and not (np.isfinite(width) and width >= 0):
                raise ValueError(f"`widths` must not be negative, got {width!r} Å")

    @property
    def array_names(self) -> tuple[str, ...]:
        """Arrays of ``atoms.arrays`` the term reads."""
        return (self.charges,) if isinstance(self.charges, str) and self.charges != "fit" else ()

    def fit(self, data: Dataset, species: Sequence[int], known: Reference) -> Ewald:
        """Fill in damping widths, charges to be fitted, and ranges of per-atom charges.

        Parameters
        ----------
        data : Dataset
        species : sequence of int
            Atomic numbers to serve.
        known : Reference
            What is explained already; charges are fitted to the rest.

        Returns
        -------
        Ewald

        Raises
        ------
        ValueError
            If a charge is missing, a cell is charged, a width reaches into the data, or
            the data cannot determine the charges.
        """
        d_min = Wall().fit(data, species).d_min
        assert d_min is not None
        widths = {pair: WIDTH_FRACTION * d for pair, d in d_min.items()}
        for pair, d in d_min.items():
            given = self.widths.get(pair) if isinstance(self.widths, Mapping) else self.widths
            if given is not None:
                if given >= d / 3:
                    a, b = (chemical_symbols[z] for z in pair)
                    raise ValueError(
                        f"`widths` of {a}-{b} must be below {d / 3:.3f} Å, a third of the shortest "
                        f"distance, got {given:g} Å; leave it out to have it chosen"
                    )
                widths[pair] = float(given)
        term = replace(self, widths=widths)
        if self.charges == "fit":
            from kernelpot.baseline.charges_fit import fit_charges

            fitted = fit_charges(data, species, known, term._sum, neutral=self.background is None)
            term = replace(term, charges=fitted.charges, errors=fitted.errors)
        ranges: dict[str, tuple[float, float]] = {}
        for frame in data:
            charges = term.charges_of(frame.atoms, frame.name)
            for z in set(frame.atoms.numbers) if term.array_names else ():
                own = charges[frame.atoms.numbers == z]
                low, high = ranges.get(chemical_symbols[z], (np.inf, -np.inf))
                bounds = (min(low, float(own.min())), max(high, float(own.max())))
                ranges[chemical_symbols[z]] = bounds
        return replace(term, ranges=ranges or None)

    def charges_of(self, atoms: Atoms, name: str = "structure") -> FloatArray:
        """Charges of a structure, all zero for a free atom [e].

        Parameters
        ----------
        atoms : ase.Atoms
        name : str
            For messages.

        Returns
        -------
        ndarray of shape (n_atoms,)
            [e].

        Raises
        ------
        ValueError
            If charges are missing or not finite, a periodic cell is charged, or the
            structure is periodic in one or two directions.
        """
        if self.background is None and _is_free(atoms):
            return np.zeros(1)
        if self.charges == "fit":
            raise ValueError("the charges are not fitted yet: fit the potential, or give them")
        if isinstance(self.charges, str):
            charges = self._read(atoms, self.charges, name)
        else:
            missing = sorted({s for s in atoms.symbols if s not in self.charges})
            if missing:
                raise ValueError(
                    f"{name}: no charge for {', '.join(missing)}; add it to "
                    "Ewald(charges=...), 0 if it has none"
                )
            charges = np.array([self.charges[s] for s in atoms.symbols])
        pbc = np.asarray(atoms.pbc, dtype=bool)
        if pbc.any() and not pbc.all():
            axes = ", ".join("xyz"[axis] for axis in np.flatnonzero(pbc))
            raise ValueError(
                f"{name} is periodic along {axes} only: Ewald's sum needs three periodic "
                "directions or none; set pbc=True with vacuum in the cell, or pbc=False"
            )
        net = float(charges.sum())
        if pbc.all() and self.background is None and abs(net) > NEUTRAL * np.sqrt(len(atoms)):
            raise ValueError(
                f"{name}: the periodic cell has a net charge of {net:+.6g} e; its energy is "
                "infinite. Correct the charges, or ask for Ewald(..., "
                "background='neutralizing')"
            )
        return charges

    def check(self, atoms: Atoms, name: str) -> None:
        """Refuse a structure as `charges_of`.

        Parameters
        ----------
        atoms : ase.Atoms
        name : str
            For messages.

        Raises
        ------
        ValueError
            As `charges_of`.
        """
        self.charges_of(atoms, name)

    @staticmethod
    def _read(atoms: Atoms, array: str, name: str) -> FloatArray:
        if array not in atoms.arrays:
            raise ValueError(
                f"{name} has no per-atom charges {array!r}; set them with "
                f"atoms.set_array({array!r}, charges), or give charges per species"
            )
        charges = np.array(atoms.arrays[array], dtype=float)
        if charges.shape != (len(atoms),):
            raise ValueError(
                f"{name}: {array} must have shape ({len(atoms)},), got {charges.shape}"
            )
        if not np.isfinite(charges).all():
            raise ValueError(
                f"{name}: {array} of atom {int(np.argmin(np.isfinite(charges)))} is not finite"
            )
        return charges

    def evaluate(self, system: System, result: Contribution) -> None:
        """Add energies, forces and virials of all structures.

        Parameters
        ----------
        system : System
        result : Contribution
            Changed in place; each atom gets half of its charge times the potential.

        Raises
        ------
        ValueError
            As `charges_of`, and before the term has damping widths.
        """
        first = system.first_atom
        for s, atoms in enumerate(system.structures):
            charges = self.charges_of(atoms)
            if not charges.any():
                continue
            found = self._sum(atoms, charges)
            own = slice(first[s], first[s + 1])
            result.energies[own] += COULOMB * found.energies
            result.forces[own] += COULOMB * found.forces
            result.virials[s] += COULOMB * found.virial

    def _sum(self, atoms: Atoms, charges: FloatArray) -> CoulombSum:
        """Coulomb sum of any charges at the places of the atoms, units of e and Å."""
        numbers, kinds = np.unique(atoms.numbers, return_inverse=True)
        widths = np.array([[self.width(int(a), int(b)) for b in numbers] for a in numbers])
        kinds = kinds.astype(np.int64)
        if atoms.pbc.all():
            return periodic_sum(
                atoms.positions, atoms.cell.array, charges, kinds, widths, accuracy=self.accuracy
            )
        return finite_sum(atoms.positions, charges, kinds, widths)

    def width(self, a: int, b: int) -> float:
        """Damping width of a pair of species.

        Parameters
        ----------
        a, b : int
            Atomic numbers.

        Returns
        -------
        float
            [Å].

        Raises
        ------
        ValueError
            Before the term has widths.
        """
        widths = self.widths
        width = widths.get((min(a, b), max(a, b))) if isinstance(widths, Mapping) else widths
        if width is None:
            raise ValueError(
                f"no damping width for {chemical_symbols[a]}-{chemical_symbols[b]} yet: fit the "
                "term, or give `widths` (0 for bare point charges)"
            )
        return float(width)

    def pair_energy(self, r: FloatArray, z1: int, z2: int) -> tuple[FloatArray, FloatArray]:
        """Energy of one pair and its derivative.

        With per-atom charges, those of the training data that attract most (or repel
        least).

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
            Before charges or widths are known.
        """
        ranges = self.ranges or {}
        if isinstance(self.charges, Mapping):
            ranges = {s: (q, q) for s, q in self.charges.items()}
        missing = [chemical_symbols[z] for z in (z1, z2) if chemical_symbols[z] not in ranges]
        if missing:
            raise ValueError(f"no charge known for {missing[0]}: fit the term, or give charges")
        first, second = ranges[chemical_symbols[z1]], ranges[chemical_symbols[z2]]
        product = COULOMB * min(p * q for p in first for q in second)
        width = self.width(z1, z2)
        if width == 0:
            return product / r, -product / r**2
        x = r / width
        from scipy.special import erf  # which takes long to import

        value = erf(x) / r
        slope = (2.0 / (np.sqrt(np.pi) * width) * np.exp(-(x**2)) - value) / r
        return product * value, product * slope

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the model file.

        Returns
        -------
        dict
        """
        widths: Any = self.widths
        if isinstance(widths, Mapping):
            widths = [[a, b, w] for (a, b), w in sorted(widths.items())]
        charges = self.charges
        return {
            "kind": self.kind,
            "charges": charges if isinstance(charges, str) else dict(charges),
            "accuracy": self.accuracy,
            "background": self.background,
            "widths": widths,
            "errors": None if self.errors is None else dict(self.errors),
            "ranges": None
            if self.ranges is None
            else {s: [low, high] for s, (low, high) in self.ranges.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Ewald:
        """Inverse of `to_dict`.

        Parameters
        ----------
        data : mapping

        Returns
        -------
        Ewald
        """
        fields = {name: value for name, value in data.items() if name != "kind"}
        if isinstance(fields["widths"], list):
            fields["widths"] = {(int(a), int(b)): w for a, b, w in fields["widths"]}
        if fields["ranges"] is not None:
            fields["ranges"] = {s: (low, high) for s, (low, high) in fields["ranges"].items()}
        return cls(**fields)

    @classmethod
    def example(cls, species: Sequence[int]) -> Ewald:
        """Small charges, to try things out with: the tests of all kinds do.

        Parameters
        ----------
        species : sequence of int
            Atomic numbers it will be used for.

        Returns
        -------
        Ewald
            With 0.3 e on the first and -0.1 e on the other species, in a neutralizing
            background, and sums so accurate that finite differences see no cutoff.
        """
        first, *others = (chemical_symbols[z] for z in sorted(species))
        widths = {
            (a, b): 0.2 * float(covalent_radii[a] + covalent_radii[b])
            for a, b in combinations_with_replacement(sorted(species), 2)
        }
        return cls(
            {first: 0.3, **dict.fromkeys(others, -0.1)},
            accuracy=1e-13,
            background="neutralizing",
            widths=widths,
        )

    def describe(self) -> list[str]:
        """Return a heading and one line per fact, for reports.

        Returns
        -------
        list of str
        """
        lines = ["Electrostatics of point charges (Ewald's sum; plain Coulomb without pbc):"]
        if isinstance(self.charges, Mapping):
            for symbol, charge in self.charges.items():
                error = (self.errors or {}).get(symbol)
                how = "" if error is None else f" ± {error:.4f} (fitted, standard error)"
                lines.append(f"{symbol}: {charge:+.4f}{how} e")
        elif self.charges == "fit":
            lines.append("charges per species, to be fitted")
        else:
            lines.append(f"charge of each atom from the array {self.charges!r}")
            for symbol, (low, high) in sorted((self.ranges or {}).items()):
                lines.append(f"{symbol}: {low:+.4f} to {high:+.4f} e in the training data")
        if isinstance(self.widths, Mapping):
            damped = ", ".join(
                f"{chemical_symbols[a]}-{chemical_symbols[b]} {w:.2f}"
                for (a, b), w in sorted(self.widths.items())
            )
            lines.append(f"damped by erf(r / w), w in Å: {damped}")
        elif self.widths is not None:
            lines.append(f"damped by erf(r / w), w = {self.widths:.2f} Å")
        lines.append(f"accuracy of the periodic sums {self.accuracy:g}")
        if self.background is not None:
            lines.append("charged cells are neutralized by a uniform background")
        return lines


def _pair(pair: Any) -> Pair:
    """Ordered atomic numbers of a pair of symbols or numbers."""
    try:
        first, second = pair
        a, b = (atomic_numbers[s] if isinstance(s, str) else int(s) for s in (first, second))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"`widths` must be keyed by pairs of symbols such as ('Na', 'Cl'), got {pair!r}"
        ) from error
    return min(a, b), max(a, b)


def _is_free(atoms: Atoms) -> bool:
    """Whether this is a single atom far from its images."""
    return len(atoms) == 1 and neighbor_list(atoms, ISOLATED).n_pairs == 0
