"""The part of prior variances that sparse points do not span."""

from __future__ import annotations

import numpy as np

from kernelpot.common.types import FloatArray

# Novelty k** - |phi|^2 below this share of k** (of what k** would be were nothing to cancel)
# counts as zero. Whitening divides by square roots of eigenvalues down to 1e-12 of the
# largest and so magnifies rounding, but in directions that explain little: at most 1e-13
# was seen (silicon and ethanol, up to 3,000 sparse points and rank deficient).
RESOLUTION = 1e-12
# Negative beyond this is no rounding. Ten thousand times what was seen, as the worst case
# (the smallest kept eigenvalues are relatively off by 1e-16 M / 1e-12) is larger.
ROUNDING = 1e-8


def novelty(phi: FloatArray, prior: FloatArray, scale: FloatArray | None = None) -> FloatArray:
    """What of prior variances whitened covariances leave.

    Parameters
    ----------
    phi : ndarray of shape (n, n_columns)
        Whitened covariances with the sparse points.
    prior : ndarray of shape (n,)
        Prior variances.
    scale : ndarray of shape (n,), optional
        What they would be were nothing to cancel: rounding is relative to this
        (every force in a perfect crystal cancels). By default the prior.

    Returns
    -------
    ndarray of shape (n,)
        Not negative; zero below numerical resolution.

    Raises
    ------
    FloatingPointError
        If it is negative beyond rounding (a bug, never clipped silently).
    """
    scale = prior if scale is None else scale
    found = prior - np.einsum("nm,nm->n", phi, phi)
    if np.any(found < -ROUNDING * scale):
        worst = int(np.argmin(found + ROUNDING * scale))
        raise FloatingPointError(
            f"negative variance {found[worst]:.3g} (prior {prior[worst]:.3g}): the "
            "whitened features explain more than there is"
        )
    found[found < RESOLUTION * scale] = 0.0
    return found
