r"""Leave one structure out in closed form, at the same sparse points.

With noise-scaled whitened rows A of all data, :math:`R^\top R = I + A^\top A`, and
:math:`A_B` those of one structure, the hat matrix has the block

.. math:: H_{BB} = A_B (R^\top R)^{-1} A_B^\top ,

and a fit to everything but that structure leaves the residuals [1]_

.. math:: e_{LOO} = (I - H_{BB})^{-1} e_B , \qquad
          \operatorname{cov} = (I - H_{BB})^{-1}

in units of the noise; the covariance holds the noise itself (the identity) and what the
other data leave open of the weights. Nothing is refitted.

Sparse points, isolated-atom energies and baseline stay those of the fit to all data, so
the result is optimistic about novelty: an environment of the structure left out may be
among the sparse points.

References
----------
.. [1] Cook, Technometrics 19, 15 (1977); Rasmussen, Williams, Gaussian Processes for
   Machine Learning (2006), sec. 5.4.2, for blocks of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg

from kernelpot.common.parallel import map_in_order, single_blas_thread
from kernelpot.common.types import KINDS, FloatArray, Group
from kernelpot.regression.factors import TriangularFactor
from kernelpot.regression.rows import StructureRows

# Rows handled at a time (a scaled copy of them is made).
CHUNK_ROWS = 1_000
# Eigenvalues of I - H below this are rounding: the structure alone determines that
# combination of its labels, and what the others would say of it cannot be resolved.
RESOLUTION = 1e-11


@dataclass(frozen=True)
class LeftOut:
    """What a fit without one structure would have predicted for it.

    Attributes
    ----------
    rows : StructureRows
        The structure.
    residual : ndarray of shape (n,)
        Label minus prediction [eV, eV/Å, eV].
    noise : ndarray of shape (n,)
        Standard deviation of the noise of each label, same units.
    variance : ndarray of shape (n,) or None
        Of the prediction without noise and without novelty, same units squared.
    resolved : bool
        False where the other data say so little of some combination of the labels that
        rounding decides (it was floored).
    """

    rows: StructureRows
    residual: FloatArray
    noise: FloatArray
    variance: FloatArray | None
    resolved: bool

    def of(self, kind: str) -> FloatArray:
        """Residuals of one kind: per atom [eV], per component [eV/Å], stress [eV/Å^3]."""
        return self._scaled(kind, self.residual)

    def std(self, kind: str) -> FloatArray:
        """Standard deviation of the prediction, as `of`."""
        if self.variance is None:
            raise ValueError("the covariance was not asked for")
        return self._scaled(kind, np.sqrt(self.variance))

    def _scaled(self, kind: str, values: FloatArray) -> FloatArray:
        scale = {"energy": 1.0 / self.rows.n_atoms, "forces": 1.0, "stress": 1.0}[kind]
        if kind == "stress" and self.rows.volume:
            scale = 1.0 / self.rows.volume
        return values[self.rows.kind == KINDS.index(kind)] * scale


def leave_one_out(
    structures: Iterable[StructureRows],
    factor: TriangularFactor,
    sigma: Callable[[Group], float] | Mapping[Group, float],
    scale: FloatArray | None = None,
    *,
    variance: bool = False,
    included: Callable[[StructureRows], bool] | None = None,
    n_threads: int = 1,
) -> Iterator[LeftOut]:
    """Residuals of structures under fits without each of them.

    Parameters
    ----------
    structures : iterable of StructureRows
        Structures that `factor` holds; consumed some at a time.
    factor : TriangularFactor
        Posterior of all data at these `sigma` and `scale`.
    sigma : callable or mapping
        Noise parameter of a group.
    scale : ndarray of shape (n_columns,), optional
        Multiplies the columns, as in `GroupedFactor.posterior`.
    variance : bool
        Also the predictive variance.
    included : callable, optional
        Whether `factor` holds a structure; the residuals of others are taken as they are.
    n_threads : int
        The result does not depend on it.

    Yields
    ------
    LeftOut
        One per structure, in order.
    """

    def work(chunk: list[StructureRows]) -> list[LeftOut]:
        return leave_chunk(chunk, factor, sigma, scale, variance, included)

    # many small matrices: nested threads would only fight
    with single_blas_thread():
        for found in map_in_order(work, chunks(structures), n_threads):
            yield from found


class Without:
    r"""What a factor is without some structures, all left out together.

    With the columns :math:`Z = R^{-T} A_B^\top` of their rows,

    .. math:: (R^\top R - A_B^\top A_B)^{-1}
              = R^{-1} \left(I + Z (I - H_{BB})^{-1} Z^\top\right) R^{-T} .

    Parameters
    ----------
    structures : sequence of StructureRows
        Structures that `factor` holds.
    factor, sigma, scale
        As in `leave_one_out`.

    Attributes
    ----------
    weights : ndarray of shape (n_columns,)
        Of a fit without them.
    """

    def __init__(
        self,
        structures: Sequence[StructureRows],
        factor: TriangularFactor,
        sigma: Callable[[Group], float] | Mapping[Group, float],
        scale: FloatArray | None = None,
    ) -> None:
        noise = [rows.noise(sigma) for rows in structures]
        Z, e = _against(structures, noise, factor, scale)
        values, vectors = scipy.linalg.eigh(Z.T @ Z, driver="evd", check_finite=False)
        left = np.maximum(1.0 - values, RESOLUTION)
        self._triangle = np.asfortranarray(factor.R)
        self._root = Z @ (vectors / np.sqrt(left))
        # w - (R^T R)^-1 A_B^T (I - H)^-1 e
        target = factor.matrix[:-1, -1] - self._root @ ((vectors.T @ e) / np.sqrt(left))
        self.weights = scipy.linalg.blas.dtrsv(self._triangle, target)

    def inverse(self, w: FloatArray) -> FloatArray:
        """The inverse of the normal matrix without them, times a vector.

        Parameters
        ----------
        w : ndarray of shape (n_columns,)

        Returns
        -------
        ndarray of shape (n_columns,)
        """
        half = scipy.linalg.blas.dtrsv(self._triangle, w, trans=1)
        half += self._root @ (self._root.T @ half)
        return np.asarray(scipy.linalg.blas.dtrsv(self._triangle, half))


def leave_out_together(
    folds: Iterable[Sequence[StructureRows]],
    factor: TriangularFactor,
    sigma: Callable[[Group], float] | Mapping[Group, float],
    scale: FloatArray | None = None,
) -> list[LeftOut]:
    """Residuals of structures under fits without all of their fold.

    Parameters
    ----------
    folds : iterable of sequence of StructureRows
        Structures that `factor` holds.
    factor, sigma, scale
        As in `leave_one_out`.

    Returns
    -------
    list of LeftOut
        In the order of the folds, without variances.
    """
    found = []
    for fold in folds:
        weights = Without(fold, factor, sigma, scale).weights
        if scale is not None:
            weights = scale * weights
        for rows in fold:
            residual = (rows.y - rows.phi @ weights) * rows.unit
            found.append(LeftOut(rows, residual, rows.noise(sigma) * rows.unit, None, True))
    return found


def _against(
    structures: Sequence[StructureRows],
    noise: Sequence[FloatArray],
    factor: TriangularFactor,
    scale: FloatArray | None,
) -> tuple[FloatArray, FloatArray]:
    """Columns R^-T A^T, so that ``H = Z.T @ Z``, and residuals, in units of the noise."""
    inverse = 1.0 / np.concatenate(noise)
    A = np.concatenate([rows.phi for rows in structures])
    A *= inverse[:, None]
    if scale is not None:
        A *= scale
    y = np.concatenate([rows.y for rows in structures]) * inverse
    Z = scipy.linalg.solve_triangular(
        factor.R, A.T, trans="T", overwrite_b=True, check_finite=False
    )
    return Z, y - factor.matrix[:-1, -1] @ Z


def leave_chunk(
    chunk: Sequence[StructureRows],
    factor: TriangularFactor,
    sigma: Callable[[Group], float] | Mapping[Group, float],
    scale: FloatArray | None,
    variance: bool = False,
    included: Callable[[StructureRows], bool] | None = None,
) -> list[LeftOut]:
    """Leave out each of a few structures; see `leave_one_out`."""
    noise = [rows.noise(sigma) for rows in chunk]
    Z, e = _against(chunk, noise, factor, scale)
    result = []
    start = 0
    for rows, sigmas in zip(chunk, noise, strict=True):
        part = slice(start, start + len(rows.y))
        start = part.stop
        if included is None or included(rows):
            residual, var, resolved = _without(Z[:, part], e[part], variance)
        else:
            residual, resolved = e[part], True
            var = np.einsum("mb,mb->b", Z[:, part], Z[:, part]) if variance else None
        unit = sigmas * rows.unit
        result.append(
            LeftOut(
                rows,
                residual * unit,
                unit,
                None if var is None else var * unit**2,
                resolved,
            )
        )
    return result


def _without(
    Z: FloatArray, e: FloatArray, variance: bool
) -> tuple[FloatArray, FloatArray | None, bool]:
    """``(I - H)^-1 e`` and the diagonal of ``(I - H)^-1 - I``."""
    H = Z.T @ Z
    if not variance:
        try:
            factored = scipy.linalg.cho_factor(np.eye(len(e)) - H, lower=True, check_finite=False)
            # the smallest pivot bounds the smallest eigenvalue from above
            if factored[0].diagonal().min() ** 2 > 1e3 * RESOLUTION:
                return scipy.linalg.cho_solve(factored, e, check_finite=False), None, True
        except np.linalg.LinAlgError:
            pass
    values, vectors = scipy.linalg.eigh(H, driver="evd", check_finite=False)
    left = 1.0 - values
    resolved = bool(left[-1] > RESOLUTION)
    left = np.maximum(left, RESOLUTION)
    residual = vectors @ ((vectors.T @ e) / left)
    # H may carry negative rounding where it has no rank
    open_ = np.einsum("bk,k->b", vectors**2, np.maximum(values, 0.0) / left)
    return residual, open_, resolved


def chunks(structures: Iterable[StructureRows]) -> Iterator[list[StructureRows]]:
    """Runs of structures of at most `CHUNK_ROWS` rows (or one larger structure)."""
    chunk: list[StructureRows] = []
    size = 0
    for rows in structures:
        if chunk and size + len(rows.y) > CHUNK_ROWS:
            yield chunk
            chunk, size = [], 0
        chunk.append(rows)
        size += len(rows.y)
    if chunk:
        yield chunk
