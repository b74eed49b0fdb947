"""Noise and prior scales as a vector to be chosen, and what was chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kernelpot.common.types import KINDS, FloatArray, Group
from kernelpot.gp.design import Design
from kernelpot.gp.labels import Noise
from kernelpot.regression.evidence import evidence, leading_columns, select_columns
from kernelpot.regression.factors import GroupedFactor, TriangularFactor
from kernelpot.regression.layout import Layout


@dataclass(frozen=True)
class Free:
    """What may be changed.

    Attributes
    ----------
    groups : tuple of Group
        Groups of labels whose sigma the user did not give and that the data have.
    terms : tuple of int
        Terms whose delta the user did not give.
    """

    groups: tuple[Group, ...]
    terms: tuple[int, ...]

    @property
    def names(self) -> list[str]:
        """Names of the parameters, in the order of a vector of them."""
        sigmas = [f"sigma_{kind}" + (f" of {name}" if name else "") for kind, name in self.groups]
        return sigmas + [f"delta_{t}" for t in self.terms]

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of labels of the groups, in order."""
        found = {kind for kind, _ in self.groups}
        return tuple(kind for kind in KINDS if kind in found)


@dataclass(frozen=True)
class Tuned:
    """Hyper-parameters chosen, and how.

    Attributes
    ----------
    noise : Noise
    delta : tuple of float
        Factor on the delta of each term.
    record : dict
        ``method``, ``sigmas`` (name to values before and after), ``delta_factors``,
        ``loo`` errors before and after (over all and ``by_config_type``),
        ``n_evaluations``, ``n_structures``, ``n_parameters`` (effective number).
    notes : list of str
        For the user.
    """

    noise: Noise
    delta: tuple[float, ...]
    record: dict[str, Any]
    notes: list[str]

    @classmethod
    def unchanged(cls, noise: Noise, n_terms: int, notes: Sequence[str] = ()) -> Tuned:
        """The start, where nothing is to be chosen."""
        return cls(noise, (1.0,) * n_terms, {"method": None}, list(notes))

    def scale(self, design: Design) -> FloatArray:
        """Scale of each column of rows by the design before the choice."""
        return design.layout.scale(self.delta)


@dataclass(frozen=True)
class Candidates:
    """Any hyper-parameters as a vector of logarithms relative to the start.

    Parameters
    ----------
    grouped : GroupedFactor
    layout : Layout
        Whitened columns of each block.
    noise : Noise
        The start.
    free : Free
    """

    grouped: GroupedFactor
    layout: Layout
    noise: Noise
    free: Free

    @property
    def n_terms(self) -> int:
        """Number of terms."""
        return self.layout.n_terms

    def noise_at(self, x: FloatArray) -> Noise:
        """Noise of a vector."""
        groups = zip(self.free.groups, x, strict=False)
        return self.noise.changed(
            {group: self.noise.sigma(group) * float(np.exp(v)) for group, v in groups}
        )

    def delta_at(self, x: FloatArray) -> tuple[float, ...]:
        """Factor on each term's delta."""
        factors = np.ones(self.n_terms)
        factors[list(self.free.terms)] = np.exp(x[len(self.free.groups) :])
        return tuple(map(float, factors))

    def scale_at(self, x: FloatArray) -> FloatArray:
        """Scale of each column."""
        return self.layout.scale(self.delta_at(x))

    def posterior(self, x: FloatArray) -> TriangularFactor:
        """Factor of all data."""
        return self.grouped.posterior(self.noise_at(x).sigma, self.scale_at(x))

    def evidence(self, x: FloatArray) -> tuple[float, FloatArray]:
        """Minus twice the log evidence and its gradient."""
        noise = self.noise_at(x)
        groups: list[Any] = self.grouped.groups
        sigma = {group: noise.sigma(group) for group in groups}
        blocks = [self.layout.of_term(t) for t in self.free.terms]
        found = evidence(self.grouped, sigma, self.scale_at(x), blocks)
        gradient = np.zeros(len(x))
        for group in groups:
            if group in self.free.groups:
                gradient[self.free.groups.index(group)] += found.by_sigma[group]
        gradient[len(self.free.groups) :] = found.by_scale
        return found.value, gradient

    def smaller(self, n_columns: int) -> Candidates:
        """The same with the leading columns of each block only."""
        if n_columns >= self.layout.size:
            return self
        columns = leading_columns(self.layout, n_columns)
        sizes = [
            int(np.count_nonzero((columns >= s.start) & (columns < s.stop)))
            for s in self.layout.columns
        ]
        layout = Layout.of(sizes, self.layout.terms)
        return replace(self, grouped=select_columns(self.grouped, columns), layout=layout)


# Values this many times the default, or this part of it, carry a sentence.
FAR = 10.0
# Unit of each kind's sigma, and what it usually means where it is far above or below.
_UNITS = {"energy": "eV/atom", "forces": "eV/Å", "stress": "eV/Å^3"}
_NOISY = (
    "these labels are noisier than the default expects, or the descriptors cannot resolve what "
    "they depend on (cutoff, charges, magnetism), or they contradict other labels"
)
_EXACT = (
    "these labels are followed far more closely than the default expects; that helps on data of "
    "this kind, and says little of structures unlike them"
)
_STRONG = (
    "energies vary more with this term's environments than the default expects (noise that grew as "
    "much leaves predictions as they were; standard deviations grow)"
)
_WEAK = "this term explains little that the other terms or the baseline do not"


def far_notes(record: Mapping[str, Any], deltas: Sequence[float]) -> list[str]:
    """Sentences about values chosen far from the default.

    Parameters
    ----------
    record : mapping
        Of `Tuned`.
    deltas : sequence of float
        Default of each term [eV].

    Returns
    -------
    list of str
    """
    if record["method"] is None:
        return []
    values = [
        (name, _UNITS[name.split()[0].removeprefix("sigma_")], before, after, _NOISY, _EXACT)
        for name, (before, after) in record["sigmas"].items()
    ]
    values += [
        (f"delta of term {t}", "eV", delta, delta * factor, _STRONG, _WEAK)
        for t, (delta, factor) in enumerate(zip(deltas, record["delta_factors"], strict=True))
    ]
    notes = []
    for name, unit, default, value, above, below in values:
        factor = value / default
        # values have three digits
        if max(factor, 1.0 / factor) > FAR * (1.0 - 1e-9):
            times = f"{factor:.3g} times" if factor > 1 else f"1/{1 / factor:.3g} of"
            notes.append(
                f"{name} {value:.3g} {unit} is {times} the default ({default:.3g}): usually "
                f"{above if factor > 1 else below}"
            )
    return notes
