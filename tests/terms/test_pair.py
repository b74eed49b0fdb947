"""Pairs: what is never seen, and what nobody has to say of it."""

import numpy as np
import pytest
from ase import Atoms
from ase.neighborlist import neighbor_list

import kernelpot as kp
from kernelpot.baseline.reference import Reference
from kernelpot.safety.gate import BOND_ENERGY, floor
from kernelpot.safety.thresholds import SMALLEST_SHARE_OF_PRIOR
from tests.conftest import label, rattled_alloy


def dimer(symbols, d):
    return label(Atoms(symbols, [[0, 0, 0], [0, 0, d]]))


def mixed(n=14):
    """Al-Cu pairs only, and free atoms."""
    frames = [dimer("AlCu", d) for d in np.linspace(2.0, 4.4, n)]
    return [*frames, label(Atoms("Al")), label(Atoms("Cu"))]


@pytest.fixture(scope="module")
def pot():
    return kp.KernelPotential([kp.PairTerm(r_cut=5.0)], baseline=[]).fit(mixed(), optimize=None)


def test_it_is_the_gaussian_process_of_a_pair_function():
    """With every distance a sparse point: energies, forces and std's of the closed form."""
    length_scale, delta, r_cut, sigma = 0.7, 1.3, 6.5, 0.02
    at = np.linspace(2.2, 6.3, 25)
    energies = 4 * 0.4 * ((2.3 / at) ** 12 - (2.3 / at) ** 6)
    frames = []
    for r, energy in zip(at, energies, strict=True):
        atoms = Atoms("Cu2", [[0, 0, 0], [0, 0, r]])
        atoms.info["REF_energy"] = energy
        frames.append(atoms)
    term = kp.PairTerm(r_cut=r_cut, length_scale=length_scale, delta=delta, n_sparse=len(at))
    pot = kp.KernelPotential([term], baseline=[], e0={"Cu": 0.0}, sigma_energy=sigma)
    pot.fit(frames, optimize=None)

    def weight(r):
        x = np.clip(r_cut - np.asarray(r), 0, 1)
        return x**3 * (10 - 15 * x + 6 * x**2)

    def covariance(r, s):
        difference = np.subtract.outer(r, s) / length_scale
        return delta**2 * np.multiply.outer(weight(r), weight(s)) * np.exp(-(difference**2) / 2)

    noise = 2 * sigma**2  # of two atoms
    factor = np.linalg.inv(covariance(at, at) + noise * np.eye(len(at)))

    def mean(r):
        return float((covariance(np.array([r]), at) @ factor @ energies)[0])

    for r in np.linspace(2.23, 6.2, 17):
        found = pot.predict(Atoms("Cu2", [[0, 0, 0], [0, 0, r]]), return_std=True)
        assert found.energy == pytest.approx(mean(r), abs=1e-6)
        slope = (mean(r + 1e-4) - mean(r - 1e-4)) / 2e-4
        assert found.forces[1, 2] == pytest.approx(-slope, abs=1e-5)
        row = covariance(np.array([r]), at)
        variance = covariance(np.array([r]), np.array([r])) - row @ factor @ row.T
        assert found.posterior.energy_std == pytest.approx(np.sqrt(variance.item()), abs=1e-6)


def test_it_is_a_pair_potential_within_its_stated_error(labelled):
    """The curves of its pairs tell all of it: summed by the kernel, and as tables of a baseline."""
    r_cut = 5.0
    pot = kp.KernelPotential([kp.PairTerm(r_cut=r_cut)], baseline=[]).fit(labelled, optimize=None)
    e0, kernel = pot.model.e0.e0, pot.terms[0].kernel()
    stated = pot.model.local.spline_error(0)
    assert 0 < stated < 1e-7

    def by_kernel(key, r):
        (index,) = [k for k, b in enumerate(pot.model.design.blocks) if b.key == key]
        block = pot.model.design.blocks[index]
        weights = block.of_points(pot.model.factor.solve()[block.columns])
        x = np.clip(r_cut - r, 0, 1)
        return x**3 * (10 - 15 * x + 6 * x**2) * (kernel(r[:, None], block.points) @ weights)

    atoms = rattled_alloy(40, (1, 1, 1), 0.1)
    i, j, d = neighbor_list("ijd", atoms, r_cut)
    z = np.sort(atoms.numbers[np.column_stack([i, j])], axis=1)
    summed = np.zeros(len(atoms))
    for key in ((13, 13), (13, 29), (29, 29)):
        own = (z == key).all(axis=1)
        np.add.at(summed, i[own], 0.5 * by_kernel(key, d[own]))
    found = pot.predict(atoms)
    expected = summed + [e0[n] for n in atoms.numbers]
    # half of the error of each of its pairs, and rounding
    error = 0.5 * stated * np.bincount(i).max() + 1e-12
    np.testing.assert_allclose(found.energies, expected, rtol=0, atol=error)

    # a table of the energies of dimers; its own error is that of the cubic spline between nodes
    nodes = np.arange(1.8, r_cut + 0.501, 0.01)
    middle = nodes[10:-10] + 0.005
    tables, of_table = {}, {}
    for key in ((13, 13), (13, 29), (29, 29)):

        def energy(r, key=key):
            dimers = [Atoms(key, [[0, 0, 0], [0, 0, x]]) for x in r]
            return np.array([p.energy for p in pot.predict_many(dimers)]) - sum(e0[n] for n in key)

        tables[key] = kp.Tabulated(r=nodes, energy=energy(nodes))
        value, slope, _ = tables[key].derivatives(middle)
        between = energy(middle + 1e-5), energy(middle - 1e-5)
        of_table[key] = (
            np.abs(value - energy(middle)).max(),
            np.abs(slope - (between[0] - between[1]) / 2e-5).max(),
        )
    symbols = {("Al", "Al"): (13, 13), ("Al", "Cu"): (13, 29), ("Cu", "Cu"): (29, 29)}
    pairs = {names: tables[key] for names, key in symbols.items()}
    baseline = kp.PairBaseline(pairs, r_cut=r_cut + 0.5, r_on=r_cut)
    energy_of_tables, forces, _ = Reference(pot.model.e0, [baseline]).labels(atoms)
    by_energy, by_slope = np.max(list(of_table.values()), axis=0)
    assert by_energy < 1e-6
    assert by_slope < 1e-4
    n = np.bincount(i).max()
    assert abs(found.energy - energy_of_tables) < 0.5 * len(i) * by_energy
    np.testing.assert_allclose(found.forces, forces, rtol=0, atol=n * by_slope)


def test_a_pair_of_species_never_seen_is_as_uncertain_as_the_prior(pot):
    r = 2.4
    unseen = Atoms("Al2", [[0, 0, 0], [0, 0, r]])
    found = pot.predict(unseen, return_std=True)
    assert found.energy == pytest.approx(2 * pot.model.e0.e0[13], abs=1e-12)
    # both directions of the pair have half of its energy: all of one, of weight 1 here
    delta = pot.terms[0].delta
    posterior = found.posterior
    assert posterior.energy_std == pytest.approx(delta, rel=1e-12)
    np.testing.assert_allclose(posterior.energies_std, 0.5 * delta, rtol=1e-12)
    np.testing.assert_allclose(found.spilling, 1.0)
    assert posterior.forces_std[0, 2] == pytest.approx(delta / pot.terms[0].length_scale, rel=1e-10)
    # nothing is open, as no sparse point is like it: the excess of novelty is all there is
    known = pot.model.calibration.beyond[13]
    excess = 2 * (1.0 - known.spilling) * (0.5 * delta) ** 2
    assert found.energy_std == pytest.approx(np.sqrt(excess), rel=1e-6)
    assert found.forces_std[0, 2] == pytest.approx(known.slope * np.sqrt(0.5 * excess), rel=1e-6)
    known_pair = Atoms("AlCu", [[0, 0, 0], [0, 0, r]])
    assert pot.predict(known_pair, return_std=True).energy_std < 0.05 * delta
    # nothing is known of it: the whole prior std counts, but for the onset
    gated = pot.predict(unseen, gate=True)
    aluminium = pot.model.species.index(13)
    known = pot.model.safety.std_known[aluminium]
    beyond, width = 0.5 * delta - known, pot.model.safety.width[aluminium]
    np.testing.assert_allclose(gated.std_bound, 0.5 * delta, rtol=1e-12)
    kappa = 3.0 * pot.model.safety.amplitude
    bound = BOND_ENERGY * np.log1p(kappa * beyond**3 / (beyond + width) ** 2 / BOND_ENERGY)
    lift = floor(gated.std_bound, np.zeros(2), known, width, pot.model.safety.average[aluminium])[0]
    np.testing.assert_allclose(gated.penalty, bound + lift, rtol=1e-10)
    assert np.all(pot.predict(known_pair, gate=True).penalty == 0)
    assert "Al-Al 0 (rank 0)" in pot.summary()


def test_an_update_adds_points_of_new_pairs(pot, tmp_path):
    pot.save(tmp_path / "model.kpot")
    again = kp.load(tmp_path / "model.kpot")
    new = [dimer("Al2", d) for d in np.linspace(2.3, 4.2, 6)]
    chosen = kp.select_frames(again, [*mixed(6)[:4], *new], 2)
    assert chosen.indices[0] >= 4  # what is wholly unknown comes first
    again.update(new, add_sparse=5, data=mixed())
    counts = {b.key: len(b.points) for b in again.model.design.blocks}
    assert counts[13, 13] == 5
    assert again.predict(new[2]).energy == pytest.approx(new[2].info["REF_energy"], abs=0.05)


def test_given_points_that_leave_out_a_pair_are_said_to():
    given = [[(atoms, 0) for atoms in mixed()[:8]]]
    pot = kp.KernelPotential([kp.PairTerm(r_cut=5.0)], baseline=[], sparse_points=given)
    pot.fit(mixed(), optimize=None)
    assert "no sparse points of Al-Al, Cu-Cu were given" in pot.summary()


def test_data_without_a_pair_are_refused_with_the_cutoff():
    far = [dimer("Cu2", d) for d in (5.0, 5.5, 6.0)]
    with pytest.raises(ValueError, match=r"no environment of any term \(r_cut 3 Å\)"):
        kp.KernelPotential([kp.PairTerm(r_cut=3.0)], baseline=[]).fit(far)


def test_the_default_baseline_is_chosen_beside_a_species_without_neighbors():
    frames = [label(rattled_alloy(s, (1, 1, 1), 0.15)) for s in range(24)]
    for atoms in frames:
        atoms.numbers[:] = 29
    frames.append(label(Atoms("Al")))
    terms = [kp.SOAPTerm(r_cut=4.0, n_max=3, l_max=2, n_sparse=40), kp.PairTerm(r_cut=5.0)]
    pot = kp.KernelPotential(terms).fit(frames, optimize=None)
    assert "baseline:" in pot.summary()
    assert "5-fold" in pot.summary()


def test_most_atoms_without_a_pair_do_not_switch_the_net_off():
    frames = []
    for s in range(12):
        rng = np.random.default_rng(s)
        atoms = Atoms("Cu5", [[0, 0, 0], [0, 0, 2.5], [20, 0, 0], [0, 20, 0], [0, 0, 30]])
        atoms.positions[1, 2] += 0.3 * rng.normal()
        frames.append(label(atoms))
    pot = kp.KernelPotential([kp.PairTerm(r_cut=5.0)], baseline=[]).fit(frames, optimize=None)
    known = pot.model.safety.std_known
    assert np.isfinite(known).all()
    # not that of atoms without an environment, whose std is none
    assert np.all(known >= SMALLEST_SHARE_OF_PRIOR * 0.5 * pot.terms[0].delta)
    stretched = Atoms("Cu2", [[0, 0, 0], [0, 0, 4.2]])
    assert pot.predict(stretched, gate=True).penalty.min() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"r_cut": -1.0}, "`r_cut` must be positive"),
        ({"r_cut": 4.0, "cutoff_width": 5.0}, r"`cutoff_width` must be at most r_cut \(4 Å\)"),
        ({"r_cut": 4.0, "length_scale": 0.0}, "`length_scale` must be positive"),
        ({"r_cut": 4.0, "n_sparse": 2.5}, "`n_sparse` must be a positive integer"),
        ({"r_cut": 4.0, "sparse_method": "best"}, "`sparse_method` must be one of"),
    ],
)
def test_wrong_parameters_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        kp.PairTerm(**arguments)
