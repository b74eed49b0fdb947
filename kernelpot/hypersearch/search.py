"""Search over the shapes of the kernels, judged by structures left out of the fit.

Cutoffs, widths, central weights and exponents cannot be had from the rows of one fit as
noise and prior scales can: every candidate is a fit of its own. So few candidates with
few sparse points are compared, on the same structures: a fixed share of the training
data, from which no candidate takes its sparse points and each of which is left out of the
fit in turn, in closed form (`kernelpot.hypersearch.candidates`). The path is a pattern search:
along one parameter at a time (`kernelpot.hypersearch.space`), all terms together and then one by
one, steps shrinking when none helps (`kernelpot.hypersearch.path`). It begins with the defaults,
so it never ends with a worse score than theirs. Noise is chosen for the start and kept:
candidates must differ by their kernels alone (the fit of the best one chooses its noise
anew). What was fitted is kept in a file (`kernelpot.hypersearch.record`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from kernelpot.common.parallel import single_blas_thread, thread_count
from kernelpot.common.tables import table
from kernelpot.common.types import KINDS, Progress
from kernelpot.data.dataset import LabelKeys
from kernelpot.data.reading import read_dataset
from kernelpot.fit.problem import prepare
from kernelpot.fit.settings import Settings
from kernelpot.hypersearch.candidates import N_SPARSE, Judge
from kernelpot.hypersearch.path import Budget, Path
from kernelpot.hypersearch.record import Record, identity_of
from kernelpot.hypersearch.space import Space
from kernelpot.potential import KernelPotential


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


@single_blas_thread()
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
        What to search, among `searched` of the terms: of SOAP ``"r_cut"``,
        ``"sigma_atom"``, ``"central_weight"`` and ``"zeta"`` (integers), of pairs
        ``"r_cut"`` and ``"length_scale"``; of all of them ``"n_sparse"``. The last, which
        always helps and always costs, only if named here or in `bounds`: a doubling must
        then lower the errors by 5 %.
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
    Two candidates of small fits; a search worth its name has twenty or more.

    >>> import kernelpot as kp
    >>> from kernelpot.datasets import load_silicon
    >>> terms = [kp.SOAPTerm(r_cut=4.0, n_max=4, l_max=3, n_sparse=50)]
    >>> start = kp.KernelPotential(terms, baseline=[kp.Wall()])
    >>> found = kp.search(load_silicon(), budget=2, potential=start, n_sparse=30)
    >>> found.best_score_ <= found.results_[0]["score"] == 1.0
    True
    >>> found.best_potential_.save("model.kpot")
    """
    allowed = Budget.of(budget)
    if isinstance(n_sparse, bool) or not isinstance(n_sparse, (int, np.integer)) or n_sparse < 1:
        raise ValueError(f"`n_sparse` must be a positive integer, got {n_sparse!r}")
    pot = KernelPotential() if potential is None else potential
    if pot.sparse_points is not None:
        raise ValueError("`potential` names its sparse points: a search chooses them anew")
    settings = Settings(**{f.name: getattr(pot, f.name) for f in fields(Settings)})
    threads = thread_count(n_threads)
    dataset = read_dataset(data, keys=keys)
    problem = prepare(dataset, settings, n_threads=threads)
    start = tuple(
        term.changed(n_sparse=min(term.n_sparse or settings.default_n_sparse, int(n_sparse)))
        for term in problem.terms
    )
    space = Space(start, parameters, bounds)
    given = [kind for kind in KINDS if getattr(settings, f"sigma_{kind}") is not None]
    judge = Judge(problem, start, given, seed, threads)
    record = Record(checkpoint, identity_of(judge, space))
    record.load(judge, start)
    path = Path(judge, space, record, allowed, progress)
    complete = path.walk()
    best = path.best
    best_params: dict[str, Any] = {
        f.name: getattr(pot, f.name) for f in fields(Settings) if f.name != "sparse_points"
    }
    if best > 0:
        # numbers of sparse points are those of the user unless they were searched
        best_params["terms"] = [
            term if "n_sparse" in space.parameters else term.changed(n_sparse=original.n_sparse)
            for term, original in zip(path.tried[best].terms, problem.terms, strict=True)
        ][: problem.n_kernels]
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
