r"""Labels as a linear function of whole quadratic forms, without a matrix of their rows.

The mean of a polynomial of the second degree is :math:`\delta\, \hat u^\top W \hat u` of embedded
features; in the Frobenius norm the symmetric W has the unit prior that whitened weights of all
monomials have, :math:`w_{aa} = W_{aa}`, :math:`w_{ab} = \sqrt 2\, W_{ab}`. With d features there
are d (d + 1) / 2 of them, too many for the rows of a regression. But a row times the weights is
an energy or a force, at the cost of a prediction, and rows times residuals cost the same backwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from kernelpot.common.types import FloatArray, Group, IntArray
from kernelpot.data.dataset import Frame
from kernelpot.data.system import System
from kernelpot.gp import _quadratic
from kernelpot.gp.blocks import Block
from kernelpot.gp.covariance import covariance_rows
from kernelpot.gp.design import Design
from kernelpot.gp.labels import Noise, observe
from kernelpot.terms.compression import CompressedDescriptor

Matrices = list[FloatArray]


@dataclass(frozen=True)
class Form:
    """The quadratic form of one block of monomials.

    Attributes
    ----------
    index : int
        Of the block in the design.
    block : Block
        Its monomials are those with a column in the regression.
    key : int
        Its class of environments.
    n : int
        Leading features that it is a form in.
    scale : float
        Factor of its columns beyond those of the design.
    """

    index: int
    block: Block
    key: int
    n: int
    scale: float

    @cached_property
    def factors(self) -> FloatArray:
        """Weight of a monomial to its element of the matrix."""
        return np.where(self.block.points[:, 0] == self.block.points[:, 1], 1.0, np.sqrt(2.0))

    def coordinates(self, matrix: FloatArray) -> FloatArray:
        """Weights of the monomials that have a column, from a symmetric matrix."""
        return matrix[self.block.points[:, 0], self.block.points[:, 1]] * self.factors

    def insert(self, matrix: FloatArray, weights: FloatArray) -> None:
        """Put the weights of these monomials into a symmetric matrix."""
        a, b = self.block.points.T
        matrix[a, b] = matrix[b, a] = weights / self.factors


@dataclass(frozen=True)
class Forms:
    """Unknowns of a regression with whole quadratic forms: these, and other columns.

    Attributes
    ----------
    design : Design
    forms : sequence of Form
    columns : ndarray of int
        Columns of the design that belong to none of the forms, the virial offset included.
    scale : ndarray of shape (n_columns,)
        Factor of each column of the design.
    """

    design: Design
    forms: Sequence[Form]
    columns: IntArray
    scale: FloatArray

    @classmethod
    def of(cls, design: Design, scale: FloatArray) -> Forms:
        """Forms of the blocks whose term asks for them.

        Parameters
        ----------
        design : Design
        scale : ndarray of shape (n_columns,)
            Factor of each of its columns.
        """
        forms = []
        explicit = np.ones(design.n_columns, dtype=bool)
        for index, block in enumerate(design.blocks):
            bound = design.terms[block.term]
            if not (getattr(bound.term, "full", False) and len(block.points)):
                continue
            assert isinstance(bound.descriptor, CompressedDescriptor)
            key = list(bound.descriptor.keys).index(block.key)
            n = int(np.count_nonzero(bound.descriptor.scales[key]))
            own = scale[block.columns]
            forms.append(Form(index, block, key, n, float(own[0])))
            explicit[block.columns] = False
        return cls(design, forms, np.flatnonzero(explicit), scale)

    @property
    def size(self) -> int:
        """Number of unknowns; elements off the diagonal count twice."""
        return len(self.columns) + sum(form.n**2 for form in self.forms)

    def split(self, x: FloatArray) -> tuple[FloatArray, Matrices]:
        """Weights of other columns, and the matrices (views)."""
        start = len(self.columns)
        matrices = []
        for form in self.forms:
            stop = start + form.n**2
            matrices.append(x[start:stop].reshape(form.n, form.n))
            start = stop
        return x[: len(self.columns)], matrices

    def weights(self, x: FloatArray) -> FloatArray:
        """Weights of the columns of the design, of those forms' monomials that have one too."""
        others, matrices = self.split(x)
        w = np.zeros(self.design.n_columns)
        w[self.columns] = others
        for form, matrix in zip(self.forms, matrices, strict=True):
            w[form.block.columns] = form.coordinates(matrix)
        return w

    def unknowns(self, w: FloatArray) -> FloatArray:
        """Inverse of `weights`: zero for all other monomials."""
        x = np.zeros(self.size)
        self.insert(x, w)
        return x

    def insert(self, x: FloatArray, w: FloatArray) -> None:
        """Put weights of the columns of the design into `x`."""
        others, matrices = self.split(x)
        others[:] = w[self.columns]
        for form, matrix in zip(self.forms, matrices, strict=True):
            form.insert(matrix, w[form.block.columns])

    def with_tails(self, w: FloatArray, tails: Mapping[int, FloatArray]) -> FloatArray:
        """Unknowns from weights of the columns of the design, and what `tails` found beside."""
        x = np.zeros(self.size)
        for form, matrix in zip(self.forms, self.split(x)[1], strict=True):
            if form.index in tails:
                delta = self.design.terms[form.block.term].kernel.delta * form.scale
                matrix[:] = tails[form.index] / delta
        self.insert(x, w)
        return x

    def tails(self, x: FloatArray) -> dict[int, FloatArray]:
        r"""Of each block the part of :math:`\delta W` whose monomials have no column."""
        found = {}
        for form, matrix in zip(self.forms, self.split(x)[1], strict=True):
            tail = matrix.copy()
            form.insert(tail, np.zeros(len(form.block.points)))
            delta = self.design.terms[form.block.term].kernel.delta * form.scale
            found[form.index] = delta * tail
        return found


@dataclass(frozen=True)
class _Part:
    """Environments of one form in a batch, and the pairs that move them."""

    delta: float
    structure: IntArray
    u: FloatArray
    jacobian: npt.NDArray[np.float32]
    environment: IntArray
    pairs: tuple[IntArray, IntArray, IntArray, FloatArray]


@dataclass(frozen=True)
class QuadraticRows:
    """Rows of the labels of some frames, to be multiplied with and no more.

    Attributes
    ----------
    parts : sequence of _Part
        One for each form.
    others : ndarray of shape (n, n_others)
        Noise-scaled rows in the other columns.
    rows : ndarray of shape (n,)
        Place of each label among all energies, forces and virials.
    structure : ndarray of shape (n,)
        Frame of the batch that each belongs to.
    groups : tuple of Group
        Groups of labels.
    group : ndarray of shape (n,)
        That of each.
    noise : ndarray of shape (n,)
        Standard deviation of each.
    y : ndarray of shape (n,)
        Noise-scaled targets.
    n_structures, n_atoms : int
    """

    parts: Sequence[_Part]
    others: FloatArray
    rows: IntArray
    structure: IntArray
    groups: tuple[Group, ...]
    group: IntArray
    noise: FloatArray
    y: FloatArray
    n_structures: int
    n_atoms: int

    @classmethod
    def of(cls, forms: Forms, frames: Sequence[Frame], noise: Noise) -> QuadraticRows:
        """Features and their derivatives of a batch of frames.

        Parameters
        ----------
        forms : Forms
        frames : sequence of Frame
            Labels less what the kernels need not explain (`Reference.remainder`).
        noise : Noise
        """
        design = forms.design
        system = System.of([f.atoms for f in frames], design.r_cut)
        observed = observe(frames, noise)
        sigma = np.array([noise.sigma(group) for group in observed.groups])[observed.group]
        sigma = sigma * observed.unit
        each = np.arange(system.n_structures)
        owner = np.concatenate([each, np.repeat(system.structure_of, 3), np.repeat(each, 6)])
        others, known = _other_rows(forms, frames, system)
        return cls(
            _parts(forms, system),
            others[observed.rows] / sigma[:, None],
            observed.rows,
            owner[observed.rows],
            tuple(observed.groups),
            observed.group,
            sigma,
            (observed.y - known[observed.rows]) / sigma,
            system.n_structures,
            system.n_atoms,
        )

    @property
    def n_bytes(self) -> int:
        """Memory that it takes, nearly all of it for derivatives."""
        return self.others.nbytes + sum(
            part.jacobian.nbytes + part.u.nbytes + part.pairs[3].nbytes for part in self.parts
        )

    def _layout(self) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """All energies, forces and virials in one array, and views of each."""
        ends = np.cumsum([0, self.n_structures, 3 * self.n_atoms, 6 * self.n_structures])
        whole = np.zeros(ends[-1])
        energies, forces, virials = (whole[a:b] for a, b in zip(ends[:-1], ends[1:], strict=True))
        return whole, energies, forces, virials

    def times(self, others: FloatArray, matrices: Sequence[FloatArray]) -> FloatArray:
        """Noise-scaled labels that weights predict, shape (n,)."""
        whole, energies, forces, virials = self._layout()
        for part, matrix in zip(self.parts, matrices, strict=True):
            half = part.u @ (part.delta * matrix)
            np.add.at(energies, part.structure, np.einsum("ef,ef->e", half, part.u))
            half *= 2.0
            _quadratic.forces_of(
                part.jacobian, part.environment, *part.pairs, half, forces, virials
            )
        return whole[self.rows] / self.noise + self.others @ others

    def back(self, residual: FloatArray) -> tuple[FloatArray, Matrices]:
        """Adjoint of `times`: noise-scaled labels times their rows.

        Parameters
        ----------
        residual : ndarray of shape (n,)

        Returns
        -------
        others : ndarray of shape (n_others,)
        matrices : list of ndarray
            Symmetric.
        """
        whole, energies, forces, virials = self._layout()
        whole[self.rows] = residual / self.noise
        matrices = []
        for part in self.parts:
            moved = np.zeros_like(part.u)
            _quadratic.back_to_features(
                part.jacobian, part.environment, *part.pairs, forces, virials, moved
            )
            moved += 0.5 * energies[part.structure, None] * part.u
            product = part.delta * (part.u.T @ moved)
            matrices.append(product + product.T)
        return residual @ self.others, matrices

    def diagonal(self, weights: FloatArray) -> Matrices:
        """About the sums of squares of the columns of each element of a matrix.

        Of energies as they are; of forces as if an atom were in one environment, and without
        what two derivatives have in common.

        Parameters
        ----------
        weights : ndarray of shape (n,)
            Of the squares of each label's row.
        """
        whole, energies, forces, _ = self._layout()
        whole[self.rows] = np.sqrt(weights) / self.noise
        found = []
        for part in self.parts:
            squares = np.zeros_like(part.u)
            _quadratic.squares_of_slopes(
                part.jacobian, part.environment, part.pairs[0], part.pairs[1], forces, squares
            )
            product = squares.T @ np.square(part.u)
            total = product + product.T
            for s in np.flatnonzero(energies):
                own = part.u[part.structure == s]
                total += energies[s] ** 2 * np.square(own.T @ own)
            found.append(2.0 * part.delta**2 * total)
        return found


@dataclass(frozen=True)
class AlikeRows:
    """Rows of `kernelpot.gp.sharing` in whole forms: local energies of a species are alike.

    Attributes
    ----------
    sites : sequence of ndarray of shape (n_sites, n)
        Leading embedded features of some environments, form by form.
    factors : sequence of float
        Of each form: of its columns, in units of the noise.
    """

    sites: Sequence[FloatArray]
    factors: Sequence[float]

    def normal(self, matrices: Sequence[FloatArray]) -> Matrices:
        """These rows' part of the normal equations, times the matrices."""
        found = []
        for z, factor, matrix in zip(self.sites, self.factors, matrices, strict=True):
            residual = factor**2 * np.einsum("ef,ef->e", z @ matrix, z)
            residual -= residual.mean()
            found.append((z * residual[:, None]).T @ z)
        return found


def _parts(forms: Forms, system: System) -> list[_Part]:
    """Embedded features and their derivatives, form by form."""
    parts: list[_Part] = []
    found = {}
    for form in forms.forms:
        bound = forms.design.terms[form.block.term]
        descriptor, kernel = bound.descriptor, bound.kernel
        assert isinstance(descriptor, CompressedDescriptor)
        if form.block.term not in found:
            environments = descriptor.environments(system, slice(0, system.n_atoms))
            found[form.block.term] = environments, *kernel.embed(environments.x)
        environments, u, norm = found[form.block.term]
        members = np.flatnonzero(environments.key == form.key)
        pairs, jacobians, owners = [], [], []
        if len(members):
            for some, rows, jacobian in descriptor.jacobians(system, environments, members):
                own = members[rows]
                moved = kernel.tangent(u[own], norm[own], jacobian)[:, :, : form.n]
                jacobians.append(moved.transpose(1, 0, 2).astype(np.float32))
                pairs.append(some)
                owners.append(rows)
        p = np.concatenate([np.empty(0, dtype=np.int64), *pairs])
        centers = system.pairs.centers[p]
        parts.append(
            _Part(
                kernel.delta * form.scale,
                environments.structure[members],
                np.ascontiguousarray(u[members, : form.n]),
                np.concatenate([np.empty((0, 3, form.n), dtype=np.float32), *jacobians]),
                np.concatenate([np.empty(0, dtype=np.int64), *owners]),
                (
                    centers,
                    system.pairs.neighbors[p],
                    system.structure_of[centers],
                    system.displacements[p],
                ),
            )
        )
    return parts


def _other_rows(
    forms: Forms, frames: Sequence[Frame], system: System
) -> tuple[FloatArray, FloatArray]:
    """Rows of all labels in the columns that belong to no form, and what is known of labels."""
    design = forms.design
    n = 7 * system.n_structures + 3 * system.n_atoms
    rows, known = np.zeros((n, len(forms.columns))), np.zeros(n)
    place = np.full(design.n_columns, -1)
    place[forms.columns] = np.arange(len(forms.columns))
    if place[-1] >= 0:
        rows[:, place[-1]] = design.offset_column(frames)
    of_forms = {form.index for form in forms.forms}
    others = [block for index, block in enumerate(design.blocks) if index not in of_forms]
    others = [block for block in others if len(block.points)]
    if others:
        for index, K in covariance_rows(design.terms, others, system):
            rows[:, place[others[index].columns]] = others[index].whitened(K)
            weights = design.known_weights(others[index])
            if weights is not None:
                known += K @ weights
    return rows * forms.scale[forms.columns], known
