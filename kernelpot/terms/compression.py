r"""Few features of many: the directions in which environments of the data differ.

Of each class of environments the leading eigenvectors V of

.. math:: C = \langle \hat p \hat p^\top \rangle
              + w \, \langle \textstyle\sum_j J_j J_j^\top \rangle,

with unit feature vectors and their derivatives J by the displacements to all neighbors j:
what the features are, and where displacements of :math:`\sqrt w` move them. The second
moment of gradients is that of active subspaces [1]_; without it, directions that forces
depend on are lost for being small.

Nothing is dropped in silence. The compressed features are

.. math:: x = (g_a V_a \cdot p, \; g_r \rho), \qquad
          \rho^2 = (1 + \epsilon) |p|^2 - |V^\top p|^2 ,

the last for all that lies outside of the span: the kernel of an environment of a new kind
with those of the data falls as that grows. Gains :math:`g_a = (s_a / s_0)^{-\nu}` with the
root mean squares :math:`s_a` of the directions flatten their spectrum; :math:`g_r` is that of
the last direction. The first direction is the mean environment, and hardly varies: its gain
:math:`\mu` is the weight of the constant and linear parts of a polynomial, and keeps the
length of x, by which a kernel divides, from varying much. The :math:`\epsilon` keeps
:math:`\rho` differentiable inside of the span.

References
----------
.. [1] Constantine, Dow, Wang, SIAM J. Sci. Comput. 36, A1500 (2014).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from ase import Atoms

from kernelpot.common.types import Array, FloatArray, IntArray, SingleArray
from kernelpot.data.system import Contribution, System
from kernelpot.terms import _compression
from kernelpot.terms._soap_vector import LANES
from kernelpot.terms.base import Environments, Key, RowGradient, key_name
from kernelpot.terms.contraction import ContractedSOAP
from kernelpot.terms.over_pairs import CenterTangents, add_pair_rows
from kernelpot.terms.polynomial import MonomialGradient
from kernelpot.terms.power_spectrum import aligned
from kernelpot.terms.second_moment import SecondMoment, second_moment
from kernelpot.terms.soap import SOAPDescriptor

# w: the square of a displacement [Å^2].
GRADIENT_WEIGHT = 0.01
# Directions of less than this share of the largest eigenvalue are left out, and all beyond
# so many.
TRUNCATION = 1e-10
MAX_DIRECTIONS = 200
# Derivatives are looked at in structures of together about so many atoms (those of features
# in all).
GRADIENT_ATOMS = 2000
# epsilon
FLOOR = 1e-8
# Maps kept, each of some species in the neighborhood of one.
MAX_MAPS = 64


@dataclass(frozen=True)
class Directions:
    """Leading directions of the features of one class of environments.

    Attributes
    ----------
    vectors : ndarray of shape (n_features, n)
        Orthonormal; columns of zeros at the end where the class has fewer.
    scales : ndarray of shape (n,)
        Root mean square of each, zero for the latter.
    n_environments : int
        Of the data.
    lost : float
        Share of C that lies outside.
    """

    vectors: FloatArray
    scales: FloatArray
    n_environments: int
    lost: float

    def padded(self, n: int) -> Directions:
        """The same with so many columns."""
        more = n - len(self.scales)
        return Directions(
            np.pad(self.vectors, ((0, 0), (0, more))),
            np.pad(self.scales, (0, more)),
            self.n_environments,
            self.lost,
        )


def learn_directions(
    descriptor: SOAPDescriptor,
    structures: Sequence[Atoms],
    *,
    n_directions: int | None = None,
) -> list[Directions]:
    """Leading directions of the features of some structures, in one pass over them.

    Free atoms count only where a class has nothing else: one of them is far from all that is
    bound, and so would take a leading direction of its own, and many monomials with it.

    Memory is that of two matrices of features by features (of more than a thousand features, by
    directions) per class, and of one structure.

    Parameters
    ----------
    descriptor : SOAPDescriptor
    structures : sequence of ase.Atoms
    n_directions : int, optional
        At most so many; by default `MAX_DIRECTIONS`.

    Returns
    -------
    list of Directions
        One for each key, all of one shape; without any environment all zero.
    """
    n, n_keys = descriptor.n_features, len(descriptor.keys)
    limit = min(n, MAX_DIRECTIONS if n_directions is None else n_directions)
    values, slopes = ([second_moment(n, limit) for _ in range(n_keys)] for _ in range(2))
    counts, slope_counts = (np.zeros(n_keys, dtype=np.int64) for _ in range(2))
    bound = {int(z) for atoms in structures if len(atoms) > 1 for z in atoms.numbers}
    structures = [
        atoms for atoms in structures if len(atoms) > 1 or int(atoms.numbers[0]) not in bound
    ]
    n_atoms = sum(map(len, structures))
    every = max(1, round(n_atoms / GRADIENT_ATOMS))
    for index, atoms in enumerate(structures):
        system = System.of([atoms], descriptor.r_cut)
        found = descriptor.environments(system, slice(0, len(atoms)))
        norm = np.sqrt(np.einsum("ef,ef->e", found.x, found.x))
        unit = found.x / norm[:, None]
        for k in np.unique(found.key):
            members = np.flatnonzero(found.key == k)
            values[k].add(unit[members])
            counts[k] += len(members)
            if index % every == 0:
                _add_slopes(slopes[k], descriptor, system, found, members, unit, norm)
                slope_counts[k] += len(members)
    learned = []
    for k in range(n_keys):
        if not counts[k]:
            learned.append(Directions(np.zeros((n, 0)), np.zeros(0), 0, 0.0))
            continue
        weight = GRADIENT_WEIGHT / max(slope_counts[k], 1)
        learned.append(
            _leading(values[k].plus(1.0 / counts[k], slopes[k], weight), limit, int(counts[k]))
        )
    most = max((len(found.scales) for found in learned), default=0)
    return [found.padded(most) for found in learned]


def _leading(moment: SecondMoment, limit: int, count: int) -> Directions:
    values, vectors = moment.leading(limit)
    keep = int(np.count_nonzero(values > TRUNCATION * values[0]))
    values, vectors = values[:keep], vectors[:, :keep]
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(keep)])
    vectors = vectors * signs  # repeatable
    vectors[~moment.used] = 0.0  # without the rounding of the eigenvectors
    lost = max(0.0, 1.0 - float(values.sum() / moment.trace))
    return Directions(vectors, np.sqrt(values), count, lost)


def _add_slopes(
    total: SecondMoment,
    descriptor: SOAPDescriptor,
    system: System,
    found: Environments,
    members: IntArray,
    unit: FloatArray,
    norm: FloatArray,
) -> None:
    """Add J J^T of unit features by all displacements of some environments."""
    n = descriptor.n_features
    for _, rows, columns, jacobian in descriptor.jacobians(system, found, members):
        full = np.zeros((len(rows), 3, n))
        full[:, :, columns] = jacobian
        own = unit[members[rows]]
        full -= np.einsum("pcf,pf->pc", full, own, optimize=True)[:, :, None] * own[:, None]
        full /= norm[members[rows], None, None]
        total.add(full.reshape(-1, n))


def gains_of(scales: FloatArray, whitening: float, mean_weight: float) -> FloatArray:
    r"""Factors :math:`(s_a / s_0)^{-\nu}` of directions, zero where the scale is.

    Parameters
    ----------
    scales : ndarray of shape (n,)
    whitening : float
        :math:`\nu`: 0 leaves directions as they are, 1 makes all equal.
    mean_weight : float
        Factor of the first direction.

    Returns
    -------
    ndarray of shape (n,)
    """
    gains = np.zeros_like(scales)
    used = scales > 0
    if used.any():
        gains[used] = (scales[used] / scales[0]) ** -whitening
        gains[0] = mean_weight
    return gains


def full_vectors(matrix: FloatArray) -> FloatArray:
    """A matrix with zeros at the end of its rows, so that these are of whole vectors."""
    rows, columns = matrix.shape
    found = aligned((rows, columns + -columns % LANES))
    found[:, :columns] = matrix
    found[:, columns:] = 0.0
    return found


def _rows_of(x: FloatArray, rows: IntArray) -> FloatArray:
    """Some rows, ascending; a view of all."""
    return x if len(rows) == len(x) else x[rows]


@dataclass(frozen=True)
class CompressedDescriptor:
    """Features along learned directions, and what is left; a `Descriptor`.

    Parameters
    ----------
    inner : SOAPDescriptor
    directions : sequence of Directions
        One for each key, all of one shape. None: nothing was learned, and every feature is
        a direction.
    whitening, mean_weight : float
        As in `gains_of`.
    """

    inner: SOAPDescriptor
    directions: Sequence[Directions] | None
    whitening: float
    mean_weight: float = 1.0

    @property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers that may occur, ascending."""
        return self.inner.species

    @property
    def keys(self) -> Sequence[Key]:
        """Classes of environments of the inner descriptor."""
        return self.inner.keys

    @property
    def r_cut(self) -> float:
        """Radial cutoff [Å]."""
        return self.inner.r_cut

    @property
    def n_directions(self) -> int:
        """Directions of each class."""
        if self.directions is None:
            return self.inner.n_features
        return len(self.directions[0].scales)

    @property
    def n_features(self) -> int:
        """Directions, and what is left."""
        return self.n_directions + 1

    @property
    def has_centers(self) -> bool:
        """Environments belong to atoms."""
        return True

    @property
    def one_per_atom(self) -> bool:
        """Every atom has one environment."""
        return True

    def center_species(self, key: Key) -> Sequence[int]:
        """The species that the key names."""
        return self.inner.center_species(key)

    def count(self, system: System) -> IntArray:
        """Number of atoms of each species."""
        return self.inner.count(system)

    @cached_property
    def _gains(self) -> FloatArray:
        """Of directions, and of what is left, shape (n_keys, n_directions + 1)."""
        if self.directions is None:
            return np.ones((len(self.keys), self.n_features))
        found = []
        for known in self.directions:
            gains = gains_of(known.scales, self.whitening, self.mean_weight)
            found.append(np.append(gains, gains[1:].max(initial=1.0)))
        return np.array(found)

    @cached_property
    def _maps(self) -> list[FloatArray]:
        """Directions times their gains, shape (n_inner, n_directions)."""
        if self.directions is None:
            return [np.eye(self.inner.n_features)] * len(self.keys)
        return [
            np.ascontiguousarray(known.vectors * gains[:-1])
            for known, gains in zip(self.directions, self._gains, strict=True)
        ]

    @cached_property
    def _present_maps(self) -> dict[tuple[int, tuple[int, ...]], tuple[IntArray, FloatArray]]:
        """What `_map_of` has found."""
        return {}

    def _map_of(self, key: int, channels: tuple[int, ...]) -> tuple[IntArray, FloatArray]:
        """Directions times their gains, of the inner features that are not zero.

        Parameters
        ----------
        key : int
        channels : tuple of int
            Density channels that have atoms.

        Returns
        -------
        columns : ndarray of shape (n,)
            Inner features of these channels that directions have a part of: not those of
            species that are absent, in the data or here.
        matrix : ndarray of shape (n, n_directions)
        """
        known = self._present_maps
        found = known.get((key, channels))
        if found is None:
            used = self._maps[key].any(axis=1)
            used &= self.inner.soap.present_features(channels)
            columns = np.flatnonzero(used)
            matrix = self._maps[key]
            if len(columns) < len(matrix):
                matrix = np.ascontiguousarray(matrix[columns])
            found = columns, matrix
            if len(known) >= MAX_MAPS:
                known.clear()
            known[key, channels] = found
        return found

    @cached_property
    def _shares(self) -> FloatArray:
        r"""(g_r / g_a)^2, by which squares of features leave what is left; zero without gain."""
        gains = self._gains
        shares = np.zeros_like(gains[:, :-1])
        used = gains[:, :-1] > 0
        np.divide(gains[:, -1:], gains[:, :-1], out=shares, where=used)
        return shares**2

    @property
    def scales(self) -> FloatArray:
        """Root mean square of each feature but the last, shape (n_keys, n_directions)."""
        if self.directions is None:
            return np.ones((len(self.keys), self.n_directions))
        scales = np.array([known.scales for known in self.directions])
        return scales * self._gains[:, :-1]

    @property
    def abundance(self) -> IntArray:
        """Environments of each class that directions were learned from, shape (n_keys,)."""
        if self.directions is None:
            return np.ones(len(self.keys), dtype=np.int64)
        return np.array([known.n_environments for known in self.directions])

    def environments(self, system: System, atoms: slice) -> Environments:
        """Environments of a run of atoms."""
        inner = self.inner.environments(system, atoms)
        x = np.empty((len(inner), self.n_features))
        squares = np.einsum("ef,ef->e", inner.x, inner.x)
        for k in np.unique(inner.key):
            own = np.flatnonzero(inner.key == k)
            columns, matrix = self._map_of(int(k), inner.state.channels)
            features = _rows_of(inner.x, own)
            if len(columns) < features.shape[1]:
                features = features[:, columns]
            mapped = features @ matrix
            left = self._gains[k, -1] ** 2 * (1.0 + FLOOR) * squares[own]
            left -= np.square(mapped) @ self._shares[k]
            x[own, :-1] = mapped
            x[own, -1] = np.sqrt(left)
        return Environments(inner.key, inner.center, inner.structure, x, None, inner)

    def pull(
        self,
        system: System,
        environments: Environments,
        by_x: FloatArray,
        by_weight: FloatArray | None,
        out: Contribution,
    ) -> None:
        """Add derivatives by the displacements of pairs; see `Descriptor.pull`."""
        by_inner = self._by_inner(environments, by_x)
        self.inner.pull(system, environments.state, by_inner, None, out)

    def pull_members(
        self, system: System, environments: Environments, by_x: SingleArray, gradients: SingleArray
    ) -> None:
        """The same of several scalars; see `PullsMembers`."""
        inner, x = environments.state, environments.x
        n_members = by_x.shape[2]
        by_inner = np.empty((*inner.x.shape, n_members), dtype=np.float32)
        by_left = (by_x[:, -1] / x[:, -1:]).astype(np.float32)
        for k in np.unique(environments.key):
            own = np.flatnonzero(environments.key == k)
            columns, matrix = self._map_of(int(k), inner.state.channels)
            along = by_x[own, :-1]
            shares = self._shares[k] * x[own, :-1]
            along -= shares.astype(np.float32)[:, :, None] * by_left[own, None]
            back = np.matmul(matrix.astype(np.float32), along)
            factor = np.float32(self._gains[k, -1] ** 2 * (1.0 + FLOOR)) * by_left[own]
            _compression.scatter_members(back, factor, inner.x, own, columns, by_inner)
        self.inner.pull_members(system, inner, by_inner, gradients)

    def _by_inner(self, environments: Environments, by_x: FloatArray) -> FloatArray:
        """Derivatives of a scalar by inner features, (n, n_inner)."""
        inner, x = environments.state, environments.x
        by_inner = np.empty_like(inner.x)
        by_left = by_x[:, -1] / x[:, -1]
        # backwards: the map of the last class is still in the cache
        for k in np.unique(environments.key)[::-1]:
            own = np.flatnonzero(environments.key == k)
            columns, matrix = self._map_of(int(k), inner.state.channels)
            along = by_x[own, :-1]
            along -= by_left[own, None] * (self._shares[k] * x[own, :-1])
            factor = self._gains[k, -1] ** 2 * (1.0 + FLOOR) * by_left[own]
            _compression.scatter(along @ matrix.T, factor, inner.x, own, columns, by_inner)
        return by_inner

    @property
    def _vector(self) -> bool:
        """Whether there is vector code."""
        soap = self.inner.soap
        return (soap.soap if isinstance(soap, ContractedSOAP) else soap).degrees is not None

    def form_of(self, matrix: FloatArray) -> FloatArray:
        """A matrix as `quadratic` takes it: rows as long as suits the processor.

        Parameters
        ----------
        matrix : ndarray of shape (n, n)

        Returns
        -------
        ndarray of shape (n, at least n)
        """
        return full_vectors(matrix) if self._vector else np.ascontiguousarray(matrix)

    def _small_map_of(self, key: int, channels: tuple[int, ...]) -> tuple[IntArray, FloatArray]:
        """`_map_of` as `quadratic` takes it."""
        columns, matrix = self._map_of(key, channels)
        if not self._vector or matrix.shape[1] % LANES == 0:
            return columns, matrix
        known = self._full_maps
        if (key, channels) not in known:
            if len(known) >= MAX_MAPS:
                known.clear()
            known[key, channels] = full_vectors(matrix)
        return columns, known[key, channels]

    @cached_property
    def _full_maps(self) -> dict[tuple[int, tuple[int, ...]], FloatArray]:
        """What `_small_map_of` has made."""
        return {}

    def quadratic(
        self, inner: Environments, forms: Mapping[int, FloatArray]
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Quadratic forms of unit features of a few environments, all in one pass.

        What `environments`, the mean of a polynomial kernel and `pull` do one after the other,
        as far as the features of `inner`: for molecules, whose cost is that of reading the maps.

        Parameters
        ----------
        inner : Environments
            Of the inner descriptor.
        forms : mapping of int to ndarray
            Of each key there is, the symmetric matrix in its leading features [eV], from `form_of`.

        Returns
        -------
        energies : ndarray of shape (n_env,)
            [eV].
        u : ndarray of shape (n_env, n_features)
            Unit features.
        by_inner : ndarray of shape (n_env, n_inner)
            Derivative of each energy by its inner features [eV].
        """
        n = len(inner)
        energies, u = np.empty(n), np.empty((n, self.n_features))
        by_inner = np.empty_like(inner.x)
        lanes = (0,) * LANES if self._vector else LANES
        for k, form in forms.items():
            columns, matrix = self._small_map_of(k, inner.state.channels)
            _compression.quadratic(
                inner.x,
                np.flatnonzero(inner.key == k),
                columns,
                matrix,
                self._shares[k],
                self._gains[k, -1] ** 2 * (1.0 + FLOOR),
                form,
                lanes,
                energies,
                u,
                by_inner,
            )
        return energies, u, by_inner

    def _jacobian(
        self,
        key: int,
        inner: FloatArray,
        x: FloatArray,
        columns: IntArray | slice,
        jacobian: FloatArray,
    ) -> FloatArray:
        """Derivatives of features from those of some inner ones, pair by pair.

        Parameters
        ----------
        key : int
        inner : ndarray of shape (n, n_inner)
            Inner features of the environment of each pair.
        x : ndarray of shape (n, n_features)
            Its features.
        columns : ndarray of int or slice
            The inner features that change.
        jacobian : ndarray of shape (n, 3, n_columns)

        Returns
        -------
        ndarray of shape (n, 3, n_features)
        """
        found = np.empty((len(x), 3, self.n_features))
        flat = jacobian.reshape(-1, jacobian.shape[2])
        mapped = (flat @ self._maps[key][columns]).reshape(len(x), 3, -1)
        found[:, :, :-1] = mapped
        along = np.einsum("pcf,pf->pc", jacobian, inner[:, columns], optimize=True)
        along *= self._gains[key, -1] ** 2 * (1.0 + FLOOR)
        along -= np.einsum("pcf,pf->pc", mapped, self._shares[key] * x[:, :-1], optimize=True)
        found[:, :, -1] = along / x[:, -1:]
        return found

    def add_rows(
        self,
        system: System,
        environments: Environments,
        chosen: IntArray,
        gradient: RowGradient,
        force_rows: FloatArray,
        virial_rows: FloatArray,
    ) -> None:
        """Add to rows of forces and virials; see `Descriptor.add_rows`."""
        if not len(chosen):
            return
        if isinstance(gradient, MonomialGradient):
            for pairs, rows, jacobian in self.jacobians(system, environments, chosen):
                gradient.add_pairs(system, pairs, rows, jacobian, force_rows, virial_rows)
            return
        points_t = gradient.points.T.copy()
        for pairs, rows, jacobian in self.jacobians(
            system, environments, chosen, 24.0 * points_t.shape[1]
        ):
            add_pair_rows(
                system, pairs, rows, jacobian, gradient, None, points_t, force_rows, virial_rows
            )

    def jacobians(
        self,
        system: System,
        environments: Environments,
        chosen: IntArray,
        bytes_per_pair: float = 0.0,
    ) -> Iterator[tuple[IntArray, IntArray, FloatArray]]:
        """Derivatives of features of some environments by the displacements of their pairs.

        Those of a center together, a few megabytes at a time.

        Parameters
        ----------
        system : System
        environments : Environments
            Of this descriptor.
        chosen : ndarray of shape (n,)
            The environments that are wanted, all of one key.
        bytes_per_pair : float
            What the caller needs beside the derivatives.

        Yields
        ------
        pairs : ndarray of shape (n_pairs,)
            In the system.
        rows : ndarray of shape (n_pairs,)
            Place of their centers' environments in `chosen`.
        jacobian : ndarray of shape (n_pairs, 3, n_features)
        """
        inner = environments.state
        key = int(environments.key[chosen[0]])
        for pairs, rows, columns, jacobian in self.inner.jacobians(
            system, inner, chosen, 24.0 * self.n_features + bytes_per_pair
        ):
            own = chosen[rows]
            x = environments.x[own]
            yield pairs, rows, self._jacobian(key, inner.x[own], x, columns, jacobian)

    def tangents(self, system: System, environments: Environments) -> CenterTangents:
        """How coordinates move the environments; see `Descriptor.tangents`."""
        inner, centers = environments.state, system.pairs.centers
        of_inner = self.inner.pair_jacobian(system, inner)

        def jacobian(pairs: IntArray) -> FloatArray:
            whole = of_inner(pairs)
            own = centers[pairs]
            found = np.empty((len(pairs), 3, self.n_features))
            for k in np.unique(environments.key[own]):
                some = environments.key[own] == k
                found[some] = self._jacobian(
                    int(k), inner.x[own[some]], environments.x[own[some]], slice(None), whole[some]
                )
            return found

        return CenterTangents(system, self.r_cut, jacobian)

    def to_arrays(self) -> dict[str, Array]:
        """Directions, and the constants of the inner descriptor."""
        return {**self.inner.to_arrays(), **directions_to_arrays(self.directions or ())}


def directions_to_arrays(directions: Sequence[Directions]) -> dict[str, Array]:
    """Directions as arrays by name.

    Parameters
    ----------
    directions : sequence of Directions

    Returns
    -------
    dict of str to ndarray
        Empty for none.
    """
    if not directions:
        return {}
    return {
        "vectors": np.array([known.vectors for known in directions]),
        "scales": np.array([known.scales for known in directions]),
        "n_environments": np.array([known.n_environments for known in directions]),
        "lost": np.array([known.lost for known in directions]),
    }


def directions_from_arrays(arrays: Mapping[str, Array]) -> list[Directions] | None:
    """Inverse of `directions_to_arrays`; None where there are none.

    Parameters
    ----------
    arrays : mapping of str to ndarray

    Returns
    -------
    list of Directions or None
    """
    if "vectors" not in arrays:
        return None
    rows = (arrays[name] for name in ("vectors", "scales", "n_environments", "lost"))
    return [Directions(v, s, int(n), float(lost)) for v, s, n, lost in zip(*rows, strict=True)]


def notes_of(descriptor: SOAPDescriptor, directions: Sequence[Directions]) -> list[str]:
    """What was learned, in words.

    Parameters
    ----------
    descriptor : SOAPDescriptor
    directions : sequence of Directions

    Returns
    -------
    list of str
    """
    found = [
        f"{np.count_nonzero(known.scales)} of {key_name(key)} "
        f"({100 * known.lost:.2g} % of their squares left out)"
        for key, known in zip(descriptor.keys, directions, strict=True)
        if known.n_environments
    ]
    return [f"{descriptor.n_features} features compressed to directions: {', '.join(found)}"]
