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
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from ase import Atoms
from ase.data import chemical_symbols

from kernelpot.descriptors import species_index
from kernelpot.evaluation import LocalModel
from kernelpot.neighbors import NeighborList, neighbor_list
from kernelpot.switching import smoothstep

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Pair = tuple[int, int]

# D rises from 0 to 1 between these fractions of the shortest training distance.
DAMPING_INNER, DAMPING_OUTER = 0.5, 0.7
# The fallback energy lies this far above the largest local energy of the data [eV].
FALLBACK_MARGIN = 0.1
# The gate begins to close at this multiple of a high quantile of the std of structures
# that were left out of the choice of sparse points, ...
QUANTILE, QUANTILE_FACTOR = 0.999, 2.0
# ... which is about so much larger than that of structures the choice was made from.
CHOSEN_FROM_FACTOR = 3.5
# It is closed at this multiple of the std at which it begins.
CLOSED_FACTOR = 3.0
# With fewer atoms left out, up to so many structures the choice was made from count too.
ENOUGH_ATOMS, MAX_STRUCTURES = 200, 100
# It begins at most at this share of the prior std, so that it can close at all.
LARGEST_SHARE_OF_PRIOR = 0.3
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
        Where it is closed [eV]; default three times `std_low`.
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

    def thresholds(
        self, species: Sequence[int], defaults: npt.ArrayLike
    ) -> tuple[FloatArray, FloatArray]:
        """Variances at which the gate begins to close and is closed, per species.

        Parameters
        ----------
        species : sequence of int
            Atomic numbers.
        defaults : array_like of shape (n_species,)
            `std_low` of each where none is given [eV].

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
        low = self._fill("std_low", symbols, np.asarray(defaults, dtype=float))
        high = self._fill("std_high", symbols, CLOSED_FACTOR * low)
        for symbol, a, b in zip(symbols, low, high, strict=True):
            if not b > a:
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


@dataclass(frozen=True)
class SafetyNet:
    """What a fit learned about the limits of its data.

    Attributes
    ----------
    std_low : ndarray of shape (n_species,)
        Local standard deviation at which the gate begins to close [eV].
    fallback : ndarray of shape (n_species,)
        Local energy that takes over, beyond e0 and baseline [eV].
    d_min : mapping of (Z, Z') to float
        Distances that scale the damping [Å]; empty without a wall.
    note : str
        How the thresholds were found.
    """

    std_low: FloatArray
    fallback: FloatArray
    d_min: Mapping[Pair, float]
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the model file.

        Returns
        -------
        dict
        """
        return {
            "std_low": self.std_low.tolist(),
            "fallback": self.fallback.tolist(),
            "d_min": [[a, b, d] for (a, b), d in sorted(self.d_min.items())],
            "note": self.note,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SafetyNet:
        """Inverse of `to_dict`.

        Parameters
        ----------
        data : mapping

        Returns
        -------
        SafetyNet
        """
        return cls(
            np.array(data["std_low"], dtype=float),
            np.array(data["fallback"], dtype=float),
            {(int(a), int(b)): float(d) for a, b, d in data["d_min"]},
            data["note"],
        )

    def raised(
        self,
        local: LocalModel,
        species: Sequence[int],
        structures: Sequence[Atoms],
        *,
        n_threads: int = 1,
    ) -> SafetyNet:
        """Return the net for a model that has seen more structures.

        The fallback rises above their local energies where it has to; thresholds stay.

        Parameters
        ----------
        local : LocalModel
            The updated model.
        species : sequence of int
            Atomic numbers.
        structures : sequence of ase.Atoms
            The new ones.
        n_threads : int

        Returns
        -------
        SafetyNet
        """
        largest = np.full(len(species), -np.inf)
        for atoms in structures:
            z_index, energies = _local_energies(local, species, atoms, None, n_threads)
            np.maximum.at(largest, z_index, energies)
        return replace(self, fallback=np.maximum(self.fallback, largest + FALLBACK_MARGIN))

    def damping(
        self, numbers: IntArray, pairs: NeighborList, distances: FloatArray
    ) -> Damping | None:
        """Product over neighbors of D(r) of every atom; None where it is 1 everywhere.

        Parameters
        ----------
        numbers : ndarray of shape (n_atoms,)
            Atomic numbers.
        pairs : NeighborList
        distances : ndarray of shape (n_pairs,)
            [Å].

        Returns
        -------
        Damping or None
        """
        if not self.d_min:
            return None
        close = np.flatnonzero(distances < DAMPING_OUTER * max(self.d_min.values()))
        if not len(close):
            return None
        centers = np.searchsorted(pairs.first, close, side="right") - 1
        z1, z2 = numbers[centers], numbers[pairs.neighbors[close]]
        d_min = np.array(
            [
                self.d_min[min(a, b), max(a, b)]
                for a, b in zip(z1.tolist(), z2.tolist(), strict=True)
            ]
        )
        inner, outer = DAMPING_INNER * d_min, DAMPING_OUTER * d_min
        step, slope = smoothstep((distances[close] - inner) / (outer - inner))
        if np.all(step == 1.0):
            return None
        slope /= outer - inner
        keep = np.ones(len(numbers))
        np.multiply.at(keep, centers, step)
        others = np.ones(len(close))  # the product without the pair's own factor
        for p in np.flatnonzero(slope):
            same = np.flatnonzero(centers == centers[p])
            others[p] = np.prod(step[same[same != p]])
        return Damping(keep, close, centers, slope * others)


@dataclass(frozen=True)
class Damping:
    """How much the neighbors' nearness leaves of each local energy.

    Attributes
    ----------
    keep : ndarray of shape (n_atoms,)
        Product of D, 0 to 1.
    pairs, centers : ndarray of shape (n_close,)
        The pairs it depends on, and the center of each.
    slopes : ndarray of shape (n_close,)
        Derivative of the center's `keep` by the distance [1/Å].
    """

    keep: FloatArray
    pairs: IntArray
    centers: IntArray
    slopes: FloatArray


class _Recorder:
    """The energy as it is; remembers the variances the gate would see."""

    gauge_fixed = True

    def __init__(self, n_atoms: int) -> None:
        self.variances = np.zeros(n_atoms)

    def irrelevant_below(self, species: int) -> float:
        return -np.inf

    def __call__(
        self, atoms: slice, energies: FloatArray, variances: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        self.variances[atoms] = variances
        return energies, np.ones_like(energies), np.zeros_like(energies)


class GatedEnergies:
    """Local energies blended with the fallback; a `kernelpot.evaluation.Blend`.

    Parameters
    ----------
    net : SafetyNet
    z_index : ndarray of shape (n_atoms,)
        Species index of each atom.
    thresholds : (low, high) or None
        Variances of each species between which the gate closes [eV^2]; None: damping
        only.
    damping : Damping, optional

    Attributes
    ----------
    weights : ndarray of shape (n_atoms,)
        Share of the fallback in each local energy, once evaluated.
    std_bound : ndarray of shape (n_atoms,)
        Standard deviations, exact above the lower threshold, upper bounds below [eV].
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
        self._by_keep = np.zeros(len(z_index))
        self.weights = np.zeros(len(z_index))
        self.std_bound = np.zeros(len(z_index))

    def irrelevant_below(self, species: int) -> float:
        """Variance of a species up to which the gate is open [eV^2]."""
        return np.inf if self._thresholds is None else float(self._thresholds[0][species])

    def __call__(
        self, atoms: slice, energies: FloatArray, variances: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Blended energies and their derivatives; see `kernelpot.evaluation.Blend`."""
        keep, fallback = self._keep[atoms], self._fallback[atoms]
        closed = by_variance = np.zeros(len(energies))
        above = energies - fallback
        if self._thresholds is not None:
            low, high = (t[self._z_index[atoms]] for t in self._thresholds)
            closed, slope = smoothstep((variances - low) / (high - low))
            by_variance = -keep * above * slope / (high - low)
        share = (1.0 - closed) * keep
        self.weights[atoms] = 1.0 - share
        self.std_bound[atoms] = np.sqrt(variances)
        self._by_keep[atoms] = (1.0 - closed) * above
        return fallback + share * above, share, by_variance

    def add_damping_gradient(
        self, displacements: FloatArray, distances: FloatArray, gradient: FloatArray
    ) -> None:
        """Add the derivative through the damping to the pair gradients, in place."""
        if self._damping is not None:
            d = self._damping
            radial = self._by_keep[d.centers] * d.slopes / distances[d.pairs]
            gradient[d.pairs] += radial[:, None] * displacements[d.pairs]


def hold_out(frames: Sequence[tuple[str, Sequence[int]]], share: float = 0.1) -> list[int]:
    """Structures to leave out of the choice of sparse points (they are fitted all the same).

    Their environments are unseen by the choice, as those of a simulation are; the
    thresholds of the gate come from them.

    Parameters
    ----------
    frames : sequence of (config type, atomic numbers)
        In canonical order. Isolated atoms are never left out, nor the only structures
        with some species.
    share : float
        Of the structures of each config type; none of a type with fewer than
        ``1 / share``.

    Returns
    -------
    list of int
        Indices, ascending.
    """
    every = round(1 / share)
    chosen: set[int] = set()
    for name in sorted({config_type for config_type, _ in frames}):
        members = [i for i, (c, numbers) in enumerate(frames) if c == name and len(numbers) > 1]
        if len(members) >= every:
            chosen.update(members[every // 2 :: every])
    for species in sorted({int(z) for _, numbers in frames for z in numbers}):
        holders = {i for i, (_, numbers) in enumerate(frames) if species in numbers}
        if holders <= chosen:
            chosen -= holders
    return sorted(chosen)


def learn_safety_net(
    local: LocalModel,
    species: Sequence[int],
    structures: Sequence[Atoms],
    held_out: Sequence[int],
    d_min: Mapping[Pair, float],
    *,
    n_threads: int = 1,
) -> SafetyNet:
    """Thresholds and fallback energies from the training structures.

    Parameters
    ----------
    local : LocalModel
    species : sequence of int
        Atomic numbers.
    structures : sequence of ase.Atoms
    held_out : sequence of int
        Those the sparse points were not chosen from.
    d_min : mapping of (Z, Z') to float
        Distances that scale the damping [Å].
    n_threads : int

    Returns
    -------
    SafetyNet
    """
    largest = np.full(len(species), -np.inf)
    stds: dict[tuple[bool, int], list[FloatArray]] = {}
    unseen = set(held_out)
    sampled = set(unseen)
    for number in species:
        holders = [i for i, atoms in enumerate(structures) if number in atoms.numbers]
        n_unseen = sum(np.sum(structures[i].numbers == number) for i in unseen & set(holders))
        if n_unseen < ENOUGH_ATOMS:
            sampled.update(holders[:: max(1, len(holders) // MAX_STRUCTURES)])
    for index, atoms in enumerate(structures):
        recorder = _Recorder(len(atoms)) if index in sampled else None
        z_index, energies = _local_energies(local, species, atoms, recorder, n_threads)
        np.maximum.at(largest, z_index, energies)
        if recorder is not None:
            for z in np.unique(z_index):
                std = np.sqrt(recorder.variances[z_index == z])
                stds.setdefault((index in unseen, int(z)), []).append(std)
    low = np.empty(len(species))
    notes = []
    for z, number in enumerate(species):
        prior_std = np.sqrt(local.variances[z].prior)
        # a std of exactly zero (one environment, repeated) would gate rounding noise
        low[z] = 1e-3 * prior_std
        counts = []
        for is_unseen, name in ((True, "left out of"), (False, "in")):
            values = np.concatenate(stds.get((is_unseen, z), [np.empty(0)]))
            if len(values):
                factor = QUANTILE_FACTOR * (1.0 if is_unseen else CHOSEN_FROM_FACTOR)
                low[z] = max(low[z], factor * float(np.quantile(values, QUANTILE)))
                counts.append(f"{factor:g} x that of {len(values)} atoms {name} the choice")
            if len(values) >= ENOUGH_ATOMS:
                break
        limit = LARGEST_SHARE_OF_PRIOR * prior_std
        if low[z] > limit:
            low[z] = limit
            counts.append(
                f"at most {LARGEST_SHARE_OF_PRIOR:g} x the prior std of {prior_std:.3g} eV, which "
                "this is: the model knows little of its own data"
            )
        notes.append(
            f"{chemical_symbols[number]}: {100 * QUANTILE:g} % quantile of the local std, "
            f"{', or '.join(counts)}"
        )
    return SafetyNet(low, largest + FALLBACK_MARGIN, dict(d_min), "; ".join(notes))


def gate_std(
    local: LocalModel, species: Sequence[int], atoms: Atoms, *, n_threads: int = 1
) -> FloatArray:
    """Standard deviations the gate compares with its thresholds.

    Parameters
    ----------
    local : LocalModel
    species : sequence of int
        Atomic numbers.
    atoms : ase.Atoms
    n_threads : int

    Returns
    -------
    ndarray of shape (n_atoms,)
        [eV], exact everywhere; with several species given the mean local energy of each.
    """
    recorder = _Recorder(len(atoms))
    _local_energies(local, species, atoms, recorder, n_threads)
    return np.sqrt(recorder.variances)


def _local_energies(
    local: LocalModel,
    species: Sequence[int],
    atoms: Atoms,
    recorder: _Recorder | None,
    n_threads: int,
) -> tuple[IntArray, FloatArray]:
    """Species index and local energy of every atom [eV]."""
    z_index = species_index(atoms.numbers, species)
    pairs = neighbor_list(atoms, max(term.soap.term.r_cut for term in local.terms))
    found = local.evaluate(
        z_index,
        pairs,
        pairs.displacements(atoms.positions),
        gradient=False,
        blend=recorder,
        n_threads=n_threads,
    )
    return z_index, found.energies
