"""Coulomb sums: Madelung constants, closed forms, plain NumPy sums, finite differences."""

import numpy as np
import pytest
from ase.build import bulk
from scipy.special import erf, erfc

from kernelpot.baseline import _coulomb
from kernelpot.baseline.coulomb import DAMPING_REACH, finite_sum, periodic_sum, splitting

BARE = np.zeros((1, 1))
# Madelung constants of ZnS and CsCl; that of fluorite follows, since its lattice is a
# superposition of theirs.
ZNS, CSCL = 1.638055053388, 1.762674773070


def crystal(name):
    """A crystal with shortest distance 1 between unlike ions, its charges and constant."""
    edge = {"NaCl": 2.0, "CsCl": 2 / 3**0.5, "ZnS": 4 / 3**0.5, "CaF2": 4 / 3**0.5}[name]
    kind = {"NaCl": "rocksalt", "CsCl": "cesiumchloride", "ZnS": "zincblende", "CaF2": "fluorite"}
    charges = {"Na": 1.0, "Cl": -1.0, "Cs": 1.0, "Zn": 1.0, "S": -1.0, "Ca": 2.0, "F": -1.0}
    atoms = bulk(name, kind[name], a=edge)
    constant = {"NaCl": 1.747564594633182, "CsCl": CSCL, "ZnS": ZNS, "CaF2": 2 * ZNS + CSCL}[name]
    return atoms, np.array([charges[s] for s in atoms.symbols]), constant


def ions(n_atoms=7, seed=0, cell=None, net=0.0):
    """Random charges of three species in a skewed cell, no two closer than 1 Å."""
    rng = np.random.default_rng(seed)
    cell = np.array([[5.0, 0.4, -0.3], [1.1, 4.2, 0.6], [-0.7, 0.9, 6.1]]) if cell is None else cell
    shifts = np.array(np.meshgrid(*[[-1, 0, 1]] * 3)).reshape(3, -1).T
    fractional = np.empty((0, 3))
    while len(fractional) < n_atoms:
        new = rng.uniform(-1, 2, 3)
        d = fractional - new
        d = (d - np.round(d))[:, None] + shifts
        if (np.linalg.norm(d @ cell, axis=-1) > 1.0).all():
            fractional = np.vstack([fractional, new])
    positions = fractional @ cell
    charges = rng.normal(size=n_atoms)
    charges += (net - charges.sum()) / n_atoms
    kinds = rng.integers(0, 3, n_atoms)
    widths = np.array([[0.9, 0.5, 0.0], [0.5, 0.7, 0.6], [0.0, 0.6, 0.4]])
    return positions, cell, charges, kinds, widths


def zeros(n_atoms):
    return np.zeros(n_atoms, dtype=np.int64)


@pytest.mark.parametrize("name", ["NaCl", "CsCl", "ZnS", "CaF2"])
@pytest.mark.parametrize(("accuracy", "tolerance"), [(1e-8, 1e-8), (1e-13, 1e-11)])
def test_madelung_constants(name, accuracy, tolerance):
    atoms, charges, constant = crystal(name)
    found = periodic_sum(
        atoms.positions, atoms.cell.array, charges, zeros(len(atoms)), BARE, accuracy=accuracy
    )
    assert found.energies.sum() == pytest.approx(-constant, rel=tolerance)
    np.testing.assert_allclose(found.forces, 0.0, atol=1e-9)
    # bare Coulomb energies scale as 1 / length
    assert np.trace(found.virial) == pytest.approx(-constant, rel=30 * tolerance)


@pytest.mark.parametrize("net", [0.0, 1.3])
def test_nothing_depends_on_the_splitting(net):
    system = ions(net=net)
    sums = [periodic_sum(*system, accuracy=1e-13, alpha=alpha) for alpha in (0.35, 0.7, 1.2)]
    for one in sums[1:]:
        np.testing.assert_allclose(one.energies, sums[0].energies, atol=1e-10)
        np.testing.assert_allclose(one.forces, sums[0].forces, atol=1e-10)
        np.testing.assert_allclose(one.virial, sums[0].virial, atol=1e-9)


@pytest.mark.parametrize("net", [0.0, -0.8])
@pytest.mark.parametrize("damped", [False, True])
def test_forces_and_virial_are_derivatives(net, damped):
    positions, cell, charges, kinds, widths = ions(seed=1, net=net)
    widths = widths if damped else np.zeros_like(widths)
    # close enough for the damping to matter
    positions[1] = positions[0] + [0.3, 0.4, -0.2]

    def evaluate(x, h):
        return periodic_sum(x, h, charges, kinds, widths, accuracy=1e-12, alpha=0.6)

    found = evaluate(positions, cell)
    step = 1e-4
    for atom, axis in ((0, 0), (1, 2), (4, 1)):
        moved = np.zeros_like(positions)
        moved[atom, axis] = step
        slope = (
            evaluate(positions + moved, cell).energies.sum()
            - evaluate(positions - moved, cell).energies.sum()
        ) / (2 * step)
        assert found.forces[atom, axis] == pytest.approx(-slope, rel=1e-6, abs=1e-6)
    for a, b in ((0, 0), (1, 2), (2, 0)):
        strain = np.zeros((3, 3))
        strain[a, b] = step
        plus, minus = np.eye(3) + strain, np.eye(3) - strain
        slope = (
            evaluate(positions @ plus, cell @ plus).energies.sum()
            - evaluate(positions @ minus, cell @ minus).energies.sum()
        ) / (2 * step)
        assert found.virial[a, b] == pytest.approx(-slope, rel=1e-6, abs=1e-6)
    np.testing.assert_allclose(found.forces.sum(axis=0), 0.0, atol=1e-10)
    np.testing.assert_allclose(found.virial, found.virial.T, atol=1e-9)


def test_a_supercell_is_so_many_cells():
    positions, cell, charges, kinds, widths = ions(5, seed=2)
    shifts = np.array(np.meshgrid(range(2), range(3), range(1))).reshape(3, -1).T @ cell
    many = periodic_sum(
        (positions[None] + shifts[:, None]).reshape(-1, 3),
        cell * np.array([[2], [3], [1]]),
        np.tile(charges, 6),
        np.tile(kinds, 6),
        widths,
        accuracy=1e-12,
    )
    one = periodic_sum(positions, cell, charges, kinds, widths, accuracy=1e-12)
    np.testing.assert_allclose(many.energies, np.tile(one.energies, 6), atol=1e-9)
    np.testing.assert_allclose(many.forces, np.tile(one.forces, (6, 1)), atol=1e-9)
    np.testing.assert_allclose(many.virial, 6 * one.virial, atol=1e-8)


def test_handedness_wrapping_and_order_do_not_matter():
    positions, cell, charges, kinds, widths = ions(seed=3)
    one = periodic_sum(positions, cell, charges, kinds, widths, accuracy=1e-12)
    other = periodic_sum(
        positions + np.arange(21).reshape(7, 3) % 5 @ cell,
        cell[[1, 0, 2]],
        charges,
        kinds,
        widths,
        accuracy=1e-12,
    )
    np.testing.assert_allclose(other.energies, one.energies, atol=1e-10)
    np.testing.assert_allclose(other.forces, one.forces, atol=1e-10)


def test_finite_systems_against_a_plain_sum():
    positions, _, charges, kinds, widths = ions(9, seed=4)
    found = finite_sum(positions, charges, kinds, widths)
    d = positions[None] - positions[:, None]
    r = np.linalg.norm(d, axis=-1) + np.eye(9)
    w = widths[kinds[:, None], kinds]
    safe = np.where(w > 0, w, 1.0)
    phi = np.where(w > 0, erf(r / safe), 1.0) / r
    slope = (np.where(w > 0, 2 / np.sqrt(np.pi) / safe * np.exp(-((r / safe) ** 2)), 0.0) - phi) / r
    product = charges[:, None] * charges * (1 - np.eye(9))
    np.testing.assert_allclose(found.energies, 0.5 * (product * phi).sum(axis=1), rtol=1e-12)
    pull = (product * slope / r)[..., None] * d
    np.testing.assert_allclose(found.forces, pull.sum(axis=1), atol=1e-12)
    virial = -0.5 * np.einsum("ija,ijb->ab", pull, d)
    np.testing.assert_allclose(found.virial, virial, atol=1e-12)


def test_a_pair_in_closed_form():
    found = finite_sum(
        np.array([[0.0, 0, 0], [0, 0, 2.0]]), np.array([1.0, -2.0]), zeros(2), np.array([[0.5]])
    )
    assert found.energies.sum() == pytest.approx(-2 * erf(4.0) / 2, rel=1e-14)
    at_rest = finite_sum(
        np.array([[0.0, 0, 0], [0, 0, 1e-6]]), np.array([1.0, -2.0]), zeros(2), np.array([[0.5]])
    )
    assert at_rest.energies.sum() == pytest.approx(-2 * 2 / np.sqrt(np.pi) / 0.5, rel=1e-9)


def test_a_large_cell_approaches_the_free_molecule():
    positions = np.array([[0.0, 0, 0], [1.1, 0, 0], [-0.4, 0.9, 0.2]])
    charges, widths = np.array([-0.8, 0.5, 0.3]), np.array([[0.3]])
    free = finite_sum(positions, charges, zeros(3), widths).energies.sum()
    dipole = charges @ positions
    errors = []
    for edge in (20.0, 40.0):
        cell = edge * np.eye(3)
        energy = periodic_sum(positions, cell, charges, zeros(3), widths).energies.sum()
        # dipoles in a cubic lattice, conducting surroundings (Makov, Payne 1995)
        errors.append(energy - free + 2 * np.pi * dipole @ dipole / (3 * edge**3))
    assert abs(errors[0]) < 1e-5
    assert abs(errors[1]) < abs(errors[0]) / 8


@pytest.mark.parametrize("n_atoms", [1, 6, 25])
def test_compiled_sums_against_numpy(n_atoms):
    positions, cell, charges, kinds, widths = ions(
        n_atoms, seed=5, cell=np.array([[6.0, 1.0, 0.5], [-2.0, 7.0, 0.3], [0.4, 1.5, 8.0]])
    )
    charges[0] += 0.4
    split = splitting(n_atoms, abs(np.linalg.det(cell)), 1e-9, r_min=DAMPING_REACH * widths.max())
    alpha, volume = split.alpha, abs(np.linalg.det(cell))
    # pairs, images and all
    heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    n = (split.r_real / heights).astype(int) + 4
    shifts = np.array(np.meshgrid(*[np.arange(-m, m + 1) for m in n])).reshape(3, -1).T @ cell
    d = positions[None, :, None] + shifts - positions[:, None, None]
    r = np.linalg.norm(d, axis=-1)
    inside = (r < split.r_real) & (r > 1e-9)
    r = np.where(inside, r, 1.0)
    w = widths[kinds[:, None], kinds][..., None]
    safe = np.where(w > 0, w, 1e-3)
    phi = np.where(inside, (erfc(alpha * r) - erfc(r / safe)) / r, 0.0)
    energies = 0.5 * charges * np.einsum("ijs,j->i", phi, charges)
    # all wave vectors
    reciprocal = 2 * np.pi * np.linalg.inv(cell).T
    m = (split.k_max * np.linalg.norm(cell, axis=1) / (2 * np.pi)).astype(int) + 1
    k = np.array(np.meshgrid(*[np.arange(-x, x + 1) for x in m])).reshape(3, -1).T @ reciprocal
    k2 = (k**2).sum(axis=1)
    keep = (k2 > 1e-12) & (k2 <= split.k_max**2)
    k, k2 = k[keep], k2[keep]
    waves = np.exp(1j * positions @ k.T)
    weight = 4 * np.pi / volume * np.exp(-k2 / (4 * alpha**2)) / k2
    field = (waves * charges[:, None]).sum(axis=0) * weight
    energies += 0.5 * charges * (waves.conj() @ field).real
    energies -= alpha / np.sqrt(np.pi) * charges**2
    energies -= np.pi / (2 * volume * alpha**2) * charges * charges.sum()
    found = periodic_sum(positions, cell, charges, kinds, widths, accuracy=1e-9)
    np.testing.assert_allclose(found.energies, energies, rtol=1e-10, atol=1e-12)


def test_wave_kernels_against_numpy(rng):
    angles = rng.uniform(0, 2 * np.pi, (4, 3))
    rows = np.array([[0, 1, -2, 0, 4], [1, -1, -1, 4, 3]])
    n_max = np.array([1, 1, 2])
    vectors = np.array([[0, 1, c] for c in (-2, -1, 0, 1)] + [[1, -1, c] for c in (-1, 0, 1)])
    charges = rng.normal(size=4)
    real, imag = np.zeros(7), np.zeros(7)
    _coulomb.structure_factors(angles, charges, rows, n_max, real, imag)
    phases = np.exp(1j * angles @ vectors.T)
    np.testing.assert_allclose(real + 1j * imag, charges @ phases, atol=1e-14)
    potential, slope = np.empty(4), np.empty((4, 3))
    _coulomb.wave_fields(angles, rows, n_max, real, imag, potential, slope)
    wave = (real - 1j * imag) * phases
    np.testing.assert_allclose(potential, wave.real.sum(axis=1), atol=1e-13)
    np.testing.assert_allclose(slope, (1j * wave @ vectors).real, atol=1e-13)


def test_the_damping_is_within_the_real_space_radius():
    split = splitting(1000, 1e4, 1e-8, r_min=30.0)
    assert split.r_real >= 30.0
    assert split.alpha * split.r_real == pytest.approx(np.sqrt(-np.log(1e-8)))
    # the work of the two sums is balanced: alpha grows as (N / V^2)^(1/6)
    small, large = splitting(100, 1e3, 1e-8), splitting(6400, 6.4e4, 1e-8)
    assert small.alpha / large.alpha == pytest.approx(2.0)
