"""Path-integral molecular dynamics of silicon by i-PI, without a socket."""

import os

import numpy as np
from ase.build import bulk
from ase.io import write
from ipi.utils.scripting import InteractiveSimulation
from silicon import potential

INPUT = """
<simulation verbosity="quiet">
  <ffdirect name="kernelpot">
    <pes>custom</pes>
    <pes_path>{driver}</pes_path>
    <parameters>{{template: {template}, model: {model}}}</parameters>
  </ffdirect>
  <system>
    <initialize nbeads="{beads}">
      <file mode="ase">{template}</file>
      <velocities mode="thermal" units="kelvin">300</velocities>
    </initialize>
    <forces><force forcefield="kernelpot"/></forces>
    <ensemble><temperature units="kelvin">300</temperature></ensemble>
    <motion mode="dynamics">
      <dynamics mode="nvt">
        <timestep units="femtosecond">0.5</timestep>
        <thermostat mode="pile_l"><tau units="femtosecond">50</tau></thermostat>
      </dynamics>
    </motion>
  </system>
</simulation>
"""


def main(steps=5, beads=4):
    """Run ring polymers, and compare the potential of a bead with the calculator's."""
    pot = potential()
    atoms = bulk("Si", cubic=True, a=5.47)
    write("start.extxyz", atoms)
    here = os.path.dirname(os.path.abspath(__file__))
    simulation = InteractiveSimulation(
        INPUT.format(
            driver=os.path.join(here, "ipi_driver.py"), template="start.extxyz",
            model="silicon.kpot", beads=beads,
        )
    )  # fmt: skip
    simulation.run(steps)
    potentials = [float(v) for v in np.atleast_1d(simulation.properties("potential"))]
    structures = simulation.get_structures()
    atoms = structures[0] if isinstance(structures, list) else structures
    print(f"{beads} beads, {steps} steps, potential {potentials[0]:.6f} atomic units")
    return potentials, atoms, pot


if __name__ == "__main__":
    main()
