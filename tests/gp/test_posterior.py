"""Standard deviations of energies, forces and stresses, and samples of the posterior.

The oracle is weight space: for integer zeta the kernel is a dot product of
``delta u^(tensor power zeta)``, so every covariance is a dot product of explicit
features, those of forces and virials their finite differences.
"""

from functools import reduce

import numpy as np
import pytest
import scipy.linalg
from ase import Atoms
from ase.build import bulk
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import DotProduct

import kernelpot as kp
from kernelpot.data.system import species_index
from kernelpot.datasets import load_ethanol, load_silicon
from kernelpot.gp import members, posterior, sharing, tangents
from kernelpot.gp.design import VIRIAL_OFFSET_PRIOR
from kernelpot.gp.sharing import SIGMA_ALIKE
from kernelpot.gp.tangents import Motion
from kernelpot.terms.dot_product import DotProductKernel, normalize
from tests.conftest import label, rattled_alloy, structures

STRAINS = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


# ---- the oracle --------------------------------------------------------------------


def tensor_power(unit, zeta):
    return reduce(lambda a, b: np.einsum("ea,eb->eab", a, b).reshape(len(a), -1), [unit] * zeta)


def explicit(model, atoms):
    """Explicit features of the summed local energies of a structure."""
    z_index = species_index(atoms.numbers, model.species)
    parts = []
    for term in model.local.terms:
        unit = normalize(term.descriptor.soap.create(atoms))[0]
        power = term.kernel.delta * tensor_power(unit, term.kernel.zeta)
        parts += [power[z_index == z].sum(axis=0) for z in range(len(model.species))]
    return np.concatenate(parts)


def central(function, step=2e-3):
    """Fourth-order central difference of a function of a displacement at zero."""
    near = function(step) - function(-step)
    far = function(2 * step) - function(-2 * step)
    return (8 * near - far) / (12 * step)


def explicit_rows(model, atoms):
    """Explicit features of the energy, the forces and the virial of a structure."""

    def moved(i, axis, x):
        copy = atoms.copy()
        copy.positions[i, axis] += x
        return explicit(model, copy)

    def strained(a, b, x):
        strain = np.eye(3)
        strain[a, b] += 0.5 * x
        strain[b, a] += 0.5 * x
        copy = atoms.copy()
        copy.set_cell(atoms.cell.array @ strain)
        copy.positions = atoms.positions @ strain
        return explicit(model, copy)

    rows = [explicit(model, atoms)]
    for i in range(len(atoms)):
        rows += [-central(lambda x, c=c, i=i: moved(i, c, x)) for c in range(3)]
    rows += [-central(lambda x, ab=ab: strained(*ab, x)) for ab in STRAINS]
    return np.array(rows)


def sparse_of(model, z, t):
    """Sparse points of a species in a term."""
    (block,) = (b for b in model.design.blocks if (b.key, b.term) == ((model.species[z],), t))
    return block.points


def explicit_sparse(model):
    """Explicit features of the sparse points."""
    return scipy.linalg.block_diag(
        *(
            term.kernel.delta * tensor_power(sparse_of(model, z, t), term.kernel.zeta)
            for t, term in enumerate(model.local.terms)
            for z in range(len(model.species))
        )
    )


def explicit_alike_sites(model):
    """Explicit features of the prior on sharing: sparse points minus their mean, scaled."""
    if len(model.species) == 1:
        return np.zeros((0, len(explicit_sparse(model)[0])))
    parts = []
    for t, term in enumerate(model.local.terms):
        for z in range(len(model.species)):
            points = tensor_power(sparse_of(model, z, t), term.kernel.zeta)
            parts.append((points - points.mean(axis=0)) / SIGMA_ALIKE)
    return scipy.linalg.block_diag(*parts)


def dense(model, train, atoms):
    """Prior variance, what the sparse points explain of it, and what the data leave open.

    Of energy, force components and virial components. The noise of the virials includes
    the isotropic offset that labels may carry.
    """
    rows, noise = [], []
    for frame in kp.read_dataset(train):
        sigma_energy, sigma_forces, sigma_virial = (
            model.noise.sigma(group) * unit for group, unit in model.noise.of(frame)
        )
        n = len(frame)
        sigma = np.concatenate([[sigma_energy], np.full(3 * n, sigma_forces)])
        found = explicit_rows(model, frame.atoms)
        offset = np.zeros(len(found))
        if frame.virial is not None:
            sigma = np.append(sigma, np.full(6, sigma_virial))
            offset[-6:-3] = VIRIAL_OFFSET_PRIOR * n
        rows.append(found[: len(sigma)])
        noise.append((sigma**2, offset[: len(sigma)]))
    psi = np.concatenate(rows)
    offset = np.concatenate([o for _, o in noise])
    precision = np.linalg.inv(
        np.diag(np.concatenate([v for v, _ in noise])) + np.outer(offset, offset)
    )
    sparse = explicit_sparse(model)
    alike = explicit_alike_sites(model) @ sparse.T
    K_mm, K_nm = sparse @ sparse.T, psi @ sparse.T
    new = explicit_rows(model, atoms)
    K_sm = new @ sparse.T
    explained = np.einsum("sm,ms->s", K_sm, np.linalg.solve(K_mm, K_sm.T))
    A = K_mm + K_nm.T @ precision @ K_nm + alike.T @ alike
    return (
        np.square(new).sum(axis=1),
        explained,
        np.einsum("sm,ms->s", K_sm, np.linalg.solve(A, K_sm.T)),
    )


def all_std(predicted, atoms):
    """Energy, forces and virial of the posterior in the order of the oracle."""
    found = predicted.posterior
    parts = [[found.energy_std], found.forces_std.ravel()]
    if found.stress_std is not None:
        parts.append(found.stress_std * atoms.get_volume())
    return np.concatenate(parts)


def aluminium(atoms):
    copy = atoms.copy()
    copy.numbers[:] = 13
    return copy


def training(one_species):
    frames = [rattled_alloy(s, (1, 1, 1), 0.2) for s in range(2)]
    frames.append(structures()["cluster"])
    return [label(aluminium(a) if one_species else a) for a in frames]


@pytest.fixture(scope="module", params=[(1, True), (2, True), (3, True), (1, False), (3, False)])
def small(request):
    """A fit whose sparse points leave some of the space of functions unexplained."""
    zeta, one_species = request.param
    train = training(one_species)
    if one_species:
        points = [(train[0], 0), (train[2], 1), (train[2], 3), (train[1], 2)]
    else:
        points = [(train[0], i) for i in range(4)] + [(train[2], i) for i in (0, 3)]
    terms = [
        kp.SOAPTerm(r_cut=4.2, n_max=2, l_max=1, zeta=zeta, delta=1.3),
        kp.SOAPTerm(r_cut=3.4, n_max=2, l_max=1, zeta=2, delta=0.7),
    ]
    return train, kp.KernelPotential(
        terms,
        e0="least_squares",
        baseline=[],
        sigma_energy=0.1,
        sigma_forces=1.0,
        sigma_stress=0.1,
        sparse_points=[points, points[:2] if one_species else points],
    ).fit(train)


def test_every_std_is_the_dense_formula(small, monkeypatch):
    train, pot = small
    model = pot.model
    one = model.species == (13,)
    # blocks smaller than the structures; 8 atoms exceed the 6 features of one species,
    # where zeta = 2 takes its linear form; the cell of 4 Å holds images of every atom
    monkeypatch.setattr(posterior, "BLOCK", 3)
    monkeypatch.setattr(posterior, "ATOMS", 3)
    monkeypatch.setattr(tangents, "CHUNK", 3)
    crystal = rattled_alloy(31, (1, 1, 1), 0.25)
    new = [crystal, structures()["cluster"], rattled_alloy(32, (2, 1, 1), 0.2)]
    for atoms in map(aluminium, new) if one else new[:2]:
        prior, explained, left_open = dense(model, train, atoms)
        found = all_std(pot.predict(atoms, return_std=True), atoms)
        expected = np.sqrt(prior - explained + left_open)[: len(found)]
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        # both parts count
        share = left_open[: len(found)] / expected**2
        assert share.max() > 0.05
        assert share.min() < 0.95


def test_an_atom_among_its_own_images_has_no_force_to_be_unsure_of(small):
    train, pot = small
    tiny = structures()["tiny"]
    found = pot.predict(tiny, return_std=True)
    np.testing.assert_allclose(found.forces_std, 0.0, atol=1e-7)
    prior, explained, left_open = dense(pot.model, train, tiny)
    expected = np.sqrt(prior - explained + left_open)
    assert found.energy_std == pytest.approx(expected[0], rel=1e-6)
    # by symmetry the shear components have none either: sqrt of rounding
    volume = tiny.get_volume()
    np.testing.assert_allclose(found.stress_std * volume, expected[-6:], rtol=1e-6, atol=1e-6)
    assert found.energy_std == pytest.approx(found.energies_std[0], rel=1e-7)


def test_energies_only_with_all_environments_sparse_is_scikit_learns_exact_gp(monkeypatch):
    monkeypatch.setattr(sharing, "SIGMA_ALIKE", 1e9)  # the kernels' own prior alone
    frames = [label(rattled_alloy(s, (1, 1, 1), 0.2)) for s in range(9)]
    for frame in frames:
        frame.arrays.pop("REF_forces")
        frame.info.pop("REF_virial")
    train, test = frames[:6], frames[6:]
    term = kp.SOAPTerm(r_cut=4.2, n_max=2, l_max=1, zeta=2)
    pot = kp.KernelPotential(
        [term],
        e0="least_squares",
        baseline=[],
        sigma_energy=0.01,
        sparse_points=[[(a, i) for a in train for i in range(4)]],
    ).fit(train)
    X, X_test = (np.array([explicit(pot.model, a) for a in s]) for s in (train, test))
    kernel = DotProduct(sigma_0=0.0, sigma_0_bounds="fixed")
    exact = GaussianProcessRegressor(kernel, alpha=4 * 0.01**2, optimizer=None)
    std = exact.fit(X, np.zeros(6)).predict(X_test, return_std=True)[1]
    found = [pot.predict(a, return_std=True) for a in test]
    # scikit-learn subtracts from the prior of 16 eV^2: 1e-15 * 16 / variance
    np.testing.assert_allclose([p.energy_std for p in found], std, rtol=1e-6)


# ---- pieces ------------------------------------------------------------------------


@pytest.mark.parametrize("zeta", [1, 2, 3, 5])
def test_prior_of_derivatives_is_the_mixed_second_derivative(zeta, rng):
    # features moving on the sphere along two lines; k(x, y) = cov of the summed energies
    kernel = DotProductKernel(zeta, 0.8)
    start = 0.4 + rng.random((5, 3))
    velocity = 0.3 * rng.normal(size=(2, 5, 3))
    unit, norm = normalize(start)
    tangents = (velocity - np.einsum("cef,ef->ce", velocity, unit)[..., None] * unit) / norm[
        :, None
    ]

    def covariance(c, x, y):
        one, two = (normalize(start + s * velocity[c])[0] for s in (x, y))
        return kernel(one, two).sum()

    h = 1e-3
    for c in range(2):
        mixed = sum(i * j * covariance(c, i * h, j * h) for i in (-1, 1) for j in (-1, 1)) / (
            4 * h * h
        )
        # truncation h^2, rounding 1e-16 / h^2
        found = posterior.derivative_prior(kernel, Motion(unit, tangents))[c]
        assert found == pytest.approx(mixed, rel=2e-5)
        assert found <= posterior.largest_prior(kernel, Motion(unit, tangents))[c] * (1 + 1e-12)


def test_linear_forms_equal_gram_blocks(rng, monkeypatch):
    kernel = DotProductKernel(2, 1.1)
    unit, _ = normalize(0.1 + rng.random((9, 4)))
    tangents = rng.normal(size=(3, 9, 4))
    tangents -= np.einsum("cef,ef->ce", tangents, unit)[..., None] * unit
    gram = unit @ unit.T
    expected = 1.21 * (gram**2).sum()
    along = np.einsum("cif,jf->cij", tangents, unit)
    full = (
        2
        * 1.21
        * (along * along.transpose(0, 2, 1) + gram * np.einsum("cif,cjf->cij", tangents, tangents))
    )
    assert posterior.energy_prior(kernel, unit) == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(
        posterior.derivative_prior(kernel, Motion(unit, tangents)),
        full.sum(axis=(1, 2)),
        rtol=1e-10,
    )
    cubic = DotProductKernel(3, 1.1)
    monkeypatch.setattr(posterior, "BLOCK", 4)
    assert posterior.energy_prior(cubic, unit) == pytest.approx(1.21 * (gram**3).sum(), rel=1e-12)


def test_a_negative_variance_is_raised_not_clipped(potential):
    variances = potential.model.uncertainty.posterior.variances
    phi = np.zeros((2, 3))
    phi[1, 0] = 1.001
    with pytest.raises(FloatingPointError, match="negative variance"):
        variances(phi, np.ones(2), np.ones(2))
    phi[1, 0] = np.sqrt(1.0 + 1e-10)  # rounding
    found, novelty = variances(phi, np.ones(2), np.ones(2))
    assert found[0] == novelty[0] == 1.0  # all novelty
    assert 0 == novelty[1] <= found[1] <= 1  # only what the data leave open


def test_novelty_is_the_part_that_no_labels_change():
    frames = [label(rattled_alloy(s, (1, 1, 1), 0.1)) for s in range(6)]
    atoms = rattled_alloy(9, (1, 1, 1), 0.15)
    term = kp.SOAPTerm(r_cut=4.2, n_max=2, l_max=1, zeta=2, n_sparse=15)
    found = [
        kp.KernelPotential([term], sigma_forces=sigma, sigma_energy=sigma, sigma_stress=sigma)
        .fit(frames, optimize=None, calibrate=False)
        .predict(atoms, return_std=True)
        for sigma in (1e-3, 1e-1, 1e9)
    ]
    for kind in ("energy", "forces", "stress"):
        std, novelty = (
            [getattr(p.posterior, f"{kind}_{part}") for p in found] for part in ("std", "novelty")
        )
        np.testing.assert_allclose(novelty[0], novelty[1], rtol=1e-6)
        np.testing.assert_allclose(novelty[0], novelty[2], rtol=1e-6)
        assert np.all(novelty[0] < std[0])
        assert np.all(std[0] < std[1])
        assert np.all(std[1] < std[2])


def test_never_negative_for_duplicates_much_data_and_no_noise():
    frames = [label(rattled_alloy(s, (1, 1, 1), 0.1)) for s in range(4)]
    points = [(a, i) for a in frames + frames for i in range(4)]
    term = kp.SOAPTerm(r_cut=4.2, n_max=2, l_max=1, zeta=2)
    tight = kp.KernelPotential(
        [term],
        sigma_energy=1e-9,
        sigma_forces=1e-9,
        sigma_stress=1e-9,
        sparse_points=[points],
    ).fit(frames * 8)
    for atoms in [*frames, *structures().values()]:
        found = all_std(tight.predict(atoms, return_std=True), atoms)
        assert np.isfinite(found).all()
        assert (found >= 0).all()
    known = all_std(tight.predict(frames[0], return_std=True), frames[0])
    other = all_std(tight.predict(structures()["cluster"], return_std=True), frames[0])
    assert known[0] < 1e-2 * other[0]


def test_the_std_is_invariant_and_independent_of_threads_and_company(potential):
    atoms = structures()["crystal"]
    one = potential.predict(atoms, return_std=True, n_threads=1)
    large = atoms.repeat((4, 3, 1))  # more atoms than one thread takes at a time
    first, second = (potential.predict(large, return_std=True, n_threads=n) for n in (1, 2))
    np.testing.assert_array_equal(first.forces_std, second.forces_std)
    assert (first.energy_std, *first.stress_std) == (second.energy_std, *second.stress_std)
    # all images move alike: what is open of their energies is fully correlated and adds up; the
    # constant part is not
    constant = potential.model.calibration.model("energy").constant
    open_one, open_many = (
        p.energy_std**2 - len(a) * constant**2 for p, a in ((one, atoms), (first, large))
    )
    assert open_many == pytest.approx(144 * open_one, rel=1e-6)
    np.testing.assert_allclose(first.stress_std, one.stress_std, rtol=1e-5)

    turned = atoms.copy()
    turned.rotate(37, (1, 2, 3), rotate_cell=True)
    found = potential.predict(turned, return_std=True)
    assert found.energy_std == pytest.approx(one.energy_std, rel=1e-6)

    company = [structures()["cluster"], atoms, structures()["wire"]]
    for alone, many in zip(company, potential.predict_many(company, return_std=True), strict=True):
        expected = potential.predict(alone, return_std=True)
        np.testing.assert_allclose(all_std(many, alone), all_std(expected, alone), rtol=1e-7)
        assert (many.stress_std is None) == (not alone.pbc.all())


def test_return_std_says_which(potential):
    atoms = structures()["crystal"]
    local = potential.predict(atoms, return_std="local")
    full = potential.predict(atoms, return_std=True)
    np.testing.assert_array_equal(local.energies_std, full.energies_std)
    np.testing.assert_array_equal(local.spilling, full.spilling)
    assert local.energy_std is local.forces_std is local.stress_std is None
    assert full.forces_std.shape == (4, 3)
    with pytest.raises(ValueError, match="False, True or 'local', got 'locl'"):
        potential.predict(atoms, return_std="locl")


# ---- samples -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["crystal", "cluster"])
def test_ten_thousand_samples_spread_as_the_data_leave_open(potential, name):
    atoms = structures()[name]
    n = 10_000
    sampled = potential.sample(n, rng=5).predict(atoms)
    mean = potential.predict(atoms)
    found = potential.predict(atoms, return_std=True).posterior
    pairs = [
        (sampled.energies, mean.energy, found.energy_open),
        (sampled.forces, mean.forces, found.forces_open),
    ]
    if name == "crystal":
        pairs.append((sampled.stresses, mean.stress, found.stress_open))
    else:
        assert sampled.stresses is None
    spread = potential.model.calibration.spread
    for samples, expected, open_ in pairs:
        std = spread * open_
        # the mean of n samples has std / sqrt(n), their std std / sqrt(2 n); 5 sigma
        np.testing.assert_array_less(np.abs(samples.mean(axis=0) - expected), 5 * std / np.sqrt(n))
        np.testing.assert_allclose(samples.std(axis=0), std, rtol=5 / np.sqrt(2 * n))


@pytest.fixture(scope="module")
def committee(potential):
    return potential.sample(4, rng=1)


@pytest.mark.parametrize("name", ["crystal", "wire", "cluster", "tiny"])
def test_a_member_is_a_potential_of_its_own(potential, committee, name):
    atoms = structures()[name]
    together = committee.predict(atoms, n_threads=1)
    assert len(committee) == len(together.energies) == 4
    mean = potential.predict(atoms)
    # forces of deviations from the mean are in single precision
    spread = np.abs(together.forces - mean.forces).max()
    for i, member in enumerate(committee):
        alone = member.predict(atoms)
        assert together.energies[i] == pytest.approx(alone.energy, rel=1e-9, abs=1e-9)
        np.testing.assert_allclose(together.forces[i], alone.forces, atol=5e-5 * spread)
        if alone.stress is not None:
            spread = np.abs(together.stresses - mean.stress).max()
            np.testing.assert_allclose(together.stresses[i], alone.stress, atol=5e-5 * spread)
    assert np.ptp(together.energies) > 0
    large = atoms.repeat((9, 5, 4)) if atoms.pbc.all() else atoms  # several batches
    one, two = (committee.predict(large, n_threads=n) for n in (1, 2))
    np.testing.assert_array_equal(one.forces, two.forces)
    np.testing.assert_allclose(
        one.energies, together.energies * (len(large) / len(atoms)), rtol=1e-9
    )


def test_forces_and_stresses_of_a_committee_are_derivatives_of_its_energies(committee):
    atoms = structures()["crystal"]
    found = committee.predict(atoms)

    def moved(x):
        copy = atoms.copy()
        copy.positions[1, 2] += x
        return committee.predict(copy).energies

    def strained(x):
        copy = atoms.copy()
        copy.set_cell(atoms.cell.array @ (np.eye(3) + x * np.diag([0, 1, 0])), scale_atoms=True)
        return committee.predict(copy).energies

    np.testing.assert_allclose(found.forces[:, 1, 2], -central(moved, 1e-3), atol=1e-6)
    np.testing.assert_allclose(
        found.stresses[:, 1], central(strained, 1e-3) / atoms.get_volume(), atol=1e-7
    )


def test_committees_are_sequences_and_reproducible(potential, committee, tmp_path):
    atoms = structures()["crystal"]
    again = potential.sample(4, rng=np.random.default_rng(1))
    np.testing.assert_array_equal(again.predict(atoms).energies, committee.predict(atoms).energies)
    np.testing.assert_allclose(
        committee[1:3].predict(atoms).energies, committee.predict(atoms).energies[1:3], rtol=1e-10
    )
    assert committee[-1].predict(atoms).energy == committee[3].predict(atoms).energy
    with pytest.raises(IndexError):
        committee[4]
    for n in (0, -1, 2.5):
        with pytest.raises(ValueError, match="`n` must be a positive number"):
            potential.sample(n)
    with pytest.raises(ValueError, match="unknown species"):
        committee.predict(Atoms("Xe"))

    member = committee[2]
    atoms.calc = member.calculator()
    assert atoms.get_potential_energy() == pytest.approx(member.predict(atoms).energy, rel=1e-12)
    assert "sample 3 of 4 from the posterior" in member.summary()
    assert "sample 3 of 4" not in potential.summary()
    member.save(tmp_path / "member.kpot")
    loaded = kp.load(tmp_path / "member.kpot")
    assert loaded.predict(atoms).energy == pytest.approx(member.predict(atoms).energy, rel=1e-12)


# ---- calculator --------------------------------------------------------------------


def test_the_calculator_computes_them_once_and_only_when_asked(potential, monkeypatch):
    atoms = structures()["crystal"]
    expected = potential.predict(atoms, return_std=True)
    calls = []
    evaluate = members.Members.evaluate
    monkeypatch.setattr(
        members.Members, "evaluate", lambda *a, **k: calls.append(1) or evaluate(*a, **k)
    )
    calculator = potential.calculator(with_std=True)
    atoms.calc = calculator
    atoms.get_forces()
    calculator.get_property("energies_std", atoms)
    assert not calls
    found = calculator.get_property("forces_std", atoms)
    np.testing.assert_allclose(found, expected.forces_std, rtol=1e-7)
    assert calculator.get_property("energy_std", atoms) == pytest.approx(expected.energy_std)
    np.testing.assert_allclose(
        calculator.get_property("stress_std", atoms), expected.stress_std, rtol=1e-6
    )
    atoms.get_stress()
    assert len(calls) == calculator.n_evaluations == 1
    atoms.positions[0] += 0.01
    atoms.get_forces()
    assert "forces_std" not in calculator.results
    assert len(calls) == 1
    calculator.calculate(atoms, ["forces_std"])
    assert len(calls) == 2
    assert calculator.results["energy"] == pytest.approx(atoms.get_potential_energy())

    cluster = structures()["cluster"]
    cluster.calc = potential.calculator()
    cluster.calc.get_property("forces_std", cluster)
    with pytest.raises(NotImplementedError):
        cluster.calc.get_property("stress_std", cluster)


# ---- away from the data ------------------------------------------------------------


def scaled(atoms, factor):
    copy = atoms.copy()
    copy.set_cell(atoms.cell * factor)
    copy.positions *= factor
    return copy


def largest(pot, atoms):
    """Std of the energy per atom, and the largest of forces and stress."""
    found = pot.predict(atoms, return_std=True)
    stress = np.nan if found.stress_std is None else found.stress_std.max()
    return np.array([found.energy_std / len(atoms), found.forces_std.max(), stress])


@pytest.fixture(scope="module")
def silicon():
    """A fit to part of the shipped silicon, without its dimers and other phases."""
    train = [f for f in load_silicon() if f.config_type not in ("dimer", "phases")]
    return kp.KernelPotential(preset="fast", n_sparse=100).fit(train[::2])


def test_silicon_is_less_known_away_from_the_data(silicon):
    test = load_silicon("test")
    known = np.max(
        [largest(silicon, f.atoms) for f in test if f.config_type in ("rattled", "vacancy")], axis=0
    )
    crystal = bulk("Si", a=5.469, cubic=True)
    crystal.positions += 0.05 * np.random.default_rng(0).normal(size=(8, 3))
    inside = largest(silicon, crystal)
    assert (inside < known).all()
    for factors in ((0.9, 0.8, 0.7), (1.1, 1.25, 1.4)):
        found = np.array([largest(silicon, scaled(crystal, x)) for x in factors])
        # a stress is per volume, which has doubled at 1.25
        kinds = slice(3 if factors[0] < 1 else 2)
        assert (found[1:, kinds] > known[kinds]).all()
        assert (np.diff(found[:, :2], axis=0) > 0).all()  # further is less known
    for r in (1.6, 2.0, 2.4, 3.0):
        dimer = Atoms("Si2", [[0, 0, 0], [0, 0, r]])
        assert (largest(silicon, dimer)[:2] > 5 * known[:2]).all()
    phases = [largest(silicon, f.atoms) for f in test if f.config_type == "phases"]
    assert len(phases) == 3
    assert (np.array(phases)[:, [0, 2]] > known[[0, 2]]).all()


def test_ethanol_is_less_known_away_from_the_data():
    train, test = list(load_ethanol())[::6], load_ethanol("test")
    pot = kp.KernelPotential(preset="fast", n_sparse=100).fit(train)
    molecules = [f.atoms for f in list(test)[::12] if len(f) > 1]
    known = np.max([largest(pot, atoms)[:2] for atoms in molecules], axis=0)
    for factor in (0.85, 0.8, 1.2, 1.3):
        assert (largest(pot, scaled(molecules[0], factor))[:2] > known).all()
    for pair, r in (("O2", 1.2), ("C2", 1.3), ("CO", 1.1), ("H2", 0.74)):
        dimer = Atoms(pair, [[0, 0, 0], [0, 0, r]])
        assert (largest(pot, dimer)[:2] > 3 * known).all()
