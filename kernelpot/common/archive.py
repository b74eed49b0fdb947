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

from kernelpot.common.files import read_bytes, whole_file
from kernelpot.common.types import Array

FORMAT = "kernelpot"
FORMAT_VERSION = 4
_HEADER = "header"
_HEADER_HASH = "header_sha256"
# In place of an array in a header: where it is.
_ARRAY = "stored as array"


class ModelFileError(ValueError):
    """A model file that is foreign, truncated, altered or too new."""


def array_hash(array: Array) -> str:
    """SHA-256 of dtype, shape and contents."""
    h = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    h.update(np.ascontiguousarray(array).tobytes())
    return h.hexdigest()


def plain(value: Any) -> Any:
    """Data that JSON can hold: of an array its shape, of a number that is not finite none.

    Parameters
    ----------
    value : mapping, sequence, array or number

    Returns
    -------
    dict, list, str, number or None
    """
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return {"shape": list(value.shape)}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def _without_arrays(value: Any, arrays: dict[str, Array]) -> Any:
    """Plain data with every array moved to `arrays`, and its name in its place."""
    if isinstance(value, Mapping):
        return {str(k): _without_arrays(v, arrays) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_arrays(v, arrays) for v in value]
    if isinstance(value, np.ndarray):
        name = f"header_array_{len(arrays)}"
        arrays[name] = value
        return {_ARRAY: name}
    return plain(value)


def _with_arrays(value: Any, arrays: dict[str, Array]) -> Any:
    """Inverse of `_without_arrays`; takes the arrays out."""
    if isinstance(value, dict):
        if set(value) == {_ARRAY}:
            return arrays.pop(value[_ARRAY])
        return {k: _with_arrays(v, arrays) for k, v in value.items()}
    if isinstance(value, list):
        return [_with_arrays(v, arrays) for v in value]
    return value


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
        Plain data, which may hold arrays; format, version and hashes are added.
    arrays : mapping of str to ndarray
        Numeric arrays.
    format : str
        What the file calls itself.
    """
    arrays = dict(arrays)
    full = {
        "format": format,
        "format_version": FORMAT_VERSION,
        **_without_arrays(header, arrays),
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
    IsADirectoryError
        If it is a directory.
    ModelFileError
        If the file is not a model file, is truncated or altered, or was written by a
        newer version.
    """
    name = os.fspath(path)
    what = "kernelpot model file" if format == FORMAT else f"{format} file"
    content = read_bytes(name, what)
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
    whole: dict[str, Any] = _with_arrays(header, arrays)
    return whole, arrays


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
