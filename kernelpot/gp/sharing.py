"""How a structure's energy is shared among its atoms, which no label tells.

Labels are sums over atoms and derivatives of such sums. Data of one composition, those of
a molecule above all, leave open how much of the energy belongs to which species, and to
which site of a species: adding to every oxygen what is taken from the hydrogen bound to
it changes nothing that was computed. Posterior variances of local energies are then as
large as the prior, whatever the amount of data, and mean local energies of the sites lie
many eV apart for no reason.

So a weak prior asks that the local energies of one species be alike (`rows_of_alike_sites`):
it chooses among models that explain the labels equally well. Where the local variance is to
tell how well an environment is known, none of this counts (`kernelpot.gp.known_sites`).
"""

from __future__ import annotations

import numpy as np

from kernelpot.common.types import FloatArray
from kernelpot.gp.blocks import Block
from kernelpot.gp.design import Design

# Standard deviation of the difference of a site's local energy from the mean of its
# species, in units of the term's delta ...
SIGMA_ALIKE = 0.5
# ... for each of so many sparse points of every species and term: together about 0.05
# delta, far more than the labels of a data set leave of anything they determine.
ALIKE_POINTS = 100


def rows_of_alike_sites(design: Design) -> FloatArray:
    """Rows that ask the local energies of each species to be alike, term by term.

    Terms whose environments are not those of single species share no energy among these.

    Parameters
    ----------
    design : Design

    Returns
    -------
    ndarray of shape (n, n_columns)
        In units of their noise; the targets are zero. Empty with one species, which has
        nobody to share the energy with.
    """
    rows = [np.empty((0, design.n_columns))]
    blocks = _of_single_species(design)
    if len({block.key for block in blocks}) > 1:
        for block in sorted(blocks, key=lambda b: b.term):
            points = _site_rows(design, block)
            chosen = np.linspace(0, len(points) - 1, min(ALIKE_POINTS, len(points)))
            own = np.zeros((len(chosen), design.n_columns))
            own[:, block.columns] = (points - points.mean(axis=0))[chosen.astype(int)]
            rows.append(own / (SIGMA_ALIKE * design.terms[block.term].kernel.delta))
    return np.concatenate(rows)


def _of_single_species(design: Design) -> list[Block]:
    """Blocks whose sparse points are local energies of a species."""
    return [
        block
        for block in design.blocks
        if design.terms[block.term].descriptor.one_per_atom and len(block.points)
    ]


def _site_rows(design: Design, block: Block) -> FloatArray:
    """Whitened rows of some environments: the sparse points, where these are environments.

    ``K_MM T`` then, T being scaled eigenvectors of K_MM.
    """
    if block.sites is not None:
        kernel = design.terms[block.term].kernel
        return block.whitened(kernel(block.sites, block.points))
    return block.T / np.einsum("mr,mr->r", block.T, block.T)
