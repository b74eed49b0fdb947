"""The kinds of baseline terms, by their name in files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kernelpot.baseline.calculator import CalculatorBaseline
from kernelpot.baseline.coulomb_remainder import CoulombRemainder
from kernelpot.baseline.dispersion import D3
from kernelpot.baseline.ewald import Ewald
from kernelpot.baseline.pairs import PairBaseline
from kernelpot.baseline.reference import BaselineTerm
from kernelpot.baseline.wall import Wall

# Baseline terms by their name in model files.
BASELINE_KINDS: dict[str, type[BaselineTerm]] = {
    term.kind: term
    for term in (Wall, PairBaseline, Ewald, CoulombRemainder, CalculatorBaseline, D3)
}


def baseline_of(entries: Sequence[Mapping[str, Any]]) -> list[BaselineTerm]:
    """Terms from their dictionaries; a kind of another version raises KeyError."""
    return [BASELINE_KINDS[entry["kind"]].from_dict(entry) for entry in entries]
