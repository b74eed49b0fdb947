"""Sparse points or a whole form: what is open, what decides, and what a fit says of it."""

import numpy as np
import pytest
from ase.build import bulk

import kernelpot as kp
from kernelpot.fit import basis, pipeline
from kernelpot.fit.basis import is_form_better, is_open
from kernelpot.fit.plan import OverBudgetError
from kernelpot.fit.progress import never_back
from kernelpot.fit.settings import Settings
from kernelpot.regression.leave_one_out import LeftOut
from kernelpot.regression.rows import StructureRows
from tests.conftest import label, rattled_alloy


def alloys(n=14):
    return kp.read_dataset([label(rattled_alloy(s, (1, 1, 1), 0.1)) for s in range(n)])


@pytest.fixture(scope="module")
def data():
    return alloys()


def test_what_the_user_gave_is_not_open(data):
    assert is_open(data, Settings(), "loo")
    assert not is_open(data, Settings(), "evidence")
    assert not is_open(data, Settings(), None)
    given = (
        {"terms": [kp.SOAPTerm(r_cut=4.0)]},
        {"n_sparse": 50},
        {"preset": "fast"},
        {"charges": kp.KernelCharges()},
    )
    for settings in given:
        assert not is_open(data, Settings(**settings), "loo")


def test_elements_molecules_few_and_many_are_not_open(data, monkeypatch):
    assert not is_open(kp.Dataset(list(data)[:9]), Settings(), "loo")
    element = [label(bulk("Cu", cubic=True) * (1, 1, 1)) for _ in range(12)]
    assert not is_open(kp.read_dataset(element), Settings(), "loo")
    molecules = [frame.atoms.copy() for frame in data]
    for atoms in molecules:
        atoms.pbc = False
    assert not is_open(kp.read_dataset([label(a) for a in molecules]), Settings(), "loo")
    monkeypatch.setattr(basis, "MAX_LABELS", data.n_rows - 1)
    assert not is_open(data, Settings(), "loo")


def left_out(forces, energies, first=0):
    """Errors of structures of one atom."""
    found = []
    kind = np.array([0, 1, 1, 1])
    groups = [("energy", ""), ("forces", "")]
    for k, (f, e) in enumerate(zip(forces, energies, strict=True)):
        rows = StructureRows(
            np.zeros((4, 1)), np.zeros(4), np.ones(4), kind, groups, kind, first + k, 1, 0.0
        )
        found.append(LeftOut(rows, np.array([e, f, f, f]), np.ones(4), None, True))
    return found


def test_the_form_wins_without_loss_or_not_at_all(rng):
    types = ["a"] * 12 + ["b"] * 12
    errors = rng.uniform(0.5, 1.5, size=24)
    start = left_out(errors, errors)
    better, compared = is_form_better(start, left_out(0.7 * errors, errors), types)
    assert better
    assert compared.startswith("24 structures left out, energy ")
    better, compared = is_form_better(start, left_out(0.995 * errors, errors), types)
    assert not better
    assert compared.endswith("; the difference is within doubt")
    # energies pay, or one config type does
    assert not is_form_better(start, left_out(0.7 * errors, 1.1 * errors), types)[0]
    uneven = np.where(np.arange(24) < 12, 0.3, 1.1)
    better, compared = is_form_better(start, left_out(uneven * errors, errors), types)
    assert not better
    assert compared.endswith("; it would raise that of forces of b by 10 %")


def test_only_structures_left_out_of_both_count():
    types = ["a"] * 40
    ones = np.ones(20)
    better, compared = is_form_better(
        left_out(ones, ones), left_out(0.1 * ones, 0.1 * ones, first=11), types
    )
    assert not better
    assert compared == "9 structures left out of both are too few to compare them"


def test_a_fit_takes_the_better_one_and_says_why(data, monkeypatch, tmp_path):
    """Both verdicts: kinds of terms, notes, progress forward only, checkpoints removed."""
    monkeypatch.setattr("kernelpot.fit.defaults.N_SPARSE", {"default": 60})
    told = []
    checkpoint = tmp_path / "state"
    verdicts = {}
    for wanted in (True, False):
        monkeypatch.setattr(pipeline, "is_form_better", lambda *_, w=wanted: (w, "figures"))
        told.clear()
        pot = kp.KernelPotential().fit(
            data,
            self_test=False,
            checkpoint=checkpoint,
            progress=lambda stage, done, total: told.append(done / total),
        )
        assert not list(tmp_path.iterdir())
        assert np.all(np.diff(told) >= 0)
        full = [getattr(block.term, "full", False) for block in pot.model.local.terms]
        assert full == ([True] if wanted else [False] * 3)
        [note] = [n for n in pot.model.training.notes if "(figures)" in n]
        assert note.startswith("a whole" if wanted else "terms with sparse points")
        verdicts[wanted] = pot
    # each is what a fit of its kind alone gives, to the bits
    monkeypatch.setattr(pipeline, "is_open", lambda *_: False)
    alone = kp.KernelPotential().fit(data, self_test=False)
    energy = [pot.predict(data[0].atoms).energy for pot in (alone, verdicts[False])]
    assert energy[0] == energy[1]


def test_a_budget_for_one_basis_is_enough(data, monkeypatch):
    monkeypatch.setattr("kernelpot.fit.defaults.N_SPARSE", {"default": 40})
    plan_memory = pipeline.plan_memory

    def plan(problem, *arguments, **options):
        if len(problem.terms) == 1:
            raise OverBudgetError("sparse points are all there is room for")
        return plan_memory(problem, *arguments, **options)

    monkeypatch.setattr(pipeline, "plan_memory", plan)
    pot = kp.KernelPotential().fit(data, self_test=False, calibrate=False)
    assert len(pot.model.local.terms) == 3
    assert any("no room for a whole form" in note for note in pot.model.training.notes)


def test_errors_of_both_are_of_the_same_folds(data, monkeypatch):
    monkeypatch.setattr("kernelpot.fit.defaults.N_SPARSE", {"default": 40})
    seen = []

    def looked(sparse, form, types):
        seen.append([[left.rows.index for left in found] for found in (sparse, form)])
        return is_form_better(sparse, form, types)

    monkeypatch.setattr(pipeline, "is_form_better", looked)
    pot = kp.KernelPotential().fit(data, self_test=False, calibrate=False)
    [(sparse, form)] = seen
    assert sorted(sparse) == sorted(form) == sorted(set(form))
    assert len(form) >= 10
    assert any("quadratic form" in note for note in pot.model.training.notes)


def test_either_basis_can_be_asked_for(data):
    from kernelpot.fit.problem import prepare

    sparse, form = (prepare(data, Settings(), basis=name).terms for name in ("sparse", "form"))
    assert [getattr(term, "full", False) for term in sparse] == [False] * 3
    assert [getattr(term, "full", False) for term in form] == [True]
    assert form[0].r_cut == pytest.approx(sparse[-1].r_cut)


def test_progress_never_goes_back():
    told = []
    report = never_back(lambda stage, done, total: told.append(done / total))
    for done in (1, 5, 3, 7):
        report("fit", done, 10)
    assert told == [0.1, 0.5, 0.5, 0.7]
