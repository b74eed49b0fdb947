"""Files to read, and files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO


def read_bytes(path: str | os.PathLike[str], what: str) -> bytes:
    """Content of a file, or a sentence that says why there is none.

    Parameters
    ----------
    path : path
    what : str
        What the file should be, for the sentence, such as "kernelpot model file".

    Returns
    -------
    bytes

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    IsADirectoryError
        If it is a directory.
    PermissionError
        If it may not be read.
    """
    name = os.fspath(path)
    try:
        with open(name, "rb") as stream:
            return stream.read()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no {what} {name!r}") from error
    except IsADirectoryError as error:
        raise IsADirectoryError(f"{name!r} is a directory, not a {what}") from error
    except PermissionError as error:
        raise PermissionError(f"no permission to read the {what} {name!r}") from error


def read_text(path: str | os.PathLike[str], what: str) -> str:
    """Text of a file in UTF-8, or a sentence that says why there is none.

    Parameters
    ----------
    path : path
    what : str
        What the file should be, for the sentence.

    Returns
    -------
    str

    Raises
    ------
    FileNotFoundError, IsADirectoryError, PermissionError
        As `read_bytes`.
    ValueError
        If it is no text.
    """
    try:
        return read_bytes(path, what).decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{os.fspath(path)!r} is no text, so not a {what}") from error


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file to write under a temporary name, and rename it into place when it is whole.

    Parameters
    ----------
    path : path
        In a directory that exists.

    Yields
    ------
    BinaryIO
    """
    target = os.path.abspath(os.fspath(path))
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(target), suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file that is whole or not there.

    Parameters
    ----------
    path : path
    text : str
        Written as UTF-8.

    Raises
    ------
    FileNotFoundError
        If there is no such directory.
    """
    target = os.path.abspath(os.fspath(path))
    folder = os.path.dirname(target)
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"cannot write {target}: there is no directory {folder}")
    with whole_file(target) as stream:
        stream.write(text.encode())
