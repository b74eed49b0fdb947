"""Rows of the design matrix: force and virial rows are derivatives of energy rows."""

import numpy as np
import pytest

from kernelpot import SOAP, SOAPTerm
from kernelpot.data.system import System
from kernelpot.gp.blocks import BoundTerm, Points
from kernelpot.gp.covariance import covariance_rows as gp_rows
from kernelpot.gp.design import Design
from kernelpot.terms.dot_product import normalize
from kernelpot.terms.soap import SOAPDescriptor
from tests.conftest import rattled_alloy, structures

SPECIES = (13, 29)


@pytest.fixture(scope="module", params=["off", "mu1nu1"])
def design(request):
    rng = np.random.default_rng(0)
    terms, points = [], []
    for t, (r_cut, zeta) in enumerate(((3.6, 2), (4.6, 3))):
        term = SOAPTerm(
            r_cut=r_cut, n_max=3, l_max=2, zeta=zeta, delta=0.9, compression=request.param
        )
        soap = SOAP(term, SPECIES, specialize=False)
        terms.append(BoundTerm(term, SOAPDescriptor(soap), term.kernel()))
        source = rattled_alloy(7, (1, 1, 2))
        unit, _ = normalize(soap.create(source))
        for z, number in enumerate(SPECIES):
            members = np.flatnonzero(source.numbers == number)
            points.append(Points(t, (number,), unit[rng.permutation(members)[: 2 + z]]))
    return Design.of(SPECIES, terms, points)


def covariance_rows(design, batch, derivatives=True):
    system = System.of(batch, design.r_cut)
    found = dict(gp_rows(design.terms, design.blocks, system, derivatives=derivatives))
    return np.concatenate([found[k] for k in range(len(design.blocks))], axis=1)


def test_energy_rows_are_sums_of_kernels(design):
    atoms = structures()["crystal"]
    rows = covariance_rows(design, [atoms], derivatives=False)
    assert rows.shape == (1, design.n_sparse)
    for block in design.blocks:
        term = design.terms[block.term]
        unit, _ = normalize(term.descriptor.soap.create(atoms))
        expected = term.kernel(unit[atoms.numbers == block.key[0]], block.points).sum(axis=0)
        np.testing.assert_allclose(rows[0, block.sparse], expected, rtol=1e-8)


@pytest.mark.parametrize("name", ["crystal", "slab", "wire", "cluster", "tiny", "left_handed"])
def test_force_and_virial_rows_are_derivatives(design, name):
    atoms = structures()[name]
    rows = covariance_rows(design, [atoms])
    n = len(atoms)

    def energy(a):
        return covariance_rows(design, [a], derivatives=False)[0]

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
    batch = [structures()["cluster"], structures()["crystal"], structures()["tiny"]]
    sizes = [len(a) for a in batch]
    # small chunks, so that a structure's pairs span several of them
    monkeypatch.setattr("kernelpot.terms.over_pairs.JACOBIAN_BYTES", 2e4)
    together = covariance_rows(design, batch)
    monkeypatch.undo()
    first_atom = np.cumsum([0, *sizes])
    for k, atoms in enumerate(batch):
        alone = covariance_rows(design, [atoms])
        n = sizes[k]
        np.testing.assert_allclose(together[k], alone[0], rtol=1e-12, atol=1e-14)
        start = 3 + 3 * first_atom[k]
        np.testing.assert_allclose(
            together[start : start + 3 * n], alone[1 : 1 + 3 * n], atol=1e-11
        )
        start = 3 + 3 * sum(sizes) + 6 * k
        np.testing.assert_allclose(together[start : start + 6], alone[1 + 3 * n :], atol=1e-11)


def test_what_a_species_has_is_one_run_of_columns(design):
    assert [(b.key, b.term) for b in design.blocks] == [
        ((13,), 0), ((13,), 1), ((29,), 0), ((29,), 1),
    ]  # fmt: skip
    assert [b.sparse for b in design.blocks] == [
        slice(0, 2), slice(2, 4), slice(4, 7), slice(7, 10),
    ]  # fmt: skip
    np.testing.assert_array_equal(design.columns_of(29), np.arange(4, 10))
    np.testing.assert_array_equal(design.layout.of_term(1), [2, 3, 7, 8, 9])
    np.testing.assert_array_equal(
        design.layout.scale([2.0, 3.0]), [2, 2, 3, 3, 2, 2, 2, 3, 3, 3, 1]
    )
