r"""Few density channels of many: radial functions and species mixed as the data ask for it.

The density around an atom has as many channels as radial functions times neighbor species, and
the power spectrum the square of that. In data most channels say the same. So of each class of
environments and each degree l the channels :math:`c_{anlm}` (neighbor species a, radial function
n) are contracted to the leading eigenvectors U of

.. math:: C_l = \Big\langle \frac{s_l}{t} \Big( \sum_m c_{lm} c_{lm}^\top
          + w \sum_{j,m} \nabla_j c_{lm} \cdot \nabla_j c_{lm}^\top \Big) \Big\rangle,
          \qquad t = \sum_{lm} s_l |c_{lm}|^2,

an optimal radial basis [1]_ in which species are mixed too [2]_, for densities and for what
displacements make of them (w is the square of a displacement, :math:`s_l` the weight of a degree in
the power spectrum). What falls below a share of the total trace is left out, though not in
silence: the features are the power spectrum of :math:`\tilde c = U^\top c`, and one more,

.. math:: \rho^2 = \sum_l \frac{s_l^2}{2l + 1} \big( |c_l|^4 - (1 - \epsilon) |\tilde c_l|^4 \big),

an estimate of the norm of all products that channels left out have a part in: with
:math:`|c_l|^2 = |\tilde c_l|^2 + |r_l|^2` they are
:math:`2 |\tilde c_l r_l^\top|^2 + |r_l r_l^\top|^2`, for which
:math:`(2 |\tilde c_l|^2 |r_l|^2 + |r_l|^4) / (2l + 1)` stands, which takes the directions
of both as independent of one another. So an environment of a new kind, a species
that was not there or a distance, falls out of what kernels know, and the length of the features
is about what it was. The :math:`\epsilon` keeps :math:`\rho` differentiable.

References
----------
.. [1] Goscinski, Musil, Pozdnyakov, Nigam, Ceriotti, J. Chem. Phys. 155, 104106 (2021).
.. [2] Willatt, Musil, Ceriotti, Phys. Chem. Chem. Phys. 20, 29661 (2018).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms

from kernelpot.common.types import Array, BoolArray, FloatArray, IntArray, SingleArray
from kernelpot.data.system import System
from kernelpot.terms import _contraction
from kernelpot.terms.power_spectrum import N_KNOTS, SOAP, PairBatch, add_members, aligned

if TYPE_CHECKING:
    from kernelpot.terms.soap import SOAPTerm

# w: the square of a displacement [Å^2].
GRADIENT_WEIGHT = 0.01
# epsilon
FLOOR = 1e-8
# Lengths of rows in the compiled loops are multiples of it.
WIDTH = 4


@dataclass(frozen=True)
class Contraction:
    """Leading channels of each class of environments and degree.

    Attributes
    ----------
    vectors : ndarray of shape (n_keys, l_max + 1, n_species, n_max, n)
        Orthonormal in the last axis over species and radial functions; zero from `counts` on,
        and for classes that there were no environments of.
    counts : ndarray of int, shape (l_max + 1,)
        Channels of each degree.
    lost : float
        Share of the trace that is left out, of all classes together.
    """

    vectors: FloatArray
    counts: IntArray
    lost: float

    def to_arrays(self) -> dict[str, Array]:
        """Arrays by name."""
        return {
            "contraction": self.vectors,
            "contraction_counts": self.counts,
            "contraction_lost": np.array(self.lost),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Contraction | None:
        """Inverse of `to_arrays`; None where there are none.

        Parameters
        ----------
        arrays : mapping of str to ndarray
        """
        if "contraction" not in arrays:
            return None
        return cls(
            np.asarray(arrays["contraction"], dtype=float),
            np.asarray(arrays["contraction_counts"]).astype(np.int64),
            float(arrays["contraction_lost"]),
        )


def learn_contraction(
    soap: SOAP, structures: Sequence[Atoms], share: float, n_channels: int | None = None
) -> Contraction:
    """Leading channels of the densities of some structures, in one pass over them.

    Free atoms count only where a class has nothing else.

    Parameters
    ----------
    soap : SOAP
        Without compression: a channel for each species.
    structures : sequence of ase.Atoms
    share : float
        Channels of less than this share of the trace are left out.
    n_channels : int, optional
        At most so many channels are kept of each degree.

    Returns
    -------
    Contraction
    """
    n_l, size = soap.term.l_max + 1, len(soap.species) * soap.term.n_max
    moments = np.zeros((len(soap.species), n_l, size, size))
    counts_r = np.zeros((len(soap.species), len(soap.species), N_KNOTS))
    bound = {int(z) for atoms in structures if len(atoms) > 1 for z in atoms.numbers}
    for atoms in structures:
        if len(atoms) > 1 or int(atoms.numbers[0]) not in bound:
            _add_moments(moments, counts_r, soap, atoms)
    _add_gradient_moments(moments, counts_r, soap)
    values, vectors = np.linalg.eigh(moments)
    values, vectors = values[:, :, ::-1], vectors[:, :, :, ::-1]
    totals = values.sum(axis=(1, 2))
    known = totals > 0
    shares = np.zeros_like(values)
    np.divide(values, totals[:, None, None], out=shares, where=known[:, None, None])
    most = size if n_channels is None else n_channels
    counts = np.clip((shares > share).sum(axis=2).max(axis=0), 1, most)
    signs = np.sign(np.take_along_axis(vectors, np.abs(vectors).argmax(axis=2)[:, :, None], 2))
    vectors = vectors * np.where(signs == 0, 1.0, signs)  # repeatable
    vectors[~known] = 0.0
    widest = int(counts.max())
    for l, count in enumerate(counts):
        vectors[:, l, :, count:] = 0.0
        shares[:, l, :count] = 0.0
    return Contraction(
        np.ascontiguousarray(vectors[..., :widest]).reshape(
            len(soap.species), n_l, len(soap.species), soap.term.n_max, widest
        ),
        counts.astype(np.int64),
        float(shares.sum() / max(np.count_nonzero(known), 1)),
    )


def _add_moments(moments: FloatArray, counts_r: FloatArray, soap: SOAP, atoms: Atoms) -> None:
    """Add a structure: to C_l of its densities, and to the distances of its pairs.

    Parameters
    ----------
    moments : ndarray of shape (n_species, l_max + 1, n, n)
    counts_r : ndarray of shape (n_species, n_species, N_KNOTS)
        Of centers and neighbors: pairs at the knots of the radial functions, as `_add_distances`
        counts them.
    soap : SOAP
    atoms : ase.Atoms
    """
    term = soap.term
    system = System.of([atoms], float(term.r_cut))
    kinds = system.z_index(soap.species)
    pairs = system.pairs
    batch = soap.pairs(pairs.first, pairs.neighbors, system.displacements, kinds)
    coefficients = soap.expansion(batch, 0, len(atoms))
    by_degree = [
        np.swapaxes(coefficients[:, :, l * l : (l + 1) ** 2], 1, 2).reshape(
            len(atoms), 2 * l + 1, -1
        )
        for l in range(term.l_max + 1)
    ]
    scale_l = soap.scale_l
    trace = sum(
        scale * np.einsum("imn,imn->i", c, c) for scale, c in zip(scale_l, by_degree, strict=True)
    )
    for key in np.unique(kinds):
        own = kinds == key
        for l, c in enumerate(by_degree):
            rows = (c[own] * np.sqrt(scale_l[l] / trace[own])[:, None, None]).reshape(
                -1, c.shape[2]
            )
            moments[key, l] += rows.T @ rows
    _add_distances(counts_r, system, kinds, batch.weights, trace, float(term.r_cut))


def _add_distances(
    counts_r: FloatArray,
    system: System,
    kinds: IntArray,
    weights: FloatArray,
    trace: FloatArray,
    r_cut: float,
) -> None:
    """Count each pair, by the square of its weight over t, at the two knots beside its distance.

    Shared between these in proportion to nearness, so that sums of smooth functions over the pairs
    are kept to the square of the spacing (of a five-hundredth of a width: to some 1e-6).
    """
    near = np.flatnonzero(system.distances < r_cut)
    center, neighbor = system.pairs.centers[near], system.pairs.neighbors[near]
    at = system.distances[near] * ((N_KNOTS - 1) / r_cut)
    knot = np.minimum(at.astype(np.int64), N_KNOTS - 2)
    upper = at - knot
    counted = weights[near] ** 2 / trace[center]
    row = (kinds[center] * len(counts_r) + kinds[neighbor]) * N_KNOTS + knot
    flat = counts_r.reshape(-1)
    flat += np.bincount(row, counted * (1.0 - upper), len(flat))
    flat += np.bincount(row + 1, counted * upper, len(flat))


def _add_gradient_moments(moments: FloatArray, counts_r: FloatArray, soap: SOAP) -> None:
    r"""Add what displacements of neighbors make of the densities.

    Summed over m and directions that is
    :math:`(2l + 1) / 4\pi \, (R_n' R_{n'}' + l (l + 1) R_n R_{n'} / r^2)` of a neighbor at r.
    """
    n_max = soap.term.n_max
    r = np.linspace(0.0, float(soap.term.r_cut), N_KNOTS)
    value, slope = soap.radial(r)  # of R / r^l
    for l, scale in enumerate(soap.scale_l):
        along, across = slope[:, l] * (r**l)[:, None], np.zeros_like(value[:, l])
        if l:
            over_r = value[:, l] * (r ** (l - 1))[:, None]
            along += l * over_r
            across = np.sqrt(l * (l + 1)) * over_r
        factor = GRADIENT_WEIGHT * scale * (2 * l + 1) / (4 * np.pi)
        for key, of_key in enumerate(counts_r):
            for a, counted in enumerate(of_key):
                rows = slice(a * n_max, (a + 1) * n_max)
                for part in (along, across):
                    moments[key, l, rows, rows] += factor * part.T @ (part * counted[:, None])


@dataclass(frozen=True)
class ContractedDensity:
    """Densities of some centers, and what they are contracted to.

    Attributes
    ----------
    coefficients : ndarray of shape (n_centers, n_species, (l_max + 1)^2, n_max)
    contracted : ndarray of shape (n_centers, (l_max + 1)^2, n)
    kept, whole : ndarray of shape (n_centers, l_max + 1)
        Sums of squares of the contracted ones and of all, degree by degree.
    features : ndarray of shape (n_centers, n_features)
    key : ndarray of shape (n_centers,)
        Index of the species of each center.
    present : ndarray of int
        Channels that have atoms.
    """

    coefficients: FloatArray
    contracted: FloatArray
    kept: FloatArray
    whole: FloatArray
    features: FloatArray
    key: IntArray
    present: IntArray

    @property
    def rest(self) -> FloatArray:
        """The last feature, shape (n_centers,)."""
        return np.ascontiguousarray(self.features[:, -1])


@dataclass(frozen=True)
class ContractedSOAP:
    """Power spectrum of contracted densities, with the methods of `SOAP` that terms use.

    Parameters
    ----------
    soap : SOAP
        Without compression.
    contraction : Contraction
    """

    soap: SOAP
    contraction: Contraction

    def describe(self) -> str:
        """What the contraction does, in words."""
        counts, n_channels = self.contraction.counts, len(self.species) * self.term.n_max
        return (
            f"{self.soap.n_features} features contracted to {self.n_features}: of {n_channels} "
            f"channels {', '.join(map(str, counts))} for l = 0, 1, ... "
            f"({100 * self.contraction.lost:.2g} % of the density left out)"
        )

    @property
    def term(self) -> SOAPTerm:
        """Hyper-parameters."""
        return self.soap.term

    @property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers that may occur, ascending."""
        return self.soap.species

    @cached_property
    def n_features(self) -> int:
        """Number of features of one environment."""
        counts = self.contraction.counts
        return int((counts * (counts + 1) // 2).sum()) + 1

    @cached_property
    def _vectors(self) -> FloatArray:
        """Those of the contraction, in rows of a length that suits the processor."""
        more = -self.contraction.vectors.shape[-1] % WIDTH
        padding = [(0, 0)] * 4 + [(0, more)]
        return np.ascontiguousarray(np.pad(self.contraction.vectors, padding))

    @cached_property
    def _vectors_t(self) -> FloatArray:
        return np.ascontiguousarray(np.swapaxes(self._vectors, 3, 4))

    @cached_property
    def _single_vectors(self) -> SingleArray:
        return self._vectors.astype(np.float32)

    @cached_property
    def _size_k(self) -> int | tuple[int, ...]:
        n = self._vectors.shape[-1]
        return (0,) * n if isinstance(self.soap.size, tuple) else n

    @cached_property
    def _weight_l(self) -> FloatArray:
        return self.soap.scale_l**2 / (2.0 * np.arange(self.term.l_max + 1) + 1.0)

    @property
    def _weights(self) -> tuple[IntArray, FloatArray, FloatArray, float]:
        return self.contraction.counts, self.soap.scale_l, self._weight_l, FLOOR

    def create(self, atoms: Atoms, centers: Sequence[int] | None = None) -> FloatArray:
        """Features from those of dscribe, which they are a function of.

        Parameters
        ----------
        atoms : ase.Atoms
            Structure, any periodicity.
        centers : sequence of int, optional
            Atoms to describe; all by default.

        Returns
        -------
        ndarray of shape (n_centers, n_features)
        """
        chosen = np.arange(len(atoms)) if centers is None else np.array(centers)
        kinds = np.searchsorted(self.species, atoms.numbers[chosen])
        whole = self.soap.products(self.soap.create(atoms, centers))
        n_channels = whole.shape[2]
        parts, square = [], np.zeros(len(chosen))
        for l, count in enumerate(self.contraction.counts):
            vectors = self.contraction.vectors[kinds, l].reshape(len(kinds), n_channels, -1)
            kept = np.einsum("iac,iab,ibd->icd", vectors, whole[:, l], vectors, optimize=True)
            row, column = np.triu_indices(count)
            parts.append(kept[:, row, column] * np.where(row == column, 1.0, np.sqrt(2.0)))
            before = np.trace(whole[:, l], axis1=1, axis2=2)
            after = np.trace(kept, axis1=1, axis2=2)
            square += (before**2 - (1.0 - FLOOR) * after**2) / (2 * l + 1)
        return np.concatenate([*parts, np.sqrt(square)[:, None]], axis=1)

    def pairs(
        self,
        first: IntArray,
        neighbors: IntArray,
        displacements: FloatArray,
        species_index: IntArray,
        centers: slice = slice(None),
    ) -> PairBatch:
        """Prepare pairs; see `SOAP.pairs`."""
        return self.soap.pairs(first, neighbors, displacements, species_index, centers)

    def present_channels(self, batch: PairBatch) -> tuple[int, ...]:
        """All, whatever is there: features are of no one species."""
        return tuple(range(len(self.species)))

    def present_features(self, channels: tuple[int, ...]) -> BoolArray:
        """All: features are of no one species."""
        return np.ones(self.n_features, dtype=bool)

    def touched_features(self, channel: int) -> IntArray:
        """All: features are of no one species."""
        return np.arange(self.n_features)

    def expansion(self, batch: PairBatch, start: int, stop: int) -> ContractedDensity:
        """Contracted densities of some centers, and features.

        Parameters
        ----------
        batch : PairBatch
        start, stop : int
            Range of centers.

        Returns
        -------
        ContractedDensity
        """
        coefficients = self.soap.expansion(batch, start, stop)
        n, n_l = stop - start, self.term.l_max + 1
        key = np.ascontiguousarray(batch.center_channels[start:stop])
        present = np.array(self.soap.present_channels(batch), dtype=np.int64)
        contracted = aligned((n, n_l**2, self._vectors.shape[-1]))
        kept, whole = np.empty((2, n, n_l))
        _contraction.contract(
            coefficients, key, present, self._vectors, self.soap.size, self._size_k, contracted,
            kept, whole,
        )  # fmt: skip
        features = np.empty((n, self.n_features))
        _contraction.power_spectrum(contracted, kept, whole, *self._weights, self._size_k, features)
        return ContractedDensity(coefficients, contracted, kept, whole, features, key, present)

    def features(
        self, density: ContractedDensity, channels: tuple[int, ...] | None = None
    ) -> FloatArray:
        """Features, equal to `create`.

        Parameters
        ----------
        density : ContractedDensity
            From `expansion`.
        channels : tuple of int, optional
            Of no effect.

        Returns
        -------
        ndarray of shape (n_centers, n_features)
        """
        return density.features

    def pair_gradients(
        self,
        batch: PairBatch,
        start: int,
        stop: int,
        density: ContractedDensity,
        cotangent: FloatArray,
        gradient: FloatArray,
        channels: tuple[int, ...] | None = None,
    ) -> None:
        """Add the gradient of ``sum(cotangent * features)``; see `SOAP.pair_gradients`."""
        adjoint = aligned(density.coefficients.shape)
        _contraction.power_spectrum_adjoint(
            density.coefficients, density.contracted, density.kept, density.whole, density.rest,
            density.key, cotangent, density.present, self._vectors_t, *self._weights,
            self.soap.size, self._size_k, adjoint,
        )  # fmt: skip
        self.soap.pull(batch, start, stop, adjoint, gradient)

    def members_gradients(
        self,
        batch: PairBatch,
        start: int,
        stop: int,
        density: ContractedDensity,
        cotangents: SingleArray,
        gradients: SingleArray,
        channels: tuple[int, ...] | None = None,
    ) -> None:
        """`pair_gradients` of several scalars; see `SOAP.members_gradients`."""

        def add(first: int, last: int) -> None:
            _contraction.members_gradients_vector(
                batch.first, batch.displacements, batch.channels, batch.weights, first, last,
                float(self.term.r_cut), self.soap.radial_table, self.soap.size, self.soap.degrees,
                density.coefficients, density.contracted, density.kept, density.whole,
                density.rest, density.key, cotangents, density.present, self._vectors,
                self._single_vectors, *self._weights, self._size_k, gradients,
            )  # fmt: skip

        kind = (self.soap.size, self.soap.degrees, self._size_k)
        if self.soap.degrees is not None and add_members(kind, add, start, stop):
            return
        for m in range(cotangents.shape[2]):
            own = np.zeros(gradients.shape[:2])
            cotangent = cotangents[:, :, m].astype(float)
            self.pair_gradients(batch, start, stop, density, cotangent, own)
            gradients[:, :, m] += own

    def jacobian(
        self,
        batch: PairBatch,
        pairs: IntArray,
        center_rows: IntArray,
        density: ContractedDensity,
        out: FloatArray | None = None,
        *,
        channel: int | None = None,
    ) -> FloatArray:
        """Derivatives of features by displacements; see `SOAP.jacobian`.

        Returns
        -------
        ndarray of shape (n, 3, n_features)
        """
        if out is None:
            out = np.empty((len(pairs), 3, self.n_features))
        _contraction.jacobian(
            pairs, center_rows, batch.displacements, batch.channels, batch.weights,
            float(self.term.r_cut), self.soap.radial_table, self.soap.size, self.term.l_max,
            self.soap.prefactor_q, density.coefficients, density.contracted, density.kept,
            density.whole, density.rest, density.key, self._vectors, *self._weights,
            self._size_k, out,
        )  # fmt: skip
        return out

    def to_arrays(self) -> dict[str, Array]:
        """Constants that the same features can be had from again."""
        return {**self.soap.to_arrays(), **self.contraction.to_arrays()}
