"""Preconditioned conjugate gradients with a fixed stopping rule, stopped and resumed at will."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kernelpot.common.types import FloatArray

Operator = Callable[[FloatArray], FloatArray]


@dataclass
class Iteration:
    """Where conjugate gradients are.

    Attributes
    ----------
    x : ndarray of shape (n,)
        The solution so far.
    residual : ndarray of shape (n,)
        Right-hand side less the operator on x.
    direction : ndarray of shape (n,)
        The next search direction.
    square : float
        Residual times the preconditioned residual.
    start : float
        The same before the first iteration.
    n : int
        Iterations done.
    """

    x: FloatArray
    residual: FloatArray
    direction: FloatArray
    square: float
    start: float
    n: int = 0

    @property
    def relative(self) -> float:
        """Preconditioned residual, relative to that before the first iteration."""
        return float(np.sqrt(self.square / self.start)) if self.start > 0 else 0.0


def begin(
    operator: Operator, precondition: Operator, right: FloatArray, x: FloatArray
) -> Iteration:
    """Start from an approximate solution.

    Parameters
    ----------
    operator : callable
        Symmetric and positive definite.
    precondition : callable
        About its inverse; symmetric and positive definite.
    right : ndarray of shape (n,)
        Right-hand side.
    x : ndarray of shape (n,)
        Where to start.

    Returns
    -------
    Iteration
    """
    residual = right - operator(x)
    direction = precondition(residual)
    square = float(residual @ direction)
    return Iteration(x.copy(), residual, direction, square, square)


def solve(
    state: Iteration,
    operator: Operator,
    precondition: Operator,
    *,
    tolerance: float,
    max_iterations: int,
    after: Callable[[Iteration], None] | None = None,
) -> Iteration:
    """Iterate [1]_ until the preconditioned residual has fallen by a factor, or so many times.

    Where it stops depends on nothing else: resumed from any of its states it ends in the same.

    Parameters
    ----------
    state : Iteration
        From `begin`, or of an interrupted call; changed in place.
    operator, precondition : callable
        As in `begin`.
    tolerance : float
        Share of the residual at the start.
    max_iterations : int
        From the start, those done before included.
    after : callable, optional
        Called with the state after each iteration.

    Returns
    -------
    Iteration
        The same object.

    Raises
    ------
    FloatingPointError
        If the operator is not positive definite.

    References
    ----------
    .. [1] Golub, Van Loan, Matrix Computations (2013), algorithm 11.5.1.
    """
    while state.n < max_iterations and state.square > tolerance**2 * state.start:
        image = operator(state.direction)
        curvature = float(state.direction @ image)
        if not curvature > 0:
            raise FloatingPointError(
                f"conjugate gradients met a direction of curvature {curvature:.3g}: the operator "
                "is not positive definite"
            )
        step = state.square / curvature
        state.x += step * state.direction
        state.residual -= step * image
        z = precondition(state.residual)
        square = float(state.residual @ z)
        state.direction *= square / state.square
        state.direction += z
        state.square = square
        state.n += 1
        if after is not None:
            after(state)
    return state
