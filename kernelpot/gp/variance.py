"""Posterior variances of local energies, species by species."""

from __future__ import annotations

import numpy as np

from kernelpot.gp.design import Design
from kernelpot.gp.sharing import rows_of_known_means
from kernelpot.regression.factors import TriangularFactor
from kernelpot.regression.local_variance import LocalVariance


def posterior_variances(
    design: Design, factor: TriangularFactor, *, fix_gauge: bool = False
) -> dict[int, LocalVariance]:
    """Posterior of the local energies of each species.

    Parameters
    ----------
    design : Design
    factor : TriangularFactor
    fix_gauge : bool
        Take the mean local energy of each species' sparse points as known, so that the
        undetermined share of the energy among species does not count.
    """
    if fix_gauge:
        factor = factor.copy()
        rows = rows_of_known_means(design)
        factor.update(rows, np.zeros(len(rows)))
    return {
        z: LocalVariance.of(
            [block.T for _, block in design.blocks_of(design.species[z])],
            factor.posterior_factor(design.columns_of(design.species[z])),
        )
        for z in design.present
    }
