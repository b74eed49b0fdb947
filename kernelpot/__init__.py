"""Gaussian-process interatomic potentials with SOAP descriptors.

The names below are the public interface; they are imported on first use, so that
``import kernelpot`` stays quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kernelpot._version import __version__

_HOMES = {
    "Committee": "committee",
    "BornMayer": "pairpotentials",
    "Buckingham": "pairpotentials",
    "Dataset": "dataset",
    "Ewald": "ewald",
    "Frame": "dataset",
    "KernelPotCalculator": "calculator",
    "KernelPotential": "potential",
    "LabelKeys": "dataset",
    "LennardJones": "pairpotentials",
    "Morse": "pairpotentials",
    "NeighborList": "neighbors",
    "OnTheFly": "onthefly",
    "PairBaseline": "pairbaseline",
    "Prediction": "prediction",
    "SOAP": "descriptors",
    "SOAPTerm": "terms",
    "VarianceGate": "gate",
    "Tabulated": "pairpotentials",
    "Wall": "wall",
    "ZBL": "pairpotentials",
    "evaluate": "metrics",
    "load": "potential",
    "read_dataset": "dataset",
    "search": "hypersearch",
    "select_frames": "active",
}

__all__ = [*_HOMES, "__version__"]

if TYPE_CHECKING:
    from kernelpot.active import select_frames
    from kernelpot.calculator import KernelPotCalculator
    from kernelpot.committee import Committee
    from kernelpot.dataset import Dataset, Frame, LabelKeys, read_dataset
    from kernelpot.descriptors import SOAP
    from kernelpot.ewald import Ewald
    from kernelpot.gate import VarianceGate
    from kernelpot.hypersearch import search
    from kernelpot.metrics import evaluate
    from kernelpot.neighbors import NeighborList
    from kernelpot.onthefly import OnTheFly
    from kernelpot.pairbaseline import PairBaseline
    from kernelpot.pairpotentials import (
        ZBL,
        BornMayer,
        Buckingham,
        LennardJones,
        Morse,
        Tabulated,
    )
    from kernelpot.potential import KernelPotential, load
    from kernelpot.prediction import Prediction
    from kernelpot.terms import SOAPTerm
    from kernelpot.wall import Wall


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
