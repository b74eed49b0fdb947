"""The order and the identity of frames, by their contents alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from kernelpot.data.dataset import Frame


def canonical_order(data: Sequence[Frame]) -> list[Frame]:
    """Frames in an order that depends on their contents only.

    The same structures in another order, or from a renamed file, give the same model.
    """

    def digest(frame: Frame) -> bytes:
        h = hashlib.sha256()
        for array in (frame.atoms.numbers, frame.atoms.positions, frame.atoms.cell.array):
            h.update(np.ascontiguousarray(array).tobytes())
        h.update(repr((frame.energy, frame.config_type)).encode())
        return h.digest()

    return sorted(data, key=digest)


def fingerprint(frame: Frame) -> str:
    """Sixteen hexadecimal digits of a frame's structure and labels."""
    h = hashlib.sha256()
    labels = (frame.forces, frame.virial)
    atoms = frame.atoms
    for array in (atoms.numbers, atoms.positions, atoms.cell.array, *labels):
        h.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
    h.update(repr(frame.energy).encode())
    return h.hexdigest()[:16]
