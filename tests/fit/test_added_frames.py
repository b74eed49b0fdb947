"""What is fitted beside the data."""

import warnings

import numpy as np
import pytest
from ase.build import bulk
from ase.units import GPa

import kernelpot as kp
from kernelpot.baseline.free_atoms import atomic_energies
from kernelpot.data.dataset import Frame
from kernelpot.fit.added_frames import SIGMA_PRESSURE, is_assumed, one_volume, with_added_frames
from kernelpot.fit.left_out import choose_structures
from kernelpot.fit.problem import prepare
from kernelpot.fit.settings import Settings
from kernelpot.fit.sufficiency import FewDataWarning
from tests.conftest import label

TERM = kp.SOAPTerm(r_cut=4.5, n_max=4, l_max=3, n_sparse=60)
LATTICE = 3.59  # where EMT has copper without pressure, to 0.02 GPa


def rattled(*, stress):
    rng = np.random.default_rng(3)
    found = []
    for size in np.linspace(0.02, 0.12, 12):
        atoms = bulk("Cu", "fcc", a=LATTICE, cubic=True) * (2, 2, 2)
        atoms.positions += rng.normal(scale=size, size=atoms.positions.shape)
        found.append(label(atoms))
    data = kp.read_dataset(found)
    if stress:
        return data
    return kp.Dataset([Frame(f.atoms, f.energy, f.forces, None, name=f.name) for f in data])


@pytest.fixture(scope="module")
def without_stress():
    return rattled(stress=False)


def test_without_stress_the_structure_of_lowest_energy_is_taken_to_be_without_pressure(
    without_stress,
):
    e0 = atomic_energies(without_stress)
    added = [f for f in with_added_frames(without_stress, e0) if is_assumed(f)]
    (frame,) = added
    lowest = min(without_stress, key=lambda f: f.energy / len(f))
    assert frame.atoms is lowest.atoms
    assert frame.energy is None
    assert frame.forces is None
    np.testing.assert_array_equal(frame.virial, np.zeros(6))
    assert frame.sigmas["virial"] == pytest.approx(SIGMA_PRESSURE * GPa * 32 * LATTICE**3 / 4)


def test_with_stress_nothing_is_taken_for_granted():
    data = rattled(stress=True)
    assert one_volume(data) is None
    assert len(with_added_frames(data, atomic_energies(data))) == len(data)


def test_what_is_assumed_is_neither_held_out_nor_left_out(without_stress):
    problem = prepare(without_stress, Settings(terms=[TERM]))
    (assumed,) = (i for i, frame in enumerate(problem.frames) if is_assumed(frame))
    atoms = problem.frames[assumed].atoms
    assert not any(problem.frames[i].atoms is atoms for i in problem.held_out)
    assert problem.held_out
    assert assumed not in choose_structures(problem.frames, 10)


def test_an_assumed_pressure_keeps_cells_from_contracting(without_stress):
    def pressure(data, known):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FewDataWarning)
            pot = kp.KernelPotential(terms=[TERM], baseline=[])
            pot.fit(data, optimize=None, self_test=False)
        assert ("no pressure" in pot.summary()) != known
        assert ("stress" in pot.model.calibration.models) == known
        return -pot.predict(bulk("Cu", "fcc", a=LATTICE)).stress[:3].mean() / GPa

    # kernels alone come to 11 GPa
    assert abs(pressure(without_stress, known=False)) < 2.0 * SIGMA_PRESSURE
    assert abs(pressure(rattled(stress=True), known=True)) < 2.0


def test_an_update_says_that_the_assumed_pressure_stays(without_stress):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewDataWarning)
        pot = kp.KernelPotential(terms=[TERM], baseline=[])
        pot.fit(without_stress, optimize=None, calibrate=False, self_test=False)
    with pytest.warns(UserWarning, match="the pressure that the first fit assumed stays"):
        pot.update(rattled(stress=True)[:2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pot.update(without_stress[:2])
