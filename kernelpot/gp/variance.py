"""Posterior variances of local energies, species by species."""

from __future__ import annotations

from kernelpot.gp.design import Design
from kernelpot.regression.factors import TriangularFactor
from kernelpot.regression.local_variance import LocalVariance


def posterior_variances(design: Design, factor: TriangularFactor) -> dict[int, LocalVariance]:
    """Posterior of the local energies of each species.

    Parameters
    ----------
    design : Design
    factor : TriangularFactor
    """
    return {
        z: LocalVariance.of(
            [block.T for _, block in design.blocks_of(design.species[z])],
            factor.posterior_factor(design.columns_of(design.species[z])),
        )
        for z in design.present
    }
