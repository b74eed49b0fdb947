"""Posterior and prior variances of local energies, species by species."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kernelpot.common.types import FloatArray
from kernelpot.gp.covariance import KernelTerm
from kernelpot.gp.sharing import rows_of_known_means
from kernelpot.regression.factors import TriangularFactor
from kernelpot.regression.local_variance import LocalVariance


def posterior_variances(
    terms: Sequence[KernelTerm],
    factor: TriangularFactor,
    whitening: Mapping[tuple[int, int], FloatArray],
    columns: Mapping[int, slice],
    *,
    fix_gauge: bool = False,
) -> dict[int, LocalVariance]:
    """Posterior of the local energies of each species.

    Parameters
    ----------
    terms : sequence of KernelTerm
    factor : TriangularFactor
    whitening : mapping of (species, term) to ndarray
    columns : mapping of species index to slice
        Whitened columns of each species.
    fix_gauge : bool
        Take the mean local energy of each species' sparse points as known, so that the
        undetermined share of the energy among species does not count.
    """
    blocks = {z: [whitening[key] for key in sorted(whitening) if key[0] == z] for z in columns}
    if fix_gauge:
        factor = factor.copy()
        rows = rows_of_known_means(whitening, columns, factor.n_features)
        factor.update(rows, np.zeros(len(rows)))
    return {
        z: LocalVariance.of(prior_variance(terms, z), blocks[z], factor.posterior_factor(part))
        for z, part in columns.items()
    }


def prior_variance(terms: Sequence[KernelTerm], species: int) -> float:
    """Prior variance of a local energy of a species [eV^2]."""
    return float(sum(t.kernel.diagonal() for t in terms if species in t.sparse))
