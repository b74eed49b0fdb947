"""LAMMPS as the engine: fitted potentials in stock LAMMPS, on any number of processes.

LAMMPS divides the atoms among processes and hands each the surroundings of its own; here the
energies of a process's atoms are evaluated (`predict_region` of
`kernelpot.model.fitted.FittedModel`), and the forces on atoms of others are sent to their owners.

- `library`: LAMMPS found, opened, and asked what it is set up to do
- `refusals`: what would give wrong forces without a word
- `pairs`: its list of neighbors
- `halo`: forces on ghosts go to their owners
- `attach`: forces for a LAMMPS that somebody else drives
- `leaving`: an error on one process stops them all
- `inputs`: an input with ``pair_style kernelpot``, as LAMMPS can read it
- `run`: running it
"""

from kernelpot.md.lammps.attach import Attachment, attach
from kernelpot.md.lammps.library import open_lammps
from kernelpot.md.lammps.run import run_input

__all__ = ["Attachment", "attach", "open_lammps", "run_input"]
