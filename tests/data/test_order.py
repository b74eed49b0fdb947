"""Frames are told apart by all that a fit depends on, and by nothing else."""

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms

import kernelpot as kp
from kernelpot.data.order import (
    canonical_order,
    digest,
    fingerprint,
    frame_digest,
    structure_digest,
)
from kernelpot.gp.labels import Noise
from tests.conftest import label, rattled_alloy


@pytest.fixture(scope="module")
def frame():
    atoms = label(rattled_alloy(0, (1, 1, 1)), "bulk")
    atoms.set_array("charges", np.array([0.5, -0.5, 0.25, -0.25]))
    (frame,) = kp.read_dataset(atoms)
    return frame


def edited(frame, **arrays):
    atoms = frame.atoms.copy()
    for name, values in arrays.items():
        if name in atoms.arrays:
            atoms.arrays[name][:] = values
        else:
            atoms.set_array(name, values)
    return replace(frame, atoms=atoms)


def strained(frame):
    atoms = frame.atoms.copy()
    atoms.cell[0, 0] *= 1.01
    return replace(frame, atoms=atoms)


def not_periodic(frame):
    atoms = frame.atoms.copy()
    atoms.pbc = (True, True, False)
    return replace(frame, atoms=atoms)


CHANGES = {
    "numbers": lambda f: edited(f, numbers=f.atoms.numbers[::-1] + 1),
    "positions": lambda f: edited(f, positions=f.atoms.positions + 1e-9),
    "cell": strained,
    "pbc": not_periodic,
    "charges": lambda f: edited(f, charges=-f.atoms.arrays["charges"]),
    "another array": lambda f: edited(f, spins=np.ones(4)),
    "energy": lambda f: replace(f, energy=f.energy + 1e-9),
    "no energy": lambda f: replace(f, energy=None),
    "forces": lambda f: replace(f, forces=f.forces + 1e-9),
    "no forces": lambda f: replace(f, forces=None),
    "virial": lambda f: replace(f, virial=f.virial + 1e-9),
    "no virial": lambda f: replace(f, virial=None),
    "config_type": lambda f: replace(f, config_type="other"),
    "sigmas": lambda f: replace(f, sigmas={"forces": 0.1}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_data_in_another_order_are_the_same_data(change, frame):
    one, two = frame, CHANGES[change](frame)
    assert frame_digest(one) != frame_digest(two)
    assert fingerprint(one) != fingerprint(two)
    there, back = canonical_order([one, two]), canonical_order([two, one])
    assert all(a is b for a, b in zip(there, back, strict=True))


def test_shuffled_data_give_the_same_model(small_terms, labelled, rng):
    # same structures and energies with other forces, as of two levels of theory
    again = [atoms.copy() for atoms in labelled[:6]]
    for atoms in again:
        atoms.arrays["REF_forces"] *= 1.2
    frames = [*labelled[:6], *again]
    fits = [
        kp.KernelPotential([replace(small_terms[0], n_sparse=20)], baseline=[kp.Wall()]).fit(
            [frames[k] for k in order], optimize=None, calibrate=False
        )
        for order in (range(12), rng.permutation(12))
    ]
    first, second = (fit.model.factor.matrix for fit in fits)
    np.testing.assert_array_equal(first, second)


def test_where_a_frame_came_from_plays_no_part(frame):
    other = replace(frame, name="b.xyz:3", sources={"energy": "energy"}, n_constrained=1)
    assert frame_digest(other) == frame_digest(frame)


def test_a_digest_goes_by_values_not_by_how_they_are_stored():
    x = np.array([[0.0, 1.5], [2.0, 3.0]])
    assert digest(x) == digest(np.asfortranarray(x)) == digest(x.astype(">f8"))
    assert digest(np.array([-0.0, np.nan])) == digest(np.array([0.0, -np.nan]))
    assert digest(np.arange(3, dtype=np.int32)) == digest(np.arange(3, dtype=np.int64))
    assert digest((1, 2.5)) == digest([np.int64(1), np.float64(2.5)])
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest(2**100) != digest(2**100 + 1)


def test_a_digest_keeps_apart_what_only_looks_alike():
    different = [
        (), (None,), ("None",), (0,), (0.0,), (False,), ("ab", "c"), ("a", "bc"), ("abc",),
        (("a", "b"), "c"), (np.zeros(4),), (np.zeros((2, 2)),), (np.zeros(4, dtype=int),),
        ([0.0] * 4,), ({"a": None},), (("a", None),), (Noise(0.1, 0.2, 0.3),),
        (Noise(0.1, 0.2, 0.4),), (kp.SOAPTerm(r_cut=4.0),), (kp.SOAPTerm(r_cut=5.0),),
    ]  # fmt: skip
    assert len({digest(*values) for values in different}) == len(different)
    with pytest.raises(TypeError, match="identify a set"):
        digest({1, 2})


def test_names_per_atom_are_no_obstacle():
    atoms = Atoms("OH2", np.eye(3))
    atoms.set_array("residue", np.array(["SOL", "SOL", "W"]))
    other = atoms.copy()
    other.arrays["residue"][0] = "X"
    assert digest(atoms) == digest(atoms.copy()) != digest(other)


def test_the_digest_of_a_structure_is_rounded_and_has_no_arrays(frame):
    atoms = frame.atoms.copy()
    atoms.positions += 1e-9
    atoms.set_array("spins", np.ones(4))
    assert structure_digest(atoms, decimals=5) == structure_digest(frame.atoms, decimals=5)
    atoms.pbc = (True, True, False)
    assert structure_digest(atoms, decimals=5) != structure_digest(frame.atoms, decimals=5)
