"""SOAP: environments as power spectra of their neighbor density, compared by dot products."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from ase import Atoms

from kernelpot.common.types import Array, FloatArray, IntArray, SingleArray
from kernelpot.data.neighbors import MANY_PAIRS
from kernelpot.data.system import Contribution, System
from kernelpot.terms.base import Environments, RowGradient
from kernelpot.terms.contraction import (
    ContractedSOAP,
    Contraction,
    learn_contraction,
)
from kernelpot.terms.dot_product import DotProductKernel
from kernelpot.terms.of_atoms import OfAtoms
from kernelpot.terms.over_pairs import CenterTangents, add_pair_rows, chunks_of
from kernelpot.terms.parameters import (
    N_SPARSE_RANGE,
    Range,
    TermBase,
    require,
    require_number,
)
from kernelpot.terms.power_spectrum import SOAP, PairBatch

COMPRESSIONS = ("off", "mu1nu1", "mu2", "crossover")


@dataclass(frozen=True)
class SOAPTerm(TermBase):
    r"""One SOAP kernel of the model: descriptor, kernel and sparse points.

    The kernel between two environments with power spectra p and q is
    :math:`\delta^2 (p \cdot q / |p||q|)^\zeta` [1]_.

    Parameters
    ----------
    r_cut : float
        Radial cutoff [Å]; must exceed 1 Å (the radial basis of dscribe starts there).
    n_max : int, default=8
        Number of radial functions (more than 12 lose digits in dscribe's basis).
    l_max : int, default=6
        Largest degree of the spherical harmonics.
    sigma_atom : float, default=0.5
        Width of the Gaussian that stands for one atom [Å].
    zeta : float, default=2
        Kernel exponent; a positive integer (a non-integer is accepted only if the
        kernel matrix of the sparse points turns out positive definite).
    delta : float, default=1.0
        Prior standard deviation of a local energy [eV].
    n_sparse : int or None, default=None
        Sparse points of this term, all species together. None: the number of the
        potential's `n_sparse` or preset, or of distinct environments if there are fewer.
    cutoff_power : float, default=2
        The density is weighted by ``(1 + 2 (r/r_cut)^3 - 3 (r/r_cut)^2)^cutoff_power``.
        At 1 forces have a kink at the cutoff; from 2 on they are smooth.
    central_weight : float, default=0.2
        Weight of the central atom in its own density; positive.
    compression : {"off", "mu1nu1", "mu2", "crossover"}, default="off"
        How features are shared between neighbor species (dscribe's modes) [2]_.
    contraction : float, optional
        Share of the density (trace of its second moment in the training data) below which a
        channel is left out when radial functions and neighbor species are mixed to principal
        components before the power spectrum is formed (`kernelpot.terms.contraction`) [3]_; from
        0 to 1, only without `compression`. None: all are kept as they are.
    n_channels : int, optional
        Of a contraction: so many channels of each degree, at most. The number of features then
        does not grow with that of species.
    species_weighting : mapping of symbol to float, optional
        Weight of each neighbor species in the density.
    sparse_method : {"farthest_point", "cur", "kmeans", "random"}
        How sparse points are chosen; default farthest-point sampling.

    Raises
    ------
    ValueError
        If a value is out of range; the message names it.

    References
    ----------
    .. [1] Bartók, Kondor, Csányi, Phys. Rev. B 87, 184115 (2013).
    .. [2] Darby, Kermode, Csányi, npj Comput. Mater. 8, 166 (2022).
    .. [3] Goscinski, Musil, Pozdnyakov, Nigam, Ceriotti, J. Chem. Phys. 155, 104106 (2021).
    """

    r_cut: float
    n_max: int = 8
    l_max: int = 6
    sigma_atom: float = 0.5
    zeta: float = 2
    delta: float = 1.0
    n_sparse: int | None = None
    cutoff_power: float = 2.0
    central_weight: float = 0.2
    compression: str = "off"
    contraction: float | None = None
    n_channels: int | None = None
    species_weighting: Mapping[str, float] | None = None
    sparse_method: str = "farthest_point"

    kind: ClassVar[str] = "soap"

    def __post_init__(self) -> None:
        """Check every value once, before any work starts."""
        super().__post_init__()
        numbers = ("n_max", "l_max", "sigma_atom", "zeta", "cutoff_power", "central_weight")
        for name in numbers:
            require_number(name, getattr(self, name))
        require(self.r_cut > 1.0, "r_cut", "larger than 1 Å", self.r_cut)
        require(int(self.n_max) == self.n_max >= 1, "n_max", "an integer >= 1", self.n_max)
        require(
            int(self.l_max) == self.l_max and 0 <= self.l_max <= 20,
            "l_max",
            "an integer from 0 to 20",
            self.l_max,
        )
        require(self.sigma_atom > 0, "sigma_atom", "positive", self.sigma_atom)
        require(self.zeta > 0, "zeta", "positive", self.zeta)
        require(
            self.cutoff_power >= 1,
            "cutoff_power",
            "at least 1 (below, forces diverge at the cutoff)",
            self.cutoff_power,
        )
        require(
            self.central_weight > 0,
            "central_weight",
            "positive (at zero the normalized kernel jumps when the last neighbor leaves)",
            self.central_weight,
        )
        for name in ("n_max", "l_max"):  # 6.0, as numbers in files may be
            object.__setattr__(self, name, int(getattr(self, name)))
        for symbol, weight in (self.species_weighting or {}).items():
            require(
                math.isfinite(weight) and weight > 0,
                f"species_weighting[{symbol}]",
                "positive (an environment of zero weight cannot be normalized)",
                weight,
            )
        require(
            self.compression in COMPRESSIONS,
            "compression",
            f"one of {', '.join(COMPRESSIONS)}",
            self.compression,
        )
        if self.contraction is not None:
            require_number("contraction", self.contraction)
            require(0 <= self.contraction < 1, "contraction", "from 0 to 1", self.contraction)
            require(
                self.compression == "off",
                "compression",
                '"off" beside a contraction, which mixes species itself',
                self.compression,
            )
        if self.n_channels is not None:
            require_number("n_channels", self.n_channels)
            whole = int(self.n_channels) == self.n_channels >= 1
            require(whole, "n_channels", "a positive integer or None", self.n_channels)
            require(
                self.contraction is not None,
                "n_channels",
                "None without a contraction, whose channels it counts",
                self.n_channels,
            )
            object.__setattr__(self, "n_channels", int(self.n_channels))

    @classmethod
    def example(cls, species: tuple[int, ...]) -> SOAPTerm:
        """A small term, to try things out with.

        Parameters
        ----------
        species : tuple of int
            Atomic numbers it will be used for.

        Returns
        -------
        SOAPTerm
        """
        return cls(r_cut=4.0, n_max=3, l_max=2)

    @property
    def searched(self) -> Mapping[str, Range]:
        """Parameters that a search over kernels may change."""
        return {
            "r_cut": Range(1.12, factors=(0.6, 1.6), minimum=1.01),
            "sigma_atom": Range(1.2, factors=(0.4, 2.5)),
            "central_weight": Range(2.0, factors=(0.1, 10.0)),
            "zeta": Range(1, values=(1, 6), integer=True, additive=True, of_features=False),
            "n_sparse": N_SPARSE_RANGE,
        }

    def descriptor(
        self, species: tuple[int, ...], constants: Mapping[str, Array] | None = None
    ) -> SOAPDescriptor:
        """Power spectra of the environments of some species.

        Parameters
        ----------
        species : tuple of int
            Atomic numbers, ascending.
        constants : mapping, optional
            Of the radial basis, from `SOAPDescriptor.to_arrays`.

        Returns
        -------
        SOAPDescriptor
        """
        basis = None if not constants else (constants["alphas"], constants["betas"])
        soap = SOAP(self, species, basis=basis)
        contraction = Contraction.from_arrays(constants or {})
        return SOAPDescriptor(soap if contraction is None else ContractedSOAP(soap, contraction))

    def learned(
        self, species: tuple[int, ...], structures: Sequence[Atoms]
    ) -> tuple[dict[str, Array], list[str]]:
        """Channels that densities of some structures are contracted to.

        Parameters
        ----------
        species : tuple of int
            Atomic numbers, ascending.
        structures : sequence of ase.Atoms

        Returns
        -------
        constants : dict of str to ndarray
            For `descriptor`; none without `contraction`.
        notes : list of str
            How many channels are left, and what they leave out.
        """
        if self.contraction is None:
            return {}, []
        soap = SOAP(self, species)
        learned = learn_contraction(soap, structures, self.contraction, self.n_channels)
        found = ContractedSOAP(soap, learned)
        return found.to_arrays(), [found.describe()]

    def most_features(self, n_species: int) -> int:
        """Number of features there can be of so many species, before a contraction is learned.

        Parameters
        ----------
        n_species : int

        Returns
        -------
        int
        """
        n_l, n = self.l_max + 1, self.n_max * n_species
        if self.contraction is None:
            any_species = tuple(range(1, n_species + 1))
            return SOAP(self.changed(species_weighting=None), any_species).n_features
        if self.n_channels is not None:
            n = min(n, self.n_channels)
        return n_l * (n * (n + 1) // 2) + 1

    def kernel(self) -> DotProductKernel:
        """Dot product of unit power spectra to the power zeta.

        Returns
        -------
        DotProductKernel
        """
        return DotProductKernel(self.zeta, self.delta)

    def describe(self) -> list[str]:
        """Return the parameters in words, for reports.

        Returns
        -------
        list of str
        """
        return [
            f"SOAP r_cut {self.r_cut:.2f} Å, atoms as Gaussians of {self.sigma_atom:.2f} Å, "
            f"n_max {self.n_max}, l_max {self.l_max}, {compressed(self)}",
            f"kernel exponent zeta {self.zeta:g}, prior std delta {self.delta:.3g} eV; central "
            f"weight {self.central_weight:g}, cutoff power {self.cutoff_power:g}",
        ]


def compressed(term: Any) -> str:
    """How a term's features are made fewer, in words."""
    if term.contraction is None:
        return f"compression {term.compression}"
    most = "" if term.n_channels is None else f", at most {term.n_channels}"
    return f"channels contracted down to shares of {term.contraction:g}{most}"


@dataclass(frozen=True)
class _State:
    """What the derivatives of a run of environments need.

    Attributes
    ----------
    batch : PairBatch
        Centers and pairs of the run, numbered from zero.
    coefficients : ndarray or ContractedDensity
        Density coefficients.
    first_atom, first_pair : int
        Where the run starts in the system.
    channels : tuple of int
        Density channels that have atoms, ascending.
    """

    batch: PairBatch
    coefficients: Any
    first_atom: int
    first_pair: int
    channels: tuple[int, ...]


@dataclass(frozen=True)
class SOAPDescriptor(OfAtoms):
    """Power spectra of all atoms; a `kernelpot.terms.base.Descriptor`.

    Parameters
    ----------
    soap : SOAP or ContractedSOAP
    """

    soap: SOAP | ContractedSOAP

    @property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers that may occur, ascending."""
        return self.soap.species

    @property
    def r_cut(self) -> float:
        """Radial cutoff [Å]."""
        return float(self.soap.term.r_cut)

    @property
    def n_features(self) -> int:
        """Number of features of one environment."""
        return self.soap.n_features

    def environments(self, system: System, atoms: slice) -> Environments:
        """Environments of a run of atoms."""
        first = system.pairs.first[atoms.start : atoms.stop + 1]
        p = slice(first[0], first[-1])
        z_index = system.z_index(self.species)
        batch, channels = self._pairs_of(system, atoms, first - p.start, p, z_index)
        coefficients: Any = self.soap.expansion(batch, 0, atoms.stop - atoms.start)
        return Environments(
            z_index[atoms],
            np.arange(atoms.start, atoms.stop),
            system.structure_of[atoms],
            self.soap.features(coefficients, channels),
            None,
            _State(batch, coefficients, atoms.start, int(p.start), channels),
        )

    def _pairs_of(
        self, system: System, atoms: slice, first: IntArray, p: slice, z_index: IntArray
    ) -> tuple[PairBatch, tuple[int, ...]]:
        """Pairs of a run of atoms, and the channels that have some; of few pairs remembered."""
        memo = system.pairs.memo if system.pairs.n_pairs <= MANY_PAIRS else {}
        known = memo.get(id(self))
        if (
            known is not None
            and known[0] is self
            and known[1] == atoms
            and np.array_equal(known[2], z_index)
        ):
            return replace(known[3], displacements=system.displacements[p]), known[4]
        batch = self.soap.pairs(
            first, system.pairs.neighbors[p], system.displacements[p], z_index, atoms
        )
        channels = self.soap.present_channels(batch)
        memo[id(self)] = self, atoms, z_index, batch, channels
        return batch, channels

    def pull(
        self,
        system: System,
        environments: Environments,
        by_x: FloatArray,
        by_weight: FloatArray | None,
        out: Contribution,
    ) -> None:
        """Add derivatives by the displacements of pairs; see `Descriptor.pull`."""
        state = environments.state
        gradient = out.gradient[state.first_pair : state.first_pair + len(state.batch.channels)]
        self.soap.pair_gradients(
            state.batch, 0, len(environments), state.coefficients, by_x, gradient, state.channels
        )

    def pull_members(
        self, system: System, environments: Environments, by_x: SingleArray, gradients: SingleArray
    ) -> None:
        """The same of several scalars; see `PullsMembers`."""
        state = environments.state
        some = gradients[state.first_pair : state.first_pair + len(state.batch.channels)]
        self.soap.members_gradients(
            state.batch, 0, len(environments), state.coefficients, by_x, some, state.channels
        )

    def add_rows(
        self,
        system: System,
        environments: Environments,
        chosen: IntArray,
        gradient: RowGradient,
        force_rows: FloatArray,
        virial_rows: FloatArray,
    ) -> None:
        """Add to rows of forces and virials; see `Descriptor.add_rows`.

        A neighbor changes only those features that its own species enters: pairs are
        taken channel by channel.
        """
        points = len(gradient.points)
        last, points_t = None, np.empty((0, 0))
        for pairs, rows, columns, jacobian in self.jacobians(
            system, environments, chosen, 24.0 * points
        ):
            if columns is not last:
                last, points_t = columns, gradient.points.T[columns]
            add_pair_rows(
                system,
                pairs,
                rows,
                jacobian,
                gradient,
                columns,
                points_t,
                force_rows,
                virial_rows,
            )

    def jacobians(
        self,
        system: System,
        environments: Environments,
        chosen: IntArray,
        bytes_per_pair: float = 0.0,
    ) -> Iterator[tuple[IntArray, IntArray, IntArray, FloatArray]]:
        """Derivatives of features of some environments by the displacements of their pairs.

        Channel by channel, those of a center together, a few megabytes at a time.

        Parameters
        ----------
        system : System
        environments : Environments
            Of this descriptor.
        chosen : ndarray of shape (n,)
            The environments that are wanted.
        bytes_per_pair : float
            What the caller needs beside the derivatives.

        Yields
        ------
        pairs : ndarray of shape (n_pairs,)
            In the system.
        rows : ndarray of shape (n_pairs,)
            Place of their centers' environments in `chosen`.
        columns : ndarray of shape (n_some,)
            Features that a neighbor of this channel enters.
        jacobian : ndarray of shape (n_pairs, 3, n_some)
        """
        soap, state = self.soap, environments.state
        batch = state.batch
        row_of = np.full(len(environments), -1)
        row_of[chosen] = np.arange(len(chosen))
        run = slice(state.first_pair, state.first_pair + len(batch.channels))
        center = system.pairs.centers[run] - state.first_atom
        mine = np.flatnonzero((system.distances[run] < self.r_cut) & (row_of[center] >= 0))
        for channel in np.unique(batch.channels[mine]):
            touched = soap.touched_features(int(channel))
            found = mine[batch.channels[mine] == channel]
            for p in chunks_of(found, 24 * len(touched) + bytes_per_pair):
                jacobian = soap.jacobian(
                    batch, p, center[p], state.coefficients, channel=int(channel)
                )
                yield p + run.start, row_of[center[p]], touched, jacobian

    def pair_jacobian(
        self, system: System, environments: Environments
    ) -> Callable[[IntArray], FloatArray]:
        """Function that gives the derivatives of all features by displacements of some pairs.

        Parameters
        ----------
        system : System
        environments : Environments
            Of all atoms of the system.

        Returns
        -------
        callable
            From pairs, shape (n,), to (n, 3, n_features).
        """
        state = environments.state
        centers = system.pairs.centers

        def jacobian(pairs: IntArray) -> FloatArray:
            return self.soap.jacobian(state.batch, pairs, centers[pairs], state.coefficients)

        return jacobian

    def tangents(self, system: System, environments: Environments) -> CenterTangents:
        """How coordinates move the environments; see `Descriptor.tangents`."""
        return CenterTangents(system, self.r_cut, self.pair_jacobian(system, environments))

    def to_arrays(self) -> dict[str, Array]:
        """Constants of the radial basis, and of the contraction if there is one."""
        return self.soap.to_arrays()
