"""Searches for structures that a potential believes in and should not.

Each search starts from a training structure and yields what it came to. It fails by `Failure`
where a run explodes, and `judge` fails what it came to where the energy lies more than
`DEPTH` below the lowest of the training data of the same composition although the local
standard deviation of some atom exceeds those of the data.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from ase.filters import FrechetCellFilter
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from ase.optimize import FIRE

from kernelpot.data.neighbors import neighbor_list
from kernelpot.safety.thresholds import gate_std

DEPTH = 0.1  # [eV/atom]
TEMPERATURES = (300, 1000, 2000, 5000)
STRAIN, RATTLES, HOPS, HOP = 0.2, (0.05, 0.6), 4, 0.5
ASCENTS, ASCENT, COLLISION = 15, 0.06, 0.4
RELAXATION, FALL, TO_REST = 120, 60, 1000  # steps


class Failure(Exception):
    """A potential has failed; the message says how."""


@dataclass(frozen=True)
class Limits:
    """What a potential should know of its data.

    Attributes
    ----------
    lowest : mapping of composition to float
        Lowest training energy [eV/atom].
    shortest : mapping of (Z, Z') to float
        Shortest training distances [Å].
    """

    lowest: Mapping[str, float]
    shortest: Mapping[tuple[int, int], float]

    @classmethod
    def of(cls, frames):
        """Limits of a data set."""
        lowest = {}
        for frame in frames:
            if frame.energy is not None:
                name = composition(frame.atoms)
                energy = frame.energy / len(frame)
                lowest[name] = min(energy, lowest.get(name, np.inf))
        return cls(lowest, frames.distances.shortest)


def composition(atoms):
    """Formula of the smallest unit."""
    return atoms.symbols.get_chemical_formula("hill", empirical=True)


def bare(frame):
    """Atoms of a frame without its labels."""
    atoms = frame.atoms
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)


def check(atoms, limits):
    """Raise `Failure` for values that are not finite or atoms that are too near."""
    finite = np.isfinite(atoms.get_potential_energy()) and np.isfinite(atoms.get_forces()).all()
    if not (finite and np.isfinite(atoms.positions).all()):
        raise Failure("not finite")
    pairs = neighbor_list(atoms, 0.5)
    if pairs.n_pairs:
        distances = np.linalg.norm(pairs.displacements(atoms.positions), axis=1)
        z1, z2 = atoms.numbers[pairs.centers], atoms.numbers[pairs.neighbors]
        for a, b, r in zip(np.minimum(z1, z2), np.maximum(z1, z2), distances, strict=True):
            if r < min(0.5, 0.5 * limits.shortest.get((int(a), int(b)), 1.0)):
                raise Failure("atoms too near")


def judge(potential, atoms, limits):
    """Raise `Failure` where the energy is too low for what is known."""
    check(atoms, limits)
    name = composition(atoms)
    if name not in limits.lowest:
        return
    below = limits.lowest[name] - atoms.get_potential_energy() / len(atoms)
    if below <= DEPTH:
        return
    model = potential.model
    known = dict(zip(model.species, model.safety.std_of_data, strict=True))
    std = gate_std(model.local, model.system(atoms))
    excess = float((std / [known[z] for z in atoms.numbers]).max())
    if excess > 1.0:
        raise Failure(f"{below:.2f} eV/atom below the data, std {excess:.1f} x that of the data")


def relaxed(atoms, calculator, steps=RELAXATION):
    """Minimise the energy of a copy, cell included where there is one."""
    atoms = atoms.copy()
    atoms.calc = calculator
    target = FrechetCellFilter(atoms) if atoms.pbc.all() else atoms
    FIRE(target, maxstep=0.1, logfile=None).run(fmax=0.05, steps=steps)
    return atoms


def deformed(atoms, rng):
    """Strained by up to 20 % in every direction, and rattled."""
    atoms = atoms.copy()
    if atoms.pbc.any():
        strain = rng.uniform(-STRAIN, STRAIN, size=(3, 3))
        strain = np.eye(3) + 0.5 * (strain + strain.T) * np.outer(atoms.pbc, atoms.pbc)
        atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
    size = rng.uniform(*RATTLES)
    atoms.positions += rng.normal(scale=size / np.sqrt(3), size=(len(atoms), 3))
    return atoms


def overlapping(atoms, rng):
    """The same atoms at random positions in the same volume (a sphere without a cell)."""
    atoms = atoms.copy()
    if atoms.pbc.any():
        atoms.set_scaled_positions(rng.random((len(atoms), 3)))
    else:
        radius = (3 / (4 * np.pi) * 8.0 * len(atoms)) ** (1 / 3)
        directions = rng.normal(size=(len(atoms), 3))
        directions /= np.linalg.norm(directions, axis=1)[:, None]
        atoms.positions = directions * radius * rng.random((len(atoms), 1)) ** (1 / 3)
    return atoms


# ---- searches: (potential, make, atoms, rng, limits, picoseconds) -> structures ------


def driven(potential, make, atoms, rng, limits, picoseconds, *, temperature):
    """Langevin dynamics."""
    atoms = atoms.copy()
    atoms.calc = make()
    timestep = 0.5 if 1 in atoms.numbers else 1.0
    thermalize_momenta(atoms, temperature_K=temperature, rng=rng)
    dynamics = Langevin(
        atoms, timestep * units.fs, temperature_K=temperature, friction=0.01 / units.fs,
        fixcm=False, rng=rng,
    )  # fmt: skip
    temperatures = []
    for _ in range(round(100 * picoseconds / timestep)):
        dynamics.run(10)
        judge(potential, atoms, limits)
        temperatures.append(atoms.get_temperature())
    mean = np.mean(temperatures[len(temperatures) // 2 :])
    if not mean <= 10 * temperature:
        raise Failure(f"{mean:.0f} K at {temperature} K")
    yield relaxed(atoms, make())


def hot(potential, make, atoms, rng, limits, picoseconds):
    """Dynamics from a training structure, from 300 to 5,000 K, and what it relaxes to."""
    temperature = int(rng.choice(TEMPERATURES))
    yield from driven(potential, make, atoms, rng, limits, picoseconds, temperature=temperature)


def collision(potential, make, atoms, rng, limits, picoseconds):
    """Random overlapping positions, relaxed, and dynamics from there.

    What has not come to rest gives off heat that is no fault of the potential.
    """
    atoms = relaxed(overlapping(atoms, rng), make(), TO_REST)
    yield atoms
    temperature = int(rng.choice(TEMPERATURES))
    yield from driven(potential, make, atoms, rng, limits, picoseconds, temperature=temperature)


def descent(potential, make, atoms, rng, limits, picoseconds):
    """Minimisation from random cells and displacements."""
    yield relaxed(deformed(atoms, rng), make())


def hopping(potential, make, atoms, rng, limits, picoseconds):
    """Basin hopping: displaced, relaxed, kept if lower."""
    best, lowest = atoms, np.inf
    for _ in range(HOPS):
        tried = best.copy()
        tried.positions += rng.uniform(-HOP, HOP, size=(len(atoms), 3))
        found = relaxed(tried, make(), RELAXATION // 2)
        yield found
        if found.get_potential_energy() < lowest:
            best, lowest = found, found.get_potential_energy()


def ascent(potential, make, atoms, rng, limits, picoseconds):
    """Along the gradient of the variance as far as atoms do not collide, then downhill."""
    atoms = atoms.copy()
    weights = rng.random(len(atoms))
    # in a perfect crystal it is zero
    atoms.positions += rng.normal(scale=0.02, size=(len(atoms), 3))
    for _ in range(ASCENTS):
        gradient = potential.variance_gradient(atoms, weights)
        step = ASCENT * gradient / np.linalg.norm(gradient, axis=1).max()
        moved = atoms.copy()
        moved.positions += step
        if neighbor_list(moved, COLLISION).n_pairs:
            break
        atoms = moved
    yield relaxed(atoms, make())


def fall(potential, make, atoms, rng, limits, picoseconds):
    """Into the holes of the kernels without a net, then with it."""
    atoms = deformed(atoms, rng)
    atoms.calc = potential.calculator(gate=None)
    target = FrechetCellFilter(atoms) if atoms.pbc.all() else atoms
    FIRE(target, maxstep=0.1, logfile=None).run(fmax=0.05, steps=FALL)
    yield relaxed(atoms, make())


SEARCHES = {f.__name__: f for f in (hot, collision, descent, hopping, ascent, fall)}


def attack(name, potential, make, atoms, rng, limits, picoseconds):
    """Run a search; returns how the potential failed, or None.

    Parameters
    ----------
    name : str
        Of `SEARCHES`.
    potential : KernelPotential
    make : callable
        Returns a calculator.
    atoms : ase.Atoms
        Where to start.
    rng : numpy.random.Generator
    limits : Limits
    picoseconds : float
        Length of a dynamics.
    """
    try:
        for found in SEARCHES[name](potential, make, atoms, rng, limits, picoseconds):
            judge(potential, found, limits)
    except Failure as failure:
        return str(failure)
    except (ValueError, FloatingPointError, RuntimeError, np.linalg.LinAlgError) as error:
        return f"{type(error).__name__}: {str(error)[:80]}"
    return None
