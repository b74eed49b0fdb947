"""Features of kernel charges: electrostatics around known charges, and its derivatives."""

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

import kernelpot as kp
from kernelpot.baseline.smeared import SmearedCoulomb
from kernelpot.data.system import Contribution, System
from kernelpot.terms.base import OwnPoints, RowGradient
from kernelpot.terms.charges import total_charge

SPECIES = (11, 17)
VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


def structures():
    rng = np.random.default_rng(5)
    crystal = bulk("NaCl", "rocksalt", a=5.5, cubic=True)
    crystal.rattle(0.15, seed=2)
    cluster = Atoms("Na3Cl2", 2.6 * np.eye(3)[[0, 1, 2, 0, 1]] + 0.2 * rng.normal(size=(5, 3)))
    cluster.positions[3:] += [1.8, 1.6, 1.5]
    ion = cluster.copy()
    ion.info["charge"] = 1.0
    skewed = crystal.copy()
    skewed.set_cell(crystal.cell.array + 0.3 * rng.normal(size=(3, 3)), scale_atoms=True)
    skewed.info["charge"] = -1.0
    return {"crystal": crystal, "cluster": cluster, "ion": ion, "skewed": skewed}


def descriptor_of(rng):
    """Some charges, found by nobody."""
    term = kp.KernelCharges.example(SPECIES)
    inner = term.soap.descriptor(SPECIES)
    atoms = structures()["crystal"]
    found = inner.environments(System.of([atoms], inner.r_cut), slice(0, len(atoms)))
    points, _ = term.soap.kernel().embed(found.x)
    n = len(points) + len(SPECIES)
    return term.descriptor(
        SPECIES,
        {
            **inner.to_arrays(),
            "points": points,
            "point_key": found.key,
            "sigma": np.array([0.8, 0.95]),
            "at": rng.normal(size=n),
            "mean": 0.3 * rng.normal(size=n),
            "whitening": rng.normal(size=(n, n)),
        },
    )


@pytest.fixture
def descriptor(rng):
    return descriptor_of(rng)


def features(descriptor, *batch):
    system = System.of(batch, descriptor.r_cut)
    return descriptor.environments(system, slice(0, system.n_atoms)).x


def energy(descriptor, atoms, beta):
    """The nonlinear energy of charges, for comparison."""
    system = System.of([atoms], descriptor.r_cut)
    q = descriptor.charges(system, beta)
    sigma = descriptor.sigma[system.z_index(SPECIES)]
    return 0.5 * q @ SmearedCoulomb(atoms, sigma).potential(q)


def strained(atoms, a, b, step):
    strain = np.eye(3)
    strain[a, b] += 0.5 * step
    strain[b, a] += 0.5 * step
    copy = atoms.copy()
    copy.set_cell(atoms.cell.array @ strain)
    copy.positions = atoms.positions @ strain
    return copy


def moved(atoms, i, axis, step):
    copy = atoms.copy()
    copy.positions[i, axis] += step
    return copy


def central(function, step=1e-4):
    return (function(step) - function(-step)) / (2 * step)


@pytest.mark.parametrize("name", list(structures()))
def test_charges_sum_to_the_total(descriptor, name):
    atoms = structures()[name]
    q = descriptor.charges(System.of([atoms], descriptor.r_cut), descriptor.at)
    assert q.sum() == pytest.approx(atoms.info.get("charge", 0.0), abs=1e-12)
    assert np.std(q) > 0.1


@pytest.mark.parametrize("name", list(structures()))
def test_the_energy_is_the_nonlinear_one_to_first_order(descriptor, name, rng):
    """Where the charges are known it is exact; beside, what differs is of second order."""
    atoms = structures()[name]
    x = features(descriptor, atoms)[0]
    z = np.linalg.solve(descriptor.whitening, descriptor.at - descriptor.mean)
    exact = energy(descriptor, atoms, descriptor.at)
    assert x @ np.append(z, 1.0) == pytest.approx(exact, rel=1e-9)
    step = rng.normal(size=len(z))
    left = []
    for size in (1e-2, 5e-3):
        weights = np.append(z + size * step, 1.0)
        beta = descriptor.coefficients(weights)
        left.append(energy(descriptor, atoms, beta) - x @ weights)
    assert left[0] / left[1] == pytest.approx(4.0, rel=1e-3)


@pytest.mark.parametrize("name", list(structures()))
def test_rows_and_adjoint_are_derivatives(descriptor, name, rng):
    atoms = structures()[name]
    system = System.of([atoms], descriptor.r_cut)
    found = descriptor.environments(system, slice(0, system.n_atoms))
    n, n_features = len(atoms), descriptor.n_features
    points = np.eye(n_features)
    gradient = RowGradient(
        points,
        found.x,
        np.ones((1, n_features)),
        np.zeros((1, n_features)),
        np.zeros((1, n_features)),
    )
    forces, virials = np.zeros((3 * n, n_features)), np.zeros((6, n_features))
    descriptor.add_rows(system, found, np.array([0]), gradient, forces, virials)
    scale = np.abs(forces).max()
    for i in range(0, n, 2):
        for c in range(3):
            slope = central(lambda x, i=i, c=c: features(descriptor, moved(atoms, i, c, x))[0])
            # truncation: the square of the step times third derivatives
            np.testing.assert_allclose(forces[3 * i + c], -slope, atol=3e-7 * scale)
    for k, (a, b) in enumerate(VOIGT):
        slope = central(lambda x, a=a, b=b: features(descriptor, strained(atoms, a, b, x))[0])
        np.testing.assert_allclose(virials[k], -slope, atol=3e-6 * scale)
    weights = rng.normal(size=n_features)
    out = Contribution.zero(system)
    descriptor.pull(system, found, weights[None], None, out)
    np.testing.assert_allclose(system.forces(out).ravel(), forces @ weights, atol=1e-10 * scale)
    virial = system.virials(out)[0]
    np.testing.assert_allclose(
        [virial[a, b] for a, b in VOIGT], virials @ weights, atol=1e-9 * scale
    )


def test_a_batch_is_its_structures_one_by_one(descriptor):
    batch = list(structures().values())
    together = features(descriptor, *batch)
    for x, atoms in zip(together, batch, strict=True):
        np.testing.assert_allclose(x, features(descriptor, atoms)[0], atol=1e-10)


def test_features_are_invariant(descriptor, rng):
    for atoms in structures().values():
        turned = atoms.copy()
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        turned.set_cell(atoms.cell.array @ turn.T)
        turned.positions = atoms.positions @ turn.T + [0.3, -0.2, 0.7]
        order = rng.permutation(len(atoms))
        x = features(descriptor, atoms)
        np.testing.assert_allclose(
            features(descriptor, turned[order]), x, atol=1e-8 * np.abs(x).max()
        )


def test_a_crystal_is_its_supercell(descriptor):
    atoms = structures()["crystal"]
    x = features(descriptor, atoms)
    np.testing.assert_allclose(
        features(descriptor, atoms.repeat((2, 1, 1))), 2 * x, atol=1e-6 * np.abs(x).max()
    )


def test_own_points_stand_for_sparse_points(descriptor):
    assert isinstance(descriptor, OwnPoints)
    assert descriptor.known_weights[-1] == 1.0
    assert not descriptor.known_weights[:-1].any()
    assert descriptor.long_ranged
    again = kp.KernelCharges.example(SPECIES).descriptor(SPECIES, descriptor.to_arrays())
    for name in ("points", "at", "mean", "whitening", "sigma"):
        np.testing.assert_array_equal(getattr(again, name), getattr(descriptor, name))


def test_slabs_are_refused(descriptor):
    atoms = structures()["crystal"]
    atoms.pbc = (True, True, False)
    with pytest.raises(ValueError, match="periodic along x, y only"):
        features(descriptor, atoms)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sigma_charge": 0.0}, "sigma_charge"),
        ({"smearing": {"Xx": 1.0}}, "smearing"),
        ({"smearing": -1.0}, "smearing"),
        ({"gate": 1}, "gate"),
        ({"r_cut": 0.5}, "r_cut"),
    ],
)
def test_values_out_of_range_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        replace(kp.KernelCharges(), **values)


def test_a_total_charge_must_be_a_number():
    atoms = Atoms("Na", info={"charge": "one"})
    with pytest.raises(ValueError, match="must be a number, got 'one'"):
        total_charge(atoms)
    with pytest.raises(ValueError, match="KernelPotential\\(charges=...\\)"):
        kp.KernelCharges().descriptor(SPECIES)
