r"""Choosing the structures whose labels would teach most.

What a label changes of the posterior variance does not depend on its value, so the
choice can be made before anything is computed, one structure after the other, each
knowing of those chosen before. A structure is scored by the variance of its own labels,

.. math:: v = |R^{-\top} \phi|^2 ,

with the whitened features :math:`\phi` of its forces (or its energy). Local energies would
not do: labels leave open how a total energy is made up of them, so their variance may
stay high in structures that are known perfectly.

The present sparse points span only part of what an unknown structure could teach. So it
is scored, and if chosen learned, with sparse points of its own: columns added to
:math:`\phi`, with a unit prior as nothing is known of them yet. A chosen structure's rows
are annihilated into R, as in an update.

This can only lower the variance of others. A score from an earlier step is thus an upper
bound, and only structures whose bound heads the list are looked at again (lazy
evaluation [1]_).

The largest variance finds what is unlike all that is known. Errors of structures like the
candidates are another goal: there the mean variance of all of them counts (`optimal_design`).

References
----------
.. [1] Minoux, in Optimization Techniques, Lecture Notes in Control and Information
   Sciences 7, 234 (1978).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.linalg
from ase import Atoms

from kernelpot.common.parallel import map_in_order, single_blas_thread, thread_count
from kernelpot.common.types import FloatArray, IntArray, Progress
from kernelpot.data.dataset import Frame
from kernelpot.data.reading import read_structures
from kernelpot.data.system import System, species_index
from kernelpot.gp.blocks import Points
from kernelpot.gp.design import Design
from kernelpot.gp.local import local_features
from kernelpot.model.fitted import FittedModel
from kernelpot.potential import KernelPotential
from kernelpot.regression.factors import TriangularFactor
from kernelpot.regression.layout import Layout
from kernelpot.regression.novelty import novelty
from kernelpot.regression.optimal_design import choose_for_the_mean
from kernelpot.regression.selection import farthest_from
from kernelpot.terms.base import Kernel, OwnPoints

# Novelty of the local energies of a structure that its own sparse points need not span,
# relative to their largest variance. Less costs columns and changes little.
UNLEARNED = 0.02
SCORES = ("forces", "energy", "mean_forces")
# Of more environments of one class in a structure those farthest from what is known count.
MAX_ENVIRONMENTS = 2000


@dataclass(frozen=True)
class Selection:
    """Structures to label, the most telling first.

    Attributes
    ----------
    indices : ndarray of shape (n,)
        Among the candidates, in the order of choice.
    scores : ndarray of shape (n,)
        Standard deviation each was chosen for, given all chosen before it: root mean
        square of the force components [eV/Å], or energy [eV/atom]. With "mean_forces" that
        of the forces of all candidates [eV/Å] once it is labelled. Does not rise.
    n_evaluations : int
        Scores that were computed (each at about the cost of fitting the structure).
    """

    indices: IntArray
    scores: FloatArray
    n_evaluations: int

    def __len__(self) -> int:
        """Return the number of structures chosen."""
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        """Iterate over the indices."""
        return iter(self.indices.tolist())


def select_frames(
    potential: KernelPotential,
    candidates: Any,
    n: int,
    *,
    score: str = "forces",
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> Selection:
    """Choose the structures whose labels the potential would learn most from.

    Greedy: the structure with the largest posterior standard deviation of its forces
    comes first, the next is chosen as if the first had been labelled (energy, forces,
    and the virial of periodic ones if the potential was fitted to any) and fitted with
    sparse points of its own, and so on. Near duplicates of a chosen structure are
    thereby known, and not chosen while there is more to learn elsewhere. (To the noise of
    the potential, that is: once every score is below `sigma_forces`, measuring the same
    again counts as much as measuring something new, and little is left to learn.)

    This finds what is unlike all that is known. It does not promise a lower mean error:
    of candidates drawn as the structures that errors are measured on (frames of one
    trajectory, a data set made with care), as many random ones do as well.

    Memory is that of the factor, which grows by the distinct environments of chosen
    structures. Time is that of fitting all candidates, and per choice that of looking
    again at a few of them.

    Parameters
    ----------
    potential : KernelPotential
        Fitted; not changed.
    candidates : path, Dataset, ase.Atoms or sequence of these
        Structures; labels are ignored.
    n : int
        How many to choose.
    score : {"forces", "energy", "mean_forces"}
        What a structure is scored by: the root mean square over its force components of
        their standard deviation, or the standard deviation of its energy per atom. With
        "mean_forces" the structure comes first whose labels lower the mean variance of
        the forces of all candidates most, as far as the present sparse points can
        express it: no outliers, but what is typical of many. This needs memory for twice
        the rows of all candidates.
    n_threads : int, optional
        For "mean_forces". Default: ``KERNELPOT_NUM_THREADS`` or the free cores.
    progress : callable, optional
        Called as ``progress(stage, done, total)``.

    Returns
    -------
    Selection

    Raises
    ------
    ValueError
        If there are fewer than `n` candidates, `score` is not known, or a candidate is
        unsound or has a species the potential does not know.

    Examples
    --------
    >>> import kernelpot as kp
    >>> from kernelpot.datasets import load_silicon
    >>> old, pool = load_silicon("train"), load_silicon("test")
    >>> terms = [kp.SOAPTerm(r_cut=4.0, n_max=4, l_max=3, n_sparse=50)]
    >>> pot = kp.KernelPotential(terms, baseline=[kp.Wall()]).fit(old, optimize=None)
    >>> chosen = kp.select_frames(pot, pool, 3)
    >>> new = [pool[i] for i in chosen]  # yours would be labelled now
    >>> pot = pot.update(new, add_sparse=5, data=old)
    >>> pot.describe()["terms"][0]["n_sparse"]
    {'Si': 55}
    """
    if score not in SCORES:
        raise ValueError(f"`score` must be one of {', '.join(SCORES)}, got {score!r}")
    structures = _checked(potential.model, candidates)
    if not 1 <= n <= len(structures):
        raise ValueError(
            f"`n` must be between 1 and the number of candidates, {len(structures)}, got {n}"
        )
    state = _State.of(potential.model)
    if score == "mean_forces":
        return _choose_for_all(state, structures, n, thread_count(n_threads), progress)

    # (minus an upper bound of the score, index, chosen structures the bound knows of)
    queue = []
    for index in range(len(structures)):
        queue.append((-state.score(structures[index], score), index, 0))
        if progress is not None:
            progress("candidates", index + 1, len(structures))
    heapq.heapify(queue)
    n_evaluations = len(queue)
    indices: list[int] = []
    scores: list[float] = []
    while len(indices) < n:
        bound, index, known = heapq.heappop(queue)
        if known < len(indices):
            # a bound stays one: rounding must not lift it
            now = -state.score(structures[index], score)
            heapq.heappush(queue, (max(bound, now), index, len(indices)))
            n_evaluations += 1
            continue
        indices.append(index)
        scores.append(-bound)
        if len(indices) < n:
            state = state.knowing(structures[index])
        if progress is not None:
            progress("choice", len(indices), n)
    return Selection(np.array(indices), np.array(scores), n_evaluations)


def _choose_for_all(
    state: _State, structures: Sequence[Atoms], n: int, n_threads: int, progress: Progress | None
) -> Selection:
    """Choose what lowers the mean variance of the forces of all structures most."""
    rows, weights = [], []
    n_components = 3 * sum(map(len, structures))
    with single_blas_thread():
        for k, (phi, unit) in enumerate(map_in_order(state.rows, structures, n_threads)):
            of_forces = np.zeros(len(unit))
            of_forces[1 : 1 + 3 * len(structures[k])] = 1.0
            rows.append(phi)
            weights.append(unit * of_forces / np.sqrt(n_components))
            if progress is not None:
                progress("candidates", k + 1, len(structures))
    chosen, left = choose_for_the_mean(rows, weights, state.factor.R, n, progress=progress)
    return Selection(chosen, np.sqrt(left), len(structures))


def _checked(model: FittedModel, candidates: Any) -> list[Atoms]:
    """Structures that the model can be evaluated for."""
    structures = []
    for atoms, name in read_structures(candidates):
        try:
            species_index(atoms.numbers, model.species)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        structures.append(atoms)
    return structures


@dataclass(frozen=True)
class _State:
    """Sparse points and factor, chosen structures included.

    Attributes
    ----------
    model : FittedModel
        Before the choice.
    design : Design
        Sparse points of the model, and those of chosen structures.
    factor : TriangularFactor
        Posterior precision of the whitened weights.
    with_virial : bool
        Whether labels of periodic structures will have a virial.
    """

    model: FittedModel
    design: Design
    factor: TriangularFactor
    with_virial: bool

    @classmethod
    def of(cls, model: FittedModel) -> _State:
        fitted_to = set(model.training.sources)
        return cls(model, model.design, model.factor, bool({"virial", "stress"} & fitted_to))

    def score(self, atoms: Atoms, kind: str) -> float:
        """Standard deviation of a structure's forces [eV/Å] or energy [eV/atom]."""
        state = self._with_points_of(atoms)
        rows, unit = state.rows(atoms)
        own = slice(0, 1) if kind == "energy" else slice(1, 1 + 3 * len(atoms))
        variances = state.factor.open_variance(rows[own]) * unit[own] ** 2
        if kind == "energy":
            return float(np.sqrt(variances[0])) / len(atoms)
        return float(np.sqrt(variances.mean()))

    def knowing(self, atoms: Atoms) -> _State:
        """Return the state after a structure was labelled and fitted."""
        state = self._with_points_of(atoms)
        rows, _ = state.rows(atoms)
        factor = state.factor.copy()
        factor.update(rows, np.zeros(len(rows)))
        return replace(state, factor=factor)

    def rows(self, atoms: Atoms) -> tuple[FloatArray, FloatArray]:
        """Noise-scaled rows of energy, forces and virial, and the noise of each."""
        virial = np.zeros(6) if self.with_virial and np.all(atoms.pbc) else None
        frame = Frame(atoms, 0.0, np.zeros((len(atoms), 3)), virial)
        noise = self.model.noise
        found = self.design.rows([frame], noise)
        sigma = found.noise(noise.sigma)
        return found.phi / sigma[:, None], sigma * found.unit

    def _with_points_of(self, atoms: Atoms) -> _State:
        """Add the environments of a structure as sparse points, where they are new."""
        design = self.design
        system = System.of([atoms], design.r_cut)
        everything = slice(0, len(atoms))
        found = [term.descriptor.environments(system, everything) for term in design.terms]
        embedded = [
            term.kernel.embed(own.x)[0] for term, own in zip(design.terms, found, strict=True)
        ]
        tolerance = UNLEARNED * self._largest_variance(system) / len(design.terms)
        extended = []
        for block in design.blocks:
            term = design.terms[block.term]
            key = term.descriptor.keys.index(block.key)
            own = embedded[block.term][found[block.term].key == key]
            points, T = block.points, block.T
            if term.kernel.explicit or isinstance(term.descriptor, OwnPoints):
                # no environment becomes a monomial: only labels count
                extended.append((Points(block.term, block.key, points, block.sites), T))
                continue
            if len(own) > MAX_ENVIRONMENTS:  # the covariance of all of them would be large
                squares, known = term.kernel.squares(own), term.kernel.squares(points)
                own = own[farthest_from(own, points, MAX_ENVIRONMENTS, squares, known)[0]]
            if len(own):
                added, T = _extended(term.kernel, points, T, own, tolerance)
                points = np.concatenate([points, own[added]])
            extended.append((Points(block.term, block.key, points), T))
        new = Design.known(design.species, design.terms, extended)
        # old columns keep their order, so the triangle stays one; new ones have the prior
        place = np.concatenate(
            [
                _places(design.layout, new.layout),
                [new.n_columns - 1, new.n_columns],
            ]
        )
        factor = TriangularFactor(new.n_columns)
        factor.matrix[np.ix_(place, place)] = self.factor.matrix
        factor.n_rows = self.factor.n_rows
        return replace(self, design=new, factor=factor)

    def _largest_variance(self, system: System) -> float:
        """Largest posterior variance of a local energy [eV^2]."""
        phi, prior = local_features(self.design, system)
        return float((novelty(phi, prior) + self.factor.open_variance(phi)).max())


def _extended(
    kernel: Kernel, points: FloatArray, T: FloatArray, u: FloatArray, tolerance: float
) -> tuple[IntArray, FloatArray]:
    r"""Whitening of sparse points and those of some environments that they do not span.

    With :math:`\Phi = K_{nM} T` the novelty of the environments has the covariance
    :math:`K_{nn} - \Phi \Phi^\top`. Its pivoted Cholesky factor L names the most novel
    ones until none is left above the tolerance; T is continued by
    :math:`[-T \Phi^\top L^{-\top}; L^{-\top}]`.
    """
    phi = kernel(u, points) @ T
    left = kernel(u, u) - phi @ phi.T
    factor, pivots, rank, _ = scipy.linalg.lapack.dpstrf(left, tol=tolerance, lower=1)
    if left.diagonal().max() <= tolerance:
        rank = 0
    chosen = pivots[:rank].astype(np.int64) - 1
    continued = np.zeros((len(points) + rank, T.shape[1] + rank))
    continued[: len(points), : T.shape[1]] = T
    if rank:
        inverse = scipy.linalg.solve_triangular(
            np.tril(factor[:rank, :rank]), np.eye(rank), lower=True
        )
        continued[len(points) :, T.shape[1] :] = inverse.T
        continued[: len(points), T.shape[1] :] = -T @ (phi[chosen].T @ inverse.T)
    return chosen, continued


def _places(old: Layout, new: Layout) -> IntArray:
    """Where the columns of a layout are in one whose blocks were lengthened."""
    place = np.empty(old.size, dtype=np.int64)
    for part, longer in zip(old.columns, new.columns, strict=True):
        place[part] = np.arange(longer.start, longer.start + part.stop - part.start)
    return place
