"""Memory of a fit: what it needs, said before it starts, and fitted into a budget."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import psutil

from kernelpot.data.dataset import Frame
from kernelpot.data.neighbors import expected_pairs
from kernelpot.fit.accumulation import BATCH_ATOMS, BATCH_BYTES, BRANCH, ROWS_PER_COLUMN
from kernelpot.fit.full_mean import LAST_ITERATIONS, MAX_ITERATIONS, MORE_ITERATIONS
from kernelpot.fit.full_mean import MAX_BYTES as MAX_MEAN_BYTES
from kernelpot.fit.gradient_domain import Iterations
from kernelpot.fit.left_out import MAX_BYTES, MAX_ROWS
from kernelpot.fit.noise_search import expected_work
from kernelpot.fit.problem import Problem
from kernelpot.fit.settings import Settings
from kernelpot.fit.sparse_points import (
    LABELS_PER_ENVIRONMENT,
    MAX_CANDIDATE_BYTES,
    MAX_CANDIDATES,
)
from kernelpot.gp.labels import Noise, group_rows
from kernelpot.regression.leave_one_out import CHUNK_ROWS
from kernelpot.terms.base import Descriptor, Term
from kernelpot.terms.compression import MAX_DIRECTIONS

# What a process grows by when compiled loops and descriptors are loaded [bytes].
_LIBRARIES = 0.4e8
# Work arrays of a thread that builds rows, besides the rows and the features.
_PER_THREAD = 3.5e7
# What a compiled loop over features does in a second, where it is no matrix product.
COMPILED_FLOPS = 4e9
# Smallest batches and reservoirs that a tight budget leads to.
_MINIMUM_BATCH = 4e6
_MINIMUM_CANDIDATES = 20e6
_MINIMUM_LEFT_OUT = 20e6


class OverBudgetError(ValueError):
    """A fit needs more memory than it was allowed."""


def parse_memory(memory: float | str) -> float:
    """Bytes meant by a number or by text such as ``"2GB"`` or ``"500 MB"``.

    Raises
    ------
    ValueError
        If the text is not a size.
    """
    if isinstance(memory, str):
        text = memory.strip().upper().removesuffix("B").removesuffix("I")
        units = {"K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
        scale = units.get(text[-1:], 1.0)
        try:
            value = float(text.rstrip("KMGT").strip()) * scale
        except ValueError:
            value = -1.0
    else:
        value = float(memory)
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"`memory` must be a size such as '2GB' or bytes, got {memory!r}")
    return value


def resident_bytes() -> float:
    """Memory this process occupies now."""
    return float(psutil.Process().memory_info().rss)


def n_pairs(frames: Sequence[Frame], r_cut: float) -> float:
    """Pairs of all frames within a distance, about."""
    return float(sum(expected_pairs(frame.atoms, r_cut) for frame in frames))


def most_features(term: Term, descriptor: Descriptor) -> int:
    """Features of an environment, of what is learned at most."""
    if getattr(term, "contraction", None) is None:
        return descriptor.n_features
    return int(term.most_features(len(descriptor.species)))  # type: ignore[attr-defined]


def n_directions(term: Term, descriptor: Descriptor) -> int:
    """Directions that features will be compressed to, at most."""
    most = getattr(term, "n_directions", None) or MAX_DIRECTIONS
    return min(most_features(term, descriptor), most)


@dataclass(frozen=True)
class Workload:
    """Sizes that decide what a fit needs.

    Attributes
    ----------
    n_sparse : int
        Sparse points of all terms and species.
    n_features : int
        Features of the largest descriptor.
    n_candidates : int
        Environments to select from, if all were kept: about one for each atom.
    n_species, n_terms : int
    group_rows : tuple of int
        Labels of each group that has its own factor.
    occupied : float
        Memory of the process before the fit [bytes].
    searched : bool
        Whether noise is chosen by leaving structures out.
    leaves_out : bool
        Whether rows of structures are kept, for that or for the calibration.
    form_bytes : float
        Derivatives of features of all pairs, where the mean is a whole quadratic form.
    iterations : Iterations or None
        Over all directions of molecules (`kernelpot.fit.gradient_domain`).
    """

    n_sparse: int
    n_features: int
    n_candidates: int
    n_species: int
    n_terms: int
    group_rows: tuple[int, ...]
    occupied: float
    searched: bool = False
    leaves_out: bool = False
    form_bytes: float = 0.0
    iterations: Iterations | None = None

    @classmethod
    def of(
        cls,
        terms: Sequence[Term],
        descriptors: Sequence[Descriptor],
        frames: Sequence[Frame],
        noise: Noise,
        default_n_sparse: int,
        *,
        searched: bool = False,
        leaves_out: bool = False,
    ) -> Workload:
        """Sizes of a fit of `terms` to `frames`."""
        n_atoms = sum(map(len, frames))
        points = [
            term.n_sparse or term.default_n_sparse(default_n_sparse, len(descriptor.keys))
            for term, descriptor in zip(terms, descriptors, strict=True)
        ]
        most = [
            (LABELS_PER_ENVIRONMENT if term.kernel().explicit else 1) * n_atoms for term in terms
        ]
        n_sparse = sum(
            min(n, limit) if term.n_sparse is None and descriptor.one_per_atom else n
            for n, limit, term, descriptor in zip(points, most, terms, descriptors, strict=True)
        )
        return cls(
            n_sparse,
            max(map(most_features, terms, descriptors)),
            n_atoms,
            len(descriptors[0].species),
            len(terms),
            tuple(group_rows(frames, noise).values()),
            resident_bytes(),
            searched,
            searched or leaves_out,
            sum(
                12.0 * n_pairs(frames, descriptor.r_cut) * n_directions(term, descriptor)
                for term, descriptor in zip(terms, descriptors, strict=True)
                if getattr(term, "full", False)
            ),
            Iterations.of(terms, frames, n_sparse),
        )


@dataclass(frozen=True)
class Plan:
    """How a fit uses memory.

    Attributes
    ----------
    workload : Workload
    n_threads : int
    batch_bytes : float
        Rows of the design matrix built at a time.
    candidate_bytes : float
        Features that selection sees, at most.
    left_out_bytes : float
        Rows of structures that are left out one at a time, at most.
    budget : float or None
        What the user allows [bytes].
    """

    workload: Workload
    n_threads: int
    batch_bytes: float
    candidate_bytes: float
    left_out_bytes: float = MAX_BYTES
    budget: float | None = None

    @property
    def parts(self) -> dict[str, float]:
        """Bytes of each stage beyond what the process and the model occupy."""
        w = self.workload
        columns = w.n_sparse + 2
        square = 8.0 * columns**2
        groups = sum(8.0 * columns * min(rows, columns) for rows in w.group_rows)
        n_parts = sum(w.group_rows) / (ROWS_PER_COLUMN * columns)
        levels = 1 if n_parts <= 1 else 2 if n_parts <= BRANCH else 3
        candidates = min(
            4.0 * w.n_features * min(w.n_candidates, w.n_species * MAX_CANDIDATES),
            0.5 * self.candidate_bytes,
        )
        rows_bytes = 8.0 * columns * sum(w.group_rows)
        batch = min(self.batch_bytes, rows_bytes, 8.0 * columns * 3.3 * BATCH_ATOMS)
        per_thread = _PER_THREAD + 24.0 * w.n_features * min(BATCH_ATOMS, w.n_candidates)
        builders = min(self.n_threads, max(1, round(rows_bytes / batch)))
        # raw and whitened rows in the making, and those on their way into the factor
        copies = 3.0 if builders == 1 else 2.5 * (builders + 1)
        building = copies * batch + builders * per_thread
        # kept rows, and scaled copies of some of them
        left_out = min(self.left_out_bytes, 8.0 * columns * min(sum(w.group_rows), MAX_ROWS))
        kept = left_out * w.leaves_out
        left_out += min(2.0 * 8.0 * columns * CHUNK_ROWS * self.n_threads, 2.0 * left_out)
        found = {
            "selection": candidates + 2e7,
            # the rows to be left out are kept on the way
            "labels": levels * groups + (square if levels > 1 else 0.0) + building + kept,
            # products of each group's rows, their sum, its factor and that at the start;
            # rows in single precision besides those kept
            "search": (groups + square * (len(w.group_rows) + 4.0) + 1.5 * left_out) * w.searched,
            # with the factor of known sites, and the variances of both
            "solution": groups
            + square * (3.0 + 5.0 / w.n_species)
            + left_out
            # within a budget only what it leaves
            + (min(w.form_bytes, MAX_MEAN_BYTES) if self.budget is None else 0.0),
        }
        if w.iterations is not None:
            # with the factor of the columns, and copies for their targets and the solution
            found["directions"] = groups + 3.0 * square + left_out + w.iterations.n_bytes
        return found

    @property
    def needed(self) -> float:
        """Peak of the whole process, about [bytes]."""
        w = self.workload
        model = 8.0 * w.n_sparse * (w.n_features + w.n_sparse / (w.n_terms * w.n_species))
        return w.occupied + _LIBRARIES + model + max(self.parts.values())

    @property
    def spare_bytes(self) -> float:
        """What the budget leaves for things that can be made anew."""
        if self.budget is None:
            return MAX_MEAN_BYTES
        return min(MAX_MEAN_BYTES, max(0.0, self.budget - self.needed))

    def within(self, budget: float) -> Plan:
        """Save where it costs little until the budget holds.

        Fewer threads first, then smaller batches, then fewer structures to leave out,
        then fewer candidates for the sparse points.

        Raises
        ------
        ValueError
            If nothing helps.
        """
        plan = replace(self, budget=budget)
        while plan.needed > budget and plan.n_threads > 1:
            plan = replace(plan, n_threads=plan.n_threads - 1)
        while plan.needed > budget and plan.batch_bytes > _MINIMUM_BATCH:
            plan = replace(plan, batch_bytes=max(_MINIMUM_BATCH, plan.batch_bytes / 2))
        while plan.needed > budget and plan.left_out_bytes > _MINIMUM_LEFT_OUT:
            plan = replace(plan, left_out_bytes=max(_MINIMUM_LEFT_OUT, plan.left_out_bytes / 2))
        while plan.needed > budget and plan.candidate_bytes > _MINIMUM_CANDIDATES:
            plan = replace(plan, candidate_bytes=max(_MINIMUM_CANDIDATES, plan.candidate_bytes / 2))
        if plan.needed > budget:
            plan._refuse(budget)
        return plan

    def _refuse(self, budget: float) -> None:
        w = self.workload
        affordable = next(
            (
                m
                for m in range(w.n_sparse, 0, -10)
                if replace(self, workload=replace(w, n_sparse=m)).needed <= budget
            ),
            0,
        )
        remedy = (
            f"the budget holds {affordable // w.n_terms} points per term: lower n_sparse or "
            "raise the budget"
            if affordable
            else "any fit needs more: raise the budget"
        )
        raise OverBudgetError(
            f"{w.n_sparse} sparse points need {self.needed / 1e9:.2f} GB, the memory budget is "
            f"{budget / 1e9:.2f} GB; {remedy}"
        )

    def __str__(self) -> str:
        """Say in plain words what the fit needs."""
        parts = self.parts
        largest = max(parts, key=lambda name: parts[name])
        why = {
            "selection": "environments the sparse points are chosen among",
            "labels": f"factors and rows of {self.workload.n_sparse} sparse points",
            "search": f"choice of the noise with {self.workload.n_sparse} sparse points",
            "solution": f"solution for {self.workload.n_sparse} sparse points",
            "directions": "iterations over all directions of the molecules",
        }[largest]
        text = (
            f"needs about {self.needed / 1e9:.2f} GB of memory at its peak, most of it for the "
            f"{why}"
        )
        if self.budget is not None:
            text += f"; the budget is {self.budget / 1e9:.2f} GB"
            saved = []
            if self.batch_bytes < BATCH_BYTES:
                saved.append("small batches of rows")
            if self.left_out_bytes < MAX_BYTES:
                saved.append("fewer structures to choose noise and calibrate by")
            if self.candidate_bytes < MAX_CANDIDATE_BYTES:
                saved.append("fewer environments to choose sparse points from")
            if saved:
                text += f", kept by {' and '.join(saved)}"
        return text


def plan(workload: Workload, n_threads: int, memory: float | str | None = None) -> Plan:
    """Plan of a fit, within a budget if there is one.

    Raises
    ------
    ValueError
        If the budget is no size, or cannot hold the fit; the message names the remedy.
    """
    free = Plan(workload, n_threads, BATCH_BYTES, MAX_CANDIDATE_BYTES)
    return free if memory is None else free.within(parse_memory(memory))


_log = logging.getLogger("kernelpot")


def plan_memory(
    problem: Problem,
    settings: Settings,
    n_threads: int,
    memory: float | str | None,
    *,
    searched: bool = False,
    leaves_out: bool = False,
) -> Plan:
    """Plan the memory of the fit, and log it in plain words."""
    workload = Workload.of(
        problem.terms,
        problem.descriptors,
        problem.frames,
        problem.noise,
        settings.default_n_sparse,
        searched=searched,
        leaves_out=leaves_out,
    )
    found = plan(workload, n_threads, memory)
    _log.info("the fit %s", found)
    seconds = sum(expected_seconds(problem, found).values())
    _log.info(
        "the fit takes about %s on %d threads of an idle machine, the test of the model not "
        "included",
        _duration(seconds),
        found.n_threads,
    )
    return found


def _duration(seconds: float) -> str:
    """A time to one digit or so: it is an estimate."""
    if seconds < 90:
        return f"{max(1.0, float(f'{seconds:.1g}')):.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def expected_seconds(problem: Problem, plan: Plan) -> dict[str, float]:
    """What each stage of a fit takes on an ordinary machine [s], within a factor of some."""
    w = plan.workload
    features = [
        (d.r_cut, most_features(term, d))
        for term, d in zip(problem.terms, problem.descriptors, strict=True)
    ]
    n_features = float(sum(n for _, n in features))
    n_atoms = sum(map(len, problem.frames))
    share = w.n_sparse / (w.n_terms * w.n_species)
    flops = 0.0
    for frame in problem.frames:
        for r_cut, n in features:
            flops += 6.0 * expected_pairs(frame.atoms, r_cut) * n * share
        flops += frame.n_rows * w.n_sparse**2 * (2.0 + 2.0 / (w.n_terms * w.n_species))
    gflops = 3e10
    # two passes over the derivatives of features of all pairs in each iteration
    forms = (MAX_ITERATIONS + MORE_ITERATIONS + LAST_ITERATIONS) * w.form_bytes
    n_rows = sum(w.group_rows)
    left_out = min(n_rows, MAX_ROWS)
    search = expected_work(w.n_sparse, w.group_rows, left_out) if w.searched else 0.0
    labels = flops / (gflops * min(plan.n_threads, 4))
    return {
        "sparse points": n_atoms * n_features * (4e-7 + 5e-10 * share),
        "labels": labels,
        "hyper-parameters": search / gflops,
        "whole forms": forms / gflops * 10.0,
        # of all molecules, and without those left out
        "all directions": 0.0
        if w.iterations is None
        else (1 + w.leaves_out) * w.iterations.flops / COMPILED_FLOPS,
        "calibration": 1.5 * labels * left_out / max(n_rows, 1),
        "solution": 6.0 * w.n_sparse**3 / gflops,
        "training errors": n_atoms * n_features * 2e-7 / plan.n_threads,
    }
