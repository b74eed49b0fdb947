"""Signs, units and absurd labels are told by a small model; sound data raise no alarm."""

import re
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.units import Bohr, GPa, Hartree, bar, kcal, mol

import kernelpot as kp
from kernelpot import read_dataset
from kernelpot.data.consistency import compare_labels, label_warnings
from kernelpot.data.small_model import SmallModel, robust_fit
from kernelpot.datasets import load_ethanol, load_silicon
from tests.conftest import label, rattled_alloy, structures


def copper(n=16, strained=0.03):
    """Rattled copper without strained copies, labels of EMT."""
    frames = []
    for seed in range(n):
        rng = np.random.default_rng(seed)
        atoms = bulk("Cu", cubic=True).repeat((2, 1, 1))
        strain = np.eye(3) + strained * rng.normal(size=(3, 3))
        atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        atoms.positions += (0.02 + 0.02 * (seed % 8)) * rng.normal(size=atoms.positions.shape)
        frames.append(label(atoms, "bulk"))
    return read_dataset(frames)


@pytest.fixture(scope="module")
def sound():
    return copper()


def spoiled(data, energy=1.0, forces=1.0, virial=1.0):
    return kp.Dataset(
        replace(f, energy=f.energy * energy, forces=f.forces * forces, virial=f.virial * virial)
        for f in data
    )


@pytest.mark.parametrize("name", ["crystal", "slab", "wire", "cluster", "tiny"])
def test_functions_have_the_derivatives_they_claim(name):
    atoms = structures()[name]
    model = SmallModel((13, 29), 4.5, 2.0)
    rng = np.random.default_rng(1)
    w = rng.normal(size=model.n_functions) * 0.1

    def energy(structure):
        ((_, rows),) = model.rows([kp.Frame(structure, 0.0, None, None)])
        return float(rows.energy[0] @ w)

    ((_, rows),) = model.rows([kp.Frame(atoms, 0.0, None, None)])
    step = 1e-5
    for atom in range(len(atoms)):
        for axis in range(3):
            moved = [atoms.copy() for _ in range(2)]
            for sign, structure in zip((1, -1), moved, strict=True):
                structure.positions[atom, axis] += sign * step
            slope = (energy(moved[0]) - energy(moved[1])) / (2 * step)
            assert -slope == pytest.approx(rows.forces[atom, axis] @ w, abs=1e-6)
    for k, (a, b) in enumerate(((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))):
        strained = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[a, b] += 0.5 * sign * step
            strain[b, a] += 0.5 * sign * step
            structure = atoms.copy()
            structure.cell = structure.cell.array @ strain
            structure.positions = structure.positions @ strain
            strained.append(energy(structure))
        slope = (strained[0] - strained[1]) / (2 * step)
        assert -slope == pytest.approx(rows.virial[0, k] @ w, abs=1e-6)


def test_batches_of_frames_are_the_frames():
    frames = [kp.Frame(rattled_alloy(s, (1, 1, 1)), 0.0, None, None) for s in range(3)]
    model = SmallModel((13, 29), 4.5, 2.0)
    ((indices, together),) = model.rows(frames)
    assert indices == [0, 1, 2]
    for k, frame in enumerate(frames):
        ((_, alone),) = model.rows([frame])
        np.testing.assert_allclose(together.energy[k], alone.energy[0], atol=1e-12)
        np.testing.assert_allclose(together.forces[4 * k : 4 * k + 4], alone.forces, atol=1e-12)
        np.testing.assert_allclose(together.virial[k], alone.virial[0], atol=1e-12)


def test_a_robust_fit_is_not_moved_by_absurd_rows():
    rng = np.random.default_rng(2)
    matrix, w = rng.normal(size=(300, 5)), rng.normal(size=5)
    target = matrix @ w + 0.01 * rng.normal(size=300)
    target[::20] = 1e4
    np.testing.assert_allclose(robust_fit(matrix, target), w, atol=0.02)


@pytest.mark.parametrize("load", [copper, load_silicon, load_ethanol])
def test_sound_data_raise_no_alarm(load):
    data = load()
    found = compare_labels(data)
    assert label_warnings(found) == []
    assert found["forces_correlation"] > 0.95
    for kind in ("energy", "virial"):
        if found[kind] is not None:
            assert 0.6 < found[kind]["slope"] < 1.6
    assert found["outliers"] == []


KCAL = kcal / mol
KILOBAR = 1000 * bar
VIRIALS = r"virials \(stresses\) contradict the forces"
WRONG = {
    "gradients": (
        {"forces": -1.0}, "forces contradict the energies and virials", -1.0,
        "gradients stored as forces",
    ),
    "forces in Hartree/Bohr": (
        {"forces": Bohr / Hartree}, "forces contradict", 51.4, "in Hartree/Bohr"
    ),
    "forces in kcal": ({"forces": 1 / KCAL}, "forces contradict", 0.0434, "in kcal/mol/Å"),
    "energies in Hartree": (
        {"energy": 1 / Hartree}, "energies contradict the forces and virials", 27.2, "in Hartree"
    ),
    "energies in kcal": ({"energy": 1 / KCAL}, "energies contradict", 0.0434, "in kcal/mol"),
    "stress in GPa": ({"virial": 1 / GPa}, VIRIALS, 0.0062, "in GPa"),
    "stress in kB": ({"virial": 1 / KILOBAR}, VIRIALS, 0.00062, r"in kbar \(kB\)"),
    "stress divided by GPa twice": ({"virial": GPa}, VIRIALS, 160.2, "in eV taken for GPa"),
    "stress of the other sign": ({"virial": -1.0}, VIRIALS, -1.0, "the wrong sign"),
    "pressure in kB": (
        {"virial": -1 / KILOBAR}, VIRIALS, -0.00062, r"kB\) with the wrong sign"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", list(WRONG.values()), ids=list(WRONG))
def test_signs_and_units_are_told_by_slopes(sound, case):
    factors, what, slope, why = case
    report = spoiled(sound, **factors).check()
    lines = [w for w in report.warnings if "contradict" in w]
    assert len(lines) == 1, lines
    for pattern in (what, why):
        assert re.search(pattern, lines[0]), lines[0]
    told = float(lines[0].split("slope ")[1].split(" ")[0])
    assert told == pytest.approx(slope, rel=0.25)


def test_without_virials_either_may_be_wrong():
    wrong = spoiled(copper(30, strained=0.0), energy=1 / Hartree)
    data = kp.Dataset(replace(f, virial=None) for f in wrong)
    (line,) = [w for w in data.check().warnings if "contradict" in w]
    assert "forces contradict the energies" in line
    assert "or the energies are in Hartree" in line


@pytest.mark.parametrize("kind", ["balanced forces", "one force", "energy", "virial"])
def test_single_absurd_labels_are_named(sound, kind):
    frames = list(sound)
    forces = frames[5].forces.copy()
    if kind == "balanced forces":  # no net force tells
        forces[0, 0] += 60.0
        forces[1, 0] -= 60.0
        frames[5] = replace(frames[5], forces=forces)
    elif kind == "one force":
        forces[2, 1] = 1000.0
        frames[5] = replace(frames[5], forces=forces)
    elif kind == "energy":
        frames[5] = replace(frames[5], energy=frames[5].energy + 30.0)
    else:
        frames[5] = replace(frames[5], virial=frames[5].virial + 400.0)
    report = kp.Dataset(frames).check()
    found = report.facts["label_test"]["outliers"]
    assert [o["name"] for o in found] == ["structure 5"]
    assert found[0]["kind"] == kind.split()[-1].replace("force", "forces").replace("ss", "s")
    assert any(
        "structure 5 has" in w and "contradict all other labels" in w for w in report.warnings
    )


def test_labels_of_other_frames_are_told(sound):
    frames = [
        replace(a, forces=b.forces) for a, b in zip(sound, [*sound[1:], sound[0]], strict=True)
    ]
    lines = kp.Dataset(frames).check().warnings
    assert any("does not explain the forces" in w for w in lines)


def test_what_a_model_tells_is_tested(sound):
    report = sound.check()
    assert report.facts["untested"] == []
    assert str(report).endswith("Nothing suspicious.")
    assert "A small model of the forces (18 functions, 16 frames)" in str(report)
    few = kp.Dataset(list(sound)[:3]).check()
    assert few.facts["label_test"] is None
    assert "too few labels for a small model" in few.facts["untested"][1]


def test_many_frames_are_sampled_with_the_extreme_ones(sound, monkeypatch):
    monkeypatch.setattr("kernelpot.data.consistency._MAX_ELEMENTS", 18 * 3 * 8 * 12)
    frames = list(copper(60))
    forces = frames[41].forces.copy()
    forces[0] += [0.0, 300.0, 0.0]
    forces[3] -= [0.0, 300.0, 0.0]
    frames[41] = replace(frames[41], forces=forces)
    found = compare_labels(kp.Dataset(frames))
    assert found["n_frames"] == 12
    assert [o["name"] for o in found["outliers"]] == ["structure 41"]


def test_data_without_forces_are_not_compared():
    dimers = [Atoms("Cu2", [[0, 0, 0], [0, 0, r]], info={"REF_energy": -r}) for r in (2.0, 2.5)]
    assert compare_labels(read_dataset(dimers)) is None
