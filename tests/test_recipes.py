"""Recipes for other programs run, and say what they should, where the program is installed."""

import importlib
import pathlib
import sys

import numpy as np
import pytest
from ase.build import bulk

FOLDER = pathlib.Path(__file__).parents[1] / "recipes"

if not FOLDER.exists():
    pytest.skip("recipes are not beside the tests (installed package)", allow_module_level=True)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # those of the clients
]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    return tmp_path_factory.mktemp("recipes")


@pytest.fixture
def recipe(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("PYTHONPATH", f"{FOLDER}:{':'.join(sys.path)}")  # of dask's workers

    def load(name, client):
        pytest.importorskip(client)
        return importlib.import_module(name)

    return load


def test_elastic_constants(recipe):
    found = recipe("elasticity", "matcalc").main()
    assert found["C11"] == pytest.approx(154, abs=20)
    assert found["C12"] == pytest.approx(60, abs=12)
    assert found["C44"] == pytest.approx(70, abs=15)


def test_phonons(recipe):
    gamma, x = recipe("phonons", "phonopy").main()
    assert np.abs(gamma[:3]).max() < 0.05
    assert gamma[3:] == pytest.approx(15.0, abs=1.5)  # experiment 15.5 THz
    assert x.min() > 3.0


def test_the_barrier_of_a_vacancy_has_an_error_bar(recipe):
    barrier, std, unknown = recipe("vacancy", "ase").main(steps=5)
    assert barrier > 0.0
    assert std > 0.0
    assert unknown > 0.1  # no atom of the data is on its way


def test_path_integrals(recipe):
    potentials, atoms, pot = recipe("path_integrals", "ipi").main(steps=2, beads=2)
    assert np.isfinite(potentials).all()
    assert len(atoms) == 8 == len(pot.predict(atoms).energies)


def test_path_integrals_through_a_socket(recipe):
    beads, steps, cells = 4, 3, 2
    table, calculator = recipe("path_integrals_socket", "ipi").main(steps, beads, cells)
    assert len(table) == steps + 1
    assert np.ptp(table[:, 1]) < 1e-4 * 64  # the conserved quantity [Hartree]
    # beads start at the same place; then one calculator has all of them in turn
    assert calculator.n_evaluations == 1 + beads * steps
    start = bulk("Si", cubic=True, a=5.47).repeat(cells)
    start.calc = calculator
    assert table[0, 3] == pytest.approx(start.get_potential_energy(), rel=1e-6)


def test_dispersion(recipe):
    worst, dispersion = recipe("dispersion", "dftd3").main()
    assert worst < 1e-10
    assert dispersion < -0.1


def test_batches(recipe):
    found, expected = recipe("batches", "dask").main(4)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
