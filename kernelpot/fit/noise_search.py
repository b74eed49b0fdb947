"""The search for noise and prior scales: maximal evidence, minimal left-out error.

The left-out error is lowered under a constraint: no kind of label and no config type may
get worse than at the start (`kernelpot.fit.limits`), however much others gain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import NonlinearConstraint, minimize

from kernelpot.common.types import FloatArray, Progress
from kernelpot.fit.hyperparameters import Candidates, Free
from kernelpot.fit.limits import Limits
from kernelpot.fit.scores import PULL, Errors, Score, pull
from kernelpot.gp.labels import ABSOLUTE
from kernelpot.regression.leave_one_out_quick import GramFactor, QuickLeaveOneOut
from kernelpot.regression.rows import StructureRows

# Values stay within this factor of the start.
BOUND = 100.0
# The search starts from the evidence's values if their score is lower by this much, and goes
# on toward forbidden values while theirs is.
MINIMUM_GAIN = 0.01
# The search aims this much below the largest errors allowed (in logarithms), and accepts half
# of it: it ends on the limit, give or take, values are rounded in the end, and the search
# computes errors in single precision.
MARGIN = 0.01
# Halvings of a step from allowed to forbidden values.
HALVINGS = 4
# First and last step of the search, as factors.
FIRST_STEP, LAST_STEP = 3.0, 1.05
# Floating-point operations one search may take, about; bounds on evaluations.
MAX_WORK = 1.5e12
MINIMUM_EVALUATIONS, MAXIMUM_EVALUATIONS = 12, 50
# Columns the evidence is maximized with as a start for the search.
EVIDENCE_COLUMNS_START = 600
MAX_EVIDENCE_ITERATIONS = 30


class Trial(NamedTuple):
    """A point of the search.

    Attributes
    ----------
    x : ndarray of shape (n_parameters,)
    value : float
        Score and pull toward the start.
    excess : ndarray of shape (n_limited,)
        Of `Limits`.
    """

    x: FloatArray
    value: float
    excess: FloatArray

    @property
    def allowed(self) -> bool:
        """Whether errors stay below the limits, by half of the margin."""
        return bool(np.all(self.excess <= -0.5 * MARGIN))


class Trials:
    """Points of the search, each evaluated once.

    Parameters
    ----------
    evaluate : callable
        Vector to `Errors`.
    score : Score
    limits : Limits
    at_start : Errors
        Of the vector that is zero.
    n_parameters : int
    """

    def __init__(
        self,
        evaluate: Callable[[FloatArray], Errors],
        score: Score,
        limits: Limits,
        at_start: Errors,
        n_parameters: int,
    ) -> None:
        self._evaluate = evaluate
        self._score = score
        self._limits = limits
        self._known: dict[bytes, Trial] = {}
        self.start = self._add(np.zeros(n_parameters), at_start)

    def __len__(self) -> int:
        """Return the number of points evaluated, the start among them."""
        return len(self._known)

    def __call__(self, x: FloatArray) -> Trial:
        """Evaluate a point, unless it is known."""
        return self._known.get(x.tobytes()) or self._add(x, self._evaluate(x))

    def _add(self, x: FloatArray, errors: Errors) -> Trial:
        trial = Trial(x.copy(), self._score(errors) + pull(x), self._limits.excess(errors))
        self._known[x.tobytes()] = trial
        return trial

    def best(self) -> Trial:
        """The point of lowest value, allowed or not."""
        return min(self._known.values(), key=lambda trial: trial.value)

    def allowed(self) -> list[Trial]:
        """Points that are allowed, best first; the start is always among them."""
        return sorted((t for t in self._known.values() if t.allowed), key=lambda t: t.value)

    @property
    def improved(self) -> bool:
        """Whether some allowed point is better than the start."""
        return self.allowed()[0].value < self.start.value - MINIMUM_GAIN


def maximize_evidence(candidates: Candidates) -> FloatArray:
    """Vector of the largest evidence, with a weak pull toward the start.

    Parameters
    ----------
    candidates : Candidates

    Returns
    -------
    ndarray of shape (n_parameters,)
    """

    def objective(x: FloatArray) -> tuple[float, FloatArray]:
        value, gradient = candidates.evidence(x)
        return value + pull(x), gradient + 2.0 * PULL * x / np.log(10.0) ** 2

    n = len(candidates.free.names)
    limit = np.log(BOUND)
    found = minimize(
        objective,
        np.zeros(n),
        jac=True,
        method="L-BFGS-B",
        bounds=[(-limit, limit)] * n,
        options={"maxiter": MAX_EVIDENCE_ITERATIONS, "ftol": 1e-7},
    )
    return np.asarray(found.x)


def minimize_left_out(
    start: Candidates,
    at_start: Errors,
    limits: Limits,
    structures: Sequence[StructureRows],
    config_types: Sequence[str],
    n_threads: int,
    progress: Progress | None,
) -> Trials:
    """Search from the better of defaults and evidence.

    Parameters
    ----------
    start : Candidates
    at_start : Errors
    limits : Limits
    structures : sequence of StructureRows
        Left out one at a time.
    config_types : sequence of str
        Of these.
    n_threads : int
    progress : callable, optional

    Returns
    -------
    Trials
        All that was tried.
    """
    budget = affordable(start.grouped.n_features, sum(len(rows.y) for rows in structures))
    fast = GramFactor.of(start.grouped)
    leave_out = QuickLeaveOneOut(structures, n_threads=n_threads)

    def evaluate(x: FloatArray) -> Errors:
        if progress is not None:
            progress("hyper-parameters", min(len(trials) + 1, budget), budget)
        sigma, scale = start.noise_at(x).sigma, start.scale_at(x)
        return Errors.of(leave_out(fast.posterior(sigma, scale), sigma, scale))

    trials = Trials(evaluate, Score(config_types), limits, at_start, len(start.free.names))
    directions = independent_directions(start.free, start.grouped.groups)
    # a model of all directions, and some steps by it
    fewest = 2 * len(directions) + 6
    begin = _begin(trials, trials(maximize_evidence(start.smaller(EVIDENCE_COLUMNS_START))))
    _descend(trials, begin, directions, max(budget - len(trials) - HALVINGS, fewest))
    if begin is not trials.start and not trials.improved:
        _descend(trials, trials.start, directions, fewest)
    advance(trials, trials.allowed()[0], trials.best())
    return trials


def _begin(trials: Trials, by_evidence: Trial) -> Trial:
    """Where to search from: the start, or where the evidence leads if that is better.

    If what it leads to is forbidden, allowed values on the way, or else around it.
    """
    if by_evidence.value > trials.start.value - MINIMUM_GAIN:
        return trials.start
    advance(trials, trials.start, by_evidence)
    return trials.allowed()[0] if trials.improved else by_evidence


def _descend(trials: Trials, begin: Trial, directions: FloatArray, n_evaluations: int) -> None:
    """Lower the value from a point on, within the limits."""
    limit = np.log(BOUND)

    def at(u: FloatArray) -> Trial:
        return trials(np.clip(begin.x + directions.T @ u, -limit, limit))

    within = NonlinearConstraint(lambda u: at(u).excess, -np.inf, -MARGIN)
    minimize(
        lambda u: at(u).value,
        np.zeros(len(directions)),
        method="COBYQA",
        constraints=(within,) if len(begin.excess) else (),
        options={
            "maxfev": n_evaluations,
            "initial_tr_radius": np.log(FIRST_STEP),
            "final_tr_radius": np.log(LAST_STEP),
        },
    )


def advance(trials: Trials, inside: Trial, outside: Trial) -> None:
    """Try points between one that is allowed and a better one that is not.

    Parameters
    ----------
    trials : Trials
    inside, outside : Trial
    """
    for _ in range(HALVINGS):
        if outside.allowed or outside.value > inside.value - MINIMUM_GAIN:
            return
        middle = trials(0.5 * (inside.x + outside.x))
        if middle.allowed:
            inside = middle
        else:
            outside = middle


def farthest_allowed(x: FloatArray, allowed: Callable[[FloatArray], bool]) -> float:
    """Part of the way from the start to a point that may be gone.

    Parameters
    ----------
    x : ndarray of shape (n_parameters,)
    allowed : callable
        Whether a point is; the start is.

    Returns
    -------
    float
        1 where `x` itself is allowed, 0 where nothing near the start is.
    """
    if allowed(x):
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        if allowed(middle * x):
            low = middle
        else:
            high = middle
    return low


def independent_directions(free: Free, groups: Sequence[Any]) -> FloatArray:
    """Rows to move along, independent of each other.

    All sigmas together (against the prior), those of energies, those of stresses, each
    config type with a sigma of its own, deltas. The first delta is left out where every
    sigma is free: all deltas against these is the first direction.

    Parameters
    ----------
    free : Free
    groups : sequence of Group
        All that there are.

    Returns
    -------
    ndarray of shape (n_directions, n_parameters)
    """
    all_free = set(free.groups) >= set(groups) - {ABSOLUTE}
    unit = np.eye(len(free.names))
    sigmas = unit[: len(free.groups)]
    of_kind = {
        kind: sum(row for row, group in zip(sigmas, free.groups, strict=True) if group[0] == kind)
        for kind in free.kinds
    }
    wanted = [sigmas.sum(axis=0), *(of_kind[k] for k in free.kinds if k != "forces")]
    wanted += [row for row, (_, name) in zip(sigmas, free.groups, strict=True) if name]
    wanted += list(unit[len(free.groups) + all_free :])
    chosen: list[FloatArray] = []
    for row in wanted:
        if np.linalg.matrix_rank(np.array([*chosen, row])) > len(chosen):
            chosen.append(row)
    return np.array(chosen)


def affordable(n_columns: int, n_held: int) -> int:
    """Evaluations the work budget allows (a count, so that results are reproducible).

    Parameters
    ----------
    n_columns : int
    n_held : int
        Rows of the structures left out.
    """
    work = n_columns**2 * (n_held + n_columns / 3.0)
    return int(np.clip(MAX_WORK / work, MINIMUM_EVALUATIONS, MAXIMUM_EVALUATIONS))


def expected_work(n_columns: int, group_rows: Sequence[int], n_held: int) -> float:
    """Floating-point operations of a search in double precision, about (single is twice as fast).

    Parameters
    ----------
    n_columns : int
    group_rows : sequence of int
        Labels of each group.
    n_held : int
        Rows of the structures left out.

    Returns
    -------
    float
    """
    square = float(n_columns) ** 2
    # triangles are combined exactly at the start and in the end
    combined = 2.0 * square * sum(min(rows, n_columns) for rows in group_rows)
    exact = 2.0 * (combined + square * n_held)
    # Cholesky and inverse
    quick = square * (0.5 * n_held + n_columns)
    # a small budget holds no steps between allowed and forbidden values
    evaluations = max(affordable(n_columns, n_held), MINIMUM_EVALUATIONS + 2 * HALVINGS)
    return exact + 0.5 * combined + evaluations * quick
