r"""The mean of a whole quadratic form, where the regression has a part of its monomials.

The regression has the monomials of largest prior scale as columns, and with them all there is
to a Gaussian process: variances, evidence, structures left out. Their number is bounded by the
square of it in memory. For the mean alone no matrix is needed: preconditioned conjugate gradients
solve the normal equations of all d (d + 1) / 2 monomials of each class, from the solution that is
there. The preconditioner is the factor of the columns, and a diagonal for all other monomials.

The variance stays that of the columns: monomials without one are novelty, with all of their prior
variance though the labels tell of them, and the columns' own weights are as certain as if labels
held nothing else. The first is more than the process has whose mean this is, the second less.
Calibration takes the errors of structures that were left out of the iterations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import scipy.linalg

from kernelpot.common.parallel import map_in_order, single_blas_thread
from kernelpot.common.types import FloatArray, Group, Progress
from kernelpot.data.dataset import Frame
from kernelpot.fit.accumulation import Labels
from kernelpot.fit.hyperparameters import Tuned
from kernelpot.gp.design import Design
from kernelpot.gp.labels import Noise
from kernelpot.gp.quadratic import AlikeRows, Forms, QuadraticRows
from kernelpot.gp.sharing import SIGMA_ALIKE, rows_of_alike_sites
from kernelpot.regression import conjugate_gradients as cg
from kernelpot.regression.factors import TriangularFactor

# Iterations end where the preconditioned residual has fallen to this share, or after so many.
# Silicon is there after 20 to 50; of ethanol (800 frames) the residual is a tenth after 200, and
# a hundred more lower the force error of other frames by 3 %.
TOLERANCE = 0.01
MAX_ITERATIONS = 200
# Noise of labels for whole forms, relative to what is best for the columns: it stands for what
# a model cannot represent, and they represent more. On ethanol (columns 0.012 eV/Å; validation
# frames, meV/Å) forces of 0.01, 0.005, 0.002 eV/Å leave 14.9, 13.9, 14.1 with 200 frames, and
# 7.5, 6.3, 5.9 with 800.
NOISE_SHARE = 0.25
# Derivatives of features kept in memory; what is beyond is made anew in each iteration.
MAX_BYTES = 1e9


class Keeper(Protocol):
    """Whoever keeps the state of the iterations (`kernelpot.fit.checkpoint.Checkpoint`)."""

    def load_iteration(self) -> cg.Iteration | None:
        """State of interrupted iterations."""

    def save_iteration_if_due(self, state: cg.Iteration) -> None:
        """Look at the state, and keep it if it is time."""


def with_less_noise(tuned: Tuned, design: Design, groups: Sequence[Group]) -> Tuned:
    """Noise for whole forms, where a term asks for them.

    Parameters
    ----------
    tuned : Tuned
        Chosen for the columns.
    design : Design
    groups : sequence of Group
        Those whose noise the user left to be chosen.

    Returns
    -------
    Tuned
        The same without forms.
    """
    if not any(getattr(bound.term, "full", False) for bound in design.terms) or not groups:
        return tuned
    sigmas = {group: NOISE_SHARE * tuned.noise.sigma(group) for group in groups}
    note = (
        f"noise of {', '.join(' '.join(group).strip() for group in groups)} is {NOISE_SHARE:g} of "
        "what was chosen for the columns of the regression: whole quadratic forms explain more"
    )
    return replace(tuned, noise=tuned.noise.changed(sigmas), notes=[*tuned.notes, note])


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
        max_bytes: float = MAX_BYTES,
        n_threads: int = 1,
    ) -> None:
        self.forms = forms
        self._frames, self._noise = frames, noise
        self._n_threads = n_threads
        self._triangle = factor.matrix
        if self._triangle[-1, -1] == 0:  # targets that are explained without a rest
            self._triangle = factor.matrix.copy(order="F")
            self._triangle[-1, -1] = 1.0
        labels = Labels(forms.design, frames, noise)
        self._batches = [batch for part in labels.parts() for batch in part]
        self._kept: dict[int, QuadraticRows] = {}
        self._alike, self._alike_others = self._alike_rows()
        self.right = np.zeros(forms.size)
        diagonal = np.zeros(forms.size)
        occupied = 0
        for k, rows in enumerate(self._stream()):
            self._add(self.right, rows.back(rows.y))
            self._add(diagonal, (np.zeros(len(forms.columns)), rows.diagonal()))
            occupied += rows.n_bytes
            if occupied <= max_bytes:
                self._kept[k] = rows
        self._diagonal = 1.0 + diagonal

    def _stream(self) -> Iterator[QuadraticRows]:
        """Rows of all batches, those that are kept as they are."""

        def make(k: int) -> QuadraticRows:
            if k in self._kept:
                return self._kept[k]
            frames = [self._frames[i] for i in self._batches[k]]
            return QuadraticRows.of(self.forms, frames, self._noise)

        return map_in_order(make, range(len(self._batches)), self._n_threads)

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

    def _add(self, total: FloatArray, part: tuple[FloatArray, list[FloatArray]]) -> None:
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
        for rows in self._stream():
            self._add(total, rows.back(rows.times(others, matrices)))
        return total

    def precondition(self, residual: FloatArray) -> FloatArray:
        """About the inverse: exact within the columns of the design, a diagonal beyond."""
        w = self.forms.weights(residual)
        # the column of the targets has no part: substitution forward never looks ahead,
        # backward it begins with zero
        half = scipy.linalg.blas.dtrsv(self._triangle, np.append(w, 0.0), trans=1)
        half[-1] = 0.0
        solved = scipy.linalg.blas.dtrsv(self._triangle, half)[:-1]
        out = residual / self._diagonal
        self.forms.insert(out, solved)
        return out


def whole_mean(
    equations: NormalEquations,
    start: FloatArray,
    *,
    keeper: Keeper | None = None,
    progress: Progress | None = None,
) -> cg.Iteration:
    """Solve the normal equations, from where an interrupted call ended if there was one.

    Parameters
    ----------
    equations : NormalEquations
    start : ndarray of shape (n,)
        Unknowns to start from.
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
            progress("whole forms", state.n, MAX_ITERATIONS)

    with single_blas_thread():
        state = None if keeper is None else keeper.load_iteration()
        if state is None:
            state = cg.begin(equations, equations.precondition, equations.right, start)
        return cg.solve(
            state,
            equations,
            equations.precondition,
            tolerance=TOLERANCE,
            max_iterations=MAX_ITERATIONS,
            after=after,
        )


def completed(
    forms: Forms,
    frames: Sequence[Frame],
    noise: Noise,
    factor: TriangularFactor,
    start: FloatArray,
    *,
    max_bytes: float = MAX_BYTES,
    n_threads: int = 1,
    keeper: Keeper | None = None,
    progress: Progress | None = None,
) -> tuple[TriangularFactor, dict[int, FloatArray], str]:
    """Solution for whole forms: a factor with its part in the columns, and what is beside.

    Parameters
    ----------
    forms : Forms
    frames, noise, factor, max_bytes, n_threads
        As in `NormalEquations`.
    start, keeper, progress
        As in `whole_mean`.

    Returns
    -------
    factor : TriangularFactor
    tails : dict of int to ndarray
        As in `LocalModel`.
    note : str
        For the user.
    """
    equations = NormalEquations(
        forms, frames, noise, factor, max_bytes=max_bytes, n_threads=n_threads
    )
    found = whole_mean(equations, start, keeper=keeper, progress=progress)
    n_columns = sum(len(form.block.points) for form in forms.forms)
    n_all = sum(form.n * (form.n + 1) // 2 for form in forms.forms)
    note = (
        f"mean of all {n_all} monomials of the second degree, of which {n_columns} have a column: "
        f"{found.n} iterations, to {found.relative:.2g} of the residual"
    )
    return with_solution(factor, forms.weights(found.x)), forms.tails(found.x), note


def residuals_without(
    forms: Forms,
    frames: Sequence[Frame],
    left_out: Sequence[int],
    noise: Noise,
    factor: TriangularFactor,
    start: FloatArray,
    *,
    max_bytes: float = MAX_BYTES,
    n_threads: int = 1,
    progress: Progress | None = None,
) -> dict[int, FloatArray]:
    """Errors on structures of the solution for all others.

    Parameters
    ----------
    forms, frames, noise, factor, start, max_bytes, n_threads, progress
        As in `completed`; `start` is the solution for all.
    left_out : sequence of int
        Frames to leave out, all at once.

    Returns
    -------
    dict of int to ndarray
        Of each, label minus prediction in the order energy, forces, virial [eV, eV/Å, eV].
    """
    unseen = set(left_out)
    seen = [frame for index, frame in enumerate(frames) if index not in unseen]
    equations = NormalEquations(
        forms, seen, noise, factor, max_bytes=max_bytes, n_threads=n_threads
    )
    found = whole_mean(equations, start, progress=progress)
    del equations
    others, matrices = forms.split(found.x)
    residuals = {}
    with single_blas_thread():
        for index in sorted(unseen):
            rows = QuadraticRows.of(forms, [frames[index]], noise)
            residuals[index] = (rows.y - rows.times(others, matrices)) * rows.noise
    return residuals


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
