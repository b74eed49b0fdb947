"""The errors of structures left out, and one score of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kernelpot.common.types import KINDS, FloatArray, IntArray
from kernelpot.regression.leave_one_out import LeftOut

# A factor of ten away from the start must lower the score by at least this much: where it is
# flat (errors barely fall with ever less noise) nothing is gained by going far.
PULL = 0.05
# Weights of the logarithms of errors in the score, judged on validation splits. Forces are
# what dynamics follow, and their error is an average of many labels, where that of energies
# is one of few structures. Stresses follow from energies, and labels often carry an offset
# or few digits.
WEIGHTS = {"energy": 1.0, "forces": 2.0, "stress": 0.1}
# A structure's error counts at most so many times the 90 % quantile of all: a wrong label
# must not decide.
CAP = 10.0
# Errors of a kind below these are zero by symmetry [eV, eV/Å, eV/Å^3]: rounding of labels.
NEGLIGIBLE = {"energy": 1e-7, "forces": 1e-6, "stress": 1e-8}
# Errors below this share of the mean over all config types are small enough.
FLOOR = 0.2


@dataclass(frozen=True)
class Errors:
    """Mean absolute errors of structures left out, by kind of label.

    Attributes
    ----------
    values : dict of kind to ndarray
        Per atom, per force component, per stress component.
    members : dict of kind to ndarray of int
        Which structure each belongs to.
    """

    values: dict[str, FloatArray]
    members: dict[str, IntArray]

    @classmethod
    def of(cls, left_out: Sequence[LeftOut]) -> Errors:
        """Summarize structures left out."""
        found = {kind: [left.of(kind) for left in left_out] for kind in KINDS}
        return cls(
            {k: np.array([np.abs(e).mean() for e in es if len(e)]) for k, es in found.items()},
            {
                k: np.array([i for i, e in enumerate(es) if len(e)], dtype=np.int64)
                for k, es in found.items()
            },
        )

    @property
    def informative(self) -> tuple[str, ...]:
        """Kinds that have labels, and errors that are not zero by symmetry."""
        return tuple(k for k, e in self.values.items() if len(e) and e.max() > NEGLIGIBLE[k])

    @property
    def weight(self) -> float:
        """Sum of the weights of these kinds; a score that lower by 1 is errors all e times less."""
        return sum(WEIGHTS[kind] for kind in self.informative)

    def mean(self) -> dict[str, float | None]:
        """Over structures; None without labels."""
        return {k: float(e.mean()) if len(e) else None for k, e in self.values.items()}

    def of_type(self, config_types: Sequence[str], name: str) -> Errors:
        """Those of one config type.

        Parameters
        ----------
        config_types : sequence of str
            Of the structures.
        name : str

        Returns
        -------
        Errors
        """
        names = np.array(config_types)
        own = {kind: names[members] == name for kind, members in self.members.items()}
        return Errors(
            {kind: e[own[kind]] for kind, e in self.values.items()},
            {kind: members[own[kind]] for kind, members in self.members.items()},
        )


def in_words(error: float | None) -> str:
    """A mean error for the user; a dash without labels."""
    return "-" if error is None else f"{error:.3g}"


def cap(errors: FloatArray) -> float:
    """What the error of a structure counts at most, among those of all."""
    return CAP * max(float(np.quantile(errors, 0.9)), 1e-3 * float(errors.max()))


class Score:
    """Leave-one-structure-out score: what the search lowers.

    The sum over kinds of weight times log of the mean absolute error: free of units and
    scales. The logarithm is taken config type by config type (each counting by its number
    of structures), or the type with the largest errors alone would decide; an error below
    `FLOOR` of the mean over all types is small enough. No structure counts more than `CAP`
    times the 90 % quantile.

    Parameters
    ----------
    config_types : sequence of str
        Of the structures.
    """

    def __init__(self, config_types: Sequence[str]) -> None:
        self._names = np.array(config_types)

    def __call__(self, found: Errors) -> float:
        """Score of errors."""
        return float(self.influence(found).mean())

    def influence(self, found: Errors) -> FloatArray:
        """Terms, one per structure, whose mean is the score and whose scatter its error.

        To first order, with the caps and floors of these errors.
        """
        n = len(self._names)
        result = np.zeros(n)
        for kind in found.informative:
            errors = found.values[kind]
            e = np.minimum(errors, cap(errors))
            e += FLOOR * e.mean()
            own = self._names[found.members[kind]]
            for name in np.unique(own):
                of_type = np.flatnonzero(own == name)
                mean = e[of_type].mean()
                # first-order change of log(mean) with each member, about its value
                terms = np.log(mean) + e[of_type] / mean - 1.0
                result[found.members[kind][of_type]] += WEIGHTS[kind] * n / len(e) * terms
        return result


def pull(x: FloatArray) -> float:
    """Weak prior toward the start."""
    return PULL * float(np.sum((x / np.log(10.0)) ** 2))
