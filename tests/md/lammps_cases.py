"""Runs in LAMMPS on any number of processes; each final state is kept beside what ASE finds.

mpiexec -n 2 python lammps_cases.py OUTPUT.npz
"""

import pathlib
import sys

import numpy as np
from ase import Atoms

import kernelpot as kp
from kernelpot.md.lammps import attach, open_lammps

MODELS = {}
STRESS = [0, 1, 2, 5, 4, 3]  # LAMMPS' order of ASE's components
NVE = "velocity all create 600 12345 mom yes rot no loop all\nfix 1 all nve\n"
WITH = "neighbor 0.5 bin\nneigh_modify every 1 delay 0 check yes\ntimestep 0.001\n"
TO_PRESSURE = 1.6021765e6  # eV/Å^3 in bar, as LAMMPS has it


def model(name):
    if name not in MODELS:
        MODELS[name] = kp.load(name)
    return MODELS[name]


def read(name, extra="", style="atomic"):
    return f"units metal\natom_style {style}\n{extra}\nread_data {name}.data\n{WITH}"


def half_known(name, atoms):
    """A gate that half of the atoms are beyond."""
    bound = model(name).predict(atoms, gate=kp.VarianceGate(std_known=1e-6)).std_bound
    return kp.VarianceGate(std_known=float(np.median(bound)), on_gate=None)


def atoms_of(lmp, elements):
    """The structure as LAMMPS has it, sorted by number."""
    low, high, xy, yz, xz, periodic, _ = lmp.extract_box()
    n = int(lmp.get_natoms())
    x = np.array(lmp.gather_atoms("x", 1, 3)).reshape(n, 3) - low
    types = np.array(lmp.gather_atoms("type", 0, 1))
    size = np.subtract(high, low)
    cell = [[size[0], 0, 0], [xy, size[1], 0], [xz, yz, size[2]]]
    return Atoms([elements[t - 1] for t in types], x, cell=cell, pbc=[bool(p) for p in periodic])


def gathered(comm, lmp, name, width):
    """A per-atom array of a compute or property, sorted by number."""
    own = lmp.extract_setting("nlocal")
    values = np.zeros((0, width))
    tags = np.zeros(0, dtype=int)
    if own:
        tags = np.array(lmp.numpy.extract_atom("id", nelem=own)).reshape(-1)
        found = (
            lmp.numpy.extract_atom(name, nelem=own)
            if name.startswith("d_")
            else lmp.numpy.extract_compute(name, 1, 1 if width == 1 else 2)
        )
        values = np.array(found).reshape(-1, width)[:own]
    parts = [(tags, values)] if comm is None else comm.allgather((tags, values))
    order = np.argsort(np.concatenate([t for t, _ in parts]))
    return np.concatenate([v for _, v in parts])[order]


def compare(results, comm, label, lmp, attached, name, elements, gate, charged=False):
    """Keep what LAMMPS has, and what ASE's calculator says of the same structure."""
    lmp.commands_string(
        "compute e_ all pe/atom\ncompute s_ all stress/atom NULL virial\n"
        "compute p_ all pressure NULL virial\nthermo_style custom step pe c_p_\nrun 0 post no\n"
    )
    lmp.commands_string("dump d_ all custom 1 none.dump id c_e_ c_s_[*]\nrun 0 post no\nundump d_")
    n = int(lmp.get_natoms())
    forces = np.array(lmp.gather_atoms("f", 1, 3)).reshape(n, 3)
    atoms = atoms_of(lmp, elements)
    energies, stresses = gathered(comm, lmp, "e_", 1)[:, 0], gathered(comm, lmp, "s_", 6)
    expected = model(name).model.predict(
        atoms, gate=gate, stresses=True, return_std="local" if attached._options.with_std else False
    )
    volume = lmp.get_thermo("vol")
    pressure = lmp.numpy.extract_compute("p_", 0, 1) * volume / TO_PRESSURE
    found = {
        "positions": atoms.positions, "energy": lmp.get_thermo("pe"), "forces": forces,
        "energies": energies, "virial": pressure, "virials": -stresses / TO_PRESSURE,
        "expected_energy": expected.energy, "expected_forces": expected.forces,
        "expected_energies": expected.energies, "builds": attached.n_builds,
        "evaluations": attached.n_evaluations, "n_beyond": attached.last.get("n_beyond", 0),
        "processes": 1 if comm is None else comm.size, "volume": volume,
        "own": lmp.extract_setting("nlocal"),
    }  # fmt: skip
    if comm is not None:
        found["own"] = min(comm.allgather(int(found["own"])))
    if expected.stress is not None:
        found["expected_virial"] = -expected.stress[STRESS] * atoms.get_volume()
        found["expected_virials"] = -expected.stresses[:, STRESS] * atoms.get_volume()
    for output in attached._outputs:
        found[output] = gathered(comm, lmp, f"d_kp_{output}", 1)[:, 0]
    if expected.penalty is not None:
        found["expected_penalty"], found["expected_bound"] = expected.penalty, expected.std_bound
    if expected.energies_std is not None:
        found["expected_std"] = expected.energies_std
    results |= {f"{label}/{key}": value for key, value in found.items()}


def case(results, label, name, elements, before, after, *, gate=None, with_std=False, **more):
    lmp = open_lammps(["-screen", "none", "-log", "none"])
    lmp.commands_string(before.replace("read_data", "atom_modify map array\nread_data"))
    comm = lmp.get_mpi_comm() if lmp.extract_setting("world_size") > 1 else None
    if gate == "half":
        gate = half_known(name, atoms_of(lmp, elements))
    attached = attach(lmp, name, elements, gate=gate, with_std=with_std)
    lmp.commands_string(after)
    compare(results, comm, label, lmp, attached, name, elements, attached._options.gate, **more)
    lmp.close()


def order_of_nve(results):
    """Total energies with a time step and half of it, at the same times."""
    for step, steps in ((0.001, 40), (0.0005, 80)):
        lmp = open_lammps(["-screen", "none", "-log", "none"])
        lmp.commands_string(read("crystal") + f"timestep {step}\n")
        attached = attach(lmp, "silicon.kpot", ["Si"], gate=None)
        every = steps // 20
        lmp.commands_string(
            NVE + f"variable e equal etotal\nthermo {every}\nfix e all vector {every} v_e"
        )
        lmp.command(f"run {steps}")
        energies = [lmp.extract_fix("e", 0, 1, k) for k in range(21)]
        results[f"order/{steps}"] = np.array(energies)
        assert attached.n_evaluations == steps + 1
        lmp.close()


def main(output):
    results = {}
    silicon, gated = ("silicon.kpot", ["Si"]), {"gate": True}
    case(results, "nve", *silicon, read("crystal"), NVE + "run 20", **gated)
    case(results, "half", *silicon, read("crystal"), NVE + "run 4", gate="half", with_std=True)
    case(results, "newton_off", *silicon, read("crystal", "newton off"), NVE + "run 5")
    case(results, "tiny", *silicon, read("tiny"), NVE + "run 5", **gated)
    npt = (
        "velocity all create 600 12345 loop all\nfix 1 all npt temp 600 600 0.1 tri 0 0 1.0\nrun 20"
    )
    case(results, "triclinic", *silicon, read("sheared"), npt)
    balance = "comm_style tiled"
    moving = "velocity all create 3000 12345 loop all\nfix 1 all nve\nfix b all balance 5 1.0 rcb\n"
    case(results, "tiled", *silicon, read("crystal", balance), moving + "run 20")
    cut = read("slab", "boundary p p f\nprocessors 1 1 *")
    case(results, "slab", *silicon, cut, NVE + "run 5", **gated)
    fire = "min_style cg\nminimize 1e-10 1e-4 8 20"
    case(results, "minimize", *silicon, read("crystal"), fire)
    stale = "neigh_modify every 10 delay 10 check no\n" + NVE
    case(results, "every10", *silicon, read("crystal"), stale + "run 15\nrun 5 pre no")
    case(results, "alloy", "cual.kpot", ["Al", "Cu"], read("alloy"), NVE + "run 5", gate="half")
    for path in sorted(pathlib.Path().glob("kind_*.kpot")):
        case(results, path.stem, str(path), ["Al", "Cu"], read("alloy"), NVE + "run 2", gate=True)
    lj = "pair_style hybrid/overlay zero 1.0 full lj/cut 3.0\npair_coeff * * lj/cut 0.0 2.0\n"
    case(results, "overlay", *silicon, read("crystal") + lj, NVE + "run 5")
    restart = read("crystal") + "mass * 28.0855\npair_style zero 5.0\npair_coeff * *\n" + NVE
    restart += "run 2\nwrite_restart cut.restart\nclear\nread_restart cut.restart\n" + WITH
    case(results, "restart", *silicon, restart, "fix 1 all nve\nrun 5")
    summed = "pair_style hybrid/overlay zero 1.0 full coul/long 9.0\npair_coeff * * coul/long\n"
    summed += "kspace_style ewald 1e-8\n"
    case(
        results, "salt", "nacl.kpot", ["Na", "Cl"], read("salt", style="charge") + summed,
        "velocity all create 600 12345 loop all\nfix 1 all npt temp 600 600 0.1 iso 0 0 1\nrun 10",
    )  # fmt: skip
    if results["nve/processes"] < 4:  # many steps, for what does not depend on it
        order_of_nve(results)
    np.savez(output, **results)


if __name__ == "__main__":
    main(sys.argv[1])
