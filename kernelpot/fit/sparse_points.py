"""Choosing the sparse points of each term among the environments of the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from ase import Atoms

from kernelpot.common.parallel import map_in_order, single_blas_thread
from kernelpot.common.types import FloatArray, IntArray, Progress
from kernelpot.data.dataset import Frame
from kernelpot.data.system import System
from kernelpot.fit.monomials import available_monomials, choose_monomials
from kernelpot.gp.blocks import BoundTerm, Points
from kernelpot.gp.sharing import ALIKE_POINTS
from kernelpot.regression.selection import (
    MINIMUM_PER_CLASS,
    environment_keys,
    first_of_each,
    quotas,
    select,
)
from kernelpot.terms.base import Environments, OwnPoints, key_name
from kernelpot.terms.compression import CompressedDescriptor
from kernelpot.terms.gdml import DirectionKernel, InverseDistances
from kernelpot.terms.polynomial import PolynomialKernel

# Selection sees at most so many environments of each class, and so many bytes of features
# of all classes together.
MAX_CANDIDATES = 50_000
MAX_CANDIDATE_BYTES = 600e6
# More monomials than labels tell nothing: an environment has an energy's share and a force.
LABELS_PER_ENVIRONMENT = 4
# Environments of each class that some are chosen among to share energy alike.
MAX_SITES = 2000


@dataclass(frozen=True)
class Chosen:
    """Sparse points of a term.

    Attributes
    ----------
    points : list of Points
        Of each class of environments that the data have.
    notes : list of str
        What the user should know (fewer distinct environments than the default).
    from_all : bool
        Whether they may come from any frame, those held out included.
    """

    points: list[Points]
    notes: list[str]
    from_all: bool


def all_environments(bound: BoundTerm, atoms: Atoms) -> Environments:
    """Environments of a whole structure."""
    system = System.of([atoms], bound.descriptor.r_cut)
    return bound.descriptor.environments(system, slice(0, len(atoms)))


def choose_sparse_points(
    bound: BoundTerm,
    index: int,
    frames: Sequence[Frame],
    *,
    held_out: Sequence[int] = (),
    given: Sequence[tuple[Atoms, int]] | None = None,
    default_n_sparse: int = 1000,
    seed: int = 0,
    candidate_bytes: float = MAX_CANDIDATE_BYTES,
    n_threads: int = 1,
    progress: Progress | None = None,
) -> Chosen:
    """Select the sparse points of one term.

    Parameters
    ----------
    bound : BoundTerm
    index : int
        Of the term.
    frames : sequence of Frame
        Training structures in canonical order.
    held_out : sequence of int
        Indices of frames to choose from only where the others hold fewer environments
        than the term asks for.
    given : sequence of (atoms, center), optional
        Environments to use instead of selecting: all of these centers.
    default_n_sparse : int
        Sparse points where the term names no number; fewer if the data have fewer.
    seed : int
    candidate_bytes : float
        Memory for the features to select from, if they were of double precision; a
        random subset of the environments is seen where it is too small.
    n_threads : int
    progress : callable, optional

    Returns
    -------
    Chosen

    Raises
    ------
    ValueError
        If more sparse points are asked for than there are distinct environments.
    """
    term, descriptor = bound.term, bound.descriptor
    keys = descriptor.keys
    if isinstance(descriptor, OwnPoints):
        return Chosen([Points(index, keys[0], descriptor.own_points)], [], False)
    if bound.kernel.explicit:
        if given is not None:
            what = "directions" if isinstance(bound.kernel, DirectionKernel) else "monomials"
            raise ValueError(
                f"`sparse_points` of term {index}: a term of kind {term.kind!r} has {what} in "
                "place of sparse points; give None for it"
            )
        if isinstance(bound.kernel, DirectionKernel):
            return _directions(bound, index, frames, held_out, default_n_sparse, seed)
        return _monomials(
            bound,
            index,
            frames,
            held_out,
            default_n_sparse,
            seed,
            candidate_bytes,
            progress,
            n_threads,
        )
    if given is not None:
        points = _given(bound, index, given)
        missing = {key_name(k) for k in keys} - {key_name(p.key) for p in points}
        note = f"no sparse points of {', '.join(sorted(missing))} were given: energy zero"
        return Chosen(points, [note] if missing else [], True)
    notes: list[str] = []
    unseen = set(held_out)
    seen = [index for index in range(len(frames)) if index not in unseen]
    candidates = _distinct_environments(
        bound, frames, seen, seed, candidate_bytes, progress, n_threads
    )
    from_all = not unseen
    if unseen and (term.n_sparse or 0) > sum(map(len, candidates.values())):
        from_all = True
        seen = list(range(len(frames)))
        candidates = _distinct_environments(
            bound, frames, seen, seed, candidate_bytes, progress, n_threads
        )
    available = {k: len(found) for k, found in candidates.items()}
    total = sum(available.values())
    wanted = term.n_sparse
    if wanted is None:
        usual = term.default_n_sparse(default_n_sparse, sum(n > 0 for n in available.values()))
        wanted = min(usual, total)
        if wanted < usual:
            notes.append(
                f"{wanted} sparse points instead of {usual}: the data have no "
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
            f"{sum(share.values())} sparse points instead of {wanted}: every "
            f"{'species' if descriptor.one_per_atom else 'kind of environment'} gets at least "
            f"{MINIMUM_PER_CLASS}"
        )
    points = []
    for k in sorted(available):
        found = candidates.pop(k)
        with single_blas_thread():  # products too small to share
            squares = bound.kernel.squares(found.u.astype(float))
            picked = select(found.u, share[k], term.sparse_method, squares=squares, seed=seed)
        if len(picked):
            chosen = _made_anew(bound, frames, found.places[picked])
            points.append(Points(index, keys[k], chosen))
        if progress is not None:
            progress("sparse points", 1 + (k + 1) / len(keys), 2)
    return Chosen(points, notes, from_all)


def _directions(
    bound: BoundTerm,
    index: int,
    frames: Sequence[Frame],
    held_out: Sequence[int],
    default_n_sparse: int,
    seed: int,
) -> Chosen:
    """A constant, and the directions of some molecules."""
    term = bound.term
    unseen = set(held_out)
    molecules = [f.atoms for k, f in enumerate(frames) if len(f) > 1 and k not in unseen]
    if not molecules:
        return Chosen([], [], not unseen)
    points = directions_of(bound, molecules, term.sparse_method, seed)
    notes: list[str] = []
    wanted = term.n_sparse
    if wanted is None:
        usual = term.default_n_sparse(default_n_sparse, 1)
        wanted = min(usual, len(points))
        if wanted < usual:
            notes.append(f"{wanted} directions instead of {usual}: the data have no more")
    elif wanted > len(points):
        raise ValueError(
            f"`n_sparse` = {wanted} exceeds the {len(points)} directions of the molecules of the "
            "data; ask for fewer or leave it out"
        )
    return Chosen([Points(index, (), points[:wanted])], notes, not unseen)


def directions_of(
    bound: BoundTerm, molecules: Sequence[Atoms], method: str, seed: int = 0
) -> FloatArray:
    """Points of a `DirectionKernel`: the constant, then the directions of all molecules.

    Parameters
    ----------
    bound : BoundTerm
    molecules : sequence of ase.Atoms
    method : str
        How they are put in order.
    seed : int

    Returns
    -------
    ndarray of shape (n, 2 n_features)
    """
    descriptor, kernel = bound.descriptor, bound.kernel
    assert isinstance(descriptor, InverseDistances)
    x = descriptor.of_all(molecules)
    distinct = first_of_each(environment_keys(x))
    with single_blas_thread():
        order = select(
            x[distinct], len(distinct), method, squares=kernel.squares(x[distinct]), seed=seed
        )
    rows = [np.zeros((1, 2 * descriptor.n_features))]
    for k in np.asarray(distinct)[order]:
        directions = descriptor.directions(molecules[k])
        rows.append(np.hstack([np.tile(x[k], (len(directions), 1)), directions]))
    return np.concatenate(rows)


def _monomials(
    bound: BoundTerm,
    index: int,
    frames: Sequence[Frame],
    held_out: Sequence[int],
    default_n_sparse: int,
    seed: int,
    candidate_bytes: float,
    progress: Progress | None,
    n_threads: int,
) -> Chosen:
    """Monomials of a term that is a polynomial, and some environments of each class."""
    term, descriptor, kernel = bound.term, bound.descriptor, bound.kernel
    assert isinstance(descriptor, CompressedDescriptor)
    assert isinstance(kernel, PolynomialKernel)
    scales, abundance = descriptor.scales, descriptor.abundance
    available = int(available_monomials(scales, kernel.degree).sum())
    notes: list[str] = []
    wanted = term.n_sparse
    if wanted is None:
        usual = term.default_n_sparse(default_n_sparse, len(descriptor.keys))
        labels = LABELS_PER_ENVIRONMENT * int(abundance.sum())
        wanted = min(usual, available, labels)
        if wanted < usual:
            why = "there are no more" if wanted == available else "the data have no more labels"
            notes.append(f"{wanted} monomials instead of {usual}: {why}")
    elif wanted > available:
        raise ValueError(
            f"`n_sparse` = {wanted} exceeds the {available} monomials of degree {kernel.degree} of "
            "the directions found in the data; ask for fewer or leave it out"
        )
    unseen = set(held_out)
    seen = [k for k in range(len(frames)) if k not in unseen]
    limit = 8.0 * descriptor.n_features * MAX_SITES * len(descriptor.keys)
    sites = _distinct_environments(
        bound, frames, seen, seed, min(limit, candidate_bytes), progress, n_threads
    )
    points = []
    for k, monomials in enumerate(choose_monomials(scales, abundance, kernel.degree, wanted)):
        found = sites[k]
        n_sites = min(ALIKE_POINTS, len(found))
        if len(monomials) and n_sites:
            with single_blas_thread():
                picked = select(found.u, n_sites, term.sparse_method, seed=seed)
            chosen = _made_anew(bound, frames, found.places[picked])
            points.append(Points(index, descriptor.keys[k], monomials, chosen))
    if progress is not None:
        progress("sparse points", 1, 1)
    return Chosen(points, notes, not unseen)


def _given(bound: BoundTerm, index: int, given: Sequence[tuple[Atoms, int]]) -> list[Points]:
    """Environments of given centers, class by class."""
    rows: dict[int, list[FloatArray]] = {}
    for atoms, center in given:
        found = all_environments(bound, atoms)
        own = found.center == center % len(atoms) if bound.descriptor.has_centers else slice(None)
        for k, x in zip(found.key[own], found.x[own], strict=True):
            rows.setdefault(int(k), []).append(x)
    keys = bound.descriptor.keys
    return [
        Points(index, keys[k], bound.kernel.embed(np.array(x))[0]) for k, x in sorted(rows.items())
    ]


def _made_anew(bound: BoundTerm, frames: Sequence[Frame], places: IntArray) -> FloatArray:
    """Features of environments named by frame and place, in double precision."""
    u = np.empty((len(places), bound.descriptor.n_features))
    for frame in np.unique(places[:, 0]):
        here = np.flatnonzero(places[:, 0] == frame)
        found = all_environments(bound, frames[frame].atoms)
        u[here] = bound.kernel.embed(found.x[places[here, 1]])[0]
    return u


@dataclass(frozen=True)
class _Candidates:
    """Distinct environments of one class: features, and (frame, place) of each.

    Single precision is enough to compare them; the chosen ones are made anew.
    """

    u: npt.NDArray[np.float32]
    places: IntArray

    def __len__(self) -> int:
        return len(self.u)


def _distinct_environments(
    bound: BoundTerm,
    frames: Sequence[Frame],
    seen: Sequence[int],
    seed: int,
    max_bytes: float,
    progress: Progress | None,
    n_threads: int,
) -> dict[int, _Candidates]:
    """Candidates of every class of environments among the frames named by `seen`."""
    rng = np.random.default_rng(seed)
    descriptor = bound.descriptor
    n_keys = len(descriptor.keys)
    counts = np.array([_count(bound, frames[index].atoms) for index in seen]).reshape(-1, n_keys)
    limit = max(1, min(MAX_CANDIDATES, int(max_bytes / n_keys / (8 * descriptor.n_features))))
    chosen = [_some_of(counts[:, k], limit, rng) for k in range(n_keys)]
    u = [np.empty((len(c), descriptor.n_features), dtype=np.float32) for c in chosen]
    places = [np.empty((len(c), 2), dtype=np.int64) for c in chosen]
    tags: list[list[bytes]] = [[] for _ in chosen]

    def of_frame(done: int) -> list[tuple[int, IntArray, FloatArray, list[bytes]]]:
        """Class, place in the frame, features and tags of what is chosen of a frame."""
        wanted = [(k, of_key[of_key[:, 0] == done, 1]) for k, of_key in enumerate(chosen)]
        wanted = [(k, own) for k, own in wanted if len(own)]
        if not wanted:
            return []
        environments = all_environments(bound, frames[seen[done]].atoms)
        found = []
        for k, own in wanted:
            members = np.flatnonzero(environments.key == k)[own]
            rows = bound.kernel.embed(environments.x[members])[0]
            found.append((k, members, rows, environment_keys(rows)))
        return found

    with single_blas_thread():
        for done, found in enumerate(map_in_order(of_frame, range(len(seen)), n_threads)):
            for k, members, rows, own_tags in found:
                own = slice(len(tags[k]), len(tags[k]) + len(members))
                u[k][own] = rows
                places[k][own, 0] = seen[done]
                places[k][own, 1] = members
                tags[k] += own_tags
            if progress is not None:
                progress("sparse points", done + 1, 2 * len(seen))
    result = {}
    for k, own_tags in enumerate(tags):
        keep = first_of_each(own_tags)
        whole = len(keep) == len(own_tags)
        result[k] = _Candidates(u[k] if whole else u[k][keep], places[k][keep])
    return result


def _count(bound: BoundTerm, atoms: Atoms) -> IntArray:
    """Number of environments of each class in a structure."""
    r_cut = 0.0 if bound.descriptor.one_per_atom else bound.descriptor.r_cut
    return bound.descriptor.count(System.of([atoms], r_cut))


def _some_of(counts: IntArray, limit: int, rng: np.random.Generator) -> IntArray:
    """Environments as (frame, number in it): all, or a random subset within the limit."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    chosen = np.arange(total)
    if total > limit:
        chosen = np.sort(rng.choice(total, limit, replace=False))
    frame = np.searchsorted(ends, chosen, side="right")
    return np.stack([frame, chosen - (ends - counts)[frame]], axis=1)
