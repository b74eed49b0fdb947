"""The order and the identity of frames, by their contents alone."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
from ase import Atoms

from kernelpot.data.dataset import Frame
from kernelpot.data.state import STATE


def digest(*values: object) -> str:
    """SHA-256 of values by what they say, in hexadecimal.

    Numbers count by value, kind (whole or real) and shape, whatever their precision and
    memory layout; -0.0 is 0.0 and all NaN are one. Lists are tuples, mappings and
    dataclasses have no order.

    Parameters
    ----------
    *values
        Numbers, strings, None, arrays, ase.Atoms (everything per atom, cell and pbc),
        and dataclasses, mappings and sequences of these.

    Returns
    -------
    str
        Sixty-four digits.

    Raises
    ------
    TypeError
        If something else is among the values.
    """
    h = hashlib.sha256()
    for part in _encoded(values):
        h.update(part)
    return h.hexdigest()


def structure_digest(atoms: Atoms, *, decimals: int) -> str:
    """Digest of a structure without its labels and per-atom arrays, rounded.

    Cell vectors along which it is not periodic play no part.

    Parameters
    ----------
    atoms : ase.Atoms
    decimals : int
        Of positions and cell vectors [Å].

    Returns
    -------
    str
    """
    cell = np.where(np.asarray(atoms.pbc, dtype=bool)[:, None], atoms.cell.array, 0.0)
    lengths = (np.round(atoms.positions, decimals), np.round(cell, decimals))
    return digest(atoms.numbers, atoms.pbc, *lengths)


def frame_digest(frame: Frame) -> str:
    """Digest of all of a frame that a fit depends on: structure, arrays, labels, noise."""
    return digest(
        frame.atoms, frame.energy, frame.forces, frame.virial, frame.config_type, frame.sigmas
    )


def canonical_order(data: Sequence[Frame]) -> list[Frame]:
    """Frames in an order that depends on their contents only.

    The same structures in another order, or from a renamed file, give the same model.
    """
    return sorted(data, key=frame_digest)


def fingerprint(frame: Frame) -> str:
    """Sixteen hexadecimal digits of a frame's structure and labels."""
    return frame_digest(frame)[:16]


def are_among(data: Sequence[Frame], fingerprints: Collection[str]) -> list[bool]:
    """Whether each frame is one of those that a model was fitted to.

    Parameters
    ----------
    data : sequence of Frame
    fingerprints : collection of str
        Of the frames fitted, by `fingerprint` or by that of model files of version 2.

    Returns
    -------
    list of bool
    """
    known = frozenset(fingerprints)
    return [fingerprint(f) in known or _fingerprint_of_version_2(f) in known for f in data]


def _fingerprint_of_version_2(frame: Frame) -> str:
    """Fingerprint that model files of version 2 hold: of bytes as they lie in memory."""
    h = hashlib.sha256()
    atoms = frame.atoms
    parts = (atoms.numbers, atoms.positions, atoms.cell.array, frame.forces, frame.virial)
    for array in parts:
        h.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
    h.update(repr(frame.energy).encode())
    return h.hexdigest()[:16]


def _encoded(value: object) -> Iterator[bytes]:
    """Bytes that are the same only for the same value: each says its kind and length."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Atoms):
        state = {k: value.info[k] for k in (*STATE, "REF_dipole") if k in value.info}
        value = (value.arrays, value.cell.array, value.pbc, *([state] if state else []))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        value = (type(value).__name__, fields)
    if value is None or isinstance(value, (bool, int, str)):
        text = repr(value).encode()
        yield b"%d text " % len(text) + text
    elif isinstance(value, (float, np.ndarray)):
        yield from _encoded_array(np.asarray(value))
    elif isinstance(value, Mapping):
        yield b"%d items " % len(value)
        for pair in sorted((digest(key), digest(item)) for key, item in value.items()):
            yield "".join(pair).encode()
    elif isinstance(value, Sequence):
        yield b"%d values " % len(value)
        for item in value:
            yield from _encoded(item)
    else:
        raise TypeError(f"nothing to identify a {type(value).__name__} by: {value!r}")


def _encoded_array(array: np.ndarray) -> Iterator[bytes]:
    if array.dtype.kind in "biu":
        array = array.astype("<i8")
    elif array.dtype.kind == "f":
        array = array.astype("<f8") + 0.0  # of -0.0 this makes 0.0
        array = np.where(np.isnan(array), np.nan, array)  # the sign and payload of NaN vary
    else:  # such as names of residues, which no fit reads
        yield from _encoded(repr(array.tolist()))
        return
    yield f"{array.dtype.kind}{array.shape} ".encode()
    yield np.ascontiguousarray(array).tobytes()
