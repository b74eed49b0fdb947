"""D3 dispersion added to a potential of a functional without it."""

import numpy as np
from ase.build import bulk
from ase.calculators.mixing import SumCalculator
from dftd3.ase import DFTD3
from silicon import potential


def main():
    """Energy, forces and stress of the sum are sums."""
    parts = [potential().calculator(), DFTD3(method="PBE", damping="d3bj")]
    atoms = bulk("Si", cubic=True, a=5.47)
    atoms.rattle(0.05, seed=1)
    separate = []
    for part in parts:
        atoms.calc = part
        separate.append((atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()))
    atoms.calc = SumCalculator(parts)
    found = (atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress())
    worst = max(float(np.abs(f - a - b).max()) for f, a, b in zip(found, *separate, strict=True))
    print(f"PBE + D3: {found[0]:.4f} eV, of which D3 {separate[1][0]:.4f} eV")
    return worst, separate[1][0]


if __name__ == "__main__":
    main()
