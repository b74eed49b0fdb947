"""Warnings point to the line of the user."""

import warnings

import ase
import numpy as np
import pytest
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet

import kernelpot as kp
from kernelpot.common.caller import warn_user
from kernelpot.common.parallel import single_blas_thread
from kernelpot.fit.sufficiency import FewDataWarning
from kernelpot.md.vibration import TimestepWarning
from kernelpot.safety.gate import GateWarning
from tests.conftest import label, rattled_alloy


def here(caught, category):
    """Lines of this file that warnings of a category point to."""
    found = [w for w in caught if issubclass(w.category, category)]
    assert found
    assert {w.filename for w in found} == {__file__}
    return {w.lineno for w in found}


def line():
    import sys

    return sys._getframe(1).f_lineno


def test_decorators_of_ours_are_passed_through():
    scope = {"__name__": "kernelpot.made_up", "warn_user": warn_user}
    exec("def inner():\n    warn_user('text')\ndef outer():\n    inner()", scope)
    decorated = single_blas_thread()(scope["outer"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        decorated()
        expected = line() - 1
    assert here(caught, UserWarning) == {expected}


def test_warnings_within_ase_point_to_who_called_it(potential):
    unknown = Atoms("CuAl", [[0, 0, 0], [0, 0, 1.2]])
    for use in ("energy", "dynamics"):
        unknown.calc = potential.calculator()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if use == "energy":
                unknown.get_potential_energy()
                expected = line() - 1
            else:
                dynamics = VelocityVerlet(unknown, 0.1 * units.fs)
                dynamics.run(1)
                expected = line() - 1
        assert here(caught, GateWarning) == {expected}
    assert ase.__file__ != __file__


def test_warnings_of_fits_updates_and_dynamics(small_terms, potential):
    frames = [label(rattled_alloy(s, (1, 1, 1))) for s in range(3)]
    terms = [term.changed(n_sparse=8) for term in small_terms]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kp.KernelPotential(terms).fit(frames, optimize=None)
        expected = line() - 1
    assert here(caught, FewDataWarning) == {expected}
    pot = kp.KernelPotential(terms).fit([label(rattled_alloy(s)) for s in (1, 2)], optimize=None)
    near = label(rattled_alloy(4, (1, 1, 1)))
    near.positions[1] = near.positions[0] + [0.0, 0.0, 1.0]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pot.update([near])
        expected = line() - 1
    assert here(caught, UserWarning) == {expected}
    from kernelpot.md.dynamics import run_dynamics

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run_dynamics(
            rattled_alloy(3, (1, 1, 1), 0.02), potential.calculator(on_gate=None), timestep=40.0,
            steps=1, bounds=None,
        )  # fmt: skip
    here(caught, TimestepWarning)


def test_predictions_of_several_structures_name_the_right_method(potential):
    atoms = rattled_alloy(1, (1, 1, 1))
    for several in ([atoms, atoms], (atoms,)):
        with pytest.raises(TypeError, match="got (list|tuple); predict_many takes several"):
            potential.predict(several)
    with pytest.raises(TypeError, match="predict takes one"):
        list(potential.predict_many(atoms))
    with pytest.raises(TypeError, match=r"got str; ase.io.read\('a.xyz'\) makes structures"):
        potential.predict("a.xyz")
    with pytest.raises(TypeError, match="got ndarray"):
        potential.local_std(np.zeros((3, 3)))
    assert len(list(potential.predict_many(iter([atoms, atoms])))) == 2
