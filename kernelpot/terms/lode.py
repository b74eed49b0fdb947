"""LODE: the potential that all atoms of a structure make around an atom, as a term."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np
from ase import Atoms

from kernelpot.common.types import Array, FloatArray, IntArray
from kernelpot.data.system import Contribution, System
from kernelpot.terms.base import Environments, RowGradient
from kernelpot.terms.by_rows import RowTangents
from kernelpot.terms.charges import check_periodicity
from kernelpot.terms.of_atoms import OfAtoms
from kernelpot.terms.parameters import (
    N_SPARSE_RANGE,
    Range,
    TermBase,
    require,
    require_number,
)
from kernelpot.terms.potential_field import Field, Probes, field_of
from kernelpot.terms.scaling import mean_and_scale, some_systems
from kernelpot.terms.stationary import FUNCTIONS, NAMES, StationaryKernel


@dataclass(frozen=True)
class LODETerm(TermBase):
    r"""Long-distance equivariants: environments that have no cutoff [1]_ [2]_.

    Atoms of each species are Gaussians of one width with the potential 1/r of a unit charge. Their
    potential around an atom is projected on radial functions :math:`r^l e^{-r^2 / 2 s_n^2}`
    (orthonormal ones made of these) and real spherical harmonics, in closed form
    (`kernelpot.terms.potential_field`); what is compared are the projections of degree zero, and
    the power spectrum

    .. math:: p_{ab, nn', l} = \frac{1}{\sqrt{2l+1}} \sum_m c_{a nlm} c_{b n'lm}.

    All are divided by their standard deviation in the data, those of each kind (degree zero, and
    each degree of the power spectrum) by the square root of their number and of the number of
    kinds, so that a length scale of one is the typical difference of two environments.

    The term is one of atoms like SOAP: local energies, standard deviations and the safety net see
    it. An atom's environment are all others, whatever their distance: to be fitted beside a local
    term, for what that cannot see. Crystals are summed over waves, without the wave vector zero
    (every species has a uniform background that neutralizes it); molecules and clusters directly,
    without any. Structures with one or two periodic directions are refused, and so is evaluation by
    regions of space.

    Parameters
    ----------
    smearing : float, default=1.0
        Width of the Gaussian that an atom is [Å].
    widths : sequence of float, default=(1.0, 2.0)
        Of the radial functions [Å].
    l_max : int, default=2
        Largest degree of the spherical harmonics, 0 to 2.
    length_scale : float, default=3.0
        Of the kernel, in the unit said above.
    delta : float, default=1.0
        Prior standard deviation of an atom's energy [eV].
    n_sparse : int or None, default=None
        Sparse points, all species together.
    sparse_method : {"farthest_point", "cur", "kmeans", "random"}
        How sparse points are chosen; default farthest-point sampling.
    function : {"gaussian", "matern52"}
        Kernel.

    Raises
    ------
    ValueError
        If a value is out of range; the message names it.

    References
    ----------
    .. [1] Grisafi, Ceriotti, J. Chem. Phys. 151, 204105 (2019).
    .. [2] Huguenin-Dumittan, Loche, Haoran, Ceriotti, J. Phys. Chem. Lett. 14, 9612 (2023).

    Examples
    --------
    >>> import kernelpot as kp
    >>> pot = kp.KernelPotential([kp.SOAPTerm(r_cut=4.5), kp.LODETerm()])
    """

    smearing: float = 1.0
    widths: tuple[float, ...] = (1.0, 2.0)
    l_max: int = 2
    length_scale: float = 3.0
    delta: float = 1.0
    n_sparse: int | None = None
    sparse_method: str = "farthest_point"
    function: str = "gaussian"

    kind: ClassVar[str] = "lode"
    r_cut: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        """Check every value once, before any work starts."""
        super().__post_init__()
        for name in ("smearing", "length_scale"):
            require_number(name, getattr(self, name))
            require(getattr(self, name) > 0, name, "positive", getattr(self, name))
        require(
            isinstance(self.widths, tuple) and len(self.widths) > 0,
            "widths",
            "a sequence of numbers",
            self.widths,
        )
        for value in self.widths:
            require_number("widths", value)
            require(value > 0, "widths", "positive", self.widths)
        widths = tuple(float(value) for value in self.widths)
        apart = all(b >= 1.2 * a for a, b in zip(widths, widths[1:], strict=False))
        require(apart, "widths", "ascending, each at least 1.2 times the one before", widths)
        object.__setattr__(self, "widths", widths)
        require_number("l_max", self.l_max)
        require(self.l_max in (0, 1, 2), "l_max", "0, 1 or 2", self.l_max)
        object.__setattr__(self, "l_max", int(self.l_max))
        require(
            self.function in FUNCTIONS, "function", f"one of {', '.join(FUNCTIONS)}", self.function
        )

    @classmethod
    def example(cls, species: tuple[int, ...]) -> LODETerm:
        """The default one, which is small.

        Parameters
        ----------
        species : tuple of int
            Atomic numbers it will be used for.

        Returns
        -------
        LODETerm
        """
        return cls()

    @property
    def searched(self) -> Mapping[str, Range]:
        """Parameters that a search over kernels may change."""
        return {
            "length_scale": Range(1.3, factors=(0.3, 5.0), of_features=False),
            "smearing": Range(1.3, factors=(0.5, 2.0), minimum=0.3),
            "n_sparse": N_SPARSE_RANGE,
        }

    @property
    def probes(self) -> Probes:
        """What potentials are projected on."""
        return Probes(float(self.smearing), self.widths, self.l_max)

    def learned(
        self, species: tuple[int, ...], structures: Sequence[Atoms]
    ) -> tuple[dict[str, Array], list[str]]:
        """How much projections and their products spread in some structures.

        Parameters
        ----------
        species : tuple of int
            Atomic numbers, ascending.
        structures : sequence of ase.Atoms

        Returns
        -------
        constants : dict of str to ndarray
            For `descriptor`.
        notes : list of str
            How many there are.
        """
        descriptor = PotentialInvariants(species, self.probes)
        groups = descriptor.groups
        mean, scale = np.zeros((2, len(species), descriptor.n_features))
        # those of single atoms are constant
        systems = some_systems([a for a in structures if len(a) > 1] or structures, 0.0)
        values = {
            id(system): descriptor.invariants(system, slice(0, system.n_atoms))
            for system in systems
        }
        for group in groups:
            mean[:, group], scale[:, group] = mean_and_scale(
                lambda system, group=group: values[id(system)][:, group],  # type: ignore[misc]
                systems,
                species,
                group.stop - group.start,
            )
        note = (
            f"{descriptor.n_features} invariants of the potential of {len(species)} species around "
            "an atom, of the whole structure"
        )
        return {"mean": mean, "scale": scale / np.sqrt(len(groups))}, [note]

    def descriptor(
        self, species: tuple[int, ...], constants: Mapping[str, Array] | None = None
    ) -> PotentialInvariants:
        """Invariants of the potential around the atoms of some species.

        Parameters
        ----------
        species : tuple of int
            Atomic numbers, ascending.
        constants : mapping, optional
            From `learned`, or of an earlier descriptor. Without: the invariants as they are.

        Returns
        -------
        PotentialInvariants
        """
        if not constants:
            return PotentialInvariants(species, self.probes)
        return PotentialInvariants(species, self.probes, constants["mean"], constants["scale"])

    def kernel(self) -> StationaryKernel:
        """Function of the distance of scaled invariants.

        Returns
        -------
        StationaryKernel
        """
        return FUNCTIONS[self.function](float(self.length_scale), float(self.delta))

    def describe(self) -> list[str]:
        """Return the parameters in words, for reports.

        Returns
        -------
        list of str
        """
        widths = ", ".join(f"{width:g}" for width in self.widths)
        return [
            f"LODE: potential 1/r of atoms as Gaussians of {self.smearing:.2f} Å, on radial "
            f"functions of {widths} Å, l_max {self.l_max}, no cutoff",
            f"{NAMES[self.function]} kernel of length scale {self.length_scale:.3g} in spreads of "
            f"features, prior std delta {self.delta:.3g} eV",
        ]


@dataclass(frozen=True)
class _Centers:
    """Some centers of one structure."""

    structure: int
    atoms: slice  # of the structure, as the system numbers them
    centers: slice  # as the structure numbers them
    rows: slice  # as environments are numbered
    field: Field
    c: FloatArray  # projections, (n, n_channels, n_harmonics)


@dataclass(frozen=True, eq=False)
class PotentialInvariants(OfAtoms):
    """Scaled invariants of the potential around every atom; a `Descriptor`.

    Parameters
    ----------
    species : tuple of int
        Atomic numbers that may occur, ascending.
    probes : Probes
    mean, scale : ndarray of shape (n_species, n_features), optional
        What is subtracted from the invariants, so that distances keep their digits, and what they
        are multiplied by; default zero and one.
    """

    species: tuple[int, ...]
    probes: Probes
    mean: FloatArray = field(default_factory=lambda: np.empty((0, 0)))
    scale: FloatArray = field(default_factory=lambda: np.empty((0, 0)))

    r_cut: ClassVar[float] = 0.0
    long_ranged: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Fill in mean and scale."""
        if not self.scale.size:
            shape = len(self.species), self.n_features
            object.__setattr__(self, "mean", np.zeros(shape))
            object.__setattr__(self, "scale", np.ones(shape))

    @property
    def n_channels(self) -> int:
        """Species times radial functions."""
        return len(self.species) * len(self.probes.widths)

    @property
    def groups(self) -> list[slice]:
        """Features of each kind: projections of degree zero, products of each degree."""
        n = self.n_channels
        ends = n + n * (n + 1) // 2 * np.arange(self.probes.l_max + 2)
        return [slice(0, n), *(slice(int(a), int(b)) for a, b in zip(ends, ends[1:], strict=False))]

    @property
    def n_features(self) -> int:
        """Invariants of an atom."""
        return self.groups[-1].stop

    # ---- projections ---------------------------------------------------------------

    def _field(self, system: System, s: int) -> Field:
        """The field of a structure; made once, as it has tables."""
        known = system.memo.setdefault(id(self), (self, {}))[1]
        if s not in known:
            atoms = system.structures[s]
            check_periodicity(atoms)
            own = slice(int(system.first_atom[s]), int(system.first_atom[s + 1]))
            z = system.z_index(self.species)[own]
            known[s] = field_of(atoms, z, len(self.species), self.probes)
        found: Field = known[s]
        return found

    def _centers(self, system: System, atoms: slice) -> Iterator[_Centers]:
        """Projections of the potential around a run of atoms, structure by structure."""
        first = system.first_atom
        for s in np.unique(system.structure_of[atoms]).tolist():
            own = slice(int(first[s]), int(first[s + 1]))
            start, stop = max(atoms.start, own.start), min(atoms.stop, own.stop)
            centers = slice(start - own.start, stop - own.start)
            found = self._field(system, s)
            c = self._mixed(found.sums(centers))
            yield _Centers(
                s, own, centers, slice(start - atoms.start, stop - atoms.start), found, c
            )

    def _mixed(self, sums: FloatArray) -> FloatArray:
        """Orthonormal projections, (n, n_channels, n_harmonics)."""
        found = np.einsum("eanm,mkn->eakm", sums, self.probes.mixing, optimize=True)
        return found.reshape(len(sums), self.n_channels, -1)

    def _unmixed(self, by_c: FloatArray) -> FloatArray:
        """Derivatives by sums from those by projections."""
        shape = len(by_c), len(self.species), len(self.probes.widths), by_c.shape[2]
        return np.einsum("eakm,mkn->eanm", by_c.reshape(shape), self.probes.mixing, optimize=True)

    # ---- invariants ----------------------------------------------------------------

    @cached_property
    def _products(self) -> tuple[IntArray, IntArray, FloatArray]:
        """Channels of each product, and its factor: two where either order is another product."""
        p, q = np.triu_indices(self.n_channels)
        return p, q, np.where(p == q, 1.0, np.sqrt(2.0))

    @property
    def _degrees(self) -> list[slice]:
        """Harmonics of each degree."""
        return [slice(d * d, (d + 1) * (d + 1)) for d in range(self.probes.l_max + 1)]

    def _invariants(self, c: FloatArray) -> FloatArray:
        p, q, factor = self._products
        found = [c[:, :, 0]]
        for degree, harmonics in enumerate(self._degrees):
            part = c[:, :, harmonics]
            products = part @ part.swapaxes(1, 2)
            found.append(products[:, p, q] * (factor / np.sqrt(2 * degree + 1)))
        return np.concatenate(found, axis=1)

    def _pulled(self, c: FloatArray, by_x: FloatArray) -> FloatArray:
        """Derivatives by projections, from those by invariants that are not scaled."""
        p, q, factor = self._products
        by_c = np.empty((len(by_x), *c.shape[1:]))
        for degree, (group, harmonics) in enumerate(
            zip(self.groups[1:], self._degrees, strict=True)
        ):
            matrix = np.zeros((len(by_x), self.n_channels, self.n_channels))
            part = by_x[:, group] * (factor / np.sqrt(2 * degree + 1))
            matrix[:, p, q] = part
            matrix[:, q, p] += part  # twice on the diagonal
            by_c[:, :, harmonics] = matrix @ c[:, :, harmonics]
        by_c[:, :, 0] += by_x[:, self.groups[0]]
        return by_c

    def invariants(self, system: System, atoms: slice) -> FloatArray:
        """The invariants as they are.

        Parameters
        ----------
        system : System
        atoms : slice
            A run of them.

        Returns
        -------
        ndarray of shape (n, n_features)
        """
        found = [self._invariants(part.c) for part in self._centers(system, atoms)]
        return np.concatenate([np.empty((0, self.n_features)), *found])

    # ---- the protocol --------------------------------------------------------------

    def environments(self, system: System, atoms: slice) -> Environments:
        """Scaled invariants of a run of atoms."""
        parts = list(self._centers(system, atoms))
        raw = [self._invariants(part.c) for part in parts]
        key = system.z_index(self.species)[atoms]
        x = np.concatenate([np.empty((0, self.n_features)), *raw])
        x -= self.mean[key]
        x *= self.scale[key]
        centers = np.arange(atoms.start, atoms.stop)
        return Environments(key, centers, system.structure_of[atoms], x, None, parts)

    def pull(
        self,
        system: System,
        environments: Environments,
        by_x: FloatArray,
        by_weight: FloatArray | None,
        out: Contribution,
    ) -> None:
        """Add derivatives by positions and strain; see `Descriptor.pull`."""
        by_x = by_x * self.scale[environments.key]
        for part in environments.state:
            by_sums = self._unmixed(self._pulled(part.c, by_x[part.rows]))
            by_positions, by_strain = part.field.pull(part.centers, by_sums)
            out.forces[part.atoms] -= by_positions
            out.virials[part.structure] -= 0.5 * (by_strain + by_strain.T)

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
        z_index = system.z_index(self.species)
        order = np.argsort(chosen, kind="stable")
        for part in environments.state:
            within = np.searchsorted(chosen[order], [part.rows.start, part.rows.stop])
            z = z_index[part.atoms]
            first, n_atoms = part.atoms.start, len(z)
            members = [(a, np.flatnonzero(z == a)) for a in np.unique(z).tolist()]
            rows = force_rows[3 * first : 3 * (first + n_atoms)].reshape(n_atoms, 3, -1)
            for row in order[within[0] : within[1]]:
                e = int(chosen[row])
                own = e - part.rows.start
                by_x = gradient.of_environment(int(row)) * self.scale[environments.key[e]]
                # (n_points, n_species, n_radial * n_harmonics)
                by_sums = self._unmixed(self._pulled(part.c[own : own + 1], by_x))
                by_sums = by_sums.reshape(*by_sums.shape[:2], -1)
                by_others, by_strain = part.field.jacobian(part.centers.start + own)
                total = np.zeros((3, len(by_x)))
                for a, atoms in members:
                    flat = by_others[atoms].reshape(3 * len(atoms), -1) @ by_sums[:, a].T
                    moved = flat.reshape(len(atoms), 3, -1)
                    rows[atoms] -= moved
                    total += moved.sum(axis=0)
                rows[part.centers.start + own] += total
                if len(virial_rows):
                    strained = by_strain.reshape(6, -1) @ by_sums.reshape(len(by_x), -1).T
                    virial_rows[6 * part.structure : 6 * part.structure + 6] -= strained

    def tangents(self, system: System, environments: Environments) -> RowTangents:
        """How coordinates move the invariants; see `Descriptor.tangents`."""
        return RowTangents(self, system, environments)

    def to_arrays(self) -> dict[str, Array]:
        """Mean and scale of the invariants."""
        return {"mean": self.mean, "scale": self.scale}
