"""A potential is an estimator of scikit-learn, which predicting does not import."""

import inspect
import subprocess
import sys

import numpy as np
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

import kernelpot as kp
from tests.conftest import structures

PARAMETERS = [name for name in inspect.signature(kp.KernelPotential).parameters]


class Oracle(BaseEstimator):
    """With the constructor of a potential, from scikit-learn's own class."""

    __init__ = kp.KernelPotential.__init__


def test_parameters_are_those_of_the_constructor(small_terms):
    pot = kp.KernelPotential(small_terms, seed=3, e0={"Cu": 1.0})
    found = pot.get_params()
    assert found == Oracle(small_terms, seed=3, e0={"Cu": 1.0}).get_params()
    assert set(found) == set(PARAMETERS)
    assert found["terms"] is small_terms
    assert pot.get_params(deep=False) == found


def test_parameters_can_be_set_and_wrong_ones_change_nothing():
    pot = kp.KernelPotential()
    assert pot.set_params(n_sparse=50, seed=1) is pot
    assert (pot.n_sparse, pot.seed) == (50, 1)
    assert pot.set_params() is pot
    with pytest.raises(ValueError, match="no parameter 'cutoff', 'nsparse'; it has baseline,"):
        pot.set_params(seed=2, nsparse=10, cutoff=4.0)
    assert pot.seed == 1


def test_a_clone_has_the_parameters_and_not_the_fit(potential):
    copy = clone(potential)
    assert type(copy) is kp.KernelPotential
    assert repr(copy) == repr(potential)
    assert copy.terms == potential.terms
    assert copy.terms is not potential.terms
    assert not hasattr(copy, "fitted_")


def test_a_clone_of_a_loaded_potential_fits_as_the_first_did(labelled, tmp_path, small_terms):
    pot = kp.KernelPotential(small_terms[:1], baseline=[kp.Wall()]).fit(labelled, optimize=None)
    pot.save(tmp_path / "m.kpot")
    again = clone(kp.load(tmp_path / "m.kpot")).fit(labelled, optimize=None)
    np.testing.assert_array_equal(again.model.factor.matrix, pot.model.factor.matrix)


def test_whether_it_is_fitted(potential):
    check_is_fitted(potential)
    with pytest.raises(NotFittedError, match="This KernelPotential instance is not fitted yet"):
        check_is_fitted(kp.KernelPotential())


def test_scikit_learn_gets_its_tags(potential):
    pytest.importorskip("sklearn", minversion="1.6")
    from sklearn.utils import get_tags

    tags = get_tags(potential)
    assert tags.requires_fit
    assert not tags.target_tags.required
    assert not tags.input_tags.two_d_array


@pytest.mark.parametrize(
    ("parameters", "shown"),
    [
        ({}, "KernelPotential()"),
        ({"preset": "fast", "seed": 0}, "KernelPotential(preset='fast')"),
        ({"n_sparse": 10, "e0": {"Cu": 1.0}}, "KernelPotential(n_sparse=10, e0={'Cu': 1.0})"),
        ({"baseline": []}, "KernelPotential(baseline=[])"),
    ],
)
def test_the_text_is_what_differs_from_the_defaults(parameters, shown):
    assert repr(kp.KernelPotential(**parameters)) == shown


def test_the_text_of_terms_and_sparse_points(small_terms):
    chosen = [[(structures()["crystal"], 0)], None]
    pot = kp.KernelPotential(small_terms, sparse_points=chosen)
    assert repr(pot).startswith("KernelPotential(terms=[SOAPTerm(r_cut=3.6, ")
    assert "sparse_points=[[(Atoms(" in repr(pot)


PREDICT = """
import sys
import kernelpot as kp
from ase.build import bulk
pot = kp.load(sys.argv[1])
pot.predict(bulk("Cu"), return_std=True, gate=True)
print(pot.get_params()["seed"], *sorted({m.split(".")[0] for m in sys.modules}))
"""


def test_loading_and_predicting_import_no_scikit_learn(potential, tmp_path):
    path = tmp_path / "model.kpot"
    potential.save(path)
    found = subprocess.run(
        [sys.executable, "-c", PREDICT, str(path)], capture_output=True, text=True, check=True
    )
    modules = found.stdout.split()
    assert "kernelpot" in modules
    # dscribe defines the descriptor, and imports scikit-learn; predicting needs neither
    assert not {"sklearn", "dscribe"} & set(modules)
