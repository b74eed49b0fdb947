r"""The safety net: where the model does not know, a known energy takes its place.

.. math::

    E = E_\mathrm{base} + \sum_i \left[ (1 - w_i)\, \varepsilon_i
        + w_i\, \varepsilon_\mathrm{fb}(Z_i) \right], \qquad
    1 - w_i = \left(1 - S(x_i)\right) \prod_j D(r_{ij})

S is a C2 step in the local posterior variance (given the mean local energy of each
species: how data of one composition share their energy among species is undetermined, and
is no reason to distrust an environment),
:math:`x = (v - v_\mathrm{lo}) / (v_\mathrm{hi} - v_\mathrm{lo})`, and D a C2 step in the
distance, 0 below 0.5 and 1 above 0.7 of the shortest distance of that pair of species in
the training data: inside the wall the kernels say nothing. Forces and stress are the
exact derivatives of this energy, those of the weights included, so molecular dynamics
conserves energy while the gate closes and opens. The fallback
:math:`\varepsilon_\mathrm{fb}` lies above every local energy of the training data:
entering the unknown always costs energy.
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
from kernelpot.safety.thresholds import SafetyNet

# Atoms gated by more than this are counted.
GATED_WEIGHT = 0.01


class GateWarning(UserWarning):
    """The gate has begun to replace the local energies of some atoms."""


class GateClosedError(RuntimeError):
    """The gate has begun to close and the user asked to stop there."""


@dataclass(frozen=True)
class VarianceGate:
    """What to do where the model does not know: thresholds and reaction.

    Parameters
    ----------
    std_low : float or mapping of symbol to float, optional
        Local standard deviation at which the gate begins to close [eV]. Default: twice
        the 99.9 % quantile of structures the sparse points were not chosen from, found
        for each species when the potential was fitted.
    std_high : float or mapping of symbol to float, optional
        Where it is closed [eV]; default three times `std_low`, or more where that
        would shake atoms faster than time steps resolve, found when the potential was
        fitted.
    on_gate : {"warn", "stop"} or callable, optional
        What a calculator does when it finds gated atoms: warn once (default), raise
        `GateClosedError`, or call ``on_gate(atoms, weights)``. None: nothing.

    Raises
    ------
    ValueError
        If a threshold is not positive or the order is wrong.
    """

    std_low: float | Mapping[str, float] | None = None
    std_high: float | Mapping[str, float] | None = None
    on_gate: str | Callable[[Atoms, FloatArray], Any] | None = "warn"

    def __post_init__(self) -> None:
        """Check what can be checked without a potential."""
        for name in ("std_low", "std_high"):
            given = getattr(self, name)
            values = given.values() if isinstance(given, Mapping) else [given]
            for value in values:
                if value is not None and not (np.isfinite(value) and value > 0):
                    raise ValueError(f"`{name}` must be positive, got {value!r} eV")
        if isinstance(self.on_gate, str) and self.on_gate not in ("warn", "stop"):
            raise ValueError(
                f"`on_gate` must be 'warn', 'stop', a callable or None, got {self.on_gate!r}"
            )

    def thresholds(self, species: Sequence[int], net: SafetyNet) -> tuple[FloatArray, FloatArray]:
        """Variances at which the gate begins to close and is closed, per species.

        Parameters
        ----------
        species : sequence of int
            Atomic numbers.
        net : SafetyNet
            What the fit found, where no threshold is given.

        Returns
        -------
        low, high : ndarray of shape (n_species,)
            [eV^2].

        Raises
        ------
        ValueError
            If a symbol is unknown, or `std_high` does not exceed `std_low`.
        """
        symbols = [chemical_symbols[z] for z in species]
        low = self._fill("std_low", symbols, net.std_low)
        high = self._fill("std_high", symbols, net.closed_factor * low)
        for symbol, a, b in zip(symbols, low, high, strict=True):
            if not b > a and np.isfinite(a):
                raise ValueError(
                    f"`std_high` of {symbol} must exceed its `std_low` of {a:.4g} eV, got {b:.4g}"
                )
        return low**2, high**2

    def _fill(self, name: str, symbols: Sequence[str], defaults: FloatArray) -> FloatArray:
        given = getattr(self, name)
        if given is None:
            return defaults
        if not isinstance(given, Mapping):
            return np.full(len(symbols), float(given))
        unknown = set(given) - set(symbols)
        if unknown:
            raise ValueError(
                f"`{name}` names {', '.join(sorted(unknown))}; the potential knows "
                f"{', '.join(symbols)}"
            )
        return np.array([given.get(s, d) for s, d in zip(symbols, defaults, strict=True)])


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


class GatedEnergies:
    """Local energies blended with the fallback; a `kernelpot.gp.blend.Blend`.

    Its derivative by a local energy is one less the share of the fallback.

    Parameters
    ----------
    net : SafetyNet
    z_index : ndarray of shape (n_atoms,)
        Species index of each atom.
    thresholds : (low, high) or None
        Variances of each species between which the gate closes [eV^2]; None: damping
        only.
    damping : Damping, optional
    """

    gauge_fixed = True

    def __init__(
        self,
        net: SafetyNet,
        z_index: IntArray,
        thresholds: tuple[FloatArray, FloatArray] | None,
        damping: Damping | None,
    ) -> None:
        self._thresholds = thresholds
        self._z_index = z_index
        self._fallback = net.fallback[z_index]
        self._damping = damping
        self._keep = np.ones(len(z_index)) if damping is None else damping.keep

    def irrelevant_below(self, species: int) -> float:
        """Variance of a species up to which the gate is open [eV^2]."""
        return np.inf if self._thresholds is None else float(self._thresholds[0][species])

    def __call__(self, atoms: slice, energies: FloatArray, variances: FloatArray) -> Blended:
        """Blended energies and their derivatives."""
        keep, fallback = self._keep[atoms], self._fallback[atoms]
        closed = by_variance = np.zeros(len(energies))
        above = energies - fallback
        if self._thresholds is not None:
            low, high = (t[self._z_index[atoms]] for t in self._thresholds)
            # never closed where there is nothing to go by
            width = np.subtract(high, low, out=np.ones(len(low)), where=np.isfinite(low))
            closed, slope = smoothstep((variances - low) / width)
            by_variance = -keep * above * slope / width
        share = (1.0 - closed) * keep
        return Blended(fallback + share * above, share, by_variance, (1.0 - closed) * above)

    def pull(self, system: System, by_keep: FloatArray, result: Contribution) -> None:
        """Add the derivative through the damping."""
        if self._damping is not None:
            d = self._damping
            radial = by_keep[d.centers] * d.slopes / system.distances[d.pairs]
            result.gradient[d.pairs] += radial[:, None] * system.displacements[d.pairs]
