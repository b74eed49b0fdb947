"""The gate of users: arguments, calculators, files, and what must change nothing."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet

import kernelpot as kp
from kernelpot.md.dynamics import energy_drift
from kernelpot.safety.gate import (
    GateClosedError,
    GateWarning,
    VarianceGate,
)
from kernelpot.terms.dot_product import QuadraticMean
from tests.conftest import rattled_alloy, structures
from tests.safety.gated import (
    counts,
    exact_std,
    gate_with,
    net_of,
)


def test_screening_changes_nothing_but_the_cost(potential, monkeypatch):
    monkeypatch.setattr("kernelpot.gp.species_run.SCREEN_MINIMUM", 30)
    atoms = rattled_alloy(7, (2, 2, 1), 0.3)
    std = exact_std(potential, atoms)
    gate = VarianceGate(std_known=float(np.quantile(std, 0.7)))
    screened = potential.predict(atoms, gate=gate)
    monkeypatch.setattr("kernelpot.gp.species_run.SCREEN_SHARES", ())
    full = potential.predict(atoms, gate=gate)
    assert counts(full, "some")
    assert screened.energy == pytest.approx(full.energy, rel=1e-13)
    np.testing.assert_allclose(screened.forces, full.forces, atol=1e-11)
    np.testing.assert_allclose(screened.penalty, full.penalty, atol=1e-12)
    np.testing.assert_allclose(full.std_bound, std, rtol=1e-9)
    assert np.all(screened.std_bound >= std * (1 - 1e-9))
    assert np.any(screened.std_bound > full.std_bound * (1 + 1e-6))
    beyond = screened.penalty > 0
    np.testing.assert_allclose(screened.std_bound[beyond], std[beyond], rtol=1e-9)
    # a bound never makes an atom count as less known than it is
    assert np.all(screened.std_bound[~beyond] <= gate.std_known)


@pytest.mark.parametrize("return_std", [False, "local"])
@pytest.mark.parametrize("screened", [False, True])
def test_the_kernel_gives_the_same_gated_forces_as_polynomials(
    potential, monkeypatch, return_std, screened
):
    """Whatever was kept from the variances for their gradient, of all atoms or of some."""
    monkeypatch.setattr("kernelpot.gp.species_run.SCREEN_MINIMUM", 10 if screened else 10_000)
    atoms = rattled_alloy(7, (2, 2, 1), 0.3)
    gate = gate_with(potential, atoms, "some")
    model = potential.model
    local = replace(model.local)
    # few points: the kernel would be chosen
    for (z, index), c in local.compiled.items():
        kernel = local.terms[local.design.blocks[index].term].kernel
        if kernel.zeta == 2:
            matrix = kernel.diagonal() * (c.points.T * c.weights) @ c.points
            local.compiled[z, index] = replace(c, mean=QuadraticMean(matrix))
    kinds = [c.mean is None for c in local.compiled.values()]
    assert any(kinds)
    assert not all(kinds)
    assert all(c.mean is None for c in model.local.compiled.values())
    one, two = (
        m.predict(atoms, gate=gate, return_std=return_std)
        for m in (model, replace(model, local=local))
    )
    assert counts(one, "some")
    assert two.energy == pytest.approx(one.energy, rel=1e-10)
    np.testing.assert_allclose(two.forces, one.forces, atol=1e-8)
    if return_std:
        np.testing.assert_allclose(two.energies_std, one.energies_std, rtol=1e-6)


def test_many_structures_and_threads_give_the_same(potential):
    many = [rattled_alloy(s, (1, 1, 1), 0.3) for s in range(4)]
    gate = gate_with(potential, many[0], "some")
    together = list(potential.predict_many(many, gate=gate, n_threads=1))
    for atoms, found in zip(many, together, strict=True):
        alone = potential.predict(atoms, gate=gate, n_threads=2)
        assert found.energy == pytest.approx(alone.energy, rel=1e-12)
        np.testing.assert_allclose(found.forces, alone.forces, atol=1e-10)
        np.testing.assert_allclose(found.penalty, alone.penalty, atol=1e-10)


def test_energy_is_conserved_while_atoms_leave_the_data_and_return(potential):
    atoms = rattled_alloy(3, (2, 1, 1), 0.05)
    std = exact_std(potential, rattled_alloy(3, (2, 1, 1), 0.1))
    gate = VarianceGate(std_known=float(0.9 * np.median(std)), on_gate=None)
    atoms.calc = potential.calculator(gate=gate)
    rng = np.random.default_rng(1)
    atoms.set_momenta(
        rng.normal(size=(len(atoms), 3)) * np.sqrt(0.08 * atoms.get_masses())[:, None]
    )
    times, totals, beyond = [], [], []
    dynamics = VelocityVerlet(atoms, 1.0 * units.fs)

    def log():
        times.append(dynamics.nsteps)
        totals.append(atoms.get_total_energy() / len(atoms))
        beyond.append(atoms.calc.uncertainty["penalty"] > 0)

    dynamics.attach(log)
    dynamics.run(300)
    crossings = np.count_nonzero(np.diff(np.array(beyond), axis=0))
    assert crossings > 10
    assert abs(energy_drift(np.array(times), np.array(totals))) < 1e-4
    assert np.ptp(totals) < 2e-3


def test_a_calculator_is_gated_unless_told_otherwise(potential):
    atoms = Atoms("CuAl", [[0, 0, 0], [0, 0, 1.2]])
    gated = potential.predict(atoms, gate=True)
    assert np.all(gated.penalty > 0.5)
    for options, expected in (({}, gated), ({"gate": None}, potential.predict(atoms))):
        atoms.calc = potential.calculator(**options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GateWarning)
            assert atoms.get_potential_energy() == pytest.approx(expected.energy, rel=1e-12)
        np.testing.assert_allclose(atoms.get_forces(), expected.forces, atol=1e-10)
    assert not {"n_beyond", "penalty", "std_bound"} & set(atoms.calc.uncertainty)


def test_the_calculator_reports_and_reacts(potential):
    unknown = Atoms("CuAl", [[0, 0, 0], [0, 0, 1.2]])
    unknown.calc = potential.calculator()
    with pytest.warns(GateWarning, match="2 of 2 atoms are beyond the training data") as caught:
        unknown.get_potential_energy()
    results = unknown.calc.uncertainty
    assert results["n_beyond"] == 2
    expected = potential.predict(unknown, gate=True)
    np.testing.assert_allclose(results["penalty"], expected.penalty, rtol=1e-9)
    np.testing.assert_allclose(results["std_bound"], expected.std_bound, rtol=1e-9)
    (said,) = [str(w.message) for w in caught]
    assert f"raised by {results['penalty'].sum():.2g} eV" in said
    worst = int(results["penalty"].argmax())
    assert f"atom {worst}, {unknown.symbols[worst]}" in said
    unknown.positions[1, 2] = 1.25
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unknown.get_potential_energy()  # said once
    unknown.calc = potential.calculator(gate=VarianceGate(on_gate="stop"))
    with pytest.raises(GateClosedError, match="beyond the training data"):
        unknown.get_potential_energy()
    calls = []
    gate = VarianceGate(on_gate=lambda atoms, added: calls.append((len(atoms), added.max())))
    unknown.calc = potential.calculator(gate=gate)
    unknown.get_potential_energy()
    assert calls == [(2, unknown.calc.uncertainty["penalty"].max())]


def test_a_penalty_below_a_millielectronvolt_is_not_worth_a_word(potential):
    atoms = structures()["crystal"]
    known = 0.99 * exact_std(potential, atoms).max()
    atoms.calc = potential.calculator(gate=VarianceGate(std_known=known, on_gate="stop"))
    atoms.get_potential_energy()
    assert 0 < atoms.calc.uncertainty["penalty"].max() < 1e-3
    assert atoms.calc.uncertainty["n_beyond"] == 0


def test_the_net_is_in_the_model_file(potential, tmp_path):
    potential.save(tmp_path / "model.kpot")
    loaded = kp.load(tmp_path / "model.kpot")
    atoms = rattled_alloy(7, (1, 1, 1), 0.4)
    one, two = (p.predict(atoms, gate=True) for p in (potential, loaded))
    assert one.penalty.max() > 0.1
    assert one.energy == two.energy
    for name in ("forces", "penalty", "std_bound"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert loaded.fitted_.safety.to_dict() == potential.fitted_.safety.to_dict()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"std_known": -1.0}, "`std_known` must be positive"),
        ({"std_known": {"Cu": np.nan}}, "`std_known` must be positive"),
        ({"kappa": 0.0}, "`kappa` must be positive, got 0.0; gate=None is without a gate"),
        ({"kappa": np.inf}, "`kappa` must be positive"),
        ({"on_gate": "panic"}, "`on_gate` must be 'warn', 'stop'"),
    ],
)
def test_a_wrong_gate_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        VarianceGate(**arguments)


def test_a_gate_that_does_not_fit_the_potential_is_refused_at_once(potential):
    gate, message = VarianceGate({"Fe": 1.0}), "`std_known` names Fe; the potential knows Al, Cu"
    with pytest.raises(ValueError, match=message):
        potential.calculator(gate=gate)
    with pytest.raises(ValueError, match=message):
        potential.predict(structures()["cluster"], gate=gate)


def test_something_else_is_no_gate(potential):
    with pytest.raises(TypeError, match="`gate` must be a VarianceGate"):
        potential.calculator(gate=0.5)


def test_what_counts_as_known_can_be_given_for_each_species():
    net = net_of(np.array([0.1, 0.2]), np.array([0.5, 0.5]), np.zeros(2))
    for given, expected in (
        (None, [0.1, 0.2]),
        (0.4, [0.4, 0.4]),
        ({"Cu": 0.5}, [0.1, 0.5]),
        ({"Cu": 0.5, "Al": 0.3}, [0.3, 0.5]),
    ):
        np.testing.assert_array_equal(VarianceGate(given).known((13, 29), net), expected)
