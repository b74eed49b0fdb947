"""LODE against quadrature, multipoles, Ewald's sum, and featomic."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

import kernelpot as kp
from kernelpot.baseline.pair_functions import COULOMB
from kernelpot.baseline.smeared import SmearedCoulomb
from kernelpot.data.system import VOIGT_COLUMNS, VOIGT_ROWS
from kernelpot.terms import potential_field
from kernelpot.terms.potential_field import Probes, boys, field_of
from tests.conftest import structures

PROBES = Probes(0.8, (0.7, 1.5), 2)


def harmonic(degree, m, r):
    """Real spherical harmonics from Legendre functions, with the signs of y, z, x for l = 1."""
    from scipy.special import factorial, lpmv

    unit = r / np.linalg.norm(r, axis=-1, keepdims=True)
    k = abs(int(m))
    norm = (2 * degree + 1) / (4 * np.pi) * factorial(degree - k) / factorial(degree + k)
    legendre = (-1.0) ** k * lpmv(k, degree, unit[..., 2]) * np.sqrt(norm * (2 if k else 1))
    turn = k * np.arctan2(unit[..., 1], unit[..., 0])
    return legendre * (np.cos(turn) if m >= 0 else np.sin(turn))


def orthonormal(degree, r):
    """Löwdin's radial functions by quadrature, shape (n_radial, n)."""
    grid, weight = np.polynomial.legendre.leggauss(400)
    grid, weight = 10 * (grid + 1), 10 * weight

    def plain(x):
        return np.array([x**degree * np.exp(-0.5 * (x / s) ** 2) for s in PROBES.widths])

    overlap = (plain(grid) * weight * grid**2) @ plain(grid).T
    norm = 1 / np.sqrt(np.diag(overlap))
    values, vectors = np.linalg.eigh(overlap * np.outer(norm, norm))
    return (vectors / np.sqrt(values)) @ vectors.T @ (norm[:, None] * plain(r))


def mixed(field, centers):
    """Orthonormal projections, (n, n_species, n_radial, n_harmonics)."""
    return np.einsum("eanm,mkn->eakm", field.sums(centers), PROBES.mixing)


def example(periodic):
    rng = np.random.default_rng(0)
    atoms = Atoms("CuAlCuAlO", 2 * rng.normal(size=(5, 3)))
    if periodic:
        atoms.set_cell([[6, 0.3, 0], [0.5, 5.5, 1], [0.2, 0, 6.5]])
        atoms.pbc = True
    return atoms, np.array([0, 1, 0, 1, 2])


@pytest.mark.parametrize("t", [0.0, 1e-12, 0.3, 0.5, 0.500001, 4.0, 60.0, 1e5])
def test_boys_functions(t):
    from scipy.integrate import quad

    # the integrand lives within a few 1/sqrt(t)
    end = min(1.0, 8 / np.sqrt(t)) if t else 1.0
    for m, found in enumerate(boys(3, np.array([t]))):
        expected = quad(lambda u, m=m: u ** (2 * m) * np.exp(-t * u * u), 0, end, epsabs=1e-15)[0]
        assert found[0] == pytest.approx(expected, rel=1e-11)


def test_projections_are_integrals_over_the_potential():
    """The definition itself, by quadrature on a grid of radii and directions."""
    from scipy.special import erf

    atoms, z = example(False)
    r, weight = np.polynomial.legendre.leggauss(60)
    r, weight = 5 * (r + 1), 5 * weight
    cosine, polar = np.polynomial.legendre.leggauss(24)
    phi = 2 * np.pi * np.arange(48) / 48
    sine = np.sqrt(1 - cosine**2)
    unit = np.stack(
        [np.outer(sine, np.cos(phi)), np.outer(sine, np.sin(phi)), np.outer(cosine, phi**0)],
        axis=-1,
    ).reshape(-1, 3)
    on_sphere = np.repeat(polar, 48) * 2 * np.pi / 48
    center = 1
    points = atoms.positions[center] + r[:, None, None] * unit
    found = mixed(field_of(atoms, z, 3, PROBES), slice(center, center + 1))[0]
    for species in range(3):
        d = np.linalg.norm(points[:, :, None] - atoms.positions[z == species], axis=-1)
        potential = (erf(d / (np.sqrt(2) * PROBES.smearing)) / np.maximum(d, 1e-12)).sum(axis=-1)
        for index, degree in enumerate(PROBES.degree):
            m = index - degree * (degree + 1)
            of_r = potential @ (on_sphere * harmonic(degree, m, unit))
            expected = orthonormal(degree, r) @ (weight * r**2 * of_r)
            np.testing.assert_allclose(found[species, :, index], expected, atol=1e-7)


def test_a_distant_charge_is_its_multipole_expansion():
    r"""1 / \|r - R\| is the sum of 4 pi / (2 l + 1) r^l / R^(l+1) Y(r) Y(R)."""
    away = np.array([21.0, -13.0, 17.0])
    atoms = Atoms("CuAl", [[0, 0, 0], away])
    found = mixed(field_of(atoms, np.array([0, 1]), 2, PROBES), slice(0, 1))[0, 1]
    r, weight = np.polynomial.legendre.leggauss(200)
    r, weight = 10 * (r + 1), 10 * weight
    distance = np.linalg.norm(away)
    for index, degree in enumerate(PROBES.degree):
        moment = orthonormal(degree, r) @ (weight * r ** (2 + degree))
        m = index - degree * (degree + 1)
        expected = 4 * np.pi / (2 * degree + 1) / distance ** (degree + 1) * moment
        np.testing.assert_allclose(
            found[:, index], expected * harmonic(degree, m, away), rtol=1e-10
        )


@pytest.mark.parametrize("periodic", [False, True])
def test_degrees_zero_and_one_are_potential_and_field(periodic):
    """As another sum has them: Ewald's, of real space and waves, for neutral charges."""
    atoms, z = example(periodic)
    charge = np.array([1.0, -2.0, 2.0])[z]  # of Cu, Al, O: neutral
    found = field_of(atoms, z, 3, PROBES).sums(slice(0, 5))
    for n, total in enumerate(PROBES.total):
        coulomb = SmearedCoulomb(atoms, np.full(5, total / np.sqrt(2)))
        by_charge = np.einsum("a,iam->im", [1.0, -2.0, 2.0], found[:, :, n])
        np.testing.assert_allclose(COULOMB * by_charge[:, 0], coulomb.potential(charge), atol=1e-7)
        for i in range(5):
            probe = np.zeros(5)
            probe[i] = 1.0
            # of a charge alone at i against all others; itself does not count
            others = charge.copy()
            others[i] = 0.0
            force = coulomb.derivatives(probe, others)[0][i]
            field = by_charge[i, [3, 1, 2]]
            own = field_of(atoms[[i]], z[[i]], 3, PROBES).sums(slice(0, 1))
            field = field - charge[i] * own[0, z[i], n, [3, 1, 2]]
            # sums are over r_j - r_i times a slope that is negative: along the field
            np.testing.assert_allclose(COULOMB * field, force, atol=1e-7)


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("table_bytes", [32e6, 2e4])
def test_derivatives_of_sums(periodic, table_bytes, monkeypatch, rng):
    monkeypatch.setattr(potential_field, "TABLE_BYTES", table_bytes)
    atoms, z = example(periodic)
    centers = slice(1, 4)

    def field(a):
        return field_of(a, z, 3, PROBES)

    by_sums = rng.normal(size=(3, 3, 2, 9))

    def scalar(a):
        return float(np.sum(field(a).sums(centers) * by_sums))

    def slope(change, h=1e-5):
        return (scalar(change(h)) - scalar(change(-h))) / (2 * h)

    forces, strain = field(atoms).pull(centers, by_sums)
    for i in range(5):
        for c in range(3):

            def moved(h, i=i, c=c):
                copy = atoms.copy()
                copy.positions[i, c] += h
                return copy

            assert forces[i, c] == pytest.approx(slope(moved), abs=2e-9)
    for a in range(3):
        for b in range(3):

            def strained(h, a=a, b=b):
                copy, change = atoms.copy(), np.eye(3)
                change[a, b] += h
                copy.set_cell(atoms.cell.array @ change)
                copy.positions = atoms.positions @ change
                return copy

            assert strain[a, b] == pytest.approx(slope(strained), abs=5e-9)
    one, all_strain = np.zeros((5, 3)), np.zeros(6)
    for row, center in enumerate(range(1, 4)):
        by_others, by_strain = field(atoms).jacobian(center)
        own = np.einsum("jcnm,jnm->jc", by_others, by_sums[row][z])
        one += own
        one[center] -= own.sum(axis=0)
        all_strain += np.einsum("vanm,anm->v", by_strain, by_sums[row])
    np.testing.assert_allclose(one, forces, atol=1e-12)
    np.testing.assert_allclose(all_strain, strain[VOIGT_ROWS, VOIGT_COLUMNS], atol=1e-12)


def test_projections_of_crystals_are_those_of_featomic():
    featomic = pytest.importorskip("featomic")

    class Gaussian(featomic.basis.RadialBasis):
        def __init__(self, degree):
            super().__init__(max_radial=1, radius=12.0)
            self.degree = degree

        def compute_primitive(self, positions, n, *, derivative):
            if derivative:
                return self.finite_differences_derivative(positions, n)
            s = PROBES.widths[n]
            return positions**self.degree * np.exp(-0.5 * (positions / s) ** 2)

    atoms, z = example(True)
    found = mixed(field_of(atoms, z, 3, PROBES), slice(0, 5))
    kinds = (29, 13, 8)
    for degree in range(3):
        spliner = featomic.splines.LodeSpliner(
            density=featomic.density.SmearedPowerLaw(smearing=PROBES.smearing, exponent=1),
            basis=featomic.basis.TensorProduct(
                max_angular=2, radial=Gaussian(degree), spline_accuracy=1e-6
            ),
            k_cutoff=7.0,
        )
        blocks = featomic.LodeSphericalExpansion(**spliner.get_hypers()).compute(atoms)
        for center in np.unique(z):
            for neighbor in range(3):
                block = blocks.block(
                    o3_lambda=degree,
                    o3_sigma=1,
                    center_type=kinds[center],
                    neighbor_type=kinds[neighbor],
                )
                own = slice(degree**2, (degree + 1) ** 2)
                ours = found[z == center, neighbor][:, :, own]
                np.testing.assert_allclose(
                    ours.transpose(0, 2, 1), np.asarray(block.values), atol=1e-5
                )


# ---- as a term ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def pot(labelled):
    terms = [kp.LODETerm(n_sparse=40), kp.PairTerm(r_cut=4.0, n_sparse=20)]
    return kp.KernelPotential(terms).fit(labelled, optimize=None)


def test_no_thread_changes_a_bit(pot, monkeypatch):
    atoms = bulk("Cu", cubic=True).repeat(2)
    atoms.numbers[::4] = 13
    atoms.rattle(0.1, seed=3)
    monkeypatch.setattr("kernelpot.gp.local.BATCH", 3)
    found = []
    for n in (1, 4):
        system = pot.model.system(atoms)
        found.append(system.forces(pot.model.local.evaluate(system, n_threads=n).result))
    np.testing.assert_array_equal(*found)


def test_what_is_not_known_far_away_is_not_known(pot):
    """The net sees an environment that differs only beyond the reach of any local term."""
    atoms = structures()["cluster"]
    near = pot.predict(atoms, return_std="local").energies_std
    charged = atoms + Atoms(
        "Cu20", [[9.0 + 0.1 * k, 2.5 * (k % 5), 2.5 * (k // 5)] for k in range(20)]
    )
    far = pot.predict(charged, return_std="local").energies_std[: len(atoms)]
    assert np.all(far > 1.5 * near)


def test_slabs_and_regions_are_refused(pot):
    with pytest.raises(ValueError, match="periodic along x, y only"):
        pot.predict(structures()["slab"])
    with pytest.raises(ValueError, match=r"needs whole structures \(lode\)"):
        pot.model.check_regional()


def test_it_learns_what_no_local_term_can_see():
    """Two rigid pairs out of each other's reach, with the energy of two charges."""
    frames = []
    for distance in np.linspace(6.0, 12.0, 13):
        atoms = Atoms("NaClNaCl", [[0, 0, 0], [0, 0, 2.4], [distance, 0, 0], [distance, 0, 2.4]])
        atoms.info["REF_energy"] = 4.0 / distance
        forces = np.zeros((4, 3))
        forces[:2, 0], forces[2:, 0] = -2.0 / distance**2, 2.0 / distance**2
        atoms.arrays["REF_forces"] = forces
        frames.append(atoms)
    settings = {"baseline": [], "e0": {"Na": 0.0, "Cl": 0.0}}
    errors = []
    for term in (kp.LODETerm(), kp.SOAPTerm(r_cut=5.0, n_max=3, l_max=2)):
        pot = kp.KernelPotential([term], **settings)
        pot.fit(frames[::2], optimize=None, calibrate=False, self_test=False)
        found = np.array([p.energy for p in pot.predict_many(frames[1::2])])
        errors.append(np.abs(found - [a.info["REF_energy"] for a in frames[1::2]]).max())
    assert errors[0] < 0.01 < 0.1 < errors[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"smearing": 0.0}, "`smearing` must be positive"),
        ({"widths": ()}, "`widths` must be a sequence of numbers"),
        ({"widths": 1.0}, "`widths` must be a sequence of numbers"),
        ({"widths": (1.0, 1.1)}, "`widths` must be ascending, each at least 1.2 times"),
        ({"widths": (-1.0, 1.0)}, "`widths` must be positive"),
        ({"l_max": 3}, "`l_max` must be 0, 1 or 2"),
        ({"length_scale": -1.0}, "`length_scale` must be positive"),
        ({"function": "cosine"}, "`function` must be one of gaussian, matern52"),
    ],
)
def test_wrong_parameters_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        kp.LODETerm(**arguments)
