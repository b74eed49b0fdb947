"""ASE calculator of a fitted potential."""

from __future__ import annotations

import copy
import difflib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import EllipsisType
from typing import Any, Protocol

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.data import chemical_symbols

from kernelpot.common.caller import warn_user
from kernelpot.common.cards import card
from kernelpot.common.types import FloatArray
from kernelpot.data.neighbors import NeighborList, SkinList
from kernelpot.data.soundness import check_cell
from kernelpot.data.state import STATE
from kernelpot.model.calibration import Interval
from kernelpot.model.file import load
from kernelpot.model.fitted import FittedModel
from kernelpot.model.prediction import Prediction
from kernelpot.model.self_test import UnsafePotentialWarning
from kernelpot.safety.gate import NOTICEABLE, GateClosedError, GateWarning, VarianceGate, as_gate

# What the calculator says beyond ASE's properties: what each evaluation finds, what it finds with
# a local std, and what is computed only where it is asked for.
_GATE = ("penalty", "std_bound", "n_beyond")
_LOCAL_STD = ("energies_std", "spilling")
_FULL_STD = ("energy_std", "forces_std", "stress_std")
_PER_ATOM = (
    "penalty", "std_bound", "energies_std", "spilling", "forces_std", "energies_interval",
    "forces_interval",
)  # fmt: skip
_NOVELTY = ("energy_novelty", "forces_novelty", "stress_novelty")


_PARAMETERS = ("skin", "gate", "on_gate", "with_std", "n_threads")
_OF_ASE = ("atoms", "label", "directory")
# Arrays by which ASE tells one configuration from another.
_CHANGING = tuple(name for name in all_changes if name not in ("cell", "pbc"))

OnGate = str | Callable[[Atoms, FloatArray], Any] | None


def _refuse_unknown(given: Mapping[str, Any], known: Sequence[str], of: str) -> None:
    """Raise TypeError for arguments that do not exist."""
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise TypeError(f"{of} has no argument {name!r}{hint}; it has {', '.join(known)}")


class HasModel(Protocol):
    """Whatever holds a fitted model (`KernelPotential`)."""

    @property
    def model(self) -> FittedModel:
        """What predicts."""


def model_of(potential: HasModel | FittedModel | str | os.PathLike[str]) -> FittedModel:
    """Return the fitted model meant by a potential or the path of its file.

    Raises
    ------
    TypeError
        If it is neither.
    """
    if isinstance(potential, (str, os.PathLike)):
        return load(potential)[0]
    model = getattr(potential, "model", potential)
    if not isinstance(model, FittedModel):
        raise TypeError(
            f"a calculator needs a fitted KernelPotential or a .kpot file, got {potential!r}"
        )
    return model


def _differ(old: Any, new: Any, tol: float) -> bool:
    """Whether arrays, where there are any, differ by more than `tol` somewhere."""
    if old is None or new is None:
        return old is not new
    if np.shape(old) != np.shape(new):
        return True
    if (old == new).all():
        return False
    if old.dtype.kind not in "fi":
        return True
    return not bool(np.all(np.abs(new - old) <= tol))


class _Results(dict[str, Any]):
    """What ASE calls results; says where it is what it lacks."""

    def __missing__(self, name: str) -> Any:
        if name in (*_GATE, *_LOCAL_STD, *_FULL_STD):
            raise KeyError(
                f"{name!r} is none of ASE's results: calc.get_property({name!r}, atoms) computes "
                "it, and what was computed is in calc.uncertainty"
            )
        why = {
            "stress": "of this structure: its cell has not three vectors",
            "stresses": "yet: atoms.get_stresses() computes them",
            "charges": "of a model without charges",
            "dipole": "of a periodic structure, or a model without charges",
        }.get(name, f"here; there are {', '.join(self) or 'none yet: ask for the energy first'}")
        raise KeyError(f"there is no {name!r} {why}")


class _Uncertainty(dict[str, Any]):
    """What is known beyond ASE's results; says how to ask for what it lacks."""

    def __init__(self, *, gated: bool) -> None:
        super().__init__()
        self._gated = gated

    def __missing__(self, name: str) -> Any:
        ask = f"calc.get_property({name!r}, atoms)"
        if name in _LOCAL_STD:
            ask = f"ask for it by {ask}, or at every step by potential.calculator(with_std=True)"
        elif name in _FULL_STD:
            ask = f"ask for it by {ask}; it costs many times an evaluation"
        elif name in _GATE:
            ask = f"ask for it by {ask}" if self._gated else "the calculator has no gate"
        else:
            ask = f"there are {', '.join((*_GATE, *_LOCAL_STD, *_FULL_STD))}"
        raise KeyError(f"{name!r} was not computed: {ask}")


class KernelPotCalculator(Calculator):
    """Energy, forces, stress and local uncertainty for ASE.

    One evaluation serves every property of a configuration. The neighbor list is kept
    while atoms move less than half the skin.

    Use one calculator per thread: a calculator has one configuration at a time. Threads that
    share one wait for each other, and each is told the truth of its own atoms by
    ``atoms.get_forces()`` and the like, but `results` may be those of another thread's.
    Copies share the model; a pickled calculator does not carry the factor of the training
    (`KernelPotential.save` with ``slim=True``), which `energy_std`, `forces_std` and
    `stress_std` need.

    Parameters
    ----------
    potential : KernelPotential or path
        The potential, or a ``.kpot`` file. A later `fit` of it does not change the
        calculator.
    skin : float, default=0.5
        Verlet skin of the neighbor list [Å].
    gate : VarianceGate, bool or None, default=True
        The safety net: True with what the fit found, None (or False) for none, so that
        results are those of `predict`.
    on_gate : {"warn", "stop"}, callable or None, optional
        What happens where atoms are beyond the data, as in `VarianceGate`; by default what
        `gate` says.
    with_std : bool, default=False
        Compute `energies_std` in every evaluation. Otherwise it is computed from the
        first time it is asked for.
    n_threads : int, optional
        Default: ``KERNELPOT_NUM_THREADS`` or the free cores.
    **kwargs
        ``atoms``, ``label`` and ``directory`` of `ase.calculators.calculator.Calculator`.

    Attributes
    ----------
    results : dict
        ``energy``, ``free_energy`` (equal), ``energies`` [eV], ``forces`` [eV/Å],
        ``stress`` (6, [eV/Å^3], of every structure whose cell has three vectors) and, on
        request, ``stresses`` (n_atoms, 6), which add up to it: ASE's names only.
    uncertainty : dict
        What belongs to the same configuration and has no name in ASE. With a gate
        ``penalty`` (by what each local energy is raised because its environment is not
        known [eV]), ``n_beyond`` (atoms beyond the data: with a penalty above 1 meV) and
        ``std_bound``: local standard deviations [eV], exact beyond what counts as known
        and elsewhere an upper bound below that. On request ``energies_std`` [eV] and
        ``spilling``, ``energy_std`` [eV], ``forces_std`` [eV/Å] and ``stress_std``
        [eV/Å^3, where there is a stress]. The last three cost many times the rest and are
        computed for a configuration only when asked for:
        ``calc.get_property("forces_std", atoms)``.
        `annotate` puts all of it into a structure, `interval` makes calibrated intervals.
    n_evaluations : int
        How many configurations were evaluated.

    Raises
    ------
    TypeError
        If an argument is unknown or of a wrong type.
    ValueError
        If an argument makes no sense. On evaluation, for a species the potential does not
        know or an unsound structure.
    GateClosedError
        On evaluation, where atoms are beyond the data and the gate says "stop".

    Warns
    -----
    UnsafePotentialWarning
        Once, if the potential's test of itself failed.
    GateWarning
        Once, when atoms are beyond the data for the first time and the gate says "warn".
    """

    implemented_properties = [
        "energy",
        "free_energy",
        "energies",
        "forces",
        "stress",
        "stresses",
    ]
    uncertainty_properties = (*_GATE, *_LOCAL_STD, *_FULL_STD)

    def __init__(
        self,
        potential: HasModel | FittedModel | str | os.PathLike[str],
        *,
        skin: float = 0.5,
        gate: VarianceGate | bool | None = True,
        on_gate: OnGate | EllipsisType = ...,
        with_std: bool = False,
        n_threads: int | None = None,
        **kwargs: Any,
    ) -> None:
        _refuse_unknown(kwargs, (*_PARAMETERS, *_OF_ASE), "KernelPotCalculator")
        self._lock = threading.RLock()
        self.model = model_of(potential)
        if self.model.has_charges:
            self.implemented_properties = [*self.implemented_properties, "charges", "dipole"]
        self._gate: VarianceGate | None
        self._skin: float
        self._with_std: bool
        self._n_threads: int | None
        self._with_stresses = False
        self._beyond_results: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
        self.n_evaluations = 0
        super().__init__(**kwargs)
        given = {} if on_gate is ... else {"on_gate": on_gate}
        self.set(skin=skin, gate=gate, with_std=with_std, n_threads=n_threads, **given)
        tested = self.model.self_test
        if tested is not None and not tested.passed:
            warn_user(tested.verdict, UnsafePotentialWarning)

    def __repr__(self) -> str:
        """Say of which species it is, and what it was told."""
        return f"KernelPotCalculator({', '.join(f'{k} {v}' for k, v in self._facts())})"

    def _repr_html_(self) -> str:
        """Show it in a notebook, with what it has computed last."""
        facts = self._facts()
        tested = self.model.self_test
        if tested is not None:
            facts.append(("self-test", tested.verdict))
        facts.append(("evaluations", str(self.n_evaluations)))
        if self.results:
            facts.append(("has computed", ", ".join(self.results)))
        if self.uncertainty:
            facts.append(("and", ", ".join(self.uncertainty)))
        return card("KernelPotCalculator", facts)

    def _facts(self) -> list[tuple[str, str]]:
        """Names and values with units."""
        net = "off" if self._gate is None else "on"
        if self._gate is not None:
            net += f" ({self._gate!r})" if self._gate != VarianceGate() else ""
        facts = [
            ("for", ", ".join(chemical_symbols[z] for z in self.model.species)),
            ("cutoff", f"{self.model.r_cut:.2f} Å"),
            ("safety net", net),
        ]
        if self._with_std:
            facts.append(("local std", "with every evaluation"))
        return facts

    def set(self, **kwargs: Any) -> dict[str, Any]:
        """Change parameters; results are dropped if they depend on them.

        Parameters
        ----------
        **kwargs
            ``skin``, ``gate``, ``on_gate``, ``with_std``, ``n_threads`` as of the class. They
            are attributes, too: ``calc.gate = None`` is the same as ``calc.set(gate=None)``.

        Returns
        -------
        dict
            What has changed.

        Raises
        ------
        TypeError
            If a parameter is unknown or of a wrong type.
        ValueError
            If a value makes no sense.

        Examples
        --------
        >>> import kernelpot as kp
        >>> from kernelpot.datasets import load_silicon
        >>> terms = [kp.SOAPTerm(r_cut=4.0, n_max=4, l_max=3, n_sparse=50)]
        >>> pot = kp.KernelPotential(terms).fit(load_silicon(), optimize=None, self_test=False)
        >>> calculator = pot.calculator(on_gate="stop")
        >>> calculator.set(gate=None)
        {'gate': None}
        """
        _refuse_unknown(kwargs, _PARAMETERS, "set")
        if not kwargs:  # ASE's constructor, before there is anything
            return {}
        with self._lock:
            return self._set(kwargs)

    def _set(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        before = {name: getattr(self, f"_{name}", ...) for name in _PARAMETERS if name != "on_gate"}
        after = {**before, **{k: v for k, v in kwargs.items() if k != "on_gate"}}
        if isinstance(after["gate"], str):
            raise TypeError(
                f"`gate` must be a VarianceGate, True, False or None, got {after['gate']!r}; what "
                "happens beyond the data is said by on_gate"
            )
        gate = as_gate(after["gate"])
        if "on_gate" in kwargs:
            if gate is None:
                raise ValueError(
                    f"`on_gate` = {kwargs['on_gate']!r} without a gate: leave it out, or gate=None"
                )
            gate = replace(gate, on_gate=kwargs["on_gate"])
        if gate is not None:  # a wrong one is refused here, not in mid-run
            gate.known(self.model.species, self.model.safety)
        after |= {"gate": gate, "with_std": bool(after["with_std"])}
        if after["skin"] != before["skin"]:
            self._list = SkinList(self.model.r_cut, after["skin"])
        changed = {k: v for k, v in after.items() if before[k] is ... or v != before[k]}
        for name, value in changed.items():
            setattr(self, f"_{name}", value)
        if "gate" in changed:
            self._warned = False
        if {"gate", "skin", "with_std"} & set(changed):
            self.reset()
        if "gate" in changed and "on_gate" in kwargs and "gate" not in kwargs:
            changed["on_gate"] = changed.pop("gate").on_gate
        return changed

    @property
    def gate(self) -> VarianceGate | None:
        """The safety net; None for none."""
        return self._gate

    @gate.setter
    def gate(self, gate: VarianceGate | bool | None) -> None:
        self.set(gate=gate)

    @property
    def on_gate(self) -> OnGate:
        """What happens where atoms are beyond the data."""
        return None if self._gate is None else self._gate.on_gate

    @on_gate.setter
    def on_gate(self, on_gate: OnGate) -> None:
        self.set(on_gate=on_gate)

    @property
    def skin(self) -> float:
        """Verlet skin of the neighbor list [Å]."""
        return self._skin

    @skin.setter
    def skin(self, skin: float) -> None:
        self.set(skin=skin)

    @property
    def with_std(self) -> bool:
        """Whether every evaluation has `energies_std`."""
        return self._with_std

    @with_std.setter
    def with_std(self, with_std: bool) -> None:
        self.set(with_std=with_std)

    @property
    def n_threads(self) -> int | None:
        """Threads of an evaluation; None for what is free."""
        return self._n_threads

    @n_threads.setter
    def n_threads(self, n_threads: int | None) -> None:
        self.set(n_threads=n_threads)

    def todict(self, skip_default: bool = True) -> dict[str, Any]:
        """Parameters as plain data, as ASE writes them to files.

        Parameters
        ----------
        skip_default : bool
            For ASE; plays no part.

        Returns
        -------
        dict
        """
        gate: dict[str, Any] | None = None
        if self.gate is not None:
            stds = self.gate.std_known
            gate = {
                "kappa": self.gate.kappa,
                "std_known": dict(stds) if isinstance(stds, Mapping) else stds,
                "on_gate": "callable" if callable(self.on_gate) else self.on_gate,
            }
        return {"skin": self.skin, "gate": gate, "with_std": self.with_std}

    @property
    def uncertainty(self) -> dict[str, Any]:
        """What is known of the configuration of `results` beyond ASE's properties."""
        results, found = self._beyond_results
        if results is not self.results:  # ASE has dropped those of another configuration
            found = _Uncertainty(gated=self.gate is not None)
            self._beyond_results = (self.results, found)
        return found

    def get_property(
        self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True
    ) -> Any:
        """Return a property of ASE's, or one of `uncertainty_properties`.

        Parameters
        ----------
        name : str
        atoms : ase.Atoms, optional
            By default those of the last evaluation.
        allow_calculation : bool, default=True
            False: None for what is not there yet.

        Returns
        -------
        float, int, ndarray or None

        Raises
        ------
        PropertyNotImplementedError
            If there is no such property, or not of this structure.
        """
        with self._lock:
            if name not in self.uncertainty_properties:
                return super().get_property(name, atoms, allow_calculation)
            return self._get_uncertainty(name, atoms, allow_calculation)

    def _get_uncertainty(self, name: str, atoms: Atoms | None, allow_calculation: bool) -> Any:
        changes = [] if atoms is None else self.check_state(atoms)
        if changes:
            self.reset()
        if name not in self.uncertainty:
            if not allow_calculation:
                return None
            if atoms is None and self.atoms is None:
                raise ValueError(f"{name!r} of what? nothing was evaluated yet: name the atoms")
            self.calculate(self.atoms if atoms is None else atoms, [name], changes)
        if name not in self.uncertainty:
            hint = ": the calculator has no gate" if name in _GATE and self.gate is None else ""
            raise PropertyNotImplementedError(f"{name!r} is not defined here{hint}")
        return copy.copy(self.uncertainty[name])

    def interval(self, atoms: Atoms | None = None, level: float | None = 0.95) -> Interval:
        """Calibrated half-widths, as `Prediction.interval`.

        Parameters
        ----------
        atoms : ase.Atoms, optional
            By default those of the last evaluation.
        level : float or None, default=0.95
            Coverage between 0 and 1. None: calibrated standard deviations instead.

        Returns
        -------
        Interval

        Raises
        ------
        ValueError
            If the model is not calibrated, or nothing was evaluated yet.
        """
        with self._lock:
            for name in ("energies_std", "forces_std"):
                self.get_property(name, atoms)
            found, results, numbers = self.uncertainty, self.results, self.atoms.numbers
        names = (*_LOCAL_STD, *_FULL_STD, *_NOVELTY)
        return Prediction(
            **{name: results.get(name) for name in ("energy", "energies", "forces", "stress")},
            **{name: found[name] for name in names if name in found},
            numbers=numbers,
            calibration=self.model.calibration,
        ).interval(level)

    def annotate(
        self,
        atoms: Atoms | None = None,
        *,
        full_std: bool = False,
        level: float | None = None,
        info: bool = True,
    ) -> Atoms:
        """Put what ASE has no name for into a structure, to be written to a file with it.

        Values of each atom go into ``atoms.arrays`` (which extended XYZ keeps) and into
        ``atoms.info`` (which ``.traj`` keeps), others into ``atoms.info``; for a data base
        of ASE: ``db.write(atoms, data=atoms.info)``.

        Parameters
        ----------
        atoms : ase.Atoms, optional
            Modified in place; by default a copy of those of the last evaluation.
        full_std : bool, default=False
            Also `energy_std`, `forces_std` and `stress_std`, which cost many times an
            evaluation.
        level : float, optional
            Also calibrated half-widths of this coverage, such as 0.95:
            ``energy_interval`` and so on, and ``interval_level``. Costs as `full_std`.
        info : bool, default=True
            False: values of each atom into ``atoms.arrays`` alone.

        Returns
        -------
        ase.Atoms
            The structure, annotated.

        Raises
        ------
        ValueError
            If nothing was evaluated yet and no atoms are named, or intervals are wanted of
            a model that is not calibrated.

        Examples
        --------
        >>> import kernelpot as kp
        >>> from ase.build import bulk
        >>> from ase.io import read, write
        >>> from kernelpot.datasets import load_silicon
        >>> terms = [kp.SOAPTerm(r_cut=4.0, n_max=4, l_max=3, n_sparse=50)]
        >>> pot = kp.KernelPotential(terms).fit(load_silicon(), optimize=None, self_test=False)
        >>> atoms = bulk("Si", cubic=True)
        >>> atoms.calc = pot.calculator()
        >>> write("annotated.xyz", atoms.calc.annotate(atoms))
        >>> read("annotated.xyz").arrays["energies_std"].shape
        (8,)
        """
        with self._lock:
            self.get_property("energies_std", atoms)
            if full_std or level is not None:
                self.get_property("forces_std", atoms)
            values = {k: v for k, v in self.uncertainty.items() if k not in _NOVELTY}
            present = self.atoms
        if not full_std:
            values = {k: v for k, v in values.items() if k not in _FULL_STD}
        if level is not None:
            found = self.interval(atoms, level)
            values["interval_level"] = level
            for kind in ("energy", "energies", "forces", "stress"):
                if getattr(found, kind) is not None:
                    values[f"{kind}_interval"] = getattr(found, kind)
        atoms = present.copy() if atoms is None else atoms
        for name, value in values.items():
            if name in _PER_ATOM:
                atoms.set_array(name, np.asarray(value))
            if name not in _PER_ATOM or info:
                atoms.info[name] = copy.copy(value)
        return atoms

    def calculate_properties(self, atoms: Atoms, properties: Sequence[str]) -> Any:
        """Evaluate properties of ASE's; what ``atoms.get_properties`` calls.

        Parameters
        ----------
        atoms : ase.Atoms
        properties : sequence of str

        Returns
        -------
        ase.outputs.Properties
        """
        with self._lock:
            return super().calculate_properties(atoms, properties)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the lock, which every copy has of its own, and the training's factor."""
        state = {name: value for name, value in vars(self).items() if name != "_lock"}
        return {**state, "model": self.model.slim()}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Inverse of `__getstate__`."""
        vars(self).update(state, _lock=threading.RLock())

    def __deepcopy__(self, memo: dict[int, Any]) -> KernelPotCalculator:
        """A calculator of its own of the same model, with the results it has."""
        other = object.__new__(type(self))
        memo[id(self)] = other
        other.__setstate__(
            {name: copy.deepcopy(v, memo) for name, v in vars(self).items() if name != "_lock"}
        )
        return other

    def __copy__(self) -> KernelPotCalculator:
        """As `copy.deepcopy`: two calculators never share a state."""
        return copy.deepcopy(self)

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """List what has changed since the last evaluation, per-atom charges included.

        Parameters
        ----------
        atoms : ase.Atoms
        tol : float
            Largest difference that counts as none.

        Returns
        -------
        list of str
        """
        old = self.atoms
        if old is None:
            return list(all_changes)
        changes = []
        if _differ(old.cell.array, atoms.cell.array, tol):
            changes.append("cell")
        if _differ(old.pbc, atoms.pbc, tol):
            changes.append("pbc")
        for name in _CHANGING:
            if _differ(old.arrays.get(name), atoms.arrays.get(name), tol):
                changes.append(name)
        changes += [name for name in STATE if old.info.get(name) != atoms.info.get(name)]
        for name in self.model.reference.array_names:
            if _differ(old.arrays.get(name), atoms.arrays.get(name), 0.0) and name not in changes:
                changes.append(name)
        return changes

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Evaluate everything at once; called by ASE when something is missing.

        Results that the configuration already has are kept: asking for `forces_std`
        later adds the standard deviations alone.

        Parameters
        ----------
        atoms : ase.Atoms
        properties : sequence of str
        system_changes : sequence of str
        """
        with self._lock:
            self._calculate(atoms, properties, system_changes)

    def _calculate(
        self, atoms: Atoms | None, properties: Sequence[str], system_changes: Sequence[str]
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        local_std = bool(set(_LOCAL_STD) & set(properties))
        self._with_std = self._with_std or local_std
        missing = local_std
        if "stresses" in properties:
            self._with_stresses = True
            missing = missing or "stresses" not in self.results
        check_cell(self.atoms, "structure")
        neighbors = self._list.update(self.atoms)
        if system_changes or not self.results:
            self.results = _Results()
        if not self.results or missing:
            self._evaluate(neighbors)
        if set(_FULL_STD) & set(properties):
            full = self.model.full_std(self.atoms, neighbors=neighbors, n_threads=self.n_threads)
            self.uncertainty.update({k: v for k, v in full.items() if v is not None})

    def _evaluate(self, neighbors: NeighborList) -> None:
        predicted = self.model.predict(
            self.atoms,
            return_std="local" if self.with_std else False,
            gate=self.gate,
            neighbors=neighbors,
            n_threads=self.n_threads,
            stresses=self._with_stresses,
        )
        self.n_evaluations += 1
        self.results |= {  # the same dict: what `uncertainty` belongs to
            "energy": predicted.energy,
            "free_energy": predicted.energy,
            "energies": predicted.energies,
            "forces": predicted.forces,
        }
        if predicted.stress is not None:
            self.results["stress"] = predicted.stress
        if predicted.stresses is not None:
            self.results["stresses"] = predicted.stresses
        if predicted.charges is not None:
            self.results["charges"] = predicted.charges
            if predicted.dipole is not None:
                self.results["dipole"] = predicted.dipole
        if self.with_std:
            self.uncertainty.update(
                energies_std=predicted.energies_std, spilling=predicted.spilling
            )
        if self.gate is not None:
            self._report_gate(predicted)

    def _report_gate(self, predicted: Prediction) -> None:
        """Keep the state of the safety net, and react to it."""
        assert self.gate is not None
        penalty = predicted.penalty
        assert penalty is not None
        n_beyond = int(np.sum(penalty > NOTICEABLE))
        self.uncertainty.update(penalty=penalty, std_bound=predicted.std_bound, n_beyond=n_beyond)
        reaction = self.gate.on_gate
        if not n_beyond or reaction is None:
            return
        worst = int(penalty.argmax())
        message = (
            f"{n_beyond} of {len(penalty)} atoms are beyond the training data (evaluation "
            f"{self.n_evaluations}; most of all atom {worst}, {self.atoms[worst].symbol}): as the "
            f"model does not know them, its energy is raised by {penalty.sum():.2g} eV"
        )
        if callable(reaction):
            reaction(self.atoms, penalty)
        elif reaction == "stop":
            raise GateClosedError(message)
        elif not self._warned:
            self._warned = True
            warn_user(message, GateWarning)
