"""The path of a search over kernels: a pattern search [1]_ within a budget.

One step along one axis at a time, as far as it helps; steps shrink when none does.

References
----------
.. [1] Hooke, Jeeves, J. ACM 8, 212 (1961).
"""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass

import numpy as np

from kernelpot.common.types import Progress
from kernelpot.hypersearch.candidates import Candidate, Judge, Terms
from kernelpot.hypersearch.record import Record
from kernelpot.hypersearch.space import Axis, Space

_log = logging.getLogger("kernelpot")
# A candidate must lower the (logarithmic) score by this much, ...
MINIMUM_GAIN = 0.002
# ... and by so much more for each doubling of the number of sparse points.
PRICE_OF_DOUBLING = 0.05
# Exponents of the steps of successive sweeps.
REFINEMENTS = (1.0, 0.5, 0.25)
_UNITS = {"s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Budget:
    """How far a search may go: candidates, or seconds."""

    candidates: int | None = None
    seconds: float | None = None

    @classmethod
    def of(cls, budget: int | str) -> Budget:
        """Read a number of candidates, or a time such as ``"30min"``."""
        wrong = ValueError(
            "`budget` must be a positive number of candidates, or a time such as '90s', '30min' "
            f"or '2h', got {budget!r}"
        )
        if isinstance(budget, str):
            found = re.fullmatch(r"\s*([0-9.]+)\s*([a-z]*)\s*", budget.lower())
            if found is None:
                raise wrong
            number, unit = found.groups()
            try:
                value = float(number)
            except ValueError:
                raise wrong from None
            if unit:
                if unit not in _UNITS or not value > 0:
                    raise wrong
                return cls(seconds=value * _UNITS[unit])
            budget = int(value) if value == int(value) else 0
        if isinstance(budget, bool) or not isinstance(budget, (int, np.integer)) or budget < 1:
            raise wrong
        return cls(candidates=int(budget))

    def share(self, n: int, seconds: float) -> float:
        """Share that is spent."""
        return n / self.candidates if self.candidates else seconds / (self.seconds or 1.0)


class _BudgetSpent(Exception):
    """No candidate may be tried any more."""


class Path:
    """A pattern search over candidates.

    Attributes
    ----------
    tried : list of Candidate
        In the order tried.
    best : int
        The one accepted last.
    """

    def __init__(
        self,
        judge: Judge,
        space: Space,
        record: Record,
        budget: Budget,
        progress: Progress | None,
    ) -> None:
        self.tried: list[Candidate] = []
        self.best = 0
        self._judge = judge
        self._space = space
        self._record = record
        self._budget = budget
        self._progress = progress

    def walk(self) -> bool:
        """Search until no step helps (True) or the budget is spent (False)."""
        first = self._try(self._space.start, "the start")
        if first.failure is not None:
            raise ValueError(f"the start of the search cannot be fitted: {first.failure}")
        first.accepted = True
        try:
            for refinement in REFINEMENTS:
                while self._sweep(refinement):
                    pass
        except _BudgetSpent:
            return False
        return True

    def _sweep(self, refinement: float) -> bool:
        """Go along every axis as far as it helps; whether any did."""
        before = self.best
        for axis in self._space.axes:
            for sign in (1, -1):
                start = self.best
                while self._step(axis, sign, refinement):
                    pass
                if self.best != start:
                    break
        return self.best != before

    def _step(self, axis: Axis, sign: int, refinement: float) -> bool:
        """Try one step from the best; whether it was accepted."""
        best = self.tried[self.best]
        terms = self._space.move(best.terms, axis, sign, refinement)
        if terms is None or any(c.terms == terms for c in self.tried):
            return False
        words = self._space.words(axis, sign, refinement)
        found = self._try(terms, words)
        if found.failure is not None:
            return False
        growth = np.log2(sum(found.n_sparse) / sum(best.n_sparse))
        required = MINIMUM_GAIN + PRICE_OF_DOUBLING * max(0.0, float(growth))
        if not np.log(found.score) < np.log(best.score) - required:
            return False
        found.accepted = True
        self.best = len(self.tried) - 1
        return True

    def _try(self, terms: Terms, change: str) -> Candidate:
        """Fit and score a candidate, or take it from the checkpoint.

        Raises
        ------
        _BudgetSpent
            If the budget does not allow another.
        """
        spent = self._budget.share(len(self.tried), sum(c.seconds for c in self.tried))
        if self.tried and spent >= 1.0:
            raise _BudgetSpent
        if self._progress is not None:
            self._progress("search", min(spent, 1.0), 1.0)
        candidate = self._record.find(terms)
        if candidate is None:
            started = time.perf_counter()
            candidate = Candidate(terms)
            try:
                candidate.errors, candidate.n_sparse = self._judge.errors(terms)
            except (ValueError, np.linalg.LinAlgError) as error:
                candidate.failure = " ".join(str(error).split())
            candidate.seconds = time.perf_counter() - started
            self._record.add(candidate, self._judge.noise)
        candidate.change = change
        if candidate.failure is None:
            if not self.tried:
                self._judge.start_from(candidate.errors)
            candidate.score = self._judge.score(candidate.errors)
        self.tried.append(candidate)
        outcome = candidate.failure or f"score {candidate.score:.4f}"
        _log.info(
            "search: candidate %d, %s: %s (%.1f s)",
            len(self.tried) - 1, change, outcome, candidate.seconds,
        )  # fmt: skip
        return candidate
