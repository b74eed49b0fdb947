"""Passes of Gauss and Newton that find charges, beside a small local model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg

from kernelpot.common.types import KINDS, BoolArray, FloatArray, IntArray
from kernelpot.data.dataset import Frame
from kernelpot.data.system import Contribution, System, voigt
from kernelpot.fit.charges_prior import ChargesPrior
from kernelpot.fit.settings import Settings
from kernelpot.fit.state import State
from kernelpot.gp.design import Design
from kernelpot.gp.labels import Noise, observe
from kernelpot.terms.base import Environments, RowGradient, Term
from kernelpot.terms.charges import ChargesDescriptor

# Of the small local model: sparse points of each term.
N_SPARSE = 150
# Passes at most, and the fall of the objective that ends them.
PASSES, SPECIES_PASSES, TOLERANCE = 10, 15, 1e-3
# The noise stands for what the model misses, less with charges than without: it is found anew
# after passes, so many times, unless it changes by less than this factor.
ROUNDS, NOISE_CHANGE = 4, 1.1
# Damping: where it begins, its factors, and where nothing is found any more.
_DAMPING, _UP, _DOWN, _HOPELESS = 1e-2, 4.0, 8.0, 1e8
# Prior standard deviation of the energy of a species that compositions tell [eV].
_COMPOSITION = 10.0


@dataclass(frozen=True)
class SmallModel:
    """Labels of some structures, and the rows of a small local model for them.

    Attributes
    ----------
    frames : list of Frame
    phi, y : ndarray
        Rows and targets in units of the noise.
    sigma : ndarray of shape (n_rows,)
        This noise.
    places : list of ndarray
        Of each frame, its rows in the order energy, forces, virial of one structure.
    kind, owner : ndarray of shape (n_rows,)
        Kind of label, and frame.
    """

    frames: list[Frame]
    phi: FloatArray
    y: FloatArray
    sigma: FloatArray
    places: list[IntArray]
    kind: IntArray
    owner: IntArray

    @classmethod
    def of(
        cls,
        frames: Sequence[Frame],
        terms: Sequence[Term],
        species: tuple[int, ...],
        noise: Noise,
        *,
        absolute: bool,
        seed: int,
    ) -> SmallModel:
        """Rows of a small model of some terms for the labels of some frames.

        Parameters
        ----------
        frames : sequence of Frame
            Labels less what the kernels need not explain.
        terms : sequence of Term
        species : tuple of int
        noise : Noise
        absolute : bool
            Whether energies of free atoms are known; else compositions may shift energies.
        seed : int
        """
        small = [term.changed(n_sparse=None) for term in terms]
        design: Design = State.chosen(
            small, species, frames, settings=Settings(seed=seed), usual=[N_SPARSE] * len(small)
        ).design
        phi, y, sigma, places, kind, owner = [], [], [], [], [], []
        for index, frame in enumerate(frames):
            rows = design.rows([frame], noise)
            observed = observe([frame], noise)
            s = rows.noise(noise.sigma)
            composition = np.zeros((len(rows), 0))
            if not absolute:
                counts = np.array([np.sum(frame.atoms.numbers == z) for z in species])
                composition = _COMPOSITION * np.outer(
                    (rows.kind == KINDS.index("energy")) / rows.unit, counts
                )
            phi.append(np.concatenate([rows.phi, composition], axis=1) / s[:, None])
            y.append(rows.y / s)
            sigma.append(s * rows.unit)
            places.append(observed.rows)
            kind.append(rows.kind)
            owner.append(np.full(len(rows), index))
        return cls(
            list(frames),
            np.concatenate(phi),
            np.concatenate(y),
            np.concatenate(sigma),
            places,
            np.concatenate(kind),
            np.concatenate(owner),
        )

    def take(self, chosen: BoolArray) -> SmallModel:
        """Labels of some of the frames."""
        which = np.flatnonzero(chosen)
        rows = np.isin(self.owner, which)
        return SmallModel(
            [self.frames[k] for k in which],
            self.phi[rows],
            self.y[rows],
            self.sigma[rows],
            [self.places[k] for k in which],
            self.kind[rows],
            np.searchsorted(which, self.owner[rows]),
        )

    def scaled(self, factors: FloatArray) -> SmallModel:
        """With other noise, by factors of rows."""
        return replace(
            self,
            phi=self.phi / factors[:, None],
            y=self.y / factors,
            sigma=self.sigma * factors,
        )


class _Electrostatics:
    """Electrostatic labels of some structures as functions of the coefficients of charges."""

    def __init__(self, descriptor: ChargesDescriptor, labels: SmallModel) -> None:
        self._descriptor, self._labels = descriptor, labels
        self._known: list[tuple[System, Environments]] = []
        for frame in labels.frames:
            system = System.of([frame.atoms], descriptor.r_cut)
            found = descriptor.environments(system, slice(0, system.n_atoms))
            self._known.append((system, found))

    @classmethod
    def again(cls, other: _Electrostatics, labels: SmallModel) -> _Electrostatics:
        """The same for labels of other noise."""
        found = object.__new__(cls)
        found._descriptor, found._labels, found._known = other._descriptor, labels, other._known
        return found

    def values(self, beta: FloatArray) -> FloatArray:
        """Electrostatic part of all labels in units of the noise."""
        parts = []
        for (system, found), places in zip(self._known, self._labels.places, strict=True):
            d, around = self._descriptor.moved_to(beta, system, found)
            weights = np.append(beta, 1.0)
            out = Contribution.zero(system)
            energy = around.x[0] @ weights
            if len(places) > 1:
                d.pull(system, around, weights[None], None, out)
            whole = np.concatenate(
                [[energy], system.forces(out).ravel(), voigt(system.virials(out)[0])]
            )
            parts.append(whole[places])
        return np.concatenate(parts) / self._labels.sigma

    def jacobian(self, beta: FloatArray) -> FloatArray:
        """Its derivative by the coefficients."""
        n = len(beta)
        one = np.zeros((1, n))
        parts = []
        for (system, found), places in zip(self._known, self._labels.places, strict=True):
            d, around = self._descriptor.moved_to(beta, system, found)
            points = np.eye(n, n + 1)
            whole = np.zeros((1 + 3 * system.n_atoms + 6, n))
            whole[0] = around.x[0, :-1]
            if len(places) > 1:
                gradient = RowGradient(points, around.x, one + 1.0, one, one)
                end = 1 + 3 * system.n_atoms
                d.add_rows(system, around, np.array([0]), gradient, whole[1:end], whole[end:])
            parts.append(whole[places])
        return np.concatenate(parts) / self._labels.sigma[:, None]


class Passes:
    """Passes of Gauss and Newton with the local part eliminated.

    Attributes
    ----------
    n : int
        Passes made with charges by environment.
    fall : float
        The objective over that without charges.
    """

    def __init__(self, prior: ChargesPrior, labels: SmallModel) -> None:
        self._prior = prior
        self._raw = labels
        self._with_noise(np.zeros(len(labels.y)))
        self.n, self.fall = 0, 1.0

    def _with_noise(self, explained: FloatArray) -> float:
        """Take the noise that is left beside what charges explain of labels, in their own units.

        Returns
        -------
        float
            The largest change of a noise, a factor.
        """
        before = getattr(self, "misfit", np.full(len(KINDS), np.inf))
        self.misfit = _misfit(self._raw, explained / self._raw.sigma)
        self.labels = self._raw.scaled(self.misfit[self._raw.kind])
        self._factor = _normal(self.labels.phi)
        return float((before / self.misfit).max())

    def _project(self, columns: FloatArray) -> FloatArray:
        """What the local model cannot explain of labels, with its prior counted."""
        phi = self.labels.phi
        return columns - phi @ scipy.linalg.cho_solve(self._factor, phi.T @ columns)

    def _run(
        self, prior: ChargesPrior, coulomb: _Electrostatics, beta: FloatArray, passes: int
    ) -> tuple[FloatArray, float, int]:
        y, precision, right = self.labels.y, prior.precision, prior.right

        def residual(at: FloatArray) -> tuple[FloatArray, FloatArray, float]:
            left = y - coulomb.values(at)
            projected = self._project(left)
            # with w at its best the objective is the product of both
            return left, projected, float(left @ projected + at @ precision @ at - 2.0 * at @ right)

        left, projected, loss = residual(beta)
        damping, n = 0.0, 0
        for _ in range(passes):
            jacobian = coulomb.jacobian(beta)
            normal = jacobian.T @ self._project(jacobian) + precision
            slope = jacobian.T @ projected - precision @ beta + right
            while True:
                damped = normal + damping * precision
                damped[np.diag_indices_from(damped)] *= 1.0 + 1e-10
                step = scipy.linalg.cho_solve(scipy.linalg.cho_factor(damped), slope)
                new = residual(beta + step)
                if new[2] < loss or damping > _HOPELESS:
                    break
                damping = max(_UP * damping, _DAMPING)
            if not new[2] < loss:
                break
            fall = (loss - new[2]) / max(abs(loss), 1e-300)
            beta, n = beta + step, n + 1
            left, projected, loss = new
            damping = damping / _DOWN if damping > _DAMPING else 0.0
            if fall < TOLERANCE:
                break
        return beta, loss, n

    def run(self, start: FloatArray | None = None) -> FloatArray:
        """Coefficients of charges; from the best charges of species if no start is given."""
        prior = self._prior
        nothing = float(self.labels.y @ self._project(self.labels.y))
        coulomb = _Electrostatics(prior.descriptor, self.labels)
        if start is None:
            alone = prior.species_alone()
            of_species = _Electrostatics(alone.descriptor, self.labels)
            found = [
                self._run(alone, of_species, begin, SPECIES_PASSES) for begin in alone.starts()
            ]
            best = min(found, key=lambda f: f[1])[0]
            start = np.concatenate([np.zeros(len(prior.descriptor.points)), best])
        beta = start
        for _ in range(ROUNDS):
            beta, loss, n = self._run(prior, coulomb, beta, PASSES)
            self.n += n
            self.fall = loss / nothing if nothing > 0 else 1.0
            changed = self._with_noise(coulomb.values(beta) * self.labels.sigma)
            if changed < NOISE_CHANGE:
                break
            coulomb = _Electrostatics.again(coulomb, self.labels)
            nothing = float(self.labels.y @ self._project(self.labels.y))
        return beta

    def errors(self, beta: FloatArray | None, labels: SmallModel) -> FloatArray:
        """Errors of labels that were left out, in their own units."""
        own, others = self.labels, labels
        y, of_others = own.y, np.zeros(len(others.y))
        if beta is not None:
            y = y - _Electrostatics(self._prior.descriptor, own).values(beta)
            of_others = _Electrostatics(self._prior.descriptor, others).values(beta)
        w = scipy.linalg.cho_solve(self._factor, own.phi.T @ y)
        return np.asarray((others.y - of_others - others.phi @ w) * others.sigma)


def _normal(phi: FloatArray) -> tuple[FloatArray, bool]:
    """Factor of the normal matrix of rows, with the unit prior."""
    found: tuple[FloatArray, bool] = scipy.linalg.cho_factor(phi.T @ phi + np.eye(phi.shape[1]))
    return found


def _misfit(labels: SmallModel, explained: FloatArray) -> FloatArray:
    """By how much a local model misses what is left of labels of each kind, in units of noise.

    The root of the sum of squares over the degrees of freedom that the model leaves, at least
    one: the noise of labels stands for what a model cannot represent, of a small model more.
    """
    phi = labels.phi
    factor = _normal(phi)
    half = scipy.linalg.solve_triangular(factor[0], phi.T, trans="T", lower=factor[1])
    leverage = np.einsum("kr,kr->r", half, half)
    y = labels.y - explained
    squares = (y - phi @ scipy.linalg.cho_solve(factor, phi.T @ y)) ** 2
    found = np.ones(len(KINDS))
    for kind in range(len(KINDS)):
        own = labels.kind == kind
        free = float(np.sum(1.0 - leverage[own]))
        if free > 0:
            found[kind] = max(1.0, float(np.sqrt(squares[own].sum() / free)))
    return found
