"""Candidates of a search over kernels, and what they are judged by.

A candidate is a small fit. A fixed share of the structures judges all of them: none takes
sparse points from those, and each of those is left out of the fit in closed form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase.units import GPa

from kernelpot.common.types import KINDS
from kernelpot.data.dataset import Frame
from kernelpot.fit.hyperparameters import Free
from kernelpot.fit.left_out import build_rows, choose_structures
from kernelpot.fit.noise import tune
from kernelpot.fit.pipeline import accumulate
from kernelpot.fit.problem import Problem
from kernelpot.fit.scores import Errors, Score
from kernelpot.fit.settings import Settings
from kernelpot.fit.state import State
from kernelpot.gp.design import Design
from kernelpot.gp.labels import Noise
from kernelpot.regression.factors import GroupedFactor
from kernelpot.regression.leave_one_out import leave_one_out
from kernelpot.terms.base import Term

Terms = tuple[Term, ...]
# Sparse points per term while searching.
N_SPARSE = 300
# Structures that candidates are judged by: this share of the data, within limits.
SHARE = 0.25
FEWEST, MOST = 10, 100
MINIMUM_STRUCTURES = 8


@dataclass
class Candidate:
    """A set of terms, and how it did; the upper half is what a checkpoint holds."""

    terms: Terms
    errors: dict[str, list[float | None]] = field(default_factory=dict)
    n_sparse: list[int] = field(default_factory=list)
    seconds: float = 0.0
    failure: str | None = None

    change: str = ""
    score: float = np.inf
    accepted: bool = False

    @property
    def shape(self) -> list[dict[str, Any]]:
        """What tells candidates apart: the searched parameters of each term."""
        return [{name: term.value(name) for name in term.searched} for term in self.terms]

    def to_dict(self, number: int) -> dict[str, Any]:
        """Entry of `Search.results_`."""

        def mean(kind: str, scale: float = 1.0) -> float | None:
            known = [e for e in self.errors.get(kind, ()) if e is not None]
            return scale * float(np.mean(known)) if known else None

        return {
            "candidate": number,
            "change": self.change,
            "terms": self.shape,
            "score": self.score if np.isfinite(self.score) else None,
            "energy_mae_mev_per_atom": mean("energy", 1e3),
            "forces_mae_ev_per_ang": mean("forces"),
            "stress_mae_gpa": mean("stress", 1.0 / GPa),
            "n_sparse": list(self.n_sparse),
            "seconds": self.seconds,
            "accepted": self.accepted,
            "failure": self.failure,
        }

    def stored(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return {
            "terms": self.shape,
            "errors": self.errors,
            "n_sparse": self.n_sparse,
            "seconds": self.seconds,
            "failure": self.failure,
        }


class Judge:
    """Fits candidates and scores them by structures left out.

    Parameters
    ----------
    problem : Problem
    start : tuple of Term
    given : sequence of str
        Kinds of labels whose noise is not to be chosen.
    seed, n_threads : int
    """

    def __init__(
        self, problem: Problem, start: Terms, given: Sequence[str], seed: int, n_threads: int
    ) -> None:
        self.problem = problem
        self.seed = seed
        self.n_threads = n_threads
        self.noise: Noise | None = None
        self._given = given
        self.chosen = _structures_to_judge_by(
            problem.frames, sum(term.n_sparse or 0 for term in start), seed
        )
        self.config_types = [problem.frames[index].config_type for index in self.chosen]
        self._score = Score(self.config_types)
        self._reference = 0.0
        self._weight = 1.0

    def start_from(self, errors: Mapping[str, Sequence[float | None]]) -> None:
        """Make the first candidate the one that the others are compared with."""
        found = self._unpack(errors)
        self._reference = self._score(found)
        self._weight = found.weight or 1.0

    def score(self, errors: Mapping[str, Sequence[float | None]]) -> float:
        """Weighted geometric mean of the ratios of errors to those at the start."""
        value = self._score(self._unpack(errors)) - self._reference
        return float(np.exp(value / self._weight))

    def errors(self, terms: Terms) -> tuple[dict[str, list[float | None]], list[int]]:
        """Mean absolute error of each structure left out, by kind; numbers of sparse points.

        Raises
        ------
        ValueError, LinAlgError
            If these terms cannot be fitted.
        """
        problem = self.problem
        state = State.chosen(
            [term.changed(n_sparse=None) for term in terms],
            problem.species,
            problem.frames,
            held_out=self.chosen,
            settings=Settings(seed=self.seed),
            usual=[term.n_sparse or N_SPARSE for term in terms],
            constants=problem.constants,
            n_threads=self.n_threads,
        )
        design = state.design
        grouped = accumulate(problem, state, n_threads=self.n_threads)
        rows = build_rows(
            design, problem.frames, problem.noise, self.chosen, n_threads=self.n_threads
        )
        if self.noise is None:
            self.noise = self._choose_noise(design, grouped, rows)
        factor = grouped.posterior(self.noise.sigma)
        left = list(leave_one_out(rows, factor, self.noise.sigma, n_threads=self.n_threads))
        errors = {}
        for kind in KINDS:
            found = [left_out.of(kind) for left_out in left]
            errors[kind] = [float(np.abs(e).mean()) if len(e) else None for e in found]
        counts = [0] * len(terms)
        for block in design.blocks:
            counts[block.term] += len(block.points)
        return errors, counts

    def _choose_noise(self, design: Design, grouped: GroupedFactor, rows: Any) -> Noise:
        """Noise that the start predicts best with; the same for all candidates.

        Better candidates are to be recognized by it, and no model has it (the fit in the end
        chooses anew): an error that a bad start has small by chance must not bind it.
        """
        groups: list[Any] = grouped.groups
        free = Free(
            tuple(g for g in groups if g[0] in KINDS and g[0] not in self._given and not g[1]), ()
        )
        return tune(
            "loo",
            grouped,
            design.layout,
            self.problem.noise,
            free,
            rows,
            self.config_types,
            limited=False,
            n_threads=self.n_threads,
        ).noise

    @staticmethod
    def _unpack(errors: Mapping[str, Sequence[float | None]]) -> Errors:
        known = {
            k: [i for i, e in enumerate(found) if e is not None] for k, found in errors.items()
        }
        values = {k: np.array([errors[k][i] for i in i_k], float) for k, i_k in known.items()}
        return Errors(values, {k: np.array(i_k, dtype=np.int64) for k, i_k in known.items()})


def _structures_to_judge_by(frames: Sequence[Frame], n_columns: int, seed: int) -> list[int]:
    """Indices of frames that no candidate takes sparse points from.

    Raises
    ------
    ValueError
        If there are too few.
    """
    usable = [f for f in frames if f.n_rows and not f.is_isolated_atom]
    if len(usable) < MINIMUM_STRUCTURES:
        raise ValueError(
            f"{len(usable)} structures are too few to search by: candidates would be told apart "
            f"by chance; at least {MINIMUM_STRUCTURES} are needed"
        )
    most = min(MOST, len(usable) // 2, max(FEWEST, round(SHARE * len(usable))))
    chosen = set(choose_structures(frames, max(1, n_columns), max_structures=most, seed=seed))
    for species in sorted({int(z) for f in frames for z in f.atoms.numbers}):
        holders = {i for i, f in enumerate(frames) if len(f) > 1 and species in f.atoms.numbers}
        if holders and holders <= chosen:
            chosen -= holders
    if not chosen:
        raise ValueError(
            "no structures are left to search by: each is too large, or the only one of a species; "
            "search with smaller structures, or with fewer sparse points (`n_sparse`)"
        )
    return sorted(chosen)
