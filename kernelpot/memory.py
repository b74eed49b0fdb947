"""Memory budget of a fit: what it needs, said before it starts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kernelpot.fitting import BATCH_BYTES, MAX_CANDIDATE_BYTES
from kernelpot.terms import SOAPTerm


def parse_memory(memory: float | str) -> float:
    """Bytes meant by a number or by text such as ``"2GB"`` or ``"500 MB"``.

    Raises
    ------
    ValueError
        If the text is not a size.
    """
    if isinstance(memory, str):
        text = memory.strip().upper().removesuffix("B").removesuffix("I")
        units = {"K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
        scale = units.get(text[-1:], 1.0)
        try:
            value = float(text.rstrip("KMGT").strip()) * scale
        except ValueError:
            value = -1.0
    else:
        value = float(memory)
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"`memory` must be a size such as '2GB' or bytes, got {memory!r}")
    return value


def peak_bytes(n_sparse: int, n_threads: int) -> float:
    """Memory a fit needs at its peak, about [bytes].

    Parameters
    ----------
    n_sparse : int
        Sparse points of all terms and species.
    n_threads : int

    Returns
    -------
    float
        The triangular factor, its inverse and work copies, whitening of each block, the
        rows under way in every thread, features during selection, and the interpreter
        with its libraries.
    """
    interpreter = 4e8
    matrices = 6.0 * 8.0 * (n_sparse + 1) ** 2
    under_way = (n_threads + 1) * 2.5 * BATCH_BYTES
    return interpreter + max(matrices + under_way, 1.5 * MAX_CANDIDATE_BYTES)


def affordable_threads(
    memory: float | str | None, terms: Sequence[SOAPTerm], default: int, n_atoms: int, threads: int
) -> int:
    """Threads that a memory budget allows.

    Raises
    ------
    ValueError
        If the budget does not even hold one.
    """
    if memory is None:
        return threads
    budget = parse_memory(memory)
    counts = [t.n_sparse or min(default, n_atoms) for t in terms]
    while threads > 1 and peak_bytes(sum(counts), threads) > budget:
        threads -= 1
    needed = peak_bytes(sum(counts), threads)
    if needed > budget:
        affordable = next((m for m in range(sum(counts), 0, -10) if peak_bytes(m, 1) <= budget), 0)
        remedy = (
            f"the budget holds {affordable // len(counts)} points per term: lower n_sparse or "
            "raise the budget"
            if affordable
            else "any fit needs more: raise the budget"
        )
        raise ValueError(
            f"{sum(counts)} sparse points need {needed / 1e9:.2f} GB, the memory budget is "
            f"{budget / 1e9:.2f} GB; {remedy}"
        )
    return threads
