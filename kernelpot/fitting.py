"""From labelled frames to sparse points, whitening and the triangular factor."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from ase import Atoms
from ase.data import chemical_symbols

from kernelpot.covariance import KernelTerm, Layout, covariance_rows
from kernelpot.dataset import Frame
from kernelpot.descriptors import SOAP, species_index
from kernelpot.kernels import DotProductKernel, normalize
from kernelpot.observations import Group, Noise, observe
from kernelpot.parallel import map_in_order, single_blas_thread
from kernelpot.regression import GroupedFactor, whitening
from kernelpot.selection import MINIMUM_PER_SPECIES, distinct, quotas, select
from kernelpot.terms import SOAPTerm

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
# energy, forces and virial (Voigt) that the kernels need not explain
KnownLabels = tuple[float, FloatArray, FloatArray]
Progress = Callable[[str, int, int], None]

# Selection sees at most so many environments per species, and so many bytes of features
# of all species together.
MAX_CANDIDATES = 50_000
MAX_CANDIDATE_BYTES = 600e6
# Prior standard deviation of the virial offset [eV/atom]: small against bonding, so
# that stresses count, yet overruled by data that contradict it by more.
VIRIAL_OFFSET_PRIOR = 0.05
# Rows of the design matrix built at a time hold at most about so many bytes.
BATCH_BYTES = 48e6


def canonical_order(data: Sequence[Frame]) -> list[Frame]:
    """Frames in an order that depends on their contents only.

    The same structures in another order, or from a renamed file, give the same model.
    """

    def digest(frame: Frame) -> bytes:
        h = hashlib.sha256()
        for array in (frame.atoms.numbers, frame.atoms.positions, frame.atoms.cell.array):
            h.update(np.ascontiguousarray(array).tobytes())
        h.update(repr((frame.energy, frame.config_type)).encode())
        return h.digest()

    return sorted(data, key=digest)


def fingerprint(frame: Frame) -> str:
    """Sixteen hexadecimal digits of a frame's structure and labels."""
    h = hashlib.sha256()
    labels = (frame.forces, frame.virial)
    atoms = frame.atoms
    for array in (atoms.numbers, atoms.positions, atoms.cell.array, *labels):
        h.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
    h.update(repr(frame.energy).encode())
    return h.hexdigest()[:16]


def candidate_environments(
    frames: Sequence[Frame],
    species: int,
    n_features: int,
    max_bytes: float,
    rng: np.random.Generator,
) -> list[tuple[int, IntArray]]:
    """Centers among which the sparse points of a species are chosen.

    Returns
    -------
    list of (frame index, atom indices)
        All centers of the species, or a random subset where they exceed the limits.
    """
    members = [np.flatnonzero(f.atoms.numbers == species) for f in frames]
    frame_of = np.repeat(np.arange(len(frames)), [len(m) for m in members])
    atom_of = np.concatenate(members)
    limit = max(1, min(MAX_CANDIDATES, int(max_bytes / (8 * n_features))))
    if len(atom_of) > limit:
        keep = np.sort(rng.choice(len(atom_of), limit, replace=False))
        frame_of, atom_of = frame_of[keep], atom_of[keep]
    return [(int(f), atom_of[frame_of == f]) for f in np.unique(frame_of)]


def choose_sparse_points(
    term: SOAPTerm,
    species: tuple[int, ...],
    frames: Sequence[Frame],
    *,
    given: Sequence[tuple[Atoms, int]] | None = None,
    default_n_sparse: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[KernelTerm, list[str]]:
    """Select the sparse points of one term from dscribe's features.

    Parameters
    ----------
    term : SOAPTerm
    species : tuple of int
    frames : sequence of Frame
        Training structures in canonical order.
    given : sequence of (atoms, center), optional
        Environments to use instead of selecting.
    default_n_sparse : int
        Sparse points where the term names no number; fewer if the data have fewer.
    seed : int
    progress : callable, optional

    Returns
    -------
    term : KernelTerm
    notes : list of str
        What the user should know (fewer distinct environments than the default).

    Raises
    ------
    ValueError
        If more sparse points are asked for than there are distinct environments.
    """
    soap = SOAP(term, species)
    kernel = DotProductKernel(term.zeta, term.delta)
    notes: list[str] = []
    if given is not None:
        sparse: dict[int, list[FloatArray]] = {}
        for atoms, center in given:
            z = int(species_index(atoms.numbers[[center]], species)[0])
            sparse.setdefault(z, []).append(soap.create(atoms, [center])[0])
        points = {z: normalize(np.array(rows))[0] for z, rows in sorted(sparse.items())}
        return KernelTerm(soap, kernel, points), notes

    rng = np.random.default_rng(seed)
    unit: dict[int, FloatArray] = {}
    for index, number in enumerate(species):
        chosen = candidate_environments(
            frames, number, soap.n_features, MAX_CANDIDATE_BYTES / len(species), rng
        )
        rows = np.empty((sum(len(c) for _, c in chosen), soap.n_features))
        start = 0
        for done, (f, centers) in enumerate(chosen):
            rows[start : start + len(centers)] = soap.create(frames[f].atoms, list(centers))
            start += len(centers)
            if progress is not None:
                progress(f"descriptors {chemical_symbols[number]}", done + 1, len(chosen))
        rows /= np.sqrt(np.einsum("ef,ef->e", rows, rows))[:, None]
        keep = distinct(rows)
        unit[index] = rows if len(keep) == len(rows) else rows[keep]
        del rows
    available = {z: len(rows) for z, rows in unit.items()}
    total = sum(available.values())
    wanted = term.n_sparse
    if wanted is None:
        wanted = min(default_n_sparse, total)
        if wanted < default_n_sparse:
            notes.append(
                f"{wanted} sparse points instead of {default_n_sparse}: the data have no "
                "more distinct environments"
            )
    elif wanted > total:
        raise ValueError(
            f"`n_sparse` = {wanted} exceeds the {total} distinct environments of the "
            f"data (r_cut {term.r_cut:g} Å); ask for fewer or leave it out"
        )
    share = quotas(wanted, available)
    if sum(share.values()) > wanted:
        notes.append(
            f"{sum(share.values())} sparse points instead of {wanted}: every species gets at "
            f"least {MINIMUM_PER_SPECIES}"
        )
    points = {}
    for z, rows in unit.items():
        if progress is not None:
            progress(f"sparse points {chemical_symbols[species[z]]}", 0, 1)
        picked = select(rows, share[z], term.sparse_method, seed=seed)
        points[z] = np.ascontiguousarray(rows[picked])
    return KernelTerm(soap, kernel, points), notes


@dataclass(frozen=True)
class Design:
    """Everything the rows of the regression need besides the data.

    The last column is not a kernel: it is an isotropic virial per atom that labels may
    carry on top of the derivative of the energy. A plane-wave basis that is not
    converged does this (Pulay stress): the energy is computed at constant cutoff, the
    stress at constant number of waves. Fitting the offset keeps a wrong absolute
    pressure from bending the energies; it never enters a prediction.

    Attributes
    ----------
    terms : list of KernelTerm
    species : tuple of int
    raw : Layout
        Columns before whitening (sparse points).
    whitened : Layout
        Columns after whitening (ranks).
    whitening : dict
        ``(species, term) -> T``.
    """

    terms: Sequence[KernelTerm]
    species: tuple[int, ...]
    raw: Layout
    whitened: Layout
    whitening: Mapping[tuple[int, int], FloatArray]

    @classmethod
    def of(cls, terms: Sequence[KernelTerm], species: tuple[int, ...]) -> Design:
        """Whiten the sparse points of every species and term."""
        whiten = {
            (z, t): whitening(term.K_mm(z)) for t, term in enumerate(terms) for z in term.sparse
        }
        return cls(
            terms,
            species,
            Layout.of({key: len(T) for key, T in whiten.items()}),
            Layout.of({key: T.shape[1] for key, T in whiten.items()}),
            whiten,
        )

    def rescaled(self, factors: Sequence[float]) -> Design:
        """Design with the delta of each term multiplied: same span, same directions.

        Parameters
        ----------
        factors : sequence of float
            One per term. With delta times f, K_mm grows by f^2 and T shrinks by f, so
            whitened rows grow by f.

        Returns
        -------
        Design
        """
        if all(f == 1.0 for f in factors):
            return self
        terms = []
        for term, f in zip(self.terms, factors, strict=True):
            soap, kernel = term.soap, term.kernel
            delta = float(kernel.delta * f)
            terms.append(
                KernelTerm(
                    replace(soap, term=replace(soap.term, delta=delta)),
                    replace(kernel, delta=delta),
                    term.sparse,
                )
            )
        whiten = {(z, t): T / factors[t] for (z, t), T in self.whitening.items()}
        return replace(self, terms=terms, whitening=whiten)

    def rows(
        self, frames: Sequence[Frame], references: Sequence[KnownLabels], noise: Noise
    ) -> list[tuple[Group, FloatArray, FloatArray]]:
        """Whitened rows and targets of a batch of frames, in units of their group's sigma."""
        derivatives = any(f.forces is not None or f.virial is not None for f in frames)
        K = covariance_rows(
            self.terms,
            self.raw,
            self.species,
            [f.atoms for f in frames],
            derivatives=derivatives,
        )
        observed = observe(frames, references, noise)
        K = K[observed.rows]
        K /= observed.unit[:, None]
        phi = np.zeros((len(K), self.n_columns), order="F")
        phi[:, -1] = self._offset_column(frames)[observed.rows] / observed.unit
        for key, T in self.whitening.items():
            phi[:, self.whitened.blocks[key]] = K[:, self.raw.blocks[key]] @ T
        y = observed.y / observed.unit
        members = [observed.group == g for g in range(len(observed.groups))]
        return [(group, phi[m], y[m]) for group, m in zip(observed.groups, members, strict=True)]

    @property
    def n_columns(self) -> int:
        """Columns of the regression."""
        return self.whitened.size + 1

    def _offset_column(self, frames: Sequence[Frame]) -> FloatArray:
        sizes = np.array([len(f) for f in frames])
        column = np.zeros(len(frames) + 3 * sizes.sum() + 6 * len(frames))
        first = len(frames) + 3 * sizes.sum()
        for k in range(3):
            column[first + k :: 6] = VIRIAL_OFFSET_PRIOR * sizes
        return column

    def virial_offset(self, whitened_weights: FloatArray) -> float:
        """Isotropic virial per atom of the labels beyond the model's [eV/atom]."""
        return float(VIRIAL_OFFSET_PRIOR * whitened_weights[-1])

    def weights(self, whitened_weights: FloatArray) -> dict[tuple[int, int], FloatArray]:
        """Weight of each sparse point from the whitened solution."""
        return {
            key: T @ whitened_weights[self.whitened.blocks[key]]
            for key, T in self.whitening.items()
        }


def batches(frames: Sequence[Frame], n_columns: int) -> Iterator[list[int]]:
    """Group frame indices so that the rows of a group fit a memory budget."""
    group: list[int] = []
    size = 0
    for index, frame in enumerate(frames):
        rows = 1 + 3 * len(frame) + 6
        if group and (size + rows) * n_columns * 8 > BATCH_BYTES:
            yield group
            group, size = [], 0
        group.append(index)
        size += rows
    if group:
        yield group


def accumulate(
    design: Design,
    frames: Sequence[Frame],
    references: Sequence[KnownLabels],
    noise: Noise,
    *,
    n_threads: int = 1,
    progress: Progress | None = None,
) -> GroupedFactor:
    """Stream the rows of all frames into the factors of their groups.

    Rows are built in threads and annihilated in a fixed order, so the result does not
    depend on the number of threads.
    """
    factor = GroupedFactor(design.n_columns)
    groups = list(batches(frames, design.raw.size))
    total = sum(map(len, frames))
    done = 0

    def build(batch: list[int]) -> list[tuple[Group, FloatArray, FloatArray]]:
        return design.rows([frames[i] for i in batch], [references[i] for i in batch], noise)

    with single_blas_thread():
        for batch, built in zip(groups, map_in_order(build, groups, n_threads), strict=True):
            for group, phi, y in built:
                factor.update(group, phi, y)
            done += sum(len(frames[i]) for i in batch)
            if progress is not None:
                progress("fit", done, total)
    return factor
