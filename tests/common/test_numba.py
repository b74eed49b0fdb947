"""Where compiled loops are kept."""

import os
import subprocess
import sys
import tempfile

import numpy as np
import pytest
from numba.core.dispatcher import Dispatcher

from kernelpot.baseline import _coulomb
from kernelpot.common._numba import fallback
from kernelpot.terms import _dot_product, _soap


def test_a_directory_that_can_be_made_is_enough(tmp_path):
    assert fallback([str(tmp_path / "new" / "deep")]) is None
    (tmp_path / "file").touch()
    assert fallback([str(tmp_path / "file" / "cache"), str(tmp_path)]) is None


def test_a_temporary_directory_serves_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").touch()
    found = fallback([str(tmp_path / "file" / "a"), str(tmp_path / "file" / "b")])
    assert found is not None
    assert os.path.dirname(found) == tempfile.gettempdir()


def test_a_place_the_user_names_is_left_alone(tmp_path):
    code = "import kernelpot.terms._dot_product, numba; print(numba.config.CACHE_DIR)"
    environment = dict(os.environ, NUMBA_CACHE_DIR=str(tmp_path))
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == str(tmp_path)


@pytest.mark.parametrize("module", [_coulomb, _dot_product, _soap])
def test_functions_that_others_call_are_compiled_into_them(module):
    """Else the one that runs depends on what was loaded first, and with it the last bit."""
    functions = {n: f for n, f in vars(module).items() if isinstance(f, Dispatcher)}
    called = {name for f in functions.values() for name in f.py_func.__code__.co_names}
    called &= set(functions)
    assert called
    assert {n for n in functions if functions[n].targetoptions.get("forceinline")} == called


DERIVATIVES = """
import sys
import numpy as np
from ase.build import bulk
import kernelpot as kp
from kernelpot.terms._soap import jacobian
from kernelpot.terms.power_spectrum import SOAP
from kernelpot.data.neighbors import neighbor_list

atoms = bulk("Cu", cubic=True)
atoms.rattle(0.1, seed=1)
soap = SOAP(kp.SOAPTerm(r_cut=4.0, n_max=4, l_max=3, sigma_atom=0.5), (29,))
pairs = neighbor_list(atoms, 4.0)
index = np.zeros(len(atoms), dtype=int)
batch = soap.pairs(pairs.first, pairs.neighbors, pairs.displacements(atoms.positions), index)
rows = np.repeat(np.arange(4), np.diff(pairs.first))
coefficients = np.random.default_rng(0).normal(size=(4, 1, 16, 4))
np.save(sys.argv[1], soap.jacobian(batch, np.arange(len(rows)), rows, coefficients))
print(sum(jacobian.stats.cache_hits.values()))
"""


def test_an_empty_cache_makes_no_difference(tmp_path):
    environment = dict(os.environ, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    for run in range(2):
        command = [sys.executable, "-c", DERIVATIVES, str(tmp_path / f"{run}.npy")]
        found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert int(found.stdout) == run  # loaded the second time
    first, second = (np.load(tmp_path / f"{run}.npy") for run in range(2))
    np.testing.assert_array_equal(first, second)
