"""Pair functions, their switching, their fit, and their place in a potential."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones as AseLennardJones
from ase.calculators.morse import MorsePotential
from ase.neighborlist import neighbor_list as ase_neighbor_list
from hypothesis import given
from hypothesis import strategies as st
from scipy import constants

import kernelpot as kp
from kernelpot.baseline.free_atoms import AtomicEnergies, atomic_energies
from kernelpot.baseline.pair_function import PairSum
from kernelpot.baseline.pair_functions import COULOMB, combine, from_dict
from kernelpot.baseline.reference import Reference, fit_terms
from kernelpot.data.system import Contribution, System, voigt
from kernelpot.model.prediction import Prediction
from kernelpot.testing import numerical_forces, numerical_stress
from tests.conftest import rattled_alloy, structures

TABLE_R = np.linspace(1.0, 6.0, 60)
FUNCTIONS = {
    "lj": kp.LennardJones(epsilon=0.3, sigma=2.2),
    "morse": kp.Morse(depth=0.6, width=0.7, r_0=2.5),
    "born-mayer": kp.BornMayer(A=900.0, rho=0.35),
    "buckingham": kp.Buckingham(A=2000.0, rho=0.3, C=40.0),
    "bare": kp.Buckingham(A=2000.0, rho=0.3, C=40.0, damping=None),
    "zbl": kp.ZBL(13, 29),
    "table": kp.Tabulated(TABLE_R, np.exp(-TABLE_R) - 0.3 * np.exp(-((TABLE_R - 3.0) ** 2))),
    "sum": kp.ZBL(13, 29) + kp.Morse(depth=0.6, width=0.7, r_0=2.5),
}


class Alone:
    """Baseline terms as something with `predict`."""

    def __init__(self, *terms):
        self.terms = terms

    def predict(self, atoms):
        system = System.of([atoms], max(term.r_cut for term in self.terms))
        result = Contribution.zero(system)
        for term in self.terms:
            term.evaluate(system, result)
        stress = None
        if atoms.pbc.all():
            stress = -voigt(system.virials(result)[0]) / atoms.get_volume()
        return Prediction(result.energies.sum(), result.energies, system.forces(result), stress)


def alloy_pairs(function):
    return {("Al", "Al"): function, ("Cu", "Al"): function, ("Cu", "Cu"): function}


# ---- functions -------------------------------------------------------------------------


@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_are_finite_differences(name):
    r, step = np.linspace(0.7, 5.5, 40), 1e-5
    _, slope, curvature = FUNCTIONS[name].derivatives(r)
    sides = [FUNCTIONS[name].derivatives(r + s) for s in (step, -step)]
    scale = np.abs(slope) + 1e-3
    assert (np.abs((sides[0][0] - sides[1][0]) / (2 * step) - slope) < 1e-6 * scale).all()
    # a spline of the third degree has kinks in its curvature
    bound = (1e-6 if name != "table" else 1e-3) * (np.abs(curvature) + 1e-2)
    assert (np.abs((sides[0][1] - sides[1][1]) / (2 * step) - curvature) < bound).all()


def test_the_unit_of_charges_is_that_of_files():
    # a wall or charges of another unit would not reproduce the golden structure of a file
    unit = COULOMB
    assert unit == pytest.approx(14.399645478, rel=1e-10)
    # between two adjustments of the constants of nature
    expected = constants.e / (4 * np.pi * constants.epsilon_0) * 1e10
    assert unit == pytest.approx(expected, rel=2e-9)


def test_lennard_jones_in_closed_form():
    function = kp.LennardJones(epsilon=0.4, sigma=3.0)
    r = np.array([3.0, 3.0 * 2 ** (1 / 6)])
    value, slope, curvature = function.derivatives(r)
    np.testing.assert_allclose(value, [0.0, -0.4], atol=1e-14)
    assert slope[1] == pytest.approx(0.0, abs=1e-13)
    assert slope[0] == pytest.approx(-24 * 0.4 / 3.0)
    assert curvature[1] == pytest.approx(72 * 0.4 / 2 ** (1 / 3) / 9.0)


def test_zbl_follows_the_published_coefficients():
    # universal screening function: phi(x) = sum c_k exp(-d_k x) with the coefficients of
    # Ziegler, Biersack, Littmark (1985), here written out independently
    x = np.array([0.1, 0.5, 1.0, 2.0, 5.0, 10.0])
    c, d = (0.1818, 0.5099, 0.2802, 0.02817), (3.2, 0.9423, 0.4028, 0.2016)
    phi = sum(ck * np.exp(-dk * x) for ck, dk in zip(c, d, strict=True))
    length = 0.8854 * 0.529177 / (13**0.23 + 29**0.23)
    value, _, _ = kp.ZBL(13, 29).derivatives(x * length)
    # the rounded coefficients that textbooks print differ in the fourth digit
    np.testing.assert_allclose(value * x * length / (14.39964 * 13 * 29), phi, rtol=1e-3)


def test_tang_toennies_damping_is_the_published_sum():
    rho, C, r = 0.3, 40.0, np.linspace(0.8, 6.0, 12)
    x = r / rho
    partial = sum(x**k / np.prod(np.arange(1, k + 1), dtype=float) for k in range(7))
    expected = 2000.0 * np.exp(-x) - (1 - np.exp(-x) * partial) * C / r**6
    np.testing.assert_allclose(FUNCTIONS["buckingham"].derivatives(r)[0], expected, rtol=1e-9)


@given(st.floats(0.15, 0.5), st.floats(1.0, 200.0))
def test_damped_dispersion_never_wins_at_contact(rho, C):
    r = np.geomspace(1e-3, 0.2, 50)
    damped = kp.Buckingham(A=2000.0, rho=rho, C=C).derivatives(r)[0]
    bare = kp.Buckingham(A=2000.0, rho=rho, C=C, damping=None).derivatives(r)[0]
    # f_6(x) / x^6 <= x / 7!
    assert (damped >= 2000.0 * np.exp(-r / rho) - C / rho**6 * r / rho / 5040.0 - 1e-9).all()
    assert bare[0] < -1e15


def test_a_table_passes_through_its_points_and_goes_on_straight():
    table = FUNCTIONS["table"]
    np.testing.assert_allclose(table.derivatives(TABLE_R)[0], table.energy, atol=1e-14)
    value, slope, curvature = table.derivatives(np.array([0.5, 0.8, 1.0]))
    assert slope[0] == slope[1] == slope[2]
    assert value[1] - value[0] == pytest.approx(0.3 * slope[0])
    np.testing.assert_allclose(curvature, 0.0, atol=1e-12)


def test_combination_rules():
    a, b = kp.LennardJones(epsilon=0.1, sigma=2.0), kp.LennardJones(epsilon=0.4, sigma=4.5)
    mixed = combine(a, b, "lorentz-berthelot")
    assert (mixed.epsilon, mixed.sigma) == pytest.approx((0.2, 3.25))
    assert combine(a, b, "geometric").sigma == pytest.approx(3.0)
    term = kp.PairBaseline({("Al", "Al"): a, ("Cu", "Cu"): b}, r_cut=6.0, combine="geometric")
    r = np.linspace(2.0, 5.9, 7)
    explicit = kp.PairBaseline({("Al", "Cu"): combine(a, b, "geometric")}, r_cut=6.0)
    np.testing.assert_array_equal(term.pair_energy(r, 13, 29), explicit.pair_energy(r, 29, 13))
    with pytest.raises(ValueError, match="no combination rule for LennardJones"):
        combine(a, FUNCTIONS["morse"], "geometric")


# ---- switching -------------------------------------------------------------------------


@pytest.mark.parametrize("switch", ["energy", "force"])
@pytest.mark.parametrize("name", ["lj", "morse", "buckingham", "sum"])
def test_switching_is_twice_differentiable(name, switch):
    term = kp.PairBaseline({("Al", "Cu"): FUNCTIONS[name]}, r_on=3.0, r_cut=4.5, switch=switch)
    h = 1e-4
    for edge in (3.0, 4.5):
        r = edge + h * np.arange(-3, 4)
        energy, slope = term.pair_energy(r, 13, 29)
        np.testing.assert_allclose(np.diff(energy), h * (slope[1:] + slope[:-1]) / 2, atol=1e-10)
        curvature = np.diff(slope) / h
        # continuous: between neighboring steps it changes by the third derivative times h
        assert np.abs(np.diff(curvature)).max() < 100 * h
    energy, slope = term.pair_energy(np.array([4.5, 4.6, 9.0]), 13, 29)
    assert not energy.any()
    assert not slope.any()


def test_nothing_changes_below_r_on_but_a_constant():
    function, r = FUNCTIONS["lj"], np.linspace(2.0, 3.0, 9)
    value, slope, _ = function.derivatives(r)
    for switch in ("energy", "force"):
        term = kp.PairBaseline({("Cu", "Cu"): function}, r_on=3.0, r_cut=4.5, switch=switch)
        energy, d_energy = term.pair_energy(r, 29, 29)
        np.testing.assert_allclose(d_energy, slope, rtol=1e-14)
        assert np.ptp(energy - value) < 1e-12
        assert (abs(energy[0] - value[0]) < 1e-12) == (switch == "energy")


# ---- structures ------------------------------------------------------------------------


def test_lennard_jones_agrees_with_ase():
    rng = np.random.default_rng(3)
    cluster = Atoms("Ar6", 3.4 * rng.random((6, 3)) + 3.3 * np.arange(6)[:, None] / 3)
    term = kp.PairBaseline(
        {("Ar", "Ar"): kp.LennardJones(epsilon=0.01, sigma=3.4)}, r_on=20.0, r_cut=25.0
    )
    # below the onset of its switch ASE's smooth potential is the bare one, as ours is
    cluster.calc = AseLennardJones(epsilon=0.01, sigma=3.4, rc=25.0, ro=20.0, smooth=True)
    found = Alone(term).predict(cluster)
    assert found.energy == pytest.approx(cluster.get_potential_energy(), rel=1e-12)
    np.testing.assert_allclose(found.forces, cluster.get_forces(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.energies, cluster.get_potential_energies(), rtol=1e-10)


def test_a_crystal_agrees_with_the_sum_over_ases_neighbors():
    atoms = rattled_alloy(2, (1, 1, 1))
    term = kp.PairBaseline(alloy_pairs(FUNCTIONS["lj"]), r_on=3.5, r_cut=5.0)
    i, d, vectors = ase_neighbor_list("idD", atoms, 5.0)
    x = np.clip((5.0 - d) / 1.5, 0, 1)
    step, d_step = x**3 * (6 * x**2 - 15 * x + 10), -30 * x**2 * (1 - x) ** 2 / 1.5 * (d > 3.5)
    v = 1.2 * ((2.2 / d) ** 12 - (2.2 / d) ** 6)
    dv = 1.2 * (-12 * 2.2**12 / d**13 + 6 * 2.2**6 / d**7)
    slope = dv * step + v * d_step
    found = Alone(term).predict(atoms)
    np.testing.assert_allclose(found.energies, 0.5 * np.bincount(i, v * step), rtol=1e-10)
    forces = np.stack([np.bincount(i, slope * vectors[:, c] / d) for c in range(3)], axis=1)
    np.testing.assert_allclose(found.forces, forces, atol=1e-10)


def test_morse_agrees_with_ase():
    atoms = Atoms("Cu4", [[0, 0, 0], [2.3, 0, 0], [0, 2.6, 0.2], [0.4, 0.9, 2.5]])
    depth, width, r_0 = 0.7, 0.6, 2.5
    term = kp.PairBaseline(
        {("Cu", "Cu"): kp.Morse(depth=depth, width=width, r_0=r_0)}, r_on=8.0, r_cut=9.0
    )
    atoms.calc = MorsePotential(epsilon=depth, r0=r_0, rho0=r_0 / width, rcut1=8.0, rcut2=9.0)
    found = Alone(term).predict(atoms)
    assert found.energy == pytest.approx(atoms.get_potential_energy(), rel=1e-12)
    np.testing.assert_allclose(found.forces, atoms.get_forces(), atol=1e-12)


@pytest.mark.parametrize("switch", ["energy", "force"])
@pytest.mark.parametrize("name", ["cluster", "crystal", "slab", "tiny", "left_handed"])
def test_forces_and_stress_are_derivatives(name, switch):
    potential = Alone(
        kp.PairBaseline(alloy_pairs(FUNCTIONS["sum"]), r_on=2.4, r_cut=3.9, switch=switch)
    )
    atoms = structures()[name]
    found = potential.predict(atoms)
    assert abs(found.energy) > 0.01
    np.testing.assert_allclose(found.forces, numerical_forces(potential, atoms), atol=2e-7)
    assert found.energies.sum() == pytest.approx(found.energy)
    if found.stress is not None:
        np.testing.assert_allclose(found.stress, numerical_stress(potential, atoms), atol=1e-7)


def test_several_structures_at_once_and_left_out_pairs():
    pairs = {("Al", "Al"): None, ("Cu", "Al"): FUNCTIONS["lj"], ("Cu", "Cu"): FUNCTIONS["morse"]}
    term = kp.PairBaseline(pairs, r_cut=4.5)
    group = list(structures().values())
    system = System.of(group, 4.5)
    result = Contribution.zero(system)
    term.evaluate(system, result)
    forces, virials = system.forces(result), system.virials(result)
    for s, atoms in enumerate(group):
        alone = Alone(term).predict(atoms)
        own = slice(system.first_atom[s], system.first_atom[s + 1])
        np.testing.assert_allclose(result.energies[own], alone.energies, atol=1e-12)
        np.testing.assert_allclose(forces[own], alone.forces, atol=1e-12)
        if alone.stress is not None:
            stress = -voigt(virials[s]) / atoms.get_volume()
            np.testing.assert_allclose(stress, alone.stress, atol=1e-12)
    assert not Alone(term).predict(bulk("Al", a=4.0)).energies.any()


# ---- fitting ---------------------------------------------------------------------------


def labelled_by(term, n=14, shift=0.0):
    frames = []
    for seed in range(n):
        atoms = rattled_alloy(seed, (1, 1, 1))
        found = Alone(term).predict(atoms)
        atoms.info["REF_energy"] = found.energy + shift * len(atoms)
        atoms.arrays["REF_forces"] = found.forces
        atoms.info["REF_stress"] = found.stress
        frames.append(atoms)
    return kp.read_dataset(frames)


TRUTH = {
    ("Al", "Al"): kp.Morse(depth=0.25, width=0.8, r_0=2.8),
    ("Al", "Cu"): kp.Morse(depth=0.40, width=0.7, r_0=2.6),
    ("Cu", "Cu"): kp.Morse(depth=0.35, width=0.6, r_0=2.5),
}
OPEN = {pair: kp.Morse() for pair in TRUTH}


@pytest.mark.parametrize("absolute", [True, False])
def test_a_fit_finds_the_functions_behind_the_labels(absolute):
    data = labelled_by(kp.PairBaseline(TRUTH, r_cut=4.5), shift=0.0 if absolute else 3.0)
    e0 = AtomicEnergies({13: 0.0, 29: 0.0}, "given") if absolute else atomic_energies(data)
    fitted = kp.PairBaseline(OPEN, r_cut=4.5).fit(data, (13, 29), Reference(e0))
    for pair, truth in kp.PairBaseline(TRUTH, r_cut=4.5).pairs.items():
        for name in ("depth", "width", "r_0"):
            # the table of the fit has knots every 0.02 Å
            assert getattr(fitted.pairs[pair], name) == pytest.approx(
                getattr(truth, name), rel=1e-3
            )
    assert all(0 < e < 1e-3 for errors in fitted.errors.values() for e in errors.values())
    assert "Cu-Cu: Morse depth 0.35 ± " in "\n".join(fitted.describe())


def test_outliers_do_not_bend_the_fit():
    data = labelled_by(kp.PairBaseline(TRUTH, r_cut=4.5))
    frames = []
    for index, frame in enumerate(data):
        atoms = frame.atoms.copy()
        atoms.info["REF_energy"] = frame.energy
        atoms.arrays["REF_forces"] = frame.forces.copy()
        if index == 3:
            atoms.arrays["REF_forces"][0] += 300.0
        frames.append(atoms)
    e0 = AtomicEnergies({13: 0.0, 29: 0.0}, "given")
    fitted = kp.PairBaseline(OPEN, r_cut=4.5).fit(kp.read_dataset(frames), (13, 29), Reference(e0))
    # a force of 300 eV/Å leaves 5 % and 1 %
    assert fitted.pairs[29, 29].depth == pytest.approx(0.35, rel=0.1)
    assert fitted.pairs[29, 29].r_0 == pytest.approx(2.5, rel=0.02)


def test_errors_cover_noise():
    data = labelled_by(kp.PairBaseline(TRUTH, r_cut=4.5), n=8)
    found, errors = [], []
    e0 = AtomicEnergies({13: 0.0, 29: 0.0}, "given")
    for seed in range(6):
        rng = np.random.default_rng(seed)
        frames = []
        for frame in data:
            atoms = frame.atoms.copy()
            atoms.arrays["REF_forces"] = frame.forces + 0.02 * rng.normal(size=frame.forces.shape)
            frames.append(atoms)
        fitted = kp.PairBaseline(OPEN, r_cut=4.5).fit(
            kp.read_dataset(frames), (13, 29), Reference(e0)
        )
        found.append(fitted.pairs[29, 29].r_0)
        errors.append(fitted.errors[29, 29]["r_0"])
    # six fits know their scatter to about a third
    assert 0.4 < np.std(found, ddof=1) / np.mean(errors) < 2.0


def test_fits_of_sums_combined_pairs_and_partly_given_functions():
    pairs = {("Al", "Al"): TRUTH["Al", "Al"], ("Cu", "Cu"): TRUTH["Cu", "Cu"]}
    truth = kp.PairBaseline(pairs, r_cut=4.5, combine="lorentz-berthelot")
    data = labelled_by(truth)
    start = {
        ("Al", "Al"): TRUTH["Al", "Al"],
        ("Cu", "Cu"): [kp.BornMayer(A=1e-6, rho=0.3), kp.Morse(width=0.6)],
    }
    e0 = AtomicEnergies({13: 0.0, 29: 0.0}, "given")
    fitted = kp.PairBaseline(start, r_cut=4.5, combine="lorentz-berthelot")
    with pytest.raises(ValueError, match="no combination rule"):
        fitted.fit(data, (13, 29), Reference(e0))
    start["Cu", "Cu"] = kp.Morse(width=0.6)
    fitted = kp.PairBaseline(start, r_cut=4.5, combine="lorentz-berthelot")
    fitted = fitted.fit(data, (13, 29), Reference(e0))
    assert fitted.pairs[29, 29].depth == pytest.approx(0.35, rel=1e-3)
    assert set(fitted.errors[29, 29]) == {"depth", "r_0"}
    start = {pair: kp.ZBL() + kp.Morse(width=0.6) for pair in TRUTH}
    summed = kp.PairBaseline(start, r_cut=4.5).fit(data, (13, 29), Reference(e0))
    assert isinstance(summed.pairs[29, 29], PairSum)
    assert set(summed.errors[29, 29]) == {"1.depth", "1.r_0"}
    assert "±" in summed.describe()[-1]


@pytest.mark.parametrize("function", [kp.LennardJones(), kp.BornMayer(), kp.Buckingham(rho=0.3)])
def test_every_kind_of_function_can_be_fitted(function):
    full = {
        kp.LennardJones: kp.LennardJones(epsilon=0.2, sigma=2.3),
        kp.BornMayer: kp.BornMayer(A=800.0, rho=0.33),
        kp.Buckingham: kp.Buckingham(A=2500.0, rho=0.3, C=60.0),
    }[type(function)]
    data = labelled_by(kp.PairBaseline(alloy_pairs(full), r_cut=4.5), n=6)
    e0 = AtomicEnergies({13: 0.0, 29: 0.0}, "given")
    term = kp.PairBaseline(alloy_pairs(function), r_cut=4.5)
    fitted = fit_terms([kp.Wall(), term], data, (13, 29), e0).baseline[1]
    for name in (*full.energies, *full.lengths):
        assert getattr(fitted.pairs[13, 29], name) == pytest.approx(getattr(full, name), rel=1e-4)


# ---- errors and files ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: kp.PairBaseline({("Si", "Si"): kp.Morse()}, r_cut=4.0, r_on=4.0), "`r_on` must"),
        (lambda: kp.PairBaseline({("Si", "Si"): kp.Morse()}, r_cut=-1.0), "`r_cut` must be pos"),
        (lambda: kp.PairBaseline({("Si", "Xx"): kp.Morse()}, r_cut=4.0), "not a chemical symbol"),
        (lambda: kp.PairBaseline({"SiO": kp.Morse()}, r_cut=4.0), "a pair must be two species"),
        (lambda: kp.PairBaseline({}, r_cut=4.0), "at least one pair"),
        (lambda: kp.PairBaseline({("Si", "Si"): []}, r_cut=4.0), "at least one function"),
        (lambda: kp.Morse(depth=-0.1), "`depth` of Morse must be positive, or None"),
        (lambda: kp.LennardJones(sigma=float("nan")), "`sigma` of LennardJones"),
        (lambda: kp.Buckingham(damping="none"), "`damping` must be"),
        (lambda: kp.Tabulated([1, 2, 2, 3], [4, 3, 2, 1]), "positive, ascending"),
        (lambda: kp.Tabulated([1, 2], [4, 3]), "at least four distances"),
        (
            lambda: kp.PairBaseline({("Si", "Si"): FUNCTIONS["table"]}, r_cut=7.0),
            "table of Si-Si ends at 6 Å, before r_cut 7 Å",
        ),
        (
            lambda: kp.PairBaseline({("Si", "O"): kp.ZBL(), ("O", "Si"): kp.ZBL()}, r_cut=4.0),
            "names O-Si twice",
        ),
        (lambda: kp.PairBaseline({("Si", "Si"): kp.ZBL()}, r_cut=4.0, switch="x"), "`switch` must"),
        (lambda: kp.PairBaseline({("Si", "Si"): kp.ZBL()}, r_cut=4.0, combine="x"), "`combine`"),
    ],
)  # fmt: skip
def test_unphysical_input_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_pair_needs_a_function_and_its_parameters():
    with pytest.raises(TypeError, match="a pair needs a function such as kernelpot.Morse"):
        kp.PairBaseline({("Si", "Si"): 3.0}, r_cut=4.0)
    data = labelled_by(kp.PairBaseline(TRUTH, r_cut=4.5), n=3)
    known = Reference(AtomicEnergies({13: 0.0, 29: 0.0}, "given"))
    with pytest.raises(ValueError, match=r"no function for Al-Al: add \('Al', 'Al'\) to `pairs`"):
        kp.PairBaseline({("Cu", "Cu"): FUNCTIONS["lj"]}, r_cut=4.5).fit(data, (13, 29), known)
    two = {("Cu", "Cu"): FUNCTIONS["lj"], ("Al", "Al"): FUNCTIONS["lj"]}
    with pytest.raises(ValueError, match="no function for Al-Cu.*combine='lorentz-berthelot'"):
        kp.PairBaseline(two, r_cut=4.5).fit(data, (13, 29), known)
    with pytest.raises(ValueError, match="no pair O-O closer than r_cut 4.5 Å to fit to"):
        kp.PairBaseline({**OPEN, ("O", "O"): kp.Morse()}, r_cut=4.5).fit(data, (13, 29), known)
    with pytest.raises(ValueError, match="Cu-Cu: depth, width, r_0 of Morse .* must be given"):
        kp.PairBaseline(OPEN, r_cut=4.5).pair_energy(np.ones(1), 29, 29)
    with pytest.raises(TypeError, match="`baseline` must be one term"):
        kp.KernelPotential(baseline=[kp.Morse()]).fit(data)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_survive_their_dictionary(name):
    assert from_dict(FUNCTIONS[name].to_dict()) == FUNCTIONS[name]


def test_a_term_survives_its_dictionary():
    term = kp.PairBaseline(
        {("Al", "Al"): FUNCTIONS["sum"], ("Cu", "Cu"): None, ("Al", "Cu"): FUNCTIONS["table"]},
        r_cut=4.5, r_on=3.1, switch="force", errors={(13, 13): {"1.depth": 0.01}},
    )  # fmt: skip
    assert kp.PairBaseline.from_dict(term.to_dict()) == term


def test_a_potential_with_pair_functions_survives_its_file(tmp_path, labelled, small_terms):
    baseline = [kp.Wall(), kp.PairBaseline(OPEN, r_cut=4.2)]
    pot = kp.KernelPotential(small_terms, baseline=baseline).fit(labelled)
    pot.save(tmp_path / "model.kpot")
    back = kp.load(tmp_path / "model.kpot")
    assert list(back.model.baseline) == list(pot.model.baseline)
    assert back.baseline[1] == baseline[1]
    atoms = rattled_alloy(9, (1, 1, 1))
    before, after = pot.predict(atoms), back.predict(atoms)
    assert after.energy == pytest.approx(before.energy, abs=1e-10)
    np.testing.assert_allclose(after.forces, before.forces, atol=1e-9)
    np.testing.assert_allclose(before.forces, numerical_forces(pot, atoms), atol=1e-5)
    np.testing.assert_allclose(before.stress, numerical_stress(pot, atoms), atol=1e-6)
    assert "Pair functions (energy switched off" in pot.summary()
