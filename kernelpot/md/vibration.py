"""The fastest vibration of a structure, and whether a time step resolves it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from ase import Atoms, units
from scipy.linalg import eigvalsh_tridiagonal

from kernelpot.common.caller import warn_user
from kernelpot.common.types import FloatArray

MIN_STEPS_PER_PERIOD = 10
# Largest displacement of an atom in finite differences [Å].
DISPLACEMENT = 0.01
# Curvatures below are those of rounding errors in forces [eV/Å^2/amu]; a period of 60 ps.
SMALLEST_CURVATURE = 1e-6
# What is left of a product is rounding [eV/Å^2/amu].
ROUNDING = 1e-6
# The search ends when the eigenvalue has moved by less, twice in a row.
CONVERGED = 1e-3


class TimestepWarning(UserWarning):
    """The time step is too long for the fastest vibration of the start structure."""


def fastest_period(atoms: Atoms, *, n_products: int = 12) -> float:
    """Period of the fastest harmonic vibration, from forces around a structure.

    The largest eigenvalue of the mass-weighted Hessian by Lanczos' method. A product with
    the Hessian is a central difference of two evaluations of the forces, so that there are
    at most 24 with the default, and no Hessian is kept. The eigenvalue is approached from
    below: from a random start its expected relative error is at most
    ``0.103 (log(3 N) / (n_products - 1))**2`` [1]_, 2 % of the period for a thousand
    atoms, and less where one vibration is much faster than the rest.

    Parameters
    ----------
    atoms : ase.Atoms
        With a calculator; not changed. Vibrations that constraints forbid do not count.
    n_products : int
        Products with the Hessian at most.

    Returns
    -------
    float
        [fs]; infinite where nothing vibrates, as a free atom. Hotter atoms meet stiffer
        parts of the potential and vibrate faster than in the harmonic limit.

    References
    ----------
    .. [1] J. Kuczynski and H. Wozniakowski, SIAM J. Matrix Anal. Appl. 13, 1094 (1992).
       doi:10.1137/0613066
    """
    probe = atoms.copy()
    probe.calc = atoms.calc
    root_masses = np.sqrt(atoms.get_masses())[:, None]

    def allowed(q: FloatArray) -> FloatArray:
        """Part of a mass-weighted displacement that constraints leave."""
        probe.set_momenta(q * root_masses)  # constraints act on velocities, q / root_masses
        return probe.get_momenta() / root_masses

    def product(q: FloatArray) -> FloatArray:
        """Mass-weighted Hessian times q."""
        shift = q / root_masses
        step = DISPLACEMENT / np.linalg.norm(shift, axis=1).max()
        forces = []
        for sign in (1.0, -1.0):
            probe.positions = atoms.positions + sign * step * shift
            forces.append(probe.get_forces(apply_constraint=False))
        probe.positions = atoms.positions
        return allowed((forces[1] - forces[0]) / (2 * step) / root_masses)

    start = allowed(np.random.default_rng(0).normal(size=(len(atoms), 3)))
    curvature = _largest_eigenvalue(product, start, n_products)
    if not curvature > SMALLEST_CURVATURE:
        return math.inf
    return 2 * math.pi / math.sqrt(curvature) / units.fs


def _largest_eigenvalue(
    product: Callable[[FloatArray], FloatArray], start: FloatArray, n_products: int
) -> float:
    """Lanczos' method for a symmetric operator on arrays like `start`; 0 from nothing.

    Not scipy's `eigsh`, whose restarts leave the number of products open.
    """
    basis: list[FloatArray] = []
    diagonal: list[float] = []
    beside: list[float] = []
    found = [0.0]
    vector = start
    for _ in range(n_products):
        size = float(np.linalg.norm(vector))
        if size <= ROUNDING * (1.0 + abs(found[-1])):  # the basis is complete
            break
        if basis:
            beside.append(size)
        basis.append(vector / size)
        vector = product(basis[-1])
        if not np.isfinite(vector).all():
            return math.nan
        diagonal.append(float(np.vdot(basis[-1], vector)))
        for b in [*basis, *basis]:  # twice is enough to stay orthogonal
            vector = vector - np.vdot(b, vector) * b
        found.append(float(eigvalsh_tridiagonal(np.array(diagonal), np.array(beside))[-1]))
        if len(diagonal) > 2 and np.ptp(found[-3:]) <= CONVERGED * abs(found[-1]):
            break
    return found[-1]


def warn_of_long_timestep(timestep: float, period: float) -> None:
    """Warn where a time step resolves the period of a vibration with too few steps.

    Parameters
    ----------
    timestep, period : float
        [fs].

    Warns
    -----
    TimestepWarning
        Below ten steps per period, or where velocity Verlet is unstable altogether: from
        a product of angular frequency and time step of 2 on.
    """
    if timestep * MIN_STEPS_PER_PERIOD <= period:
        return
    longest = period / MIN_STEPS_PER_PERIOD
    digits = 1 - math.floor(math.log10(longest))
    advised = math.floor(longest * 10**digits) / 10**digits
    consequence = (
        "the integration will not be stable"
        if 2 * math.pi * timestep / period >= 2
        else f"{period / timestep:.1f} steps per period, where {MIN_STEPS_PER_PERIOD} are needed"
    )
    warn_user(
        f"the time step of {timestep:g} fs is too long for the fastest vibration of the start "
        f"structure, with a period of {period:.3g} fs: {consequence}; take {advised:.2g} fs or "
        "less (hot atoms vibrate faster still)",
        TimestepWarning,
    )
