"""Path-integral molecular dynamics of silicon: i-PI moves, ASE's socket client has the forces."""

import os
import subprocess
import sys
import time

import numpy as np
from ase.build import bulk
from ase.calculators.socketio import SocketClient
from ase.io import write
from silicon import potential

INPUT = """
<simulation verbosity="low">
  <output prefix="silicon">
    <properties filename="out" stride="1">
      [ step, conserved, temperature{{kelvin}}, potential{{electronvolt}},
        kinetic_cv{{electronvolt}} ]
    </properties>
    <checkpoint stride="100"/>
  </output>
  <total_steps>{steps}</total_steps>
  <prng><seed>31415</seed></prng>
  <ffsocket name="kernelpot" mode="unix"><address>{address}</address></ffsocket>
  <system>
    <initialize nbeads="{beads}">
      <file mode="ase">start.extxyz</file>
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


def main(steps=20, beads=4, cells=2):
    """Run ring polymers; returns i-PI's table and the calculator that evaluated the beads."""
    pot = potential()
    atoms = bulk("Si", cubic=True, a=5.47).repeat(cells)
    write("start.extxyz", atoms)
    address = f"kernelpot-{os.getpid()}"
    with open("input.xml", "w", encoding="utf-8") as file:
        file.write(INPUT.format(steps=steps, beads=beads, address=address))
    script = os.path.join(os.path.dirname(sys.executable), "i-pi")
    with open("i-pi.log", "w", encoding="utf-8") as log:
        server = subprocess.Popen([sys.executable, script, "input.xml"], stdout=log, stderr=log)
    try:
        while not os.path.exists(f"/tmp/ipi_{address}"):  # noqa: S108 - i-PI puts it there
            if server.poll() is not None:
                raise RuntimeError("i-PI has ended: see i-pi.log")
            time.sleep(0.1)
        # one calculator for all beads: i-PI sends them one after the other
        atoms.calc = pot.calculator(skin=1.0)
        SocketClient(unixsocket=address).run(atoms, use_stress=True)
        server.wait(timeout=60)
    finally:
        server.kill()
    table = np.atleast_2d(np.loadtxt("silicon.out"))
    n = len(atoms)
    print(
        f"{beads} beads of {n} atoms, {len(table) - 1} steps, "
        f"{atoms.calc.n_evaluations} evaluations"
    )
    print(
        f"per atom: potential {table[-1, 3] / n:.4f} eV, "
        f"quantum kinetic energy {1e3 * table[-1, 4] / n:.1f} meV"
    )
    return table, atoms.calc


if __name__ == "__main__":
    main()
