"""Small structures and data sets; reference energies come from ASE's EMT."""

import os

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

import kernelpot as kp


def pytest_addoption(parser):
    parser.addoption(
        "--data-dir",
        default=None,
        help="directory with zuo2020-Si, rmd17-ethanol, ... for the tests on real DFT data",
    )


@pytest.fixture(scope="session")
def data_dir(request):
    path = request.config.getoption("--data-dir")
    if path is None:
        pytest.skip("needs real DFT data: run with --data-dir DIRECTORY")
    if not os.path.isdir(path):
        pytest.fail(f"--data-dir {path} is not a directory")
    return path


@pytest.fixture
def rng():
    return np.random.default_rng(20240607)


def rattled_alloy(seed=0, size=(2, 2, 2), amplitude=0.12):
    """Periodic Cu-Al crystal, rattled and strained."""
    atoms = bulk("Cu", cubic=True).repeat(size)
    rng = np.random.default_rng(seed)
    n_aluminium = (1 + seed % 3) * len(atoms) // 4
    atoms.numbers[rng.permutation(len(atoms))[:n_aluminium]] = 13
    strain = np.eye(3) + 0.02 * rng.normal(size=(3, 3))
    atoms.set_cell(atoms.cell @ strain, scale_atoms=True)
    atoms.positions += amplitude * rng.normal(size=atoms.positions.shape)
    return atoms


def structures():
    """One structure of each kind of periodicity, awkward ones included."""
    crystal = rattled_alloy(3, (1, 1, 1))
    slab = rattled_alloy(4, (1, 1, 1))
    slab.pbc = (True, True, False)
    slab.positions[:, 2] += 17.0
    wire = Atoms("CuAl", [[0.0, 0.1, 0.0], [1.3, 0.9, 2.0]], cell=[0, 0, 4.1], pbc=(0, 0, 1))
    cluster = Atoms("Cu3Al", [[0, 0, 0], [2.4, 0, 0.2], [0.3, 2.3, 0.5], [1.2, 1.1, 2.0]])
    tiny = bulk("Al", a=4.0)  # one atom, cell far smaller than the cutoff
    unwrapped = crystal.copy()
    rng = np.random.default_rng(8)
    unwrapped.positions += rng.integers(-3, 4, size=(len(crystal), 3)) @ crystal.cell.array
    left_handed = crystal.copy()
    left_handed.set_cell(left_handed.cell.array[[1, 0, 2]])
    return {
        "crystal": crystal,
        "slab": slab,
        "wire": wire,
        "cluster": cluster,
        "tiny": tiny,
        "unwrapped": unwrapped,
        "left_handed": left_handed,
    }


def label(atoms, config_type="default"):
    """Attach EMT labels under the REF_ names."""
    bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    work = bare.copy()
    work.calc = EMT()
    bare.info["REF_energy"] = work.get_potential_energy()
    bare.arrays["REF_forces"] = work.get_forces()
    if bare.pbc.all():
        full = work.get_stress(voigt=False)
        bare.info["REF_virial"] = -full * work.get_volume()
    bare.info["config_type"] = config_type
    return bare


@pytest.fixture(scope="session")
def labelled():
    """Twenty-four labelled Cu-Al structures as ase.Atoms."""
    frames = [label(rattled_alloy(s, (1, 1, 1), 0.15), "bulk") for s in range(14)]
    frames += [label(rattled_alloy(50 + s, (2, 1, 1), 0.1), "large") for s in range(5)]
    for s in range(5):
        rng = np.random.default_rng(200 + s)
        cluster = structures()["cluster"]
        cluster.positions += 0.1 * rng.normal(size=cluster.positions.shape)
        frames.append(label(cluster, "cluster"))
    return frames


@pytest.fixture(scope="session")
def small_terms():
    return [
        kp.SOAPTerm(r_cut=3.6, n_max=4, l_max=3, sigma_atom=0.45, n_sparse=60),
        kp.SOAPTerm(r_cut=5.0, n_max=4, l_max=3, sigma_atom=0.6, n_sparse=60, zeta=3),
    ]


@pytest.fixture(scope="session")
def potential(labelled, small_terms):
    """A small fitted potential of default noise; tests must not change it."""
    return kp.KernelPotential(small_terms).fit(labelled, optimize=None)


@pytest.fixture(scope="session", autouse=True)
def no_self_test():
    """Fits of the tests do not test themselves unless they are told to: there are hundreds."""
    defaults = kp.KernelPotential.fit.__wrapped__.__kwdefaults__
    before = defaults["self_test"]
    defaults["self_test"] = False
    yield
    defaults["self_test"] = before
