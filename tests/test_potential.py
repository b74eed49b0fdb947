"""The whole model: exact limits, physics, invariances, promises."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from sklearn.exceptions import NotFittedError
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import DotProduct, Exponentiation

import kernelpot as kp
from kernelpot.gp import sharing
from kernelpot.terms.dot_product import normalize
from kernelpot.testing import numerical_forces, numerical_stress
from tests.conftest import label, rattled_alloy, structures


def without(frames, *names):
    result = []
    for frame in frames:
        copy = frame.copy()
        for name in names:
            copy.info.pop(name, None)
            copy.arrays.pop(name, None)
        result.append(copy)
    return result


# ---- exact limits ------------------------------------------------------------------


def test_energies_only_with_all_environments_sparse_is_scikit_learns_exact_gp():
    # One atom per structure: a total energy is one local energy, so the exact GP over
    # structures has the kernel between environments.
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(12):
        atoms = bulk("Al", a=3.9 + 0.3 * rng.random())
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.03 * rng.normal(size=(3, 3))))
        atoms.set_scaled_positions([[0, 0, 0]])
        frames.append(label(atoms))
    frames = without(frames, "REF_forces", "REF_virial")
    train, test = frames[:9], frames[9:]
    term = kp.SOAPTerm(r_cut=4.5, n_max=3, l_max=2, zeta=2, n_sparse=9)
    pot = kp.KernelPotential([term], e0={"Al": 1.0}, sigma_energy=0.01, baseline=[])
    # a given e0 adds the free atom as a tenth observation; use no such row here
    pot = kp.KernelPotential([term], e0="least_squares", sigma_energy=0.01, baseline=[])
    pot.fit(train)
    soap = kp.SOAP(term, (13,))
    X = normalize(np.concatenate([soap.create(a) for a in train]))[0]
    X_test = normalize(np.concatenate([soap.create(a) for a in test]))[0]
    y = np.array([a.info["REF_energy"] for a in train]) - pot.fitted_.e0.e0[13]
    kernel = Exponentiation(DotProduct(sigma_0=0.0, sigma_0_bounds="fixed"), 2)
    exact = GaussianProcessRegressor(kernel, alpha=0.01**2, optimizer=None).fit(X, y)
    mean, std = exact.predict(X_test, return_std=True)
    found = [pot.predict(a, return_std=True) for a in test]
    np.testing.assert_allclose([p.energy - pot.fitted_.e0.e0[13] for p in found], mean, atol=1e-6)
    np.testing.assert_allclose([p.energies_std[0] for p in found], std, atol=1e-6)


@pytest.mark.parametrize("zeta", [1, 2])
def test_with_forces_a_sparse_set_that_spans_the_features_is_the_exact_gp(zeta):
    # The kernel is a dot product of explicit features (p^ for zeta = 1, p^ p^T for 2), so
    # the exact GP is known in closed form. Labels are differentiated numerically.
    frames = [label(rattled_alloy(s, (1, 1, 1), 0.2)) for s in range(7)]
    for frame in frames:
        frame.numbers[:] = 13
    frames = without([label(f) for f in frames], "REF_virial")
    term = kp.SOAPTerm(r_cut=4.2, n_max=2, l_max=1, zeta=zeta, n_sparse=24)
    pot = kp.KernelPotential(
        [term], sigma_energy=0.05, sigma_forces=0.2, baseline=[], e0="least_squares"
    ).fit(frames[:6])
    soap = kp.SOAP(term, (13,))

    def explicit(atoms):
        unit, _ = normalize(soap.create(atoms))
        if zeta == 2:
            unit = np.einsum("ef,eg->efg", unit, unit).reshape(len(unit), -1)
        return unit.sum(axis=0)

    rows, y, sigma = [], [], []
    step = 2e-4
    for atoms in frames[:6]:
        rows.append(explicit(atoms))
        y.append(atoms.info["REF_energy"] - len(atoms) * pot.fitted_.e0.e0[13])
        sigma.append(0.05 * np.sqrt(len(atoms)))
        for i in range(len(atoms)):
            for axis in range(3):
                sides = []
                for sign in (1, -1):
                    moved = atoms.copy()
                    moved.positions[i, axis] += sign * step
                    sides.append(explicit(moved))
                rows.append(-(sides[0] - sides[1]) / (2 * step))
                y.append(atoms.arrays["REF_forces"][i, axis])
                sigma.append(0.2)
    A, y, sigma = np.array(rows), np.array(y), np.array(sigma)
    K = A @ A.T + np.diag(sigma**2)
    test = frames[6]
    expected = explicit(test) @ A.T @ np.linalg.solve(K, y) + len(test) * pot.fitted_.e0.e0[13]
    assert pot.model.design.blocks[0].T.shape[1] <= (6 if zeta == 1 else 21)
    assert pot.predict(test).energy == pytest.approx(expected, abs=2e-4)


def test_it_learns_a_smooth_potential(labelled, potential):
    errors = kp.evaluate(potential, [label(rattled_alloy(900 + s, (1, 1, 1))) for s in range(6)])
    forces = np.concatenate([f.arrays["REF_forces"].ravel() for f in labelled])
    assert errors["forces_rmse_ev_per_ang"] < 0.35 * forces.std()
    assert errors["energy_mae_mev_per_atom"] < 30


# ---- derivatives and invariances ---------------------------------------------------


@pytest.mark.parametrize("name", list(structures()))
def test_forces_and_stress_are_derivatives_of_the_energy(potential, name):
    atoms = structures()[name]
    found = potential.predict(atoms)
    np.testing.assert_allclose(found.forces, numerical_forces(potential, atoms), atol=2e-6)
    if atoms.cell.rank == 3:
        np.testing.assert_allclose(found.stress, numerical_stress(potential, atoms), atol=2e-7)
    else:
        assert found.stress is None
    assert found.energy == pytest.approx(found.energies.sum())
    np.testing.assert_allclose(found.forces.sum(axis=0), 0.0, atol=1e-9)


@pytest.mark.parametrize("name", ["crystal", "cluster"])
def test_the_variance_gradient_is_a_finite_difference(potential, name, rng):
    atoms = structures()[name]
    weights = rng.normal(size=len(atoms))
    gradient = potential.variance_gradient(atoms, weights)
    step = 1e-4
    for i in range(len(atoms)):
        for axis in range(3):
            sides = []
            for sign in (1, -1):
                moved = atoms.copy()
                moved.positions[i, axis] += sign * step
                std = potential.model.posterior_local_std(moved)
                sides.append(weights @ std**2)
            numerical = (sides[0] - sides[1]) / (2 * step)
            assert gradient[i, axis] == pytest.approx(numerical, abs=2e-6)


def test_invariances(potential, rng):
    atoms = structures()["crystal"]
    reference = potential.predict(atoms, return_std=True)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ rotation)
    turned.positions = atoms.positions @ rotation + [0.3, -11.0, 4.0]
    found = potential.predict(turned, return_std=True)
    assert found.energy == pytest.approx(reference.energy, abs=1e-8)
    np.testing.assert_allclose(found.forces, reference.forces @ rotation, atol=1e-7)
    np.testing.assert_allclose(found.energies_std, reference.energies_std, atol=1e-7)
    order = rng.permutation(len(atoms))
    found = potential.predict(atoms[order])
    np.testing.assert_allclose(found.forces, reference.forces[order], atol=1e-8)
    unwrapped = potential.predict(structures()["unwrapped"])
    assert unwrapped.energy == pytest.approx(reference.energy, abs=1e-8)
    left_handed = potential.predict(structures()["left_handed"])
    np.testing.assert_allclose(left_handed.stress, reference.stress, atol=1e-9)


def test_extensivity(potential):
    atoms = structures()["crystal"]
    one = potential.predict(atoms, return_std=True)
    many = potential.predict(atoms.repeat((2, 1, 3)), return_std=True)
    assert many.energy == pytest.approx(6 * one.energy, rel=1e-10)
    np.testing.assert_allclose(many.stress, one.stress, atol=1e-10)
    np.testing.assert_allclose(many.energies_std, np.tile(one.energies_std, 6), atol=1e-8)
    far = structures()["cluster"]
    both = far.copy()
    copy = far.copy()
    copy.positions += [40.0, 0, 0]
    both += copy
    alone = potential.predict(far)
    assert potential.predict(both).energy == pytest.approx(2 * alone.energy, abs=1e-9)


def test_energy_and_forces_are_smooth_through_the_cutoff(potential):
    def at(r):
        return potential.predict(Atoms("Cu3", [[0, 0, 0], [2.4, 0.3, 0], [0, r, 0]]))

    for r_cut in (3.6, 5.0):
        outside, inside = at(r_cut + 1e-7), at(r_cut - 1e-7)
        mean_force = 0.5 * (outside.forces[2, 1] + inside.forces[2, 1])
        assert inside.energy - outside.energy == pytest.approx(2e-7 * mean_force, abs=1e-12)
        np.testing.assert_allclose(inside.forces, outside.forces, atol=1e-6)
        r = r_cut + np.linspace(-0.02, 0.02, 41)
        force = np.array([at(x).forces[2, 1] for x in r])
        assert np.abs(np.diff(force, 2)).max() < 1e-4  # no kink


def test_many_structures_are_predicted_as_one_by_one(potential, monkeypatch):
    everything = [*structures().values(), rattled_alloy(3), Atoms("Cu")]
    monkeypatch.setattr("kernelpot.model.fitted.GROUP_ATOMS", 12)
    found = list(potential.predict_many(everything, return_std=True))
    assert len(found) == len(everything)
    for atoms, many in zip(everything, found, strict=True):
        one = potential.predict(atoms, return_std=True)
        assert many.energy == pytest.approx(one.energy, rel=1e-11)
        np.testing.assert_allclose(many.forces, one.forces, atol=1e-10)
        np.testing.assert_allclose(many.energies_std, one.energies_std, atol=1e-8)
        assert (many.stress is None) == (one.stress is None)
        if one.stress is not None:
            np.testing.assert_allclose(many.stress, one.stress, atol=1e-12)
    with pytest.raises(ValueError, match="unknown species O"):
        list(potential.predict_many([Atoms("O")]))


def test_the_result_does_not_depend_on_threads(potential):
    atoms = rattled_alloy(5, (4, 3, 3))
    one = potential.predict(atoms, return_std=True, n_threads=1)
    two = potential.predict(atoms, return_std=True, n_threads=2)
    assert one.energy == two.energy
    np.testing.assert_array_equal(one.forces, two.forces)
    np.testing.assert_array_equal(one.energies_std, two.energies_std)


def test_memory_grows_linearly_with_atoms_and_not_with_pairs_times_features(potential):
    import tracemalloc

    peaks = []
    for size in ((5, 5, 5), (10, 10, 5)):
        atoms = rattled_alloy(1, size, 0.05)
        potential.predict(atoms, n_threads=1)
        tracemalloc.start()
        potential.predict(atoms, n_threads=1)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    small, large = 4 * 5**3, 4 * 500
    per_atom = (peaks[1] - peaks[0]) / (large - small)
    pairs_per_atom = 80
    features = potential.describe()["terms"][1]["n_features"]
    assert per_atom < 40e3  # lists, displacements, gradients: some 200 bytes per pair
    assert per_atom < 0.3 * pairs_per_atom * features * 8


def test_the_quadratic_map_is_the_kernel(labelled, potential):
    # the map replaces the kernel where it is cheaper; both must agree
    from kernelpot.gp.local import LocalModel

    term = kp.SOAPTerm(r_cut=3.8, n_max=3, l_max=2, n_sparse=80)
    linear = kp.SOAPTerm(r_cut=3.8, n_max=3, l_max=2, n_sparse=80, zeta=1)
    model = kp.KernelPotential([term, linear]).fit(labelled).model
    assert all(c.mean is not None for c in model.local.compiled.values())
    direct = LocalModel(model.design, model.local.weights, model.local.variances, fast=False)
    assert all(c.mean is None for c in direct.compiled.values())
    system = model.system(structures()["crystal"])
    fast, slow = model.local.evaluate(system), direct.evaluate(system)
    np.testing.assert_allclose(fast.energies, slow.energies, atol=1e-9)
    np.testing.assert_allclose(fast.result.gradient, slow.result.gradient, atol=1e-9)


# ---- data --------------------------------------------------------------------------


def test_the_order_of_the_data_and_the_file_name_change_nothing(labelled, small_terms, tmp_path):
    import ase.io

    test = structures()["crystal"]
    energies = []
    for name, order in (("one.xyz", 1), ("another.xyz", -1)):
        ase.io.write(tmp_path / name, labelled[::order], format="extxyz")
        pot = kp.KernelPotential(small_terms).fit(tmp_path / name)
        energies.append(pot.predict(test).energy)
    assert energies[0] == energies[1]


def test_a_fit_leaves_no_product_to_several_blas_threads(labelled, small_terms):
    """They would wait for each other where cores are busy, and change the last digits."""
    from threadpoolctl import threadpool_info, threadpool_limits

    def blas():
        return {p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"}

    seen = {}
    with threadpool_limits(2, user_api="blas"):
        pot = kp.KernelPotential(small_terms[:1], baseline=[])
        pot.fit(labelled, progress=lambda stage, *_: seen.setdefault(stage, blas()))
        assert blas() == {2}
    assert len(seen) > 3
    assert all(found == {1} for found in seen.values())


def test_the_number_of_threads_does_not_change_the_fit(labelled, small_terms):
    one, two = (kp.KernelPotential(small_terms).fit(labelled, n_threads=n) for n in (1, 2))
    atoms = structures()["crystal"]
    assert one.predict(atoms).energy == two.predict(atoms).energy
    assert one.describe()["calibration"] == two.describe()["calibration"]


def test_isolated_atoms_are_exact_when_they_are_in_the_data(labelled, small_terms):
    free = []
    for symbol, energy in (("Cu", -1.5), ("Al", 2.5)):
        atoms = Atoms(symbol)
        atoms.info["REF_energy"] = energy
        atoms.arrays["REF_forces"] = np.zeros((1, 3))
        free.append(atoms)
    pot = kp.KernelPotential(small_terms).fit([*labelled, *free])
    assert pot.fitted_.e0.origin == "isolated atoms"
    assert pot.predict(Atoms("Cu")).energy == pytest.approx(-1.5, abs=5e-3)
    assert pot.predict(Atoms("Al")).energy == pytest.approx(2.5, abs=5e-3)


def test_a_constant_virial_error_is_recognized_and_kept_out(labelled, small_terms):
    # unconverged plane waves: stress and energy disagree by a constant per atom
    offset = 0.3
    frames = []
    for frame in labelled:
        copy = frame.copy()
        if "REF_virial" in copy.info:
            copy.info["REF_virial"] = frame.info["REF_virial"] + offset * len(frame) * np.eye(3)
        frames.append(copy)
    right = kp.KernelPotential(small_terms).fit(labelled, optimize=None)
    wrong = kp.KernelPotential(small_terms).fit(frames, optimize=None)
    # the kernels take up some of it
    assert wrong.fitted_.virial_offset == pytest.approx(
        right.fitted_.virial_offset + offset, abs=0.02
    )
    assert abs(right.fitted_.virial_offset) < 0.05
    assert any("virial" in note for note in wrong.fitted_.training.notes)
    test = rattled_alloy(77, (1, 1, 1))
    difference = wrong.predict(test).stress - right.predict(test).stress
    assert np.abs(difference).max() * test.get_volume() / len(test) < 0.1 * offset


def test_config_type_sigmas_shift_the_weight(labelled, small_terms):
    loose = kp.KernelPotential(
        small_terms, config_type_sigma={"cluster": {"energy": 5.0, "forces": 50.0}}
    ).fit(labelled)
    tight = kp.KernelPotential(
        small_terms, config_type_sigma={"cluster": {"energy": 1e-4, "forces": 1e-3}}
    ).fit(labelled)
    key = "forces_rmse_ev_per_ang"
    loose_error = loose.fitted_.training.errors["by_config_type"]["cluster"][key]
    tight_error = tight.fitted_.training.errors["by_config_type"]["cluster"][key]
    assert tight_error < 0.5 * loose_error


def test_repeated_sparse_points_change_nothing(labelled, small_terms, monkeypatch):
    # a mean over sparse points does change when some are repeated
    monkeypatch.setattr(sharing, "SIGMA_ALIKE", 1e9)
    crystal = rattled_alloy(2, (2, 2, 1))
    chosen = [(crystal, k) for k in range(len(crystal))]
    # a search of the noise may turn at the last bit
    once, twice = (
        kp.KernelPotential(small_terms[:1], sparse_points=[points]).fit(labelled, optimize=None)
        for points in (chosen, chosen + chosen[:5])
    )
    atoms = structures()["crystal"]
    one, two = once.predict(atoms, return_std=True), twice.predict(atoms, return_std=True)
    assert two.energy == pytest.approx(one.energy, abs=1e-6)
    np.testing.assert_allclose(two.forces, one.forces, atol=1e-5)
    np.testing.assert_allclose(two.energies_std, one.energies_std, atol=1e-5)
    ranks = [sum(p.describe()["terms"][0]["rank"].values()) for p in (once, twice)]
    assert ranks[0] == ranks[1] == len(crystal)


def test_a_given_list_of_sparse_points(labelled, small_terms):
    crystal = structures()["crystal"]
    chosen = [(crystal, 0), (crystal, 1), (crystal, 2), (crystal, 3)]
    pot = kp.KernelPotential(small_terms, sparse_points=[chosen, None]).fit(labelled)
    assert sum(pot.describe()["terms"][0]["n_sparse"].values()) == 4
    assert sum(pot.describe()["terms"][1]["n_sparse"].values()) == 60


@pytest.mark.parametrize("distance", [50.0, 1e5])
def test_an_atom_far_away_is_alone(potential, distance):
    """It ended the interpreter at a hundred thousand angstrom."""
    cluster = structures()["cluster"]
    far = cluster + Atoms("Al", [cluster.positions[0] + [distance, 0, 0]])
    atom, alone = potential.predict(Atoms("Al")), potential.predict(cluster)
    found = potential.predict(far, return_std=True)
    assert found.energy == pytest.approx(alone.energy + atom.energy, abs=1e-10)
    np.testing.assert_allclose(found.forces[:-1], alone.forces, atol=1e-9)
    np.testing.assert_array_equal(found.forces[-1], 0.0)
    far.calc = potential.calculator(gate=None)
    assert far.get_potential_energy() == pytest.approx(found.energy, abs=1e-10)


def test_sparse_points_must_cover_every_species(labelled, small_terms):
    crystal = structures()["crystal"]
    copper = [(crystal, int(k)) for k in np.flatnonzero(crystal.numbers == 29)]
    with pytest.raises(ValueError, match="`sparse_points` has no environment of Al"):
        kp.KernelPotential(small_terms[:1], sparse_points=[copper]).fit(labelled)
    pot = kp.KernelPotential(small_terms, sparse_points=[copper, None]).fit(labelled)
    found = pot.predict(crystal, return_std=True)
    np.testing.assert_allclose(found.forces, numerical_forces(pot, crystal), atol=2e-6)
    # of explicit terms delta is as given; nothing is known of what the first says of aluminium
    first, second = (term.delta for term in small_terms)
    known = found.posterior.energies_std
    std = known[crystal.numbers == 13]
    assert np.all((std > first) & (std < np.hypot(first, second)))
    assert np.all(known[crystal.numbers == 29] < first)


@pytest.mark.parametrize("method", ["cur", "kmeans", "random"])
def test_other_selections_fit_too(labelled, method):
    term = kp.SOAPTerm(r_cut=4.0, n_max=4, l_max=3, n_sparse=50, sparse_method=method)
    errors = kp.KernelPotential([term]).fit(labelled).fitted_.training.errors
    assert errors["forces_mae_ev_per_ang"] < 0.2


def test_defaults_fit_without_a_parameter(labelled):
    pot = kp.KernelPotential(n_sparse=80).fit(labelled)
    assert len(pot.fitted_.local.terms) == 3
    text = pot.summary()
    for word in ("r_cut", "zeta", "sparse points", "sigma_forces", "least squares", "wall"):
        assert word in text


def test_a_default_number_of_sparse_points_is_capped_and_said(labelled):
    pot = kp.KernelPotential([kp.SOAPTerm(r_cut=3.6, n_max=3, l_max=2)]).fit(labelled[:3])
    assert pot.describe()["terms"][0]["n_sparse"] == {"Al": 6, "Cu": 6}
    assert any("12 sparse points instead of 1000" in n for n in pot.fitted_.training.notes)


# ---- uncertainty -------------------------------------------------------------------


def test_the_local_std_grows_away_from_the_data(potential):
    known = [rattled_alloy(700 + s, (1, 1, 1)) for s in range(8)]
    inside = np.concatenate([potential.predict(a, return_std=True).energies_std for a in known])
    for factor in (0.8, 1.3):
        strained = rattled_alloy(1, (1, 1, 1))
        strained.set_cell(strained.cell.array * factor, scale_atoms=True)
        outside = potential.predict(strained, return_std=True).energies_std
        assert outside.min() > np.quantile(inside, 0.9)
    alone = potential.predict(Atoms("Cu"), return_std=True)
    assert alone.energies_std[0] > inside.max()
    assert 0 <= alone.spilling[0] <= 1
    assert potential.local_std(Atoms("Cu"))[0] == pytest.approx(alone.energies_std[0])


def test_std_is_only_computed_on_request(potential):
    found = potential.predict(structures()["crystal"])
    assert found.energies_std is None
    assert found.spilling is None


# ---- errors ------------------------------------------------------------------------


def test_what_cannot_be_predicted_is_refused(potential):
    with pytest.raises(ValueError, match="unknown species O: the model knows Al, Cu"):
        potential.predict(Atoms("CuO", [[0, 0, 0], [0, 0, 2]]))
    with pytest.raises(ValueError, match="sit on one spot"):
        potential.predict(Atoms("Cu2", np.zeros((2, 3))))
    with pytest.raises(ValueError, match="no vector there"):
        potential.predict(Atoms("Cu", pbc=True))
    with pytest.raises(NotFittedError, match="call fit"):
        kp.KernelPotential().predict(Atoms("Cu"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "best"}, "`preset` must be one of fast, default, accurate"),
        ({"e0": "mean"}, "`e0` must be a mapping, 'isolated' or 'least_squares'"),
        ({"e0": {"Xx": 1.0}}, "neither a chemical symbol nor an atomic number: 'Xx'"),
        ({"e0": {"Cu": 1.0}}, "`e0` has no value for Al"),
        ({"terms": []}, "`terms` must hold at least one term"),
        ({"sigma_energy": -1.0}, "`sigma_energy` must be positive"),
        ({"terms": [kp.SOAPTerm(r_cut=4.0, n_sparse=5000)]}, "`n_sparse` = 5000 exceeds the"),
        ({"sparse_points": [None]}, "`sparse_points` needs explicit `terms`"),
        (
            {"terms": [kp.SOAPTerm(r_cut=4.0)], "sparse_points": [None, None]},
            "must have one entry per term, got 2 for 1",
        ),
    ],
)
def test_wrong_parameters_are_refused_before_any_work(labelled, arguments, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        kp.KernelPotential(**arguments).fit(labelled)


def test_a_non_integer_exponent_is_refused_where_it_is_not_positive_definite(labelled):
    term = kp.SOAPTerm(r_cut=4.0, n_max=2, l_max=0, zeta=0.3, n_sparse=100, cutoff_power=1)
    with pytest.raises(np.linalg.LinAlgError, match="use an integer"):
        kp.KernelPotential([term]).fit(labelled)


# ---- what a careful user would trip over ----------------------------------------------


def test_a_loaded_potential_fits_as_the_one_that_was_saved(labelled, tmp_path):
    pot = kp.KernelPotential(
        [kp.SOAPTerm(r_cut=4.0, n_max=3, l_max=2)],
        n_sparse=50,
        e0={"Al": 0.5, "Cu": -0.5},
        sigma_forces=0.07,
        config_type_sigma={"cluster": {"energy": 0.01}},
    ).fit(labelled)
    pot.save(tmp_path / "m.kpot")
    again = kp.load(tmp_path / "m.kpot").fit(labelled)
    atoms = structures()["crystal"]
    assert again.predict(atoms).energy == pot.predict(atoms).energy
    assert again.fitted_.e0.origin == "given"


def test_n_sparse_fills_the_terms_that_name_no_number(labelled):
    open_term = kp.SOAPTerm(r_cut=4.0, n_max=3, l_max=2)
    pot = kp.KernelPotential([open_term], n_sparse=45).fit(labelled)
    assert sum(pot.describe()["terms"][0]["n_sparse"].values()) == 45
    with pytest.raises(ValueError, match="`n_sparse` has no effect"):
        kp.KernelPotential([kp.SOAPTerm(r_cut=4.0, n_sparse=9)], n_sparse=45).fit(labelled)


def test_too_few_sparse_points_for_the_species_are_raised_and_said(labelled):
    term = kp.SOAPTerm(r_cut=4.0, n_max=3, l_max=2, n_sparse=7)
    pot = kp.KernelPotential([term]).fit(labelled)
    assert sum(pot.describe()["terms"][0]["n_sparse"].values()) == 40
    assert any("40 sparse points instead of 7" in n for n in pot.fitted_.training.notes)


def test_a_misspelt_config_type_is_refused(labelled, small_terms):
    with pytest.raises(ValueError, match="names clustre; the data have bulk, cluster, large"):
        kp.KernelPotential(small_terms, config_type_sigma={"clustre": {"energy": 1.0}}).fit(
            labelled
        )


def test_a_free_atom_in_a_periodic_box_is_a_free_atom(labelled, small_terms):
    free = []
    for symbol, energy in (("Cu", -1.5), ("Al", 2.5)):
        atoms = Atoms(symbol, cell=[12.0, 12.0, 12.0], pbc=True)
        atoms.info["REF_energy"] = energy
        free.append(atoms)
    pot = kp.KernelPotential(small_terms).fit([*labelled, *free])
    assert pot.fitted_.e0.origin == "isolated atoms"
    assert pot.predict(free[0]).energy == pytest.approx(-1.5, abs=5e-3)


def test_a_free_atom_that_contradicts_e0_is_mentioned(labelled, small_terms):
    atoms = Atoms("Cu")
    atoms.info["REF_energy"] = -5.0
    pot = kp.KernelPotential(small_terms, e0={"Cu": 0.0, "Al": 0.0}).fit([*labelled, atoms])
    assert any("-5.0000 eV is not used" in note for note in pot.fitted_.training.notes)


def test_every_way_to_evaluate_refuses_what_is_unsound(potential):
    from kernelpot.data.neighbors import neighbor_list

    no_cell = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.5]], pbc=True)
    broken = structures()["cluster"]
    pairs = neighbor_list(broken, potential.r_cut)
    broken.positions[1, 1] = np.nan
    for atoms, message in ((no_cell, "no vector there"), (broken, "not finite")):
        with pytest.raises(ValueError, match=message):
            potential.local_std(atoms)
        with pytest.raises(ValueError, match=message):
            potential.variance_gradient(atoms, np.ones(len(atoms)))
    with pytest.raises(ValueError, match="not finite"):
        potential.predict(broken, neighbors=pairs)


def test_predictions_from_several_threads_agree_and_give_blas_back(potential):
    from concurrent.futures import ThreadPoolExecutor

    from threadpoolctl import threadpool_info

    def blas():
        return [p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"]

    before = blas()
    atoms = rattled_alloy(2, (3, 2, 2))
    expected = potential.predict(atoms).energy
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: potential.predict(atoms).energy, range(40)))
    assert set(found) == {expected}
    assert blas() == before
