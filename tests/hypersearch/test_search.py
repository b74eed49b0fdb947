"""Search over the shapes of kernels."""

import json

import numpy as np
import pytest

import kernelpot as kp
from kernelpot.cli.verbs import main
from kernelpot.fit import state
from kernelpot.hypersearch import candidates
from kernelpot.hypersearch.path import Budget
from kernelpot.hypersearch.space import Axis, Space
from kernelpot.regression.factors import TriangularFactor
from tests.conftest import label, rattled_alloy

# far too short-ranged, far too wide
BAD = kp.SOAPTerm(r_cut=2.6, n_max=4, l_max=3, sigma_atom=1.0, n_sparse=40, zeta=1)


def start(**options):
    return kp.KernelPotential([BAD], baseline=[kp.Wall()], **options)


@pytest.fixture(scope="module")
def found(labelled):
    return kp.search(labelled, budget=8, potential=start())


def without_seconds(results):
    return [{k: v for k, v in r.items() if k != "seconds"} for r in results]


# ---- what it finds ---------------------------------------------------------------------


def test_a_bad_start_is_improved_on_structures_it_never_saw(found, labelled):
    assert len(found.results_) == 8
    assert found.results_[0]["score"] == 1.0
    assert found.best_score_ < 0.6
    assert found.best_params_["terms"][0].r_cut > 3.0
    unseen = [label(rattled_alloy(700 + s, (1, 1, 1), 0.15)) for s in range(6)]
    before = kp.evaluate(start().fit(labelled), unseen)
    after = kp.evaluate(found.best_potential_, unseen)
    key = "forces_mae_ev_per_ang"
    assert after[key] < 0.7 * before[key]


def test_the_best_is_never_worse_than_the_start_and_is_what_results_say(found):
    scores = [r["score"] for r in found.results_]
    assert found.best_score_ == scores[found.best_index_] <= scores[0]
    accepted = [r["score"] for r in found.results_ if r["accepted"]]
    assert accepted == sorted(accepted, reverse=True)
    assert accepted[-1] == found.best_score_ == min(scores)
    best = found.results_[found.best_index_]["terms"][0]
    term = found.best_params_["terms"][0]
    assert {name: getattr(term, name) for name in best} == best
    assert found.best_potential_.describe()["terms"][0]["r_cut"] == term.r_cut
    # numbers not searched stay those of the start
    assert term.n_sparse == BAD.n_sparse


def test_one_candidate_is_the_start_itself(labelled):
    found = kp.search(labelled, budget=1, potential=start(), refit=False)
    assert found.best_index_ == 0
    assert found.best_score_ == 1.0
    assert found.best_params_["terms"] == [BAD]
    assert found.best_potential_ is None
    assert "Nothing tried is better" in found.summary()


def test_the_score_is_that_of_refits_without_each_structure(labelled):
    """Closed form against fits to all but one structure, at the same sparse points."""
    from kernelpot.fit.accumulation import Labels, accumulate
    from kernelpot.fit.left_out import build_rows
    from kernelpot.fit.problem import prepare
    from kernelpot.fit.settings import Settings
    from kernelpot.fit.state import State

    problem = prepare(kp.read_dataset(labelled), Settings(terms=[BAD], baseline=[kp.Wall()]))
    judge = candidates.Judge(problem, (BAD,), ("energy", "forces", "stress"), 0, 1)
    errors, n_sparse = judge.errors((BAD,))
    assert n_sparse == [40]
    index = judge.chosen[3]
    design = State.chosen(
        [BAD], problem.species, problem.frames, held_out=judge.chosen, settings=Settings()
    ).design
    others = [frame for i, frame in enumerate(problem.frames) if i != index]
    grouped = accumulate(Labels(design, others, problem.noise))
    factor = grouped.posterior(problem.noise.sigma)
    assert isinstance(factor, TriangularFactor)
    (rows,) = build_rows(design, problem.frames, problem.noise, [index])
    residual = (rows.y - rows.phi @ factor.solve()) * rows.unit
    forces = np.abs(residual[rows.kind == 1]).mean()
    assert errors["forces"][3] == pytest.approx(forces, rel=1e-7)
    energy = abs(residual[rows.kind == 0][0]) / rows.n_atoms
    assert errors["energy"][3] == pytest.approx(energy, rel=1e-7)


def test_no_candidate_takes_sparse_points_from_its_judges(labelled, monkeypatch):
    seen = []
    original = state.choose_sparse_points

    def spy(*arguments, **options):
        result = original(*arguments, **options)
        seen.append((options["held_out"], result.from_all))
        return result

    monkeypatch.setattr(state, "choose_sparse_points", spy)
    found = kp.search(labelled, budget=3, potential=start(), refit=False)
    assert len(seen) == 3
    assert all(held == seen[0][0] and not from_all for held, from_all in seen)
    assert len(seen[0][0]) == found.n_structures_ == 10


def test_more_sparse_points_must_pay_for_themselves(labelled):
    found = kp.search(
        labelled, budget=6, potential=start(), parameters="n_sparse", refit=False
    )  # fmt: skip
    results = found.results_
    assert {r["terms"][0]["r_cut"] for r in results} == {BAD.r_cut}
    for previous, result in zip(results, results[1:], strict=False):
        if result["accepted"] and result["n_sparse"][0] > previous["n_sparse"][0]:
            doublings = np.log2(result["n_sparse"][0] / previous["n_sparse"][0])
            assert np.log(result["score"] / previous["score"]) < -0.05 * doublings
    chosen = results[found.best_index_]["terms"][0]["n_sparse"]
    assert found.best_params_["terms"][0].n_sparse == chosen


def test_default_terms_move_together_first(labelled):
    pot = kp.KernelPotential(preset="fast", baseline=[kp.Wall()])
    found = kp.search(
        labelled[:16], budget=2, potential=pot, parameters=["zeta"], n_sparse=20, refit=False
    )
    assert [len(r["terms"]) for r in found.results_] == [3, 3]
    assert found.results_[1]["change"] == "zeta of all terms + 1"
    assert all(n <= 40 for n in found.results_[0]["n_sparse"])
    if found.best_index_:
        assert all(t.n_sparse is None for t in found.best_params_["terms"])
    assert pot.terms is None


# ---- interruptions ---------------------------------------------------------------------


class Interrupted(Exception):
    pass


def test_a_resumed_search_gives_the_result_of_an_uninterrupted_one(
    found, labelled, tmp_path, monkeypatch
):
    path = tmp_path / "search.json"
    original = candidates.Judge.errors
    calls = []

    def counted(self, terms):
        if len(calls) == 4:
            raise Interrupted
        calls.append(terms)
        return original(self, terms)

    monkeypatch.setattr(candidates.Judge, "errors", counted)
    with pytest.raises(Interrupted):
        kp.search(labelled, budget=8, potential=start(), checkpoint=path, refit=False)
    assert len(json.loads(path.read_text())["candidates"]) == 4
    monkeypatch.setattr(candidates.Judge, "errors", original)
    tried = []
    monkeypatch.setattr(
        candidates.Judge,
        "errors",
        lambda self, terms: tried.append(terms) or original(self, terms),
    )
    # the order of the data plays no part
    resumed = kp.search(labelled[::-1], budget=8, potential=start(), checkpoint=path, refit=False)
    assert len(tried) == 4
    assert without_seconds(resumed.results_) == without_seconds(found.results_)
    assert resumed.best_params_["terms"] == found.best_params_["terms"]
    assert list(tmp_path.iterdir()) == [path]
    # nothing is left to do
    again = kp.search(labelled, budget=8, potential=start(), checkpoint=path, refit=False)
    assert len(tried) == 4
    assert again.results_ == resumed.results_


def test_a_foreign_or_damaged_checkpoint_is_refused(labelled, tmp_path):
    path = tmp_path / "search.json"
    options = {"budget": 1, "potential": start(), "checkpoint": path, "refit": False}
    kp.search(labelled, **options)
    with pytest.raises(ValueError, match="other data or with other parameters"):
        kp.search(labelled, **{**options, "seed": 5})
    with pytest.raises(ValueError, match="other data or with other parameters"):
        kp.search(labelled[:-1], **options)
    path.write_text(path.read_text()[:200])
    with pytest.raises(ValueError, match="is not a checkpoint of a search, or is damaged"):
        kp.search(labelled, **options)
    with pytest.raises(ValueError, match="there is no directory"):
        kp.search(labelled, **{**options, "checkpoint": tmp_path / "no" / "a.json"})


def test_time_budget_ends_the_search(labelled):
    found = kp.search(labelled, budget="0.001s", potential=start(), refit=False)
    assert len(found.results_) == 1
    assert not found.complete_


def test_progress_is_reported(labelled):
    calls = []
    kp.search(
        labelled,
        budget=2,
        potential=start(),
        refit=False,
        progress=lambda *call: calls.append(call),
    )
    assert calls[0] == ("search", 0.0, 1.0)
    assert ("search", 0.5, 1.0) in calls


def test_a_candidate_that_cannot_be_fitted_is_passed_over(labelled, monkeypatch):
    original = candidates.Judge.errors

    def fails(self, terms):
        if terms[0].r_cut > BAD.r_cut:
            raise ValueError("no such basis")
        return original(self, terms)

    monkeypatch.setattr(candidates.Judge, "errors", fails)
    found = kp.search(labelled, budget=3, potential=start(), refit=False)
    assert found.results_[1]["failure"] == "no such basis"
    assert found.results_[1]["score"] is None
    assert "(failed)" in found.summary()
    assert found.best_index_ != 1


# ---- the space -------------------------------------------------------------------------


def test_steps_stay_within_bounds_and_zeta_is_an_integer():
    space = Space([BAD], bounds={"r_cut": (2.0, 3.0), "zeta": (1, 2)})
    r_cut, zeta = Axis("r_cut", (0,)), Axis("zeta", (0,))
    assert space.axes == [Axis(n, (0,)) for n in ("r_cut", "sigma_atom", "central_weight", "zeta")]
    terms = space.start
    values = []
    while (terms_next := space.move(terms, r_cut, 1, 1.0)) is not None:
        terms = terms_next
        values.append(terms[0].r_cut)
    assert values == [2.912, 3.0]
    assert space.move(space.start, zeta, -1, 1.0) is None
    (term,) = space.move(space.start, zeta, 1, 0.25)
    assert term.zeta == 2
    assert space.move((term,), zeta, 1, 1.0) is None


def test_n_sparse_is_searched_only_if_named():
    assert "n_sparse" not in Space([BAD]).parameters
    assert "n_sparse" in Space([BAD], bounds={"n_sparse": (10, 80)}).parameters
    assert Space([BAD], ["n_sparse"]).parameters == ("n_sparse",)
    assert len(Space([BAD, BAD], ["zeta"]).axes) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parameters": ["rcut"]}, "`parameters` names rcut; what can be searched is r_cut"),
        ({"parameters": []}, "`parameters` is empty"),
        ({"bounds": {"delta": (1, 2)}}, "`bounds` names delta"),
        ({"bounds": {"r_cut": (3.0, 2.0)}}, "positive and ascending"),
        ({"bounds": {"r_cut": (0.5, 3.0)}}, "must not lie below 1.01"),
        ({"bounds": {"r_cut": 3.0}}, r"must be \(low, high\)"),
        ({"bounds": {"zeta": (1, 2.5)}}, "must be integers"),
        ({"bounds": {"r_cut": (3.0, 4.0)}}, "outside its bounds 3 to 4: widen them"),
        ({"parameters": ["zeta"], "bounds": {"r_cut": (2, 4)}}, "have no effect"),
        ({"budget": 0}, "`budget` must be a positive number"),
        ({"budget": True}, "`budget` must be"),
        ({"budget": 2.5}, "`budget` must be"),
        ({"budget": ""}, "`budget` must be"),
        ({"budget": "3 weeks"}, "`budget` must be"),
        ({"n_sparse": 0}, "`n_sparse` must be a positive integer"),
        ({"potential": kp.KernelPotential([kp.SOAPTerm(3.0, zeta=1.5)])}, "must be an integer"),
    ],
)
def test_wrong_requests_are_refused(labelled, options, message):
    with pytest.raises(ValueError, match=message):
        kp.search(labelled, **{"budget": 2, "potential": start(), "refit": False, **options})


def test_too_few_structures_are_refused(labelled):
    with pytest.raises(ValueError, match="7 structures are too few to search by"):
        kp.search(labelled[:7], budget=2, potential=start())


def test_budgets():
    assert Budget.of("30min") == Budget(seconds=1800.0)
    assert Budget.of("1.5 h") == Budget(seconds=5400.0)
    assert Budget.of("20") == Budget.of(20) == Budget(candidates=20)
    assert Budget.of(20).share(5, 1e9) == 0.25
    assert Budget.of("10s").share(5, 5.0) == 0.5


# ---- command line ----------------------------------------------------------------------


def test_the_command_writes_a_configuration_that_fit_takes(labelled, tmp_path, capsys):
    import ase.io

    from kernelpot.cli.console import read_config

    ase.io.write(tmp_path / "train.xyz", labelled, format="extxyz")
    out = tmp_path / "best.toml"
    status = main(
        ["search", str(tmp_path / "train.xyz"), "-o", str(out), "--budget", "2", "--quiet",
         "--n-sparse", "20", "--parameters", "r_cut", "--json", str(tmp_path / "s.json")]
    )  # fmt: skip
    assert status == 0
    report = json.loads((tmp_path / "s.json").read_text())
    assert len(report["results"]) == 2
    config = read_config(str(out))
    if report["best_index"]:
        expected = report["results"][report["best_index"]]["terms"]
        assert [t.r_cut for t in config["terms"]] == [t["r_cut"] for t in expected]
    else:
        assert config == {}
    shown = capsys.readouterr().out
    assert "score: errors relative to the start" in shown
    # each candidate is shown when it is there, also where there is no bar
    assert shown.index("search: candidate 0, the start: score 1.0000 (") < shown.index(
        "candidate 1,"
    )


def test_the_command_refuses_in_one_sentence(tmp_path, capsys):
    out = tmp_path / "best.toml"
    assert main(["search", str(tmp_path / "absent.xyz"), "-o", str(out)]) == 2
    assert capsys.readouterr().err.startswith("kernelpot: ")
    assert not out.exists()


def test_toml_of_terms_reads_back(tmp_path):
    from kernelpot.cli.console import read_config
    from kernelpot.cli.verbs import config_of

    weighting = {"Cu": 1.0, "Al": 1 / 3}
    one = kp.SOAPTerm(3.5, zeta=3, species_weighting=weighting, compression="mu2")
    path = tmp_path / "a.toml"
    for terms in ([one], [one, kp.SOAPTerm(5.0, n_sparse=100, delta=0.1 + 0.2)]):
        path.write_text(config_of(terms))
        assert read_config(str(path)) == {"terms": terms}
    path.write_text(config_of([]))
    assert read_config(str(path)) == {}
