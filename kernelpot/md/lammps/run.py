"""Running an input with ``pair_style kernelpot``: what the command line does."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from kernelpot.md.lammps import refusals
from kernelpot.md.lammps.attach import Attachment, attach
from kernelpot.md.lammps.inputs import STOP, STYLE, Attaching, Rewritten, rewrite, substituted
from kernelpot.md.lammps.leaving import leave, one_line
from kernelpot.md.lammps.library import communicator, open_lammps


def run_input(
    path: str,
    *,
    log: str | None = None,
    screen: bool = True,
    variables: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Run an input of LAMMPS in which ``pair_style kernelpot`` stands.

    An error on any process ends all of them with status 2, and its sentence on standard error.

    Parameters
    ----------
    path : str
    log : str, optional
        LAMMPS' log; "none" for none. Default: ``log.lammps``.
    screen : bool, default=True
        Whether LAMMPS prints.
    variables : mapping of str to sequence of str, optional
        Index variables, as ``lmp -var`` has them.

    Returns
    -------
    dict
        ``processes``, ``n_atoms``, ``step``, ``evaluations``, ``lists`` (of neighbors),
        ``most_beyond`` (atoms beyond the data, and the step when there were most) and ``thermo``
        (the last line), on every process the same; and ``first``, whether this is the process that
        speaks for all.
    """
    arguments = [] if screen else ["-screen", "none"]
    if log is not None:
        arguments += ["-log", log]
    for name, values in (variables or {}).items():
        arguments += ["-var", name, *values]
    lmp = open_lammps(arguments)
    comm: Any = None
    try:
        comm = communicator(lmp)
        return _run(lmp, comm, path)
    except Exception as error:  # noqa: BLE001 - whatever it is, nobody waits for the others
        leave(comm, _sentence(error), together=False)


def _sentence(error: Exception) -> str:
    text = one_line(error)
    if "Last input line" in text or "Last command" in text or text.startswith("Exception:"):
        text = "LAMMPS: " + text.removeprefix("Exception: ")
    if f"style '{STYLE}'" in text or f"style {STYLE}" in text:
        text += (
            " (pair_style kernelpot must stand in the input itself, or in a file that is included "
            "by its plain name; not inside of if or a variable)"
        )
    return text


def _run(lmp: Any, comm: Any, path: str) -> dict[str, Any]:
    folder = ""
    first = comm is None or comm.rank == 0
    if first:
        folder = tempfile.mkdtemp(prefix="kernelpot-lammps-")
    if comm is not None:
        folder = comm.bcast(folder)
    try:
        stop_file, whole = os.path.join(folder, "stop.in"), os.path.join(folder, "input.in")
        rewritten = rewrite(path, stop_file)
        resume = [os.path.join(folder, f"{k}.in") for k in range(len(rewritten.attachings))]
        if first:
            _write(stop_file, ["# empty"])
            _write(whole, rewritten.lines)
            for index, name in enumerate(resume):
                _write(name, [f'jump "{whole}" kernelpot_{index}'])
        if comm is not None:
            comm.Barrier()
        return _read_through(lmp, comm, rewritten, whole, resume)
    finally:
        if first:
            shutil.rmtree(folder, ignore_errors=True)


def _write(path: str, lines: Sequence[str]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


def _read_through(
    lmp: Any, comm: Any, rewritten: Rewritten, whole: str, resume: Sequence[str]
) -> dict[str, Any]:
    """Let LAMMPS read, attach where it stops, and let it read on."""
    attachments: list[Attachment] = []
    lmp.command(f"variable {STOP} string none")
    lmp.file(whole)
    while True:
        reached = lmp.extract_variable(STOP)
        if reached == "none":
            break
        index = int(float(reached))
        lmp.command(f"variable {STOP} string none")
        if attachments:
            attachments[-1].detach()
        attachments.append(_attach(lmp, rewritten.attachings[index]))
        lmp.file(resume[index])
    refusals.refuse_respa(lmp)
    if not attachments:
        raise ValueError("the pair_coeff of kernelpot was never reached")
    most = max(a.most_beyond for a in attachments)
    return {
        "first": comm is None or comm.rank == 0,
        "processes": 1 if comm is None else comm.size,
        "n_atoms": int(lmp.get_natoms()),
        "step": int(lmp.extract_global("ntimestep")),
        "evaluations": sum(a.n_evaluations for a in attachments),
        "lists": sum(a.n_builds for a in attachments),
        "most_beyond": {"atoms": most[0], "step": most[1]},
        "thermo": lmp.last_thermo() if hasattr(lmp, "last_thermo") else None,
    }


def _attach(lmp: Any, line: Attaching) -> Attachment:
    model, *elements = (substituted(lmp, word) for word in line.words)
    options = line.options
    with_gate = options.get("gate", "on") == "on"
    on_gate: dict[str, Any] = {}
    if "on_gate" in options:
        on_gate["on_gate"] = None if options["on_gate"] == "none" else options["on_gate"]
    earlier = options.get("earlier_fixes", "").split(",")
    try:
        return attach(
            lmp,
            model,
            elements,
            gate=with_gate,
            with_std=options.get("std") == "local",
            n_threads=int(options["threads"]) if "threads" in options else None,
            earlier_fixes=[name for name in earlier if name],
            on_error="exit",
            **on_gate,
        )
    except (ValueError, TypeError, OSError) as error:
        raise ValueError(f"{line.where}: {one_line(error)}") from error
