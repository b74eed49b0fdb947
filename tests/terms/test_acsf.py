"""Symmetry functions against dscribe's, and the parameters that data choose."""

import numpy as np
import pytest
from ase import Atoms
from dscribe.descriptors import ACSF

import kernelpot as kp
from kernelpot.data.system import System
from tests.conftest import label, rattled_alloy, structures

# Integer zeta: dscribe takes other powers of numbers that rounding makes negative where an atom
# is just between two images of another.
ALL = {
    "g2": [[1.0, 2.0], [0.3, 0.0], [4.0, 3.1]],
    "g3": [[0.7], [2.3]],
    "g4": [[0.01, 1.0, -1.0], [0.05, 3.0, 1.0], [0.002, 4.0, 1.0]],
    "g5": [[0.03, 2.0, 1.0], [0.1, 16.0, -1.0]],
}


def ours(atoms, species, r_cut, parameters):
    term = kp.ACSFTerm(r_cut=r_cut, **parameters)
    system = System.of([atoms], r_cut + 0.7)  # of a list that reaches farther
    return term.descriptor(species).symmetry_functions(system, slice(0, len(atoms)))


@pytest.mark.parametrize("name", ["crystal", "slab", "cluster", "tiny", "left_handed"])
@pytest.mark.parametrize("species", [(13, 29), (8, 13, 29)])
def test_values_are_those_of_dscribe(name, species):
    atoms = structures()[name]
    oracle = ACSF(
        r_cut=4.3,
        g2_params=ALL["g2"],
        g3_params=[row[0] for row in ALL["g3"]],
        g4_params=ALL["g4"],
        g5_params=ALL["g5"],
        species=species,
        periodic=bool(atoms.pbc.any()),
    )
    found = ours(atoms, species, 4.3, ALL)
    np.testing.assert_allclose(found, oracle.create(atoms), atol=1e-9)
    assert np.abs(found).max() > 0.1


@pytest.mark.parametrize("kind", list(ALL))
def test_each_kind_alone_is_that_of_dscribe(kind):
    atoms = structures()["cluster"]
    rows = [[0.03, 1.5, 1.0], [0.01, 2.7, -1.0]] if kind in ("g4", "g5") else ALL[kind]
    parameters = {name: rows if name == kind else () for name in ALL}
    given = [row[0] for row in rows] if kind == "g3" else rows
    oracle = ACSF(r_cut=5.0, species=(13, 29), **{f"{kind}_params": given})
    np.testing.assert_allclose(
        ours(atoms, (13, 29), 5.0, parameters), oracle.create(atoms), atol=1e-9
    )


@pytest.mark.parametrize("angle", [0.0, 1e-9, np.pi])
def test_collinear_triplets_are_smooth(angle):
    """An angle of 0 or pi: no inverse cosine, so nothing divides by its sine."""
    d = np.array([np.sin(angle), 0.0, np.cos(angle)])
    atoms = Atoms("Al3", [[0, 0, 0], [0, 0, 2.0], 2.9 * d])
    descriptor = kp.ACSFTerm(r_cut=4.0, g4=ALL["g4"], g5=ALL["g5"]).descriptor((13,))

    def values(positions):
        moved = Atoms("Al3", positions)
        return descriptor.environments(System.of([moved], 4.0), slice(0, 3)).x

    system = System.of([atoms], 4.0)
    found = descriptor.environments(system, slice(0, 3))
    tangents = descriptor.tangents(system, found)
    h = 1e-5
    for atom in range(3):
        members, by_x, _ = tangents.moved_by(atom)
        for c in range(3):
            step = np.zeros((3, 3))
            step[atom, c] = h
            slope = (values(atoms.positions + step) - values(atoms.positions - step)) / (2 * h)
            whole = np.zeros_like(slope)
            whole[members] = by_x[:, c]
            np.testing.assert_allclose(whole, slope, atol=1e-8)


def test_parameters_come_from_the_data(tmp_path):
    frames = [label(rattled_alloy(s, (1, 1, 1), 0.15)) for s in range(12)]
    closest = min(System.of([a], 5.0).distances.min() for a in frames)
    term = kp.ACSFTerm(r_cut=5.0, n_radial=6, n_angular=1, n_sparse=40)
    constants, notes = term.learned((13, 29), frames)
    assert constants["g2"][0, 1] == pytest.approx(closest)
    assert constants["g2"].shape == (6, 2)
    assert constants["g4"].shape == (8, 3)
    assert "38 symmetry functions of an atom (6 G2, 0 G3" in notes[0]
    descriptor = term.descriptor((13, 29), constants)
    system = System.of(frames, 5.0)
    found = descriptor.environments(system, slice(0, system.n_atoms))
    for k in range(2):  # spreads of one, but for those that hardly vary, shared by 38
        spread = found.x[found.key == k].std(axis=0) * np.sqrt(38)
        assert spread.max() == pytest.approx(1.0)
        assert np.median(spread) > 0.3
    pot = kp.KernelPotential([term], baseline=[]).fit(frames, optimize=None)
    assert "symmetry functions" in pot.summary()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"r_cut": 0.0}, "`r_cut` must be positive"),
        ({"r_cut": 4.0, "n_radial": 1.5}, "`n_radial` must be an integer, at least 2"),
        ({"r_cut": 4.0, "g2": ((1.0,),)}, "`g2` must be a sequence of rows of 2 numbers"),
        ({"r_cut": 4.0, "g2": (1.0, 2.0)}, "`g2` must be a sequence of rows of 2 numbers"),
        ({"r_cut": 4.0, "g4": ((1.0, 0.5, 1.0),)}, "`g4` must be of zeta at least 1"),
        ({"r_cut": 4.0, "g5": ((1.0, 1.0, 0.5),)}, "`g5` must be of lambda -1 or 1"),
        ({"r_cut": 4.0, "function": "cosine"}, "`function` must be one of gaussian, matern52"),
    ],
)
def test_wrong_parameters_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        kp.ACSFTerm(**arguments)
