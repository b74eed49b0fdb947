"""The safety net: exact derivatives, an energy that is only ever raised, and who is told."""

import warnings
from dataclasses import dataclass, replace

import numpy as np
import pytest
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet

import kernelpot as kp
from kernelpot.data.neighbors import neighbor_list
from kernelpot.md.dynamics import energy_drift
from kernelpot.safety.damping import Damping
from kernelpot.safety.gate import (
    BOND_ENERGY,
    CONTACT_WIDTH,
    FLOOR_RISE,
    FLOOR_WIDTH,
    GateClosedError,
    GateWarning,
    PessimisticEnergies,
    VarianceGate,
    penalty,
)
from kernelpot.safety.thresholds import KAPPA, SafetyNet, gate_std
from kernelpot.terms.dot_product import QuadraticMean
from kernelpot.testing import numerical_forces, numerical_stress
from tests.conftest import label, rattled_alloy, structures


def net_of(known, width, contact, d_min=(), average=None):
    """A net of given limits."""
    average = np.full(2, -1e6) if average is None else average
    return SafetyNet(known, width, average, contact, dict(d_min), np.zeros(2), np.ones(2))


@dataclass
class Gated:
    """A potential seen through a gate."""

    potential: kp.KernelPotential
    gate: VarianceGate | bool | None

    def predict(self, atoms):
        return self.potential.predict(atoms, gate=self.gate)


def exact_std(potential, atoms):
    """Local standard deviations as the gate sees them, of all atoms."""
    return gate_std(potential.model.local, potential.model.system(atoms))


def gate_with(potential, atoms, beyond, kappa=KAPPA):
    """A gate beyond which there are no, some or all atoms of a structure."""
    std = np.sort(exact_std(potential, atoms))
    known = {"none": 1.1 * std[-1], "some": 0.5 * (std[0] + std[-1]), "all": 0.5 * std[0]}
    return VarianceGate(std_known=known[beyond], kappa=kappa, on_gate=None)


def counts(found, beyond):
    """Whether no, some or all atoms are beyond."""
    n, of = np.count_nonzero(found.penalty), len(found.penalty)
    return {"none": n == 0, "some": 0 < n < of, "all": n == of}[beyond]


def assert_derivatives(gated, atoms, step=3e-5):
    """Forces and stress are derivatives of the energy."""
    found = gated.predict(atoms)
    scale = max(1.0, np.abs(found.forces).max())
    numerical = numerical_forces(gated, atoms, step=step)
    np.testing.assert_allclose(found.forces, numerical, atol=1e-6 * scale)
    if atoms.pbc.all():
        numerical = numerical_stress(gated, atoms, step=step)
        np.testing.assert_allclose(found.stress, numerical, atol=1e-7 * scale)
    return found


# ---- the penalty -----------------------------------------------------------------------


def added(x, known=0.1, width=0.05, kappa=3.0):
    """Penalty and slope at standard deviations that exceed what is known by x."""
    std = np.atleast_1d(known + np.asarray(x, dtype=float))
    return penalty(std, np.full_like(std, known), np.full_like(std, width), kappa)


def test_the_penalty_sets_in_with_value_slope_and_curvature_zero():
    width, kappa = 0.05, 3.0
    below = np.linspace(-0.1, 0.0, 11)
    for value in added(below):
        assert np.all(value == 0)
    # a cubic onset: each derivative up to the second goes to zero with x
    x = width * np.array([1e-1, 1e-2, 1e-3])
    value, slope = added(x)
    bound = kappa * x**3 / (x + width) ** 2
    np.testing.assert_allclose(value, BOND_ENERGY * np.log1p(bound / BOND_ENERGY), rtol=1e-10)
    assert np.all(value <= kappa * x**3 / width**2)
    assert np.all(slope <= 3 * kappa * x**2 / width**2)
    step = 1e-4 * x
    curvature = (added(x + step)[1] - added(x - step)[1]) / (2 * step)
    assert np.all(curvature <= 6 * kappa * x / width**2)
    assert np.all(np.diff(curvature) < 0)
    third = curvature / x  # and no further: C2, not C3
    np.testing.assert_allclose(third[-1], 6 * kappa / width**2, rtol=1e-2)


@pytest.mark.parametrize("kappa", [1.0, 5.0])
@pytest.mark.parametrize("width", [0.02, 0.1])
def test_the_slope_of_the_penalty_is_its_derivative(width, kappa):
    x, step = np.linspace(1e-3, 2.0, 200), 1e-6
    options = {"width": width, "kappa": kappa}
    numerical = (added(x + step, **options)[0] - added(x - step, **options)[0]) / (2 * step)
    np.testing.assert_allclose(added(x, **options)[1], numerical, rtol=1e-6, atol=1e-8)


def test_the_penalty_grows_ever_on_as_kappa_standard_deviations_and_then_their_logarithm():
    width, kappa = 0.05, 3.0
    value, slope = added(np.linspace(1e-4, 5.0, 3000))
    assert np.all(np.diff(value) > 0)
    assert np.all(slope > 0)
    far = np.array([1e2, 1e3])
    value, slope = added(far)
    # x^3 / (x + w)^2 = x - 2 w + 3 w^2 / x - ...
    expected = BOND_ENERGY * np.log(kappa * (far - 2 * width) / BOND_ENERGY)
    np.testing.assert_allclose(value, expected, atol=BOND_ENERGY**2 / (kappa * 1e2) * 1.01)
    np.testing.assert_allclose(slope, BOND_ENERGY / far, rtol=1e-2)
    # nowhere more than all of what is not known, nowhere less than that but for 2 w
    x = np.linspace(0.0, 5.0, 1000)
    bound = BOND_ENERGY * np.expm1(added(x)[0] / BOND_ENERGY)
    assert np.all(bound <= kappa * x * (1 + 1e-12))
    assert np.all(bound >= kappa * (x - 2 * width))


def test_nothing_is_added_without_a_limit():
    std = np.array([0.5, 2.0, 0.0])
    known = np.array([np.inf, 0.1, np.inf])
    value, slope = penalty(std, known, np.array([np.inf, 0.05, np.inf]), 3.0)
    expected = penalty(std[1:2], known[1:2], np.array([0.05]), 3.0)
    np.testing.assert_array_equal(value, [0.0, expected[0][0], 0.0])
    np.testing.assert_array_equal(slope, [0.0, expected[1][0], 0.0])


# ---- exact derivatives -----------------------------------------------------------------


@pytest.mark.parametrize("kappa", [1.0, 5.0])
@pytest.mark.parametrize("beyond", ["none", "some", "all"])
@pytest.mark.parametrize("name", ["crystal", "slab", "cluster", "wire"])
def test_forces_and_stress_are_derivatives_of_the_gated_energy(potential, name, beyond, kappa):
    atoms = structures()[name]
    atoms.positions += 0.05 * np.random.default_rng(3).normal(size=atoms.positions.shape)
    gated = Gated(potential, gate_with(potential, atoms, beyond, kappa))
    assert counts(assert_derivatives(gated, atoms), beyond)


@pytest.mark.parametrize("beyond", ["none", "all"])
def test_one_atom_in_a_tiny_cell_has_exact_stress_too(potential, beyond):
    atoms = structures()["tiny"]
    gated = Gated(potential, gate_with(potential, atoms, beyond))
    assert counts(assert_derivatives(gated, atoms), beyond)


def crowded(potential, distances):
    """A copper atom with neighbors at the given fractions of the shortest distance."""
    d_min = potential.fitted_.safety.d_min[29, 29]
    directions = np.array([[1.0, 0.1, 0.0], [-0.2, 1.0, 0.3], [0.1, -0.3, -1.0]])
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    points = [np.zeros(3)]
    points += [f * d_min * u for f, u in zip(distances, directions, strict=False)]
    return Atoms(f"Cu{len(points)}", points)


@pytest.mark.parametrize(
    "distances", [(0.6,), (0.62, 0.66), (0.55, 0.65, 0.69), (0.45, 0.6), (0.3, 0.4), (0.71,)]
)
def test_damping_is_differentiated_with_and_without_a_gate(potential, distances):
    atoms = crowded(potential, distances)
    assert_derivatives(Gated(potential, None), atoms, step=1e-5)
    for kappa in (1.0, 5.0):
        for beyond in ("none", "some", "all"):
            if beyond == "some" and len(atoms) == 2:
                continue  # one is the image of the other
            gated = Gated(potential, gate_with(potential, atoms, beyond, kappa))
            assert counts(assert_derivatives(gated, atoms, step=1e-5), beyond)


def test_atoms_pressed_into_a_crystal_have_exact_stress_too(potential):
    """Damped and beyond, with neighbors that are neither."""
    atoms = rattled_alloy(5, (2, 1, 1), 0.05)
    towards = atoms.get_distance(0, 1, mic=True, vector=True)
    d_min = min(potential.fitted_.safety.d_min.values())
    atoms.positions[0] += towards * (1 - 0.63 * d_min / np.linalg.norm(towards))
    system = potential.model.system(atoms)
    damping = potential.model.safety.damping(system.numbers, system.pairs, system.distances)
    assert 0 < damping.keep.min() < 1
    gated = Gated(potential, gate_with(potential, atoms, "some"))
    assert counts(assert_derivatives(gated, atoms, step=1e-5), "some")


# ---- the energy ------------------------------------------------------------------------


def kernels_and_baseline(potential, atoms):
    """Energies of the atoms by kernels alone, and by free atoms and baseline."""
    model = potential.model
    system = model.system(atoms)
    local = model.local.evaluate(system, gradient=False).energies
    return local, model.reference.evaluate(system).energies


@pytest.mark.parametrize("kappa", [0.0, 3.0])
@pytest.mark.parametrize("distances", [(0.55, 0.65, 0.69), (0.45, 0.6), (0.3, 0.4), (1.1, 1.2)])
def test_the_energy_is_that_of_the_formula(potential, distances, kappa):
    atoms = crowded(potential, distances)
    model, net = potential.model, potential.model.safety
    local, known = kernels_and_baseline(potential, atoms)
    z = model.species.index(29)
    x = exact_std(potential, atoms) - net.std_known[z]
    assert np.all(x > 0)
    bound = kappa * x**3 / (x + net.width[z]) ** 2
    raised = local + BOND_ENERGY * np.log1p(bound / BOND_ENERGY)
    if kappa:
        t = np.minimum(x / (FLOOR_RISE * net.width[z]), 1.0)
        under = net.average[z] - local
        step = t**3 * (10 - 15 * t + 6 * t**2)
        raised += step * 0.5 * (under + np.sqrt(under**2 + FLOOR_WIDTH**2))
    system = model.system(atoms)
    damping = net.damping(system.numbers, system.pairs, system.distances)
    keep = np.ones(len(atoms)) if damping is None else damping.keep
    below = net.contact[z] - raised
    lift = 0.5 * (below + np.sqrt(below**2 + CONTACT_WIDTH**2))
    gate = VarianceGate(kappa=kappa) if kappa else None
    found = potential.predict(atoms, gate=gate)
    np.testing.assert_allclose(
        found.energies, known + raised + (1 - keep) * lift, rtol=1e-9, atol=1e-9
    )


def test_where_everything_is_known_nothing_changes(potential):
    atoms = structures()["crystal"]
    plain = potential.predict(atoms)
    gated = potential.predict(atoms, gate=gate_with(potential, atoms, "none"))
    assert gated.energy == pytest.approx(plain.energy, rel=1e-13)
    np.testing.assert_allclose(gated.forces, plain.forces, atol=1e-12)
    np.testing.assert_allclose(gated.stress, plain.stress, atol=1e-14)
    assert plain.penalty is None
    assert np.all(gated.penalty == 0)


def test_atoms_of_the_data_are_known(potential, labelled):
    """All but those of half a structure, which are beyond by little."""
    found = [potential.predict(frame, gate=True) for frame in labelled]
    beyond = np.concatenate([p.penalty > 0 for p in found])
    assert beyond.sum() <= 0.5 * max(map(len, labelled))
    gated = sum(p.energy for p in found)
    assert gated == pytest.approx(sum(potential.predict(f).energy for f in labelled), abs=0.02)


def rattled(rng):
    return rattled_alloy(int(rng.integers(1000)), (1, 1, 1), rng.uniform(0.0, 0.8))


def scaled(rng, low, high):
    atoms = rattled_alloy(int(rng.integers(1000)), (1, 1, 1), 0.1)
    atoms.set_cell(rng.uniform(low, high) * atoms.cell.array, scale_atoms=True)
    return atoms


def overlapping(rng):
    atoms = rattled_alloy(int(rng.integers(1000)), (1, 1, 1), 0.1)
    atoms.positions[1] = atoms.positions[0] + rng.uniform(0.1, 0.7) * rng.normal(size=3)
    return atoms


def dimer(rng):
    return Atoms(rng.choice([13, 29], 2), [[0, 0, 0], [0, 0, rng.uniform(0.1, 6.0)]])


def cluster(rng):
    n = int(rng.integers(2, 7))
    return Atoms(rng.choice([13, 29], n), rng.uniform(0.0, 4.0, (n, 3)))


ANYWHERE = {
    "rattled": rattled,
    "compressed": lambda rng: scaled(rng, 0.4, 1.0),
    "stretched": lambda rng: scaled(rng, 1.0, 2.0),
    "overlapping": overlapping,
    "dimer": dimer,
    "cluster": cluster,
}
# Where atoms come nearer than those of the data, and where kernels alone fall below the truth.
NEAR = ("rattled", "compressed", "overlapping", "dimer", "cluster")
TOO_LOW = ("dimer", "cluster")


@pytest.fixture(scope="module", params=ANYWHERE)
def anywhere(request):
    """Sixty random structures of a kind."""
    rng = np.random.default_rng(11)
    return request.param, [ANYWHERE[request.param](rng) for _ in range(60)]


def test_the_net_never_lowers_an_energy(potential, anywhere):
    kind, many = anywhere
    model = potential.model
    n_lifted = n_raised = 0
    gated = potential.predict_many(many, gate=True)
    for atoms, plain, found in zip(many, potential.predict_many(many), gated, strict=True):
        local, known = kernels_and_baseline(potential, atoms)
        rounding = 1e-10 + 1e-12 * np.abs(known)
        assert np.all(plain.energies >= local + known - rounding)
        assert np.all(found.energies >= plain.energies - rounding)
        assert found.energy >= plain.energy - rounding.sum()
        assert np.all(found.penalty >= 0)
        system = model.system(atoms)
        damping = model.safety.damping(system.numbers, system.pairs, system.distances)
        if damping is None:  # then the penalty is all that is added
            np.testing.assert_allclose(plain.energies, local + known, atol=1e-9)
            np.testing.assert_allclose(found.energies, plain.energies + found.penalty, atol=1e-9)
        n_lifted += np.any(plain.energies > local + known + 0.1)
        n_raised += np.any(found.energies > plain.energies + 0.1)
    assert n_raised > 20
    assert (n_lifted > 0) == (kind in NEAR)


def slack(potential, atoms):
    """By what true energies may exceed the pessimistic one if these err by kappa stds."""
    net = potential.model.safety
    z = [potential.model.species.index(z) for z in atoms.numbers]
    std = exact_std(potential, atoms)
    # of all of them, less what is added: the onset, and what grows as a logarithm only
    return (KAPPA * std - penalty(std, net.std_known[z], net.width[z])[0]).sum()


def test_the_gated_energy_lies_above_the_true_one(potential, anywhere):
    kind, many = anywhere
    gated = potential.predict_many(many, gate=True)
    n_below = 0
    for atoms, plain, found in zip(many, potential.predict_many(many), gated, strict=True):
        with np.errstate(all="ignore"):
            true = label(atoms).info["REF_energy"]
        allowed = slack(potential, atoms)
        assert found.energy > true - allowed
        n_below += plain.energy < true - allowed
    # the kernels alone do not always
    assert n_below > 0 or kind not in TOO_LOW


@pytest.mark.parametrize("k", [0, 5, 14, 19, 22])
def test_entering_the_unknown_costs_energy(potential, labelled, k):
    """Crystals and clusters of the data, compressed and stretched until nothing is known."""
    start = labelled[k]

    def energies(factors, gate):
        many = [
            Atoms(start.numbers, f * start.positions, cell=f * start.cell.array, pbc=start.pbc)
            for f in factors
        ]
        return list(potential.predict_many(many, gate=gate))

    for factors in (np.arange(0.95, 0.6, -0.01), np.arange(1.05, 1.7, 0.01)):
        found = energies(factors, True)
        energy = np.array([p.energy for p in found])
        beyond = np.array([p.penalty.sum() for p in found]) > 0.05
        first = int(np.argmax(beyond))
        assert beyond[first:].all()
        # where it sets in the kernels may still fall faster, by little
        out = energy[first:]
        assert np.max(np.maximum.accumulate(out) - out) < 0.02 * len(start)
        assert out[-1] > out[0] + 0.5 * len(start)
    # stretched twofold: atoms apart, of which nothing was ever said
    (apart,) = energies([2.0], True)
    (plain,) = energies([2.0], False)
    assert apart.energy - plain.energy > len(start)


def nearest_hydrogen(atoms, partner):
    hydrogens = np.flatnonzero(atoms.numbers == 1)
    return hydrogens[np.argmin(atoms.get_distances(partner, hydrogens))]


def test_an_atom_torn_out_of_a_molecule_costs_more_than_the_kernels_say(ethanol):
    potential, frames = ethanol
    for frame in frames[:3]:
        for partner in (OXYGEN, CARBON):
            atoms = frame.atoms.copy()
            atom = nearest_hydrogen(atoms, partner)
            direction = atoms.positions[atom] - atoms.positions[partner]
            direction /= np.linalg.norm(direction)
            start = potential.predict(atoms, gate=True).energy
            costs, plain = [], []
            for distance in np.arange(1.2, 3.6, 0.1):
                atoms.positions[atom] = atoms.positions[partner] + distance * direction
                costs.append(potential.predict(atoms, gate=True).energy - start)
                plain.append(potential.predict(atoms).energy - start)
            costs, plain = np.array(costs), np.array(plain)
            assert np.all(costs >= plain - 1e-9)
            # a bond costs 4 to 5 eV
            assert costs[-1] > plain[-1] + 1.0
            assert costs[-1] > 4.5
            broken = int(np.argmax(costs > 5.0))
            assert np.all(np.diff(costs[: broken + 1]) > 0)
            assert costs[broken:].min() > 4.5
            # to the kernels a bond to carbon is as good as none
            assert partner == OXYGEN or plain[8] < 1.0


# ---- how energy is shared says nothing ---------------------------------------------------


def shifted(model, shifts):
    """The model with other energies of isolated atoms, and nothing else."""
    e0 = {z: e + shifts[z] for z, e in model.e0.e0.items()}
    free = replace(model.e0, e0=e0)
    return replace(model, reference=replace(model.reference, e0=free))


BEYOND = rattled_alloy(7, (2, 1, 1), 0.4)


@pytest.mark.parametrize("atoms", [BEYOND, Atoms("CuAl", [[0, 0, 0], [0, 0, 1.1]])])
def test_energies_of_free_atoms_have_no_say(potential, atoms):
    model, shifts = potential.model, {13: 5.0, 29: -3.0}
    one, two = (m.predict(atoms, gate=VarianceGate()) for m in (model, shifted(model, shifts)))
    assert one.penalty.max() > 0.1
    for name in ("penalty", "std_bound", "forces"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    difference = sum(shifts[z] for z in atoms.numbers)
    assert two.energy == pytest.approx(one.energy + difference, abs=1e-9)


def test_but_for_the_floor_the_penalty_depends_on_no_local_energy(potential):
    no_floor = replace(potential.model.safety, average=np.full(2, -1e9))
    model = replace(potential.model, safety=no_floor)
    other = model.local.weights[::-1].copy()
    changed = replace(model, local=replace(model.local, weights=other))
    for atoms in (BEYOND, crowded(potential, (0.55, 0.65, 0.69))):
        one, two = (m.predict(atoms, gate=VarianceGate()) for m in (model, changed))
        assert one.penalty.max() > 0.1
        assert abs(one.energy - two.energy) > 0.1
        np.testing.assert_allclose(one.penalty, two.penalty, rtol=0, atol=1e-9)
        np.testing.assert_array_equal(one.std_bound, two.std_bound)


def test_a_constant_added_to_the_energies_of_a_species_goes_through_the_net(rng):
    z_index = np.array([0, 1, 0, 1, 1])
    energies, variances = rng.normal(size=5), rng.uniform(0.0, 2.0, 5)
    shift = np.array([4.0, -7.0])
    damping = Damping(np.array([1.0, 0.0, 0.3, 0.8, 0.5]), *np.zeros((3, 0), dtype=int))
    known, average, contact = np.array([0.2, 0.4]), np.array([0.1, 0.3]), np.array([1.0, 2.0])

    def blended(energies, shift):
        net = net_of(known, np.array([0.5, 1.0]), contact + shift, average=average + shift)
        return PessimisticEnergies(net, z_index, known, 3.0, damping)(
            slice(0, 5), energies, variances
        )

    one = blended(energies, np.zeros(2))
    two = blended(energies + shift[z_index], shift)
    np.testing.assert_allclose(two.energies, one.energies + shift[z_index], rtol=1e-12)
    for name in ("by_energy", "by_variance", "by_keep", "added"):
        np.testing.assert_allclose(getattr(two, name), getattr(one, name), rtol=1e-12)


def test_what_counts_as_known_does_not_depend_on_the_labels():
    """Another share of the energy among species, and other energies altogether."""
    frames = []
    for seed in range(8):
        atoms = rattled_alloy(seed, (1, 1, 1), 0.15)
        atoms.numbers[:] = [13, 29, 29, 13]
        frames.append(label(atoms))
    terms = [kp.SOAPTerm(r_cut=4.0, n_max=3, l_max=2, n_sparse=30)]
    fits = [
        kp.KernelPotential(
            terms, e0={"Al": al, "Cu": cu}, baseline=[kp.Wall()], sigma_energy=0.002,
            sigma_forces=0.05, sigma_stress=0.01,
        ).fit(frames, optimize=None, calibrate=False)
        for al, cu in ((-1.0, 2.0), (1.0, 0.0), (3.0, 2.0))
    ]  # fmt: skip
    same, other = rattled_alloy(30, (1, 1, 1), 0.5), rattled_alloy(31, (2, 1, 1), 0.5)
    same.numbers[:] = [13, 29, 29, 13]
    for atoms in (same, other):
        found = [pot.predict(atoms, gate=True) for pot in fits]
        assert found[0].penalty.max() > 0.1
        for later in found[1:]:
            np.testing.assert_allclose(later.std_bound, found[0].std_bound, rtol=1e-9)
    for later in fits[1:]:
        for name in ("std_known", "width", "std_of_data"):
            limits = (getattr(pot.model.safety, name) for pot in (later, fits[0]))
            np.testing.assert_allclose(*limits, rtol=1e-9)
    energies = [pot.predict(same, gate=True).energy for pot in fits]
    assert energies[1] == pytest.approx(energies[0], abs=1e-6)  # the same labels
    assert abs(energies[2] - energies[0]) > 1e-4


OXYGEN, CARBON = 2, 0  # atoms of the shipped ethanol


@pytest.fixture(scope="module")
def ethanol():
    """A potential of one molecule, and frames of it that it has not seen."""
    from kernelpot.datasets import load_ethanol

    data = list(load_ethanol("train"))
    frames = [f for f in data if len(f) == 9]
    train = [*(f for f in data if len(f) == 1), *frames[::4][:30]]
    potential = kp.KernelPotential(n_sparse=90, baseline=[kp.Wall()])
    return potential.fit(train, optimize=None, calibrate=False), frames[1::4][:10]


def test_how_molecules_share_their_energy_is_no_reason_to_distrust_them(ethanol):
    """Data of one composition leave it open; what is known of the sites does not."""
    potential, frames = ethanol
    largest = [potential.predict(f.atoms, gate=True).penalty.max() for f in frames]
    assert max(largest) < 0.02
    stretched = frames[0].atoms.copy()
    stretched.set_distance(0, 1, 2.2 * stretched.get_distance(0, 1), fix=0)
    assert potential.predict(stretched, gate=True).penalty.max() > 1.0


# ---- what must change nothing ------------------------------------------------------------


def test_screening_changes_nothing_but_the_cost(potential, monkeypatch):
    monkeypatch.setattr("kernelpot.gp.species_run.SCREEN_MINIMUM", 30)
    atoms = rattled_alloy(7, (2, 2, 1), 0.3)
    std = exact_std(potential, atoms)
    gate = VarianceGate(std_known=float(np.quantile(std, 0.7)))
    screened = potential.predict(atoms, gate=gate)
    monkeypatch.setattr("kernelpot.gp.species_run.SCREEN_SHARE", 1.0)
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
        beyond.append(atoms.calc.results["penalty"] > 0)

    dynamics.attach(log)
    dynamics.run(300)
    crossings = np.count_nonzero(np.diff(np.array(beyond), axis=0))
    assert crossings > 10
    assert abs(energy_drift(np.array(times), np.array(totals))) < 1e-4
    assert np.ptp(totals) < 2e-3


# ---- damping, and where the wall is ------------------------------------------------------


def test_contact_lies_above_every_local_energy_of_the_data(potential, labelled):
    """By three of the prior standard deviations, all that is possible."""
    model = potential.model
    largest = np.full(2, -np.inf)
    for frame in labelled:
        local, _ = kernels_and_baseline(potential, frame)
        np.maximum.at(largest, model.system(frame).z_index(model.species), local)
    prior = np.sqrt(sum(term.delta**2 for term in potential.terms))
    np.testing.assert_allclose(model.safety.contact, largest + KAPPA * prior, atol=1e-8)


def test_damping_is_the_product_over_neighbors():
    d_min = {(13, 13): 2.0, (13, 29): 1.0, (29, 29): 3.0}
    net = net_of(np.ones(2), np.full(2, 0.5), np.zeros(2), d_min)
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


@pytest.mark.parametrize("gate", [None, True])
def test_kernel_noise_cannot_fight_the_wall(potential, gate):
    """Every pair repels, ever more, from well inside the data down to 0.2 Å."""
    for pair, d_min in potential.fitted_.safety.d_min.items():
        # from 0.5 d_min inwards the kernels are silent
        distances = np.linspace(0.5 * d_min, 0.2, 60)
        energies = [
            potential.predict(Atoms(pair, [[0, 0, 0], [0, 0, r]]), gate=gate).energy
            for r in distances
        ]
        assert np.all(np.diff(energies) > 0)


def test_without_a_wall_nothing_is_damped(labelled, small_terms):
    bare = kp.KernelPotential(small_terms[:1], baseline=[]).fit(labelled)
    assert bare.fitted_.safety.d_min == {}
    close = Atoms("Cu2", [[0, 0, 0], [0, 0, 0.3]])
    local, free = kernels_and_baseline(bare, close)
    assert abs(local.sum()) > 0.01
    assert free.sum() == pytest.approx(bare.model.e0.total(close.numbers), rel=1e-12)
    assert bare.predict(close).energy == pytest.approx(free.sum() + local.sum(), rel=1e-12)


# ---- who is told ---------------------------------------------------------------------------


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
    assert not {"n_beyond", "penalty", "std_bound"} & set(atoms.calc.results)


def test_the_calculator_reports_and_reacts(potential):
    unknown = Atoms("CuAl", [[0, 0, 0], [0, 0, 1.2]])
    unknown.calc = potential.calculator()
    with pytest.warns(GateWarning, match="2 of 2 atoms are beyond the training data") as caught:
        unknown.get_potential_energy()
    results = unknown.calc.results
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
    assert calls == [(2, unknown.calc.results["penalty"].max())]


def test_a_penalty_below_a_millielectronvolt_is_not_worth_a_word(potential):
    atoms = structures()["crystal"]
    known = 0.99 * exact_std(potential, atoms).max()
    atoms.calc = potential.calculator(gate=VarianceGate(std_known=known, on_gate="stop"))
    atoms.get_potential_energy()
    assert 0 < atoms.calc.results["penalty"].max() < 1e-3
    assert atoms.calc.results["n_beyond"] == 0


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
