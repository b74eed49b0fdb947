"""What every kind of term must do; a new kind is tested here without a new test."""

import pickle
from dataclasses import dataclass
from typing import ClassVar

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

import kernelpot as kp
from kernelpot.cli.console import read_config
from kernelpot.cli.verbs import config_of, main
from kernelpot.data.system import Contribution, System
from kernelpot.fit.accumulation import FactorTree, Labels, accumulate
from kernelpot.fit.checkpoint import Checkpoint
from kernelpot.fit.pipeline import select
from kernelpot.fit.problem import prepare
from kernelpot.fit.settings import Settings
from kernelpot.fit.state import State
from kernelpot.gp.covariance import covariance_rows
from kernelpot.gp.local import LocalModel, local_features
from kernelpot.gp.posterior import Posterior
from kernelpot.regression.selection import MINIMUM_PER_CLASS
from kernelpot.terms.base import PullsMembers, is_long_ranged
from kernelpot.terms.by_rows import RowTangents
from kernelpot.terms.kinds import KINDS, TERMS, term_from_dict
from kernelpot.testing import numerical_forces, numerical_stress
from tests.conftest import label, rattled_alloy, structures

SPECIES = (13, 29)
VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
NAMES = ["crystal", "slab", "wire", "cluster", "tiny", "left_handed", "unwrapped"]


# Options that change the features.
CHANNELS = {"contraction": 1e-3, "n_channels": 4}
VARIANTS = {
    "triplet_cosine": ("triplet", {"third": "cosine"}),
    "soap_contracted": ("soap", CHANNELS),
    "polynomial_contracted": ("polynomial", CHANNELS),
}


@pytest.fixture(scope="module", params=[*(term.kind for term in KINDS), *VARIANTS])
def term(request):
    kind, options = VARIANTS.get(request.param, (request.param, {}))
    example = TERMS[kind].example(SPECIES).changed(**options)
    # molecules are fewer than environments of atoms
    n_sparse = 40 if example.descriptor(SPECIES).has_centers else 12
    return example.changed(n_sparse=n_sparse, delta=0.8)


@pytest.fixture(scope="module")
def whole(term):
    """Whether it compares whole molecules."""
    return not term.descriptor(SPECIES).has_centers


@pytest.fixture(scope="module")
def data(whole, labelled):
    """Structures to fit: of one molecule, if whole ones are compared."""
    if not whole:
        return labelled
    frames = []
    for seed in range(24):
        cluster = structures()["cluster"]
        cluster.positions += 0.1 * np.random.default_rng(300 + seed).normal(size=(4, 3))
        frames.append(label(cluster, "cluster"))
    return frames


@pytest.fixture(scope="module")
def pot(term, data):
    return kp.KernelPotential([term], baseline=[kp.Wall()]).fit(data, optimize=None)


@pytest.fixture
def of_atoms(whole):
    """Skip what has no meaning for whole molecules."""
    if whole:
        pytest.skip("of environments of atoms, or of crystals")


def example_of(term, name):
    """A structure by its name; what is no molecule is skipped for terms of these."""
    if not term.descriptor(SPECIES).has_centers and name != "cluster":
        pytest.skip("whole molecules are neither periodic nor single atoms")
    atoms = structures()[name]
    if is_long_ranged(term.descriptor(SPECIES)) and 0 < atoms.pbc.sum() < 3:
        pytest.skip("sums over one or two periodic directions are refused")
    return atoms


def usual(term):
    """A structure for any kind of term."""
    return structures()["crystal" if term.descriptor(SPECIES).has_centers else "cluster"]


@pytest.fixture(scope="module")
def design(pot):
    return pot.model.design


def whole_rows(design, atoms, derivatives=True):
    """Rows of all sparse points, in their order."""
    system = System.of([atoms] if isinstance(atoms, Atoms) else atoms, design.r_cut)
    found = dict(covariance_rows(design.terms, design.blocks, system, derivatives=derivatives))
    return np.concatenate([found[k] for k in range(len(design.blocks))], axis=1)


def moved(atoms, i, axis, step):
    copy = atoms.copy()
    copy.positions[i, axis] += step
    return copy


def strained(atoms, a, b, step):
    strain = np.eye(3)
    strain[a, b] += 0.5 * step
    strain[b, a] += 0.5 * step
    copy = atoms.copy()
    copy.set_cell(atoms.cell.array @ strain)
    copy.positions = atoms.positions @ strain
    return copy


def central(function, step=1e-4):
    return (function(step) - function(-step)) / (2 * step)


# ---- rows, mean and derivatives ----------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_forces_and_virials_are_derivatives_of_those_of_energies(term, design, name):
    atoms = example_of(term, name)
    rows = whole_rows(design, atoms)

    def energy(a):
        return whole_rows(design, a, derivatives=False)[0]

    scale = max(np.abs(rows).max(), 1e-3)
    for i in range(len(atoms)):
        for c in range(3):
            slope = central(lambda x, i=i, c=c: energy(moved(atoms, i, c, x)))
            # truncation: h^2 times third derivatives, of the scale of the rows per length cubed
            np.testing.assert_allclose(rows[1 + 3 * i + c], -slope, atol=2e-6 * scale)
    for k, (a, b) in enumerate(VOIGT):
        slope = central(lambda x, a=a, b=b: energy(strained(atoms, a, b, x)))
        np.testing.assert_allclose(rows[1 + 3 * len(atoms) + k], -slope, atol=2e-5 * scale)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fast", [True, False])
def test_mean_and_adjoint_are_the_rows_times_the_weights(term, pot, name, fast):
    model, atoms = pot.model, example_of(term, name)
    local = LocalModel(model.design, model.local.weights, model.local.variances, fast=fast)
    system = model.system(atoms)
    found = local.evaluate(system)
    expected = whole_rows(model.design, atoms) @ model.local.weights
    n = len(atoms)
    scale = np.abs(expected).max() + np.abs(model.local.weights).sum()  # terms that cancel
    assert found.energies.sum() == pytest.approx(expected[0], abs=1e-11 * scale)
    np.testing.assert_allclose(
        system.forces(found.result).ravel(), expected[1 : 1 + 3 * n], atol=1e-11 * scale
    )
    virial = system.virials(found.result)[0]
    np.testing.assert_allclose(
        [virial[a, b] for a, b in VOIGT], expected[1 + 3 * n :], atol=1e-10 * scale
    )


def test_a_batch_is_its_structures_one_by_one(whole, design, monkeypatch):
    names = ("cluster", "cluster") if whole else ("cluster", "crystal", "tiny")
    batch = [structures()[name] for name in names]
    batch[0].rattle(0.05)
    monkeypatch.setattr("kernelpot.terms.over_pairs.JACOBIAN_BYTES", 2e4)  # several chunks
    together = whole_rows(design, batch)
    monkeypatch.undo()
    first = np.cumsum([0, *map(len, batch)])
    for k, atoms in enumerate(batch):
        alone, n = whole_rows(design, atoms), len(atoms)
        parts = [k + np.arange(1), len(batch) + 3 * first[k] + np.arange(3 * n)]
        parts.append(len(batch) + 3 * first[-1] + 6 * k + np.arange(6))
        np.testing.assert_allclose(together[np.concatenate(parts)], alone, atol=1e-11)


@pytest.mark.parametrize("name", ["crystal", "cluster"])
def test_pairs_beyond_the_reach_change_nothing(term, pot, design, name):
    """Other terms may reach farther: a system has the pairs of all."""
    atoms = example_of(term, name)
    near, far = (System.of([atoms], design.r_cut + more) for more in (0.0, 2.0))
    one, two = (dict(covariance_rows(design.terms, design.blocks, s)) for s in (near, far))
    for block, rows in one.items():
        np.testing.assert_allclose(two[block], rows, atol=1e-11)
    one, two = (pot.model.local.evaluate(s) for s in (near, far))
    np.testing.assert_allclose(two.energies, one.energies, atol=1e-10)
    np.testing.assert_allclose(far.forces(two.result), near.forces(one.result), atol=1e-10)
    for bound in design.terms:
        one, two = (bound.descriptor.environments(s, slice(0, len(atoms))) for s in (near, far))
        np.testing.assert_allclose(two.x, one.x, atol=1e-12)
        by_near, by_far = (
            bound.descriptor.tangents(s, e).moved_by(1) for s, e in ((near, one), (far, two))
        )
        assert set(by_near[0]) <= set(by_far[0])  # of the others nothing changes
        for member, by_x in zip(by_far[0], by_far[1], strict=True):
            own = by_near[1][by_near[0] == member]
            np.testing.assert_allclose(by_x, own[0] if len(own) else 0.0, atol=1e-11)


def test_environments_of_runs_are_those_of_all(of_atoms, design):
    batch = [structures()[name] for name in ("cluster", "crystal")]
    system = System.of(batch, design.r_cut)
    for bound in design.terms:
        whole = bound.descriptor.environments(system, slice(0, system.n_atoms))
        counts = np.bincount(whole.key, minlength=len(bound.descriptor.keys))
        np.testing.assert_array_equal(bound.descriptor.count(system), counts)
        runs = [slice(a, a + 3) for a in range(0, system.n_atoms - 3, 3)]
        runs.append(slice(runs[-1].stop, system.n_atoms))
        parts = [bound.descriptor.environments(system, run) for run in runs]
        for name in ("key", "center", "structure", "x", "weight"):
            if getattr(whole, name) is not None:
                together = np.concatenate([getattr(part, name) for part in parts])
                np.testing.assert_allclose(together, getattr(whole, name), atol=1e-13)


def test_derivatives_are_added_to_what_is_there(term, design, rng):
    """Another term may have been there before."""
    system = System.of([usual(term)], design.r_cut)
    for bound in design.terms:
        found = bound.descriptor.environments(system, slice(0, system.n_atoms))
        by_x = rng.normal(size=found.x.shape)
        by_weight = None if found.weight is None else rng.normal(size=len(found))
        alone, after = Contribution.zero(system), Contribution.zero(system)
        before = [rng.normal(size=part.shape) for part in (after.gradient, after.forces)]
        after.gradient[:], after.forces[:] = before
        for out in (alone, after):
            bound.descriptor.pull(system, found, by_x, by_weight, out)
        assert max(np.abs(alone.gradient).max(initial=0), np.abs(alone.forces).max()) > 0
        np.testing.assert_allclose(after.gradient, before[0] + alone.gradient, atol=1e-12)
        np.testing.assert_allclose(after.forces, before[1] + alone.forces, atol=1e-12)


def test_the_kernel_is_of_the_terms_delta(term):
    assert term.kernel().delta == term.delta
    kernel, larger = term.kernel(), term.changed(delta=2 * term.delta).kernel()
    x = term.descriptor(SPECIES).environments(System.of([usual(term)], term.r_cut), slice(0, 4)).x
    u = kernel.embed(x)[0]
    np.testing.assert_allclose(larger.between(u, u), 4 * kernel.between(u, u), rtol=1e-14)


@pytest.mark.parametrize("gate", [False, "all beyond", "some beyond"])
@pytest.mark.parametrize("name", ["crystal", "cluster"])
def test_forces_and_stress_are_derivatives_through_the_gate(term, pot, name, gate):
    atoms = example_of(term, name)
    if name == "crystal":
        atoms = rattled_alloy(21, (1, 1, 1), 0.25)
    if gate and not term.descriptor(SPECIES).has_centers:
        pytest.skip("energies of no atom are outside the net")
    if gate:
        std = np.sort(pot.predict(atoms, gate=kp.VarianceGate(std_known=1e-6)).std_bound)
        assert std[0] > 0
        known = 0.5 * std[0] if gate == "all beyond" else 0.5 * (std[0] + std[-1])
        gate = kp.VarianceGate(std_known=known)
        n_beyond = np.count_nonzero(std > known)

    class Gated:
        def predict(self, a):
            return pot.predict(a, gate=gate)

    found = Gated().predict(atoms)
    if gate:
        assert np.count_nonzero(found.penalty) == n_beyond > 0
    # truncation: the square of the step times third derivatives
    numerical = numerical_forces(Gated(), atoms)
    np.testing.assert_allclose(found.forces, numerical, atol=1e-6 * np.abs(numerical).max())
    if name == "crystal":
        numerical = numerical_stress(Gated(), atoms)
        np.testing.assert_allclose(found.stress, numerical, atol=1e-6 * np.abs(numerical).max())


def test_the_gradient_of_the_variance_is_a_derivative(of_atoms, pot):
    atoms = structures()["cluster"]
    weights = np.linspace(0.5, 1.5, len(atoms))
    found = pot.variance_gradient(atoms, weights)
    scale = np.abs(found).max()
    for i in range(len(atoms)):
        for c in range(3):
            slope = central(
                lambda x, i=i, c=c: (
                    weights @ pot.model.posterior_local_std(moved(atoms, i, c, x)) ** 2
                )
            )
            assert found[i, c] == pytest.approx(slope, abs=1e-5 * scale)


@pytest.mark.parametrize("name", ["cluster", "tiny"])
def test_tangents_are_those_of_the_rows(term, design, name):
    atoms = example_of(term, name)
    system = System.of([atoms], design.r_cut)
    for term in design.terms:
        found = term.descriptor.environments(system, slice(0, len(atoms)))
        own = term.descriptor.tangents(system, found)
        by_rows = RowTangents(term.descriptor, system, found)
        everything = np.arange(len(found))
        for a, b in zip(own.strained(everything), by_rows.strained(everything), strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                np.testing.assert_allclose(a, b, atol=1e-10 * np.abs(b).max())
        for atom in range(len(atoms)):
            full = []
            for members, *derivatives in (own.moved_by(atom), by_rows.moved_by(atom)):
                whole = np.zeros((len(found), 3, found.x.shape[1] + 1))
                whole[members, :, :-1] = derivatives[0]
                if derivatives[1] is not None:
                    whole[members, :, -1] = derivatives[1]
                full.append(whole)
            np.testing.assert_allclose(full[0], full[1], atol=1e-10 * np.abs(full[1]).max())


# ---- physics -----------------------------------------------------------------------


def test_energy_is_invariant_and_forces_turn_along(of_atoms, pot, rng):
    atoms = structures()["crystal"]
    before = pot.predict(atoms, return_std="local")
    turned = atoms.copy()
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]  # may be a reflection
    turned.set_cell(atoms.cell.array @ turn.T)
    turned.positions = atoms.positions @ turn.T + [0.3, -0.2, 0.7]
    order = rng.permutation(len(atoms))
    after = pot.predict(turned[order], return_std="local")
    assert after.energy == pytest.approx(before.energy, abs=1e-9)
    np.testing.assert_allclose(after.forces, before.forces[order] @ turn.T, atol=1e-8)
    np.testing.assert_allclose(after.energies_std, before.energies_std[order], rtol=1e-6)


def test_energy_is_extensive(of_atoms, pot, term):
    atoms = structures()["crystal"]
    twice = pot.predict(atoms.repeat((2, 1, 1)))
    assert twice.energy == pytest.approx(2 * pot.predict(atoms).energy, abs=1e-8)
    cluster = structures()["cluster"]

    def interaction(distance):
        far = cluster.copy()
        far.positions += distance
        return pot.predict(cluster + far).energy - 2 * pot.predict(cluster).energy

    if is_long_ranged(term.descriptor(SPECIES)):  # as what is between two charges
        near, far = interaction(1e4), interaction(2e4)
        assert abs(near) > 1e-6
        assert near / far == pytest.approx(2.0, rel=0.01)
    else:
        assert interaction(100.0) == pytest.approx(0.0, abs=1e-8)


def test_an_atom_crosses_the_cutoff_smoothly(of_atoms, pot, term):
    """Energy and forces are continuous: their change falls with the step."""
    if not term.r_cut:
        pytest.skip("there is no cutoff")
    # its other neighbor is far inside the cutoff, and nothing touches the wall
    trimer = Atoms("CuAlCu", [[0, 0, 0], [0, 2.4, 0], [0, -0.4, 0]])
    across = np.sqrt(term.r_cut**2 - 0.4**2)

    def change(step):
        found = []
        for x in (across - step, across + step):
            trimer.positions[2, 0] = x
            found.append(pot.predict(trimer))
        return found[1].energy - found[0].energy, found[1].forces - found[0].forces

    (wide, wide_forces), (narrow, narrow_forces) = change(1e-2), change(1e-4)
    assert abs(narrow) < 0.05 * abs(wide) + 1e-10  # a jump would stay as it is
    assert np.abs(narrow_forces).max() < 0.05 * np.abs(wide_forces).max() + 1e-9  # so would a kink


def test_free_atoms_have_their_energy(pot):
    for z, symbol in zip(SPECIES, ("Al", "Cu"), strict=True):
        found = pot.predict(Atoms(symbol))
        assert np.abs(found.forces).max() == 0
        if not TERMS[pot.terms[0].kind].example(SPECIES).descriptor(SPECIES).one_per_atom:
            assert found.energy == pytest.approx(pot.model.e0.e0[z], abs=1e-12)


# ---- variance ----------------------------------------------------------------------


def total_kernel(design, one, two):
    """Prior covariance of the energies of two structures, summed over environments."""
    total = 0.0
    for term in design.terms:
        found = []
        for atoms in (one, two):
            system = System.of([atoms], design.r_cut)
            environments = term.descriptor.environments(system, slice(0, len(atoms)))
            weight = environments.weight
            weight = np.ones(len(environments)) if weight is None else weight
            found.append((environments.key, weight, term.kernel.embed(environments.x)[0]))
        (key, w, u), (other_key, other_w, v) = found
        same = key[:, None] == other_key
        total += w @ (same * term.kernel.between(u, v)) @ other_w
    return total


@pytest.mark.parametrize("name", ["cluster", "tiny"])
def test_priors_are_those_of_the_kernel(term, pot, design, name):
    """Of energies: the sum over environments; of forces and virials: its mixed differences."""
    atoms = example_of(term, name)
    system = System.of([atoms], design.r_cut)
    prior, scale = Posterior(design, pot.model.factor).prior(system, virial=True)
    assert prior[0] == pytest.approx(total_kernel(design, atoms, atoms), rel=1e-10)
    assert np.all(prior <= scale * (1 + 1e-12))
    h = 1e-3

    def mixed(change):
        sides = [change(h), change(-h)]
        return sum(
            s * t * total_kernel(design, sides[s < 0], sides[t < 0])
            for s in (1, -1)
            for t in (1, -1)
        ) / (4 * h * h)

    for i in range(len(atoms)):
        for c in range(3):
            expected = mixed(lambda x, i=i, c=c: moved(atoms, i, c, x))
            # truncation h^2, rounding 1e-16 / h^2 of the scale
            assert prior[1 + 3 * i + c] == pytest.approx(expected, rel=1e-4, abs=1e-7 * scale.max())
    for k, (a, b) in enumerate(VOIGT):
        expected = mixed(lambda x, a=a, b=b: strained(atoms, a, b, x))
        assert prior[1 + 3 * len(atoms) + k] == pytest.approx(
            expected, rel=1e-4, abs=1e-7 * scale.max()
        )


def test_standard_deviations_are_dense_algebra(term, pot, design):
    atoms = usual(term)
    if atoms.pbc.any():
        atoms = rattled_alloy(31, (1, 1, 1), 0.3)
    model = pot.model
    system = model.system(atoms)
    found = pot.predict(atoms, return_std=True).posterior
    covariance = np.linalg.inv(model.factor.R.T @ model.factor.R)[:-1, :-1]

    def variance(phi, prior):
        explained = np.einsum("nm,nm->n", phi, phi)
        return prior - explained + np.einsum("nm,mk,nk->n", phi, covariance, phi)

    phi, prior = local_features(design, system)
    np.testing.assert_allclose(prior, model.local.prior(system), rtol=1e-12)
    if atoms.pbc.any():
        local = variance(phi, prior)
        np.testing.assert_allclose(found.energies_std**2, local, atol=1e-7 * prior.max())
    rows = whole_rows(design, atoms)
    phi = np.zeros((len(rows), design.layout.size))
    for block in design.blocks:
        phi[:, block.columns] = block.whitened(rows[:, block.sparse])
    prior, scale = model.uncertainty.posterior.prior(system, virial=True)
    expected = variance(phi, prior)
    volume = atoms.get_volume() if atoms.pbc.any() else None
    computed = np.concatenate(
        [
            [found.energy_std**2],
            found.forces_std.ravel() ** 2,
            [] if volume is None else (found.stress_std * volume) ** 2,
        ]
    )
    n = len(computed)  # without a cell there is no stress
    np.testing.assert_allclose(computed, expected[:n], atol=1e-7 * scale.max())


def test_samples_spread_as_the_data_leave_open(term, pot):
    atoms = usual(term)
    if atoms.pbc.any():
        atoms = rattled_alloy(33, (1, 1, 1), 0.2)
    n = 4000
    sampled = pot.sample(n, 3).predict(atoms)
    found = pot.predict(atoms, return_std=True).posterior
    calibration = pot.model.calibration
    spread = 1.0 if calibration is None else calibration.spread
    for samples, open_ in (
        (sampled.energies, found.energy_open),
        (sampled.forces, found.forces_open),
        (sampled.stresses, found.stress_open),
    ):
        if open_ is None:  # the stress of what has no cell
            continue
        # the std of n samples is off by std / sqrt(2 n); 5 sigma
        np.testing.assert_allclose(
            samples.std(axis=0), spread * open_, rtol=5 / np.sqrt(2 * n), atol=1e-9
        )


def test_a_member_of_a_committee_is_what_the_committee_says(term, pot):
    atoms = usual(term)
    committee = pot.sample(2, 5)
    together, mean = committee.predict(atoms), pot.predict(atoms)
    # what moves all members at once does so in single precision
    descriptor = pot.model.design.terms[0].descriptor
    precision = 5e-5 if isinstance(descriptor, PullsMembers) else 0.0
    for k, member in enumerate(committee):
        alone = member.predict(atoms)
        assert together.energies[k] == pytest.approx(alone.energy, abs=1e-8)
        # weights of smooth kernels are large and cancel: by splines and by sums to 3e-8 eV/Å
        atol = max(1e-7, precision * np.abs(alone.forces - mean.forces).max())
        np.testing.assert_allclose(together.forces[k], alone.forces, atol=atol)
        if alone.stress is not None:
            atol = max(1e-9, precision * np.abs(alone.stress - mean.stress).max())
            np.testing.assert_allclose(together.stresses[k], alone.stress, atol=atol)


# ---- files, clusters, configurations -----------------------------------------------


def test_a_term_is_rebuilt_from_plain_data(term):
    again = term_from_dict(term.to_dict())
    assert again == term
    assert again.describe() == term.describe()
    assert term.changed(delta=3.0) != term
    assert term.changed(delta=3.0).delta == 3.0


@dataclass(frozen=True)
class OwnPairTerm(kp.PairTerm):
    """A kind of one's own, with a field that TOML and JSON have as a list."""

    shells: tuple[tuple[float, ...], ...] = ((1.0, 2.0), (3.0,))

    kind: ClassVar[str] = "own_pair"


def test_a_kind_of_ones_own_is_saved_once_it_is_known(labelled, tmp_path, monkeypatch):
    own = OwnPairTerm(r_cut=4.0, n_sparse=30, shells=[[2.0], [1.0, 4.0]])
    assert own.shells == ((2.0,), (1.0, 4.0))
    pot = kp.KernelPotential([own], baseline=[]).fit(labelled, optimize=None)
    with pytest.raises(ValueError, match="cannot be saved: unknown kind of term 'own_pair'"):
        pot.save(tmp_path / "model.kpot")
    assert not (tmp_path / "model.kpot").exists()
    monkeypatch.setitem(TERMS, "own_pair", OwnPairTerm)
    pot.save(tmp_path / "model.kpot")
    assert kp.load(tmp_path / "model.kpot").terms == [own]


def test_what_is_no_plain_data_is_named():
    for weights in ({"Si": "x"}, {"Si": [1.0, 2.0]}):
        with pytest.raises(TypeError, match=r"`species_weighting\[Si\]` must be a number"):
            kp.SOAPTerm(r_cut=4.0, species_weighting=weights)
    with pytest.raises(TypeError, match="keys of `species_weighting` must be strings, got 14"):
        kp.SOAPTerm(r_cut=4.0, species_weighting={14: 1.0})


def test_a_saved_model_is_the_same_to_the_last_bit(term, pot, tmp_path):
    pot.save(tmp_path / "model.kpot")
    again = kp.load(tmp_path / "model.kpot")
    assert again.terms == pot.terms
    atoms = usual(term)
    one, two = (p.predict(atoms, return_std=True, gate=True) for p in (pot, again))
    for name in ("energies", "forces", "stress", "energies_std", "forces_std", "stress_std"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert again.summary() == pot.summary()
    assert pot.terms[0].describe()[0] in pot.summary()


def test_a_checkpoint_holds_the_design(term, design, tmp_path):
    keeper = Checkpoint(tmp_path / "state", "this fit")
    keeper.save(State(design, ["a note"], FactorTree(design.n_columns), [1]))
    again = Checkpoint(tmp_path / "state", "this fit").load()
    atoms = usual(term)
    np.testing.assert_array_equal(whole_rows(again.design, atoms), whole_rows(design, atoms))
    for one, two in zip(again.design.blocks, design.blocks, strict=True):
        np.testing.assert_array_equal(one.T, two.T)
        assert (one.key, one.term, one.columns) == (two.key, two.term, two.columns)


def test_labels_travel_to_workers(term, data):
    settings = Settings(terms=[term], baseline=[])
    problem = prepare(kp.read_dataset(data), settings)
    labels = Labels(select(problem, settings).design, problem.frames[:6], problem.noise)
    there = pickle.loads(pickle.dumps(labels))  # noqa: S301 - our own
    one, two = accumulate(labels), accumulate(there)
    for group in one.groups:
        for kept in ("rows", "triangles"):
            if group in getattr(one, kept):
                a, b = getattr(one, kept)[group], getattr(two, kept)[group]
                np.testing.assert_array_equal(getattr(a, "matrix", a), getattr(b, "matrix", b))


def test_a_configuration_file_names_its_kind(term, tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(config_of([term]), encoding="utf-8")
    assert read_config(str(path))["terms"] == [term]


# ---- everything that takes a model -------------------------------------------------


def test_fit_with_everything_on(term, data, tmp_path):
    pot = kp.KernelPotential([term, kp.SOAPTerm.example(SPECIES).changed(n_sparse=30)])
    pot.fit(data, checkpoint=tmp_path / "state")
    assert pot.model.training.hyperparameters["method"] == "loo"
    assert pot.model.calibration is not None
    errors = pot.model.training.errors
    spread = np.std([a.info["REF_energy"] / len(a) for a in data])
    assert errors["energy_rmse_mev_per_atom"] < 300 * spread  # far better than the mean
    suspects = pot.suspicious(data)
    assert len(suspects) == len(data)


def test_updates_add_points_and_select_frames_scores(term, data):
    old, new = kp.read_dataset(data)[:15], kp.read_dataset(data)[15:]
    pot = kp.KernelPotential([term], baseline=[kp.Wall()]).fit(old, optimize=None)
    before = pot.model.design.n_sparse
    chosen = kp.select_frames(pot, [f.atoms for f in new], 3)
    assert len(set(chosen.indices.tolist())) == 3
    assert np.all(np.diff(chosen.scores) <= 0)
    with pytest.warns(UserWarning, match="an update leaves in place"):
        pot.update(new, add_sparse=5, data=old)
    assert before < pot.model.design.n_sparse <= before + 5
    assert pot.model.training.n_structures == len(data)


def test_the_number_of_sparse_points_can_be_left_to_the_term(term, data):
    pot = kp.KernelPotential(
        [term.changed(n_sparse=None)],
        baseline=[],
        n_sparse=60 if term.descriptor(SPECIES).has_centers else 12,
    )
    pot.fit(data, optimize=None)
    n_keys = sum(len(block.points) > 0 for block in pot.model.design.blocks)
    assert 1 <= pot.model.design.n_sparse <= max(60, MINIMUM_PER_CLASS * n_keys)
    assert pot.terms[0].n_sparse in (None, pot.model.design.n_sparse)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("n_sparse", -3, "`n_sparse` must be a positive integer or None, got -3"),
        ("n_sparse", 2.5, "`n_sparse` must be a positive integer"),
        ("n_sparse", "x", "`n_sparse` must be a number"),
        ("delta", -1.0, "`delta` must be positive"),
        ("sparse_method", "foo", "`sparse_method` must be one of farthest_point"),
    ],
)
def test_fields_of_every_term_are_checked(term, name, value, message):
    with pytest.raises((ValueError, TypeError), match=message):
        term.changed(**{name: value})


def test_a_search_moves_its_parameters(term, data):
    if not term.searched:
        pytest.skip("no parameter of this kind is searched")
    found = kp.search(
        data,
        budget=3,
        potential=kp.KernelPotential([term], baseline=[kp.Wall()]),
        parameters=list(term.searched)[:1],
        refit=False,
    )
    assert len(found.results_) >= 2
    name = list(term.searched)[0]
    assert found.results_[1]["terms"][0][name] != found.results_[0]["terms"][0][name]


def test_the_command_line_fits_and_reports(term, data, tmp_path, capsys):
    config, file, model = (tmp_path / name for name in ("c.toml", "d.xyz", "m.kpot"))
    config.write_text(config_of([term]), encoding="utf-8")
    ase.io.write(file, data, format="extxyz")
    arguments = ["fit", str(file), "-o", str(model), "--config", str(config), "--quiet"]
    assert main(arguments) == 0
    assert main(["info", str(model), "--json", str(tmp_path / "info.json")]) == 0
    assert term.describe()[0] in capsys.readouterr().out
    page = tmp_path / "report.html"
    assert main(["report", str(model), str(file), "-o", str(page), "--quiet"]) == 0
    assert page.stat().st_size > 10_000


def test_dynamics_conserve_energy(of_atoms, pot):
    from ase.md.verlet import VelocityVerlet
    from ase.units import fs, kB

    atoms = bulk("Cu", cubic=True).repeat((2, 1, 1))
    atoms.numbers[::4] = 13
    atoms.rattle(0.05, seed=2)
    spread = np.sqrt(atoms.get_masses() * kB * 300)[:, None]
    atoms.set_momenta(spread * np.random.default_rng(1).normal(size=(len(atoms), 3)))

    def fluctuation(step, n):
        copy = atoms.copy()
        copy.calc = pot.calculator(gate=None)
        copy.set_momenta(atoms.get_momenta())
        energies = []
        dynamics = VelocityVerlet(copy, step * fs)
        dynamics.attach(lambda: energies.append(copy.get_total_energy()))
        dynamics.run(n)
        return np.std(energies)

    # velocity Verlet: the square of the step, if forces are the derivative of the energy
    assert fluctuation(1.0, 40) < 0.35 * fluctuation(2.0, 20)
