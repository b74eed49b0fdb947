"""Structures that the choice of sparse points does not see."""

from __future__ import annotations

from collections.abc import Sequence


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
