"""Molecular dynamics that asks a reference calculator where the potential does not know.

The dynamics is that of the gated potential. As soon as the standard deviation of an atom
exceeds the threshold, by default what counts as known to the safety net, the structure is
labelled and the potential updated (exactly, see `KernelPotential.update`). The step that
led there is then made once more, from the positions and momenta before it: forces of a
potential that did not know, or of a penalty that sets in, never get into the momenta.

A run always continues from what it has written: at every checkpoint the potential is the
one in the file and the neighbor list starts anew. A run that was killed and started
again therefore takes the same steps, to the last bit, as one that was not, on the same
machine with the same libraries (the number of threads does not matter), if the reference
gives the same answer twice, whatever it was asked before.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import PropertyNotImplementedError
from ase.data import chemical_symbols

from kernelpot.common import archive
from kernelpot.common.caller import warn_user
from kernelpot.common.types import Array, FloatArray
from kernelpot.data.dataset import Dataset, Frame
from kernelpot.data.order import digest
from kernelpot.data.reading import read_dataset
from kernelpot.data.soundness import bare_copy
from kernelpot.data.system import species_index, voigt
from kernelpot.learn import run_state
from kernelpot.md.calculator import KernelPotCalculator
from kernelpot.model.fitted import FittedModel
from kernelpot.potential import KernelPotential, load
from kernelpot.safety.gate import VarianceGate
from kernelpot.safety.thresholds import gate_std

_log = logging.getLogger(__name__)
MakeDynamics = Callable[[Atoms, np.random.Generator], Any]
FORMAT = "kernelpot run"
STATE, LOG, LABELLED, TRAJECTORY = "state.npz", "log.jsonl", "labelled.xyz", "trajectory.xyz"
# From this share of the variance on, novelty is called the reason of a call.
NOVEL_SHARE = 0.5
# The threshold is so much higher for some steps after a call.
WAITING = 2.0


def velocity_verlet(atoms: Atoms, rng: np.random.Generator) -> Any:
    """Make the default dynamics: velocity Verlet with steps of 1 fs."""
    from ase.md.verlet import VelocityVerlet

    return VelocityVerlet(atoms, 1.0 * units.fs)


class OnTheFly:
    """Molecular dynamics of a potential that learns on the way.

    Everything a run needs to continue is in its folder: making the object again with the
    same arguments and calling `run` goes on where the last checkpoint left off. The
    folder holds ``state.npz``, the present potential ``model-<calls>.kpot``, and for the
    user ``log.jsonl`` (one line for each call of the reference), ``labelled.xyz`` (what
    it was called for, ready for `read_dataset`) and ``trajectory.xyz`` (with momenta).

    Parameters
    ----------
    potential : KernelPotential
        Fitted; not changed. The one learned is `potential` of this object.
    data : path, Dataset, ...
        All structures it was fitted to (whatever `read_dataset` takes): new sparse
        points need them.
    atoms : ase.Atoms
        Start, with momenta; not changed.
    reference : ase.calculators.calculator.Calculator
        Labels structures, at the level of theory of `data` and with the same zero of
        energy. The free energy is taken where there is one, the stress if the potential
        was fitted to any. One that remembers earlier structures (a neighbor list with a
        skin, wave functions to start from) answers a little differently after an
        interruption, and the run is then not repeated to the last bit.
    folder : path
        Made if it does not exist.
    threshold : float or mapping of symbol to float, optional
        Standard deviation of a local energy that calls the reference [eV]; of the
        calibrated one if the potential has a calibration. Default: what counts as known to
        the safety net of the potential.
    make_dynamics : callable, optional
        ``make_dynamics(atoms, rng)`` returns an ASE dynamics; a thermostat must take its
        random numbers from `rng` for the run to be repeatable. Observers attached to it
        see the step before a call twice. Default: velocity Verlet with 1 fs.
    add_sparse : int, default=10
        Sparse points per term to add at each call, from the structure labelled. This
        costs a whole fit; with 0 the label alone is learned, at the cost of a few
        predictions, but only as far as the present sparse points can express it.
    wait : int, default=10
        For so many steps after a call the threshold is twice as high: labels need not
        bring every local energy below it, as they leave open how energy is shared.
    max_calls : int, optional
        Stop, with a warning, instead of calling the reference more often.
    interval : int, default=10
        Steps between two frames of the trajectory.
    checkpoint_interval : int, default=100
        Steps between two checkpoints; each call is followed by one too.
    seed : int, default=0
        Of `rng`.
    n_threads : int, optional
        Default: ``KERNELPOT_NUM_THREADS`` or the free cores.

    Attributes
    ----------
    potential : KernelPotential
        The present potential.
    data : Dataset
        All it has learned from.
    atoms : ase.Atoms
        Present state of the dynamics.
    dynamics : object
        What `make_dynamics` returned.
    step : int
        Steps made so far.
    log : list of dict
        One entry for each call: ``call``, ``step``, ``reason`` ("novel": not spanned by
        the sparse points, "uncertain": left open by the data), ``atom``, ``symbol``,
        ``std`` and ``threshold`` [eV], ``novelty`` (share of the variance), ``n_above``
        (atoms above their threshold), ``energy_error`` [eV/atom], ``forces_mae`` and
        ``forces_max_error`` [eV/Å] (potential minus reference), ``std_after`` [eV],
        ``n_added`` sparse points, ``energy_jump`` (of the potential energy by the update
        [eV]), ``n_structures`` learned from, ``seconds`` of the reference, ``warnings`` of
        the update (also logged, logger ``kernelpot``).

    Raises
    ------
    ValueError
        If `data` are not what the potential was fitted to, the structure cannot be
        evaluated, a number is out of range, or the folder holds another run.

    Examples
    --------
    Copper, with ASE's EMT in the place of a first-principles code.

    >>> from ase import units
    >>> from ase.build import bulk
    >>> from ase.calculators.emt import EMT
    >>> from ase.md.langevin import Langevin
    >>> import kernelpot as kp
    >>> data = []
    >>> for seed in range(5):
    ...     atoms = bulk("Cu", cubic=True)
    ...     atoms.rattle(0.05, seed=seed)
    ...     atoms.calc = EMT()
    ...     _ = atoms.get_potential_energy()
    ...     data.append(atoms)
    >>> terms = [kp.SOAPTerm(r_cut=4.0, n_max=4, l_max=3, n_sparse=20)]
    >>> pot = kp.KernelPotential(terms, baseline=[kp.Wall()]).fit(data)
    >>> run = kp.OnTheFly(
    ...     pot, data, data[0], reference=EMT(), folder="otf",
    ...     make_dynamics=lambda atoms, rng: Langevin(
    ...         atoms, 1 * units.fs, temperature_K=900, friction=0.01, fixcm=False, rng=rng
    ...     ),
    ... )
    >>> run.run(20).potential.save("learned.kpot")
    >>> run.step
    20
    """

    def __init__(
        self,
        potential: KernelPotential,
        data: Any,
        atoms: Atoms,
        *,
        reference: Any,
        folder: str | os.PathLike[str],
        threshold: float | Mapping[str, float] | None = None,
        make_dynamics: MakeDynamics = velocity_verlet,
        add_sparse: int = 10,
        wait: int = 10,
        max_calls: int | None = None,
        interval: int = 10,
        checkpoint_interval: int = 100,
        seed: int = 0,
        n_threads: int | None = None,
    ) -> None:
        counts = {"interval": interval, "checkpoint_interval": checkpoint_interval, "wait": wait}
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"`{name}` must be at least 1, got {count!r}")
        if add_sparse < 0:
            raise ValueError(f"`add_sparse` must not be negative, got {add_sparse!r}")
        self.reference = reference
        self.add_sparse, self.wait, self.max_calls = add_sparse, wait, max_calls
        self.interval, self.checkpoint_interval = interval, checkpoint_interval
        self.n_threads = n_threads
        self.folder = os.fspath(folder)
        self.potential = copy.copy(potential)
        self.data = read_dataset(data)
        n_known = potential.model.training.n_structures
        if len(self.data) != n_known:
            raise ValueError(
                f"`data` must be the {n_known} structures the potential was fitted to, "
                f"got {len(self.data)}"
            )
        species_index(atoms.numbers, potential.model.species)
        if not any(t.descriptor.has_centers for t in potential.model.design.terms):
            raise ValueError(
                "on-the-fly learning goes by the standard deviations of atoms, and no term of the "
                "potential has atoms as environments; add one such as SOAPTerm"
            )
        self.threshold = _threshold(potential.model, threshold)
        self.atoms = atoms.copy()
        self.rng = np.random.default_rng(seed)
        self.dynamics = make_dynamics(self.atoms, self.rng)
        self.step = 0
        self.log: list[dict[str, Any]] = []
        self._frames: list[Frame] = []
        self._fingerprint = _fingerprint(potential.model, self.threshold, self.atoms)
        os.makedirs(self.folder, exist_ok=True)
        self._begun = os.path.exists(self._path(STATE))
        if self._begun:
            self._resume()
        else:
            for name in (LOG, LABELLED, TRAJECTORY):
                open(self._path(name), "wb").close()
            self._write_model()
        self._take_calculator()

    def __repr__(self) -> str:
        """Say how far the run is."""
        return (
            f"OnTheFly({self.atoms.get_chemical_formula()}, step {self.step}, "
            f"{len(self.data)} structures, in {self.folder!r})"
        )

    @property
    def n_calls(self) -> int:
        """Calls of the reference so far."""
        return len(self.log)

    def run(self, steps: int) -> OnTheFly:
        """Run until so many steps have been made in all.

        Parameters
        ----------
        steps : int
            Counted from the start of the run, not from its last interruption.

        Returns
        -------
        self : OnTheFly

        Raises
        ------
        Exception
            Whatever the reference raises; the run can be resumed from its last
            checkpoint.
        """
        if not self._begun:
            called = self._ask_if_needed()
            if called is None:
                return self
            self._finish_step(True)
            self._begun = True
        while self.step < steps:
            before = self._state()
            self.dynamics.run(1)
            self.step += 1
            called = self._ask_if_needed()
            if called is None:
                self._save()
                return self
            if called:
                self._go_to(**before)
                self.dynamics.run(1)
            due = self.step % self.checkpoint_interval == 0 or self.step == steps
            self._finish_step(called or due)
        return self

    # ---- asking the reference ------------------------------------------------------

    def _ask_if_needed(self) -> bool | None:
        """Call the reference if an atom is not known well enough; None: it may not be."""
        self.atoms.get_potential_energy()
        model = self.potential.model
        index = species_index(self.atoms.numbers, model.species)
        waiting = self.log and self.step < self.log[-1]["step"] + self.wait
        low = self.threshold[index] * (WAITING if waiting else 1.0)
        if np.all(self.threshold >= model.safety.std_known):
            std = self.atoms.calc.uncertainty["std_bound"]  # exact beyond what counts as known
        else:
            std = gate_std(model.local, model.system(self.atoms))
        above = std > low
        if not above.any():
            return False
        if self.max_calls is not None and self.n_calls >= self.max_calls:
            warn_user(
                f"stopped after {self.step} steps: atom {int((std / low).argmax())} is not known "
                f"well enough, and the reference was called {self.n_calls} times already; raise "
                "`max_calls` to go on"
            )
            return None
        self._ask(int((std / low).argmax()), std, low)
        return True

    def _ask(self, atom: int, std: FloatArray, low: FloatArray) -> None:
        """Label the present structure, learn it, and log what was found."""
        before = self.atoms.calc.results
        share = self._novelty_share(atom, std[atom])
        started = time.perf_counter()
        frame = self._label(f"call {self.n_calls}")
        seconds = time.perf_counter() - started
        assert frame.energy is not None
        assert frame.forces is not None
        error = before["forces"] - frame.forces
        record = {
            "call": self.n_calls,
            "step": self.step,
            "reason": "novel" if share > NOVEL_SHARE else "uncertain",
            "atom": atom,
            "symbol": self.atoms[atom].symbol,
            "std": float(std[atom]),
            "threshold": float(low[atom]),
            "novelty": share,
            "n_above": int(np.count_nonzero(std > low)),
            "energy_error": float(before["energy"] - frame.energy) / len(frame),
            "forces_mae": float(np.abs(error).mean()),
            "forces_max_error": float(np.linalg.norm(error, axis=1).max()),
        }
        n_points = self._n_points()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self.potential = copy.copy(self.potential).update(
                [frame],
                add_sparse=self.add_sparse,
                data=self.data if self.add_sparse else None,
                n_threads=self.n_threads,
            )
        record["warnings"] = [str(warning.message) for warning in caught]
        for message in record["warnings"]:
            _log.warning("step %d: %s", self.step, message)
        self._frames.append(frame)
        self.data = Dataset([*self.data, frame])
        model = self.potential.model
        record |= {
            "std_after": float(gate_std(model.local, model.system(self.atoms))[atom]),
            "n_added": self._n_points() - n_points,
        }
        self.log.append(record)
        self._write_model()
        self._take_calculator()
        record |= {
            "energy_jump": float(self.atoms.get_potential_energy() - before["energy"]),
            "n_structures": len(self.data),
            "seconds": round(seconds, 3),
        }
        with open(self._path(LOG), "a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")
        run_state.append(self._path(LABELLED), run_state.labelled(frame))

    def _label(self, name: str) -> Frame:
        work = bare_copy(self.atoms)
        bare = work.copy()
        work.calc = self.reference
        forces = np.array(work.get_forces(), dtype=float)
        try:
            energy = work.get_potential_energy(force_consistent=True)
        except PropertyNotImplementedError:
            energy = work.get_potential_energy()
        virial = None
        sources = self.potential.model.training.sources
        if np.all(work.pbc) and {"virial", "stress"} & set(sources):
            try:
                virial = voigt(-work.get_stress(voigt=False) * work.get_volume())
            except (PropertyNotImplementedError, NotImplementedError):
                virial = None
        values = [energy, *forces.ravel(), *([] if virial is None else virial)]
        if not np.isfinite(values).all():
            raise ValueError(f"the reference gave a label that is not finite at step {self.step}")
        origin = type(self.reference).__name__
        kinds = ["energy", "forces"] + ([] if virial is None else ["virial"])
        return Frame(
            bare, float(energy), forces, virial, "on_the_fly", name, dict.fromkeys(kinds, origin)
        )

    def _novelty_share(self, atom: int, std: float) -> float:
        """Share of an atom's variance that the sparse points do not span."""
        model = self.potential.model
        spilling = model.predict(self.atoms, return_std="local", n_threads=self.n_threads).spilling
        assert spilling is not None
        prior = model.local.prior(model.system(self.atoms))[atom]
        return float(min(1.0, spilling[atom] * prior / std**2))

    def _n_points(self) -> int:
        return self.potential.model.design.n_sparse

    # ---- state ---------------------------------------------------------------------

    def _path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def _model_path(self) -> str:
        return self._path(f"model-{self.n_calls:04d}.kpot")

    def _write_model(self) -> None:
        """Save the potential and take what was saved: rounding is the same after a resume."""
        self.potential.save(self._model_path())
        self.potential = load(self._model_path(), verify=False)

    def _take_calculator(self) -> None:
        self.atoms.calc = KernelPotCalculator(
            self.potential, gate=VarianceGate(on_gate=None), n_threads=self.n_threads
        )

    def _finish_step(self, save: bool) -> None:
        if self.step % self.interval == 0:
            run_state.append(self._path(TRAJECTORY), run_state.snapshot(self.atoms, self.step))
        if save:
            self._save()
            self._take_calculator()

    def _state(self) -> dict[str, Any]:
        """Copy all that the next step depends on, besides the potential."""
        return {
            "positions": self.atoms.positions.copy(),
            "momenta": self.atoms.get_momenta(),
            "cell": self.atoms.cell.array.copy(),
            "rng": self.rng.bit_generator.state,
            "numbers": {k: v.copy() for k, v in run_state.numbers(self.dynamics).items()},
        }

    def _go_to(
        self,
        positions: FloatArray,
        momenta: FloatArray,
        cell: FloatArray,
        rng: Mapping[str, Any],
        numbers: Mapping[str, Array],
    ) -> None:
        """Go to a state of the dynamics, whatever the constraints."""
        self.atoms.cell[:] = cell
        self.atoms.positions[:] = positions
        self.atoms.set_array("momenta", momenta)
        self.rng.bit_generator.state = rng
        run_state.set_numbers(self.dynamics, numbers)

    def _save(self) -> None:
        """Write the state; what it names is complete, so this alone commits the step."""
        state = self._state()
        arrays: dict[str, Array] = {
            "positions": state["positions"],
            "momenta": state["momenta"],
            "cell": state["cell"],
            **{f"dynamics/{k}": v for k, v in state["numbers"].items()},
        }
        for k, frame in enumerate(self._frames):
            arrays |= run_state.pack(frame, f"frame{k}")
        header = {
            "fingerprint": self._fingerprint,
            "step": self.step,
            "log": self.log,
            "rng": state["rng"],
            "sources": [frame.sources for frame in self._frames],
            "sizes": {
                name: os.path.getsize(self._path(name)) for name in (LOG, LABELLED, TRAJECTORY)
            },
        }
        archive.write(self._path(STATE), header, arrays, format=FORMAT)
        present = os.path.basename(self._model_path())
        for name in os.listdir(self.folder):
            if name.startswith("model-") and name.endswith(".kpot") and name != present:
                os.unlink(self._path(name))

    def _resume(self) -> None:
        """Take the last state of an interrupted run; forget what came after it."""
        header, arrays = archive.read(self._path(STATE), format=FORMAT)
        if header["fingerprint"] != self._fingerprint:
            raise ValueError(
                f"{self.folder} holds a run of another potential, threshold or start: repeat "
                "that one, or name another folder"
            )
        for name, size in header["sizes"].items():
            os.truncate(self._path(name), size)
        self.step, self.log = header["step"], header["log"]
        own = {k: v for k, v in arrays.items() if k.startswith("dynamics/")}
        self._go_to(
            arrays["positions"],
            arrays["momenta"],
            arrays["cell"],
            header["rng"],
            {k.removeprefix("dynamics/"): v for k, v in own.items()},
        )
        self._frames = [
            run_state.unpack(arrays, f"frame{k}", f"call {k}", sources)
            for k, sources in enumerate(header["sources"])
        ]
        self.data = Dataset([*self.data, *self._frames])
        self.potential = load(self._model_path(), verify=False)


def _threshold(model: FittedModel, given: float | Mapping[str, float] | None) -> FloatArray:
    """Standard deviation of each species that calls the reference [eV]."""
    low = VarianceGate(given).known(model.species, model.safety)
    calibration = model.calibration
    if given is None or calibration is None:
        return low
    factors = calibration.local_scale(np.array(model.species))
    symbols = [chemical_symbols[z] for z in model.species]
    stated = given if isinstance(given, Mapping) else symbols
    return np.where([s in stated for s in symbols], low / factors, low)


def _fingerprint(model: FittedModel, threshold: FloatArray, atoms: Atoms) -> str:
    """SHA-256 of what a run starts from."""
    return digest(threshold, model.factor.matrix, atoms)
