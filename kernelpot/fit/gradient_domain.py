r"""The mean of all directions of all molecules, where the regression has those of some.

With one basis function for each degree of freedom of each training molecule the mean is that of
the Gaussian process of all forces: sGDML. Its coefficients solve

.. math:: (\delta^2 J H J^\top + \Lambda) \, a = -F ,

J being the derivatives of inverse distances by positions, H the mixed second derivatives of the
kernel between molecules (`kernelpot.terms._gdml`) and :math:`\Lambda` the noise of forces. The
matrix is never formed: H times a direction at each molecule takes a second for a thousand of them.
Conjugate gradients are preconditioned [1]_ by the factor of the same forces in the columns there
are:

.. math:: P^{-1} = \Lambda^{-1} - \Lambda^{-1} \Phi (R^\top R)^{-1} \Phi^\top \Lambda^{-1} .

Variances stay those of the columns, as for whole quadratic forms (`kernelpot.fit.full_mean`);
calibration takes the errors of molecules that were left out of the iterations.

References
----------
.. [1] Chmiela et al., Sci. Adv. 9, eadf0873 (2023).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg

from kernelpot.common.caller import warn_user
from kernelpot.common.parallel import single_blas_thread
from kernelpot.common.types import FloatArray, Group, Progress
from kernelpot.data.dataset import Frame
from kernelpot.data.system import Contribution, System
from kernelpot.fit.full_mean import Keeper, WholeMean, with_solution
from kernelpot.fit.hyperparameters import Tuned
from kernelpot.fit.progress import nth_of
from kernelpot.gp.blocks import Block
from kernelpot.gp.design import Design
from kernelpot.gp.labels import Noise
from kernelpot.regression import conjugate_gradients as cg
from kernelpot.regression.factors import TriangularFactor
from kernelpot.terms import _gdml
from kernelpot.terms.base import Term
from kernelpot.terms.gdml import DirectionKernel, GDMLTerm, InverseDistances, summed

# Noise of forces, relative to their prior standard deviation: small enough that training forces
# are reproduced to some meV/Å, large enough that iterations end. Of 150 frames of ethanol force
# errors on others change by 1 % between 3e-5 and 3e-4; of 800 iterations to the same residual are
# a third fewer with 1e-3 than with 3e-4.
NOISE_SHARE = 1e-3
# Iterations end where the preconditioned residual has fallen to this share, or after so many.
TOLERANCE = 2e-4
# Share of the molecules that is left out together.
MOST_LEFT_OUT = 0.25
# Molecules that the prior of forces is averaged over.
SOME = 100
MAX_ITERATIONS = 400
# Arrays of all features of all molecules at a time: themselves, directions, permuted ones and
# results, and copies where directions of one molecule are added; vectors of all coordinates.
FEATURE_ARRAYS, VECTORS = 14, 10
# Work at a feature of a pair of molecules; permutations of like atoms before they are known, and
# iterations: 75 of 1,000 frames of ethanol.
FLOPS, USUAL_PERMUTATIONS, USUAL_ITERATIONS = 15.0, 6, 100


def term_of(design: Design) -> Block | None:
    """The block whose mean is to have all directions; None without one, or beside other terms."""
    if len(design.terms) != 1 or not design.blocks:
        return None
    term, block = design.terms[0].term, design.blocks[0]
    if not (isinstance(term, GDMLTerm) and term.complete and len(block.points)):
        return None
    return block


def with_less_noise(
    tuned: Tuned, design: Design, frames: Sequence[Frame], groups: Sequence[Group]
) -> Tuned:
    """Noise of forces for all directions, which explain them nearly exactly.

    Parameters
    ----------
    tuned : Tuned
        Chosen for the columns.
    design : Design
    frames : sequence of Frame
    groups : sequence of Group
        Those whose noise the user left to be chosen.

    Returns
    -------
    Tuned
        The same without such a term.
    """
    groups = [group for group in groups if group[0] == "forces"]
    for t, bound in enumerate(design.terms):
        if len(design.terms) > 1 and isinstance(bound.term, GDMLTerm) and bound.term.complete:
            n = sum(len(block.points) for block in design.blocks if block.term == t)
            note = f"term {t}: beside other terms the mean has the {n} directions with a column"
            tuned = replace(tuned, notes=[*tuned.notes, note])
    if term_of(design) is None or not groups:
        return tuned
    descriptor, kernel = design.terms[0].descriptor, design.terms[0].kernel
    assert isinstance(descriptor, InverseDistances)
    some = [f.atoms for f in frames if len(f) > 1][:SOME]
    squares = [np.square(descriptor.jacobian(atoms)).sum(axis=2).mean() for atoms in some]
    prior = tuned.delta[0] ** 2 * kernel.largest_slope() * np.mean(squares)
    sigma = NOISE_SHARE * float(np.sqrt(prior))
    note = (
        f"noise of forces is {sigma:.2g} eV/Å, {NOISE_SHARE:g} of their prior, as all directions "
        "explain them nearly exactly"
    )
    noise = tuned.noise.changed({group: sigma for group in groups})
    return replace(tuned, noise=noise, notes=[*tuned.notes, note])


@dataclass(frozen=True)
class Iterations:
    """What the iterations over all directions need.

    Attributes
    ----------
    n_molecules : int
    n_bytes : float
        Derivatives of the features of all molecules, and work arrays; factors not included.
    flops : float
        Of as many iterations as there usually are.
    """

    n_molecules: int
    n_bytes: float
    flops: float

    @classmethod
    def of(
        cls, terms: Sequence[Term], frames: Sequence[Frame], n_columns: int
    ) -> Iterations | None:
        """Of a fit; None without such a term, or beside other terms.

        Parameters
        ----------
        terms : sequence of Term
        frames : sequence of Frame
        n_columns : int
            Directions that have a column.

        Returns
        -------
        Iterations or None
        """
        sizes = [len(f) for f in frames if f.forces is not None and len(f) > 1]
        if len(terms) != 1 or not sizes:
            return None
        (term,) = terms
        if not (isinstance(term, GDMLTerm) and term.complete):
            return None
        n, n_coordinates = len(sizes), 3 * max(sizes)
        n_features = max(sizes) * (max(sizes) - 1) // 2
        permutations = term.permutations
        n_permutations = USUAL_PERMUTATIONS if permutations is None else 1 + len(permutations)
        # molecules with columns have all of their directions among them
        sparse = min(n, -(-n_columns // max(1, n_coordinates - 6)))
        pairs = n * (0.5 * n + 2.0 * sparse)
        return cls(
            n,
            8.0 * n * (n_features * (n_coordinates + FEATURE_ARRAYS) + VECTORS * n_coordinates),
            USUAL_ITERATIONS * pairs * n_permutations * FLOPS * n_features,
        )


def forces_alone(noise: Noise) -> Callable[[Group], float]:
    """Noise for the factor that preconditions: no other label counts.

    The equations have forces only. Energies in the factor, the more the less their noise, would
    each make the preconditioner wrong in one direction by orders of magnitude.

    Parameters
    ----------
    noise : Noise

    Returns
    -------
    callable
        Noise of a group of labels, infinite of those that are not forces.
    """
    return lambda group: noise.sigma(group) if group[0] == "forces" else math.inf


class ForceEquations:
    """All forces in all directions, as an operator on Cartesian coefficients.

    Parameters
    ----------
    design : Design
        With the deltas that were chosen.
    frames : sequence of Frame
        Labels less what the kernel need not explain; those without forces are passed over.
    noise : Noise
    factor : TriangularFactor
        Of these forces (or more) and no other labels, in the columns of the design.
    """

    def __init__(
        self, design: Design, frames: Sequence[Frame], noise: Noise, factor: TriangularFactor
    ) -> None:
        block = term_of(design)
        descriptor, kernel = design.terms[0].descriptor, design.terms[0].kernel
        assert block is not None
        assert isinstance(descriptor, InverseDistances)
        assert isinstance(kernel, DirectionKernel)
        self.frames = [f for f in frames if f.forces is not None and len(f) > 1]
        self._block, self._kernel, self._design = block, kernel, design
        self._args = (kernel.permuted(descriptor.n_features), kernel.a)
        self.x = np.array([descriptor.features(f.atoms) for f in self.frames])
        n_coordinates = 3 * len(self.frames[0])
        self._jacobian = np.empty((len(self.frames), n_coordinates, descriptor.n_features))
        for own, frame in zip(self._jacobian, self.frames, strict=True):
            own[:] = descriptor.jacobian(frame.atoms).reshape(own.shape)
        self.shape = self._jacobian.shape[:2]
        targets, sigma = np.empty(self.shape), np.empty(self.shape)
        for k, frame in enumerate(self.frames):
            assert frame.forces is not None
            group, unit = noise.of(frame)[1]
            sigma[k] = noise.sigma(group) * unit
            # what no change of shape explains, of rounded forces, is left out
            axes = scipy.linalg.orth(self._jacobian[k], rcond=1e-9)
            targets[k] = -axes @ (axes.T @ frame.forces.ravel())
        self._noise = (sigma**2).ravel()
        self.right = targets.ravel()
        self._triangle = factor.matrix
        if self._triangle[-1, -1] == 0:  # targets that are explained without a rest
            self._triangle = factor.matrix.copy(order="F")
            self._triangle[-1, -1] = 1.0
        points = block.points
        self._of_points = np.any(points != 0, axis=1)
        n = descriptor.n_features
        self._sparse, self._place = np.unique(
            points[self._of_points, :n], axis=0, return_inverse=True
        )
        self._directions = points[self._of_points, n:]

    def directions(self, x: FloatArray) -> FloatArray:
        """Direction at each molecule of Cartesian coefficients, shape (n_frames, n_features)."""
        return np.einsum("naf,na->nf", self._jacobian, x.reshape(self.shape))

    def _cartesian(self, by_features: FloatArray) -> FloatArray:
        return np.einsum("naf,nf->na", self._jacobian, by_features).ravel()

    def __call__(self, x: FloatArray) -> FloatArray:
        """Covariance of forces, with their noise, times coefficients."""
        out = np.zeros_like(self.x)
        _gdml.times(self.x, self.directions(x), *self._args, out)
        return self._kernel.diagonal() * self._cartesian(out) + self._noise * x

    def _columns(self, w: FloatArray) -> FloatArray:
        """Gradients that weights of the columns predict."""
        weights = self._block.of_points(w[self._block.columns])[self._of_points]
        v = np.zeros_like(self._sparse)
        np.add.at(v, self._place.ravel(), weights[:, None] * self._directions)
        out = np.zeros_like(self.x)
        _gdml.across(self.x, self._sparse, v, *self._args, out)
        return self._kernel.diagonal() * self._cartesian(out)

    def _columns_transposed(self, gradients: FloatArray) -> FloatArray:
        out = np.zeros_like(self._sparse)
        _gdml.across(self._sparse, self.x, self.directions(gradients), *self._args, out)
        of_points = np.zeros(len(self._of_points))
        of_points[self._of_points] = self._kernel.diagonal() * np.einsum(
            "mf,mf->m", out[self._place.ravel()], self._directions
        )
        w = np.zeros(self._design.n_columns)
        w[self._block.columns] = self._block.whitened(of_points[None])[0]
        return w

    def precondition(self, residual: FloatArray) -> FloatArray:
        """About the inverse: exact as far as the columns reach."""
        scaled = residual / self._noise
        w = np.append(self._columns_transposed(scaled), 0.0)
        # the column of the targets has no part, as in `full_mean`
        half = scipy.linalg.blas.dtrsv(self._triangle, w, trans=1)
        half[-1] = 0.0
        solved = scipy.linalg.blas.dtrsv(self._triangle, half)[:-1]
        return scaled - self._columns(solved) / self._noise

    def energies(self, x: FloatArray) -> FloatArray:
        """Energies of the molecules but for a constant [eV], shape (n_frames,)."""
        value, by_u = np.zeros(len(self.x)), np.zeros_like(self.x)
        _gdml.mean(self.x, self.x, self.directions(x), *self._args, value, by_u)
        return self._kernel.diagonal() * value


def _folds(frames: Sequence[Frame], left_out: Sequence[int]) -> list[Sequence[int]]:
    """Frames to leave out together."""
    together = max(1, int(MOST_LEFT_OUT * len(frames)))
    return [left_out[start : start + together] for start in range(0, len(left_out), together)]


@dataclass(frozen=True)
class AllDirections:
    """Completes the mean of a design whose only term is a `GDMLTerm`.

    Attributes
    ----------
    design : Design
        With the deltas that were chosen.
    of_forces : TriangularFactor
        Of the forces alone in its columns (`forces_alone`).
    """

    design: Design
    of_forces: TriangularFactor

    def solve(
        self,
        frames: Sequence[Frame],
        noise: Noise,
        factor: TriangularFactor,
        *,
        keeper: Keeper | None = None,
        progress: Progress | None = None,
    ) -> tuple[ForceEquations, cg.Iteration, FloatArray, FloatArray]:
        """Equations, their solution, and with it weights of columns and what is beside."""
        equations = ForceEquations(self.design, frames, noise, self.of_forces)

        def after(state: cg.Iteration) -> None:
            if keeper is not None:
                keeper.save_iteration_if_due(state)
            if progress is not None:
                progress("all directions", state.n, MAX_ITERATIONS)

        with single_blas_thread():
            state = None if keeper is None else keeper.load_iteration()
            if state is None:
                nothing = np.zeros(len(equations.right))
                state = cg.begin(equations, equations.precondition, equations.right, nothing)
            state = cg.solve(
                state,
                equations,
                equations.precondition,
                tolerance=TOLERANCE,
                max_iterations=MAX_ITERATIONS,
                after=after,
            )
            return equations, state, *self._split(equations, state.x, frames, noise, factor)

    def _split(
        self,
        equations: ForceEquations,
        x: FloatArray,
        frames: Sequence[Frame],
        noise: Noise,
        factor: TriangularFactor,
    ) -> tuple[FloatArray, FloatArray]:
        """Weights of the columns, the constant right, and directions beside them."""
        block = term_of(self.design)
        kernel = self.design.terms[0].kernel
        assert block is not None
        assert isinstance(kernel, DirectionKernel)
        w = factor.solve()
        constant = np.flatnonzero(~block.points.any(axis=1))
        known = [k for k, f in enumerate(equations.frames) if f.energy is not None]
        if len(constant) and known:
            labels = np.array([equations.frames[k].energy for k in known])
            level = float(np.mean(labels - equations.energies(x)[known]))
            own = block.of_points(w[block.columns])
            unit = kernel.similarity(equations.x[:1], block.points[constant[:1]])[0, 0]
            more = level / (unit * kernel.diagonal()) - own[constant[0]]
            K = kernel.gram(block.points[constant[:1]])[0, 0]
            w[block.columns] += K * more * block.T[constant[0]]
        own_x, own_v = summed(block.points, block.of_points(w[block.columns]))
        moving = own_x.any(axis=1)
        tail = np.concatenate(
            [
                np.hstack([equations.x, equations.directions(x)]),
                np.hstack([own_x[moving], -own_v[moving]]),
            ]
        )
        return w, np.hstack(summed(tail, np.ones(len(tail))))

    def completed(
        self,
        frames: Sequence[Frame],
        noise: Noise,
        factor: TriangularFactor,
        *,
        keeper: Keeper | None = None,
        progress: Progress | None = None,
    ) -> tuple[TriangularFactor, dict[int, FloatArray], str]:
        """Solution for all directions: a factor with its part in the columns, what is beside.

        Parameters
        ----------
        frames : sequence of Frame
            Labels less what the kernel need not explain.
        noise : Noise
        factor : TriangularFactor
            Of the same labels in the columns.
        keeper, progress
            As in `kernelpot.fit.full_mean.whole_mean`.

        Returns
        -------
        factor : TriangularFactor
        tails : dict of int to ndarray
            As in `LocalModel`.
        note : str
            For the user.
        """
        equations, state, w, tail = self.solve(
            frames, noise, factor, keeper=keeper, progress=progress
        )
        residual = np.sqrt(np.mean(state.residual**2))
        if state.relative > TOLERANCE:
            warn_user(
                f"the mean of all directions is not yet that of the data: after {state.n} "
                f"iterations training forces are reproduced to {1e3 * residual:.2g} meV/Å; raise "
                "n_sparse, the directions that the iterations start from"
            )
        note = (
            f"mean of all {len(equations.right)} directions of {len(equations.frames)} molecules: "
            f"{state.n} iterations, forces reproduced to {1e3 * residual:.2g} meV/Å"
        )
        return with_solution(factor, w), {0: tail}, note

    def fit(
        self,
        frames: Sequence[Frame],
        noise: Noise,
        factor: TriangularFactor,
        left_out: Sequence[int] = (),
        *,
        keeper: Keeper | None = None,
        progress: Progress | None = None,
    ) -> WholeMean:
        """The solution for all molecules, and errors on some of the solution for the others.

        Parameters
        ----------
        frames, noise, factor, keeper, progress
            As in `completed`.
        left_out : sequence of int
            As in `residuals_without`; nothing is left out where there are none.

        Returns
        -------
        WholeMean
        """
        runs = 1 + len(_folds(frames, left_out))
        first = None if progress is None else nth_of(progress, 0, runs)
        factor, tails, note = self.completed(frames, noise, factor, keeper=keeper, progress=first)
        residuals = (
            self.residuals_without(frames, left_out, noise, factor, progress=progress)
            if left_out
            else None
        )
        return WholeMean(factor, tails, noise, residuals, [note])

    def residuals_without(
        self,
        frames: Sequence[Frame],
        left_out: Sequence[int],
        noise: Noise,
        factor: TriangularFactor,
        *,
        progress: Progress | None = None,
    ) -> dict[int, FloatArray]:
        """Errors on molecules of the solution for all others.

        Parameters
        ----------
        frames, noise, factor
            As in `completed`.
        progress : callable, optional
            Told of what follows the solution for all.
        left_out : sequence of int
            Frames to leave out: together, if enough others are left.

        Returns
        -------
        dict of int to ndarray
            Of each, label minus prediction in the order energy, forces, virial
            [eV, eV/Å, eV].
        """
        residuals: dict[int, FloatArray] = {}
        folds = _folds(frames, left_out)
        for k, fold in enumerate(folds):
            own = None if progress is None else nth_of(progress, 1 + k, 1 + len(folds))
            residuals.update(self._residuals_without(frames, fold, noise, factor, own))
        return residuals

    def _residuals_without(
        self,
        frames: Sequence[Frame],
        left_out: Sequence[int],
        noise: Noise,
        factor: TriangularFactor,
        progress: Progress | None,
    ) -> dict[int, FloatArray]:
        unseen = set(left_out)
        seen = [frame for index, frame in enumerate(frames) if index not in unseen]
        _, _, w, tail = self.solve(seen, noise, factor, progress=progress)
        bound, block = self.design.terms[0], term_of(self.design)
        assert block is not None
        assert isinstance(bound.kernel, DirectionKernel)
        mean = bound.kernel.completed(block.points, block.of_points(w[block.columns]), tail)
        residuals = {}
        for index in sorted(unseen):
            frame = frames[index]
            system = System.of([frame.atoms], 0.0)
            found = bound.descriptor.environments(system, slice(0, len(frame)))
            value, by_u, _ = mean(found.x)
            out = Contribution.zero(system)
            bound.descriptor.pull(system, found, by_u, None, out)
            parts: list[FloatArray] = []
            if frame.energy is not None:
                parts.append(np.array([frame.energy - value.sum()]))
            if frame.forces is not None:
                parts.append((frame.forces - out.forces).ravel())
            residuals[index] = np.concatenate(parts) if parts else np.zeros(0)
        return residuals
