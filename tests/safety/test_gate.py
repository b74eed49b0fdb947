"""The safety net: exact derivatives with the gate open, half open and closed."""

import warnings
from dataclasses import dataclass, replace

import numpy as np
import pytest
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet

import kernelpot as kp
from kernelpot.data.neighbors import neighbor_list
from kernelpot.data.system import System
from kernelpot.fit.hold_out import hold_out
from kernelpot.md.dynamics import energy_drift
from kernelpot.safety.gate import GateClosedError, GateWarning, VarianceGate
from kernelpot.safety.thresholds import FALLBACK_MARGIN, SafetyNet
from kernelpot.terms.dot_product import QuadraticMean
from kernelpot.testing import numerical_forces, numerical_stress
from tests.conftest import rattled_alloy, structures


@dataclass
class Gated:
    """A potential seen through a gate."""

    potential: kp.KernelPotential
    gate: VarianceGate | bool

    def predict(self, atoms):
        return self.potential.predict(atoms, gate=self.gate)


def gate_std(potential, atoms):
    """Local standard deviations as the gate sees them, exact."""
    return potential.predict(atoms, gate=VarianceGate(std_low=1e-6)).std_bound


def straddling(potential, atoms):
    """A gate that is open for some atoms, half closed for some, closed for others."""
    std = np.sort(gate_std(potential, atoms))
    return VarianceGate(std_low=0.5 * (std[0] + std[1]), std_high=0.5 * (std[-2] + std[-1]))


NEVER = VarianceGate(std_low=1e6, std_high=2e6)
ALWAYS = VarianceGate(std_low=1e-9, std_high=2e-9)


@pytest.mark.parametrize("name", ["crystal", "slab", "cluster", "tiny", "wire"])
@pytest.mark.parametrize("state", ["open", "half", "closed"])
def test_forces_and_stress_are_derivatives_of_the_gated_energy(potential, name, state):
    atoms = structures()[name]
    atoms.positions += 0.05 * np.random.default_rng(3).normal(size=atoms.positions.shape)
    gate = {"open": NEVER, "closed": ALWAYS}.get(state)
    if gate is None:
        std = gate_std(potential, atoms)
        gate = VarianceGate(std_low=0.7 * std.min(), std_high=1.3 * std.max())
    gated = Gated(potential, gate)
    found = gated.predict(atoms)
    if state == "half":
        assert np.all((found.gate_weights > 0) & (found.gate_weights < 1))
    else:
        assert np.all(found.gate_weights == (state == "closed"))
    scale = max(1.0, np.abs(found.forces).max())
    np.testing.assert_allclose(found.forces, numerical_forces(gated, atoms), atol=2e-6 * scale)
    if atoms.pbc.all():
        np.testing.assert_allclose(found.stress, numerical_stress(gated, atoms), atol=1e-7 * scale)


def test_atoms_of_one_structure_may_be_in_every_state(potential):
    atoms = rattled_alloy(7, (2, 1, 1), 0.3)
    gated = Gated(potential, straddling(potential, atoms))
    found = gated.predict(atoms)
    weights = found.gate_weights
    assert weights.min() == 0
    assert weights.max() == 1
    assert np.any((weights > 0.01) & (weights < 0.99))
    scale = np.abs(found.forces).max()
    numerical = numerical_forces(gated, atoms, step=3e-5)
    np.testing.assert_allclose(found.forces, numerical, atol=1e-6 * scale)
    std = gate_std(potential, atoms)
    assert np.all(found.std_bound >= std * (1 - 1e-9))
    closing = weights > 0
    np.testing.assert_allclose(found.std_bound[closing], std[closing], rtol=1e-9)


def test_where_nothing_is_gated_nothing_changes(potential):
    atoms = structures()["crystal"]
    plain, gated = potential.predict(atoms), potential.predict(atoms, gate=NEVER)
    assert gated.energy == pytest.approx(plain.energy, rel=1e-13)
    np.testing.assert_allclose(gated.forces, plain.forces, atol=1e-12)
    np.testing.assert_allclose(gated.stress, plain.stress, atol=1e-14)
    assert plain.gate_weights is None
    assert np.all(gated.gate_weights == 0)


def test_a_closed_gate_leaves_baseline_and_fallback(potential):
    atoms = structures()["crystal"]
    found = potential.predict(atoms, gate=ALWAYS)
    model = potential.fitted_
    fallback = dict(zip(model.species, model.safety.fallback, strict=True))
    known = model.reference.labels(atoms)
    expected = known[0] + sum(fallback[z] for z in atoms.numbers)
    assert found.energy == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(found.forces, known[1], atol=1e-12)


def test_the_fallback_lies_above_every_local_energy_of_the_data(potential, labelled):
    model = potential.fitted_
    largest = {z: -np.inf for z in model.species}
    for frame in labelled:
        bare = Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc)
        known = model.reference.evaluate(System.of([bare], model.r_cut)).energies
        local = potential.predict(bare).energies - known
        for z, energy in zip(bare.numbers, local, strict=True):
            largest[z] = max(largest[z], energy)
    for z, fallback in zip(model.species, model.safety.fallback, strict=True):
        assert fallback == pytest.approx(largest[z] + FALLBACK_MARGIN, abs=1e-8)


@pytest.mark.parametrize("factor", [0.6, 1.5])
def test_entering_the_unknown_costs_energy(potential, labelled, factor):
    """From any training structure, compressed or stretched until the gate has closed."""
    starts = [Atoms(f.numbers, f.positions, cell=f.cell, pbc=f.pbc) for f in labelled[:4]]
    edge = max(gate_std(potential, start).max() for start in starts)
    gate = VarianceGate(std_low=1.01 * edge, std_high=1.2 * edge)
    for start in starts:
        known = potential.predict(start, gate=gate)
        assert np.all(known.gate_weights == 0)
        atoms = start.copy()
        atoms.set_cell(start.cell.array * factor, scale_atoms=True)
        unknown = potential.predict(atoms, gate=gate)
        gated = unknown.gate_weights > 0.99
        assert gated.any()
        cost = (unknown.energies - known.energies)[gated]
        assert np.all(cost >= 0.99 * FALLBACK_MARGIN)


def crowded(potential, distances):
    """A copper atom with neighbors at the given fractions of the shortest distance."""
    d_min = potential.fitted_.safety.d_min[29, 29]
    directions = np.array([[1.0, 0.1, 0.0], [-0.2, 1.0, 0.3], [0.1, -0.3, -1.0]])
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    points = [np.zeros(3)]
    points += [f * d_min * u for f, u in zip(distances, directions, strict=False)]
    return Atoms(f"Cu{len(points)}", points)


@pytest.mark.parametrize("gate", [None, True])
@pytest.mark.parametrize(
    "distances", [(0.6,), (0.62, 0.66), (0.55, 0.65, 0.69), (0.45, 0.6), (0.3, 0.4), (0.71,)]
)
def test_damping_is_differentiated_with_and_without_a_gate(potential, distances, gate):
    atoms = crowded(potential, distances)
    gated = Gated(potential, gate)
    found = gated.predict(atoms)
    scale = max(1.0, np.abs(found.forces).max())
    numerical = numerical_forces(gated, atoms, step=1e-5)
    np.testing.assert_allclose(found.forces, numerical, atol=1e-6 * scale)


def test_damping_is_the_product_over_neighbors():
    net = SafetyNet(
        np.ones(2), np.zeros(2), {(13, 13): 2.0, (13, 29): 1.0, (29, 29): 3.0}, np.full(2, 3.0)
    )
    atoms = Atoms("CuAlCu", [[0, 0, 0], [0.6, 0, 0], [0, 1.8, 0]])
    pairs = neighbor_list(atoms, 4.0)
    distances = np.linalg.norm(pairs.displacements(atoms.positions), axis=1)
    damping = net.damping(atoms.numbers, pairs, distances)
    # halfway between 0.5 and 0.7 of the pair's own distance a C2 step is 1/2
    np.testing.assert_allclose(damping.keep, [0.25, 0.5, 0.5], atol=1e-12)
    apart = Atoms("CuAlCu", [[0, 0, 0], [3, 0, 0], [0, 3, 0]])
    pairs = neighbor_list(apart, 4.0)
    distances = np.linalg.norm(pairs.displacements(apart.positions), axis=1)
    assert net.damping(apart.numbers, pairs, distances) is None


def test_damping_touches_no_training_structure(potential, labelled):
    for frame in labelled:
        pairs = neighbor_list(frame, potential.r_cut)
        distances = np.linalg.norm(pairs.displacements(frame.positions), axis=1)
        assert potential.fitted_.safety.damping(frame.numbers, pairs, distances) is None


def test_kernel_noise_cannot_fight_the_wall(potential):
    """Every pair repels, ever more, from well inside the data down to 0.2 Å."""
    for pair, d_min in potential.fitted_.safety.d_min.items():
        # from 0.5 d_min inwards the kernels are silent
        distances = np.linspace(0.5 * d_min, 0.2, 60)
        energies = [
            potential.predict(Atoms(pair, [[0, 0, 0], [0, 0, r]])).energy for r in distances
        ]
        assert np.all(np.diff(energies) > 0)


def test_without_a_wall_nothing_is_damped(labelled, small_terms):
    bare = kp.KernelPotential(small_terms[:1], baseline=[]).fit(labelled)
    assert bare.fitted_.safety.d_min == {}
    dimer = Atoms("Cu2", [[0, 0, 0], [0, 0, 0.3]])
    system = bare.model.system(dimer)
    kernels = bare.model.local.evaluate(system).energies.sum()
    assert abs(kernels) > 0.01
    free = bare.model.e0.total(dimer.numbers)
    assert bare.predict(dimer).energy == pytest.approx(free + kernels, rel=1e-12)


def test_screening_changes_nothing_but_the_cost(potential, monkeypatch):
    monkeypatch.setattr("kernelpot.gp.species_run.SCREEN_MINIMUM", 30)
    atoms = rattled_alloy(7, (2, 2, 1), 0.3)
    std = gate_std(potential, atoms)
    gate = VarianceGate(std_low=np.quantile(std, 0.7), std_high=1.1 * std.max())
    screened = potential.predict(atoms, gate=gate)
    monkeypatch.setattr("kernelpot.gp.species_run.SCREEN_SHARE", 1.0)
    full = potential.predict(atoms, gate=gate)
    assert screened.energy == pytest.approx(full.energy, rel=1e-13)
    np.testing.assert_allclose(screened.forces, full.forces, atol=1e-11)
    np.testing.assert_allclose(screened.gate_weights, full.gate_weights, atol=1e-12)
    assert np.any(screened.std_bound > full.std_bound * (1 + 1e-6))


@pytest.mark.parametrize("return_std", [False, "local"])
@pytest.mark.parametrize("screened", [False, True])
def test_the_kernel_gives_the_same_gated_forces_as_polynomials(
    potential, monkeypatch, return_std, screened
):
    """Whatever was kept from the variances for their gradient, of all atoms or of some."""
    monkeypatch.setattr("kernelpot.gp.species_run.SCREEN_MINIMUM", 10 if screened else 10_000)
    atoms = rattled_alloy(7, (2, 2, 1), 0.3)
    gate = straddling(potential, atoms)
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
    assert 0 < np.count_nonzero(one.gate_weights) < len(atoms)
    assert two.energy == pytest.approx(one.energy, rel=1e-10)
    np.testing.assert_allclose(two.forces, one.forces, atol=1e-8)
    if return_std:
        np.testing.assert_allclose(two.energies_std, one.energies_std, rtol=1e-6)


def test_many_structures_and_threads_give_the_same(potential):
    many = [rattled_alloy(s, (1, 1, 1), 0.3) for s in range(4)]
    gate = straddling(potential, many[0])
    together = list(potential.predict_many(many, gate=gate, n_threads=1))
    for atoms, found in zip(many, together, strict=True):
        alone = potential.predict(atoms, gate=gate, n_threads=2)
        assert found.energy == pytest.approx(alone.energy, rel=1e-12)
        np.testing.assert_allclose(found.forces, alone.forces, atol=1e-10)
        np.testing.assert_allclose(found.gate_weights, alone.gate_weights, atol=1e-10)


def test_energy_is_conserved_while_the_gate_opens_and_closes(potential):
    atoms = rattled_alloy(3, (2, 1, 1), 0.05)
    std = gate_std(potential, rattled_alloy(3, (2, 1, 1), 0.1))
    gate = VarianceGate(std_low=0.9 * std.min(), std_high=1.5 * std.max(), on_gate=None)
    atoms.calc = potential.calculator(gate=gate)
    rng = np.random.default_rng(1)
    atoms.set_momenta(
        rng.normal(size=(len(atoms), 3)) * np.sqrt(0.08 * atoms.get_masses())[:, None]
    )
    times, totals, gated = [], [], []
    dynamics = VelocityVerlet(atoms, 1.0 * units.fs)

    def log():
        times.append(dynamics.nsteps)
        totals.append(atoms.get_total_energy() / len(atoms))
        gated.append(atoms.calc.results["n_gated"])

    dynamics.attach(log)
    dynamics.run(300)
    assert min(gated) < max(gated)  # it did open and close
    assert abs(energy_drift(np.array(times), np.array(totals))) < 1e-4
    assert np.ptp(totals) < 2e-3


def test_a_calculator_is_gated_unless_told_otherwise(potential):
    atoms = Atoms("CuAl", [[0, 0, 0], [0, 0, 1.2]])
    gated = potential.predict(atoms, gate=True)
    assert np.all(gated.gate_weights > 0.9)
    for options, expected in (({}, gated), ({"gate": None}, potential.predict(atoms))):
        atoms.calc = potential.calculator(**options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GateWarning)
            assert atoms.get_potential_energy() == pytest.approx(expected.energy, rel=1e-12)
        np.testing.assert_allclose(atoms.get_forces(), expected.forces, atol=1e-10)
    assert "n_gated" not in atoms.calc.results


def test_the_calculator_reports_and_reacts(potential):
    unknown = Atoms("CuAl", [[0, 0, 0], [0, 0, 1.2]])
    unknown.calc = potential.calculator()
    with pytest.warns(GateWarning, match="2 of 2 atoms are outside the training data"):
        unknown.get_potential_energy()
    assert unknown.calc.results["n_gated"] == 2
    assert unknown.calc.results["gate_weights"].shape == (2,)
    assert unknown.calc.results["std_bound"].shape == (2,)
    unknown.positions[1, 2] = 1.25
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unknown.get_potential_energy()  # said once
    unknown.calc = potential.calculator(gate=VarianceGate(on_gate="stop"))
    with pytest.raises(GateClosedError, match="outside the training data"):
        unknown.get_potential_energy()
    calls = []
    gate = VarianceGate(on_gate=lambda atoms, weights: calls.append((len(atoms), weights.max())))
    unknown.calc = potential.calculator(gate=gate)
    unknown.get_potential_energy()
    assert calls == [(2, unknown.calc.results["gate_weights"].max())]


def test_the_net_is_in_the_model_file(potential, tmp_path):
    potential.save(tmp_path / "model.kpot")
    loaded = kp.load(tmp_path / "model.kpot")
    atoms = rattled_alloy(7, (1, 1, 1), 0.4)
    assert loaded.predict(atoms, gate=True).energy == potential.predict(atoms, gate=True).energy
    assert loaded.fitted_.safety.to_dict() == potential.fitted_.safety.to_dict()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"std_low": -1.0}, "`std_low` must be positive"),
        ({"std_high": {"Cu": np.nan}}, "`std_high` must be positive"),
        ({"on_gate": "panic"}, "`on_gate` must be 'warn', 'stop'"),
    ],
)
def test_a_wrong_gate_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        VarianceGate(**arguments)


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        (VarianceGate(std_low=1.0, std_high=0.5), "`std_high` of Al must exceed its `std_low`"),
        (VarianceGate(std_low={"Fe": 1.0}), "`std_low` names Fe; the potential knows Al, Cu"),
    ],
)
def test_a_gate_that_does_not_fit_the_potential_is_refused_at_once(potential, gate, message):
    with pytest.raises(ValueError, match=message):
        potential.calculator(gate=gate)
    with pytest.raises(ValueError, match=message):
        potential.predict(structures()["cluster"], gate=gate)


def test_something_else_is_no_gate(potential):
    with pytest.raises(TypeError, match="`gate` must be a VarianceGate"):
        potential.calculator(gate=0.5)


def test_thresholds_can_be_given_for_each_species(potential):
    net = SafetyNet(np.array([0.1, 0.2]), np.zeros(2), {}, np.array([3.0, 5.0]))
    low, high = VarianceGate(std_low={"Cu": 0.5}, std_high=2.0).thresholds((13, 29), net)
    np.testing.assert_allclose(low, [0.01, 0.25])
    np.testing.assert_allclose(high, [4.0, 4.0])
    _, high = VarianceGate(std_low={"Cu": 0.5}).thresholds((13, 29), net)
    np.testing.assert_allclose(high, [0.09, 6.25])


def test_a_tenth_of_every_group_is_held_out():
    frames = [("bulk", [14, 14])] * 25 + [("rare", [14, 14])] * 5 + [("atom", [14])] * 20
    chosen = hold_out(frames)
    assert chosen == [5, 15]
    # the only structures with a species are needed for its sparse points
    frames[5] = ("bulk", [14, 8])
    assert hold_out(frames) == [15]


def test_how_molecules_share_their_energy_does_not_close_the_gate():
    """Data of one composition leave it open; the gate looks at the rest of the variance."""
    from kernelpot.datasets import load_ethanol

    frames = load_ethanol("train")[:40]
    terms = [kp.SOAPTerm(r_cut=3.5, n_max=4, l_max=3, n_sparse=120)]
    pot = kp.KernelPotential(terms, e0="least_squares").fit(frames)
    atoms = load_ethanol("test")[0].atoms
    exact = pot.local_std(atoms)
    found = pot.predict(atoms, gate=VarianceGate(std_low=1e-6))
    assert np.all(found.std_bound < exact)
    assert found.std_bound[:3].max() < 0.4 * exact[:3].min()  # C, C, O
    # the energy of the molecule is known all along
    assert pot.predict(atoms, return_std=True).energy_std < 0.3 * exact.max()
    stretched = atoms.copy()
    stretched.set_distance(0, 1, 2.2 * atoms.get_distance(0, 1), fix=0)
    assert pot.predict(stretched, gate=True).gate_weights.max() > 0.5
    assert pot.predict(atoms, gate=True).gate_weights.max() < 0.01
