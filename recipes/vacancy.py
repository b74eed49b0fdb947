"""Migration of a vacancy in silicon by ASE's NEB, and how far its barrier is known."""

import numpy as np
from ase.build import bulk
from ase.mep import NEB
from ase.optimize import BFGS, FIRE
from silicon import potential


def main(steps=60):
    """Move a neighbor into a vacancy; one calculator per image, as each has its neighbor list."""
    pot = potential()
    crystal = bulk("Si", cubic=True, a=5.47).repeat(2)
    neighbor = next(j for j in range(1, 64) if crystal.get_distance(0, j, mic=True) < 2.5)
    start, end = crystal.copy(), crystal.copy()
    end.positions[neighbor] = end.positions[0]
    for atoms in (start, end):
        del atoms[0]
        atoms.calc = pot.calculator(gate=None)
        BFGS(atoms, logfile=None).run(fmax=0.03, steps=60)
    images = [start, *(start.copy() for _ in range(3)), end]
    for image in images[1:-1]:
        image.calc = pot.calculator(gate=None)
    band = NEB(images, climb=True, method="improvedtangent")
    band.interpolate(mic=True)
    FIRE(band, logfile=None).run(fmax=0.05, steps=steps)
    energies = np.array([image.get_potential_energy() for image in images])
    barrier = float(energies.max() - energies[0])
    saddle = images[int(energies.argmax())]
    # potentials drawn from the posterior: what the data leave open of the barrier
    committee = pot.sample(10, rng=0)
    drawn = [committee.predict(atoms).energies for atoms in (saddle, start)]
    std = float(np.std(drawn[0] - drawn[1]))
    unknown = float(pot.local_std(saddle).max())
    print(
        f"barrier {barrier:.2f} +- {std:.2f} eV between sparse points; largest local std at the "
        f"saddle {unknown:.2f} eV, in the crystal {pot.local_std(crystal).max():.3f} eV"
    )
    return barrier, std, unknown


if __name__ == "__main__":
    main()
