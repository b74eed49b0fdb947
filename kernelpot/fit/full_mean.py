r"""The mean of a whole quadratic form, where the regression has a part of its monomials.

The regression has the monomials of largest prior scale as columns, and with them all there is
to a Gaussian process: variances, evidence, structures left out. Their number is bounded by the
square of it in memory. For the mean alone no matrix is needed: preconditioned conjugate gradients
solve the normal equations of all d (d + 1) / 2 monomials of each class, from the solution that is
there. The preconditioner is the factor of the columns, and a diagonal for all other monomials.

Noise stands for what a model cannot represent, and a whole form represents more than the
columns: its share of their noise is chosen by structures left out of the iterations. The first
fold of them is the way to the solution for all, which begins where it ended.

The variance stays that of the columns at their own noise: monomials without one are novelty, with
all of their prior variance though the labels tell of them. Calibration takes the errors of the
structures left out of the iterations.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np
import scipy.linalg

from kernelpot.common.parallel import map_in_order, single_blas_thread
from kernelpot.common.types import FloatArray, Group, Progress
from kernelpot.data.dataset import Frame
from kernelpot.fit.accumulation import Labels
from kernelpot.fit.left_out import choose_some
from kernelpot.fit.scores import Errors, Score, in_words
from kernelpot.gp.labels import Noise
from kernelpot.gp.quadratic import AlikeRows, Forms, QuadraticRows
from kernelpot.gp.sharing import SIGMA_ALIKE, rows_of_alike_sites
from kernelpot.regression import conjugate_gradients as cg
from kernelpot.regression.factors import TriangularFactor
from kernelpot.regression.leave_one_out import LeftOut, Without, leave_out_together
from kernelpot.regression.rows import StructureRows

T = TypeVar("T")
# Contribution of some rows to the unknowns: of other columns, and of each form.
Part = tuple[FloatArray, list[FloatArray]]

# Iterations end where the preconditioned residual has fallen to this share, or after so many.
# Silicon is there after 20 to 50; of ethanol (800 frames) the residual is a tenth after 200, and
# a hundred more lower the force error of other frames by 3 %.
TOLERANCE = 0.01
MAX_ITERATIONS = 300
# For each of several folds, and for all labels after these: errors of folds that are as far
# from the solution tell what those of the model are.
FOLD_ITERATIONS = 200
# From a solution of other noise, and from that without one fold to that for all.
MORE_ITERATIONS = 100
LAST_ITERATIONS = 50
# Noise of labels for whole forms, relative to what is best for the columns: the first, and how
# it goes on. Less is tried where the first predicts structures left out better than the columns
# by so much (in `Score`, of which energies and forces a quarter smaller are 0.75), more where it
# does not; as long as that pays, and the other way where it does not at once: what is chosen for
# the columns may be less than the form wants. On ethanol (columns 0.012 eV/Å; validation frames,
# meV/Å) forces of 0.01, 0.005, 0.002 eV/Å leave 14.9, 13.9, 14.1 with 200 frames, and 7.5, 6.3,
# 5.9 with 800.
FIRST_SHARE = 0.25
SHARE_STEP = 4.0
MAX_STEPS = 2
WORTHWHILE = 0.75
GAIN = 0.02
# Structures left out of the iterations: at least so many if there are (and a share of all), in
# folds of at most a share of all, and in no more folds than these.
MINIMUM_LEFT_OUT = 20
SHARE_LEFT_OUT = 0.1
MAX_LEFT_OUT = 60
MAX_FOLDS = 4
MAX_FOLD_ROWS = 3000
# Derivatives of features kept in memory; what is beyond is made anew in each iteration.
MAX_BYTES = 1e9


class Keeper(Protocol):
    """Whoever keeps the state of the iterations (`kernelpot.fit.checkpoint.Checkpoint`)."""

    def load_iteration(self) -> cg.Iteration | None:
        """State of interrupted iterations."""

    def save_iteration_if_due(self, state: cg.Iteration) -> None:
        """Look at the state, and keep it if it is time."""


def with_share(noise: Noise, groups: Sequence[Group], share: float) -> Noise:
    """Noise of whole forms.

    Parameters
    ----------
    noise : Noise
        Of the columns.
    groups : sequence of Group
        Those whose noise the user left to be chosen.
    share : float

    Returns
    -------
    Noise
    """
    return noise.changed({group: share * noise.sigma(group) for group in groups})


class NormalEquations:
    """The normal equations of all labels in whole quadratic forms, as an operator.

    Parameters
    ----------
    forms : Forms
    frames : sequence of Frame
        Labels less what the kernels need not explain (`Reference.remainder`).
    noise : Noise
    factor : TriangularFactor
        Of the same labels in the columns of the design, prior included.
    ratio : float
        Square of this noise relative to that of the factor.
    max_bytes : float
        Memory for derivatives of features.
    n_threads : int
        The result does not depend on it.
    """

    def __init__(
        self,
        forms: Forms,
        frames: Sequence[Frame],
        noise: Noise,
        factor: TriangularFactor,
        *,
        ratio: float = 1.0,
        max_bytes: float = MAX_BYTES,
        n_threads: int = 1,
    ) -> None:
        self.forms = forms
        self._ratio = ratio
        self._frames, self._noise = frames, noise
        self._n_threads = n_threads
        self._max_bytes = max_bytes
        labels = Labels(forms.design, frames, noise)
        self._batches = [batch for part in labels.parts() for batch in part]
        self._kept: dict[int, QuadraticRows] = {}
        self._alike, self._alike_others = self._alike_rows()
        self._prepare(factor, noise, ())
        self._without: Without | None = None

    def changed(
        self,
        noise: Noise,
        factor: TriangularFactor,
        left_out: Sequence[int] = (),
        without: Without | None = None,
    ) -> NormalEquations:
        """The same with other noise, or without the labels of some frames.

        Parameters
        ----------
        noise : Noise
        factor : TriangularFactor
            Of all labels at this noise.
        left_out : sequence of int
            Frames.
        without : Without, optional
            The factor without these: from that of all labels, what they alone determine is
            found last, and that is what predicts them.

        Returns
        -------
        NormalEquations
            Derivatives that are kept are shared.
        """
        other = copy.copy(self)
        other._prepare(factor, noise, left_out)
        other._without = without
        return other

    def _prepare(self, factor: TriangularFactor, noise: Noise, left_out: Sequence[int]) -> None:
        """Right-hand side and preconditioner, and weights of labels batch by batch."""
        self._now, self._left_out = noise, np.array(sorted(left_out), dtype=np.int64)
        self._triangle = factor.matrix
        if self._triangle[-1, -1] == 0:  # targets that are explained without a rest
            self._triangle = factor.matrix.copy(order="F")
            self._triangle[-1, -1] = 1.0
        self.right = np.zeros(self.forms.size)
        diagonal = np.zeros(self.forms.size)
        kept, occupied = dict(self._kept), sum(rows.n_bytes for rows in self._kept.values())
        nothing = np.zeros(len(self.forms.columns))

        def parts(k: int, rows: QuadraticRows) -> tuple[QuadraticRows, FloatArray, Part, Part]:
            weights = self._weights(k, rows)
            return rows, weights, rows.back(weights * rows.y), (nothing, rows.diagonal(weights))

        self._of_labels = []
        for k, (rows, weights, right, squares) in enumerate(self._over_batches(parts)):
            self._of_labels.append(weights)
            self._add(self.right, right)
            self._add(diagonal, squares)
            if k not in kept:
                occupied += rows.n_bytes
                if occupied <= self._max_bytes:
                    kept[k] = rows
        self._kept = kept
        self._diagonal = 1.0 + diagonal

    def _weights(self, k: int, rows: QuadraticRows) -> FloatArray:
        """Of the squares of each label of a batch: other noise, and frames left out."""
        ratios = [self._noise.sigma(group) / self._now.sigma(group) for group in rows.groups]
        weights = np.square(ratios)[rows.group]
        members = np.asarray(self._batches[k])
        weights[np.isin(members, self._left_out)[rows.structure]] = 0.0
        return weights

    def residuals(self, x: FloatArray, chosen: Sequence[int]) -> dict[int, FloatArray]:
        """Label minus prediction of some frames, in the order of labels [eV, eV/Å, eV].

        Parameters
        ----------
        x : ndarray of shape (n,)
            Unknowns.
        chosen : sequence of int

        Returns
        -------
        dict of int to ndarray
        """
        found = {}
        others, matrices = self.forms.split(x)
        with single_blas_thread():
            for index in sorted(chosen):
                rows = QuadraticRows.of(self.forms, [self._frames[index]], self._noise)
                found[index] = (rows.y - rows.times(others, matrices)) * rows.noise
        return found

    def _over_batches(self, work: Callable[[int, QuadraticRows], T]) -> Iterator[T]:
        """Of the rows of each batch, in threads: those that are kept as they are, others anew."""

        def of(k: int) -> T:
            rows = self._kept.get(k)
            if rows is None:
                frames = [self._frames[i] for i in self._batches[k]]
                rows = QuadraticRows.of(self.forms, frames, self._noise)
            return work(k, rows)

        return map_in_order(of, range(len(self._batches)), self._n_threads)

    def _alike_rows(self) -> tuple[AlikeRows | None, FloatArray | None]:
        """Rows of the design's own prior: in the forms, and in other columns."""
        forms = self.forms
        rows = rows_of_alike_sites(forms.design)
        if not len(rows):
            return None, None
        sites = []
        for form in forms.forms:
            assert form.block.sites is not None
            sites.append(np.ascontiguousarray(form.block.sites[:, : form.n]))
        others = rows[:, forms.columns] * forms.scale[forms.columns]
        return AlikeRows(sites, [form.scale / SIGMA_ALIKE for form in forms.forms]), others

    def _add(self, total: FloatArray, part: Part) -> None:
        others, matrices = self.forms.split(total)
        others += part[0]
        for own, matrix in zip(matrices, part[1], strict=True):
            own += matrix

    def __call__(self, x: FloatArray) -> FloatArray:
        """Normal matrix, with the unit prior, times unknowns."""
        others, matrices = self.forms.split(x)
        total = x.copy()
        if self._alike is not None and self._alike_others is not None:
            of_others = self._alike_others.T @ (self._alike_others @ others)
            self._add(total, (of_others, self._alike.normal(matrices)))

        def normal(k: int, rows: QuadraticRows) -> Part:
            return rows.back(self._of_labels[k] * rows.times(others, matrices))

        for part in self._over_batches(normal):
            self._add(total, part)
        return total

    def precondition(self, residual: FloatArray) -> FloatArray:
        """About the inverse: exact within the columns of the design, a diagonal beyond."""
        w = self.forms.weights(residual)
        if self._without is not None:
            solved = self._without.inverse(w)
        else:
            # the column of the targets has no part: substitution forward never looks ahead,
            # backward it begins with zero
            half = scipy.linalg.blas.dtrsv(self._triangle, np.append(w, 0.0), trans=1)
            half[-1] = 0.0
            solved = scipy.linalg.blas.dtrsv(self._triangle, half)[:-1]
        out = residual / self._diagonal
        self.forms.insert(out, self._ratio * solved)
        return out


def whole_mean(
    equations: NormalEquations,
    start: FloatArray,
    *,
    limit: int = 0,
    reference: float | None = None,
    keeper: Keeper | None = None,
    progress: Callable[[int], None] | None = None,
) -> cg.Iteration:
    """Solve the normal equations, from where an interrupted call ended if there was one.

    Parameters
    ----------
    equations : NormalEquations
    start : ndarray of shape (n,)
        Unknowns to start from.
    limit : int
        Iterations at most; by default `MAX_ITERATIONS`.
    reference : float, optional
        Square of the preconditioned residual that is to fall to a share, where `start` is a
        solution already; by default that of `start`.
    keeper : Keeper, optional
    progress : callable, optional
        Told the iterations done.

    Returns
    -------
    Iteration
    """

    def after(state: cg.Iteration) -> None:
        if keeper is not None:
            keeper.save_iteration_if_due(state)
        if progress is not None:
            progress(state.n)

    with single_blas_thread():
        state = None if keeper is None else keeper.load_iteration()
        if state is None:
            state = cg.begin(equations, equations.precondition, equations.right, start)
            if reference is not None:
                state.start = reference
        return cg.solve(
            state,
            equations,
            equations.precondition,
            tolerance=TOLERANCE,
            max_iterations=limit or MAX_ITERATIONS,
            after=after,
        )


@dataclass(frozen=True)
class WholeMean:
    """The mean of whole forms.

    Attributes
    ----------
    factor : TriangularFactor
        Of the columns, at their noise; its solution is the forms' part in them.
    tails : dict of int to ndarray
        What is beside the columns, as in `LocalModel`.
    noise : Noise
        Of the forms.
    residuals : dict of int to ndarray or None
        Errors on structures left out, by frame: label minus prediction in the order energy,
        forces, virial [eV, eV/Å, eV].
    notes : list of str
        For the user.
    folds : sequence of sequence of int
        The frames that were left out together.
    """

    factor: TriangularFactor
    tails: Mapping[int, FloatArray]
    noise: Noise
    residuals: Mapping[int, FloatArray] | None
    notes: Sequence[str]
    folds: Sequence[Sequence[int]] = ()


@dataclass(frozen=True)
class Trial:
    """Whole forms of one noise, by the structures left out of them."""

    share: float
    noise: Noise
    equations: NormalEquations
    residuals: Mapping[int, FloatArray]
    score: float
    last: Sequence[cg.Iteration]


class WholeForms:
    """A fit of whole quadratic forms on top of that of the columns.

    Parameters
    ----------
    forms : Forms
    frames : sequence of Frame
        Labels less what the kernels need not explain (`Reference.remainder`).
    noise : Noise
        Of the columns.
    free : sequence of Group
        Groups of labels whose noise the user left to be chosen.
    posterior : callable
        Factor of the columns at any noise.
    max_bytes : float
        Memory for derivatives of features.
    n_threads : int
        The result does not depend on it.
    progress : callable, optional
    """

    def __init__(
        self,
        forms: Forms,
        frames: Sequence[Frame],
        noise: Noise,
        free: Sequence[Group],
        posterior: Callable[[Noise], TriangularFactor],
        *,
        max_bytes: float = MAX_BYTES,
        n_threads: int = 1,
        progress: Progress | None = None,
    ) -> None:
        self.forms, self.frames, self.noise, self.free = forms, frames, noise, free
        self._posterior = posterior
        self._max_bytes, self._n_threads = max_bytes, n_threads
        self._progress = progress
        self._done, self._planned = 0, MAX_ITERATIONS

    def fit(
        self,
        left_out: Sequence[StructureRows] = (),
        unseen: Sequence[int] = (),
        *,
        keeper: Keeper | None = None,
    ) -> WholeMean:
        """Choose the noise by structures left out, and solve for all.

        Parameters
        ----------
        left_out : sequence of StructureRows
            Structures that may be left out; without, the share of the noise is the first.
        unseen : sequence of int
            Frames to leave out before others.
        keeper : Keeper, optional
            Keeps the state of the iterations for all.

        Returns
        -------
        WholeMean
        """
        factor = self._posterior(self.noise)
        folds = self._folds(left_out, unseen)
        if not folds:
            share = FIRST_SHARE
            noise = with_share(self.noise, self.free, share)
            low = self._posterior(noise)
            equations = self._equations(noise, low)
            found = whole_mean(
                equations,
                self.forms.unknowns(low.solve()),
                keeper=keeper,
                progress=self._run(MAX_ITERATIONS),
            )
            return self._result(factor, found, noise, None, self._noise_note(share))
        best, notes = self._best(folds, factor)
        low = self._posterior(best.noise)
        equations = best.equations.changed(best.noise, low)
        if len(folds) == 1:  # which is nearly all there is to know
            (before,) = best.last
            reference, start, limit = before.start, before.x, LAST_ITERATIONS
        else:
            reference, start, limit = None, self.forms.unknowns(low.solve()), FOLD_ITERATIONS
        found = whole_mean(
            equations,
            start,
            limit=limit,
            reference=reference,
            keeper=keeper,
            progress=self._run(limit),
        )
        indices = [[rows.index for rows in fold] for fold in folds]
        return replace(
            self._result(factor, found, best.noise, best.residuals, notes), folds=indices
        )

    def _folds(
        self, left_out: Sequence[StructureRows], unseen: Sequence[int]
    ) -> list[list[StructureRows]]:
        """Structures to leave out together."""
        n_frames = sum(1 for f in self.frames if f.n_rows and not f.is_isolated_atom)
        wanted = min(max(MINIMUM_LEFT_OUT, int(SHARE_LEFT_OUT * n_frames)), MAX_LEFT_OUT)
        indices = choose_some(left_out, unseen, wanted)
        by_index = {rows.index: rows for rows in left_out}
        if len(indices) > wanted:
            indices = [indices[k * len(indices) // wanted] for k in range(wanted)]
        if len(indices) < 2:
            return []
        each = max(1, int(SHARE_LEFT_OUT * n_frames), -(-len(indices) // MAX_FOLDS))
        n_folds = -(-len(indices) // each)
        folds: list[list[StructureRows]] = []
        for k in range(n_folds):
            fold: list[StructureRows] = []
            for index in indices[k::n_folds]:
                if sum(len(r.y) for r in fold) + len(by_index[index].y) <= MAX_FOLD_ROWS:
                    fold.append(by_index[index])
            if fold:
                folds.append(fold)
        return folds

    def _best(
        self, folds: Sequence[Sequence[StructureRows]], factor: TriangularFactor
    ) -> tuple[Trial, list[str]]:
        """Noise by which structures left out are predicted best."""
        rows = sorted((r for fold in folds for r in fold), key=lambda r: r.index)
        # without the same folds: one structure at a time would know more
        by_columns = sorted(
            leave_out_together(folds, factor, self.noise.sigma, self.forms.scale),
            key=lambda left: left.rows.index,
        )
        score = Score([self.frames[r.index].config_type for r in rows])
        of_columns = score(Errors.of(by_columns))
        best = self._trial(FIRST_SHARE if self.free else 1.0, folds, by_columns, score, None)
        better = best.score < of_columns - WORTHWHILE
        steps = (1.0 / SHARE_STEP, SHARE_STEP) if better else (SHARE_STEP, 1.0 / SHARE_STEP)
        for step in steps if self.free else ():
            first = best
            for _ in range(MAX_STEPS):
                trial = self._trial(step * best.share, folds, by_columns, score, best)
                if trial.score > best.score - GAIN:
                    break
                best = trial
            if best is not first:
                break
        after = Errors.of(_with_residuals(by_columns, best.residuals)).mean()
        before = Errors.of(by_columns).mean()
        compared = ", ".join(
            f"{kind} {in_words(before[kind])} -> {in_words(after[kind])} {unit}"
            for kind, unit in (("energy", "eV/atom"), ("forces", "eV/Å"))
            if before[kind] is not None
        )
        note = f"whole forms predict {len(rows)} structures left out of them: {compared}"
        return best, [*self._noise_note(best.share), note]

    def _trial(
        self,
        share: float,
        folds: Sequence[Sequence[StructureRows]],
        by_columns: Sequence[LeftOut],
        score: Score,
        before: Trial | None,
    ) -> Trial:
        """Solve without each fold."""
        noise = with_share(self.noise, self.free, share)
        factor = self._posterior(noise)
        if before is None:
            every = self._equations(noise, factor)
        else:
            every = before.equations.changed(noise, factor)
        first = MAX_ITERATIONS if len(folds) == 1 else FOLD_ITERATIONS
        limit = first if before is None else MORE_ITERATIONS
        self._planned += len(folds) * limit
        residuals: dict[int, FloatArray] = {}
        last = []
        for k, fold in enumerate(folds):
            chosen = [rows.index for rows in fold]
            without = Without(fold, factor, noise.sigma, self.forms.scale)
            equations = every.changed(noise, factor, chosen, without)
            if before is None:
                reference, start = None, self.forms.unknowns(without.weights)
            else:
                # squares of the preconditioned residual go as the labels' in units of noise
                reference = before.last[k].start * (before.share / share) ** 2
                start = before.last[k].x
            found = whole_mean(
                equations, start, limit=limit, reference=reference, progress=self._run(limit)
            )
            residuals |= every.residuals(found.x, chosen)
            last.append(found)
        errors = Errors.of(_with_residuals(by_columns, residuals))
        return Trial(share, noise, every, residuals, score(errors), last)

    def _equations(self, noise: Noise, factor: TriangularFactor) -> NormalEquations:
        return NormalEquations(
            self.forms,
            self.frames,
            noise,
            factor,
            max_bytes=self._max_bytes,
            n_threads=self._n_threads,
        )

    def _run(self, n: int) -> Callable[[int], None]:
        """Progress of `n` iterations, after those before."""
        begun = self._done
        self._done += n

        def tell(done: int) -> None:
            if self._progress is not None:
                self._progress("whole forms", begun + done, max(self._planned, begun + n))

        return tell

    def _noise_note(self, share: float) -> list[str]:
        """Of how much less noise there is, or more."""
        if not self.free:
            return []
        names = ", ".join(" ".join(group).strip() for group in self.free)
        return [f"noise of {names} in whole forms is {share:g} of that for the columns"]

    def _result(
        self,
        factor: TriangularFactor,
        found: cg.Iteration,
        noise: Noise,
        residuals: Mapping[int, FloatArray] | None,
        notes: Sequence[str],
    ) -> WholeMean:
        note = _note(self.forms, found)
        return WholeMean(
            with_solution(factor, self.forms.weights(found.x)),
            self.forms.tails(found.x),
            noise,
            residuals,
            [*notes, note],
        )


def continued(
    forms: Forms,
    frames: Sequence[Frame],
    noise: Noise,
    factor: TriangularFactor,
    start: FloatArray,
    *,
    ratio: float = 1.0,
    max_bytes: float = MAX_BYTES,
    n_threads: int = 1,
) -> tuple[TriangularFactor, dict[int, FloatArray], str]:
    """Solution for whole forms from another: a factor with its part in the columns, and the rest.

    Parameters
    ----------
    forms : Forms
    frames, max_bytes, n_threads
        As in `NormalEquations`.
    noise : Noise
        Of the forms.
    factor, ratio
        As there.
    start : ndarray of shape (n,)
        Unknowns.

    Returns
    -------
    factor : TriangularFactor
    tails : dict of int to ndarray
        As in `LocalModel`.
    note : str
        For the user.
    """
    equations = NormalEquations(
        forms, frames, noise, factor, ratio=ratio, max_bytes=max_bytes, n_threads=n_threads
    )
    found = whole_mean(equations, start)
    return (
        with_solution(factor, forms.weights(found.x)),
        forms.tails(found.x),
        _note(forms, found),
    )


def _note(forms: Forms, found: cg.Iteration) -> str:
    n_columns = sum(len(form.block.points) for form in forms.forms)
    n_all = sum(form.n * (form.n + 1) // 2 for form in forms.forms)
    return (
        f"mean of all {n_all} monomials of the second degree, of which {n_columns} have a column: "
        f"{found.n} last iterations, to {found.relative:.2g} of the residual"
    )


def _with_residuals(
    left_out: Sequence[LeftOut], residuals: Mapping[int, FloatArray]
) -> list[LeftOut]:
    """The same structures with other errors."""
    return [replace(left, residual=residuals[left.rows.index]) for left in left_out]


def with_solution(factor: TriangularFactor, w: FloatArray) -> TriangularFactor:
    """A factor whose solution are other weights: those beside what the columns do not have.

    Targets of later rows are to be less what the forms' other monomials predict of them.

    Parameters
    ----------
    factor : TriangularFactor
    w : ndarray of shape (n_features,)

    Returns
    -------
    TriangularFactor
    """
    changed = factor.copy()
    changed.matrix[:-1, -1] = np.triu(factor.R) @ w
    return changed
