"""The ``.kpot`` file: arrays and a JSON header in one npz archive, no pickle."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from kernelpot.common.files import whole_file
from kernelpot.common.types import Array

FORMAT = "kernelpot"
FORMAT_VERSION = 2
_HEADER = "header"
_HEADER_HASH = "header_sha256"


class ModelFileError(ValueError):
    """A model file that is foreign, truncated, altered or too new."""


def array_hash(array: Array) -> str:
    """SHA-256 of dtype, shape and contents."""
    h = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    h.update(np.ascontiguousarray(array).tobytes())
    return h.hexdigest()


def write(
    path: str | os.PathLike[str],
    header: Mapping[str, Any],
    arrays: Mapping[str, Array],
    *,
    format: str = FORMAT,
) -> None:
    """Write a model file under a temporary name and rename it into place.

    Parameters
    ----------
    path : path
    header : mapping
        JSON-serializable; format, version and hashes are added.
    arrays : mapping of str to ndarray
        Numeric arrays.
    format : str
        What the file calls itself.
    """
    full = {
        "format": format,
        "format_version": FORMAT_VERSION,
        **header,
        "arrays": {name: array_hash(array) for name, array in sorted(arrays.items())},
    }
    text = json.dumps(full, sort_keys=True, allow_nan=False).encode()
    stored: dict[str, Any] = {
        _HEADER: np.frombuffer(text, dtype=np.uint8),
        _HEADER_HASH: np.frombuffer(hashlib.sha256(text).digest(), dtype=np.uint8),
        **arrays,
    }
    target = os.fspath(path)
    folder = os.path.dirname(os.path.abspath(target))
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"no directory {folder} to save the model in")
    for name, array in arrays.items():
        if array.dtype.hasobject:  # NumPy before 2.1 would pickle it without a word
            raise TypeError(f"array {name!r} holds Python objects")
    with whole_file(target) as stream:
        np.savez(stream, **stored)


def read(
    path: str | os.PathLike[str], *, format: str = FORMAT
) -> tuple[dict[str, Any], dict[str, Array]]:
    """Read a model file and check every hash.

    Parameters
    ----------
    path : path
    format : str
        What the file must call itself.

    Returns
    -------
    header : dict
    arrays : dict of str to ndarray

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ModelFileError
        If the file is not a model file, is truncated or altered, or was written by a
        newer version.
    """
    name = os.fspath(path)
    what = "kernelpot model file" if format == FORMAT else f"{format} file"
    with open(name, "rb") as stream:
        content = stream.read()
    if not content.startswith(b"PK"):
        raise ModelFileError(f"{name} is not a {what}")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            if _HEADER not in archive.files or _HEADER_HASH not in archive.files:
                raise ModelFileError(f"{name} is not a {what}")
            text = archive[_HEADER].tobytes()
            stored_hash = archive[_HEADER_HASH].tobytes()
            arrays = {
                key: archive[key] for key in archive.files if key not in (_HEADER, _HEADER_HASH)
            }
    except ModelFileError:
        raise
    except (
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        ValueError,
        OSError,
        EOFError,
        KeyError,
    ) as error:
        raise ModelFileError(f"{name} is truncated or damaged ({error})") from error
    if hashlib.sha256(text).digest() != stored_hash:
        raise ModelFileError(f"{name} has been altered: the header does not match its hash")
    header = json.loads(text)
    if header.get("format") != format:
        raise ModelFileError(f"{name} is not a {what}")
    version = header.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise ModelFileError(
            f"{name} has format version {version}; this kernelpot reads up to "
            f"{FORMAT_VERSION}: upgrade kernelpot"
        )
    if set(header["arrays"]) != set(arrays):
        raise ModelFileError(f"{name} has been altered: arrays are missing or added")
    for key, expected in header["arrays"].items():
        if array_hash(arrays[key]) != expected:
            raise ModelFileError(f"{name} has been altered: array {key!r} does not match its hash")
    return header, arrays


def pack_triangle(matrix: Array) -> Array:
    """Upper triangle, row by row."""
    n = len(matrix)
    packed = np.empty(n * (n + 1) // 2, dtype=matrix.dtype)
    start = 0
    for i in range(n):
        packed[start : start + n - i] = matrix[i, i:]
        start += n - i
    return packed


def unpack_triangle(packed: Array) -> Array:
    """Square matrix of a packed upper triangle, zero below the diagonal."""
    n = int((np.sqrt(8 * len(packed) + 1) - 1) / 2)
    matrix = np.zeros((n, n), dtype=packed.dtype)
    start = 0
    for i in range(n):
        matrix[i, i:] = packed[start : start + n - i]
        start += n - i
    return matrix
