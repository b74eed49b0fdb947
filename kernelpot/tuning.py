"""Noise and prior scales that leave-one-structure-out errors or the evidence prefer.

Maximal evidence is not minimal error on this kind of data: its noise model is wrong
(residuals of one structure are correlated), and it pushes the noise of energies far too
high. So the evidence is one starting point, the fixed defaults the other, and the
closed-form leave-one-structure-out error decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from kernelpot.covariance import Layout
from kernelpot.fitting import Design, Progress
from kernelpot.hyperparameters import (
    effective_parameters,
    evidence,
    leading_columns,
    select_columns,
)
from kernelpot.leave_one_out import LeftOut, StructureRows, leave_one_out
from kernelpot.observations import ABSOLUTE, KINDS, Group, Noise
from kernelpot.parallel import single_blas_thread
from kernelpot.quick_loo import QuickLeaveOneOut
from kernelpot.regression import GramFactor, GroupedFactor, TriangularFactor

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

METHODS = ("loo", "evidence", None)
# Fewer structures say too little: the defaults stay.
MINIMUM_STRUCTURES = 10
# Values stay within this factor of the start.
BOUND = 100.0
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
# The search starts from the evidence's values if their score is lower by this much.
MINIMUM_GAIN = 0.01
# The start stays unless errors fall by this share on (weighted) average, and by so many
# standard errors: a left-out structure may hold sparse points, so leaving it out forgives
# too little regularization, and small gains are of that kind.
WORTHWHILE_GAIN = 0.05
SIGNIFICANCE = 2.0
# First and last step of the search, as factors.
FIRST_STEP, LAST_STEP = 3.0, 1.05
# Floating-point operations one search may take, about; bounds on evaluations.
MAX_WORK = 1.5e12
MINIMUM_EVALUATIONS, MAXIMUM_EVALUATIONS = 12, 50
# Columns the evidence is maximized with: as a start for the search, and on its own.
EVIDENCE_COLUMNS_START, EVIDENCE_COLUMNS = 600, 2000
MAX_EVIDENCE_ITERATIONS = 30


@dataclass(frozen=True)
class Free:
    """What may be changed.

    Attributes
    ----------
    groups : tuple of Group
        Groups of labels whose sigma the user did not give and that the data have.
    terms : tuple of int
        Terms whose delta the user did not give.
    """

    groups: tuple[Group, ...]
    terms: tuple[int, ...]

    @property
    def names(self) -> list[str]:
        """Names of the parameters, in the order of a vector of them."""
        sigmas = [f"sigma_{kind}" + (f" of {name}" if name else "") for kind, name in self.groups]
        return sigmas + [f"delta_{t}" for t in self.terms]

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of labels of the groups, in order."""
        found = {kind for kind, _ in self.groups}
        return tuple(kind for kind in KINDS if kind in found)


@dataclass(frozen=True)
class Tuned:
    """Hyper-parameters chosen, and how.

    Attributes
    ----------
    noise : Noise
    delta : tuple of float
        Factor on the delta of each term.
    record : dict
        ``method``, ``sigmas`` (name to values before and after), ``delta_factors``,
        ``loo`` errors before and after, ``n_evaluations``, ``n_structures``,
        ``n_parameters`` (effective number).
    notes : list of str
        For the user.
    """

    noise: Noise
    delta: tuple[float, ...]
    record: dict[str, Any]
    notes: list[str]

    @classmethod
    def unchanged(cls, noise: Noise, n_terms: int, notes: Sequence[str] = ()) -> Tuned:
        """The start, where nothing is to be chosen."""
        return cls(noise, (1.0,) * n_terms, {"method": None}, list(notes))

    def scale(self, design: Design) -> FloatArray:
        """Scale of each column of rows by the design before the choice."""
        return column_scale(design.whitened, self.delta)


@dataclass(frozen=True)
class Candidates:
    """Any hyper-parameters as a vector of logarithms relative to the start.

    Parameters
    ----------
    grouped : GroupedFactor
    layout : Layout
        Whitened columns of each species and term.
    noise : Noise
        The start.
    free : Free
    """

    grouped: GroupedFactor
    layout: Layout
    noise: Noise
    free: Free

    @property
    def n_terms(self) -> int:
        """Number of terms."""
        return 1 + max(t for _, t in self.layout.blocks)

    def noise_at(self, x: FloatArray) -> Noise:
        """Noise of a vector."""
        groups = zip(self.free.groups, x, strict=False)
        return self.noise.changed(
            {group: self.noise.sigma(group) * float(np.exp(v)) for group, v in groups}
        )

    def delta_at(self, x: FloatArray) -> tuple[float, ...]:
        """Factor on each term's delta."""
        factors = np.ones(self.n_terms)
        factors[list(self.free.terms)] = np.exp(x[len(self.free.groups) :])
        return tuple(map(float, factors))

    def scale_at(self, x: FloatArray) -> FloatArray:
        """Scale of each column."""
        return column_scale(self.layout, self.delta_at(x))

    def posterior(self, x: FloatArray) -> TriangularFactor:
        """Factor of all data."""
        return self.grouped.posterior(self.noise_at(x).sigma, self.scale_at(x))

    def evidence(self, x: FloatArray) -> tuple[float, FloatArray]:
        """Minus twice the log evidence and its gradient."""
        noise = self.noise_at(x)
        groups: list[Any] = self.grouped.groups
        sigma = {group: noise.sigma(group) for group in groups}
        blocks = [
            np.concatenate([np.arange(s.start, s.stop) for (_, u), s in self.layout.blocks.items()
                            if u == t])
            for t in self.free.terms
        ]  # fmt: skip
        found = evidence(self.grouped, sigma, self.scale_at(x), blocks)
        gradient = np.zeros(len(x))
        for group in groups:
            if group in self.free.groups:
                gradient[self.free.groups.index(group)] += found.by_sigma[group]
        gradient[len(self.free.groups) :] = found.by_scale
        return found.value, gradient

    def smaller(self, n_columns: int) -> Candidates:
        """The same with the leading columns of each block only."""
        if n_columns >= self.layout.size:
            return self
        columns = leading_columns(self.layout, n_columns)
        sizes = {
            key: int(np.count_nonzero((columns >= s.start) & (columns < s.stop)))
            for key, s in self.layout.blocks.items()
        }
        return replace(self, grouped=select_columns(self.grouped, columns), layout=Layout.of(sizes))


def column_scale(layout: Layout, delta: Sequence[float]) -> FloatArray:
    """Scale of each whitened column (and the virial offset, which keeps its prior)."""
    scale = np.ones(layout.size + 1)
    for (_, t), columns in layout.blocks.items():
        scale[columns] = delta[t]
    return scale


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
            {k: np.array([i for i, e in enumerate(es) if len(e)]) for k, es in found.items()},
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
            e = np.minimum(errors, CAP * max(float(np.quantile(errors, 0.9)), 1e-3 * errors.max()))
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


def tune(
    method: str | None,
    grouped: GroupedFactor,
    layout: Layout,
    noise: Noise,
    free: Free,
    structures: Sequence[StructureRows],
    config_types: Sequence[str],
    *,
    n_threads: int = 1,
    progress: Progress | None = None,
) -> Tuned:
    """Choose hyper-parameters.

    Parameters
    ----------
    method : {"loo", "evidence", None}
    grouped : GroupedFactor
        Labels of all data at unit noise.
    layout : Layout
        Whitened columns.
    noise : Noise
        The start, and what stays of it: sigmas of groups that are not free.
    free : Free
    structures : sequence of StructureRows
        Some of the structures in `grouped`, which are left out one at a time.
    config_types : sequence of str
        Their config types.
    n_threads : int
    progress : callable, optional

    Returns
    -------
    Tuned
        The start itself where nothing better was found.
    """
    start = Candidates(grouped, layout, noise, free)
    zero = np.zeros(len(free.names))
    if method is None or not free.names:
        return Tuned.unchanged(noise, start.n_terms)
    if len(structures) < MINIMUM_STRUCTURES:
        note = (
            f"hyper-parameters: the defaults, {len(structures)} structures are too few to choose "
            f"by (at least {MINIMUM_STRUCTURES} are needed)"
        )
        return Tuned.unchanged(noise, start.n_terms, [note])
    factor = start.posterior(zero)
    before = errors = Errors.of(_left_out(start, zero, factor, structures, n_threads))
    with single_blas_thread():
        if method == "evidence":
            x = _maximize_evidence(start.smaller(EVIDENCE_COLUMNS))
            used = 0
        else:
            x, used = _minimize_loo(start, before, structures, config_types, n_threads, progress)
    x = _rounded(start, x)
    notes = []
    if method == "evidence" and layout.size > EVIDENCE_COLUMNS:
        notes.append(
            f"the evidence was maximized with the leading {EVIDENCE_COLUMNS} of "
            f"{layout.size} directions"
        )
    if x.any():
        chosen = start.posterior(x)
        errors = Errors.of(_left_out(start, x, chosen, structures, n_threads))
        if method == "evidence" or _worthwhile(before, errors, config_types):
            factor = chosen
        else:
            x, errors = zero, before
    at_bound = [n for n, v in zip(free.names, x, strict=True) if abs(v) > np.log(BOUND) - 1e-6]
    if at_bound:
        notes.append(
            f"{', '.join(at_bound)} ended a factor {BOUND:g} from the default, as far as the "
            "search goes: are the labels in the right units?"
        )
    after = start.noise_at(x)
    delta = start.delta_at(x)
    record = {
        "method": method,
        "sigmas": {
            name: [n.sigma(group) for n in (noise, after)]
            for name, group in zip(free.names, free.groups, strict=False)
        },
        "delta_factors": list(delta),
        "loo": {"before": before.mean(), "after": errors.mean()},
        "n_structures": len(structures),
        "n_evaluations": used,
        "n_parameters": effective_parameters(factor),
    }
    return Tuned(after, delta, record, notes)


def _maximize_evidence(candidates: Candidates) -> FloatArray:
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


def _minimize_loo(
    start: Candidates,
    at_start: Errors,
    structures: Sequence[StructureRows],
    config_types: Sequence[str],
    n_threads: int,
    progress: Progress | None,
) -> tuple[FloatArray, int]:
    """Search from the better of defaults and evidence."""
    budget = affordable(start.grouped.n_features, sum(len(rows.y) for rows in structures))
    fast = GramFactor.of(start.grouped)
    leave_out = QuickLeaveOneOut(structures, n_threads=n_threads)
    score = Score(config_types)
    zero = np.zeros(len(start.free.names))
    # the search asks for its start again
    known = {zero.tobytes(): score(at_start)}

    def objective(x: FloatArray) -> float:
        if x.tobytes() not in known:
            sigma, scale = start.noise_at(x).sigma, start.scale_at(x)
            left_out = leave_out(fast.posterior(sigma, scale), sigma, scale)
            known[x.tobytes()] = score(Errors.of(left_out)) + pull(x)
        if progress is not None:
            progress("hyper-parameters", min(len(known), budget), budget)
        return known[x.tobytes()]

    begin = _maximize_evidence(start.smaller(EVIDENCE_COLUMNS_START))
    if objective(begin) > known[zero.tobytes()] - MINIMUM_GAIN:
        begin = zero
    limit = np.log(BOUND)
    directions = _directions(start.free, start.grouped.groups)
    found = minimize(
        lambda u: objective(np.clip(begin + directions.T @ u, -limit, limit)),
        np.zeros(len(directions)),
        method="COBYQA",
        options={
            # a model of all directions, and some steps by it
            "maxfev": max(budget - len(known), 2 * len(directions) + 6),
            "initial_tr_radius": np.log(FIRST_STEP),
            "final_tr_radius": np.log(LAST_STEP),
        },
    )
    return np.clip(begin + directions.T @ found.x, -limit, limit), len(known)


def _worthwhile(before: Errors, after: Errors, config_types: Sequence[str]) -> bool:
    """Whether errors fell by enough, and beyond doubt."""
    score = Score(config_types)
    gain = score.influence(before) - score.influence(after)
    error = float(gain.std()) / np.sqrt(len(gain))
    return bool(gain.mean() > max(WORTHWHILE_GAIN * before.weight, SIGNIFICANCE * error))


def _directions(free: Free, groups: Sequence[Any]) -> FloatArray:
    """Rows to move along, independent of each other.

    All sigmas together (against the prior), those of energies, those of stresses, each
    config type with a sigma of its own, deltas. The first delta is left out where every
    sigma is free: all deltas against these is the first direction.
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


def _left_out(
    candidates: Candidates,
    x: FloatArray,
    factor: TriangularFactor,
    structures: Sequence[StructureRows],
    n_threads: int,
) -> list[LeftOut]:
    noise = candidates.noise_at(x)
    scale = candidates.scale_at(x)
    return list(leave_one_out(structures, factor, noise.sigma, scale, n_threads=n_threads))


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
    return exact + 0.5 * combined + affordable(n_columns, n_held) * quick


def _rounded(start: Candidates, x: FloatArray) -> FloatArray:
    """Vector of values rounded to three digits: no more is known, and rounding differs."""
    noise = start.noise_at(x)
    result = [
        np.log(float(f"{noise.sigma(group):.3g}") / start.noise.sigma(group))
        for group in start.free.groups
    ]
    result += [np.log(float(f"{np.exp(v):.3g}")) for v in x[len(start.free.groups) :]]
    return np.where(x == 0, 0.0, result)
