"""From labelled frames to sparse points, whitening and the triangular factor."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from ase import Atoms

from kernelpot.covariance import KernelTerm, Layout, covariance_rows
from kernelpot.dataset import Frame
from kernelpot.descriptors import SOAP, species_index
from kernelpot.kernels import DotProductKernel, normalize
from kernelpot.neighbors import neighbor_list
from kernelpot.observations import Group, Noise, observe
from kernelpot.parallel import single_blas_thread
from kernelpot.regression import whitening
from kernelpot.selection import (
    MINIMUM_PER_SPECIES,
    environment_keys,
    first_of_each,
    quotas,
    select,
)
from kernelpot.terms import SOAPTerm

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
# energy, forces and virial (Voigt) that the kernels need not explain
KnownLabels = tuple[float, FloatArray, FloatArray]
Progress = Callable[[str, float, float], None]

# Selection sees at most so many environments per species, and so many bytes of features
# of all species together.
MAX_CANDIDATES = 50_000
MAX_CANDIDATE_BYTES = 600e6
# Prior standard deviation of the virial offset [eV/atom]: small against bonding, so
# that stresses count, yet overruled by data that contradict it by more.
VIRIAL_OFFSET_PRIOR = 0.05


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
    held_out: Sequence[int] = (),
    given: Sequence[tuple[Atoms, int]] | None = None,
    default_n_sparse: int = 1000,
    seed: int = 0,
    candidate_bytes: float = MAX_CANDIDATE_BYTES,
    progress: Progress | None = None,
) -> tuple[KernelTerm, list[str], bool]:
    """Select the sparse points of one term from dscribe's features.

    Parameters
    ----------
    term : SOAPTerm
    species : tuple of int
    frames : sequence of Frame
        Training structures in canonical order.
    held_out : sequence of int
        Indices of frames to choose from only where the others hold fewer environments
        than the term asks for.
    given : sequence of (atoms, center), optional
        Environments to use instead of selecting.
    default_n_sparse : int
        Sparse points where the term names no number; fewer if the data have fewer.
    seed : int
    candidate_bytes : float
        Memory for the features to select from, if they were of double precision; a
        random subset of the environments is seen where it is too small.
    progress : callable, optional

    Returns
    -------
    term : KernelTerm
    notes : list of str
        What the user should know (fewer distinct environments than the default).
    chosen_from_all : bool
        Whether the points may come from any frame, those held out included.

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
        return KernelTerm(soap, kernel, points), notes, True

    unseen = set(held_out)
    seen = [index for index in range(len(frames)) if index not in unseen]
    environments = _distinct_environments(soap, frames, seen, seed, candidate_bytes, progress)
    chosen_from_all = not unseen
    if unseen and (term.n_sparse or 0) > sum(len(e.unit) for e in environments.values()):
        chosen_from_all = True
        seen = list(range(len(frames)))
        environments = _distinct_environments(soap, frames, seen, seed, candidate_bytes, progress)
    available = {z: len(e.unit) for z, e in environments.items()}
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
    for z in sorted(available):
        candidates = environments.pop(z)
        with single_blas_thread():  # products too small to share
            picked = select(candidates.unit, share[z], term.sparse_method, seed=seed)
        points[z] = np.empty((len(picked), soap.n_features))
        found_in = candidates.centers[picked]
        for frame in np.unique(found_in[:, 0]):
            here = np.flatnonzero(found_in[:, 0] == frame)
            created = soap.create(frames[frame].atoms, list(found_in[here, 1]))
            points[z][here] = normalize(created)[0]
        if progress is not None:
            progress("sparse points", 1 + (z + 1) / len(available), 2)
    return KernelTerm(soap, kernel, points), notes, chosen_from_all


@dataclass(frozen=True)
class _Environments:
    """Distinct environments of one species: unit features, and (frame, atom) of each.

    Single precision is enough to compare them; the chosen ones are made anew.
    """

    unit: npt.NDArray[np.float32]
    centers: IntArray


def _distinct_environments(
    soap: SOAP,
    frames: Sequence[Frame],
    seen: Sequence[int],
    seed: int,
    max_bytes: float,
    progress: Progress | None,
) -> dict[int, _Environments]:
    """Candidates of every species index among the frames named by `seen`."""
    rng = np.random.default_rng(seed)
    among = [frames[index] for index in seen]
    candidates = {
        z: candidate_environments(
            among, number, soap.n_features, max_bytes / len(soap.species), rng
        )
        for z, number in enumerate(soap.species)
    }
    total = sum(len(c) for chosen in candidates.values() for _, c in chosen)
    done = 0
    result = {}
    for z, chosen in candidates.items():
        rows = np.empty((sum(len(c) for _, c in chosen), soap.n_features), dtype=np.float32)
        centers = np.array([(seen[f], c) for f, some in chosen for c in some])
        keys: list[bytes] = []
        for f, some in chosen:
            found = normalize(soap.create(among[f].atoms, list(some)))[0]
            rows[len(keys) : len(keys) + len(found)] = found
            keys += environment_keys(found)
            done += len(some)
            if progress is not None:
                progress("sparse points", done, 2 * total)
        keep = first_of_each(keys)
        result[z] = _Environments(rows if len(keep) == len(rows) else rows[keep], centers[keep])
    return result


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
        return cls.known(
            terms,
            species,
            {(z, t): whitening(term.K_mm(z)) for t, term in enumerate(terms) for z in term.sparse},
        )

    @classmethod
    def known(
        cls,
        terms: Sequence[KernelTerm],
        species: tuple[int, ...],
        whitening: Mapping[tuple[int, int], FloatArray],
    ) -> Design:
        """Take over the whitening of a model or a checkpoint."""
        return cls(
            terms,
            species,
            Layout.of({key: len(T) for key, T in whitening.items()}),
            Layout.of({key: T.shape[1] for key, T in whitening.items()}),
            whitening,
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

    def work(self, frame: Frame) -> float:
        """Floating-point operations to make and annihilate the rows of a frame, about."""
        has_forces = frame.forces is not None or frame.virial is not None
        z_index = species_index(frame.atoms.numbers, self.species)
        total = 2.0 * frame.n_rows * self.n_columns**2
        total += frame.n_rows * sum(T.size for T in self.whitening.values())
        r_cut = max(term.soap.term.r_cut for term in self.terms)
        pairs = neighbor_list(frame.atoms, r_cut)
        distances = np.linalg.norm(pairs.displacements(frame.atoms.positions), axis=1)
        for term in self.terms:
            n_neighbors = np.bincount(
                pairs.centers[distances < term.soap.term.r_cut], minlength=len(frame)
            )
            points = np.zeros(len(self.species))
            for z, rows in term.sparse.items():
                points[z] = len(rows)
            per_center = 1.0 + 3.0 * n_neighbors * has_forces
            total += 2.0 * term.soap.n_features * float(per_center @ points[z_index])
        return total

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
