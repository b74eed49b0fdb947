"""Error models, intervals, and measures of both."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import norm, t

import kernelpot as kp
from kernelpot.datasets import load_silicon
from kernelpot.model import errors
from kernelpot.model.calibration import LEVELS, TAILS, Beyond, Calibration, ErrorModel, log_loss
from kernelpot.model.summary import _calibration_lines, uncertainty_table
from kernelpot.model.uncertainty import N_MEMBERS


@pytest.mark.parametrize("tails", [np.inf, 4.0])
def test_log_losses_are_those_of_the_best_factor(rng, tails):
    std = np.exp(rng.normal(size=500))
    residual = 3.0 * std * t(4).rvs(500, random_state=rng)
    family = norm if np.isinf(tails) else t(tails)

    def loss(log_factor):
        scale = np.exp(log_factor) * std
        return -np.mean(family.logpdf(residual / scale) - np.log(scale))

    best = minimize_scalar(loss, bounds=(-1.0, 3.0), method="bounded", options={"xatol": 1e-9})
    # constants of the distributions are left out
    of_one = -np.log(2 * np.pi) / 2 - 0.5 if np.isinf(tails) else t(tails).logpdf(0.0)
    assert log_loss(residual, std, tails) == pytest.approx(best.fun + of_one, abs=1e-8)
    assert log_loss(2.0 * residual, std, tails) == pytest.approx(best.fun + of_one + np.log(2.0))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_scale_and_constant_part_are_found(rng, share):
    """Heavy tails: what was put in is found, and intervals hold new labels as promised."""
    n = 20_000

    def draw():
        open_ = np.exp(rng.normal(size=n))
        std = 2.5 * np.hypot(open_, share)
        return std * t(TAILS).rvs(n, random_state=rng), open_, std

    residual, open_, std = draw()
    found = ErrorModel.of(residual, open_)
    # a Student distribution has more than unit variance; its own variance is known to 5 %
    assert found.scale == pytest.approx(2.5 * np.sqrt(TAILS / (TAILS - 2)), rel=0.1)
    assert found.constant / found.scale == pytest.approx(share, abs=0.05)
    assert found.typical == pytest.approx(np.sqrt(np.mean(open_**2)))
    assert np.mean((residual / found.std(open_)) ** 2) == pytest.approx(1.0)
    new, open_, std = draw()
    # three times the statistical error of 0.004 of a share in 20,000, of two samples
    for level in (*LEVELS, 0.6, 0.85, 0.97):
        covered = np.mean(np.abs(new) < found.at(level) * found.std(open_))
        assert covered == pytest.approx(level, abs=0.012)


def test_gaussian_errors_have_gaussian_intervals(rng):
    open_ = np.exp(rng.normal(size=200_000))
    found = ErrorModel.of(open_ * rng.normal(size=200_000), open_)
    for level in (0.3, 0.6827, 0.95):
        assert found.at(level) == pytest.approx(norm.ppf(0.5 + level / 2), rel=8e-3)
    assert found.scale == pytest.approx(1.0, abs=5e-3)


def test_errors_that_do_not_follow_the_open_part_have_a_constant_std(rng):
    """An open part that misleads costs nothing: never less likely than the best constant."""
    open_ = np.exp(rng.normal(size=2000))
    for residual in (rng.normal(size=2000), rng.normal(size=2000) / open_):
        found = ErrorModel.of(residual, open_)
        constant = np.full(2000, np.sqrt(np.mean(residual**2)))
        nll = errors.negative_log_likelihood
        assert nll(residual, found.std(open_)) <= nll(residual, constant) + 1e-9


def test_few_labels_are_not_trusted_beyond_the_largest():
    found = ErrorModel.of(np.arange(1.0, 11.0), np.ones(10))
    one = np.sqrt(np.mean(np.arange(1.0, 11.0) ** 2))
    # with ten labels the interval of 50 % is the 6th smallest, that of 99 % the largest
    assert found.quantiles[0] * one == pytest.approx(6.0)
    assert found.quantiles[-1] * one == pytest.approx(10.0)


def test_labels_that_are_right_have_no_error():
    found = ErrorModel.of(np.zeros(12), np.ones(12))
    assert found.scale == found.constant == 0.0


@pytest.fixture
def calibration(rng):
    n = 400
    open_ = np.where(np.arange(n) < 300, 0.1, 0.2) * np.exp(0.3 * rng.normal(size=n))
    number = np.where(np.arange(n) < 300, 1, 8)
    number[-5:] = 6
    residual = open_ * rng.normal(size=n) * np.where(number == 1, 1.0, 4.0)
    open_[::50] = 1e-9  # zero by symmetry
    return Calibration.of(
        {"forces": residual, "energy": residual[:20]},
        {"forces": open_, "energy": np.full(20, 0.1)},
        {"forces": number, "energy": np.zeros(20, int)},
        20,
    )


def test_species_have_their_own_models_where_labels_suffice(calibration):
    assert set(calibration.models["forces"]) == {0, 1}
    found = calibration.per_atom("forces", 0.68, np.array([1, 8, 1]))
    assert found[0] == found[2]
    assert found[1] == calibration.half_width("forces", 0.68) != found[0]
    assert calibration.half_width("forces", None, 1) == 1.0
    assert calibration.half_width("stress", 0.9) is None
    assert calibration.per_atom("stress", 0.9, np.array([1])) is None
    with pytest.raises(ValueError, match=r"`level` must be between 0 and 1.*got 95"):
        calibration.half_width("forces", 95)
    assert Calibration.from_dict(calibration.to_dict()) == calibration
    # the summary names species that share the error model of all
    described = {"calibration": calibration.to_dict(), "species": ["H", "C", "O"]}
    said = "\n".join(_calibration_lines(described))
    assert "forces on H: " in said
    assert "forces on C, O (as of all species together: fewer than 100 labels of their own)" in said
    assert "all species together" not in "\n".join(
        _calibration_lines({**described, "species": ["H"]})
    )


def test_standard_deviations_of_structures(calibration):
    numbers = np.array([1, 8])
    open_ = np.array([[0.1, 0.2, 1e-9], [0.3, 0.1, 0.0]])
    std = calibration.std("forces", open_, numbers)
    for row, found in enumerate((calibration.model("forces", 1), calibration.model("forces"))):
        expected = np.hypot(found.scale * open_[row], found.constant)
        zero = open_[row] < 1e-6  # by symmetry, and stays so
        np.testing.assert_allclose(std[row][~zero], expected[~zero], rtol=1e-12)
        np.testing.assert_allclose(std[row][zero], 0.0, atol=1e-7)
    energy = calibration.model("energy")
    # the constant part of an energy grows with the root of the number of atoms
    assert calibration.std("energy", 0.2, numbers) == pytest.approx(
        np.hypot(energy.scale * 0.2, np.sqrt(2.0) * energy.constant)
    )
    # no labels of stress: as wide as the potentials that are drawn
    np.testing.assert_allclose(
        calibration.std("stress", np.ones(6), numbers), calibration.spread, rtol=1e-12
    )
    local = calibration.std("energies", np.ones(2), numbers)
    assert local.tolist() == [
        calibration.model("forces", 1).scale or calibration.spread,
        calibration.model("forces").scale or calibration.spread,
    ]


def test_potentials_drawn_spread_as_wide_as_forces_err(rng):
    open_ = np.exp(rng.normal(size=3000))
    residual = 3.0 * np.hypot(open_, 0.5) * rng.normal(size=3000)
    found = Calibration.of(
        {"energy": 7.0 * residual, "forces": residual},
        {"energy": open_, "forces": open_},
        {"energy": np.zeros(3000, int), "forces": np.full(3000, 14)},
        30,
    )
    std = found.model("forces", 14).std(open_)
    assert found.spread == pytest.approx(np.sqrt(np.mean(std**2) / np.mean(open_**2)), rel=1e-12)


@pytest.fixture(scope="module")
def silicon():
    return kp.KernelPotential(n_sparse=100).fit(load_silicon("train"), optimize="loo")


def test_intervals_of_a_fit_hold_unseen_labels(silicon):
    errors = kp.evaluate(silicon, load_silicon("test"), uncertainty=True)
    forces = errors["uncertainty"]["forces"]
    # errors within a structure go together: 22 test structures are few
    assert forces["coverage_68"] == pytest.approx(0.68, abs=0.12)
    assert forces["coverage_95"] == pytest.approx(0.95, abs=0.05)
    assert forces["spearman"] > 0.5
    assert forces["nll"] < forces["nll_constant"]
    assert set(errors["uncertainty"]) == {"energy", "forces", "stress"}
    for group in errors["by_config_type"].values():
        assert "forces" in group["uncertainty"] or group["forces_mae_ev_per_ang"] is None


def test_standard_deviations_are_those_of_potentials_drawn(silicon):
    """The spread of the members, each evaluated as a potential of its own."""
    atoms = load_silicon("test")[2].atoms
    model, found = silicon.model, silicon.predict(atoms, return_std=True)
    assert model.calibration.growth is None  # sparse points
    weights = model.uncertainty.members.weights
    assert len(weights) == N_MEMBERS
    deviations = []
    for own in weights:
        local = replace(model.local, weights=own)
        member = replace(model, local=local).predict(atoms)
        bare = replace(model, local=replace(model.local, weights=0 * own)).predict(atoms)
        deviations.append(
            (
                member.energy - bare.energy,
                member.forces - bare.forces,
                member.stress - bare.stress,
            )
        )
    by_kind = zip(*deviations, strict=True)
    for kind, values in zip(("energy", "forces", "stress"), by_kind, strict=True):
        spread = np.sqrt(np.mean(np.square(values), axis=0))
        expected = model.calibration.std(kind, spread, atoms.numbers)
        # deviations of forces are in single precision
        np.testing.assert_allclose(getattr(found, f"{kind}_std"), expected, rtol=1e-5)
    local = found.posterior.energies_std * model.calibration.local_scale(atoms.numbers)
    np.testing.assert_allclose(found.energies_std, local, rtol=1e-12)
    np.testing.assert_allclose(silicon.local_std(atoms), local, rtol=1e-9)


def test_members_spread_as_the_data_leave_open(silicon):
    """Of n potentials the mean square has a relative deviation of the root of 2 / n."""
    ratio = []
    for frame in list(load_silicon("test"))[:12]:
        _, forces, _ = silicon.model.uncertainty.members.evaluate(silicon.model.system(frame.atoms))
        exact = silicon.predict(frame.atoms, return_std=True).posterior.forces_open
        # others are zero by symmetry
        used = exact > 1e-3 * silicon.model.calibration.model("forces", 14).typical
        ratio.append(np.mean(forces**2, axis=0)[used] / exact[used] ** 2)
    ratio = np.concatenate(ratio)
    # components of a structure go together: some tens of independent numbers
    assert ratio.mean() == pytest.approx(1.0, abs=0.2)
    assert ratio.std() == pytest.approx(np.sqrt(2 / N_MEMBERS), rel=0.4)


def test_samples_spread_in_forces_as_their_standard_deviations(silicon):
    test = load_silicon("test")
    committee = silicon.sample(40, rng=3)
    spread, std = [], []
    for frame in test:
        found = committee.predict(frame.atoms)
        spread.append(found.forces.std(axis=0, ddof=1).ravel())
        std.append(silicon.predict(frame.atoms, return_std=True).forces_std.ravel())
    spread, std = np.concatenate(spread), np.concatenate(std)
    # 16 and 40 potentials know a root mean square over many components to about a tenth
    assert np.sqrt(np.mean(spread**2) / np.mean(std**2)) == pytest.approx(1.0, abs=0.2)


def test_what_is_like_nothing_in_the_data_has_the_prior_as_its_error():
    """An excess of spilling over that of structures left out, of energies and slopes."""
    known = {14: Beyond(0.1, 2.0, 3.0)}
    found = Calibration(
        {"forces": {0: ErrorModel(2.0, 0.1, 1.0, (1.0,) * len(LEVELS), 9)}}, 10, 2.0, known
    )
    numbers = np.array([14, 14, 6])
    excess = found.excess(np.array([0.05, 0.6, 0.2]), np.full(3, 4.0), numbers)
    np.testing.assert_allclose(excess, [0.0, 2.0, 0.8])  # carbon was in no structure left out
    open_ = np.ones((3, 3))
    inside = found.std("forces", open_, numbers)
    std = found.std("forces", open_, numbers, excess)
    np.testing.assert_allclose(std[0], inside[0])
    np.testing.assert_allclose(std[1], np.hypot(inside[1], 2.0 * np.sqrt(2.0)))
    assert found.std("energy", 1.0, numbers, excess) == pytest.approx(np.hypot(2.0, np.sqrt(2.8)))
    np.testing.assert_allclose(
        found.std("stress", np.zeros(6), numbers, excess, 5.0), 3.0 * np.sqrt(2.8) / 5.0
    )


def test_the_posterior_has_its_own_numbers(silicon):
    atoms = load_silicon("test")[2].atoms
    found = silicon.predict(atoms, return_std=True)
    for kind in ("energy", "energies", "forces", "stress"):
        whole, left, novel = (
            getattr(found.posterior, f"{kind}_{part}") for part in ("std", "open", "novelty")
        )
        np.testing.assert_allclose(np.hypot(left, novel), whole, rtol=1e-9)
    assert found.posterior is found.posterior
    with pytest.raises(ValueError, match="return_std=True"):
        _ = silicon.predict(atoms).posterior


def test_intervals_are_quantiles_times_standard_deviations(silicon, tmp_path):
    atoms = load_silicon("test")[2].atoms
    found = silicon.predict(atoms, return_std=True)
    interval, calibration = found.interval(0.9), silicon.fitted_.calibration
    for kind in ("energy", "energies", "forces", "stress"):
        std = getattr(found, f"{kind}_std")
        np.testing.assert_array_equal(getattr(found.interval(None), kind), std)
        factor = calibration.half_width(kind, 0.9, 14)
        np.testing.assert_allclose(getattr(interval, kind), factor * std, rtol=1e-12)
    assert interval.energies.shape == (len(atoms),)
    assert np.all(found.interval(0.99).forces >= interval.forces)
    local = silicon.predict(atoms, return_std="local").interval(0.9)
    assert local.forces is None
    assert local.energy is None
    np.testing.assert_allclose(local.energies, interval.energies)

    silicon.save(tmp_path / "model.kpot")
    loaded = kp.load(tmp_path / "model.kpot")
    assert loaded.fitted_.calibration == calibration
    assert loaded.describe()["calibration"]["n_structures"] == calibration.n_structures
    again = loaded.predict(atoms, return_std=True)
    np.testing.assert_allclose(again.forces_std, found.forces_std, rtol=1e-9)


def test_few_structures_are_not_calibrated_and_that_is_said(silicon):
    atoms = load_silicon("test")[2].atoms
    with pytest.raises(ValueError, match="return_std=True"):
        silicon.predict(atoms).interval()
    few = kp.KernelPotential(n_sparse=20).fit(load_silicon("train")[:6])
    found = few.predict(atoms, return_std=True)
    with pytest.raises(ValueError, match="not calibrated"):
        found.interval()
    assert found.calibration is None
    # its standard deviations are those of the posterior, and the summary says so
    for kind in ("energy", "energies", "forces", "stress"):
        np.testing.assert_allclose(
            getattr(found, f"{kind}_std"), getattr(found.posterior, f"{kind}_std"), rtol=1e-12
        )
    assert "not calibrated" in few.summary()
    assert few.describe()["calibration"] is None
    assert "not calibrated" not in silicon.summary()
    assert "standard deviations" in silicon.summary()


def test_perfect_crystals_have_no_error_of_forces(silicon):
    from ase.build import bulk

    found = silicon.predict(bulk("Si", a=5.47, cubic=True), return_std=True)
    rms = silicon.fitted_.calibration.model("forces", 14)
    np.testing.assert_allclose(found.forces_std, 0.0, atol=1e-3 * rms.scale * rms.typical)
    assert found.energy_std > 0


def test_measures_are_their_definitions(rng):
    std = 0.5 + rng.random(50_000)
    error = std * rng.normal(size=50_000)
    assert errors.coverage(error, 1.96 * std) == pytest.approx(0.95, abs=0.005)
    assert errors.sharpness(np.array([3.0, 4.0])) == pytest.approx(np.sqrt(12.5))
    expected = np.mean(0.5 * (error / std) ** 2 + np.log(std) + 0.5 * np.log(2 * np.pi))
    assert errors.negative_log_likelihood(error, std) == pytest.approx(expected)
    promised, covered = errors.reliability(error, std)
    # four statistical errors of a share in 50,000
    np.testing.assert_allclose(covered, promised, atol=4 * 0.5 / np.sqrt(50_000))
    _, narrow = errors.reliability(error, 0.5 * std, np.array([0.5, 0.9]))
    assert np.all(narrow < [0.4, 0.8])


def test_no_standard_deviation_beats_the_bound(rng):
    std = np.exp(rng.normal(size=200_000))
    error = std * rng.normal(size=200_000)
    bound = errors.nll_bound(error)
    # the true one reaches it; log|x| - x^2 / 2 of a normal x has a std of 0.86
    nll = errors.negative_log_likelihood(error, std)
    assert nll == pytest.approx(bound, abs=4 * 0.86 / np.sqrt(200_000))
    for wrong in (np.sqrt(std), 1.3 * std, np.full_like(std, np.sqrt(np.mean(error**2)))):
        assert errors.negative_log_likelihood(error, wrong) > bound + 0.02
    # heavier tails given the scale: out of reach
    heavy = std * rng.standard_t(4.0, size=200_000) / np.sqrt(2.0)
    assert errors.negative_log_likelihood(heavy, std) > errors.nll_bound(heavy) + 0.02


def test_the_bound_follows_the_unit_and_survives_zeros(rng):
    error = rng.normal(size=1000)
    assert errors.nll_bound(7.0 * error) == pytest.approx(errors.nll_bound(error) + np.log(7.0))
    rounded = np.round(error, 2)
    assert (rounded == 0.0).any()
    # a hundredth of the errors are within rounding, of unit std
    assert errors.nll_bound(rounded) == pytest.approx(errors.nll_bound(error), abs=0.02)
    judged = errors.judge(np.ones((2, 1, 3)), np.zeros((2, 1)))
    assert judged["nll_bound"] is None


def test_judging_vectors_ranks_their_norms(rng):
    std = np.exp(rng.normal(size=(500, 3)))
    error = std * rng.normal(size=(500, 3))
    judged = errors.judge(np.stack([std, 1.96 * std, std], axis=-1), error)
    # of 1500 components the shares are known to 0.012 and 0.006
    assert judged["coverage_68"] == pytest.approx(0.683, abs=0.03)
    assert judged["coverage_95"] == pytest.approx(0.95, abs=0.015)
    assert 0.6 < judged["spearman"] < 1.0
    assert judged["nll"] < judged["nll_constant"]
    assert errors.judge(np.zeros((4, 3, 3)), error[:4])["nll"] is None


def test_a_group_that_is_zero_by_symmetry_is_not_judged(rng):
    """Its deviations are rounding, however alike they are."""
    std = 1e-9 * np.exp(rng.normal(size=(50, 3)))
    widths, error = np.stack([std] * 3, axis=-1), 1e-5 * rng.normal(size=(50, 3))
    assert errors.judge(widths, error)["coverage_95"] == 0.0
    assert errors.judge(widths, error, typical_std=0.1)["coverage_95"] is None
    crystal = kp.datasets.load_silicon("train")
    perfect = next(f for f in crystal if len(f) > 1 and np.abs(f.forces).max() < 1e-3)
    moving = [f for f in crystal if len(f) > 1 and np.abs(f.forces).max() > 0.1][:3]
    pot = kp.KernelPotential(n_sparse=30, baseline=kp.Wall()).fit(crystal, optimize=None)
    frames = kp.Dataset([replace(perfect, config_type="perfect"), *moving])
    groups = kp.evaluate(pot, frames, uncertainty=True)["by_config_type"]
    assert groups["perfect"]["uncertainty"]["forces"]["coverage_95"] is None
    assert groups["perfect"]["uncertainty"]["energy"]["coverage_95"] in (0.0, 1.0)  # one energy


def test_stds_of_stresses_are_not_blamed_for_an_offset_of_the_labels(silicon):
    model, frames = silicon.model, list(load_silicon("test"))[:8]
    offset = -0.3  # eV/atom
    shifted = [
        replace(
            f, virial=f.virial + (offset - model.virial_offset) * len(f) * np.repeat([1.0, 0.0], 3)
        )
        for f in frames
        if f.virial is not None
    ]
    frames = [f for f in frames if f.virial is not None]
    honest = kp.evaluate(model, kp.Dataset(frames), uncertainty=True)
    found = kp.evaluate(replace(model, virial_offset=offset), kp.Dataset(shifted), uncertainty=True)
    one, two = (e["uncertainty"]["stress"] for e in (honest, found))
    assert one == pytest.approx(two, rel=1e-9)
    assert found["stress_mae_gpa"] > 1.2 * honest["stress_mae_gpa"]  # errors are what they are
    # the table of coverage says which labels it is of
    assert "less the constant virial of -0.3 eV per atom" in uncertainty_table(found)
    assert "of labels less" not in uncertainty_table({**honest, "virial_offset_ev_per_atom": 0.0})
    described = model.describe()
    for value, named in ((offset, True), (0.0, False)):
        lines = _calibration_lines({**described, "virial_offset": value})
        (line,) = [line for line in lines if line.startswith("  stress")]
        assert ("less the labels' constant of -0.300 eV per atom" in line) is named


def test_atoms_outside_the_data_are_named(silicon):
    """By what the safety net goes by; the limit can be set."""
    from ase.build import bulk

    inside = bulk("Si", a=5.47, cubic=True)
    inside.rattle(0.03, seed=1)
    outside = bulk("Si", a=5.47 * 1.5, cubic=True)
    known = silicon.model.safety.std_known[0]
    for atoms, expected in ((inside, False), (outside, True)):
        found = silicon.predict(atoms, return_std=True)
        assert found.outside.tolist() == [expected] * len(atoms)
        np.testing.assert_array_equal(found.outside, found.std_bound > known)
        many = list(silicon.predict_many([atoms, atoms], return_std=True))
        np.testing.assert_array_equal(many[1].outside, found.outside)
    # the same energy and forces as without looking
    bare = silicon.predict(outside)
    assert bare.outside is None
    np.testing.assert_allclose(found.forces, bare.forces, atol=1e-12)
    assert found.energy == pytest.approx(bare.energy, abs=1e-12)
    wide = kp.VarianceGate(std_known=10.0)
    assert not silicon.predict(outside, return_std=True, gate=wide).outside.any()
    narrow = kp.VarianceGate(std_known=1e-6)
    assert silicon.predict(inside, return_std=True, gate=narrow).outside.all()
    data = [f for f in load_silicon("test") if f.config_type in ("dimer", "stretched")]
    judged = kp.evaluate(silicon, kp.Dataset(data), uncertainty=True)
    assert judged["n_outside"] == sum(
        silicon.predict(f.atoms, return_std=True).outside.any() for f in data
    )


def test_errors_beyond_the_data_are_within_the_intervals():
    """Energies of stretched crystals, dimers and other phases, none of which were fitted."""
    frames = [*load_silicon("train"), *load_silicon("test")]
    beyond = ("dimer", "stretched", "phases")
    inside = [f for f in frames if f.config_type not in beyond]
    pot = kp.KernelPotential(n_sparse=150).fit(kp.Dataset(inside), self_test=False)
    covered, ratios = [], []
    for frame in frames:
        if frame.config_type in beyond:
            found = pot.predict(frame.atoms, return_std=True)
            error = abs(found.energy - frame.energy)
            covered.append(error < found.interval(0.95).energy)
            ratios.append(error / found.energy_std)
            # what is wrong by more than five standard deviations was said to be outside
            assert ratios[-1] < 5.0 or found.outside.any()
    assert np.mean(covered) >= 0.8
