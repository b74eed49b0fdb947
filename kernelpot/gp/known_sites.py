r"""How well an environment is known, given the local energies of the environments of the data.

Labels are sums of local energies and derivatives of sums; how these are shared among sites
they leave open (`kernelpot.gp.sharing`). The posterior variance of a local energy therefore
does not tell known environments from unknown ones: it may be large for every atom of the data,
while the energies of structures are known to a millielectronvolt. Whoever asks how far an
environment is from the data must not count what cancels.

So the local energies of atoms of the data are taken as known, to within `SIGMA_SITE`, whatever
they are: as many pseudo-observations beside the labels. The variance that remains does not
depend on how energy is shared. It is small for environments like those of the data and grows
with the distance of the kernels from there, less so along directions that forces determine.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.linalg
from ase import Atoms

from kernelpot.common.parallel import map_in_order, single_blas_thread
from kernelpot.common.types import FloatArray
from kernelpot.data.system import System
from kernelpot.gp.design import Design
from kernelpot.gp.local import local_features
from kernelpot.regression.factors import TriangularFactor
from kernelpot.regression.novelty import novelty

# Standard deviation of a local energy of the data: that of thermal energy at 300 K [eV].
SIGMA_SITE = 0.025
# Of a large data set about so many atoms of each species are taken as known.
MAX_SITES = 2000
# Atoms whose rows are made and used together.
GROUP_ATOMS = 256


def some_structures(structures: Sequence[Atoms], species: Sequence[int]) -> list[int]:
    """Structures that hold about `MAX_SITES` atoms of each species, or all there are.

    Parameters
    ----------
    structures : sequence of ase.Atoms
    species : sequence of int
        Atomic numbers.

    Returns
    -------
    list of int
        Indices, ascending.
    """
    chosen: set[int] = set()
    for number in species:
        counts = [int(np.sum(atoms.numbers == number)) for atoms in structures]
        holders = np.flatnonzero(counts)
        every = max(1, -(-sum(counts) // MAX_SITES))  # an update need not hold all species
        chosen.update(holders[::every].tolist())
    return sorted(chosen)


def with_known_sites(
    factor: TriangularFactor,
    design: Design,
    structures: Sequence[Atoms],
    *,
    n_threads: int = 1,
) -> TriangularFactor:
    """The factor of labels, and of local energies of structures that are taken as known.

    Parameters
    ----------
    factor : TriangularFactor
        Of the labels; not changed.
    design : Design
    structures : sequence of ase.Atoms
    n_threads : int

    Returns
    -------
    TriangularFactor
        Its targets have no meaning: only the variance does.
    """

    def rows_of(group: Sequence[Atoms]) -> FloatArray:
        return _features(design, group)[0] / SIGMA_SITE

    known = factor.copy()
    with single_blas_thread():
        for rows in map_in_order(rows_of, _grouped(structures), n_threads):
            known.update(rows, np.zeros(len(rows)))
    return known


def left_out_std(
    known: TriangularFactor,
    design: Design,
    structures: Sequence[Atoms],
    *,
    n_threads: int = 1,
) -> list[FloatArray]:
    r"""Standard deviations of local energies, were those of their structure not known.

    With A the posterior covariance of the local energies of a structure, their rows leave the
    regression as in leave-one-out, :math:`A (1 - A / \sigma^2)^{-1}`. Its labels and sparse
    points stay. Rows are made anew: kept, they would need as much memory as the factor.

    Parameters
    ----------
    known : TriangularFactor
        Of `with_known_sites`.
    design : Design
    structures : sequence of ase.Atoms
        Of those whose local energies are known.
    n_threads : int

    Returns
    -------
    list of ndarray of shape (n_atoms,)
        [eV].
    """

    def left_out(group: Sequence[Atoms]) -> list[FloatArray]:
        phi, prior = _features(design, group)
        half = known.solve_transposed(phi)
        ends = np.cumsum([len(atoms) for atoms in group])[:-1]
        parts = (np.split(half, ends, axis=1), np.split(novelty(phi, prior), ends))
        return list(map(_left_out, *parts, np.split(prior, ends)))

    with single_blas_thread():
        found = map_in_order(left_out, _grouped(structures), n_threads)
        return [std for stds in found for std in stds]


def _left_out(half: FloatArray, new: FloatArray, prior: FloatArray) -> FloatArray:
    """Of one structure: from the solved rows, novelties and priors of its atoms."""
    values, vectors = scipy.linalg.eigh(half.T @ half)
    # those known by their own row alone have the variance of the prior, not an infinite one
    share = np.minimum(np.maximum(values, 0.0) / SIGMA_SITE**2, 1.0 - 1e-9)
    left = vectors**2 @ (SIGMA_SITE**2 * share / (1.0 - share))
    return np.sqrt(np.minimum(new + left, prior))


def _grouped(structures: Sequence[Atoms]) -> list[list[Atoms]]:
    """Runs of structures of about `GROUP_ATOMS` atoms; for few rows a triangle is read in vain."""
    groups: list[list[Atoms]] = []
    room = 0
    for atoms in structures:
        if room < len(atoms):
            groups.append([])
            room = GROUP_ATOMS
        groups[-1].append(atoms)
        room -= len(atoms)
    return groups


def _features(design: Design, group: Sequence[Atoms]) -> tuple[FloatArray, FloatArray]:
    """Whitened rows of local energies in the columns of the factor, and their prior."""
    phi, prior = local_features(design, System.of(group, design.r_cut))
    rows = np.zeros((len(phi), design.n_columns))
    rows[:, : phi.shape[1]] = phi
    return rows, prior
