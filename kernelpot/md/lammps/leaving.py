"""Errors under MPI: all processes stop at once, with one sentence and an exit status."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from typing import Any, NoReturn

# As of every verb of the command line that fails.
EXIT_STATUS = 2
# So long others are waited for before they are stopped by force [s].
PATIENCE = 5.0


def one_line(error: BaseException) -> str:
    """What an error says, in one line; its kind where it says nothing."""
    text = " ".join(str(error).split())
    named = isinstance(error, (ValueError, RuntimeError, OSError, ImportError))
    return text if text and named else f"{type(error).__name__}: {text}".rstrip(": ")


def agreed(comm: Any, error: BaseException | None) -> BaseException | None:
    """An error that any process has; all of them must ask.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm or None
    error : exception or None
        Of this process.

    Returns
    -------
    exception or None
        Its own where it has one, else that of the first process that has.
    """
    if comm is None:
        return error
    texts = comm.allgather(None if error is None else one_line(error))
    failed = [(rank, text) for rank, text in enumerate(texts) if text is not None]
    if error is not None or not failed:
        return error
    rank, text = failed[0]
    return RuntimeError(f"{text} (process {rank} of {comm.size})")


def leave(comm: Any, sentence: str, *, together: bool) -> NoReturn:
    """End this process with status 2, and with it the others.

    Not by an exception: there is none that reaches the caller of LAMMPS from inside a step.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm or None
    sentence : str
        For standard error; said once if all leave.
    together : bool
        Whether it is known that all processes are here. Otherwise those that do not come within
        `PATIENCE` are stopped by MPI.
    """
    from_here = together or _all_here(comm)
    if comm is None or comm.rank == 0 or not from_here:
        sys.stderr.write(f"kernelpot: {sentence}\n")
    sys.stdout.flush()
    sys.stderr.flush()
    ctypes.CDLL(None).fflush(None)  # LAMMPS' log and dumps
    if comm is not None:
        if not from_here:
            comm.Abort(EXIT_STATUS)
        from mpi4py import MPI

        MPI.Finalize()
    os._exit(EXIT_STATUS)


def _all_here(comm: Any) -> bool:
    """Whether all processes come here, too."""
    if comm is None:
        return True
    request, start = comm.Ibarrier(), time.monotonic()
    while not request.Test():
        if time.monotonic() - start > PATIENCE:
            return False
        time.sleep(0.01)
    return True
