"""Factors, intervals, and measures of both."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm, t

import kernelpot as kp
from kernelpot.datasets import load_silicon
from kernelpot.model import errors
from kernelpot.model.calibration import LEVELS, Calibration, Factors
from tests.conftest import label, rattled_alloy


def test_factors_are_quantiles_that_hold_new_labels(rng):
    """Heavy tails and a wrong scale: intervals hold as promised all the same."""
    std = np.exp(rng.normal(size=20_000))
    residual = 3.0 * std * t(3).rvs(20_000, random_state=rng)
    new_std = np.exp(rng.normal(size=20_000))
    new = 3.0 * new_std * t(3).rvs(20_000, random_state=rng)
    factors = Factors.of(residual / std)
    # three times the statistical error of 0.004 of a share in 20,000, of two samples
    for level in (*LEVELS, 0.6, 0.85, 0.97):
        assert np.mean(np.abs(new) < factors.at(level) * new_std) == pytest.approx(level, abs=0.012)
    assert factors.scale == pytest.approx(np.sqrt(np.mean((residual / std) ** 2)))


def test_a_gaussian_needs_no_factors(rng):
    factors = Factors.of(rng.normal(size=200_000))
    for level in (0.3, 0.6827, 0.95):
        assert factors.at(level) == pytest.approx(norm.ppf(0.5 + level / 2), rel=8e-3)
    assert factors.scale == pytest.approx(1.0, abs=5e-3)


def test_few_labels_are_not_trusted_beyond_the_largest():
    factors = Factors.of(np.arange(1.0, 11.0))
    # with ten labels the interval of 50 % is the 6th smallest, that of 99 % the largest
    assert factors.quantiles[0] == 6.0
    assert factors.quantiles[-1] == 10.0


@pytest.fixture
def calibration(rng):
    n = 400
    std = np.where(np.arange(n) < 300, 0.1, 0.2)
    number = np.where(np.arange(n) < 300, 1, 8)
    number[-5:] = 6
    residual = std * rng.normal(size=n) * np.where(number == 1, 1.0, 4.0)
    std[::50] = 1e-9  # zero by symmetry
    return Calibration.of(
        {"forces": residual, "energy": residual[:20]},
        {"forces": 0.8 * std, "energy": np.full(20, 0.1)},
        {"forces": 0.6 * std, "energy": np.zeros(20)},
        {"forces": number, "energy": np.zeros(20, int)},
        20,
    )


def test_novelty_counts_as_much_as_it_explains(rng):
    """Residuals that follow the other part alone, or both; and where nobody can tell."""
    n = 4000
    open_, novelty = np.exp(rng.normal(size=(2, n)))
    number = {"forces": np.full(n, 14)}
    unseen = {"forces": np.arange(n) < 2000}
    for weight in (1.0, 0.2):
        std = np.hypot(open_, weight * novelty)
        residual = 2.0 * std * rng.laplace(size=n)
        parts = {"forces": residual}, {"forces": open_}, {"forces": novelty}
        found = Calibration.of(*parts, number, 40, unseen=unseen)
        assert found.novelty == {"forces": weight}
        np.testing.assert_allclose(
            found.std("forces", np.hypot(open_, novelty), novelty), std, rtol=1e-9
        )
        # local energies are judged with novelty in full
        whole = np.abs(residual) / np.hypot(open_, novelty)
        assert found.factor("energies", 0.9) == pytest.approx(np.quantile(whole, 0.9), rel=2e-3)
        ratio = np.abs(residual) / std
        assert found.factor("forces", 0.9) == pytest.approx(np.quantile(ratio, 0.9), rel=2e-3)
        few = Calibration.of(*parts, number, 40, unseen={"forces": np.arange(n) < 9})
        assert few.novelty == Calibration.of(*parts, number, 40).novelty == {}
        assert few.factors["forces"] == few.factors["energies"]
        assert Calibration.from_dict(found.to_dict()) == found


def test_forces_have_a_constant_part_where_errors_do(rng):
    """Errors of which a part is the same for all are more likely with it, and found."""
    n = 6000
    number = np.where(np.arange(n) < 4000, 1, 8)
    open_ = np.exp(rng.normal(size=n)) * np.where(number == 1, 1.0, 3.0)
    rms = {z: np.sqrt(np.mean(open_[number == z] ** 2)) for z in (1, 8)}
    for share in (0.0, 0.4):
        floor = np.array([share * rms[z] for z in number])
        residual = 0.7 * np.hypot(open_, floor) * rng.normal(size=n)
        found = Calibration.of(
            {"forces": residual}, {"forces": open_}, {"forces": np.zeros(n)}, {"forces": number}, 9
        )
        expected = {z: pytest.approx(share * rms[z]) for z in (1, 8)} if share else {}
        assert found.floor == expected
        # four statistical errors of the scale of 4,000 numbers
        assert found.factor("forces", None, 1) == pytest.approx(0.7, rel=4 / np.sqrt(2 * 4000))
        std = np.array([[2.0, 0.0, 1.0], [3.0, 1e-9, 0.5]])  # zeros by symmetry stay
        widened = found.std("forces", std, np.zeros((2, 3)), np.array([1, 8]))
        for row, z in enumerate((1, 8)):
            c = share * rms[z]
            np.testing.assert_allclose(
                widened[row], [*np.hypot(std[row, :1], c), std[row, 1], np.hypot(std[row, 2], c)]
            )
        assert Calibration.from_dict(found.to_dict()) == found


def test_species_have_their_own_factors_where_labels_suffice(calibration):
    assert set(calibration.factors["forces"]) == {0, 1}
    found = calibration.per_atom("forces", 0.68, np.array([1, 8, 1]))
    assert found[0] == found[2]
    assert found[1] == calibration.factor("forces", 0.68) != found[0]
    assert calibration.factor("forces", None, 1) < 2.0
    # local energies have no labels
    assert set(calibration.factors["energies"]) == {0, 1}
    assert calibration.factor("stress", 0.9) is None
    assert calibration.per_atom("stress", 0.9, np.array([1])) is None
    again = Calibration.from_dict(calibration.to_dict())
    assert again == calibration
    with pytest.raises(ValueError, match=r"`level` must be between 0 and 1.*got 95"):
        calibration.factor("forces", 95)


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


def test_intervals_scale_standard_deviations_and_are_stored(silicon, tmp_path):
    atoms = load_silicon("test")[2].atoms
    found = silicon.predict(atoms, return_std=True)
    interval = found.interval(0.9)
    calibration = silicon.fitted_.calibration
    assert calibration.novelty["forces"] < 1.0
    for kind in ("energy", "forces", "stress"):
        std, novelty = getattr(found, f"{kind}_std"), getattr(found, f"{kind}_novelty")
        assert np.all(novelty <= std)
        weighted = np.sqrt(std**2 + (calibration.novelty.get(kind, 1.0) ** 2 - 1) * novelty**2)
        np.testing.assert_allclose(
            getattr(interval, kind), calibration.factor(kind, 0.9, 14) * weighted, rtol=1e-12
        )
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


def test_intervals_need_a_standard_deviation_and_a_calibration(silicon):
    atoms = load_silicon("test")[2].atoms
    with pytest.raises(ValueError, match="return_std=True"):
        silicon.predict(atoms).interval()
    few = kp.KernelPotential(n_sparse=20).fit(load_silicon("train")[:6])
    with pytest.raises(ValueError, match="not calibrated"):
        few.predict(atoms, return_std=True).interval()


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


@pytest.mark.parametrize(("n", "told"), [(12, False), (32, True)])
def test_one_structure_does_not_tell_the_weight_of_novelty(n, told):
    """A tenth of the structures is not seen by the choice of sparse points."""
    frames = [label(rattled_alloy(seed, (1, 1, 1))) for seed in range(n)]
    term = kp.SOAPTerm(r_cut=4.0, n_max=2, l_max=2, n_sparse=20)
    pot = kp.KernelPotential([term], baseline=[kp.Wall()]).fit(frames, optimize=None)
    assert bool(pot.model.calibration.novelty) is told
