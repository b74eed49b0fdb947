"""A descriptor of one's own, as documented: fitted, predicted, saved, and missed at load."""

import sys

import numpy as np
import pytest
from ase import Atoms
from dscribe.descriptors import SOAP

import kernelpot as kp
from kernelpot.data.system import System
from kernelpot.terms.custom import NeighborShells
from kernelpot.testing import numerical_forces
from tests.conftest import label, rattled_alloy, structures

# As on the documentation page "Your own descriptor".
SOURCE = '''
import numpy as np


class Coordination:
    """Smoothly counted neighbors, one number for each species and width."""

    def __init__(self, species, r_cut, power=2):
        self.species, self.r_cut, self.power = species, r_cut, power
        self.n_features = 3 * len(species)

    def _counts(self, numbers, displacements):
        r = np.linalg.norm(displacements, axis=1)
        x = r / self.r_cut
        powers = self.power * np.arange(1, 4)
        count = (1 - x[:, None] ** 2) ** (1 + powers)
        slope = -2 * (1 + powers) * x[:, None] / self.r_cut * (1 - x[:, None] ** 2) ** powers
        same = (numbers[:, None] == np.array(self.species))[:, :, None]
        return [(same * a[:, None]).reshape(len(r), -1) for a in (count, slope)] + [r]

    def values(self, center, numbers, displacements):
        return self._counts(numbers, displacements)[0].sum(axis=0)

    def jacobian(self, center, numbers, displacements):
        _, slope, r = self._counts(numbers, displacements)
        return (displacements / r[:, None])[:, :, None] * slope[:, None, :]
'''


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A module of that text, importable while the test runs."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "my_descriptors.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    sys.modules.pop("my_descriptors", None)


class DscribeSOAP:
    """Any local descriptor of dscribe: the atom and its neighbors as a cluster."""

    def __init__(self, species, r_cut):
        self.soap = SOAP(species=species, r_cut=r_cut, n_max=2, l_max=2, sigma=0.6)
        self.n_features = self.soap.get_number_of_features()

    def values(self, center, numbers, displacements):
        cluster = Atoms([center, *numbers], [np.zeros(3), *displacements])
        return self.soap.create(cluster, centers=[0])[0]


def test_a_class_of_twenty_lines_is_fitted_saved_and_missed_at_load(
    labelled, written, tmp_path, monkeypatch
):
    term = kp.CustomTerm("my_descriptors:Coordination", r_cut=4.3, n_sparse=60)
    pot = kp.KernelPotential([term]).fit(labelled, optimize=None)
    atoms = structures()["crystal"]
    found = pot.predict(atoms, return_std=True)
    np.testing.assert_allclose(found.forces, numerical_forces(pot, atoms), atol=1e-5)
    assert np.all(found.forces_std > 0)
    spread = np.std([a.info["REF_energy"] / len(a) for a in labelled])
    assert pot.model.training.errors["energy_rmse_mev_per_atom"] < 300 * spread
    assert "6 features of my_descriptors:Coordination, derivatives its own" in pot.summary()
    pot.save(tmp_path / "model.kpot")
    again = kp.load(tmp_path / "model.kpot").predict(atoms, return_std=True)
    np.testing.assert_array_equal(again.forces, found.forces)
    np.testing.assert_array_equal(again.forces_std, found.forces_std)
    # elsewhere, where nobody has that module
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(written)])
    del sys.modules["my_descriptors"]
    with pytest.raises(ValueError, match=r"'my_descriptors:Coordination' cannot be imported here"):
        kp.load(tmp_path / "model.kpot")
    (written / "my_descriptors.py").write_text("class Another: pass\n")
    monkeypatch.syspath_prepend(str(written))
    with pytest.raises(ValueError, match="has no attribute 'Coordination'"):
        kp.load(tmp_path / "model.kpot")


def test_a_descriptor_of_dscribe_has_derivatives_by_differences():
    frames = [label(rattled_alloy(s, (1, 1, 1), 0.15)) for s in range(6)]
    term = kp.CustomTerm(DscribeSOAP, r_cut=3.0, n_sparse=16)
    assert term.descriptor_class == "tests.terms.test_custom:DscribeSOAP"
    pot = kp.KernelPotential([term], baseline=[]).fit(frames, optimize=None, calibrate=False)
    assert "derivatives by differences, slowly" in pot.summary()
    atoms = structures()["cluster"]
    # differences of displacements of 1e-4 Å: good to the square of it
    np.testing.assert_allclose(pot.predict(atoms).forces, numerical_forces(pot, atoms), atol=1e-5)


def test_derivatives_by_differences_are_those_of_the_class(monkeypatch):
    atoms = structures()["cluster"]
    descriptor = kp.CustomTerm(NeighborShells, r_cut=4.3).descriptor((13, 29))
    system = System.of([atoms], 4.3)
    own = descriptor.environments(system, slice(0, 4)).state()
    monkeypatch.delattr(NeighborShells, "jacobian")
    by_differences = descriptor.environments(system, slice(0, 4)).state()
    np.testing.assert_allclose(own.by_x, by_differences.by_x, atol=1e-7)


class Wrong:
    """Returns what it did not announce."""

    n_features = 2

    def __init__(self, species, r_cut):
        self.shape = (3,)

    def values(self, center, numbers, displacements):
        return np.ones(self.shape)

    def jacobian(self, center, numbers, displacements):
        return np.ones((len(numbers), 3, 1))


def test_arrays_of_wrong_shapes_are_named():
    atoms = structures()["cluster"]
    system = System.of([atoms], 4.0)
    descriptor = kp.CustomTerm(Wrong, r_cut=4.0).descriptor((13, 29))
    with pytest.raises(ValueError, match=r"`values` of Wrong must return n_features = 2 numbers"):
        descriptor.environments(system, slice(0, 4))
    descriptor.inner.shape = (2,)
    state = descriptor.environments(system, slice(0, 4)).state
    with pytest.raises(ValueError, match=r"`jacobian` of Wrong must be of shape"):
        state()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere_at_all:Thing", "cannot be imported here"),
        ("numpy:no_such_thing", "cannot be imported here"),
        ("numpy", "cannot be imported here"),
        ("numpy:ndarray", "is no descriptor: it must be a class with a method `values`"),
    ],
)
def test_what_is_no_descriptor_is_refused(path, message):
    with pytest.raises(ValueError, match=message):
        kp.CustomTerm(path, r_cut=4.0)
