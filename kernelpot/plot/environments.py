"""A map of the environments of a species: which are alike, which are sparse points, how sure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols

from kernelpot.common.types import FloatArray, IntArray
from kernelpot.data.dataset import Dataset
from kernelpot.data.system import System
from kernelpot.gp.blocks import Block
from kernelpot.model.fitted import FittedModel

# Environments on a map, evenly over the structures.
MAX_ENVIRONMENTS = 2000


@dataclass(frozen=True)
class EnvironmentMap:
    """Environments of atoms of one species, projected onto what varies most among them.

    Attributes
    ----------
    symbol : str
        Species of the centers.
    term : str
        The term whose features they are, in words.
    x : ndarray of shape (n, 2)
        Coordinates on the two leading principal components of the (embedded) features.
    points : ndarray of shape (n_points, 2)
        Sparse points of the term on the same components; none where a term has other
        functions in their place.
    std : ndarray of shape (n,)
        Local standard deviation of each environment [eV].
    groups : list of str
        Config type of the structure of each.
    structure, center : ndarray of shape (n,)
        Which structure of the data, and which of its atoms.
    explained : tuple of float
        Share of the variance of the features along each component.
    """

    symbol: str
    term: str
    x: FloatArray
    points: FloatArray
    std: FloatArray
    groups: list[str]
    structure: IntArray
    center: IntArray
    explained: tuple[float, float]


def environment_map(
    model: FittedModel,
    data: Dataset,
    *,
    number: int | None = None,
    term: int | None = None,
    stds: Sequence[FloatArray] | None = None,
    n_threads: int | None = None,
) -> EnvironmentMap:
    """Project environments and sparse points onto their principal components.

    Parameters
    ----------
    model : FittedModel
    data : Dataset
    number : int, optional
        Atomic number; by default the species with most atoms in the data.
    term : int, optional
        Index of the term; by default the first that compares whole environments of atoms.
    stds : sequence of ndarray of shape (n_atoms,), optional
        Local standard deviations of every structure, if they are known [eV].
    n_threads : int, optional

    Returns
    -------
    EnvironmentMap

    Raises
    ------
    ValueError
        If the data have no such atoms, or the model no such term.
    """
    from sklearn.decomposition import PCA

    counts = {z: sum(int(np.sum(f.atoms.numbers == z)) for f in data) for z in model.species}
    if number is None:
        number = max(counts, key=lambda z: counts[z])
    if not counts.get(number):
        raise ValueError(
            f"no environments to draw: the data have no atom of "
            f"{chemical_symbols[number]} that the model knows"
        )
    block = _block(model, number, term)
    bound = model.design.terms[block.term]
    every = max(1, -(-counts[number] // MAX_ENVIRONMENTS))
    rows, std, groups, where = [], [], [], []
    seen = 0
    for index, frame in enumerate(data):
        own = np.flatnonzero(frame.atoms.numbers == number)
        # every so many of all atoms, whatever structures they are in
        chosen = own[(seen + np.arange(len(own))) % every == 0]
        seen += len(own)
        if not len(chosen):
            continue
        system = System.of([frame.atoms], bound.descriptor.r_cut)
        found = bound.descriptor.environments(system, slice(0, len(frame)))
        rows.append(bound.kernel.embed(found.x[chosen])[0])
        local = stds[index] if stds is not None else None
        if local is None:
            local = model.local_std(frame.atoms, n_threads=n_threads)
        std.append(local[chosen])
        groups += [frame.config_type] * len(chosen)
        where += [(index, center) for center in chosen]
    u = np.concatenate(rows)
    if len(u) < 3:
        raise ValueError(
            f"a map needs at least three environments of {chemical_symbols[number]}, the data "
            f"have {len(u)}"
        )
    pca = PCA(n_components=2, svd_solver="randomized", random_state=0).fit(u)
    points = np.zeros((0, 2))
    if not bound.kernel.explicit and len(block.points):
        points = pca.transform(np.asarray(block.points, dtype=float))
    shares = np.nan_to_num(pca.explained_variance_ratio_)
    structure, center = np.array(where, dtype=np.int64).T
    return EnvironmentMap(
        chemical_symbols[number],
        bound.term.describe()[0],
        pca.transform(u),
        points,
        np.concatenate(std),
        groups,
        structure,
        center,
        (float(shares[0]), float(shares[1])),
    )


def _block(model: FittedModel, number: int, term: int | None) -> Block:
    """Sparse points of a term whose environments are whole surroundings of one atom."""
    n_terms = len(model.design.terms)
    if term is not None and not 0 <= term < n_terms:
        raise ValueError(f"`term` must be between 0 and {n_terms - 1}, got {term}")
    for block in model.design.blocks:
        if block.key != (number,) or (term is not None and block.term != term):
            continue
        descriptor = model.design.terms[block.term].descriptor
        if descriptor.one_per_atom and descriptor.n_features > 1:
            return block
    which = "no term of this model compares" if term is None else f"term {term} does not compare"
    raise ValueError(f"{which} whole environments of {chemical_symbols[number]}: nothing to map")
