r"""Charges that depend on their environments, as a term that is linear around known ones.

Charges of a structure of N atoms and the total charge Q are

.. math:: q = P B \beta + Q/N, \qquad B = [K, 1_Z], \qquad P = 1 - 1 1^\top / N,

K being a kernel of environments and :math:`1_Z` one column per species, and the energy is
:math:`E = q^\top A q / 2` with Gaussian charges (`kernelpot.baseline.smeared`). A fit of
:math:`\beta` is nonlinear: `kernelpot.fit.charges` finds :math:`\beta_0`. What a model has is
the energy linearized there,

.. math::
   E = q_0^\top A \, q(\beta) - \tfrac{1}{2} q_0^\top A q_0
     = (P \phi_0)^\top B (\beta - \tfrac{1}{2} \beta_0) + \tfrac{1}{2} \phi_0^\top 1 \, Q/N,
   \qquad \phi_0 = A q_0,

which is the nonlinear one at :math:`\beta = \beta_0`, and whose deviations are second order in
:math:`\beta - \beta_0`: features of a whole structure with Gaussian weights
:math:`\beta = \mu + W z`, and a last feature that is known. So the last pass of the fit is an
ordinary one, and the posterior is that of Laplace's method.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from kernelpot.baseline.smeared import SmearedCoulomb
from kernelpot.common.types import Array, FloatArray, IntArray
from kernelpot.data.system import Contribution, System
from kernelpot.terms.base import Environments, Key, RowGradient
from kernelpot.terms.by_rows import RowTangents
from kernelpot.terms.dot_product import DotProductKernel
from kernelpot.terms.linear_features import LinearKernel
from kernelpot.terms.parameters import Range, TermBase, require, require_number
from kernelpot.terms.soap import SOAPDescriptor, SOAPTerm

# Name of the total charge of a structure in ``atoms.info`` [e]; 0 where it is missing.
TOTAL_CHARGE = "charge"
# Sparse points of charges, for each species.
POINTS_PER_SPECIES = 40
# Reach of the environments of charges: in lengths that the default terms are scaled to, and at
# least [Å]. Charges of ions answer to all of their first shell, where a shorter reach does not.
REACH, MINIMUM_REACH = 1.6, 4.5


@dataclass(frozen=True)
class KernelCharges(TermBase):
    r"""Environment-dependent charges, learned from energies and forces.

    Charges are neutralized evenly in each structure, to zero or to ``atoms.info["charge"]``
    (`kernelpot.terms.charges`), and act through Ewald's sum in crystals and Coulomb's law in
    molecules and clusters. Labels of charges (``REF_charges``) and dipoles (``REF_dipole``)
    count where structures have them. A fit uses charges only if they lower the errors of
    forces on structures left out.

    Parameters
    ----------
    r_cut : float, default=0
        Reach of the environments that charges depend on [Å]. 0: from the data, 1.6 times the
        length that the default terms are scaled to (`kernelpot.fit.defaults.length_scale`), at
        least 4.5 Å.
    n_max : int, default=6
        Number of radial functions.
    l_max : int, default=4
        Largest degree of the spherical harmonics.
    sigma_atom : float, default=0.5
        Width of the Gaussian that stands for one atom in the descriptor [Å].
    zeta : float, default=2
        Kernel exponent.
    sigma_charge : float, default=0.1
        Prior standard deviation of what the environment does to a charge [e].
    sigma_species : float, default=1.0
        Prior standard deviation of the charge of a species [e].
    sigma_total : float, default=0.5
        How far charges may be from a structure's total before they are neutralized [e].
    smearing : float or mapping of symbol to float, optional
        Gaussian width of the charges [Å], of each species; by default 0.35 of the shortest
        distance that the species has in the data.
    delta : float, default=1.0
        Factor of the prior standard deviations of charges.
    n_sparse : int or None, default=None
        Sparse points, all species together. None: 40 per species.
    sparse_method : {"farthest_point", "cur", "kmeans", "random"}
        How they are chosen.
    gate : bool, default=True
        Whether errors on structures left out decide. False: charges are used.

    Raises
    ------
    ValueError
        If a value is out of range; the message names it.

    Examples
    --------
    >>> import kernelpot as kp
    >>> pot = kp.KernelPotential(charges=kp.KernelCharges())
    """

    r_cut: float = 0.0
    n_max: int = 6
    l_max: int = 4
    sigma_atom: float = 0.5
    zeta: float = 2
    sigma_charge: float = 0.1
    sigma_species: float = 1.0
    sigma_total: float = 0.5
    smearing: float | Mapping[str, float] | None = None
    delta: float = 1.0
    n_sparse: int | None = None
    sparse_method: str = "farthest_point"
    gate: bool = True

    kind: ClassVar[str] = "charges"

    def __post_init__(self) -> None:
        """Check every value once, before any work starts."""
        super().__post_init__()
        for name in ("sigma_charge", "sigma_species", "sigma_total"):
            require_number(name, getattr(self, name))
            require(getattr(self, name) > 0, name, "positive", getattr(self, name))
        require(isinstance(self.gate, bool), "gate", "True or False", self.gate)
        if isinstance(self.smearing, Mapping):
            for symbol, width in self.smearing.items():
                require(symbol in chemical_symbols, "smearing", "by chemical symbols", symbol)
                require(width > 0, f"smearing[{symbol}]", "positive", width)
        elif self.smearing is not None:
            require_number("smearing", self.smearing)
            require(self.smearing > 0, "smearing", "positive", self.smearing)
        soap = self.soap  # its values are checked there
        for name in ("n_max", "l_max"):  # 6.0, as numbers in files may be
            object.__setattr__(self, name, getattr(soap, name))

    @property
    def soap(self) -> SOAPTerm:
        """The environments that charges depend on, as a term of their own."""
        names = ("n_max", "l_max", "sigma_atom", "zeta", "n_sparse", "sparse_method")
        r_cut = self.r_cut or MINIMUM_REACH
        return SOAPTerm(r_cut=r_cut, **{name: getattr(self, name) for name in names})

    def suited(self, length: float) -> KernelCharges:
        """The same with a reach of its own, where it is to come from the data.

        Parameters
        ----------
        length : float
            What the default terms are scaled to [Å].

        Returns
        -------
        KernelCharges
        """
        if self.r_cut:
            return self
        return self.changed(r_cut=round(max(REACH * length, MINIMUM_REACH), 3))

    @classmethod
    def example(cls, species: tuple[int, ...]) -> KernelCharges:
        """A small term, to try things out with.

        Parameters
        ----------
        species : tuple of int
            Atomic numbers it will be used for.

        Returns
        -------
        KernelCharges
        """
        return cls(r_cut=4.0, n_max=3, l_max=2, n_sparse=8 * len(species))

    @property
    def searched(self) -> Mapping[str, Range]:
        """Nothing that a search over kernels may change."""
        return {}

    def default_n_sparse(self, usual: int, n_keys: int) -> int:
        """Sparse points of charges where `n_sparse` is None.

        Parameters
        ----------
        usual : int
            Sparse points of a term that names no number; plays no part.
        n_keys : int
            Species.

        Returns
        -------
        int
        """
        return POINTS_PER_SPECIES * n_keys

    def descriptor(
        self, species: tuple[int, ...], constants: Mapping[str, Array] | None = None
    ) -> ChargesDescriptor:
        """Electrostatics around charges that a fit has found.

        Parameters
        ----------
        species : tuple of int
            Atomic numbers, ascending.
        constants : mapping
            From `kernelpot.fit.charges`, or of an earlier descriptor.

        Returns
        -------
        ChargesDescriptor

        Raises
        ------
        ValueError
            Without constants.
        """
        if not constants:
            raise ValueError(
                "KernelCharges learn from labels: give them as KernelPotential(charges=...)"
            )
        inner = self.soap.descriptor(species, constants)
        kernel = self.soap.kernel()
        names = ("points", "point_key", "sigma", "at", "mean", "whitening")
        return ChargesDescriptor(inner, kernel, *(np.asarray(constants[name]) for name in names))

    def kernel(self) -> LinearKernel:
        """Weights of unit prior variance.

        Returns
        -------
        LinearKernel
        """
        return LinearKernel(float(self.delta))

    def describe(self) -> list[str]:
        """Return the parameters in words, for reports.

        Returns
        -------
        list of str
        """
        reach = f"{self.r_cut:.2f} Å" if self.r_cut else "from the data"
        return [
            f"charges by environment: SOAP r_cut {reach}, atoms as Gaussians of "
            f"{self.sigma_atom:.2f} Å, n_max {self.n_max}, l_max {self.l_max}, zeta {self.zeta:g}",
            f"prior std {self.sigma_charge:g} e by environment, {self.sigma_species:g} e by "
            f"species, {self.sigma_total:g} e of the total before it is neutralized",
        ]


@dataclass(frozen=True)
class _OfStructure:
    """One structure of a system: its electrostatics at the known charges."""

    atoms: slice
    total: float
    coulomb: SmearedCoulomb
    q: FloatArray
    phi: FloatArray


@dataclass(frozen=True)
class _State:
    """Environments of the atoms, compared with the sparse points of charges."""

    found: Environments
    u: FloatArray
    norm: FloatArray
    similarity: FloatArray
    basis: FloatArray
    structures: list[_OfStructure]


@dataclass(frozen=True)
class ChargesDescriptor:
    r"""Features of whole structures; a `kernelpot.terms.base.Descriptor` with own points.

    Parameters
    ----------
    soap : SOAPDescriptor
    kernel_of_charges : DotProductKernel
    points : ndarray of shape (n_points, n)
        Embedded environments, sparse points of charges.
    point_key : ndarray of shape (n_points,)
        The species of each, an index.
    sigma : ndarray of shape (n_species,)
        Gaussian widths of charges [Å].
    at : ndarray of shape (n_points + n_species,)
        Coefficients :math:`\beta_0` around which the energy is linear [e].
    mean : ndarray of shape (n_points + n_species,)
        Prior mean :math:`\mu` of the coefficients [e].
    whitening : ndarray of shape (n_points + n_species, n_weights)
        :math:`W`, coefficients by weights of unit prior variance [e].
    """

    soap: SOAPDescriptor
    kernel_of_charges: DotProductKernel
    points: FloatArray
    point_key: IntArray
    sigma: FloatArray
    at: FloatArray
    mean: FloatArray
    whitening: FloatArray

    keys: ClassVar[Sequence[Key]] = [()]
    has_centers: ClassVar[bool] = False
    one_per_atom: ClassVar[bool] = False
    long_ranged: ClassVar[bool] = True

    @property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers that may occur, ascending."""
        return self.soap.species

    @property
    def r_cut(self) -> float:
        """Reach of the environments that charges depend on [Å]."""
        return self.soap.r_cut

    @property
    def n_features(self) -> int:
        """Weights, and one energy that is known."""
        return int(self.whitening.shape[1]) + 1

    @property
    def own_points(self) -> FloatArray:
        """Unit vectors in place of sparse points."""
        return np.eye(self.n_features)

    @property
    def known_weights(self) -> FloatArray:
        """One for the last feature, which is an energy."""
        return np.append(np.zeros(self.n_features - 1), 1.0)

    def center_species(self, key: Key) -> Sequence[int]:
        """None: environments are whole structures."""
        return ()

    def count(self, system: System) -> IntArray:
        """Number of structures."""
        return np.array([system.n_structures])

    # ---- charges -------------------------------------------------------------------

    def _known_part(self) -> FloatArray:
        """Coefficients of the last feature."""
        return self.mean - 0.5 * self.at

    def _basis(self, system: System) -> tuple[Environments, FloatArray, FloatArray, FloatArray]:
        """Environments of all atoms, embedded, and their similarity with the points."""
        known = system.memo.get(id(self.soap))
        if known is None:
            found = self.soap.environments(system, slice(0, system.n_atoms))
            u, norm = self.kernel_of_charges.embed(found.x)
            similarity = self.kernel_of_charges.similarity(u, self.points)
            # with the descriptor itself, whose identity then stays its own
            known = self.soap, self.points, (found, u, norm, similarity)
            system.memo[id(self.soap)] = known
        elif known[1] is not self.points:
            found, u, norm, _ = known[2]
            return found, u, norm, self.kernel_of_charges.similarity(u, self.points)
        result: tuple[Environments, FloatArray, FloatArray, FloatArray] = known[2]
        return result

    def _columns(self, keys: IntArray, similarity: FloatArray) -> FloatArray:
        """B: the kernel, and one column per species."""
        alike = keys[:, None] == self.point_key
        return np.concatenate(
            [
                self.kernel_of_charges.values(similarity) * alike,
                (keys[:, None] == np.arange(len(self.species))).astype(float),
            ],
            axis=1,
        )

    def coefficients(self, weights: FloatArray) -> FloatArray:
        """Coefficients of charges from the weights of the features, the known one among them.

        Parameters
        ----------
        weights : ndarray of shape (n_features,)

        Returns
        -------
        ndarray of shape (n_points + n_species,)
        """
        return np.asarray(self.mean + self.whitening @ weights[:-1])

    def charges(self, system: System, coefficients: FloatArray) -> FloatArray:
        """Charges of all atoms of a system.

        Parameters
        ----------
        system : System
        coefficients : ndarray of shape (n_points + n_species,)
            [e].

        Returns
        -------
        ndarray of shape (n_atoms,)
            [e].
        """
        found, _, _, similarity = self._basis(system)
        raw = self._columns(found.key, similarity) @ coefficients
        for atoms, own in zip(system.structures, _slices(system), strict=True):
            raw[own] += (total_charge(atoms) - raw[own].sum()) / len(atoms)
        return raw

    def raw_columns(self, system: System) -> FloatArray:
        """B of all atoms of a system: charges by coefficients, before they are neutralized.

        Parameters
        ----------
        system : System

        Returns
        -------
        ndarray of shape (n_atoms, n_points + n_species)
        """
        found, _, _, similarity = self._basis(system)
        return self._columns(found.key, similarity)

    # ---- features ------------------------------------------------------------------

    def environments(self, system: System, atoms: slice) -> Environments:
        """Features of all structures of a system."""
        found, u, norm, similarity = self._basis(system)
        basis = self._columns(found.key, similarity)
        sums = []
        for atoms_s, own in zip(system.structures, _slices(system), strict=True):
            check_periodicity(atoms_s)
            sums.append(SmearedCoulomb(atoms_s, self.sigma[found.key[own]]))
        return self._around(system, _State(found, u, norm, similarity, basis, []), sums)

    def _around(
        self, system: System, state: _State, sums: Sequence[SmearedCoulomb]
    ) -> Environments:
        """Features of structures, where all that does not depend on the charges is known."""
        structures = []
        x = np.empty((system.n_structures, self.n_features))
        for s, (atoms, own) in enumerate(zip(system.structures, _slices(system), strict=True)):
            total = total_charge(atoms)
            q = state.basis[own] @ self.at
            q += (total - q.sum()) / len(q)
            phi = sums[s].potential(q)
            by_beta = (phi - phi.mean()) @ state.basis[own]
            x[s, :-1] = by_beta @ self.whitening
            x[s, -1] = by_beta @ self._known_part() + 0.5 * phi.mean() * total
            structures.append(_OfStructure(own, total, sums[s], q, phi))
        n = system.n_structures
        return Environments(
            np.zeros(n, dtype=np.int64),
            np.full(n, -1),
            np.arange(n),
            x,
            None,
            replace(state, structures=structures),
        )

    def moved_to(
        self, at: FloatArray, system: System, environments: Environments
    ) -> tuple[ChargesDescriptor, Environments]:
        """The same around other charges, without searching and expanding anew.

        Parameters
        ----------
        at : ndarray of shape (n_points + n_species,)
            Coefficients [e].
        system : System
        environments : Environments
            Of this descriptor.

        Returns
        -------
        descriptor : ChargesDescriptor
        environments : Environments
        """
        other = replace(self, at=at)
        state: _State = environments.state
        return other, other._around(system, state, [one.coulomb for one in state.structures])

    def pull(
        self,
        system: System,
        environments: Environments,
        by_x: FloatArray,
        by_weight: FloatArray | None,
        out: Contribution,
    ) -> None:
        """Add derivatives by positions and strain; see `Descriptor.pull`."""
        state: _State = environments.state
        n_points = len(self.points)
        cotangent = np.zeros((system.n_atoms, n_points))
        for s, one in enumerate(state.structures):
            b = self.whitening @ by_x[s, :-1] + by_x[s, -1] * self._known_part()
            # the second set of charges of the bilinear form, d = P B b + Q / 2 N
            d = state.basis[one.atoms] @ b
            d += (0.5 * by_x[s, -1] * one.total - d.sum()) / len(d)
            of_d, forces, virial = one.coulomb.bilinear(one.q, d)
            out.forces[one.atoms] += forces
            out.virials[s] += virial
            cotangent[one.atoms] = np.outer(of_d - of_d.mean(), self.at[:n_points])
            cotangent[one.atoms] += np.outer(one.phi - one.phi.mean(), b[:n_points])
        cotangent *= state.found.key[:, None] == self.point_key
        kernel = self.kernel_of_charges
        own = kernel.weigh_slopes(state.similarity, cotangent)
        by_u = kernel.contract(cotangent, state.u, self.points) - own[:, None] * state.u
        self.soap.pull(system, state.found, by_u / state.norm[:, None], None, out)

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
        state: _State = environments.state
        for row, s in enumerate(chosen):
            one = state.structures[int(s)]
            if system.n_structures > 1:
                part = system.part(int(s))
                found, u, norm, similarity = self._basis(part)
                basis = self._columns(found.key, similarity)
                alone = _State(found, u, norm, similarity, basis, [])
            else:
                part, alone = system, state
            forces, virials = self._rows_of(part, alone, one)
            by_x = gradient.slope[row][:, None] * (
                gradient.points - gradient.own[row][:, None] * gradient.at[row]
            )
            first = 3 * system.first_atom[s]
            force_rows[first : first + len(forces)] += forces @ by_x.T
            if len(virial_rows):
                virial_rows[6 * s : 6 * s + 6] += virials @ by_x.T

    def _rows_of(
        self, system: System, state: _State, one: _OfStructure
    ) -> tuple[FloatArray, FloatArray]:
        """Rows of forces and virials of all features of one structure, a system of its own."""
        n, n_points = system.n_atoms, len(self.points)
        found, u, norm, similarity = state.found, state.u, state.norm, state.similarity
        keys, basis = found.key, state.basis
        b = np.column_stack([self.whitening, self._known_part()])
        d = basis @ b
        d -= d.mean(axis=0)
        d[:, -1] += 0.5 * one.total / n
        forces, virials = one.coulomb.rows(one.q, d)
        forces = forces.reshape(3 * n, -1)
        slopes = self.kernel_of_charges.slopes(similarity) * (keys[:, None] == self.point_key)
        slopes /= norm[:, None]
        if self.at[:n_points].any():  # the known charges move
            by_atom = slopes * self.at[:n_points]
            along = by_atom @ self.points
            along -= np.einsum("em,em->e", by_atom, similarity)[:, None] * u
            move_f, move_v = np.zeros((3 * n, n)), np.zeros((6, n))
            of_q = RowGradient(along, u, np.eye(n), np.zeros((n, n)), np.zeros((n, n)))
            self.soap.add_rows(system, found, np.arange(n), of_q, move_f, move_v)
            felt = one.coulomb.potentials(d)
            felt -= felt.mean(axis=0)
            forces += move_f @ felt
            virials += move_v @ felt
        psi = one.phi - one.phi.mean()
        for z in np.unique(keys):  # charges of all columns move
            mine, members = np.flatnonzero(self.point_key == z), np.flatnonzero(keys == z)
            if not len(mine):
                continue
            block = np.ix_(members, mine)
            of_k = RowGradient(
                self.points[mine],
                u[members],
                slopes[block] * psi[members, None],
                similarity[block],
                similarity[block],
            )
            move_f, move_v = np.zeros((3 * n, len(mine))), np.zeros((6, len(mine)))
            self.soap.add_rows(system, found, members, of_k, move_f, move_v)
            forces += move_f @ b[mine]
            virials += move_v @ b[mine]
        return forces, virials

    def tangents(self, system: System, environments: Environments) -> RowTangents:
        """How coordinates move the features; see `Descriptor.tangents`."""
        return RowTangents(self, system, environments)

    @cached_property
    def _arrays(self) -> dict[str, Array]:
        names = ("points", "point_key", "sigma", "at", "mean", "whitening")
        return {**self.soap.to_arrays(), **{name: getattr(self, name) for name in names}}

    def to_arrays(self) -> dict[str, Array]:
        """Constants of the radial basis, and all that was learned."""
        return dict(self._arrays)


def total_charge(atoms: Atoms) -> float:
    """Total charge that a structure names, or zero [e].

    Parameters
    ----------
    atoms : ase.Atoms

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If ``atoms.info["charge"]`` is no finite number.
    """
    value = atoms.info.get(TOTAL_CHARGE)
    if value is None:
        return 0.0
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = np.nan
    if not np.isfinite(found):
        raise ValueError(f'`atoms.info["{TOTAL_CHARGE}"]` must be a number, got {value!r}')
    return found


def check_periodicity(atoms: Atoms, name: str = "the structure") -> None:
    """Refuse a structure whose electrostatics would need a sum over one or two directions.

    Parameters
    ----------
    atoms : ase.Atoms
    name : str
        For the message.

    Raises
    ------
    ValueError
    """
    pbc = np.asarray(atoms.pbc, dtype=bool)
    if pbc.any() and not pbc.all():
        axes = ", ".join("xyz"[axis] for axis in np.flatnonzero(pbc))
        raise ValueError(
            f"{name} is periodic along {axes} only: electrostatics of charges needs three periodic "
            "directions or none; set pbc=True with vacuum in the cell, or pbc=False"
        )


def _slices(system: System) -> Iterator[slice]:
    """Atoms of each structure."""
    first = system.first_atom
    for start, stop in zip(first[:-1], first[1:], strict=True):
        yield slice(int(start), int(stop))
