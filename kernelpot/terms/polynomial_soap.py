"""Polynomials of compressed SOAP: exact features of the kernel in place of sparse points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

from ase import Atoms

from kernelpot.common.types import Array
from kernelpot.terms.compression import (
    MAX_DIRECTIONS,
    CompressedDescriptor,
    directions_from_arrays,
    directions_to_arrays,
    learn_directions,
    notes_of,
)
from kernelpot.terms.parameters import (
    N_SPARSE_RANGE,
    Range,
    TermBase,
    require,
    require_number,
)
from kernelpot.terms.polynomial import DEGREES, PolynomialKernel
from kernelpot.terms.soap import SOAPDescriptor, SOAPTerm, compressed

# Monomials for each sparse point that a term of another kind would have; the mean of a whole
# form does not hang on their number: two, and no more than so many.
MONOMIALS = 3
MONOMIALS_OF_WHOLE = 2
MAX_OF_WHOLE = 3000


@dataclass(frozen=True)
class PolynomialSOAP(TermBase):
    r"""Polynomials of SOAP features along directions that are learned from the data.

    The power spectrum is compressed to the leading directions of its values and derivatives in
    the training data (`kernelpot.terms.compression`) [2]_, each stretched by
    :math:`(s_a/s_0)^{-\nu}`, s being their root mean squares, and normalized to unit length
    together with what the directions leave. Local energies are polynomials of the result with
    independent weights: the kernel :math:`\delta^2 (\hat x \cdot \hat x')^\zeta` by its exact
    features, the monomials of degree :math:`\zeta` [1]_. Those whose values vary most are
    columns of the regression in place of sparse points; the others, and whatever lies outside
    of the directions, count as not known in every variance. A local energy costs as much as
    its features, whatever the number of monomials: of the second degree it is
    :math:`\hat x^\top B \hat x`. The first degree is a linear model of the power spectrum.

    Parameters
    ----------
    r_cut : float
        Radial cutoff [Å]; must exceed 1 Å.
    degree : {1, 2, 3}
        :math:`\zeta`.
    n_max : int, default=6
        Number of radial functions.
    l_max : int, default=4
        Largest degree of the spherical harmonics.
    sigma_atom : float, default=0.45
        Width of the Gaussian that stands for one atom [Å].
    n_directions : int or None, default=None
        Directions kept of each species, at most. None: 200. Fewer where the data have no
        more.
    whitening : float, default=0.3
        :math:`\nu`, from 0 (directions as they are) to 1 (all alike).
    mean_weight : float, default=2.0
        :math:`\mu`, a factor of the first direction, the mean environment: the weight of the
        constant and linear parts of the polynomial; positive.
    delta : float, default=1.0
        Prior standard deviation of a local energy [eV].
    n_sparse : int or None, default=None
        Monomials, all species together. None: three for each sparse point that a term of
        another kind would have (of a whole form two, up to 3,000), or as many as there are.
    full : bool, default=False
        Of degree 2: let the mean have all monomials of the directions, those without a column
        of the regression too (`kernelpot.fit.full_mean`). Variances stay those of the columns.
    cutoff_power : float, default=2
        As in `SOAPTerm`.
    central_weight : float, default=1.0
        Weight of the central atom in its own density; positive. At 1 forces of molecules are
        best (ethanol, 200 frames: 13.6 meV/Å against 16.8 at 0.2), but free atoms are much like
        stretched dimers; a smaller weight tells them apart.
    compression : {"off", "mu1nu1", "mu2", "crossover"}, default="off"
        How features are shared between neighbor species before they are compressed.
    contraction : float, optional
        As in `SOAPTerm`: channels of the density are mixed before there are features.
    n_channels : int, optional
        As in `SOAPTerm`.
    species_weighting : mapping of symbol to float, optional
        Weight of each neighbor species in the density.
    sparse_method : {"farthest_point", "cur", "kmeans", "random"}
        How those environments are chosen that are asked to share energy alike.

    Raises
    ------
    ValueError
        If a value is out of range; the message names it.

    References
    ----------
    .. [1] Thompson, Swiler, Trott, Foiles, Tucker, J. Comput. Phys. 285, 316 (2015): degree 1;
       Wood, Thompson, J. Chem. Phys. 148, 241721 (2018): degree 2.
    .. [2] Constantine, Dow, Wang, SIAM J. Sci. Comput. 36, A1500 (2014).
    """

    r_cut: float
    degree: int = 2
    n_max: int = 6
    l_max: int = 4
    sigma_atom: float = 0.45
    n_directions: int | None = None
    whitening: float = 0.3
    mean_weight: float = 2.0
    delta: float = 1.0
    n_sparse: int | None = None
    full: bool = False
    cutoff_power: float = 2.0
    central_weight: float = 1.0
    compression: str = "off"
    contraction: float | None = None
    n_channels: int | None = None
    species_weighting: Mapping[str, float] | None = None
    sparse_method: str = "farthest_point"

    kind: ClassVar[str] = "polynomial"

    def __post_init__(self) -> None:
        """Check every value once, before any work starts."""
        super().__post_init__()
        require_number("degree", self.degree)
        require(self.degree in DEGREES, "degree", "1, 2 or 3", self.degree)
        object.__setattr__(self, "degree", int(self.degree))
        require(isinstance(self.full, bool), "full", "True or False", self.full)
        require(self.degree == 2 or not self.full, "full", "False unless degree is 2", self.full)
        require_number("whitening", self.whitening)
        require(0 <= self.whitening <= 1, "whitening", "from 0 to 1", self.whitening)
        require_number("mean_weight", self.mean_weight)
        require(self.mean_weight > 0, "mean_weight", "positive", self.mean_weight)
        if self.n_directions is not None:
            require_number("n_directions", self.n_directions)
            whole = int(self.n_directions) == self.n_directions >= 1
            require(whole, "n_directions", "a positive integer or None", self.n_directions)
            object.__setattr__(self, "n_directions", int(self.n_directions))
        soap = self.soap  # its values are checked there
        for name in ("n_max", "l_max", "n_channels"):  # 6.0, as numbers in files may be
            object.__setattr__(self, name, getattr(soap, name))

    @property
    def soap(self) -> SOAPTerm:
        """The features, as a term of their own."""
        own = {field.name for field in fields(SOAPTerm)} & {field.name for field in fields(self)}
        return SOAPTerm(zeta=self.degree, **{name: getattr(self, name) for name in own})

    @classmethod
    def example(cls, species: tuple[int, ...]) -> PolynomialSOAP:
        """A small term, to try things out with.

        Parameters
        ----------
        species : tuple of int
            Atomic numbers it will be used for.

        Returns
        -------
        PolynomialSOAP
        """
        return cls(r_cut=4.0, n_max=3, l_max=2, n_directions=12)

    @property
    def searched(self) -> Mapping[str, Range]:
        """Parameters that a search over kernels may change."""
        found = self.soap.searched
        return {
            **{name: found[name] for name in ("r_cut", "sigma_atom", "central_weight")},
            "degree": Range(1, values=(1, 3), integer=True, additive=True, by_default=False),
            "n_sparse": N_SPARSE_RANGE,
        }

    def default_n_sparse(self, usual: int, n_keys: int) -> int:
        """Monomials where `n_sparse` is None.

        Parameters
        ----------
        usual : int
            Sparse points of a term that names no number.
        n_keys : int
            Species that the data have.

        Returns
        -------
        int
        """
        if self.full:
            return min(MONOMIALS_OF_WHOLE * usual, max(usual, MAX_OF_WHOLE))
        return MONOMIALS * usual

    def most_features(self, n_species: int) -> int:
        """Number of features there can be before they are compressed.

        Parameters
        ----------
        n_species : int

        Returns
        -------
        int
        """
        return self.soap.most_features(n_species)

    def learned(
        self, species: tuple[int, ...], structures: Sequence[Atoms]
    ) -> tuple[dict[str, Array], list[str]]:
        """Directions that the features of some structures take.

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
            What the directions leave out.
        """
        constants, notes = self.soap.learned(species, structures)
        inner = self.soap.descriptor(species, constants or None)
        found = learn_directions(inner, structures, n_directions=self.n_directions)
        notes += notes_of(inner, found)
        return {**inner.to_arrays(), **directions_to_arrays(found)}, notes

    def descriptor(
        self, species: tuple[int, ...], constants: Mapping[str, Array] | None = None
    ) -> CompressedDescriptor:
        """Compressed power spectra of the environments of some species.

        Parameters
        ----------
        species : tuple of int
            Atomic numbers, ascending.
        constants : mapping, optional
            From `learned`, or of an earlier descriptor. Without directions among them every
            feature is one.

        Returns
        -------
        CompressedDescriptor
        """
        inner: SOAPDescriptor = self.soap.descriptor(species, constants)
        directions = directions_from_arrays(constants or {})
        return CompressedDescriptor(
            inner, directions, float(self.whitening), float(self.mean_weight)
        )

    def kernel(self) -> PolynomialKernel:
        """Monomials of unit features.

        Returns
        -------
        PolynomialKernel
        """
        return PolynomialKernel(self.degree, float(self.delta))

    def describe(self) -> list[str]:
        """Return the parameters in words, for reports.

        Returns
        -------
        list of str
        """
        name = ("linear", "quadratic", "cubic")[self.degree - 1]
        most = MAX_DIRECTIONS if self.n_directions is None else self.n_directions
        return [
            f"{name} in SOAP r_cut {self.r_cut:.2f} Å, atoms as Gaussians of "
            f"{self.sigma_atom:.2f} Å, n_max {self.n_max}, l_max {self.l_max}, {compressed(self)}",
            f"at most {most} learned directions, whitening {self.whitening:g}, mean weight "
            f"{self.mean_weight:g}, prior std delta {self.delta:.3g} eV; central "
            f"weight {self.central_weight:g}, cutoff power {self.cutoff_power:g}",
        ]
