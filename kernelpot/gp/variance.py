"""Posterior variances of local energies, species by species."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from kernelpot.common.parallel import map_in_order
from kernelpot.gp.design import Design
from kernelpot.regression.factors import TriangularFactor
from kernelpot.regression.local_variance import LocalVariance, SparseBasis


def posterior_variances(
    design: Design, factors: Sequence[TriangularFactor], *, n_threads: int = 1
) -> list[dict[int, LocalVariance]]:
    """Posteriors of the local energies of each species, by several factors.

    Parameters
    ----------
    design : Design
    factors : sequence of TriangularFactor
    n_threads : int

    Returns
    -------
    list of dict of int to LocalVariance
        Of each factor, by index of the species.
    """
    columns = [design.columns_of(design.species[z]) for z in design.present]
    bases = map_in_order(
        SparseBasis.of,
        [[b.T for _, b in design.blocks_of(design.species[z])] for z in design.present],
        n_threads,
    )
    tasks = [
        (basis, factor, own)
        for (basis, own), factor in product(zip(bases, columns, strict=True), factors)
    ]
    found = iter(
        map_in_order(
            lambda task: LocalVariance.of(task[0], task[1].posterior_factor(task[2])),
            tasks,
            n_threads,
        )
    )
    by_species = {z: [next(found) for _ in factors] for z in design.present}
    return [{z: own[k] for z, own in by_species.items()} for k in range(len(factors))]
