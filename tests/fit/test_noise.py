"""Choosing noise and prior scales: synthetic optima, fits, refusals."""

from dataclasses import replace

import numpy as np
import pytest

import kernelpot as kp
from kernelpot.datasets import load_silicon
from kernelpot.fit import defaults, limits
from kernelpot.fit.accumulation import Labels, accumulate
from kernelpot.fit.hyperparameters import Candidates, Free
from kernelpot.fit.noise import is_searched
from kernelpot.fit.noise_search import independent_directions
from kernelpot.fit.pipeline import select
from kernelpot.fit.plan import expected_seconds, plan_memory
from kernelpot.fit.problem import prepare
from kernelpot.fit.scores import WEIGHTS, Errors, Score
from kernelpot.fit.settings import Settings
from kernelpot.regression.factors import GroupedFactor
from kernelpot.regression.leave_one_out_quick import GramFactor, QuickLeaveOneOut


def errors(energy, forces):
    values = {"energy": np.array(energy), "forces": np.array(forces), "stress": np.empty(0)}
    return Errors(values, {kind: np.arange(len(v)) for kind, v in values.items()})


def test_the_score_knows_no_units_and_no_single_frame_decides():
    one, two = errors([1.0, 2.0, 1.5] * 4, [0.1] * 12), errors([0.9, 1.8, 1.35] * 4, [0.1] * 12)
    types = ["a"] * 12
    score = Score(types)
    gain = score(one) - score(two)
    assert gain > 0
    scaled = [errors(1e3 * e.values["energy"], e.values["forces"]) for e in (one, two)]
    assert score(scaled[0]) - score(scaled[1]) == pytest.approx(gain)
    wrong = [errors([1e4, *e.values["energy"]], [0.1, *e.values["forces"]]) for e in (one, two)]
    score = Score(["a"] * 13)
    assert score(wrong[0]) > score(wrong[1])
    influence = score.influence(wrong[0])
    assert np.abs(influence - influence.mean()).max() < 10.0


def test_a_type_of_large_errors_does_not_decide_alone():
    """Halving the errors of the easy half outweighs 20 % on the hard half."""
    types = ["easy"] * 6 + ["hard"] * 6
    start = errors([1.0] * 6 + [4.0] * 6, [0.1] * 12)
    better = errors([0.5] * 6 + [4.8] * 6, [0.1] * 12)
    assert Score(types)(better) < Score(types)(start)


@pytest.fixture(scope="module")
def silicon():
    return load_silicon("train"), load_silicon("test")


@pytest.fixture(scope="module")
def fits(silicon):
    return {
        method: kp.KernelPotential(n_sparse=60, baseline=kp.Wall()).fit(
            silicon[0], optimize=method, calibrate=False
        )
        for method in ("loo", "evidence", None)
    }


def test_leaving_one_out_lowers_the_error_of_unseen_structures(fits, silicon):
    found = {method: kp.evaluate(pot, silicon[1]) for method, pot in fits.items()}
    key = "forces_mae_ev_per_ang"
    assert found["loo"][key] < found[None][key]
    record = fits["loo"].fitted_.training.hyperparameters
    assert record["loo"]["after"]["forces"] < record["loo"]["before"]["forces"]
    assert 0 < record["n_parameters"] < fits["loo"].fitted_.factor.n_features


def test_the_evidence_raises_the_evidence(silicon, monkeypatch):
    """To its maximum, where errors of structures left out may become what they want."""
    monkeypatch.setattr(limits, "TOLERATED", dict.fromkeys(limits.TOLERATED, 1e6))
    pot = kp.KernelPotential(n_sparse=60, baseline=kp.Wall())
    pot.fit(silicon[0], optimize="evidence", calibrate=False)
    settings = Settings(n_sparse=60, baseline=kp.Wall())
    problem = prepare(silicon[0], settings)
    design = select(problem, settings).design
    grouped = accumulate(Labels(design, problem.frames, problem.noise))
    kinds = ("energy", "forces", "stress")
    free = Free(tuple((kind, "") for kind in kinds), (0, 1))
    candidates = Candidates(grouped, design.layout, problem.noise, free)
    record = pot.fitted_.training.hyperparameters
    x = np.log(
        [record["sigmas"][f"sigma_{k}"][1] / record["sigmas"][f"sigma_{k}"][0] for k in kinds]
        + record["delta_factors"]
    )
    value, gradient = candidates.evidence(x)
    before, at_start = candidates.evidence(np.zeros(5))
    assert value < before - 100
    assert np.abs(gradient).max() < 0.01 * np.abs(at_start).max()


def test_another_delta_is_the_same_model_as_one_given(fits, silicon):
    """Whitening, prior, kernel and weights all follow a delta that was changed."""
    found = fits["evidence"].fitted_
    assert any(f != 1.0 for f in found.training.hyperparameters["delta_factors"])
    again = kp.KernelPotential(
        [bound.term for bound in found.local.terms],
        baseline=kp.Wall(),
        sigma_energy=found.noise.sigma_energy,
        sigma_forces=found.noise.sigma_forces,
        sigma_stress=found.noise.sigma_stress,
    ).fit(silicon[0], optimize="loo", calibrate=False)
    assert again.fitted_.training.hyperparameters == {"method": None}
    atoms = silicon[1][3].atoms
    one, two = (pot.predict(atoms, return_std=True) for pot in (fits["evidence"], again))
    assert one.energy == pytest.approx(two.energy, abs=1e-6)
    np.testing.assert_allclose(one.forces, two.forces, atol=1e-6)
    np.testing.assert_allclose(one.forces_std, two.forces_std, rtol=1e-4)
    np.testing.assert_allclose(one.energies_std, two.energies_std, rtol=1e-4)
    # known sites and the limits of the safety net as well
    np.testing.assert_allclose(found.safety.std_known, again.fitted_.safety.std_known, rtol=1e-4)
    exact = kp.VarianceGate(std_known=1e-6)
    one, two = (pot.predict(atoms, gate=exact) for pot in (fits["evidence"], again))
    np.testing.assert_allclose(one.std_bound, two.std_bound, rtol=1e-4)


def test_what_the_user_gave_is_never_changed(silicon):
    pot = kp.KernelPotential(n_sparse=40, sigma_energy=0.003, sigma_stress=0.02)
    pot.fit(silicon[0], optimize="loo", calibrate=False)
    noise = pot.fitted_.noise
    assert (noise.sigma_energy, noise.sigma_stress) == (0.003, 0.02)
    assert list(pot.fitted_.training.hyperparameters["sigmas"]) == ["sigma_forces"]


def test_summary_shows_values_before_and_after(fits):
    text = fits["loo"].summary()
    assert "Chosen by leaving one structure out (" in text
    assert "sigma_energy 0.001 -> " in text
    assert "Effective number of parameters" in text
    assert "the default" not in [n for n in text.split("\n") if "sigma_energy" in n][-1]
    assert "Chosen by the evidence" in fits["evidence"].summary()
    assert "Chosen by" not in fits[None].summary()


def test_few_structures_keep_the_defaults_and_say_so(silicon):
    pot = kp.KernelPotential(n_sparse=20).fit(silicon[0][:6], optimize="loo")
    assert "too few to choose" in pot.summary()
    assert pot.fitted_.calibration is None


def test_an_unknown_method_is_refused_before_any_work(silicon):
    with pytest.raises(ValueError, match="`optimize` must be 'loo', 'evidence' or None"):
        kp.KernelPotential().fit(silicon[0], optimize="bayes")


def test_wrong_starts_end_at_the_same_errors(silicon):
    """Noise wrong by ten either way: structures left out are predicted alike in the end.

    Forces, that is; the energies of few and very different structures only roughly so, as
    the search stays on its side of a flat bottom. All of one config type: the error of any
    type that a wrong start has small by chance would bind the search.
    """
    train = kp.Dataset(
        [f if f.is_isolated_atom else replace(f, config_type="any") for f in silicon[0]]
    )
    found = []
    for energy, forces in ((10, 0.1), (0.1, 10)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(defaults, "SIGMA_ENERGY", energy * defaults.SIGMA_ENERGY)
            patch.setattr(defaults, "FORCES_SHARE", forces * defaults.FORCES_SHARE)
            patch.setattr(defaults, "SIGMA_STRESS", forces * defaults.SIGMA_STRESS)
            pot = kp.KernelPotential(n_sparse=40, baseline=kp.Wall())
            pot.fit(train, calibrate=False)
        found.append(pot.fitted_.training.hyperparameters["loo"])
    # which structures are left out and which points chosen depends on the order of the frames:
    # in eight orders the starts differed 1.4- to 9-fold and 3- to 8-fold, the ends by at most 45 %
    # and 4 %
    for kind, start, end in (("energy", 2.0, 1.5), ("forces", 3.0, 1.05)):
        before, after = ([errors[when][kind] for errors in found] for when in ("before", "after"))
        assert max(before) > start * min(before)
        assert max(after) < end * min(after)


def test_a_config_type_finds_a_noise_of_its_own(silicon):
    """Forces of one config type are made noisy; only its sigma is left open.

    The evidence knows how noisy; for the errors of structures left out it hardly matters.
    """
    rng = np.random.default_rng(0)
    names = sorted({f.config_type for f in silicon[0]})
    noisy = kp.Dataset(
        [
            replace(f, forces=f.forces + 0.5 * rng.normal(size=f.forces.shape))
            if f.config_type == names[0]
            else f
            for f in silicon[0]
        ]
    )
    given = {"sigma_energy": 0.001, "sigma_forces": 0.05, "sigma_stress": 0.005}
    own = {names[0]: {"forces": "search"}}
    pot = kp.KernelPotential(n_sparse=60, baseline=kp.Wall(), config_type_sigma=own, **given)
    pot.fit(noisy, optimize="evidence", calibrate=False)
    record = pot.fitted_.training.hyperparameters
    assert list(record["sigmas"]) == [f"sigma_forces of {names[0]}"]
    assert pot.fitted_.noise.sigma_forces == 0.05
    # what a few hundred labels of it tell (the evidence found 2 % less)
    assert pot.fitted_.noise.config_types[names[0]]["forces"] == pytest.approx(0.5, rel=0.1)
    assert f"sigma_forces of {names[0]} 0.05 -> " in pot.summary()
    pot.fit(noisy, optimize=None, calibrate=False)
    assert pot.fitted_.noise.config_types == {names[0]: {"forces": 0.05}}


def test_none_and_search_are_the_same():
    """The one can be written in TOML, the other was there first."""
    one, two = (Settings(config_type_sigma={"a": {"forces": v}}) for v in ("search", None))
    assert one.own_sigmas == two.own_sigmas == {"a": {"forces": None}}


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"force": None}, "must name energy, forces, stress"),
        ({"forces": "seek"}, "forces, must be a number, or 'search' .or None. .* got 'seek'"),
        ({"forces": [0.1]}, "must be a number"),
        ({"forces": True}, "must be a number"),
        ({"forces": -1.0}, "must be positive"),
        ("search", "must be a mapping such as {'forces': 0.1}, got 'search'"),
    ],
)
def test_a_noise_that_is_none_is_refused(silicon, own, message):
    name = silicon[0][0].config_type
    with pytest.raises(ValueError, match=message):
        kp.KernelPotential(config_type_sigma={name: own}).fit(silicon[0])


def test_products_give_the_posterior_of_triangles():
    """Two groups, one with few rows, scaled columns; and where products are hopeless."""
    rng = np.random.default_rng(1)
    grouped = GroupedFactor(6)
    grouped.update("many", rng.normal(size=(40, 6)), rng.normal(size=40))
    grouped.update("few", rng.normal(size=(4, 6)), rng.normal(size=4))
    scale = np.exp(rng.normal(size=6))
    fast = GramFactor.of(grouped)
    for sigmas in ({"many": 0.3, "few": 0.05}, {"many": 1e12, "few": 1e-12}):
        exact = grouped.posterior(sigmas.__getitem__, scale)
        found = fast.posterior(sigmas.__getitem__, scale)
        np.testing.assert_allclose(found.solve(), exact.solve(), rtol=1e-6)
        assert found.residual == pytest.approx(exact.residual, rel=1e-6, abs=1e-6)
        assert found.n_rows == exact.n_rows == 44
        np.testing.assert_allclose(
            np.abs(found.R.diagonal()), np.abs(exact.R.diagonal()), rtol=1e-6
        )


def test_nothing_is_planned_for_a_search_of_nothing(silicon):
    """Memory and progress know whether structures are left out again and again."""
    given = {"sigma_energy": 0.001, "sigma_forces": 0.05, "sigma_stress": 0.005}
    terms = [kp.SOAPTerm(r_cut=4.0, n_max=3, l_max=2, sigma_atom=0.5)]
    for method, settings, searched in (
        ("loo", Settings(terms=terms, baseline=kp.Wall(), **given), False),
        ("evidence", Settings(terms=terms, baseline=kp.Wall()), False),
        ("loo", Settings(terms=terms, baseline=kp.Wall()), True),
        ("loo", Settings(baseline=kp.Wall(), n_sparse=30, **given), True),
    ):
        problem = prepare(silicon[0][:12], settings)
        assert is_searched(method, problem, settings) is searched
        plan = plan_memory(problem, settings, 1, None, searched=searched)
        assert (plan.parts["search"] > 0) is searched
        assert (expected_seconds(problem, plan)["hyper-parameters"] > 0) is searched


def test_the_search_asks_for_no_point_twice(silicon, monkeypatch):
    asked = []

    def remembering(self, factor, sigma, scale):
        asked.append((tuple(sigma((k, "")) for k in WEIGHTS), *scale))
        return original(self, factor, sigma, scale)

    original = QuickLeaveOneOut.__call__
    monkeypatch.setattr(QuickLeaveOneOut, "__call__", remembering)
    pot = kp.KernelPotential(n_sparse=20, baseline=kp.Wall())
    record = pot.fit(silicon[0], calibrate=False).fitted_.training.hyperparameters
    assert len(set(asked)) == len(asked) == record["n_evaluations"] - 1


def test_given_sigmas_leave_the_deltas_only_for_a_gain(silicon):
    """With every sigma given the score still weighs all kinds of labels."""
    given = {"sigma_energy": 0.001, "sigma_forces": 0.05, "sigma_stress": 0.005}
    pot = kp.KernelPotential(n_sparse=30, baseline=kp.Wall(), **given)
    record = pot.fit(silicon[0], calibrate=False).fitted_.training.hyperparameters
    assert record["sigmas"] == {}
    before, after = record["loo"]["before"], record["loo"]["after"]
    gain = sum(
        WEIGHTS[kind] * np.log(before[kind] / after[kind])
        for kind in ("energy", "forces", "stress")
    )
    assert set(record["delta_factors"]) == {1.0} or gain > 0.05


def test_directions_span_what_may_change():
    energy, forces, surface = ("energy", ""), ("forces", ""), ("forces", "surface")
    stated = ("absolute", "")
    for free, groups, n in (
        (Free((energy, forces), (0, 1)), [energy, forces, stated], 3),
        (Free((energy,), (0, 1)), [energy], 2),
        (Free((energy,), (0, 1)), [energy, forces], 3),
        (Free((), (0, 1)), [energy, forces], 2),
        (Free((energy, forces, surface), ()), [energy, forces, surface], 3),
        (Free((surface,), ()), [energy, forces, surface], 1),
    ):
        rows = independent_directions(free, groups)
        assert rows.shape == (n, len(free.names))
        assert np.linalg.matrix_rank(rows) == n


def test_errors_that_are_zero_by_symmetry_have_no_say():
    start = errors([1.0, 2.0, 1.5], [1e-12, 2e-12, 1e-12])
    other = errors([1.0, 2.0, 1.5], [1e-9, 1e-9, 2e-9])
    assert start.informative == ("energy",)
    assert start.weight == WEIGHTS["energy"]
    assert Score(["a"] * 3)(start) == Score(["a"] * 3)(other)
