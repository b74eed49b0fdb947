"""Gaussian-process interatomic potentials.

The names below are the public interface; they are imported on first use, so that
``import kernelpot`` stays quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kernelpot._version import __version__

_HOMES = {
    "ACSFTerm": "terms.acsf",
    "Committee": "model.committee",
    "CoulombMatrixTerm": "terms.coulomb_matrix",
    "BornMayer": "baseline.pair_functions",
    "Buckingham": "baseline.pair_functions",
    "CalculatorBaseline": "baseline.calculator",
    "CustomTerm": "terms.custom",
    "D3": "baseline.dispersion",
    "Dataset": "data.dataset",
    "Ewald": "baseline.ewald",
    "Frame": "data.dataset",
    "GDMLTerm": "terms.gdml",
    "KernelCharges": "terms.charges",
    "KernelPotCalculator": "md.calculator",
    "KernelPotential": "potential",
    "LODETerm": "terms.lode",
    "LabelKeys": "data.dataset",
    "LennardJones": "baseline.pair_functions",
    "Morse": "baseline.pair_functions",
    "NeighborList": "data.neighbors",
    "OnTheFly": "learn.on_the_fly",
    "PairBaseline": "baseline.pairs",
    "Prediction": "model.prediction",
    "ProgressBar": "common.progress",
    "LinearMap": "terms.linear_map",
    "PairTerm": "terms.pair",
    "Plots": "plot.plots",
    "PolynomialSOAP": "terms.polynomial_soap",
    "SOAP": "terms.power_spectrum",
    "SOAPTerm": "terms.soap",
    "TripletTerm": "terms.triplet",
    "VarianceGate": "safety.gate",
    "Tabulated": "baseline.pair_functions",
    "Wall": "baseline.wall",
    "ZBL": "baseline.pair_functions",
    "evaluate": "model.errors",
    "load": "potential",
    "read_dataset": "data.reading",
    "search": "hypersearch.search",
    "select_frames": "learn.select_frames",
}

__all__ = [*_HOMES, "__version__"]

if TYPE_CHECKING:
    from kernelpot.baseline.calculator import CalculatorBaseline
    from kernelpot.baseline.dispersion import D3
    from kernelpot.baseline.ewald import Ewald
    from kernelpot.baseline.pair_functions import (
        ZBL,
        BornMayer,
        Buckingham,
        LennardJones,
        Morse,
        Tabulated,
    )
    from kernelpot.baseline.pairs import PairBaseline
    from kernelpot.baseline.wall import Wall
    from kernelpot.common.progress import ProgressBar
    from kernelpot.data.dataset import Dataset, Frame, LabelKeys
    from kernelpot.data.neighbors import NeighborList
    from kernelpot.data.reading import read_dataset
    from kernelpot.hypersearch.search import search
    from kernelpot.learn.on_the_fly import OnTheFly
    from kernelpot.learn.select_frames import select_frames
    from kernelpot.md.calculator import KernelPotCalculator
    from kernelpot.model.committee import Committee
    from kernelpot.model.errors import evaluate
    from kernelpot.model.prediction import Prediction
    from kernelpot.plot.plots import Plots
    from kernelpot.potential import KernelPotential, load
    from kernelpot.safety.gate import VarianceGate
    from kernelpot.terms.acsf import ACSFTerm
    from kernelpot.terms.charges import KernelCharges
    from kernelpot.terms.coulomb_matrix import CoulombMatrixTerm
    from kernelpot.terms.custom import CustomTerm
    from kernelpot.terms.gdml import GDMLTerm
    from kernelpot.terms.linear_map import LinearMap
    from kernelpot.terms.lode import LODETerm
    from kernelpot.terms.pair import PairTerm
    from kernelpot.terms.polynomial_soap import PolynomialSOAP
    from kernelpot.terms.power_spectrum import SOAP
    from kernelpot.terms.soap import SOAPTerm
    from kernelpot.terms.triplet import TripletTerm


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
