"""What a fit has come to, and can continue from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kernelpot.fit.accumulation import FactorTree
from kernelpot.gp.design import Design


@dataclass(frozen=True)
class State:
    """What a fit has come to, and can continue from.

    Attributes
    ----------
    design : Design
    notes : sequence of str
        On the choice of sparse points.
    tree : FactorTree
        Grows while labels are streamed.
    unseen : sequence of int
        Frames that no sparse point was chosen from.
    """

    design: Design
    notes: Sequence[str]
    tree: FactorTree
    unseen: Sequence[int] = ()
