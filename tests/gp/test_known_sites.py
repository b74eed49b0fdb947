"""How well an environment is known, given the local energies of the data: dense oracles."""

import copy

import numpy as np
import pytest
from ase import Atoms

import kernelpot as kp
from kernelpot.data.system import System
from kernelpot.fit.solution import solution_of
from kernelpot.gp.known_sites import (
    SIGMA_SITE,
    left_out_std,
    some_structures,
    with_known_sites,
)
from kernelpot.gp.local import local_features
from kernelpot.safety.thresholds import (
    ENOUGH_ATOMS,
    ENOUGH_STRUCTURES,
    LARGEST_OF_FEW,
    LARGEST_SHARE_OF_PRIOR,
    MARGIN,
    ODD_STRUCTURES,
    QUANTILE,
    gate_std,
    learn_safety_net,
    margin_of,
)
from tests.conftest import label, rattled_alloy


@pytest.fixture(scope="module")
def pairs(labelled):
    """A potential whose local energies have many environments, of varying weight."""
    terms = [kp.PairTerm(r_cut=5.0, n_sparse=20), kp.SOAPTerm(r_cut=4.0, n_max=3, l_max=2)]
    terms[1] = terms[1].changed(n_sparse=30)
    return kp.KernelPotential(terms, baseline=[kp.Wall()]).fit(
        labelled, optimize=None, calibrate=False
    )


@pytest.fixture(params=["potential", "pairs"])
def pot(request):
    return request.getfixturevalue(request.param)


def bare(frames):
    return [Atoms(f.numbers, f.positions, cell=f.cell, pbc=f.pbc) for f in frames]


def features(design, atoms):
    """Whitened rows of local energies in all columns, and prior variances."""
    phi, prior = local_features(design, System.of([atoms], design.r_cut))
    return np.pad(phi, ((0, 0), (0, design.n_columns - phi.shape[1]))), prior


def information(factor):
    """Posterior precision of the whitened weights."""
    return factor.R.T @ factor.R


def of_sites(design, structures):
    """What known local energies add to the posterior precision."""
    phi = np.concatenate([features(design, atoms)[0] for atoms in structures])
    return phi.T @ phi / SIGMA_SITE**2


def assert_close(found, expected, rtol=1e-9):
    np.testing.assert_allclose(found, expected, rtol=0, atol=rtol * np.abs(expected).max())


def test_features_are_those_of_the_local_energies(pot):
    model = pot.model
    atoms = rattled_alloy(40, (1, 1, 1), 0.3)
    phi, prior = features(model.design, atoms)
    system = model.system(atoms)
    energies = model.local.evaluate(system, gradient=False).energies
    np.testing.assert_allclose(phi @ model.factor.solve(), energies, atol=1e-7)
    np.testing.assert_allclose(prior, model.local.prior(system), rtol=1e-12)


def test_known_sites_add_their_rows_to_the_labels(pot, labelled):
    model = pot.model
    some = bare(labelled[::3])
    before = model.factor.matrix.copy()
    found = with_known_sites(model.factor, model.design, some)
    assert_close(information(found), information(model.factor) + of_sites(model.design, some))
    assert found.n_rows == model.factor.n_rows + sum(map(len, some))
    np.testing.assert_array_equal(model.factor.matrix, before)


def test_a_fit_takes_all_its_structures_as_known(pot, labelled):
    model = pot.model
    expected = information(model.factor) + of_sites(model.design, bare(labelled))
    assert_close(information(model.known), expected)


def test_the_std_is_that_of_the_dense_posterior(pot, labelled):
    model = pot.model
    covariance = np.linalg.inv(information(model.factor) + of_sites(model.design, bare(labelled)))
    for amplitude in (0.05, 0.2, 0.5):
        atoms = rattled_alloy(41, (2, 1, 1), amplitude)
        phi, prior = features(model.design, atoms)
        novelty = prior - np.einsum("nm,nm->n", phi, phi)
        expected = np.sqrt(novelty + np.einsum("nm,mk,nk->n", phi, covariance, phi))
        found = gate_std(model.local, model.system(atoms))
        np.testing.assert_allclose(found**2, expected**2, atol=1e-6 * prior.max())
        # less than labels alone tell of local energies, never less than the points span
        assert np.all(found <= pot.model.posterior_local_std(atoms) * (1 + 1e-9))


def test_sites_left_out_are_those_of_a_posterior_without_them(pot, labelled):
    model = pot.model
    structures = bare(labelled)
    found = left_out_std(model.known, model.design, structures)
    whole = information(model.factor) + of_sites(model.design, structures)
    for atoms, std in zip(structures, found, strict=True):
        phi, prior = features(model.design, atoms)
        covariance = np.linalg.inv(whole - phi.T @ phi / SIGMA_SITE**2)
        novelty = prior - np.einsum("nm,nm->n", phi, phi)
        variance = novelty + np.einsum("nm,mk,nk->n", phi, covariance, phi)
        np.testing.assert_allclose(std, np.sqrt(np.minimum(variance, prior)), rtol=1e-5)
        assert np.all(std >= gate_std(model.local, model.system(atoms)) * (1 - 1e-6))


def test_left_out_alone_a_site_has_what_labels_leave_at_most_the_prior(potential):
    """Were nothing but one structure known, leaving it out leaves the labels."""
    model = potential.model
    atoms = rattled_alloy(42, (1, 1, 1), 0.5)
    known = with_known_sites(model.factor, model.design, [atoms])
    (std,) = left_out_std(known, model.design, [atoms])
    np.testing.assert_allclose(std, potential.model.posterior_local_std(atoms), rtol=1e-5)
    # without labels either, what is left is the prior
    empty = with_known_sites(type(known)(model.design.n_columns), model.design, [atoms])
    (std,) = left_out_std(empty, model.design, [atoms])
    prior = np.sqrt(model.local.prior(model.system(atoms)))
    np.testing.assert_allclose(std, prior, rtol=1e-4)
    assert np.all(std <= prior)


def test_atoms_of_the_data_are_known_to_a_site(pot, labelled):
    model = pot.model
    for atoms in bare(labelled):
        phi, prior = features(model.design, atoms)
        novelty = prior - np.einsum("nm,nm->n", phi, phi)
        variance = gate_std(model.local, model.system(atoms)) ** 2
        assert np.all(variance <= SIGMA_SITE**2 + novelty + 1e-8)


def test_what_counts_as_known_is_a_quantile_of_the_sites_left_out(potential, labelled):
    model = potential.model
    structures = bare(labelled)
    stds = np.concatenate(left_out_std(model.known, model.design, structures))
    numbers = np.concatenate([atoms.numbers for atoms in structures])
    prior = np.sqrt(sum(term.delta**2 for term in potential.terms))
    for z, known in zip(model.species, model.safety.std_known, strict=True):
        of_few = 1.0 - ODD_STRUCTURES / len(structures)
        quantile = np.quantile(stds[numbers == z], of_few)
        assert quantile < LARGEST_SHARE_OF_PRIOR * prior
        assert known == pytest.approx(quantile, rel=1e-9)


def test_enough_atoms_that_were_held_out_tell_what_counts_as_known(potential):
    model = potential.model
    unseen = [rattled_alloy(100 + seed, (2, 2, 2), 0.1) for seed in range(40)]
    structures = [rattled_alloy(seed, (1, 1, 1)) for seed in range(6)]
    net = learn_safety_net(model.local, model.factor, model.known, structures, unseen, {})
    numbers = np.concatenate([atoms.numbers for atoms in unseen])
    stds = np.concatenate([gate_std(model.local, model.system(atoms)) for atoms in unseen])
    for z, number in enumerate(model.species):
        own = stds[numbers == number]
        assert len(own) >= ENOUGH_ATOMS / 2
        if len(own) >= ENOUGH_ATOMS:
            assert net.std_of_data[z] == pytest.approx(np.quantile(own, QUANTILE))
            assert net.std_known[z] == pytest.approx(margin_of(len(own)) * net.std_of_data[z])
            assert "held out" in net.note
    assert np.sum(numbers == 29) >= ENOUGH_ATOMS
    # too few: they count beside those whose structures are left out in turn
    few = learn_safety_net(model.local, model.factor, model.known, structures, unseen[:1], {})
    of_data = [gate_std(model.local, model.system(atoms)) for atoms in structures]
    numbers = np.concatenate([atoms.numbers for atoms in structures])
    for z, number in enumerate(model.species):
        own = np.concatenate(of_data)[numbers == number].max()
        most = max(LARGEST_OF_FEW / few.amplitude, own)
        assert few.std_of_data[z] > most  # they differ
        assert few.std_known[z] == pytest.approx(most)


def test_few_atoms_held_out_tell_less_of_how_far_others_reach():
    assert margin_of(100) == pytest.approx(MARGIN**2)
    assert margin_of(1_000) == margin_of(100_000) == pytest.approx(MARGIN)


def test_structures_left_out_in_turn_tell_what_counts_as_known_where_they_are_many(potential):
    """However much they differ."""
    model = potential.model
    structures = [rattled_alloy(seed, (1, 1, 1), 0.15) for seed in range(ENOUGH_STRUCTURES)]
    known = with_known_sites(model.factor, model.design, structures)
    local, _ = solution_of(model.factor, known, model.design)
    many = learn_safety_net(local, model.factor, known, structures, [], {})
    few = learn_safety_net(local, model.factor, known, structures[1:], [], {})
    assert "differ" not in many.note
    assert "differ" in few.note
    np.testing.assert_allclose(many.std_known, many.std_of_data)
    assert np.all(few.std_known <= few.std_of_data)


# ---- updates and files ---------------------------------------------------------------------

CLOSER = pytest.mark.filterwarnings("ignore:.*an update leaves in place")


@CLOSER
def test_an_update_knows_its_sites_as_a_fit_to_all_would(pot, labelled):
    new = [label(rattled_alloy(60 + s, (1, 1, 1), 0.25)) for s in range(3)]
    updated = updated_with(pot, new)
    before, model = pot.model, updated.model
    everything = bare([*labelled, *new])
    expected = with_known_sites(model.factor, model.design, everything)
    assert_close(information(model.known), information(expected))
    local, _ = solution_of(model.factor, expected, model.design)
    atoms = rattled_alloy(60, (1, 1, 1), 0.25)
    system = model.system(atoms)
    np.testing.assert_allclose(gate_std(model.local, system), gate_std(local, system), rtol=1e-6)
    # the sites learned are known now, what counts as known stays
    assert np.all(gate_std(model.local, system) < gate_std(before.local, system))
    np.testing.assert_array_equal(model.safety.std_known, before.safety.std_known)
    assert np.all(model.safety.contact >= before.safety.contact)


@CLOSER
def test_an_update_with_new_points_knows_the_sites_of_all_data(potential, labelled):
    new = label(rattled_alloy(60, (1, 1, 1), 0.25))
    data = kp.read_dataset(labelled)
    updated = updated_with(potential, [new], add_sparse=4, data=data)
    model = updated.model
    assert model.design.n_sparse > potential.model.design.n_sparse
    expected = with_known_sites(model.factor, model.design, bare([*labelled, new]))
    assert_close(information(model.known), information(expected))


@CLOSER
@pytest.mark.parametrize("number", [13, 29])
def test_an_update_need_not_hold_all_species(potential, number):
    atoms = rattled_alloy(3, (1, 1, 1), 0.1)
    atoms.numbers[:] = number
    updated = updated_with(potential, [label(atoms)])
    other = 1 - potential.model.species.index(number)
    before, after = potential.model.safety, updated.model.safety
    assert after.contact[other] == before.contact[other]
    phi, prior = features(updated.model.design, atoms)
    novelty = prior - np.einsum("nm,nm->n", phi, phi)
    one, two = (gate_std(p.model.local, p.model.system(atoms)) for p in (potential, updated))
    assert np.all(two < one)
    assert np.all(two**2 <= novelty + SIGMA_SITE**2 + 1e-8)


def updated_with(pot, new, **options):
    """A potential of its own that has learned more."""
    return copy.copy(pot).update(new, **options)


@CLOSER
def test_known_sites_come_back_from_the_file_to_the_bit(potential, tmp_path):
    potential.save(tmp_path / "model.kpot")
    loaded = kp.load(tmp_path / "model.kpot").model
    model = potential.model
    np.testing.assert_array_equal(loaded.known.matrix, model.known.matrix)
    for z, variance in model.local.gauge_fixed.items():
        np.testing.assert_array_equal(loaded.local.gauge_fixed[z].reduction, variance.reduction)
        np.testing.assert_array_equal(loaded.local.gauge_fixed[z].order, variance.order)
    # and are not those of the labels alone
    assert np.abs(loaded.known.matrix - loaded.factor.matrix).max() > 1.0
    new = [label(rattled_alloy(61, (1, 1, 1), 0.25))]
    one, two = (updated_with(p, new) for p in (potential, kp.load(tmp_path / "model.kpot")))
    np.testing.assert_array_equal(one.model.known.matrix, two.model.known.matrix)


# ---- of a large data set some structures ---------------------------------------------------


def test_of_few_structures_all_are_taken_as_known(labelled):
    assert some_structures(bare(labelled), (13, 29)) == list(range(len(labelled)))


def test_of_many_structures_some_of_every_species_are_taken(monkeypatch):
    monkeypatch.setattr("kernelpot.gp.known_sites.MAX_SITES", 10)
    frequent = [Atoms("Cu2", [[0, 0, 0], [0, 0, 2.5]])] * 50
    rare = [Atoms("CuAl", [[0, 0, 0], [0, 0, 2.5]])] * 3
    structures = [*frequent[:25], *rare, *frequent[25:]]
    chosen = some_structures(structures, (13, 29))
    assert chosen == sorted(set(chosen))
    counts = {z: sum((structures[i].numbers == z).sum() for i in chosen) for z in (13, 29)}
    assert counts[13] == 3  # all there are
    assert 10 <= counts[29] <= 10 + 2 * 3
    assert {25, 26, 27} < set(chosen)
    # none of a species that there is not
    assert some_structures(frequent, (13, 29)) == some_structures(frequent, (29,))
    assert some_structures([], (13,)) == []
