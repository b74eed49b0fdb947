"""Structures that the choice of sparse points does not see."""

from __future__ import annotations

from collections.abc import Sequence

# Structures of rare compositions are left out where together they are so many times as many.
REST = 5


def hold_out(frames: Sequence[tuple[str, Sequence[int]]], share: float = 0.1) -> list[int]:
    """Structures to leave out of the choice of sparse points (they are fitted all the same).

    Their environments are unseen by the choice, as those of a simulation are: the
    calibration learns from them.

    Parameters
    ----------
    frames : sequence of (config type, atomic numbers)
        In canonical order. Isolated atoms are never left out, nor the only structures
        with some species.
    share : float
        Of the structures of each config type and composition, where there are at least
        ``1 / share``: a structure alone of its kind is needed for its sparse points. Of
        rarer compositions of a config type, together, where they are `REST` times as many.

    Returns
    -------
    list of int
        Indices, ascending.
    """
    every = round(1 / share)
    chosen: set[int] = set()
    for name in sorted({config_type for config_type, _ in frames}):
        members: dict[tuple[int, ...], list[int]] = {}
        for i, (config_type, numbers) in enumerate(frames):
            if config_type == name and len(numbers) > 1:
                members.setdefault(tuple(sorted(numbers)), []).append(i)
        groups = [found for found in members.values() if len(found) >= every]
        rest = sorted(i for found in members.values() if len(found) < every for i in found)
        if len(rest) >= REST * every:
            groups.append(rest)
        for group in groups:
            chosen.update(group[every // 2 :: every])
    for species in sorted({int(z) for _, numbers in frames for z in numbers}):
        holders = {i for i, (_, numbers) in enumerate(frames) if species in numbers}
        if holders <= chosen:
            chosen -= holders
    return sorted(chosen)
