"""Search over the shapes of the kernels, judged by structures left out of the fit.

Cutoffs, widths, central weights and exponents cannot be had from the rows of one fit as
noise and prior scales can: every candidate is a fit of its own. So few candidates with
few sparse points are compared, on the same structures: a fixed share of the training
data, from which no candidate takes its sparse points and each of which is left out of the
fit in turn, in closed form. The path is a pattern search [1]_: along one parameter at a
time, all terms together and then one by one, steps shrinking when none helps. It begins
with the defaults, so it never ends with a worse score than theirs. Noise is chosen for
the start and kept: candidates must differ by their kernels alone (the fit of the best one
chooses its noise anew).

References
----------
.. [1] Hooke, Jeeves, J. ACM 8, 212 (1961).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from ase.units import GPa

from kernelpot import accumulation, training
from kernelpot._version import __version__
from kernelpot.accumulation import Labels
from kernelpot.dataset import Frame, LabelKeys, read_dataset
from kernelpot.fitting import Design, Progress, choose_sparse_points, fingerprint
from kernelpot.leave_one_out import build_rows, choose_structures, leave_one_out
from kernelpot.observations import KINDS, Noise
from kernelpot.parallel import thread_count
from kernelpot.potential import KernelPotential
from kernelpot.regression import GroupedFactor
from kernelpot.report import table
from kernelpot.searchspace import PARAMETERS, Axis, Space
from kernelpot.terms import SOAPTerm
from kernelpot.textfile import write_text
from kernelpot.training import Problem
from kernelpot.tuning import WEIGHTS, Errors, Free, Score, tune

Terms = tuple[SOAPTerm, ...]

_log = logging.getLogger("kernelpot")

# Sparse points per term while searching.
N_SPARSE = 300
# Structures that candidates are judged by: this share of the data, within limits.
SHARE = 0.25
FEWEST, MOST = 10, 100
MINIMUM_STRUCTURES = 8
# A candidate must lower the (logarithmic) score by this much, ...
MINIMUM_GAIN = 0.002
# ... and by so much more for each doubling of the number of sparse points.
PRICE_OF_DOUBLING = 0.05
# Exponents of the steps of successive sweeps.
REFINEMENTS = (1.0, 0.5, 0.25)
FORMAT = "kernelpot search"
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


@dataclass
class Search:
    """What a search found.

    Attributes
    ----------
    results_ : list of dict
        One per candidate in the order tried: ``candidate``, ``change``, ``terms`` (list of
        the searched parameters), ``score`` (errors relative to the start, smaller is
        better; None if it could not be fitted, then ``failure`` says why),
        ``energy_mae_mev_per_atom``, ``forces_mae_ev_per_ang``, ``stress_mae_gpa`` of
        structures left out, ``n_sparse``, ``seconds``, ``accepted``.
    best_index_ : int
        The candidate chosen; 0 is the start.
    best_score_ : float
        Its score: 0.9 means errors 10 % below those of the start. Smaller is better.
    best_params_ : dict
        Parameters of `KernelPotential`: ``KernelPotential(**search.best_params_)``.
    best_potential_ : KernelPotential or None
        Fitted with them to all the data; None with ``refit=False``.
    n_structures_ : int
        How many structures judged.
    complete_ : bool
        Whether the search ended because no step helps, not because of the budget.
    """

    results_: list[dict[str, Any]]
    best_index_: int
    best_params_: dict[str, Any]
    best_potential_: KernelPotential | None
    n_structures_: int
    complete_: bool

    @property
    def best_score_(self) -> float:
        """Errors of the chosen candidate relative to the start; smaller is better."""
        return float(self.results_[self.best_index_]["score"])

    def summary(self) -> str:
        """Say in words and a table what was tried and what came of it.

        Returns
        -------
        str
        """
        best, start = self.results_[self.best_index_], self.results_[0]
        lines = [
            f"{len(self.results_)} candidates, judged by {self.n_structures_} training structures "
            "left out one at a time; score: errors relative to the start, smaller is better",
            "",
        ]
        rows = []
        for found in self.results_:
            mark = " <- best" if found is best else " accepted" if found["accepted"] else ""
            values = [
                "-" if found[key] is None else f"{found[key]:.{digits}f}"
                for key, digits in (
                    ("score", 4),
                    ("energy_mae_mev_per_atom", 2),
                    ("forces_mae_ev_per_ang", 4),
                    ("stress_mae_gpa", 3),
                    ("seconds", 1),
                )
            ]
            change = found["change"] if found["failure"] is None else f"{found['change']} (failed)"
            rows.append([f"{found['candidate']}: {change}", *values, mark.strip()])
        header = [
            "candidate", "score", "E MAE [meV/atom]", "F MAE [eV/Å]", "stress MAE [GPa]", "s", "",
        ]  # fmt: skip
        lines += [table(header, rows), ""]
        if self.best_index_ == 0:
            lines.append("Nothing tried is better than the start.")
        else:
            lines.append(
                f"Best: candidate {best['candidate']}, errors {100 * (1 - best['score']):.1f} % "
                "below those of the start:"
            )
            for t, (old, new) in enumerate(zip(start["terms"], best["terms"], strict=True)):
                changes = [
                    f"{name} {old[name]:g} -> {new[name]:g}"
                    for name in new
                    if old[name] != new[name]
                ]
                lines.append(f"  term {t}: {', '.join(changes) or 'as it was'}")
        lines.append(
            "No step that the search knows improves it any more."
            if self.complete_
            else "The budget ended the search; a larger one, with the same checkpoint, goes on."
        )
        return "\n".join(lines)


def search(
    data: Any,
    *,
    budget: int | str,
    potential: KernelPotential | None = None,
    parameters: Sequence[str] | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    n_sparse: int = N_SPARSE,
    keys: LabelKeys | None = None,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    refit: bool = True,
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> Search:
    """Search for better kernels than the default ones, on training data alone.

    Candidates are small fits with few sparse points. Each is judged by a fixed share of
    the structures, from which it takes no sparse points: the fit leaves them out one at a
    time, in closed form. Noise is chosen once, for the start. The first candidate is the
    start, so the score never ends worse.

    Parameters
    ----------
    data : path, glob pattern, Dataset, ase.Atoms or sequence of these
        Training data, whatever `read_dataset` takes.
    budget : int or str
        Number of candidates, or a time such as ``"30min"``; the fit in the end is not
        counted.
    potential : KernelPotential, optional
        Where to start, and parameters of the fit; by default the default potential. It
        is not changed.
    parameters : sequence of str, optional
        What to search: some of ``"r_cut"``, ``"sigma_atom"``, ``"central_weight"``,
        ``"zeta"`` (integers) and ``"n_sparse"``. The last, which always helps and always
        costs, only if named here or in `bounds`: a doubling must then lower the errors by
        5 %.
    bounds : mapping of str to (low, high), optional
        Values that a parameter stays within, in every term.
    n_sparse : int, default=300
        Sparse points per term while searching (terms that name fewer keep theirs). The
        fit in the end has the numbers of `potential`, unless they are searched.
    keys : LabelKeys, optional
        Names of the labels.
    seed : int, default=0
        For the choice of structures to judge by, and of environments.
    checkpoint : path, optional
        JSON file written after each candidate. If it exists the search goes on from it, to
        the result it would have had without the interruption.
    refit : bool, default=True
        Whether to fit the best potential to all the data.
    n_threads : int, optional
        As in `KernelPotential.fit`.
    progress : callable, optional
        Called as ``progress(stage, done, total)``.

    Returns
    -------
    Search
        ``print(found.summary())``.

    Raises
    ------
    ValueError
        If parameters, bounds or budget make no sense, the data are too few, or the
        checkpoint belongs to another search.

    Examples
    --------
    >>> found = kp.search("train.xyz", budget=20, checkpoint="search.json")  # doctest: +SKIP
    >>> print(found.summary())  # doctest: +SKIP
    >>> found.best_potential_.save("model.kpot")  # doctest: +SKIP
    """
    allowed = Budget.of(budget)
    if isinstance(n_sparse, bool) or not isinstance(n_sparse, (int, np.integer)) or n_sparse < 1:
        raise ValueError(f"`n_sparse` must be a positive integer, got {n_sparse!r}")
    pot = KernelPotential() if potential is None else potential
    if pot.sparse_points is not None:
        raise ValueError("`potential` names its sparse points: a search chooses them anew")
    settings = training.Settings(
        **{f.name: getattr(pot, f.name) for f in fields(training.Settings)}
    )
    threads = thread_count(n_threads)
    dataset = read_dataset(data, keys=keys)
    problem = training.prepare(dataset, settings)
    start = tuple(
        replace(term, n_sparse=min(term.n_sparse or settings.default_n_sparse, int(n_sparse)))
        for term in problem.terms
    )
    space = Space(start, parameters, bounds)
    given = [kind for kind in KINDS if getattr(settings, f"sigma_{kind}") is not None]
    judge = _Judge(problem, start, given, seed, threads)
    record = _Record(checkpoint, _identity(judge, space))
    record.load(judge, start)
    path = _Path(judge, space, record, allowed, progress)
    complete = path.walk()
    best = path.best
    best_params: dict[str, Any] = {
        f.name: getattr(pot, f.name) for f in fields(training.Settings) if f.name != "sparse_points"
    }
    if best > 0:
        # numbers of sparse points are those of the user unless they were searched
        best_params["terms"] = [
            term if "n_sparse" in space.parameters else replace(term, n_sparse=original.n_sparse)
            for term, original in zip(path.tried[best].terms, problem.terms, strict=True)
        ]
        if all(term.n_sparse is not None for term in best_params["terms"]):
            best_params["n_sparse"] = None
    fitted = None
    if refit:
        fitted = KernelPotential(**best_params).fit(dataset, n_threads=n_threads, progress=progress)
    return Search(
        [candidate.to_dict(number) for number, candidate in enumerate(path.tried)],
        best,
        best_params,
        fitted,
        len(judge.chosen),
        complete,
    )


# ---- candidates ------------------------------------------------------------------------


@dataclass
class _Candidate:
    """A set of terms, and how it did; the upper half is what a checkpoint holds."""

    terms: Terms
    errors: dict[str, list[float | None]] = field(default_factory=dict)
    n_sparse: list[int] = field(default_factory=list)
    seconds: float = 0.0
    failure: str | None = None

    change: str = ""
    score: float = np.inf
    accepted: bool = False

    def to_dict(self, number: int) -> dict[str, Any]:
        """Entry of `Search.results_`."""

        def mean(kind: str, scale: float = 1.0) -> float | None:
            known = [e for e in self.errors.get(kind, ()) if e is not None]
            return scale * float(np.mean(known)) if known else None

        return {
            "candidate": number,
            "change": self.change,
            "terms": [{name: getattr(t, name) for name in PARAMETERS} for t in self.terms],
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
            "terms": _shape(self.terms),
            "errors": self.errors,
            "n_sparse": self.n_sparse,
            "seconds": self.seconds,
            "failure": self.failure,
        }


def _shape(terms: Terms) -> list[dict[str, Any]]:
    """What tells candidates apart."""
    return [{name: getattr(term, name) for name in PARAMETERS} for term in terms]


class _Judge:
    """Fits candidates and scores them by structures left out.

    Parameters
    ----------
    problem : Problem
    start : tuple of SOAPTerm
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
        self._score: Score | None = None
        self._reference = 0.0
        self._weight = 1.0

    def start_from(self, errors: Mapping[str, Sequence[float | None]]) -> None:
        """Make the first candidate the one that the others are compared with."""
        found = self._unpack(errors)
        self._score = Score(found, self.config_types)
        self._reference = self._score(found)
        weights = [WEIGHTS[k] for k, e in found.values.items() if len(e) and e.max() > 0]
        self._weight = sum(weights) or 1.0

    def score(self, errors: Mapping[str, Sequence[float | None]]) -> float:
        """Weighted geometric mean of the ratios of errors to those at the start."""
        assert self._score is not None
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
        kernels = [
            choose_sparse_points(
                replace(term, n_sparse=None),
                problem.species,
                problem.frames,
                held_out=self.chosen,
                default_n_sparse=term.n_sparse or N_SPARSE,
                seed=self.seed,
            )[0]
            for term in terms
        ]
        design = Design.of(kernels, problem.species)
        labels = Labels(design, problem.frames, problem.references, problem.noise)
        grouped = accumulation.accumulate(labels, n_threads=self.n_threads)
        rows = build_rows(
            design,
            problem.frames,
            problem.references,
            problem.noise,
            self.chosen,
            n_threads=self.n_threads,
        )
        if self.noise is None:
            self.noise = self._choose_noise(design, grouped, rows)
        factor = grouped.posterior(self.noise.sigma)
        left = list(leave_one_out(rows, factor, self.noise.sigma, n_threads=self.n_threads))
        errors = {}
        for kind in KINDS:
            found = [left_out.of(kind) for left_out in left]
            errors[kind] = [float(np.abs(e).mean()) if len(e) else None for e in found]
        return errors, [sum(map(len, kernel.sparse.values())) for kernel in kernels]

    def _choose_noise(self, design: Design, grouped: GroupedFactor, rows: Any) -> Noise:
        """Noise that the start predicts best with; the same for all candidates."""
        groups: list[Any] = grouped.groups
        labelled = {kind for kind, config_type in groups if not config_type}
        free = Free(tuple(k for k in KINDS if k in labelled and k not in self._given), ())
        return tune(
            "loo",
            grouped,
            design.whitened,
            self.problem.noise,
            free,
            rows,
            self.config_types,
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


# ---- the way ---------------------------------------------------------------------------


class _BudgetSpent(Exception):
    """No candidate may be tried any more."""


class _Path:
    """A pattern search over candidates.

    Attributes
    ----------
    tried : list of _Candidate
        In the order tried.
    best : int
        The one accepted last.
    """

    def __init__(
        self,
        judge: _Judge,
        space: Space,
        record: _Record,
        budget: Budget,
        progress: Progress | None,
    ) -> None:
        self.tried: list[_Candidate] = []
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
        words = axis.words(sign, self._space.step(axis, refinement), len(terms))
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

    def _try(self, terms: Terms, change: str) -> _Candidate:
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
            candidate = _Candidate(terms)
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
        _log.info("search: candidate %d, %s: %.4f", len(self.tried) - 1, change, candidate.score)
        return candidate


# ---- checkpoint ------------------------------------------------------------------------


class _Record:
    """Candidates that were fitted, in a JSON file if one is named."""

    def __init__(self, path: str | os.PathLike[str] | None, identity: str) -> None:
        self._path = path
        self._identity = identity
        self._known: list[_Candidate] = []

    def load(self, judge: _Judge, start: Terms) -> None:
        """Read the file, if there is one.

        Raises
        ------
        ValueError
            If it belongs to another search or is damaged.
        """
        if self._path is None:
            return
        name = os.fspath(self._path)
        folder = os.path.dirname(os.path.abspath(name))
        if not os.path.isdir(folder):
            raise ValueError(f"cannot write {name}: there is no directory {folder}")
        if not os.path.exists(name):
            return
        try:
            with open(name, encoding="utf-8") as stream:
                content = json.load(stream)
            if content["format"] != FORMAT:
                raise ValueError("another format")
            identity, sigmas, stored = (content[k] for k in ("search", "sigmas", "candidates"))
            known = [
                _Candidate(
                    tuple(replace(t, **s) for t, s in zip(start, c["terms"], strict=True)),
                    c["errors"],
                    c["n_sparse"],
                    c["seconds"],
                    c["failure"],
                )
                for c in stored
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{name} is not a checkpoint of a search, or is damaged: delete it, or name another"
            ) from error
        if identity != self._identity:
            raise ValueError(
                f"{name} is the checkpoint of a search in other data or with other parameters: "
                "repeat that search, delete the file, or name another"
            )
        self._known = known
        if sigmas is not None:
            judge.noise = replace(judge.problem.noise, **sigmas)

    def find(self, terms: Terms) -> _Candidate | None:
        """Return the candidate of these terms, if it was fitted before."""
        return next((c for c in self._known if c.terms == terms), None)

    def add(self, candidate: _Candidate, noise: Noise | None) -> None:
        """Remember a candidate, and write the file."""
        self._known.append(candidate)
        if self._path is None:
            return
        names = [f"sigma_{kind}" for kind in KINDS]
        content = {
            "format": FORMAT,
            "search": self._identity,
            "sigmas": None if noise is None else {name: getattr(noise, name) for name in names},
            "candidates": [known.stored() for known in self._known],
        }
        write_text(self._path, json.dumps(content, indent=1))


def _identity(judge: _Judge, space: Space) -> str:
    """SHA-256 of all that the scores of a search depend on: data, parameters, version."""
    problem = judge.problem
    h = hashlib.sha256(__version__.encode())
    for frame, (energy, forces, virial) in zip(problem.frames, problem.references, strict=True):
        h.update(
            f"{fingerprint(frame)} {frame.config_type} {sorted(frame.sigmas.items())}".encode()
        )
        h.update(repr((frame.atoms.pbc.tolist(), energy)).encode())
        h.update(forces.tobytes() + virial.tobytes())
    h.update(repr((problem.species, problem.noise, judge.seed, judge.chosen)).encode())
    h.update(json.dumps(space.to_dict(), sort_keys=True).encode())
    return h.hexdigest()
