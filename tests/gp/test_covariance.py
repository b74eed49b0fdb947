"""Rows of the design matrix: force and virial rows are derivatives of energy rows."""

import numpy as np
import pytest

from kernelpot import SOAP, SOAPTerm
from kernelpot.gp.covariance import KernelTerm, covariance_rows
from kernelpot.regression.layout import Layout
from kernelpot.terms.dot_product import DotProductKernel, normalize
from tests.conftest import rattled_alloy, structures

SPECIES = (13, 29)


@pytest.fixture(scope="module", params=["off", "mu1nu1"])
def design(request):
    rng = np.random.default_rng(0)
    terms = []
    for r_cut, zeta in ((3.6, 2), (4.6, 3)):
        soap = SOAP(
            SOAPTerm(r_cut=r_cut, n_max=3, l_max=2, zeta=zeta, compression=request.param),
            SPECIES,
            specialize=False,
        )
        sparse = {}
        source = rattled_alloy(7, (1, 1, 2))
        unit, _ = normalize(soap.create(source))
        for z, number in enumerate(SPECIES):
            members = np.flatnonzero(source.numbers == number)
            sparse[z] = unit[rng.permutation(members)[: 2 + z]]
        terms.append(KernelTerm(soap, DotProductKernel(zeta, 0.9), sparse))
    sizes = {(z, t): len(q) for t, term in enumerate(terms) for z, q in term.sparse.items()}
    return terms, Layout.of(sizes)


def test_energy_rows_are_sums_of_kernels(design):
    terms, layout = design
    atoms = structures()["crystal"]
    rows = covariance_rows(terms, layout, SPECIES, [atoms], derivatives=False)
    assert rows.shape == (1, layout.size)
    for (z, t), columns in layout.blocks.items():
        unit, _ = normalize(terms[t].soap.create(atoms))
        members = atoms.numbers == SPECIES[z]
        expected = terms[t].kernel(unit[members], terms[t].sparse[z]).sum(axis=0)
        np.testing.assert_allclose(rows[0, columns], expected, rtol=1e-8)


@pytest.mark.parametrize("name", ["crystal", "slab", "wire", "cluster", "tiny", "left_handed"])
def test_force_and_virial_rows_are_derivatives(design, name):
    terms, layout = design
    atoms = structures()[name]
    rows = covariance_rows(terms, layout, SPECIES, [atoms])
    n = len(atoms)

    def energy(a):
        return covariance_rows(terms, layout, SPECIES, [a], derivatives=False)[0]

    step = 1e-4
    scale = max(np.abs(rows[1:]).max(), 1e-3)
    for i in range(n):
        for axis in range(3):
            plus, minus = atoms.copy(), atoms.copy()
            plus.positions[i, axis] += step
            minus.positions[i, axis] -= step
            numerical = -(energy(plus) - energy(minus)) / (2 * step)
            found = rows[1 + 3 * i + axis]
            np.testing.assert_allclose(found, numerical, atol=1e-6 * scale)
    for k, (a, b) in enumerate(((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))):
        sides = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[a, b] += 0.5 * sign * step
            strain[b, a] += 0.5 * sign * step
            strained = atoms.copy()
            strained.set_cell(atoms.cell.array @ strain)
            strained.positions = atoms.positions @ strain
            sides.append(energy(strained))
        numerical = -(sides[0] - sides[1]) / (2 * step)
        np.testing.assert_allclose(rows[1 + 3 * n + k], numerical, atol=2e-6 * scale)


def test_a_batch_is_its_structures_one_by_one(design, monkeypatch):
    terms, layout = design
    batch = [structures()["cluster"], structures()["crystal"], structures()["tiny"]]
    sizes = [len(a) for a in batch]
    # small chunks, so that a structure's pairs span several of them
    monkeypatch.setattr("kernelpot.gp.covariance._JACOBIAN_BYTES", 2e4)
    together = covariance_rows(terms, layout, SPECIES, batch)
    monkeypatch.undo()
    first_atom = np.cumsum([0, *sizes])
    for k, atoms in enumerate(batch):
        alone = covariance_rows(terms, layout, SPECIES, [atoms])
        n = sizes[k]
        np.testing.assert_allclose(together[k], alone[0], rtol=1e-12, atol=1e-14)
        start = 3 + 3 * first_atom[k]
        np.testing.assert_allclose(
            together[start : start + 3 * n], alone[1 : 1 + 3 * n], atol=1e-11
        )
        start = 3 + 3 * sum(sizes) + 6 * k
        np.testing.assert_allclose(together[start : start + 6], alone[1 + 3 * n :], atol=1e-11)


def test_the_layout_puts_species_in_runs():
    layout = Layout.of({(0, 0): 3, (1, 0): 4, (0, 1): 5, (1, 1): 6})
    assert layout.blocks[0, 1] == slice(3, 8)
    assert layout.species(0) == slice(0, 8)
    assert layout.species(1) == slice(8, 18)
    assert layout.size == 18
