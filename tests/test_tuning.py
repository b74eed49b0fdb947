"""Choosing noise and prior scales: synthetic optima, fits, refusals."""

import numpy as np
import pytest

import kernelpot as kp
from kernelpot import training
from kernelpot.accumulation import Labels, accumulate
from kernelpot.datasets import load_silicon
from kernelpot.fitting import Design
from kernelpot.tuning import STEPS, Candidates, Errors, Free, Score, coordinate_search


def errors(energy, forces):
    values = {"energy": np.array(energy), "forces": np.array(forces), "stress": np.empty(0)}
    return Errors(values, {kind: np.arange(len(v)) for kind, v in values.items()})


@pytest.mark.parametrize("optimum", [(1.5, -0.7, 0.2), (-3.0, -3.5, 1.0)])
def test_the_search_finds_the_bottom_of_a_bowl(optimum):
    optimum = np.array(optimum)

    def bowl(x):
        d = x - optimum
        return 1.0 + d @ np.array([[1.0, 0.3, 0], [0.3, 0.5, 0], [0, 0, 0.2]]) @ d

    start = np.zeros(3)
    x, value, used = coordinate_search(
        bowl,
        start,
        list(np.eye(3)),
        value=bowl(start),
        steps=[*np.log(STEPS), 0.3, 0.3],
        bound=5.0,
        max_evaluations=80,
    )
    assert used <= 80
    assert value == bowl(x)
    np.testing.assert_allclose(x, optimum, atol=0.15)


def test_the_search_respects_bounds_and_budget():
    seen = []

    def slope(x):
        seen.append(x)
        return float(x.sum())

    options = {"value": 0.0, "steps": [1.0, 0.5]}
    x, _, _ = coordinate_search(
        slope, np.zeros(2), list(np.eye(2)), bound=2.5, max_evaluations=50, **options
    )
    assert np.abs(seen).max() <= 2.5
    assert x.max() <= -2.0
    _, _, used = coordinate_search(
        slope, np.zeros(2), list(np.eye(2)), bound=2.5, max_evaluations=3, **options
    )
    assert used == 3


def test_the_score_knows_no_units_and_no_single_frame_decides():
    one, two = errors([1.0, 2.0, 1.5] * 4, [0.1] * 12), errors([0.9, 1.8, 1.35] * 4, [0.1] * 12)
    types = ["a"] * 12
    gain = Score(one, types)(one) - Score(one, types)(two)
    assert gain > 0
    scaled = [errors(1e3 * e.values["energy"], e.values["forces"]) for e in (one, two)]
    assert Score(scaled[0], types)(scaled[0]) - Score(scaled[0], types)(scaled[1]) == pytest.approx(
        gain
    )
    wrong = [errors([1e4, *e.values["energy"]], [0.1, *e.values["forces"]]) for e in (one, two)]
    score = Score(wrong[0], ["a"] * 13)
    assert score(wrong[0]) > score(wrong[1])
    assert np.abs(score.influence(wrong[0])).max() < 30.0


def test_a_type_of_large_errors_does_not_decide_alone():
    """Halving the errors of the easy half outweighs 20 % on the hard half."""
    types = ["easy"] * 6 + ["hard"] * 6
    start = errors([1.0] * 6 + [4.0] * 6, [0.1] * 12)
    better = errors([0.5] * 6 + [4.8] * 6, [0.1] * 12)
    assert Score(start, types)(better) < Score(start, types)(start)


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
    record = fits["loo"].fitted_.training["hyperparameters"]
    assert record["loo"]["after"]["forces"] < record["loo"]["before"]["forces"]
    assert 0 < record["n_parameters"] < fits["loo"].fitted_.factor.n_features


def test_the_evidence_raises_the_evidence(fits, silicon):
    settings = training.Settings(n_sparse=60, baseline=kp.Wall())
    problem = training.prepare(silicon[0], settings)
    design = Design.of(training.select(problem, settings)[0], problem.species)
    grouped = accumulate(Labels(design, problem.frames, problem.references, problem.noise))
    kinds = ("energy", "forces", "stress")
    candidates = Candidates(grouped, design.whitened, problem.noise, Free(kinds, (0, 1)))
    record = fits["evidence"].fitted_.training["hyperparameters"]
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
    assert any(f != 1.0 for f in found.training["hyperparameters"]["delta_factors"])
    again = kp.KernelPotential(
        [term.soap.term for term in found.local.terms],
        baseline=kp.Wall(),
        sigma_energy=found.noise.sigma_energy,
        sigma_forces=found.noise.sigma_forces,
        sigma_stress=found.noise.sigma_stress,
    ).fit(silicon[0], optimize="loo", calibrate=False)
    assert again.fitted_.training["hyperparameters"] == {"method": None}
    atoms = silicon[1][3].atoms
    one, two = (pot.predict(atoms, return_std=True) for pot in (fits["evidence"], again))
    assert one.energy == pytest.approx(two.energy, abs=1e-6)
    np.testing.assert_allclose(one.forces, two.forces, atol=1e-6)
    np.testing.assert_allclose(one.forces_std, two.forces_std, rtol=1e-4)
    np.testing.assert_allclose(one.energies_std, two.energies_std, rtol=1e-4)


def test_what_the_user_gave_is_never_changed(silicon):
    pot = kp.KernelPotential(n_sparse=40, sigma_energy=0.003, sigma_stress=0.02)
    pot.fit(silicon[0], optimize="loo", calibrate=False)
    noise = pot.fitted_.noise
    assert (noise.sigma_energy, noise.sigma_stress) == (0.003, 0.02)
    assert list(pot.fitted_.training["hyperparameters"]["sigmas"]) == ["sigma_forces"]


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
