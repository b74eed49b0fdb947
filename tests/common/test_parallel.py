"""How many threads, and calculators and lists that several of them share."""

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk

from kernelpot.common import parallel
from kernelpot.common.parallel import thread_count
from kernelpot.data.neighbors import NeighborList, neighbor_list
from kernelpot.data.system import System
from tests.conftest import rattled_alloy, structures


@pytest.fixture
def eight_cores(monkeypatch):
    for name in ("KERNELPOT_NUM_THREADS", "OMP_NUM_THREADS", "OMP_THREAD_LIMIT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("LOKY_MAX_CPU_COUNT", raising=False)
    monkeypatch.setattr(parallel, "_free_cores", lambda: 8)
    return monkeypatch


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, 8),
        ({"OMP_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "3,2"}, 3),
        ({"OMP_NUM_THREADS": "64"}, 8),
        ({"OMP_NUM_THREADS": "many"}, 8),
        ({"OMP_NUM_THREADS": "0"}, 8),
        ({"OMP_NUM_THREADS": "4", "OMP_THREAD_LIMIT": "2"}, 2),
        ({"LOKY_MAX_CPU_COUNT": "2"}, 2),
        ({"OMP_NUM_THREADS": "1", "KERNELPOT_NUM_THREADS": "6"}, 6),
    ],
)
def test_limits_of_others_are_respected(eight_cores, environment, expected):
    for name, value in environment.items():
        eight_cores.setenv(name, value)
    assert thread_count() == expected
    assert thread_count(5) == 5


def test_workers_of_joblib_share_the_cores(eight_cores):
    """loky limits OMP_NUM_THREADS of its workers: they do not take all cores each."""
    joblib = pytest.importorskip("joblib")
    with joblib.parallel_backend("loky", inner_max_num_threads=1):
        found = joblib.Parallel(n_jobs=2)(joblib.delayed(_threads_of_a_worker)() for _ in range(2))
    assert found == [1, 1]


def _threads_of_a_worker():
    return thread_count()


def test_threads_may_share_a_calculator(potential):
    """Each is told the truth of its own atoms, though they wait for each other."""
    shared = potential.calculator(gate=None, n_threads=1)
    several = [rattled_alloy(s, (1 + s % 3, 1, 1)) for s in range(6)]
    expected = [potential.predict(atoms) for atoms in several]
    start = threading.Barrier(6)

    def work(k):
        atoms = several[k].copy()
        atoms.calc = shared
        start.wait()
        for _ in range(10):
            np.testing.assert_allclose(atoms.get_forces(), expected[k].forces, atol=1e-9)
            assert atoms.get_potential_energy() == pytest.approx(expected[k].energy, rel=1e-10)
            found = atoms.get_properties(["energy", "forces"])
            np.testing.assert_allclose(found["forces"], expected[k].forces, atol=1e-9)
            std = shared.get_property("energies_std", atoms)
            assert std.shape == (len(atoms),)
            assert shared.annotate(atoms).arrays["energies_std"].shape == (len(atoms),)

    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(work, k) for k in range(6)]:
            done.result()


def test_a_calculator_with_a_lock_is_copied_and_pickled(potential):
    atoms = structures()["crystal"]
    atoms.calc = potential.calculator()
    energy = atoms.get_potential_energy()
    for other in (copy.deepcopy(atoms.calc), pickle.loads(pickle.dumps(atoms.calc))):  # noqa: S301
        fresh = structures()["crystal"]
        fresh.calc = other
        assert fresh.get_potential_energy() == pytest.approx(energy, rel=1e-12)
        assert other._lock is not atoms.calc._lock
        assert set(other.uncertainty) == set(atoms.calc.uncertainty)


def spoiled(pairs, what):
    neighbors = pairs.neighbors.copy()
    if what == "beyond":
        neighbors[3] = 10**6
    elif what == "negative":
        neighbors[3] = -5
    first = pairs.first.copy()
    if what == "first":
        first[2] = 10**7
    elif what == "last":
        first[-1] += 1000
    return NeighborList(first, neighbors, pairs.shifts[:-1] if what == "shifts" else pairs.shifts)


@pytest.mark.parametrize("what", ["beyond", "negative", "first", "last", "shifts"])
def test_compiled_loops_are_given_sound_lists_only(potential, what):
    atoms = rattled_alloy(1, (1, 1, 1))
    pairs = spoiled(neighbor_list(atoms, potential.r_cut), what)
    with pytest.raises(ValueError, match="the neighbor list is of another structure"):
        potential.predict(atoms, neighbors=pairs)
    with pytest.raises(ValueError, match="the neighbor list is of another structure"):
        pairs.displacements(atoms.positions)
    with pytest.raises(ValueError, match="the neighbor list is of another structure"):
        System.of([atoms], 4.0, pairs=pairs, displacements=np.zeros((pairs.n_pairs, 3)))


def test_lists_and_weights_of_another_structure_are_refused(potential):
    atoms, larger = rattled_alloy(1, (1, 1, 1)), rattled_alloy(1, (2, 1, 1))
    pairs = neighbor_list(larger, potential.r_cut)
    for one in (atoms, bulk("Cu")):
        with pytest.raises(ValueError, match="it has 8 centers"):
            potential.predict(one, neighbors=pairs)
    own = neighbor_list(atoms, potential.r_cut)
    with pytest.raises(ValueError, match="displacements for a list of"):
        System.of([atoms], 4.0, pairs=own, displacements=np.zeros((3, 3)))
    with pytest.raises(ValueError, match=r"`weights` must have shape \(4,\), got \(3,\)"):
        potential.variance_gradient(atoms, np.ones(3))
    assert replace(own).n_pairs == own.n_pairs
