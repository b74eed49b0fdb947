"""Any ASE calculator as a term of the baseline.

A calculator of ASE's own list is named as ASE names it (``"emt"``, ``"lj"``); others are
registered under a name, in every process that fits or loads such a model
(`CalculatorBaseline.register`). Files hold the name and the parameters, never code.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, get_calculator_class
from ase.data import chemical_symbols
from ase.geometry import complete_cell

from kernelpot.baseline.reference import Reference
from kernelpot.baseline.whole_structures import WholeStructureBaseline
from kernelpot.common.types import FloatArray
from kernelpot.data.dataset import Dataset
from kernelpot.data.state import state_of
from kernelpot.data.system import volume_of

# Names that `register` added.
_FACTORIES: dict[str, Callable[..., Calculator]] = {}
# Calculators keep a state: each thread has its own.
_LOCAL = threading.local()
# The check by finite differences: step [Å, or strain], and what forces and stress may be off.
# Calculators of codes that iterate to self-consistency are good to some 1e-3 eV/Å.
_STEP = 1e-3
_TOLERANCE = 5e-3


@dataclass(frozen=True)
class CalculatorBaseline(WholeStructureBaseline):
    """An ASE calculator whose energy the kernels need not learn.

    Its energy, forces and stress, less the energies of free atoms, are subtracted from the
    labels before the fit and added to predictions after it. Fits compare its forces and
    stress with finite differences of its energy once, on the smallest structures of the data.

    Parameters
    ----------
    calculator : str
        Name: of ASE's list (``ase.calculators.calculator.get_calculator_class``), or given to
        `register`.
    parameters : mapping, optional
        Keyword arguments of the calculator; plain data (numbers, text, lists), as they are
        written to model files.
    free_atoms : mapping of symbol to float, optional
        What the calculator gives for single atoms [eV], subtracted for every atom. What is
        not given is computed by `fit`.

    Raises
    ------
    ValueError
        If there is no calculator of that name.
    TypeError
        If `calculator` is no name.

    Examples
    --------
    >>> import kernelpot as kp
    >>> term = kp.CalculatorBaseline("lj", {"sigma": 2.5, "epsilon": 0.01, "rc": 8.0})
    >>> pot = kp.KernelPotential(baseline=[kp.Wall(), term])
    """

    calculator: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    free_atoms: Mapping[str, float] | None = None

    kind: ClassVar[str] = "calculator"

    def __post_init__(self) -> None:
        """Refuse what no calculator can be made of, before any work starts."""
        if not isinstance(self.calculator, str):
            raise TypeError(
                "`calculator` must be a name such as 'emt', got "
                f"{type(self.calculator).__name__}; for a calculator of your own call "
                "CalculatorBaseline.register('name', its class) first"
            )
        # in one order, as files have them
        for name in ("parameters", "free_atoms"):
            given = getattr(self, name)
            if given is not None:
                object.__setattr__(self, name, dict(sorted(given.items())))
        _factory(self.calculator)

    @staticmethod
    def register(name: str, factory: Callable[..., Calculator]) -> None:
        """Make a calculator known by a name, for this process.

        Parameters
        ----------
        name : str
        factory : callable
            Its class, or a function: called with the parameters as keywords, returns an ASE
            calculator.

        Raises
        ------
        TypeError
            If the factory cannot be called.
        """
        if not callable(factory):
            raise TypeError(f"`factory` must be callable, got {factory!r}")
        _FACTORIES[name] = factory

    def _made(self) -> Calculator:
        """The calculator of this thread."""
        known: dict[Any, Calculator] = vars(_LOCAL).setdefault("calculators", {})
        factory = _factory(self.calculator)
        key = factory, repr(sorted(self.parameters.items()))
        if key not in known:
            known[key] = factory(**self.parameters)
        return known[key]

    def _single(self, symbol: str) -> float:
        """Energy of a free atom as the calculator has it [eV]."""
        if self.free_atoms is not None and symbol in self.free_atoms:
            return float(self.free_atoms[symbol])
        atoms = Atoms(symbol)
        atoms.calc = self._made()
        try:
            return float(atoms.get_potential_energy())
        except Exception as error:
            raise ValueError(
                f"{self.calculator} has no energy for a single atom of {symbol} ({error}); give it "
                "as CalculatorBaseline(..., free_atoms={...})"
            ) from error

    def fit(self, data: Dataset, species: Sequence[int], known: Reference) -> CalculatorBaseline:
        """Compute free atoms, and compare forces and stress with finite differences.

        Parameters
        ----------
        data : Dataset
        species : sequence of int
            Atomic numbers to serve.
        known : Reference
            Plays no part.

        Returns
        -------
        CalculatorBaseline

        Raises
        ------
        ValueError
            If the calculator fails for a structure, or its forces or stress are no
            derivatives of its energy.
        """
        free = {chemical_symbols[z]: self._single(chemical_symbols[z]) for z in species}
        term = replace(self, free_atoms={**free, **(self.free_atoms or {})})
        structures = sorted((f.atoms for f in data if len(f) > 1), key=len)
        for periodic in (False, True):
            found = [atoms for atoms in structures if bool(atoms.pbc.any()) == periodic]
            if found:
                term._check_derivatives(found[0])
        return term

    def _check_derivatives(self, atoms: Atoms) -> None:
        """Refuse forces and stress that are no derivatives of the energy."""
        rng = np.random.default_rng(0)
        _, forces, virial = self._of(atoms)
        direction = rng.normal(size=forces.shape)
        direction /= np.linalg.norm(direction)
        bend = rng.normal(size=(3, 3))
        bend = 0.5 * (bend + bend.T) * atoms.pbc[:, None] * atoms.pbc

        def along(step: float) -> float:
            moved = atoms.copy()
            moved.positions += step * direction
            return float(self._of(moved)[0].sum())

        def strained(step: float) -> float:
            moved = atoms.copy()
            deformed = np.eye(3) + step * bend
            moved.set_cell(atoms.cell.array @ deformed)
            moved.positions = atoms.positions @ deformed
            return float(self._of(moved)[0].sum())

        tests = [("forces", along, float(np.vdot(forces, direction)), 1.0, "eV/Å")]
        if bend.any():
            size = float(len(atoms))
            tests.append(("stress", strained, float(np.vdot(virial, bend)), size, "eV"))
        for name, energy, expected, size, unit in tests:
            slope = (energy(-_STEP) - energy(_STEP)) / (2 * _STEP)
            if abs(slope - expected) > _TOLERANCE * max(size, abs(expected)):
                raise ValueError(
                    f"{name} of {self.calculator} are no derivatives of its energy: along a "
                    f"direction they give {expected:.5g}, finite differences {slope:.5g} {unit} "
                    f"({atoms.get_chemical_formula()}); use other parameters (convergence, a "
                    "smooth cutoff), or another calculator"
                )

    def _of(self, atoms: Atoms) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Energies of atoms less those of free ones, forces, and virial of a structure."""
        bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        bare.info = state_of(atoms)  # what some calculators look for
        for name in ("initial_charges", "initial_magmoms"):
            if name in atoms.arrays:
                bare.set_array(name, atoms.arrays[name])
        if atoms.pbc.any() and volume_of(atoms) is None:
            bare.cell = complete_cell(atoms.cell)
        calc = self._made()
        calc.reset()  # it does not see that charge or spin have changed
        bare.calc = calc
        forces = np.array(bare.get_forces(), dtype=float)
        energy = float(bare.get_potential_energy(force_consistent=_is_smeared(calc)))
        single = np.array([self._single(symbol) for symbol in atoms.symbols])
        energies = np.full(len(atoms), energy / len(atoms))
        if "energies" in calc.implemented_properties:
            own = np.array(bare.get_potential_energies(), dtype=float)
            if abs(own.sum() - energy) < 1e-9 * max(1.0, abs(energy)):
                energies = own
        virial = bare.positions.T @ forces
        virial = 0.5 * (virial + virial.T)
        if atoms.pbc.any():
            self.check(atoms, "structure")
            virial = -np.array(bare.get_stress(voigt=False)) * bare.get_volume()
        if not (np.isfinite(energies).all() and np.isfinite(forces).all()):
            raise ValueError(f"{self.calculator} gave no finite energy and forces for a structure")
        return energies - single, forces, virial

    def check(self, atoms: Atoms, name: str) -> None:
        """Refuse periodic structures where the calculator has no stress.

        Parameters
        ----------
        atoms : ase.Atoms
        name : str
            For messages.

        Raises
        ------
        ValueError
        """
        if atoms.pbc.any() and "stress" not in self._made().implemented_properties:
            raise ValueError(
                f"{name}: {self.calculator} has no stress, which periodic structures need; use a "
                "calculator that has it"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the model file.

        Returns
        -------
        dict
        """
        free = None if self.free_atoms is None else dict(self.free_atoms)
        return {
            "kind": self.kind,
            "calculator": self.calculator,
            "parameters": dict(self.parameters),
            "free_atoms": free,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CalculatorBaseline:
        """Inverse of `to_dict`.

        Parameters
        ----------
        data : mapping

        Returns
        -------
        CalculatorBaseline

        Raises
        ------
        ValueError
            If there is no calculator of the name in this process.
        """
        return cls(data["calculator"], data["parameters"], data["free_atoms"])

    @classmethod
    def example(cls, species: Sequence[int]) -> CalculatorBaseline:
        """Lennard-Jones atoms, to try things out with: the tests of all kinds do.

        Parameters
        ----------
        species : sequence of int
            Atomic numbers it will be used for.

        Returns
        -------
        CalculatorBaseline
        """
        return cls(
            "lj",
            {"sigma": 2.2, "epsilon": 0.05, "rc": 6.0, "ro": 4.0, "smooth": True},
            {chemical_symbols[z]: 0.0 for z in species},
        )

    def describe(self) -> list[str]:
        """Return a heading and one line per fact, for reports.

        Returns
        -------
        list of str
        """
        given = ", ".join(f"{name} {value}" for name, value in self.parameters.items())
        lines = [given or "default parameters"]
        if self.free_atoms:
            lines.append(
                "less its free atoms: "
                + ", ".join(f"{s} {e:.4f} eV" for s, e in self.free_atoms.items())
            )
        return [f"The calculator {self.calculator!r} of ASE:", *lines]


def _factory(name: str) -> Callable[..., Calculator]:
    """Whatever makes the calculator of a name."""
    if name in _FACTORIES:
        return _FACTORIES[name]
    try:
        found: Callable[..., Calculator] = get_calculator_class(name)
    except Exception as error:
        raise ValueError(
            f"no calculator {name!r} in this process ({error}); a name of ASE's list is needed, or "
            f"kernelpot.CalculatorBaseline.register({name!r}, its class) beforehand"
        ) from error
    return found


def _is_smeared(calc: Calculator) -> bool:
    """Whether forces belong to a free energy of its own."""
    return "free_energy" in calc.implemented_properties
