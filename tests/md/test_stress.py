"""Stress wherever a cell has a volume, and what each atom contributes to it."""

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.calculator import PropertyNotImplementedError
from ase.filters import FrechetCellFilter, UnitCellFilter
from ase.optimize import BFGS

import kernelpot as kp
from kernelpot import LabelKeys, read_dataset
from kernelpot.testing import numerical_stress
from tests.conftest import label, rattled_alloy, structures


def boxed():
    """Structures with a cell of three vectors, of every periodicity."""
    slab = rattled_alloy(4, (1, 1, 1))
    slab.center(vacuum=6.0, axis=2)
    slab.pbc = (True, True, False)
    wire = rattled_alloy(5, (1, 1, 1))
    wire.center(vacuum=6.0, axis=(0, 1))
    wire.pbc = (False, False, True)
    molecule = structures()["cluster"]
    molecule.center(vacuum=5.0)
    return {"crystal": structures()["crystal"], "slab": slab, "wire": wire, "molecule": molecule}


@pytest.mark.parametrize("name", list(boxed()))
@pytest.mark.parametrize("gate", [None, True])
def test_stress_is_the_derivative_by_strain_for_every_periodicity(potential, name, gate):
    atoms = boxed()[name]
    expected = numerical_stress(
        type("Gated", (), {"predict": lambda _, a: potential.predict(a, gate=bool(gate))})(), atoms
    )
    atoms.calc = (
        potential.calculator(gate=gate, on_gate=None) if gate else potential.calculator(gate=None)
    )
    np.testing.assert_allclose(atoms.get_stress(), expected, atol=1e-8)
    assert np.abs(expected).max() > 1e-4
    committee = potential.sample(2, 0)
    assert committee.predict(atoms).stresses.shape == (2, 6)


@pytest.mark.parametrize("name", list(boxed()))
def test_stresses_of_atoms_add_up(potential, name):
    atoms = boxed()[name]
    calculator = potential.calculator(on_gate=None)
    atoms.calc = calculator
    stress = atoms.get_stress()
    stresses = atoms.get_stresses()
    assert stresses.shape == (len(atoms), 6)
    np.testing.assert_allclose(stresses.sum(axis=0), stress, atol=1e-13)
    before = calculator.n_evaluations
    atoms.get_stresses()
    assert calculator.n_evaluations == before
    # a copy beside it changes nothing: they are of the atoms, not of the cell
    if atoms.pbc.all():
        twice = atoms.repeat((2, 1, 1))
        twice.calc = calculator
        expected = np.tile(stresses * atoms.get_volume(), (2, 1))
        np.testing.assert_allclose(twice.get_stresses() * twice.get_volume(), expected, atol=1e-9)
    with pytest.raises(PropertyNotImplementedError):
        calculator.get_property("stresses", structures()["cluster"])


def test_a_pair_gives_half_to_either_atom():
    dimers = [
        label(Atoms("Cu2", [[0, 0, 0], [0, 0, r]], cell=[9, 9, 9])) for r in np.linspace(2, 4, 12)
    ]
    term = kp.PairTerm(r_cut=5.0, n_sparse=10)
    pot = kp.KernelPotential([term], baseline=[], e0={"Cu": 0.0}).fit(
        [*dimers, label(Atoms("Cu"))], optimize=None
    )
    atoms = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.7]], cell=[9, 9, 9])
    atoms.calc = pot.calculator(gate=None)
    half = 0.5 * 2.7 * -atoms.get_forces()[1, 2] / 9**3
    np.testing.assert_allclose(atoms.get_stresses()[:, 2], half, rtol=1e-9)
    np.testing.assert_allclose(atoms.get_stresses()[:, [0, 1, 3, 4, 5]], 0.0, atol=1e-15)


def test_charges_have_their_share():
    salt = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    rng = np.random.default_rng(1)
    frames = []
    for _ in range(4):
        atoms = salt.copy()
        atoms.positions += 0.05 * rng.normal(size=(8, 3))
        atoms.info["REF_energy"] = -27.0 + 0.1 * rng.normal()
        frames.append(atoms)
    pot = kp.KernelPotential(
        [kp.SOAPTerm(r_cut=4.0, n_max=2, l_max=2, n_sparse=8)],
        baseline=[kp.Wall(), kp.Ewald(charges={"Na": 1.0, "Cl": -1.0})],
    ).fit(frames, optimize=None)
    atoms = frames[0].copy()
    atoms.calc = pot.calculator(gate=None)
    np.testing.assert_allclose(atoms.get_stresses().sum(axis=0), atoms.get_stress(), atol=1e-13)
    np.testing.assert_allclose(atoms.get_stress(), numerical_stress(pot, atoms), atol=1e-7)


def test_std_of_stress_is_there_with_the_stress(potential):
    slab = boxed()["slab"]
    found = potential.predict(slab, return_std=True)
    assert found.stress_std.shape == (6,)
    assert found.interval(0.9).stress.shape == (6,)
    flat = slab.copy()
    flat.cell[2] = 0.0
    assert potential.predict(flat).stress is None
    assert potential.predict(flat, return_std=True).stress_std is None
    # vectors that span nothing
    cluster = structures()["cluster"]
    cluster.cell = np.ones((3, 3))
    assert potential.predict(cluster).stress is None


@pytest.mark.parametrize("filter_", [FrechetCellFilter, UnitCellFilter])
def test_a_slab_relaxes_under_a_masked_filter(filter_):
    rng = np.random.default_rng(2)
    frames = []
    for k in range(10):
        slab = fcc111("Al", (1, 1, 3), a=4.0 + 0.03 * rng.normal(), vacuum=6.0)
        slab.positions += (0.02 + 0.01 * k) * rng.normal(size=slab.positions.shape)
        frames.append(label(slab))
    frames += [label(bulk("Al", a=a)) for a in (3.8, 3.9, 4.0, 4.1)]
    term = kp.SOAPTerm(r_cut=4.5, n_max=4, l_max=3, n_sparse=30)
    pot = kp.KernelPotential([term]).fit(frames, optimize=None)
    slab = fcc111("Al", (1, 1, 3), a=4.1, vacuum=6.0)
    height = slab.cell[2, 2]
    slab.calc = pot.calculator(on_gate=None)
    with BFGS(filter_(slab, mask=[1, 1, 0, 0, 0, 1]), logfile=None) as relax:
        relax.run(fmax=0.01, steps=100)
    assert np.abs(slab.get_stress()[[0, 1, 5]]).max() * slab.get_volume() < 0.1
    assert slab.cell[2, 2] == pytest.approx(height)
    assert slab.cell[0, 0] != pytest.approx(4.1 / np.sqrt(2), abs=1e-3)


def test_stresses_survive_extended_xyz(potential, tmp_path):
    atoms = boxed()["crystal"]
    atoms.calc = potential.calculator(on_gate=None)
    stresses = atoms.get_stresses()
    ase.io.write(tmp_path / "a.xyz", atoms)
    np.testing.assert_allclose(ase.io.read(tmp_path / "a.xyz").get_stresses(), stresses, atol=1e-7)


def test_stress_labels_of_slabs_are_fitted_under_a_given_name(potential, small_terms):
    frames = []
    for s in range(6):
        slab = rattled_alloy(s, (1, 1, 1))
        slab.center(vacuum=6.0, axis=2)
        slab.pbc = (True, True, False)
        found = potential.predict(slab)
        slab.info |= {"REF_energy": found.energy, "REF_stress": found.stress}
        slab.arrays["REF_forces"] = found.forces
        frames.append(slab)
    data = read_dataset(frames, keys=LabelKeys(stress="REF_stress"))
    terms = [term.changed(n_sparse=20) for term in small_terms]
    pot = kp.KernelPotential(terms, baseline=[], sigma_stress=1e-4).fit(data, optimize=None)
    errors = kp.evaluate(pot, data)
    assert errors["stress_mae_gpa"] < 0.2
