r"""The safety net: where the model does not know, its energy is a pessimistic one.

.. math::

    E = E_\mathrm{base} + \sum_i \left[ X_i + \left(1 - \textstyle\prod_j D(r_{ij})\right)
        h\left(\varepsilon_\mathrm{c}(Z_i) - X_i\right) \right], \qquad
    X_i = \varepsilon_i + W \ln\left(1 + \kappa A \, g\left(s_i - s_0\right) / W\right)
        + S(s_i) \, h\left(\bar\varepsilon(Z_i) - \varepsilon_i\right)

s is the posterior standard deviation of a local energy, given those of the data
(`kernelpot.gp.known_sites`), and :math:`s_0` that up to which environments of a species count
as known. Beyond, two things are added to the local energy:

- an upper confidence bound: :math:`\kappa` times :math:`g(x) = x^3 / (x + w)^2`, C2 where it
  sets in and :math:`x - 2w` further out, and times the amplitude A that the weights found ask
  of the prior, by which standard deviations beyond the data are too small. As long as local
  energies are wrong by less than :math:`\kappa A` standard deviations, the energy lies above
  the true one but for what counts as known, so that no path leads to energies the true
  surface does not have. Beyond the energy W of a bond it grows ever more slowly: there are no
  errors larger than what binds atoms;
- a floor, for where they are wrong by more: S is a C2 step, 0 at :math:`s_0` and 1 at
  :math:`s_0 + 4w`, beyond which no local energy lies below the average of its species in the
  data, :math:`\bar\varepsilon`. Together, unknown atoms have at least the average energy of the
  data.

The last part of E acts where atoms come nearer than any of the data did: D is a C2 step in the
distance, 0 below 0.5 and 1 above 0.7 of the shortest distance of that pair of species. Inside
the wall the kernels say nothing, and are lifted to the energy of contact
:math:`\varepsilon_\mathrm{c}`. Here :math:`h(x) = (x + \sqrt{x^2 + \Delta^2}) / 2` is a smooth
positive part.

Nothing of this ever lowers an energy. It depends on local energies through differences that
adding a constant to those of a species leaves alone, and forces and stress are the exact
derivatives of the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from kernelpot.common.smoothstep import smoothstep
from kernelpot.common.types import FloatArray, IntArray
from kernelpot.data.system import Contribution, System
from kernelpot.gp.blend import Blended
from kernelpot.safety.damping import Damping
from kernelpot.safety.thresholds import KAPPA, SafetyNet

# Atoms with a larger penalty are counted as beyond the data [eV].
NOTICEABLE = 1e-3
# Beyond this energy the penalty of an atom grows as its logarithm [eV]: about that of a bond,
# shared by two atoms.
BOND_ENERGY = 2.0
# Multiple of the width of the penalty over which the floor rises.
FLOOR_RISE = 4.0
# Widths of the smooth positive part, at the floor and at contact [eV].
FLOOR_WIDTH, CONTACT_WIDTH = 0.1, 0.5


class GateWarning(UserWarning):
    """Some atoms are beyond the training data."""


class GateClosedError(RuntimeError):
    """Some atoms are beyond the training data, and the user asked to stop there."""


@dataclass(frozen=True)
class VarianceGate:
    """What to do where the model does not know: how pessimistic to be, and how to react.

    Parameters
    ----------
    std_known : float or mapping of symbol to float, optional
        Local standard deviation up to which an atom counts as known [eV]. Default: found
        for each species when the potential was fitted, from the atoms of its data.
    kappa : float, default=3
        Standard deviations by which the energy of an atom beyond is raised for each by
        which it is less known than that; standard deviations count as many times as the fit
        found its prior too narrow (`SafetyNet.amplitude`).
    on_gate : {"warn", "stop"} or callable, optional
        What a calculator does when it finds atoms beyond the data: warn once (default),
        raise `GateClosedError`, or call ``on_gate(atoms, penalty)`` with the penalty of
        each atom [eV]. None: nothing.

    Raises
    ------
    ValueError
        If a parameter is not positive.
    """

    std_known: float | Mapping[str, float] | None = None
    kappa: float = KAPPA
    on_gate: str | Callable[[Atoms, FloatArray], Any] | None = "warn"

    def __post_init__(self) -> None:
        """Check what can be checked without a potential."""
        stds = self.std_known
        for value in stds.values() if isinstance(stds, Mapping) else [stds]:
            if value is not None and not (np.isfinite(value) and value > 0):
                raise ValueError(f"`std_known` must be positive, got {value!r} eV")
        if not (np.isfinite(self.kappa) and self.kappa > 0):
            raise ValueError(
                f"`kappa` must be positive, got {self.kappa!r}; gate=None is without a gate"
            )
        if isinstance(self.on_gate, str) and self.on_gate not in ("warn", "stop"):
            raise ValueError(
                f"`on_gate` must be 'warn', 'stop', a callable or None, got {self.on_gate!r}"
            )

    def known(self, species: Sequence[int], net: SafetyNet) -> FloatArray:
        """Local standard deviation up to which atoms of each species count as known.

        Parameters
        ----------
        species : sequence of int
            Atomic numbers.
        net : SafetyNet
            What the fit found, where nothing is given.

        Returns
        -------
        ndarray of shape (n_species,)
            [eV].

        Raises
        ------
        ValueError
            If a symbol is unknown.
        """
        symbols = [chemical_symbols[z] for z in species]
        given = self.std_known
        if given is None:
            return net.std_known
        if not isinstance(given, Mapping):
            return np.full(len(symbols), float(given))
        unknown = set(given) - set(symbols)
        if unknown:
            raise ValueError(
                f"`std_known` names {', '.join(sorted(unknown))}; the potential knows "
                f"{', '.join(symbols)}"
            )
        return np.array([given.get(s, d) for s, d in zip(symbols, net.std_known, strict=True)])


def as_gate(gate: VarianceGate | bool | None) -> VarianceGate | None:
    """The gate meant by an argument: True for the default one, False or None for none.

    Raises
    ------
    TypeError
        If it is neither.
    """
    if gate is None or isinstance(gate, VarianceGate):
        return gate
    if isinstance(gate, bool):
        return VarianceGate() if gate else None
    raise TypeError(f"`gate` must be a VarianceGate, True, False or None, got {gate!r}")


def penalty(
    std: FloatArray, known: FloatArray, width: FloatArray, kappa: float = KAPPA
) -> tuple[FloatArray, FloatArray]:
    """Energy that pessimism adds, and its derivative by the standard deviation.

    Parameters
    ----------
    std : ndarray
        Local standard deviations [eV].
    known : ndarray
        Those up to which nothing is added [eV].
    width : ndarray
        Beyond `known`, over what the penalty sets in [eV].
    kappa : float

    Returns
    -------
    penalty, slope : ndarray
        [eV] and without unit.
    """
    # nothing is added where there is nothing to go by
    limited = np.isfinite(known)
    x = np.maximum(np.subtract(std, known, out=np.zeros_like(std), where=limited), 0.0)
    share = x / (x + np.where(limited, width, 1.0))
    bound, slope = kappa * x * share**2, kappa * share**2 * (3.0 - 2.0 * share)
    return BOND_ENERGY * np.log1p(bound / BOND_ENERGY), slope / (1.0 + bound / BOND_ENERGY)


def floor(
    std: FloatArray,
    energies: FloatArray,
    known: FloatArray,
    width: FloatArray,
    average: FloatArray,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Energy that lifts unknown local energies to an average, and its derivatives.

    Parameters
    ----------
    std, energies : ndarray
        Local standard deviations and energies [eV].
    known, width : ndarray
        As for `penalty`.
    average : ndarray
        Where the floor is [eV].

    Returns
    -------
    lift, by_energy, by_std : ndarray
        [eV], and without unit.
    """
    limited = np.isfinite(known)
    beyond = np.subtract(std, known, out=np.zeros_like(std), where=limited)
    rise = FLOOR_RISE * np.where(limited, width, 1.0)
    risen, rising = smoothstep(beyond / rise)
    below, share = _positive_part(average - energies, FLOOR_WIDTH)
    return risen * below, -risen * share, rising / rise * below


def _positive_part(x: FloatArray, width: float) -> tuple[FloatArray, FloatArray]:
    """Smooth positive part, never negative, and its derivative."""
    root = np.sqrt(x**2 + width**2)
    return 0.5 * (x + root), 0.5 * (1.0 + x / root)


class PessimisticEnergies:
    """Local energies with what the safety net adds; a `kernelpot.gp.blend.Blend`.

    Parameters
    ----------
    net : SafetyNet
    z_index : ndarray of shape (n_atoms,)
        Species index of each atom.
    known : ndarray of shape (n_species,) or None
        Standard deviations up to which environments count as known [eV]; None: no
        pessimism, damping only.
    kappa : float
    damping : Damping, optional
    """

    gauge_fixed = True

    def __init__(
        self,
        net: SafetyNet,
        z_index: IntArray,
        known: FloatArray | None,
        kappa: float,
        damping: Damping | None,
    ) -> None:
        self._net = net
        self._z_index = z_index
        self._known = known
        self._kappa = kappa
        self._damping = damping
        self._keep = None if damping is None else damping.keep

    def irrelevant_below(self, species: int) -> float:
        """Variance up to which environments of a species count as known [eV^2]."""
        return np.inf if self._known is None else float(self._known[species]) ** 2

    def __call__(self, atoms: slice, energies: FloatArray, variances: FloatArray) -> Blended:
        """Raised energies and their derivatives."""
        raised, by_energy = energies, np.ones(len(energies))
        by_variance = np.zeros(len(energies))
        if self._known is not None:
            raised, by_energy, by_variance = self._pessimistic(atoms, energies, variances)
        added = raised - energies
        if self._keep is None:
            return Blended(raised, by_energy, by_variance, added=added)
        lift, share = _positive_part(
            self._net.contact[self._z_index[atoms]] - raised, CONTACT_WIDTH
        )
        near = 1.0 - self._keep[atoms]
        left = 1.0 - near * share
        return Blended(raised + near * lift, left * by_energy, left * by_variance, -lift, added)

    def _pessimistic(
        self, atoms: slice, energies: FloatArray, variances: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Local energies with what is added to unknown ones, by energy and by variance."""
        assert self._known is not None
        z = self._z_index[atoms]
        known, std = self._known[z], np.sqrt(variances)
        if np.all(std <= known):  # to nothing of which anything is added
            return energies, np.ones_like(energies), np.zeros_like(energies)
        width = self._net.width[z]
        bound, by_std = penalty(std, known, width, self._kappa * self._net.amplitude)
        lift, by_energy, lift_by_std = floor(std, energies, known, width, self._net.average[z])
        by_std += lift_by_std
        by_variance = np.divide(by_std, 2.0 * std, out=np.zeros_like(std), where=by_std > 0)
        return energies + bound + lift, 1.0 + by_energy, by_variance

    def pull(self, system: System, by_keep: FloatArray, result: Contribution) -> None:
        """Add the derivative through the damping."""
        if self._damping is not None:
            d = self._damping
            radial = by_keep[d.centers] * d.slopes / system.distances[d.pairs]
            result.gradient[d.pairs] += radial[:, None] * system.displacements[d.pairs]
