"""The SOAP power spectrum: defined by dscribe, differentiated by compiled loops.

`SOAP` is the power spectrum of a `SOAPTerm` for given species: `SOAP.create` asks dscribe,
`SOAP.expansion` and what follows evaluate the identical features with analytic
derivatives (dscribe 2.1 has none for periodic systems or weighted densities).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from kernelpot.common.caller import warn_user
from kernelpot.common.types import Array, BoolArray, FloatArray, IntArray, SingleArray
from kernelpot.terms import _soap, _soap_members
from kernelpot.terms._soap_vector import prefactor

if TYPE_CHECKING:
    from kernelpot.terms.soap import SOAPTerm

# Radial functions are cubic Hermite tables: at this many knots the features differ
# from the analytic ones by less than 1e-10 relative.
N_KNOTS = 1501
# Numbers in a cache line, and in arrays that are worth it to begin with one.
CACHE_LINE, LARGE = 8, 20_000
# Sets of species that are present, of which blocks are kept.
MAX_PRESENT = 64


@dataclass(frozen=True)
class PairBatch:
    """Pairs of a run of centers in the form the compiled loops take.

    Built once per structure or batch of structures by `SOAP.pairs`; `displacements`
    may be replaced (same pairs, moved atoms).
    """

    first: IntArray
    displacements: FloatArray
    channels: IntArray
    weights: FloatArray
    center_channels: IntArray
    center_values: FloatArray


def aligned(shape: tuple[int, ...]) -> FloatArray:
    """Memory for an array that begins where a cache line does: vectors of it then do not cross."""
    n = math.prod(shape)
    if n < LARGE:  # it costs more than it saves
        return np.empty(shape)
    room = np.empty(n + CACHE_LINE)
    skipped = -(room.ctypes.data // room.itemsize) % CACHE_LINE
    return room[skipped : skipped + n].reshape(shape)


# Why vector code does not compile here; one failure speaks for all sizes.
_vector_failures: list[str] = []
_compiling = threading.Lock()


def _compiles(size: tuple[int, ...], degrees: tuple[int, ...]) -> bool:
    """Whether vector code of this size compiles (or is cached); a warning if it does not.

    The code is generated with llvmlite, whose interface is that of LLVM and changes with it.
    """
    n_max, n_l = len(size), len(degrees)
    index, numbers = np.zeros(1, dtype=np.int64), np.zeros(0)
    # no pairs and no centers: the compilation is all that happens
    pairs = (index, np.zeros((0, 3)), index[:0], numbers, 0, 0)
    rows = np.zeros((0, 1, n_l * n_l, n_max))
    table = np.zeros((2, 2, n_l, n_max))
    with _compiling:
        if _vector_failures:
            return False
        try:
            centers = (index[:0], np.zeros((0, n_max)), -1, 1.0)
            _soap.expand_vector(*pairs, *centers, table, size, degrees, rows)
            _soap.pair_gradients_vector(*pairs, 1.0, table, size, degrees, rows, np.zeros((0, 3)))
        except Exception as error:  # numba, llvmlite and LLVM have their own
            _vector_failures.append(repr(error))
            warn_user(
                "the vector code of SOAP does not compile with this version of numba or "
                "llvmlite; plain loops do the same work more slowly. The error was "
                f"{type(error).__name__}: {str(error)[:500]}",
                RuntimeWarning,
            )
            return False
    return True


@dataclass(frozen=True)
class SOAP:
    """The power spectrum of one `SOAPTerm` for a fixed set of species.

    Parameters
    ----------
    term : SOAPTerm
        Hyper-parameters.
    species : tuple of int
        Atomic numbers that may occur, ascending.
    specialize : bool, default=True
        Vector code for this `n_max` and `l_max` (fastest; compiled once per size, some
        seconds); plain loops, with a warning, where it does not compile. False: plain
        loops, one compilation for all sizes.
    basis : (alphas, betas), optional
        Constants of the radial basis, as from an earlier `basis_constants`. They come
        out of an ill-conditioned matrix square root and differ between machines in
        the tenth digit: a stored model carries its own.

    Raises
    ------
    ValueError
        If species are not ascending, or one has no weight in the term's
        `species_weighting`.
    """

    term: SOAPTerm
    species: tuple[int, ...]
    specialize: bool = True
    basis: tuple[FloatArray, FloatArray] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check that species are sorted and weights complete."""
        if list(self.species) != sorted(set(self.species)) or not self.species:
            raise ValueError(f"`species` must be ascending atomic numbers, got {self.species}")
        weighting = self.term.species_weighting
        if weighting is not None:
            missing = set(self.symbols) - set(weighting)
            if missing:
                raise ValueError(
                    f"`species_weighting` must have a weight for {sorted(missing)}, "
                    f"got {dict(weighting)}"
                )

    @property
    def symbols(self) -> list[str]:
        """Chemical symbols of `species`."""
        return [chemical_symbols[z] for z in self.species]

    # ---- the definition: dscribe -------------------------------------------------

    @cached_property
    def _definition(self) -> tuple[Any, Any]:
        """Dscribe's object for free and for periodic systems."""
        from dscribe.descriptors import SOAP as DscribeSOAP

        term = self.term
        weighting = term.species_weighting
        if weighting is not None:
            weighting = {s: float(weighting[s]) for s in self.symbols}

        def define(periodic: bool) -> Any:
            # dscribe edits the dict it is given: a new one every time
            density = {
                "function": "poly",
                "r0": term.r_cut,
                "c": 1,
                "m": term.cutoff_power,
                "w0": term.central_weight,
            }
            return DscribeSOAP(
                species=self.symbols,
                r_cut=float(term.r_cut),
                n_max=term.n_max,
                l_max=term.l_max,
                sigma=float(term.sigma_atom),
                rbf="gto",
                weighting=density,
                compression={"mode": term.compression, "species_weighting": weighting},
                periodic=periodic,
            )

        return define(False), define(True)

    @cached_property
    def n_features(self) -> int:
        """Number of features of one environment."""
        return self._layout[1]

    def create(self, atoms: Atoms, centers: Sequence[int] | None = None) -> FloatArray:
        """Features from dscribe, scaled so that dot products are overlaps.

        dscribe lists unordered feature pairs once; pairs of different radial
        functions or species are multiplied by sqrt(2) here (`feature_scale`).

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
        periodic = bool(np.any(atoms.pbc))
        wanted = None if centers is None else [int(i) for i in centers]
        bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell.complete(), pbc=atoms.pbc)
        bare.wrap()  # dscribe misses neighbors of atoms outside the cell
        features = self._definition[periodic].create(bare, centers=wanted)
        return np.asarray(features).reshape(-1, self.n_features) * self.feature_scale

    # ---- the layout of the power spectrum ------------------------------------------

    @cached_property
    def _channel_of(self) -> IntArray:
        """Density channel of each species."""
        if self.term.compression == "mu2":
            return np.zeros(len(self.species), dtype=np.int64)
        return np.arange(len(self.species), dtype=np.int64)

    @property
    def _n_densities(self) -> int:
        return 1 if self.term.compression == "mu2" else len(self.species)

    @property
    def _sum_channel(self) -> int:
        return self._n_densities if self.term.compression == "mu1nu1" else -1

    @property
    def n_channels(self) -> int:
        """Density channels, the sum over species of mu1nu1 included."""
        return self._n_densities + (self.term.compression == "mu1nu1")

    @cached_property
    def _layout(self) -> tuple[IntArray, int]:
        """Channel pairs with their first feature, and the number of features."""
        n_l, n = int(self.term.l_max) + 1, int(self.term.n_max)
        last = self._n_densities
        mode = self.term.compression
        if mode == "mu1nu1":
            pairs = [(a, self._sum_channel) for a in range(last)]
        elif mode == "crossover":
            pairs = [(a, a) for a in range(last)]
        else:
            pairs = [(a, b) for a in range(last) for b in range(a, last)]
        blocks, start = [], 0
        for a, b in pairs:
            blocks.append((a, b, start))
            start += n_l * (n * (n + 1) // 2 if a == b else n * n)
        return np.array(blocks, dtype=np.int64), start

    @cached_property
    def _blocks(self) -> tuple[IntArray, FloatArray]:
        """Channel pairs with their first feature, and the factor of each."""
        blocks, _ = self._layout
        # Ordered pairs are all present in mu1nu1; elsewhere each stands for two.
        factor = 1.0 if self.term.compression == "mu1nu1" else math.sqrt(2.0)
        return blocks, np.full(len(blocks), factor)

    @cached_property
    def _present(self) -> dict[tuple[int, ...], tuple[IntArray, FloatArray]]:
        """`_blocks` of the channels that have atoms."""
        return {}

    def _blocks_of(self, channels: tuple[int, ...] | None) -> tuple[IntArray, FloatArray]:
        """`_blocks`, without those of channels that have no atoms; None for all."""
        if channels is None or len(channels) == self._n_densities:
            return self._blocks
        found = self._present.get(channels)
        if found is None:
            blocks, factor = self._blocks
            there = np.isin(blocks[:, :2], [*channels, self._sum_channel]).all(axis=1)
            found = np.ascontiguousarray(blocks[there]), factor[there]
            if len(self._present) >= MAX_PRESENT:
                self._present.clear()
            self._present[channels] = found
        return found

    def present_channels(self, batch: PairBatch) -> tuple[int, ...]:
        """Density channels that have atoms, centers included.

        Parameters
        ----------
        batch : PairBatch

        Returns
        -------
        tuple of int
            Ascending.
        """
        if self._n_densities == 1 and len(batch.center_channels):
            return (0,)
        counts = np.bincount(batch.channels, minlength=self._n_densities)
        counts[batch.center_channels] += 1
        return tuple(np.flatnonzero(counts).tolist())

    def present_features(self, channels: tuple[int, ...]) -> BoolArray:
        """Which features are of these density channels alone; all others are zero.

        Parameters
        ----------
        channels : tuple of int
            From `present_channels`.

        Returns
        -------
        ndarray of bool, shape (n_features,)
        """
        found = np.zeros(self.n_features, dtype=bool)
        blocks, _ = self._blocks
        there = np.isin(blocks[:, :2], [*channels, self._sum_channel]).all(axis=1)
        ends = np.append(blocks[1:, 2], self.n_features)
        for start, end in zip(blocks[there, 2], ends[there], strict=True):
            found[start:end] = True
        return found

    @cached_property
    def _touched(self) -> list[tuple[IntArray, FloatArray, IntArray]]:
        """Per density channel: blocks a neighbor in it changes, renumbered, and their features."""
        blocks, factor = self._blocks
        ends = np.append(blocks[1:, 2], self.n_features)
        found = []
        for channel in range(self._n_densities):
            hit = np.isin(blocks[:, :2], [channel, self._sum_channel]).any(axis=1)
            columns = [np.arange(b[2], end) for b, end in zip(blocks[hit], ends[hit], strict=True)]
            renumbered = blocks[hit]
            renumbered[:, 2] = np.cumsum([0, *map(len, columns)])[:-1]
            found.append((renumbered, factor[hit], np.concatenate(columns)))
        return found

    @cached_property
    def scale_l(self) -> FloatArray:
        """Weight of each degree in the power spectrum, shape (l_max + 1,)."""
        degrees = np.arange(self.term.l_max + 1)
        return np.pi * np.sqrt(8.0 / (2.0 * degrees + 1.0))

    @cached_property
    def feature_scale(self) -> FloatArray:
        """Factor between dscribe's features and ours, shape (n_features,)."""
        blocks, factor = self._blocks
        n_l, n = int(self.term.l_max) + 1, int(self.term.n_max)
        parts = []
        for (a, b, _), f in zip(blocks, factor, strict=True):
            if a == b:
                row, column = np.triu_indices(n)
                parts.append(np.tile(np.where(row == column, 1.0, f), n_l))
            else:
                parts.append(np.full(n_l * n * n, f))
        return np.concatenate(parts)

    def products(self, features: FloatArray) -> FloatArray:
        r"""Power spectrum as symmetric matrices over channels, degree by degree.

        Parameters
        ----------
        features : ndarray of shape (n, n_features)
            From `create`; without compression.

        Returns
        -------
        ndarray of shape (n, l_max + 1, n_species n_max, n_species n_max)
            :math:`s_l \sum_m c_{lm} c_{lm}^\top`.
        """
        n_l, n = int(self.term.l_max) + 1, int(self.term.n_max)
        size = len(self.species) * n
        found = np.zeros((len(features), n_l, size, size))
        plain = features / self.feature_scale
        for a, b, start in self._layout[0]:
            if a == b:
                row, column = np.triu_indices(n)
            else:
                row, column = (index.ravel() for index in np.indices((n, n)))
            block = plain[:, start : start + n_l * len(row)].reshape(-1, n_l, len(row))
            found[:, :, a * n + row, b * n + column] = block
            found[:, :, b * n + column, a * n + row] = block
        return found

    def to_arrays(self) -> dict[str, Array]:
        """Constants of the radial basis, which differ between machines in the last digits.

        Returns
        -------
        dict of str to ndarray
        """
        alphas, betas = self.basis_constants
        return {"alphas": alphas, "betas": betas}

    # ---- tables --------------------------------------------------------------------

    @cached_property
    def basis_constants(self) -> tuple[FloatArray, FloatArray]:
        """Exponents (l, k) and mixing coefficients (l, n, k) of the radial basis."""
        if self.basis is not None:
            return self.basis
        basis = self._definition[0].get_basis_gto(
            float(self.term.r_cut), int(self.term.n_max), int(self.term.l_max)
        )
        return np.asarray(basis[0]), np.asarray(basis[1])

    def radial(self, r: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Radial functions R_nl(r) / r^l, cutoff weight included, and d/dr.

        Parameters
        ----------
        r : ndarray of shape (n_points,)
            Distances [Å].

        Returns
        -------
        value, derivative : ndarray of shape (n_points, l_max + 1, n_max)
        """
        term = self.term
        alphas, betas = self.basis_constants  # (l, k), (l, n, k)
        eta = 0.5 / term.sigma_atom**2
        width = 1.0 + alphas / eta
        exponent = alphas / width
        degrees = np.arange(term.l_max + 1)[:, None]
        amplitude = (np.pi / eta) ** 1.5 * width ** (-(degrees + 1.5))
        gauss = amplitude * np.exp(-exponent * (r**2)[:, None, None])
        value = np.einsum("lnk,plk->pln", betas, gauss)
        slope = np.einsum("lnk,plk->pln", betas, -2.0 * exponent * r[:, None, None] * gauss)
        x = np.minimum(r / term.r_cut, 1.0)
        base = 1.0 + x * x * (2.0 * x - 3.0)
        weight = base**term.cutoff_power
        d_weight = (
            term.cutoff_power * base ** (term.cutoff_power - 1.0) * 6.0 * x * (x - 1.0)
        ) / term.r_cut
        w, dw = weight[:, None, None], d_weight[:, None, None]
        return w * value, w * slope + dw * value

    @cached_property
    def radial_table(self) -> FloatArray:
        """Radial functions and their slopes, (n_knots, 2, l_max + 1, n_max), for the loops."""
        r = np.linspace(0.0, self.term.r_cut, N_KNOTS)
        value, slope = self.radial(r)
        table = aligned((N_KNOTS, 2, *value.shape[1:]))
        table[:, 0], table[:, 1] = value, slope * r[1]
        return table

    @cached_property
    def _center_value(self) -> FloatArray:
        """What a central atom of unit species weight adds to c_{n, l=0}."""
        value, _ = self.radial(np.zeros(1))
        return self.term.central_weight * value[0, 0] / math.sqrt(4.0 * np.pi)

    @cached_property
    def prefactor_q(self) -> FloatArray:
        """Normalization of the harmonics, shape ((l_max + 1)^2,)."""
        degrees = range(int(self.term.l_max) + 1)
        return np.array([prefactor(l, abs(m)) for l in degrees for m in range(-l, l + 1)])

    @cached_property
    def size(self) -> int | tuple[int, ...]:
        """`n_max` as the compiled loops take it: a tuple of that length where specialized."""
        n = int(self.term.n_max)
        return (0,) * n if self.degrees is not None else n

    @cached_property
    def degrees(self) -> tuple[int, ...] | None:
        """Tuple of length l_max + 1 for the vector code, None for the plain loops."""
        import numba

        if not self.specialize or getattr(numba.config, "DISABLE_JIT", False):
            return None
        size, degrees = (0,) * int(self.term.n_max), (0,) * (int(self.term.l_max) + 1)
        return degrees if _compiles(size, degrees) else None

    @cached_property
    def _species_weight(self) -> FloatArray:
        weighting = self.term.species_weighting
        if weighting is None:
            return np.ones(len(self.species))
        return np.array([float(weighting[s]) for s in self.symbols])

    # ---- evaluation ----------------------------------------------------------------

    def pairs(
        self,
        first: IntArray,
        neighbors: IntArray,
        displacements: FloatArray,
        species_index: IntArray,
        centers: slice = slice(None),
    ) -> PairBatch:
        """Prepare the pairs of a neighbor list, or of a run of its centers.

        Parameters
        ----------
        first : ndarray of shape (n_centers + 1,)
            Pairs of each center, as in `NeighborList`.
        neighbors : ndarray of shape (n_pairs,)
            Index of the neighboring atom of each pair.
        displacements : ndarray of shape (n_pairs, 3)
            Vectors from center to neighbor [Å].
        species_index : ndarray of shape (n_atoms,)
            Index of each atom's species in `species`.
        centers : slice
            Which atoms the centers are; all by default.

        Returns
        -------
        PairBatch
        """
        weight = self._species_weight[species_index]
        channels = self._channel_of[species_index]
        return PairBatch(
            first=first,
            displacements=np.ascontiguousarray(displacements),
            channels=channels[neighbors],
            weights=weight[neighbors],
            center_channels=channels[centers],
            center_values=weight[centers, None] * self._center_value,
        )

    def expansion(self, batch: PairBatch, start: int, stop: int) -> FloatArray:
        """Density coefficients of centers ``start .. stop - 1``.

        Parameters
        ----------
        batch : PairBatch
            The pairs.
        start, stop : int
            Range of centers.

        Returns
        -------
        ndarray of shape (stop - start, n_channels, (l_max + 1)^2, n_max)
        """
        term = self.term
        shape = (stop - start, self.n_channels, (term.l_max + 1) ** 2, int(term.n_max))
        coefficients = aligned(shape)
        common = (
            batch.first,
            batch.displacements,
            batch.channels,
            batch.weights,
            start,
            stop,
            batch.center_channels,
            batch.center_values,
            self._sum_channel,
            float(term.r_cut),
            self.radial_table,
            self.size,
        )
        if self.degrees is not None:
            _soap.expand_vector(*common, self.degrees, coefficients)
        else:
            _soap.expand(*common, int(term.l_max), self.prefactor_q, coefficients)
        return coefficients

    def features(
        self, coefficients: FloatArray, channels: tuple[int, ...] | None = None
    ) -> FloatArray:
        """Power spectrum, equal to `create`.

        Parameters
        ----------
        coefficients : ndarray of shape (n_centers, n_channels, (l_max + 1)^2, n_max)
            From `expansion`.
        channels : tuple of int, optional
            Density channels that have atoms, if not all: nothing is done for the others.

        Returns
        -------
        ndarray of shape (n_centers, n_features)
        """
        blocks, factor = self._blocks_of(channels)
        room = np.empty if len(blocks) == len(self._blocks[0]) else np.zeros
        features = room((len(coefficients), self.n_features))
        coefficients = np.ascontiguousarray(coefficients)
        _soap.power_spectrum(coefficients, blocks, factor, self.scale_l, self.size, features)
        return features

    def pair_gradients(
        self,
        batch: PairBatch,
        start: int,
        stop: int,
        coefficients: FloatArray,
        cotangent: FloatArray,
        gradient: FloatArray,
        channels: tuple[int, ...] | None = None,
    ) -> None:
        """Add the gradient of ``sum(cotangent * features)`` to each pair's row.

        Parameters
        ----------
        batch : PairBatch
            The pairs.
        start, stop : int
            Range of centers, as given to `expansion`.
        coefficients : ndarray of shape (stop - start, n_channels, (l_max + 1)^2, n_max)
            What `expansion` returned for them.
        cotangent : ndarray of shape (stop - start, n_features)
            Derivative of a scalar with respect to the features.
        gradient : ndarray of shape (n_pairs, 3)
            Receives, by addition, the derivative with respect to the displacements.
        channels : tuple of int, optional
            As for `features`.
        """
        blocks, factor = self._blocks_of(channels)
        coefficients = np.ascontiguousarray(coefficients)
        adjoint = np.empty_like(coefficients)
        _soap.power_spectrum_adjoint(
            coefficients,
            cotangent,
            blocks,
            factor,
            self.scale_l,
            self.size,
            self._sum_channel,
            adjoint,
        )
        self.pull(batch, start, stop, adjoint, gradient)

    def pull(
        self,
        batch: PairBatch,
        start: int,
        stop: int,
        adjoint: FloatArray,
        gradient: FloatArray,
    ) -> None:
        """Add derivatives by displacements, given those by the density coefficients.

        Parameters
        ----------
        batch : PairBatch
        start, stop : int
            Range of centers.
        adjoint : ndarray of shape (stop - start, n_channels, (l_max + 1)^2, n_max)
            Derivative of a scalar by their coefficients.
        gradient : ndarray of shape (n_pairs, 3)
            Receives, by addition, the derivative with respect to the displacements.
        """
        common = (
            batch.first,
            batch.displacements,
            batch.channels,
            batch.weights,
            start,
            stop,
            float(self.term.r_cut),
            self.radial_table,
            self.size,
        )
        if self.degrees is not None:
            _soap.pair_gradients_vector(*common, self.degrees, adjoint, gradient)
        else:
            _soap.pair_gradients(*common, int(self.term.l_max), self.prefactor_q, adjoint, gradient)

    def members_gradients(
        self,
        batch: PairBatch,
        start: int,
        stop: int,
        coefficients: FloatArray,
        cotangents: SingleArray,
        gradients: SingleArray,
        channels: tuple[int, ...] | None = None,
    ) -> None:
        """`pair_gradients` of several scalars, which share all that does not depend on them.

        In single precision: relative to the largest, errors are some 1e-6.

        Parameters
        ----------
        batch : PairBatch
        start, stop : int
        coefficients : ndarray
            As there.
        cotangents : ndarray of float32, shape (stop - start, n_features, n_members)
        gradients : ndarray of float32, shape (n_pairs, 3, n_members)
            Receives, by addition, their derivatives with respect to the displacements.
        channels : tuple of int, optional
            As there.
        """
        if self.degrees is None:
            for m in range(cotangents.shape[2]):
                own = np.zeros(gradients.shape[:2])
                cotangent = cotangents[:, :, m].astype(float)
                self.pair_gradients(batch, start, stop, coefficients, cotangent, own, channels)
                gradients[:, :, m] += own
            return
        blocks, factor = self._blocks_of(channels)
        geometry = (start, stop, float(self.term.r_cut), self.radial_table, self.size, self.degrees)
        if len(self._blocks[0]) == 1 and self.n_channels == 1:
            _soap_members.members_gradients_lanes(
                batch.first,
                batch.displacements,
                batch.weights,
                *geometry,
                coefficients,
                cotangents,
                factor,
                self.scale_l,
                gradients,
            )
            return
        _soap_members.members_gradients_vector(
            batch.first,
            batch.displacements,
            batch.channels,
            batch.weights,
            *geometry,
            coefficients,
            cotangents,
            blocks,
            factor,
            self.scale_l,
            self._sum_channel,
            gradients,
        )

    def touched_features(self, channel: int) -> IntArray:
        """Features that a neighbor in a density channel enters.

        Parameters
        ----------
        channel : int
            Of `PairBatch.channels`: the species index, 0 for all with mu2.

        Returns
        -------
        ndarray of int
            Ascending.
        """
        return self._touched[channel][2]

    def jacobian(
        self,
        batch: PairBatch,
        pairs: IntArray,
        center_rows: IntArray,
        coefficients: FloatArray,
        out: FloatArray | None = None,
        *,
        channel: int | None = None,
    ) -> FloatArray:
        """Derivatives of the center's features with respect to displacements.

        A neighbor changes those features only that its own species enters: with several
        species more than half of the derivatives are zero. Given the `channel` of all
        the pairs, the others are left out.

        Parameters
        ----------
        batch : PairBatch
            The pairs.
        pairs : ndarray of shape (n,)
            Indices of the wanted pairs.
        center_rows : ndarray of shape (n,)
            Row of `coefficients` that belongs to the center of each.
        coefficients : ndarray of shape (n_rows, n_channels, (l_max + 1)^2, n_max)
            From `expansion`.
        out : ndarray of shape (n, 3, n_features), optional
            Receives the result.
        channel : int, optional
            Density channel of the neighbors of all `pairs` (``batch.channels``); only
            the features of `touched_features` are then formed.

        Returns
        -------
        ndarray of shape (n, 3, n_features)
        """
        (blocks, factor), n_features = self._blocks, self.n_features
        if channel is not None:
            blocks, factor, columns = self._touched[channel]
            n_features = len(columns)
        if out is None:
            out = np.empty((len(pairs), 3, n_features))
        _soap.jacobian(
            pairs,
            center_rows,
            batch.displacements,
            batch.channels,
            batch.weights,
            float(self.term.r_cut),
            self.radial_table,
            self.size,
            int(self.term.l_max),
            self.prefactor_q,
            coefficients,
            blocks,
            factor,
            self.scale_l,
            self._sum_channel,
            out,
        )
        return out
