"""The rule of defaults: scales with the material, and is not fooled by hydrogen or vacuum."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from kernelpot import PolynomialSOAP, SOAPTerm, read_dataset
from kernelpot.baseline.free_atoms import atomic_energies
from kernelpot.fit import defaults


def dataset(*structures):
    frames = []
    for k, atoms in enumerate(structures):
        copy = atoms.copy()
        copy.rattle(0.01, seed=k)
        copy.info["REF_energy"] = -3.0 * len(copy)
        copy.arrays["REF_forces"] = np.full((len(copy), 3), 0.5)
        frames.append(copy)
    return read_dataset(frames)


def terms(data, **options):
    return defaults.terms(data, atomic_energies(data), **options)


@pytest.mark.parametrize("scale", [1.0, 1.4])
def test_cutoffs_scale_with_the_crystal(scale):
    data = dataset(bulk("Cu", a=3.6 * scale, cubic=True))
    length, reason = defaults.length_scale(data)
    assert length == pytest.approx(3.6 * scale / 4 ** (1 / 3))
    assert "volume per atom" in reason
    chosen, notes = terms(data)
    ratios = [t.r_cut / length for t in chosen]
    np.testing.assert_allclose(ratios, [s.cutoff for s in defaults.ELEMENT], rtol=1e-3)
    assert any("cutoffs and widths scale" in n for n in notes)


def test_a_molecule_in_a_periodic_box_is_a_molecule():
    free = molecule("CH3CH2OH")
    boxed = free.copy()
    boxed.set_cell([15.0, 15.0, 15.0])
    boxed.pbc = True
    one, _ = defaults.length_scale(dataset(free))
    two, _ = defaults.length_scale(dataset(boxed))
    assert two == pytest.approx(one, rel=1e-9)
    assert 2.0 < one < 2.4


@pytest.mark.parametrize("name", ["H2O", "H2", "CH4", "C6H6"])
def test_hydrogen_does_not_shorten_the_range(name):
    chosen, _ = terms(dataset(molecule(name)))
    assert chosen[-1].r_cut >= defaults.MINIMUM_CUTOFF
    assert chosen[0].r_cut > 2.0


def test_molecules_have_one_whole_form():
    data = dataset(molecule("CH3CH2OH"), Atoms("O"))
    length, _ = defaults.length_scale(data)
    (term,), notes = terms(data, n_sparse=70)
    assert isinstance(term, PolynomialSOAP)
    assert term.full
    assert (term.degree, term.n_sparse, term.n_directions) == (2, 70, 200)
    assert term.r_cut == pytest.approx(defaults.MOLECULE_CUTOFF * length, abs=1e-3)
    assert any("one whole quadratic form" in note for note in notes)


def test_presets_of_molecules_have_more_features_and_columns():
    data = dataset(molecule("CH3CH2OH"))
    found = [(terms(data, preset=name)[0][0], n) for name, n in defaults.N_SPARSE.items()]
    assert [t.n_directions for t, _ in found] == [100, 200, 300]
    assert [t.default_n_sparse(n, 3) for t, n in found] == [600, 2000, 3000]
    features = [t.soap.descriptor(data.species).n_features for t, _ in found]
    assert features[0] == features[1] < features[2]


@pytest.mark.parametrize("pbc", [True, [True, True, False], [False, False, True]])
def test_whatever_is_periodic_has_sparse_points(pbc):
    """Slabs, wires and boxes too, also where molecules are among the data."""
    periodic = bulk("Cu", cubic=True)
    periodic.pbc = pbc
    for data in (dataset(periodic), dataset(periodic, molecule("CH3CH2OH"))):
        chosen, _ = terms(data)
        assert all(isinstance(term, SOAPTerm) for term in chosen)
        assert len(chosen) == (2 if len(data.species) == 1 else 3)


def test_an_isolated_atom_alone_still_gives_terms():
    data = dataset(Atoms("Ar"), Atoms("Ar2", [[0, 0, 0], [0, 0, 3.8]]))
    chosen, _ = terms(data)
    assert all(1.0 < t.r_cut < 12.0 for t in chosen)


def test_delta_follows_the_binding_energy():
    free = Atoms("Cu")
    free.info["REF_energy"] = -1.0
    bound = bulk("Cu", cubic=True)
    bound.info["REF_energy"] = 4 * -5.5
    bound.arrays["REF_forces"] = np.full((4, 3), 0.1)
    data = read_dataset([free, bound])
    assert terms(data)[0][0].delta == pytest.approx(4.5, rel=1e-3)
    assert terms(dataset(bulk("Cu", cubic=True)))[0][0].delta == 1.0


def test_densities_are_contracted_whatever_the_number_of_species():
    alloy = bulk("Cu", cubic=True).repeat((2, 1, 1))
    (term, *_), _ = terms(dataset(alloy))
    assert (term.contraction, term.n_channels) == (defaults.CONTRACTION, defaults.MAX_CHANNELS)
    alloy.numbers[:5] = [28, 27, 26, 25, 24]
    (term, *_), _ = terms(dataset(alloy))
    assert term.most_features(6) == 7 * 12 * 13 // 2 + 1
    molecule = Atoms("CHO", positions=np.eye(3))
    (term,), _ = terms(dataset(molecule))
    assert term.contraction == defaults.CONTRACTION


def test_sigmas_follow_the_forces():
    data = dataset(bulk("Cu", cubic=True))
    sigmas, notes = defaults.sigmas(data)
    assert sigmas["sigma_forces"] == pytest.approx(0.5 * defaults.FORCES_SHARE)
    assert len(notes) == 3
    still = bulk("Cu", cubic=True)
    still.info["REF_energy"] = -1.0
    still.arrays["REF_forces"] = np.full((4, 3), 1e-6)  # rounding of a perfect crystal
    assert defaults.sigmas(read_dataset(still))[0]["sigma_forces"] == 0.05
    quiet = bulk("Cu", cubic=True)
    quiet.info["REF_energy"] = -1.0
    assert defaults.sigmas(read_dataset(quiet))[0]["sigma_forces"] == 0.05
