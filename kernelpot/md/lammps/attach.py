"""Forces of a potential for a LAMMPS that somebody else drives.

LAMMPS keeps a full list of neighbors (``pair_style zero R full``), and asks for forces by ``fix
external pf/callback``; both are in every LAMMPS.
"""

from __future__ import annotations

import ctypes
import os
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from types import EllipsisType
from typing import Any

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from kernelpot.common.parallel import thread_count
from kernelpot.common.types import FloatArray, IntArray
from kernelpot.data.soundness import COINCIDENCE
from kernelpot.md.calculator import HasModel, model_of
from kernelpot.md.lammps import refusals
from kernelpot.md.lammps.halo import Folding
from kernelpot.md.lammps.leaving import agreed, leave, one_line
from kernelpot.md.lammps.library import communicator, facts
from kernelpot.md.lammps.pairs import PairList, read_pairs
from kernelpot.model.fitted import FittedModel
from kernelpot.model.region import RegionPrediction
from kernelpot.safety.gate import (
    NOTICEABLE,
    GateClosedError,
    GateWarning,
    VarianceGate,
    as_gate,
)

# LAMMPS' order of the components of a virial.
_ROWS, _COLUMNS = [0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]
# Values of the fix: f_kp[1] ... f_kp[4].
_VALUES = ("n_beyond", "penalty", "largest_penalty", "largest_std")
# LAMMPS knows their functions, and they may be all that Python knows of them.
_ATTACHED: list[Attachment] = []
# Error type of LAMMPS' library that writes a warning into log and screen.
_WARNING = 0


def attach(
    lmp: Any,
    potential: HasModel | FittedModel | str | os.PathLike[str],
    elements: Sequence[str],
    *,
    gate: VarianceGate | bool | None = True,
    on_gate: str | None | EllipsisType = ...,
    with_std: bool = False,
    n_threads: int | None = None,
    fix: str = "kp",
    earlier_fixes: Collection[str] = (),
    on_error: str = "raise",
) -> Attachment:
    r"""Let LAMMPS take its forces from a potential.

    To be called when LAMMPS has its box and types, where a ``pair_coeff`` would stand, by all of
    its processes. Without a pair style one is set; beside others, ``pair_style hybrid/overlay``
    with ``zero R full`` among its styles must be there.

    Parameters
    ----------
    lmp : lammps.lammps
        With ``units metal``.
    potential : KernelPotential or path
        The potential, or a ``.kpot`` file.
    elements : sequence of str
        Chemical symbol of each atom type.
    gate : VarianceGate, bool or None, default=True
        The safety net, as for `KernelPotCalculator`; no callable can be its reaction.
    on_gate : {"warn", "stop"} or None, optional
        What happens where atoms are beyond the data: a warning in LAMMPS' log (once), or an
        end of the run; by default what `gate` says.
    with_std : bool, default=False
        Compute calibrated standard deviations of local energies in every step.
    n_threads : int, optional
        Of each process. Default: ``KERNELPOT_NUM_THREADS``, else 1 if there are several processes,
        else the free cores.
    fix : str, default="kp"
        Name of LAMMPS' fix.
    earlier_fixes : collection of str, optional
        Names of fixes that may act before the forces of the potential are there.
    on_error : {"raise", "exit"}
        After an error in a step LAMMPS stops on all processes at that step; then the method of
        `lmp` that was running raises it, or (where nobody could: inside ``lmp -in``, or a long
        input) the processes say so and end with status 2.

    Returns
    -------
    Attachment
        Numbers of evaluations, and how to detach.

    Raises
    ------
    TypeError
        If an argument is of a wrong type.
    ValueError
        If an argument makes no sense, the model needs whole structures, or LAMMPS is set up
        such that forces would be wrong (`kernelpot.md.lammps.refusals`).
    ImportError
        If there are several processes, and no mpi4py.

    Notes
    -----
    In LAMMPS there are then, for dump, fix halt, fix ave/... and variables:

    ============================== ===========================================================
    ``f_kp``                       energy [eV]; included in ``pe``
    ``f_kp[1]``                    atoms beyond the data (with a penalty above 1 meV)
    ``f_kp[2]``, ``f_kp[3]``       penalty of all atoms, and of the one with most [eV]
    ``f_kp[4]``                    largest ``d_kp_std``, without that ``d_kp_bound`` [eV]
    ``d_kp_penalty``               by what the energy of each atom is raised [eV] (with a gate)
    ``d_kp_bound``                 local std as the gate sees it: exact beyond what counts as known,
                                   elsewhere a bound below that [eV] (with a gate)
    ``d_kp_std``                   calibrated local std [eV] (`with_std`)
    ``compute pe/atom``            energies of atoms
    ``compute stress/atom``        their virials
    ============================== ===========================================================

    Examples
    --------
    >>> from kernelpot.md.lammps import attach, open_lammps
    >>> lmp = open_lammps(["-log", "none"])  # doctest: +SKIP
    >>> lmp.file("box.in")  # doctest: +SKIP
    >>> attach(lmp, "silicon.kpot", ["Si"], on_gate="stop")  # doctest: +SKIP
    >>> lmp.commands_string("fix 1 all nve\nrun 100")  # doctest: +SKIP
    """
    if on_error not in ("raise", "exit"):
        raise ValueError(f"`on_error` must be 'raise' or 'exit', got {on_error!r}")
    comm = communicator(lmp)
    attachment: Attachment | None = None
    error: BaseException | None = None
    try:
        gate = _gate(gate, on_gate)
        threads = _threads(n_threads, comm)
        model, charges = model_of(potential).beside_bare_charges()
        model.check_regional()
        if gate is not None:
            gate.known(model.species, model.safety)
        options = _Options(gate, bool(with_std), threads, fix, on_error)
        attachment = Attachment(lmp, comm, model, charges, _numbers(lmp, elements, model), options)
    except Exception as failed:  # noqa: BLE001 - all processes go on together, or none
        error = failed
    error = agreed(comm, error)
    if error is not None:
        raise error
    assert attachment is not None
    attachment._define(earlier_fixes)
    return attachment


@dataclass(frozen=True)
class _Options:
    """What `attach` was told, checked."""

    gate: VarianceGate | None
    with_std: bool
    n_threads: int
    fix: str
    on_error: str


@dataclass(frozen=True)
class _Totals:
    """Sums over all processes of what one step found."""

    failed: bool
    energy: float
    virial: FloatArray
    charge: float
    n_beyond: int
    penalty: float
    largest_penalty: float
    largest_std: float


class Attachment:
    """A potential that LAMMPS takes its forces from; made by `attach`.

    Attributes
    ----------
    model : FittedModel
    n_evaluations, n_builds : int
        Evaluations, and lists of neighbors they needed.
    last : dict of str to float
        ``energy`` of the last step [eV], and with a gate or std ``n_beyond``, ``penalty``,
        ``largest_penalty`` and ``largest_std`` [eV].
    most_beyond : tuple of int
        Largest number of atoms that were beyond the data, and the step when that was first so.
    """

    def __init__(
        self,
        lmp: Any,
        comm: Any,
        model: FittedModel,
        charges: dict[str, float],
        numbers: IntArray,
        options: _Options,
    ) -> None:
        self.model = model
        self.n_evaluations = self.n_builds = 0
        self.last: dict[str, float] = {}
        self.most_beyond = (0, 0)
        self._lmp = lmp
        self._comm = comm
        self._charges = charges
        self._numbers = numbers
        self._options = options
        self._error: BaseException | None = None
        self._step: int | None = None
        self._pairs: PairList | None = None
        self._tags: IntArray = np.zeros(0, dtype=np.int64)
        self._folding: Folding | None = None
        self._warned = self._warned_of_masses = False
        self._originals: dict[str, Callable[..., Any]] = {}

    def __repr__(self) -> str:
        """The model, and the processes."""
        size = 1 if self._comm is None else self._comm.size
        species = " ".join(chemical_symbols[z] for z in self.model.species)
        return f"<kernelpot in LAMMPS: {species}, {size} processes, fix {self._options.fix}>"

    # ---- setting up ------------------------------------------------------------------

    def _define(self, earlier_fixes: Collection[str]) -> None:
        """Commands that all processes give together."""
        lmp, fix = self._lmp, self._options.fix
        refusals.refuse_units(lmp)
        found = facts(lmp, self._comm)
        refusals.refuse_earlier_fixes(found, earlier_fixes, fix)
        refusals.refuse_without_long_range(found, self._charges)
        lmp.commands_list(refusals.pair_commands(found, self.model.r_cut))
        lmp.command(f"fix {fix} all external pf/callback 1 1")
        lmp.command(f"fix_modify {fix} energy yes virial yes")
        names = [f"d_{fix}_{name}" for name in self._outputs]
        if names:
            lmp.command(f"fix {fix}_atoms all property/atom {' '.join(names)}")
        lmp.fix_external_set_vector_length(fix, len(_VALUES))
        lmp.set_fix_external_callback(fix, self._callback, None)
        _ATTACHED.append(self)
        if self._options.on_error == "raise":
            for name in ("command", "commands_list", "commands_string", "file"):
                self._watch(name)

    @property
    def _outputs(self) -> list[str]:
        """Per-atom values that LAMMPS is given, by the end of their names."""
        with_gate = [] if self._options.gate is None else ["penalty", "bound"]
        return [*with_gate, *(["std"] if self._options.with_std else [])]

    def _watch(self, name: str) -> None:
        """Let a method of LAMMPS raise what happened in a step."""
        original = getattr(self._lmp, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            try:
                result = original(*args, **kwargs)
            except Exception:
                self.check()  # LAMMPS' own error may be a consequence
                raise
            self.check()
            return result

        self._originals[name] = original
        setattr(self._lmp, name, watched)

    def check(self) -> None:
        """Raise what went wrong in a step, if anything did; `lmp`'s methods do it themselves.

        Raises
        ------
        ValueError, RuntimeError, GateClosedError
            As of the step.
        """
        if self._error is None:
            refusals.refuse_respa(self._lmp)
            return
        error, self._error = self._error, None
        # LAMMPS passes over all runs after one was stopped, the rest of a file for example
        self._originals.get("command", self._lmp.command)("timer timeout off")
        raise error

    def detach(self) -> None:
        """Take the potential's forces away; a pair style of nothing stays."""
        for name, original in self._originals.items():
            setattr(self._lmp, name, original)
        self._originals.clear()
        if self in _ATTACHED:
            _ATTACHED.remove(self)
        fix = self._options.fix
        for name in (f"{fix}_atoms", fix):
            if self._lmp.has_id("fix", name):
                self._lmp.command(f"unfix {name}")

    # ---- a step ----------------------------------------------------------------------

    def _callback(
        self, _caller: Any, step: int, n_own: int, _tags: Any, _positions: Any, forces: FloatArray
    ) -> None:
        """Fill in forces; called by LAMMPS, which an exception would not reach."""
        try:
            if self._error is None:
                self._evaluate(int(step), n_own, forces)
                return
        except _StoppedError:
            pass
        except BaseException as error:  # noqa: BLE001 - a defect, and other processes wait
            leave(self._comm, f"step {step}: {one_line(error)}", together=self._comm is None)
        forces[:] = 0.0
        self._lmp.force_timeout()

    def _evaluate(self, step: int, n_own: int, forces: FloatArray) -> None:
        lmp = self._lmp
        begins, self._step = self._step is None or step != self._step + 1, step
        n_atoms = lmp.extract_setting("nall")
        age = lmp.extract_setting("neigh_ago")
        positions = _atoms(lmp, "x", n_atoms, 3)
        types = _atoms(lmp, "type", n_atoms)
        if age == 0:
            self._renew(positions, types, n_own, begins)
        found: RegionPrediction | None = None
        error: BaseException | None = None
        charge = 0.0
        try:
            self._check_list(age, n_own, n_atoms)
            if begins:
                charge = self._check_run(types, n_own)
            found = self._predicted(positions, types)
        except Exception as failed:  # noqa: BLE001 - reported below, by all
            error = failed
        totals = self._summed(found, error, charge)
        if totals.failed:
            self._stop(step, agreed(self._comm, error))
        assert found is not None
        self._hand_over(step, found, totals, forces)
        self.n_evaluations += 1
        self._react(step, found, totals, types)

    def _renew(self, positions: FloatArray, types: IntArray, n_own: int, begins: bool) -> None:
        """Read LAMMPS' new list of neighbors, and find where ghosts belong."""
        error: BaseException | None = None
        n_atoms = len(types)
        tags = _atoms(self._lmp, "id", n_atoms).astype(np.int64)
        try:
            if n_atoms and tags.min() < 1:
                raise ValueError("kernelpot needs the numbers of atoms: `atom_modify id yes`")
            self._pairs = read_pairs(self._lmp, n_own, n_atoms)
            if begins:
                refusals.refuse_excluded_pairs(self._lmp)
                self._pairs.check(positions, self.model.r_cut, tags)
        except Exception as failed:  # noqa: BLE001 - reported below, by all
            error = failed
        error = agreed(self._comm, error)
        if error is None:
            try:
                self._folding = Folding(self._comm, tags, n_own)
            except ValueError as failed:
                error = failed
            error = agreed(self._comm, error)
        if error is not None:
            self._stop(self._step or 0, error)
        self._tags = tags
        self.n_builds += 1

    def _check_list(self, age: int, n_own: int, n_atoms: int) -> None:
        """Refuse a list that is not of these atoms, or whose age is not known."""
        pairs = self._pairs
        if pairs is None and age < 0:
            raise ValueError(
                f"this LAMMPS ({self._lmp.version()}) does not say when its list of neighbors is "
                "new (extract_setting neigh_ago): kernelpot needs a later version"
            )
        if pairs is None or (pairs.n_own, pairs.n_atoms) != (n_own, n_atoms):
            raise ValueError("LAMMPS has other atoms than its list of neighbors was made for")

    def _check_run(self, types: IntArray, n_own: int) -> float:
        """Look at what may have changed between runs; returns the charge of own atoms [e]."""
        masses = self._lmp.numpy.extract_atom("mass")
        if masses is not None and not self._warned_of_masses:
            told = refusals.doubtful_masses(
                np.array(masses).reshape(-1)[1 : len(self._numbers)].tolist(),
                self._numbers[1:].tolist(),
            )
            self._warned_of_masses = True
            if told is not None:
                self._warn(told, UserWarning)
        told = refusals.doubtful_timestep(float(self._lmp.extract_global("dt")))
        if told is not None:
            self._warn(told, UserWarning)
        if not self._charges:
            return 0.0
        symbols = [chemical_symbols[z] for z in self._numbers]
        expected = np.array([self._charges.get(symbol, 0.0) for symbol in symbols])
        own = slice(0, n_own)
        charges = refusals.refuse_other_charges(self._lmp, types[own], self._tags[own], expected)
        return float(charges.sum())

    def _predicted(self, positions: FloatArray, types: IntArray) -> RegionPrediction:
        """Evaluate own atoms."""
        assert self._pairs is not None
        displacements = self._pairs.displacements(positions)
        try:
            return self.model.predict_region(
                self._numbers[types],
                self._pairs.first,
                self._pairs.neighbors,
                displacements,
                return_std=self._options.with_std,
                gate=self._options.gate,
                n_threads=self._options.n_threads,
            )
        except ValueError as error:
            # by their numbers in LAMMPS
            near = ~(np.einsum("pc,pc->p", displacements, displacements) >= COINCIDENCE**2)
            pairs = np.flatnonzero(near)
            if not len(pairs):
                raise
            i = int(np.searchsorted(self._pairs.first, pairs[0], side="right")) - 1
            j = int(self._pairs.neighbors[pairs[0]])
            raise ValueError(
                f"atoms {self._tags[i]} and {self._tags[j]} sit on one spot, or have no finite "
                "position"
            ) from error

    def _summed(
        self, found: RegionPrediction | None, error: BaseException | None, charge: float
    ) -> _Totals:
        """Add up over processes; every step does it, so that an error of one is seen by all."""
        sums, largest = np.zeros(11), np.zeros(2)
        sums[0] = error is not None or found is None
        sums[10] = charge
        if found is not None:
            virial = 0.5 * (found.virial + found.virial.T)
            sums[1] = found.energies.sum()
            sums[2:8] = virial[_ROWS, _COLUMNS]
            std = found.energies_std if found.energies_std is not None else found.std_bound
            if found.penalty is not None:
                sums[8:10] = np.sum(found.penalty > NOTICEABLE), found.penalty.sum()
                largest[0] = found.penalty.max(initial=0.0)
            if std is not None:
                largest[1] = std.max(initial=0.0)
        if self._comm is not None:
            from mpi4py import MPI

            self._comm.Allreduce(MPI.IN_PLACE, sums)
            if self._outputs:
                self._comm.Allreduce(MPI.IN_PLACE, largest, op=MPI.MAX)
        return _Totals(
            bool(sums[0]), float(sums[1]), sums[2:8], float(sums[10]), int(sums[8]),
            float(sums[9]), float(largest[0]), float(largest[1]),
        )  # fmt: skip

    def _hand_over(
        self, step: int, found: RegionPrediction, totals: _Totals, forces: FloatArray
    ) -> None:
        """Give LAMMPS forces, energy, virial and what belongs to atoms."""
        assert self._folding is not None
        lmp, fix = self._lmp, self._options.fix
        n_own = len(found.energies)
        values = found.forces
        # virials of atoms are asked for in few steps; an older LAMMPS does not say in which
        with_virials = lmp.extract_global("vflag_atom") in (None, step)
        if with_virials:
            virials = found.atom_virials()
            virials = 0.5 * (virials + virials.transpose(0, 2, 1))
            values = np.concatenate([values, virials[:, _ROWS, _COLUMNS]], axis=1)
        values = self._folding(values)
        forces[:] = values[:, :3]
        lmp.fix_external_set_energy_global(fix, totals.energy)
        lmp.fix_external_set_virial_global(fix, totals.virial.tolist())
        of_atoms = {
            "penalty": found.penalty, "bound": found.std_bound, "std": found.energies_std,
        }  # fmt: skip
        if n_own:
            doubles = ctypes.POINTER(ctypes.c_double)
            energies = np.ascontiguousarray(found.energies)
            lmp.lib.lammps_fix_external_set_energy_peratom(
                lmp.lmp, fix.encode(), energies.ctypes.data_as(doubles)
            )
            if with_virials:
                rows = np.ascontiguousarray(values[:, 3:])
                starts = (rows.ctypes.data + rows.strides[0] * np.arange(n_own)).astype(np.uintp)
                lmp.lib.lammps_fix_external_set_virial_peratom(
                    lmp.lmp, fix.encode(), starts.ctypes.data_as(ctypes.POINTER(doubles))
                )
            for name in self._outputs:
                _atoms(lmp, f"d_{fix}_{name}", n_own)[:] = of_atoms[name]
        self.last = {"energy": totals.energy}
        if self._outputs:
            self.last |= {name: float(getattr(totals, name)) for name in _VALUES}
            for index, name in enumerate(_VALUES, start=1):
                lmp.fix_external_set_vector(fix, index, self.last[name])

    def _react(self, step: int, found: RegionPrediction, totals: _Totals, types: IntArray) -> None:
        """Do what is to be done where atoms are beyond the data, or the cell is charged."""
        if self._charges and abs(totals.charge) > 1e-4 * np.sqrt(self._lmp.get_natoms()):
            self._stop(
                step,
                ValueError(
                    f"the charges of all atoms add up to {totals.charge:+.4g} e: the model is for "
                    "neutral cells"
                ),
            )
        if totals.n_beyond > self.most_beyond[0]:
            self.most_beyond = totals.n_beyond, step
        reaction = None if self._options.gate is None else self._options.gate.on_gate
        if not totals.n_beyond or reaction is None or (reaction == "warn" and self._warned):
            return
        assert found.penalty is not None
        worst: tuple[float, int, int] = (0.0, 0, 0)
        if len(found.penalty):
            atom = int(found.penalty.argmax())
            worst = float(found.penalty[atom]), int(self._tags[atom]), int(types[atom])
        if self._comm is not None:
            worst = max(self._comm.allgather(worst))
        message = (
            f"step {step}: {totals.n_beyond} of {int(self._lmp.get_natoms())} atoms are beyond the "
            f"training data (most of all atom {worst[1]}, "
            f"{chemical_symbols[self._numbers[worst[2]]]}): as the model does not know them, its "
            f"energy is raised by {totals.penalty:.2g} eV"
        )
        if reaction == "stop":
            self._stop(step, GateClosedError(message))
        self._warned = True
        self._warn(message, GateWarning)

    def _warn(self, message: str, category: type[Warning]) -> None:
        """Say something in LAMMPS' log and on its screen."""
        if self._comm is not None and self._comm.rank:
            return
        if hasattr(self._lmp, "error"):
            self._lmp.error(_WARNING, f"kernelpot: {message}")
        else:
            warnings.warn(message, category, stacklevel=2)

    def _stop(self, step: int, error: BaseException | None) -> None:
        """End the run on all processes, which are all here."""
        assert error is not None
        if self._options.on_error == "exit":
            sentence = one_line(error)
            told = sentence if sentence.startswith("step ") else f"step {step}: {sentence}"
            leave(self._comm, told, together=True)
        self._error = error
        raise _StoppedError


class _StoppedError(Exception):
    """The run is to end; why, the attachment knows."""


def _atoms(lmp: Any, name: str, n: int, width: int = 1) -> Any:
    """View of a property of own atoms and ghosts; empty where there are none."""
    if not n:
        return np.zeros((0, width)) if width > 1 else np.zeros(0, dtype=np.int64)
    if width == 1:
        return lmp.numpy.extract_atom(name, nelem=n).reshape(-1)
    return lmp.numpy.extract_atom(name, nelem=n, dim=width)


def _gate(
    gate: VarianceGate | bool | None, on_gate: str | None | EllipsisType
) -> VarianceGate | None:
    """The safety net that is meant, with a reaction that is possible."""
    found = as_gate(gate)
    if on_gate is not ...:
        if found is None:
            raise ValueError(f"`on_gate` = {on_gate!r} without a gate: leave it out, or gate=True")
        found = replace(found, on_gate=on_gate)
    if found is not None and callable(found.on_gate):
        raise ValueError(
            "`on_gate` in LAMMPS is 'warn', 'stop' or None: a function would be asked by each "
            "process of its own atoms; f_kp and fix halt say when"
        )
    return found


def _threads(n_threads: int | None, comm: Any) -> int:
    """Threads of this process."""
    if n_threads is None and comm is not None and "KERNELPOT_NUM_THREADS" not in os.environ:
        return 1
    return thread_count(n_threads)


def _numbers(lmp: Any, elements: Sequence[str], model: FittedModel) -> IntArray:
    """Atomic number of each type; the first entry is no type's."""
    if isinstance(elements, str):
        raise TypeError(f"`elements` must be a list such as ['Si', 'O'], got {elements!r}")
    if lmp.extract_setting("box_exist") != 1:
        raise ValueError("there is no box yet: attach where a pair_coeff would stand")
    n_types = lmp.extract_setting("ntypes")
    if len(elements) != n_types:
        raise ValueError(
            f"{len(elements)} elements ({' '.join(elements)}) for {n_types} types of atoms: name "
            "one for each"
        )
    wrong = [e for e in elements if e not in atomic_numbers or not atomic_numbers[e]]
    if wrong:
        raise ValueError(f"not a chemical symbol: {', '.join(wrong)}")
    numbers = np.array([0, *(atomic_numbers[e] for e in elements)])
    unknown = sorted({e for e in elements if atomic_numbers[e] not in model.species})
    if unknown:
        known = ", ".join(chemical_symbols[z] for z in model.species)
        raise ValueError(f"unknown species {', '.join(unknown)}: the model knows {known}")
    return numbers
