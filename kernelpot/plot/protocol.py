"""What pictures need of a potential."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from ase import Atoms

from kernelpot.model.fitted import FittedModel
from kernelpot.model.prediction import Prediction, ReturnStd
from kernelpot.safety.gate import VarianceGate


class Potential(Protocol):
    """Whatever predicts as `KernelPotential` does."""

    @property
    def model(self) -> FittedModel:
        """What was fitted."""

    def predict_many(
        self,
        structures: Sequence[Atoms],
        *,
        return_std: ReturnStd = False,
        gate: VarianceGate | bool = False,
        n_threads: int | None = None,
        names: Sequence[str] | None = None,
    ) -> Iterator[Prediction]:
        """Predict many structures."""
