"""A model tests itself: short dynamics, compression, collisions and displacements.

What is looked for is what ruins a simulation and no error on data shows: energies below those
of the data where the model knows nothing, runs that leave what is physical, and atoms that
attract each other at contact. Starts are the structures of lowest energy of the data.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations_with_replacement

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii

from kernelpot.common.parallel import map_in_order, thread_count
from kernelpot.common.types import BoolArray, FloatArray, Progress
from kernelpot.data.dataset import Dataset, Frame
from kernelpot.md.calculator import KernelPotCalculator
from kernelpot.md.dynamics import UnphysicalDynamicsError, run_dynamics
from kernelpot.model.fitted import FittedModel
from kernelpot.model.self_test import Check, SelfTest
from kernelpot.safety.gate import NOTICEABLE, VarianceGate

# So many compositions are tested, of structures of so many atoms if there are such.
MAX_COMPOSITIONS, MAX_ATOMS = 2, 200
# An energy is too low if it lies so far below the lowest of the data where these do not reach,
# or so far anywhere [eV/atom].
TOO_LOW, TOO_LOW_ANYWHERE = 0.1, 0.5
# Atoms times steps of one run, and bounds on its steps.
ATOM_STEPS, MIN_STEPS, MAX_STEPS = 20_000, 60, 400
TEMPERATURE, HOT = 300.0, 1500.0  # [K]
FACTORS = np.linspace(0.7, 1.4, 15)
RATTLES, REPEATS = (0.1, 0.2, 0.4, 0.8), 2  # [Å]
# Of the contact distance, where a dimer is looked at, and by how much its energy may fall
# inwards [eV].
DIMER, FALL = np.linspace(0.9, 0.3, 25), 0.05


@dataclass(frozen=True)
class _Start:
    """Where checks begin.

    Attributes
    ----------
    name : str
        Composition.
    atoms : ase.Atoms
        The structure of lowest energy.
    lowest : float
        Its energy [eV/atom].
    """

    name: str
    atoms: Atoms
    lowest: float


def run_self_test(
    model: FittedModel,
    data: Dataset,
    *,
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> SelfTest:
    """Test a model where its data end.

    Some seconds to a minute: two runs of 60 to 400 steps from each of two structures at most,
    and some tens of energies.

    Parameters
    ----------
    model : FittedModel
    data : Dataset
        Structures with energies, those of the fit for example.
    n_threads : int, optional
    progress : callable, optional

    Returns
    -------
    SelfTest

    Raises
    ------
    ValueError
        If no structure of more than one atom has an energy.
    """
    began = time.perf_counter()
    starts = _starts(data)
    if not starts:
        raise ValueError("a self-test needs a structure of more than one atom with an energy")
    wanted = _checks(model, starts)
    n_checks = len(wanted)
    checks: list[Check] = []
    threads = thread_count(n_threads)
    # small structures keep one thread busy: checks side by side, each with its share of them
    each = max(1, threads // n_checks)
    for check in map_in_order(lambda check: check(each), wanted, min(threads, n_checks)):
        checks.append(check)
        if progress is not None:
            progress("self-test", len(checks), n_checks)
    return SelfTest(checks, time.perf_counter() - began)


def _checks(model: FittedModel, starts: Sequence[_Start]) -> list[Callable[[int], Check]]:
    """What is checked, as functions of a number of threads."""
    found: list[Callable[[int], Check]] = []
    for start in starts:
        for ensemble, temperature in (("nve", TEMPERATURE), ("nvt", HOT)):
            found.append(partial(_dynamics, model, start, ensemble, temperature))
        found.append(partial(_scaling, model, start))
        found.append(partial(_rattling, model, start))
    if not model.design.of_molecules:  # those know no dimers
        found.append(partial(_dimers, model))
    return found


def _starts(data: Dataset) -> list[_Start]:
    """Structures of lowest energy of the most frequent compositions."""
    labelled = [frame for frame in data if frame.energy is not None and len(frame) > 1]
    small = [frame for frame in labelled if len(frame) <= MAX_ATOMS] or labelled[:1]
    names = Counter(_composition(frame.atoms) for frame in small)
    starts = []
    for name, _ in names.most_common(MAX_COMPOSITIONS):
        own = [frame for frame in labelled if _composition(frame.atoms) == name]
        lowest = min(map(_energy, own))
        frame = min((f for f in small if _composition(f.atoms) == name), key=_energy)
        atoms = frame.atoms.copy()
        atoms.calc = None
        starts.append(_Start(name, atoms, lowest))
    return starts


def _composition(atoms: Atoms) -> str:
    return str(atoms.symbols.get_chemical_formula("hill", empirical=True))


def _energy(frame: Frame) -> float:
    assert frame.energy is not None
    return frame.energy / len(frame)


def _dynamics(
    model: FittedModel, start: _Start, ensemble: str, temperature: float, n_threads: int | None
) -> Check:
    """A short run: it must stay physical, and not fall below the data where they do not reach."""
    steps = int(np.clip(ATOM_STEPS // len(start.atoms), MIN_STEPS, MAX_STEPS))
    timestep = 0.5 if 1 in start.atoms.numbers else 1.0
    name = f"{start.name}, {ensemble} at {temperature:g} K for {steps * timestep:g} fs"
    remedy = f"frames of dynamics of {start.name} at {temperature:g} K and above" + (
        "" if model.e0.absolute else ", and isolated atoms of every species"
    )
    calculator = KernelPotCalculator(model, gate=VarianceGate(on_gate=None), n_threads=n_threads)
    try:
        run = run_dynamics(
            start.atoms, calculator, ensemble=ensemble, temperature=temperature,
            timestep=timestep, steps=steps, interval=5, check_timestep=False,
        )  # fmt: skip
    except UnphysicalDynamicsError as error:
        found = f"after {error.dynamics.n_steps} steps {error.breach.text}"
        return Check(name, False, found, remedy)
    rows = run.rows
    potential, beyond, penalty = rows[:, 2], rows[:, 8], rows[:, 9]
    fallen = start.lowest - potential
    low = _too_low(fallen, beyond > 0)
    found = (
        f"at most {rows[:, 4].max():.0f} K, {beyond.max():.0f} of {len(start.atoms)} atoms beyond "
        f"the data, penalty up to {penalty.max():.3g} eV, energy down to "
        f"{-fallen.max():+.3f} eV/atom from the lowest of the data"
    )
    return Check(name, not low, found, remedy)


def _too_low(fallen: FloatArray, beyond: BoolArray) -> bool:
    """Whether an energy lies too far below those of the data [eV/atom]."""
    return bool(np.any(fallen > np.where(beyond, TOO_LOW, TOO_LOW_ANYWHERE)))


def _below(
    model: FittedModel, start: _Start, structures: Sequence[Atoms], n_threads: int | None
) -> tuple[FloatArray, bool]:
    """Energies relative to the lowest of the data [eV/atom], and whether one is too low."""
    predicted = model.predict_many(structures, gate=VarianceGate(on_gate=None), n_threads=n_threads)
    n_atoms = len(start.atoms)
    energies, beyond = [], []
    for found in predicted:
        assert found.penalty is not None
        energies.append(found.energy / n_atoms - start.lowest)
        beyond.append(found.penalty.max() > NOTICEABLE)
    relative = np.array(energies)
    return relative, _too_low(-relative, np.array(beyond))


def _scaling(model: FittedModel, start: _Start, n_threads: int | None) -> Check:
    """Compression and stretch: nothing below the data, and no collapse."""
    structures = []
    for factor in FACTORS:
        atoms = start.atoms.copy()
        atoms.set_cell(factor * atoms.cell.array)
        atoms.positions *= factor
        structures.append(atoms)
    relative, low = _below(model, start, structures, n_threads)
    inward = relative[FACTORS <= 0.9]
    # from outside in, the energy may only rise
    inwards = inward[::-1]
    collapses = bool(np.any(np.maximum.accumulate(inwards) - inwards > TOO_LOW))
    found = (
        f"{relative[0]:+.2f} eV/atom at {FACTORS[0]:g} of its size, {relative[-1]:+.2f} at "
        f"{FACTORS[-1]:g}"
    )
    if collapses:
        found = f"it collapses on compression: {found}"
    if low:
        found = f"energy {-relative.min():.2f} eV/atom below the data: {found}"
    return Check(
        f"{start.name}, compressed and stretched", not (collapses or low), found,
        f"compressed and stretched frames of {start.name}, by up to 10 % in every direction",
    )  # fmt: skip


def _rattling(model: FittedModel, start: _Start, n_threads: int | None) -> Check:
    """Random displacements, ever larger: nothing below the data."""
    rng = np.random.default_rng(0)
    structures = []
    for size in RATTLES:
        for _ in range(REPEATS):
            atoms = start.atoms.copy()
            atoms.positions += rng.normal(scale=size / np.sqrt(3), size=(len(atoms), 3))
            structures.append(atoms)
    relative, low = _below(model, start, structures, n_threads)
    means = relative.reshape(len(RATTLES), REPEATS).mean(axis=1)
    steps = ", ".join(f"{e:+.2f} at {s:g} Å" for e, s in zip(means, RATTLES, strict=True))
    return Check(
        f"{start.name}, rattled", not low, f"{steps} [eV/atom]",
        f"frames of {start.name} rattled by 0.1 to 0.5 Å",
    )  # fmt: skip


def _dimers(model: FittedModel, n_threads: int | None) -> Check:
    """Every pair of species repels at contact."""
    attracted, fell = [], 0.0
    for a, b in combinations_with_replacement(model.species, 2):
        contact = model.safety.d_min.get((a, b), covalent_radii[a] + covalent_radii[b])
        structures = [Atoms([a, b], [[0, 0, 0], [0, 0, f * contact]]) for f in DIMER]
        predicted = model.predict_many(structures, gate=VarianceGate(), n_threads=n_threads)
        energies = np.array([one.energy for one in predicted])
        fall = float(np.max(np.maximum.accumulate(energies) - energies))
        fell = max(fell, fall)
        if fall > FALL:
            attracted.append(f"{chemical_symbols[a]}-{chemical_symbols[b]}")
    found = "every pair repels inward of contact"
    if attracted:
        found = (
            f"inward of contact the energy of {', '.join(attracted)} falls by up to {fell:.2f} eV"
        )
    pairs = ", ".join(attracted) or "these pairs"
    return Check("dimers", not attracted, found, f"a wall in the baseline, or dimers of {pairs}")
