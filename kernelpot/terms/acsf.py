"""Atom-centered symmetry functions (ACSF): sums over pairs and triplets around an atom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from ase import Atoms

from kernelpot.common.types import Array, FloatArray
from kernelpot.data.system import System
from kernelpot.terms import _acsf
from kernelpot.terms.base import Environments
from kernelpot.terms.of_atoms import OfAtoms
from kernelpot.terms.over_pairs import OverPairs, PairJacobian
from kernelpot.terms.parameters import (
    N_SPARSE_RANGE,
    Range,
    TermBase,
    require,
    require_number,
)
from kernelpot.terms.scaling import mean_and_scale, some_systems
from kernelpot.terms.stationary import FUNCTIONS, NAMES, StationaryKernel, require_function

# Where no structure says how close atoms come, in cutoffs.
CLOSEST = 0.35
# Parameters zeta and lambda of the default angular functions: [1]_ in `ACSFTerm`.
ZETAS, LAMBDAS = (1.0, 2.0, 4.0, 16.0), (-1.0, 1.0)
# Parameters of each kind of function.
WIDTHS = {"g2": 2, "g3": 1, "g4": 3, "g5": 3}

Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class ACSFTerm(TermBase):
    r"""Atom-centered symmetry functions [1]_, compared by a stationary kernel.

    Of an atom, for each species of its neighbors, with the cosine cutoff
    :math:`f(r) = [\cos(\pi r / r_c) + 1] / 2`:

    .. math::
        G^1 &= \sum_j f(r_{ij}), \qquad
        G^2 = \sum_j e^{-\eta (r_{ij} - R_s)^2} f(r_{ij}), \qquad
        G^3 = \sum_j \cos(\kappa r_{ij}) f(r_{ij})

    and for each pair of species, over pairs of neighbors,

    .. math::
        G^4 &= 2^{1-\zeta} \sum_{j<k} (1 + \lambda \cos\theta_{ijk})^\zeta
        e^{-\eta (r_{ij}^2 + r_{ik}^2 + r_{jk}^2)} f(r_{ij}) f(r_{ik}) f(r_{jk})

    :math:`G^5` being the same without :math:`r_{jk}`: all as dscribe's ``ACSF`` defines them, in
    its order. They are divided by their standard deviation in the data, and by the square root of
    their number, so that a length scale of one is the typical difference of two environments.

    Without parameters of one's own: `n_radial` Gaussians G2 from the shortest distance in the data
    to the cutoff, as wide as they are apart [2]_, and G4 of :math:`\zeta` 1, 2, 4, 16 and
    :math:`\lambda` -1, 1 for `n_angular` values of :math:`\eta`, whose Gaussians fall to 1/e
    between the shortest distance and the cutoff.

    Parameters
    ----------
    r_cut : float
        Cutoff [Å].
    n_radial, n_angular : int
        Radial functions for each species, and angular widths for each pair of species.
    g2 : sequence of (eta, R_s), optional
        [1/Å^2, Å]. None: as said above; ``()``: none. So for g4.
    g3 : sequence of (kappa,), optional
        [1/Å]. Default: none.
    g4, g5 : sequence of (eta, zeta, lambda), optional
        [1/Å^2]; zeta at least 1, lambda -1 or 1. Default of g5: none.
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
    .. [1] Behler, J. Chem. Phys. 134, 074106 (2011).
    .. [2] Gastegger, Schwiedrzik, Bittermann, Berzsenyi, Marquetand, J. Chem. Phys. 148, 241709
       (2018).
    """

    r_cut: float
    n_radial: int = 8
    n_angular: int = 2
    g2: Rows | None = None
    g3: Rows = ()
    g4: Rows | None = None
    g5: Rows = ()
    length_scale: float = 3.0
    delta: float = 1.0
    n_sparse: int | None = None
    sparse_method: str = "farthest_point"
    function: str = "gaussian"

    kind: ClassVar[str] = "acsf"

    def __post_init__(self) -> None:
        """Check every value once, before any work starts."""
        super().__post_init__()
        require_number("length_scale", self.length_scale)
        for name in ("r_cut", "length_scale"):
            require(getattr(self, name) > 0, name, "positive", getattr(self, name))
        for name, least in (("n_radial", 2), ("n_angular", 0)):
            value = getattr(self, name)
            require_number(name, value)
            require(int(value) == value >= least, name, f"an integer, at least {least}", value)
            object.__setattr__(self, name, int(value))
        for name, n in WIDTHS.items():
            rows = getattr(self, name)
            if rows is None:
                continue
            for row in rows:
                require(
                    isinstance(row, (tuple, list)) and len(row) == n,
                    name,
                    f"a sequence of rows of {n} numbers",
                    rows,
                )
                for value in row:
                    require_number(name, value)
                if n == 3:
                    require(row[1] >= 1, name, "of zeta at least 1 (the second number)", row)
                    require(row[2] in (-1, 1), name, "of lambda -1 or 1 (the third number)", row)
            rows = tuple(tuple(float(value) for value in row) for row in rows)
            object.__setattr__(self, name, rows)
        require_function(self.function)

    @classmethod
    def example(cls, species: tuple[int, ...]) -> ACSFTerm:
        """A small term, to try things out with.

        Parameters
        ----------
        species : tuple of int
            Atomic numbers it will be used for.

        Returns
        -------
        ACSFTerm
        """
        angular = ((0.02, 1.0, -1.0), (0.02, 2.5, 1.0))
        # not at a shell of a crystal: the cosine's curvature jumps at the cutoff
        return cls(r_cut=4.3, n_radial=3, g3=((1.5,),), g4=angular, g5=angular[1:])

    @property
    def searched(self) -> Mapping[str, Range]:
        """Parameters that a search over kernels may change."""
        return {
            "length_scale": Range(1.3, factors=(0.3, 5.0), of_features=False),
            "r_cut": Range(1.12, factors=(0.6, 1.6), minimum=1.0),
            "n_sparse": N_SPARSE_RANGE,
        }

    def _parameters(self, closest: float) -> dict[str, Array]:
        """Parameters of all functions, where the closest atoms are so far apart [Å]."""
        found: dict[str, Array] = {}
        for name, n in WIDTHS.items():
            rows = getattr(self, name)
            if rows is not None:
                found[name] = np.array(rows, dtype=float).reshape(-1, n)
        if "g2" not in found:
            centers, width = np.linspace(closest, self.r_cut, self.n_radial, False, retstep=True)
            found["g2"] = np.stack(
                [np.full(self.n_radial, 0.5 / float(width) ** 2), centers], axis=1
            )
        if "g4" not in found:
            reach = np.geomspace(closest, self.r_cut, self.n_angular + 1)[1:]
            found["g4"] = np.array(
                [(0.5 / r**2, z, s) for r in reach for z in ZETAS for s in LAMBDAS]
            ).reshape(-1, 3)
        return found

    def learned(
        self, species: tuple[int, ...], structures: Sequence[Atoms]
    ) -> tuple[dict[str, Array], list[str]]:
        """Parameters of functions, and how much each spreads in some structures.

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
            What they are.
        """
        systems = some_systems(structures, float(self.r_cut))
        closest = min(
            (float(s.distances.min()) for s in systems if len(s.distances)),
            default=CLOSEST * self.r_cut,
        )
        closest = min(closest, 0.9 * self.r_cut)
        parameters = self._parameters(closest)
        descriptor = SymmetryFunctions(species, float(self.r_cut), parameters)
        n = descriptor.n_features
        mean, scale = mean_and_scale(
            lambda system: descriptor.symmetry_functions(system, slice(0, system.n_atoms)),
            systems,
            species,
            n,
        )
        note = (
            f"{n} symmetry functions of an atom ({len(parameters['g2'])} G2, "
            f"{len(parameters['g3'])} G3 for each species, {len(parameters['g4'])} G4, "
            f"{len(parameters['g5'])} G5 for each pair), closest atoms {closest:.2f} Å"
        )
        return {**parameters, "mean": mean, "scale": scale}, [note]

    def descriptor(
        self, species: tuple[int, ...], constants: Mapping[str, Array] | None = None
    ) -> SymmetryFunctions:
        """Symmetry functions of the environments of some species.

        Parameters
        ----------
        species : tuple of int
            Atomic numbers, ascending.
        constants : mapping, optional
            From `learned`, or of an earlier descriptor. Without: functions for a typical
            closest distance, as they are but for their number.

        Returns
        -------
        SymmetryFunctions
        """
        if not constants:
            parameters = self._parameters(CLOSEST * self.r_cut)
            return SymmetryFunctions(species, float(self.r_cut), parameters)
        parameters = {name: constants[name] for name in WIDTHS}
        return SymmetryFunctions(
            species, float(self.r_cut), parameters, constants["mean"], constants["scale"]
        )

    def kernel(self) -> StationaryKernel:
        """Function of the distance of scaled symmetry functions.

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
        return [
            f"ACSF r_cut {self.r_cut:.2f} Å, "
            + ", ".join(
                f"{name.upper()} {'from the data' if rows is None else len(rows)}"
                for name, rows in ((name, getattr(self, name)) for name in WIDTHS)
            ),
            f"{NAMES[self.function]} kernel of length scale {self.length_scale:.3g} in spreads of "
            f"features, prior std delta {self.delta:.3g} eV",
        ]


@dataclass(frozen=True)
class SymmetryFunctions(OfAtoms, OverPairs):
    """Scaled symmetry functions of every atom; a `Descriptor`.

    Parameters
    ----------
    species : tuple of int
        Atomic numbers that may occur, ascending.
    r_cut : float
        [Å].
    parameters : mapping of str to ndarray
        Of G2, G3, G4, G5, by their names in `ACSFTerm`.
    mean, scale : ndarray of shape (n_species, n_features), optional
        What is subtracted from the functions, so that distances keep their digits, and what they
        are multiplied by; default zero, and the same for all.
    """

    species: tuple[int, ...]
    r_cut: float
    parameters: Mapping[str, Array]
    mean: FloatArray = field(default_factory=lambda: np.empty((0, 0)))
    scale: FloatArray = field(default_factory=lambda: np.empty((0, 0)))

    def __post_init__(self) -> None:
        """Fill in mean and scale."""
        if not self.scale.size:
            n = self.n_features
            object.__setattr__(self, "mean", np.zeros((len(self.species), n)))
            object.__setattr__(self, "scale", np.full((len(self.species), n), 1.0 / np.sqrt(n)))

    @property
    def n_features(self) -> int:
        """Functions of an atom."""
        n, p = len(self.species), self.parameters
        radial, angular = 1 + len(p["g2"]) + len(p["g3"]), len(p["g4"]) + len(p["g5"])
        return n * radial + n * (n + 1) // 2 * angular

    def _expand(self, system: System, atoms: slice, jacobian: FloatArray) -> FloatArray:
        pairs, p = system.pairs, self.parameters
        x = np.zeros((atoms.stop - atoms.start, self.n_features))
        _acsf.expand(
            pairs.first,
            atoms.start,
            atoms.stop,
            pairs.neighbors,
            system.displacements,
            system.distances,
            system.z_index(self.species),
            len(self.species),
            self.r_cut,
            p["g2"],
            p["g3"][:, 0],
            p["g4"],
            p["g5"],
            x,
            jacobian,
        )
        return x

    def symmetry_functions(self, system: System, atoms: slice) -> FloatArray:
        """The functions as they are, in the order of dscribe's ``ACSF.create``.

        Parameters
        ----------
        system : System
        atoms : slice
            A run of them.

        Returns
        -------
        ndarray of shape (n, n_features)
        """
        return self._expand(system, atoms, np.empty((0, 3, self.n_features)))

    def environments(self, system: System, atoms: slice) -> Environments:
        """Scaled functions of a run of atoms."""
        centers = np.arange(atoms.start, atoms.stop)
        key = system.z_index(self.species)[atoms]
        scale = self.scale[key]

        def jacobian() -> PairJacobian:
            first = system.pairs.first
            start, stop = int(first[atoms.start]), int(first[atoms.stop])
            by_x = np.zeros((stop - start, 3, self.n_features))
            self._expand(system, atoms, by_x)
            within = np.flatnonzero(system.distances[start:stop] < self.r_cut)
            owner = system.pairs.centers[start + within] - atoms.start
            by_x = by_x if len(within) == len(by_x) else by_x[within]
            by_x *= scale[owner, None]
            return PairJacobian(owner, start + within, by_x)

        x = (self.symmetry_functions(system, atoms) - self.mean[key]) * scale
        return Environments(key, centers, system.structure_of[atoms], x, None, jacobian)

    def to_arrays(self) -> dict[str, Array]:
        """Parameters of the functions, their mean and scale."""
        return {**self.parameters, "mean": self.mean, "scale": self.scale}
