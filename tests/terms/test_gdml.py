"""Gradient-domain learning: kernels against NumPy, the whole against dense algebra, symmetry."""

import dataclasses
import re
import tracemalloc
from itertools import permutations

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

import kernelpot as kp
from kernelpot import datasets
from kernelpot.data.system import System
from kernelpot.fit import gradient_domain, pipeline
from kernelpot.terms import _gdml
from kernelpot.terms.gdml import GDMLTerm, find_permutations, group_of
from tests.conftest import label

ETHANOL = [0, 1, 2, 4, 3, 5, 7, 6, 8]


def water(n, seed=0):
    """Bent and stretched molecules of another potential, hydrogens in either order."""
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(n):
        atoms = molecule("H2O")
        atoms.positions += 0.08 * rng.normal(size=(3, 3))
        frames.append(label(atoms))
    return frames


# ---- kernels -----------------------------------------------------------------------


def kappa(x, y, index, a):
    r = np.array([np.linalg.norm(x - y[p]) for p in index])
    return np.mean((1 + a * r + a**2 * r**2 / 3) * np.exp(-a * r))


def slope(x, y, index, a, h=1e-5):
    """Derivative by y, by differences."""
    steps = h * np.eye(len(y))
    return np.array([kappa(x, y + s, index, a) - kappa(x, y - s, index, a) for s in steps]) / (
        2 * h
    )


def hessian(x, y, index, a):
    """Mixed second derivatives, averaged over permutations, in closed form."""
    found = np.zeros((len(x), len(x)))
    for p in index:
        d = x - y[p]
        r = np.linalg.norm(d)
        H = a**2 / 3 * np.exp(-a * r) * ((1 + a * r) * np.eye(len(x)) - a**2 * np.outer(d, d))
        found[:, p] += H / len(index)
    return found


@pytest.fixture
def vectors(rng):
    """Descriptors and directions of three atoms, all permutations of them."""
    place = {frozenset(p): k for k, p in enumerate([(0, 1), (0, 2), (1, 2)])}
    index = np.array(
        [
            [place[frozenset((p[i], p[j]))] for i, j in ((0, 1), (0, 2), (1, 2))]
            for p in permutations(range(3))
        ]
    )
    return rng.normal(size=(5, 3)), rng.normal(size=(5, 3)), index, 1.3


def test_the_closed_form_is_a_derivative(vectors):
    x, _, index, a = vectors
    h = 1e-5
    for k in range(3):
        step = h * np.eye(3)[k]
        by_x = (slope(x[0] + step, x[1], index, a) - slope(x[0] - step, x[1], index, a)) / (2 * h)
        np.testing.assert_allclose(hessian(x[0], x[1], index, a)[k], by_x, atol=1e-5)


def test_compiled_loops_are_numpy(vectors):
    x, v, index, a = vectors
    n = len(x)
    found = np.empty((n, n))
    _gdml.kernel(x, x, index, a, found)
    expected = [[kappa(p, q, index, a) for q in x] for p in x]
    np.testing.assert_allclose(found, expected, atol=1e-13)
    _gdml.values(x, x, v, index, a, found)
    expected = [[slope(p, q, index, a) @ w for q, w in zip(x, v, strict=True)] for p in x]
    np.testing.assert_allclose(found, expected, atol=1e-9)
    H = np.array([[hessian(p, q, index, a) for q in x] for p in x])
    _gdml.gram(x, v, index, a, found)
    np.testing.assert_allclose(found, np.einsum("if,ijfg,jg->ij", v, H, v), atol=1e-13)
    expected = np.einsum("ijfg,jg->if", H, v)
    for loop in (
        lambda out: _gdml.times(x, v, index, a, out),
        lambda out: _gdml.across(x, x, v, index, a, out),
        lambda out: _gdml.mean(x, x, v, index, a, np.zeros(n), out),
    ):
        out = np.ones_like(x)
        loop(out)  # adds
        np.testing.assert_allclose(out, 1 + expected, atol=1e-12)
    rows = np.zeros((n, 3))
    _gdml.add_slopes(x[0], x, v, index, a, rows)
    np.testing.assert_allclose(rows, np.einsum("jfg,jg->jf", H[0], v), atol=1e-13)


# ---- the whole ---------------------------------------------------------------------


def test_it_is_the_gaussian_process_of_all_forces(monkeypatch):
    """Forces of dense algebra, an integrated energy; with fewer columns than directions."""
    monkeypatch.setattr(gradient_domain, "TOLERANCE", 1e-10)
    frames = water(14)
    term = kp.GDMLTerm(length_scale=3.0, n_sparse=13)
    pot = kp.KernelPotential([term], baseline=[], sigma_forces=2e-3)
    pot.fit(frames, optimize=None)
    bound = pot.model.design.terms[0]
    descriptor, kernel = bound.descriptor, bound.kernel
    x = np.array([descriptor.features(f) for f in frames])
    J = np.array([descriptor.jacobian(f).reshape(9, 3) for f in frames])
    index, a = kernel.permuted(3), kernel.a
    assert len(index) == 2
    K = np.array(
        [[J[i] @ hessian(x[i], x[j], index, a) @ J[j].T for j in range(14)] for i in range(14)]
    )
    K = K.transpose(0, 2, 1, 3).reshape(126, 126)
    forces = np.concatenate([f.arrays["REF_forces"].ravel() for f in frames])
    c = np.linalg.solve(K + 2e-3**2 * np.eye(126), -forces).reshape(14, 9)
    energies = []
    new = water(6, seed=5)
    for atoms in new:
        u, by_u = descriptor.features(atoms), descriptor.jacobian(atoms).reshape(9, 3)
        rows = [by_u @ hessian(u, x[j], index, a) @ J[j].T @ c[j] for j in range(14)]
        found = pot.predict(atoms)
        np.testing.assert_allclose(found.forces.ravel(), -np.sum(rows, axis=0), atol=2e-6)
        energies.append(sum(slope(u, x[j], index, a) @ J[j].T @ c[j] for j in range(14)))
    differences = np.array([pot.predict(atoms).energy for atoms in new]) - energies
    np.testing.assert_allclose(differences, differences.mean(), atol=1e-6)
    # the constant is that of the labels
    errors = [pot.predict(f).energy - f.info["REF_energy"] for f in frames]
    assert abs(np.mean(errors)) < 1e-6
    assert "mean of all 126 directions of 14 molecules" in pot.summary()


def iterations(pot):
    """How many there were, from the summary."""
    return int(re.search(r"(\d+) iterations, forces reproduced", pot.summary()).group(1))


def test_noise_of_energies_does_not_slow_the_iterations():
    """They are of forces: so must be what preconditions them, in a fit and in an update."""
    old, new = water(40), water(6, seed=4)
    needed, forces = {}, {}
    for sigma in (1e-5, 10.0):
        term = kp.GDMLTerm(length_scale=3.0, n_sparse=40)
        pot = kp.KernelPotential([term], baseline=[], sigma_energy=sigma)
        pot.fit(old, optimize=None, calibrate=False, self_test=False)
        first = iterations(pot)
        pot.update(new, data=old)
        needed[sigma] = first, iterations(pot)
        forces[sigma] = pot.predict(new[0]).forces
    assert needed[1e-5] == needed[10.0]
    assert max(needed[10.0]) < 200
    np.testing.assert_allclose(forces[1e-5], forces[10.0], atol=1e-6)


def test_energy_does_not_change_where_like_atoms_change_places():
    pot = kp.KernelPotential([kp.GDMLTerm(n_sparse=20)], baseline=[]).fit(water(12), optimize=None)
    atoms = water(1, seed=9)[0]
    numbers = atoms.numbers
    swapped = atoms.copy()
    order = [0, 2, 1] if numbers[0] == 8 else [1, 0, 2]
    swapped.positions = atoms.positions[order]
    one, two = pot.predict(atoms, return_std=True), pot.predict(swapped, return_std=True)
    assert two.energy == pytest.approx(one.energy, abs=1e-10)
    np.testing.assert_allclose(two.forces, one.forces[order], atol=1e-10)
    assert two.energy_std == pytest.approx(one.energy_std, rel=1e-6)
    np.testing.assert_allclose(two.forces_std, one.forces_std[order], rtol=1e-5)


def test_turned_molecules_have_turned_forces(rng):
    pot = kp.KernelPotential([kp.GDMLTerm(n_sparse=20)], baseline=[]).fit(water(12), optimize=None)
    atoms = water(1, seed=9)[0]
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turned = atoms.copy()
    turned.positions = atoms.positions @ turn.T + 3.0
    one, two = pot.predict(atoms, return_std=True), pot.predict(turned, return_std=True)
    assert two.energy == pytest.approx(one.energy, abs=1e-10)
    np.testing.assert_allclose(two.forces, one.forces @ turn.T, atol=1e-10)
    assert two.energy_std == pytest.approx(one.energy_std, rel=1e-6)


def test_later_data_are_learned_from():
    old, new = water(14), water(6, seed=4)
    pot = kp.KernelPotential([kp.GDMLTerm(n_sparse=13)], baseline=[]).fit(old, optimize=None)
    test = water(20, seed=7)

    def error(p):
        return np.mean([np.abs(p.predict(f).forces - f.arrays["REF_forces"]).mean() for f in test])

    before = error(pot)
    pot.update(new, data=old)
    assert "mean of all 180 directions of 20 molecules" in pot.summary()
    assert error(pot) < before


# ---- permutations ------------------------------------------------------------------


def test_permutations_of_ethanol_are_found():
    """The methyl turns, and mirror images: six, as sGDML finds."""
    frames = [f for f in datasets.load_ethanol() if len(f) == 9]
    numbers = frames[0].atoms.numbers
    found = find_permutations(numbers, [f.atoms.positions for f in frames])
    assert len(found) == 6
    assert found[0].tolist() == list(range(9))
    hydrogens = [k for k in range(9) if any(p[k] != k for p in found)]
    assert np.all(numbers[hydrogens] == 1)
    assert len(hydrogens) == 5


def test_frames_whose_atoms_changed_places_are_matched(rng):
    atoms = molecule("CH4")
    frames = []
    for k in range(30):
        frame = atoms.positions + 0.05 * rng.normal(size=(5, 3))
        if k % 2:
            frame = frame[[0, 2, 1, 3, 4]]
        frames.append(frame)
    found = find_permutations(atoms.numbers, frames)
    assert [0, 2, 1, 3, 4] in found.tolist()


def test_a_rigid_molecule_has_none(rng):
    atoms = molecule("CH3CH2OH")
    atoms.positions += 0.3 * rng.normal(size=(9, 3))  # no mirror plane
    frames = [atoms.positions + 0.02 * rng.normal(size=(9, 3)) for _ in range(30)]
    assert find_permutations(atoms.numbers, frames).tolist() == [list(range(9))]


def test_given_permutations_are_completed_to_a_group():
    turn = [0, 1, 2, 3, 4, 6, 7, 5, 8]
    found = group_of(np.array([turn, ETHANOL]), 9)
    assert len(found) == 6
    assert {tuple(p[list(q)]) for p in found for q in found} == {tuple(p) for p in found}
    assert len(group_of(np.array([[*range(1, 9), 0], [1, 0, *range(2, 9)]]), 9)) == 1  # too many


# ---- what is refused ---------------------------------------------------------------


def test_what_is_no_such_molecule_is_refused():
    frames = water(10)
    crystal = Atoms("OH2", frames[0].positions, cell=[5, 5, 5], pbc=True)
    other = label(molecule("CH4"))
    reordered = frames[0].copy()[[1, 0, 2]]
    term = kp.GDMLTerm()
    with pytest.raises(ValueError, match="is periodic: a term of whole molecules has no place"):
        kp.KernelPotential([term], baseline=[]).fit([*frames, label(crystal)], optimize=None)
    with pytest.raises(ValueError, match="compares molecules of the same atoms in the same order"):
        kp.KernelPotential([term], baseline=[]).fit([*frames, other], optimize=None)
    pot = kp.KernelPotential([term], baseline=[]).fit(frames, optimize=None)
    with pytest.raises(ValueError, match="here OHH; got HOH: use terms of atoms such as SOAPTerm"):
        pot.predict(reordered)
    given = kp.KernelPotential([term], baseline=[], sparse_points=[[(frames[0], 0)]])
    with pytest.raises(ValueError, match="has directions in place of sparse points"):
        given.fit(frames, optimize=None)
    with pytest.raises(ValueError, match="exceeds the 28 directions"):
        kp.KernelPotential([kp.GDMLTerm(n_sparse=50)], baseline=[]).fit(frames, optimize=None)
    wrong = kp.GDMLTerm(permutations=[[1, 0, 2]])
    with pytest.raises(ValueError, match="must exchange atoms of the same species only"):
        kp.KernelPotential([wrong], baseline=[]).fit(frames, optimize=None)


def test_beside_other_terms_it_has_its_columns_only():
    terms = [kp.GDMLTerm(n_sparse=13), kp.SOAPTerm(r_cut=3.0, n_max=3, l_max=2, n_sparse=20)]
    pot = kp.KernelPotential(terms, baseline=[]).fit(water(12), optimize=None)
    assert not pot.model.local.tails
    assert "beside other terms the mean has the 13 directions" in pot.summary()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length_scale": 0.0}, "`length_scale` must be positive"),
        ({"complete": 1}, "`complete` must be True or False"),
        ({"permutations": [[0, 0, 1]]}, "`permutations` must be rows of all atoms"),
    ],
)
def test_wrong_parameters_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GDMLTerm(**arguments)


def test_single_atoms_are_no_molecules():
    descriptor = kp.GDMLTerm().descriptor((1, 8))
    system = System.of([Atoms("H"), *water(2)], 0.0)
    found = descriptor.environments(system, slice(0, 7))
    np.testing.assert_array_equal(found.structure, [1, 2])
    assert descriptor.count(system) == [2]


def test_memory_of_the_iterations_is_planned(monkeypatch):
    """Of more and larger molecules than columns: what is allocated is what the plan says."""
    rng = np.random.default_rng(3)
    frames = []
    for _ in range(60):
        atoms = molecule("C6H6")
        atoms.positions += 0.05 * rng.normal(size=(12, 3))
        frames.append(label(atoms))
    term = kp.GDMLTerm(n_sparse=20, permutations=())
    planned, peaks, problems = [], [], []

    def spied(self, *args, original=gradient_domain.AllDirections.completed, **kwargs):
        tracemalloc.start()
        found = original(self, *args, **kwargs)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        return found

    def noted(*args, original=pipeline.plan_memory, **kwargs):
        problems.append(args[0])
        planned.append(original(*args, **kwargs))
        return planned[-1]

    monkeypatch.setattr(gradient_domain, "MAX_ITERATIONS", 5)
    monkeypatch.setattr(gradient_domain.AllDirections, "completed", spied)
    monkeypatch.setattr(pipeline, "plan_memory", noted)
    seen = []
    pot = kp.KernelPotential([term], baseline=[])
    with pytest.warns(UserWarning, match=r"after 5 iterations .* raise n_sparse"):
        pot.fit(frames, optimize=None, progress=lambda *a: seen.append(a))
    (plan,), (peak,) = planned, peaks
    assert peak > 60 * 66 * 36 * 8  # the derivatives of all features
    assert 0.7 * peak < plan.workload.iterations.n_bytes < 1.5 * peak
    assert plan.parts["directions"] > plan.workload.iterations.n_bytes
    many = dataclasses.replace(plan.workload.iterations, n_bytes=1e9)
    large = dataclasses.replace(plan, workload=dataclasses.replace(plan.workload, iterations=many))
    assert large.needed > plan.needed + 8e8
    assert "iterations over all directions" in str(large)
    # one solution for all and one without those left out, and none goes back
    done = [d for stage, d, _ in seen if stage == "all directions"]
    assert len(done) >= 10
    assert [d for _, d, _ in seen] == sorted(d for _, d, _ in seen)
    data = problems[0].frames
    assert gradient_domain.Iterations.of([term], data, 20) is not None
    for terms in ([term, kp.PairTerm(r_cut=4.0)], [term.changed(complete=False)]):
        assert gradient_domain.Iterations.of(terms, data, 20) is None
