"""Choosing the sparse points of each term among the environments of the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from ase import Atoms

from kernelpot.common.parallel import single_blas_thread
from kernelpot.common.types import FloatArray, IntArray, Progress
from kernelpot.data.dataset import Frame
from kernelpot.data.system import species_index
from kernelpot.gp.covariance import KernelTerm
from kernelpot.regression.selection import (
    MINIMUM_PER_SPECIES,
    environment_keys,
    first_of_each,
    quotas,
    select,
)
from kernelpot.terms.dot_product import DotProductKernel, normalize
from kernelpot.terms.soap import SOAP, SOAPTerm

# Selection sees at most so many environments per species, and so many bytes of features
# of all species together.
MAX_CANDIDATES = 50_000
MAX_CANDIDATE_BYTES = 600e6


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
