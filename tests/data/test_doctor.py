"""The label doctor finds what was planted, and keeps quiet otherwise."""

import json
import re

import ase.io
import numpy as np
import pytest
import scipy.spatial
from ase import Atoms
from ase.build import bulk, molecule
from ase.constraints import FixAtoms
from ase.units import GPa, bar

import kernelpot as kp
from kernelpot import read_dataset
from kernelpot.cli.verbs import main
from kernelpot.data import doctor
from tests.conftest import label, rattled_alloy


@pytest.fixture
def strained():
    """Copies of one crystal under small strains, with exact labels."""
    rng = np.random.default_rng(3)
    frames = []
    for k in range(10):
        atoms = bulk("Cu", cubic=True, a=3.6)
        strain = 0.005 * rng.normal(size=(3, 3)) + 0.002 * (k - 5) * np.eye(3)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.5 * (strain + strain.T)), scale_atoms=True)
        frames.append(label(atoms, "strained"))
        if k:
            frames[-1].arrays["REF_forces"][:] = 0.0  # rounding off
    return frames


@pytest.fixture
def rattled():
    return [label(rattled_alloy(s, (1, 1, 1)), "rattled") for s in range(6)]


def warnings_of(frames):
    return read_dataset(frames).check().warnings


def test_sound_data_raise_no_warning(strained, rattled):
    report = read_dataset([*strained, *rattled]).check()
    assert report.warnings == []
    untested = "sign and unit of forces (no nearly equal frames, too few labels for a small model)"
    assert f"Nothing suspicious in what could be tested. Could not be tested: {untested}." in str(
        report
    )
    facts = report.facts
    assert facts["untested"] == [untested]
    assert facts["n_structures"] == 16
    assert facts["sources"]["energy"] == {"REF_energy": 16}
    assert facts["species"].keys() == {"Al", "Cu"}
    assert facts["without_isolated_atom"] == ["Al", "Cu"]
    assert set(facts["groups"]) == {"strained", "rattled"}
    assert facts["zero_force_frames"] == 9  # perfect crystals, nothing wrong with them
    json.dumps(report.to_dict())


def test_exact_virials_pass_their_test(strained):
    found = read_dataset(strained).check().facts["virial_test"]
    assert found["slope"] == pytest.approx(1.0, abs=5e-3)
    assert found["offset_ev_per_atom"] == pytest.approx(0.0, abs=5e-3)
    assert found["explained"] > 0.999


@pytest.mark.parametrize(
    ("factor", "message"),
    [
        (-1.0, "virials have the wrong sign"),
        (1 / (1000 * bar), "another unit or scale.*kbar taken for"),
        (GPa, "another unit or scale.*GPa taken for"),
    ],
)
def test_virials_of_wrong_sign_or_unit_are_found(strained, factor, message):
    for frame in strained:
        frame.info["REF_virial"] = frame.info["REF_virial"] * factor
    (warning,) = warnings_of(strained)
    assert re.search(message, warning)


def test_a_constant_offset_of_virials_is_found(strained):
    for frame in strained:
        frame.info["REF_virial"] = frame.info["REF_virial"] + 0.2 * len(frame) * np.eye(3)
    (warning,) = warnings_of(strained)
    assert "disagree by a constant +0.2" in warning


def test_many_strained_cells_are_compared_with_their_neighbors():
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(150):
        atoms = bulk("Cu", a=3.6)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.02 * rng.normal(size=(3, 3))))
        atoms.set_scaled_positions([[0, 0, 0]])
        frames.append(label(atoms))
        frames[-1].arrays["REF_forces"][:] = 1e-6
    test = read_dataset(frames).check().facts["virial_test"]
    # the trapezoid rule over strains of several per cent
    assert test["slope"] == pytest.approx(1.0, abs=0.02)
    assert test["n_pairs"] > 100


def test_shuffled_virials_are_found(strained):
    virials = [f.info["REF_virial"] for f in strained]
    for frame, virial in zip(strained, virials[3:] + virials[:3], strict=True):
        frame.info["REF_virial"] = virial
    assert any("do not explain the energies" in w for w in warnings_of(strained))


def test_forces_that_are_not_the_gradient_are_found(rattled):
    near = []
    for frame in rattled:
        moved = frame.copy()
        moved.positions[0] += [0.02, -0.01, 0.015]
        near.append(label(moved, "rattled"))
    good = [*rattled, *near]
    report = read_dataset(good).check()
    assert report.facts["gradient_test"] == {"n_pairs": 6, "n_wrong": 0}
    for frame in good:
        frame.arrays["REF_forces"] *= -1.0
    assert any("not the gradient of the energy" in w for w in warnings_of(good))


def test_duplicates_and_contradictions_are_found(rattled):
    again = rattled[0].copy()
    assert any("1 frames repeat another" in w for w in warnings_of([*rattled, again]))
    again.info["REF_energy"] += 1.0
    found = warnings_of([*rattled, again])
    assert any("identical structures with different energies" in w for w in found)


def test_the_same_positions_with_another_periodicity_are_no_duplicates(rattled):
    slab = rattled[0].copy()
    slab.pbc = (True, True, False)
    del slab.info["REF_virial"]
    slab.info["REF_energy"] += 1.0
    report = read_dataset([*rattled, slab]).check()
    assert report.facts["duplicates"] == []
    assert not any("identical" in w or "repeat" in w for w in report.warnings)


def test_zeroed_and_net_forces_are_found(rattled):
    rattled[2].arrays["REF_forces"][:2] = 0.0
    found = warnings_of(rattled)
    assert any(
        "forces of some atoms are exactly zero in 1 frames (structure 2)" in w for w in found
    )
    assert any("forces do not sum to zero in 1 frames (structure 2)" in w for w in found)


def test_constraints_are_reported(rattled):
    rattled[0].set_constraint(FixAtoms([0]))
    report = read_dataset(rattled).check()
    assert report.facts["constrained_frames"] == 1
    assert any("1 frames have constrained atoms" in w for w in report.warnings)


def test_an_energy_of_another_zero_is_found(rattled):
    more = [label(rattled_alloy(20 + s, (1, 1, 1)), "rattled") for s in range(12)]
    more[4].info["REF_energy"] += 300.0
    found = warnings_of([*rattled, *more])
    assert any("far from what the composition suggests in 1 frames" in w for w in found)


def test_mixed_sources_are_reported(rattled):
    from ase.calculators.singlepoint import SinglePointCalculator

    other = rattled_alloy(99, (1, 1, 1))
    other.calc = SinglePointCalculator(other, energy=1.0, forces=np.ones((4, 3)) - 1.0 + 1e-3)
    assert any("energy was read from several places" in w for w in warnings_of([*rattled, other]))


def test_isolated_atoms_are_listed(rattled):
    free = label(Atoms("Cu"), "free")
    facts = read_dataset([*rattled, free]).check().facts
    assert facts["isolated_atoms"].keys() == {"Cu"}
    assert facts["without_isolated_atom"] == ["Al"]


def test_the_command_prints_and_writes(rattled, tmp_path, capsys):
    path = tmp_path / "data.xyz"
    ase.io.write(path, rattled, format="extxyz")
    assert main(["check", str(path)]) == 0
    shown = capsys.readouterr().out
    for text in ("Labels were read from", "REF_energy in 6 frames", "Shortest distances"):
        assert text in shown
    assert main(["check", str(path), "--json", "-"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["n_structures"] == 6
    assert report["warnings"] == []


def test_check_needs_labels(tmp_path, capsys):
    path = tmp_path / "bare.xyz"
    ase.io.write(path, rattled_alloy(0, (1, 1, 1)), format="extxyz")
    assert main(["check", str(path)]) == 2
    assert "has no label" in capsys.readouterr().err


@pytest.mark.parametrize("planted", [-0.06, 0.06])
def test_check_and_fit_say_the_same_of_a_constant_virial(strained, rattled, planted):
    """One sign: what the labels carry beyond -dE/d strain."""
    frames = [*strained, *rattled]
    for atoms in frames:
        atoms.info["REF_virial"] = atoms.info["REF_virial"] + planted * len(atoms) * np.eye(3)
    data = read_dataset(frames)
    test = data.check().facts["virial_test"]
    assert test["offset_ev_per_atom"] == pytest.approx(planted, abs=0.005)
    assert np.sign(test["offset_gpa"]) == np.sign(planted)
    assert test["offset_error_ev_per_atom"] < 0.005
    term = kp.SOAPTerm(r_cut=5.0, n_max=4, l_max=3, n_sparse=30)
    pot = kp.KernelPotential([term]).fit(data, optimize=None, calibrate=False)
    assert np.sign(pot.model.virial_offset) == np.sign(planted)
    (note,) = [n for n in pot.model.training.notes if "virial labels" in n]
    assert f"constant {pot.model.virial_offset:+.3f} eV/atom" in note


def test_the_error_of_the_trapezoid_rule_is_no_constant_of_the_virials():
    """Steps as large as those of an equation of state; labels are exact."""
    frames = []
    for a in np.linspace(3.45, 3.8, 7):
        atoms = bulk("Cu", cubic=True, a=a)
        frames.append(label(atoms))
        frames[-1].arrays["REF_forces"][:] = 0.0
    frames.append(label(rattled_alloy(1, (1, 1, 1))))
    test = read_dataset(frames).check().facts["virial_test"]
    assert abs(test["offset_ev_per_atom"]) < max(0.005, test["offset_error_ev_per_atom"])
    assert test["slope"] == pytest.approx(1.0, abs=0.01)


def test_what_could_not_be_tested_is_part_of_the_verdict(rattled):
    report = read_dataset(rattled).check()
    assert not report.warnings
    assert [u.split(" (")[0] for u in report.to_dict()["untested"]] == [
        "sign and unit of virials and stresses",
        "sign and unit of forces",
    ]
    rattled[0].arrays["REF_forces"][0] += 100.0
    assert "Could not be tested: sign" in str(read_dataset(rattled).check())


# ---- many frames, repeated frames --------------------------------------------------------


def brute_force(members):
    """Groups of frames whose scaled positions agree, every frame with every other one."""
    scaled = [f.atoms.get_scaled_positions(wrap=False) for f in members]
    groups, used = [], set()
    for k in range(len(members)):
        if k in used:
            continue
        same = [k]
        for m in range(k + 1, len(members)):
            d = scaled[m] - scaled[k]
            d = d - d[0]
            if m not in used and np.abs(d - np.round(d)).max() < 1e-3:
                same.append(m)
                used.add(m)
        groups.append([members[m].name for m in same])
    return groups


@pytest.mark.parametrize("size", [(1, 1, 1), (2, 1, 1)])
def test_strained_copies_are_found_among_others(size):
    rng = np.random.default_rng(5)
    frames = []
    for k in range(60):
        atoms = bulk("Cu", cubic=True).repeat(size)
        atoms.set_cell(atoms.cell.array * (1 + 0.01 * rng.normal()), scale_atoms=True)
        if k % 3:  # snapshots of dynamics, of which every ninth has a strained copy
            atoms.positions += 0.2 * np.random.default_rng(k % 9).normal(size=(len(atoms), 3))
        atoms.positions += rng.normal(size=3)  # as a whole
        shifts = rng.integers(-2, 3, size=(len(atoms), 3))
        atoms.positions += shifts @ atoms.cell.array
        atoms.info["REF_energy"] = 0.0
        atoms.info["REF_virial"] = np.zeros(6)
        frames.append(atoms)
    data = list(read_dataset(frames))
    found = [[f.name for f in group] for group in doctor._strained_copies(data)]
    assert found == brute_force(data)
    assert 1 < len(found) < 60


def test_a_search_compares_few_of_many_snapshots(monkeypatch):
    """What it costs grows as the number of frames: candidates are counted, not seconds."""
    counts = []

    class Counting(scipy.spatial.cKDTree):
        def query_ball_point(self, *arguments, **options):
            found = super().query_ball_point(*arguments, **options)
            counts[-1] += len(found)
            return found

    monkeypatch.setattr(scipy.spatial, "cKDTree", Counting)
    rng = np.random.default_rng(6)
    base = bulk("Cu", cubic=True).repeat(2)
    for n in (200, 400):
        frames = []
        for _ in range(n):
            atoms = base.copy()
            atoms.positions += 0.1 * rng.normal(size=atoms.positions.shape)
            frames.append(kp.Frame(atoms, 0.0, None, np.zeros(6)))
        counts.append(0)
        assert len(doctor._strained_copies(frames)) == n
    assert counts == [200, 400]  # each with itself


def repeated(energies, **info):
    frames = []
    for k, energy in enumerate(energies):
        atoms = molecule("H2O", vacuum=4.0)
        atoms.info["REF_energy"] = energy
        atoms.info |= {name: values[k] for name, values in info.items()}
        frames.append(atoms)
    return frames


def test_the_same_positions_with_other_periodicity_are_no_duplicates():
    frames = repeated([-10.0, -12.0, -14.0])
    for atoms, pbc in zip(frames, (False, (True, True, False), True), strict=True):
        atoms.pbc = pbc
    report = read_dataset(frames).check()
    assert report.facts["duplicates"] == []
    assert not report.warnings
    # where nothing is periodic the box is none of a difference
    frames = repeated([-10.0, -10.0])
    frames[1].cell = None
    assert len(read_dataset(frames).check().facts["duplicates"]) == 1


def test_states_of_charge_make_one_line():
    frames = []
    for step in range(4):
        several = repeated([-10.0, -9.0, -8.5], charge=[0, 1, -1])
        for atoms in several:
            atoms.positions[0] += 0.02 * step
        frames += several
    data = read_dataset(frames)
    assert data[1].state == "charge=1"
    report = data.check()
    lines = [w for w in report.warnings if "different energies" in w]
    assert len(lines) == 1
    assert "identical structures of several charge or spin states" in lines[0]
    assert (
        "structure 0, structure 1, structure 2 differ by 1.5000 eV; 4 structures in all"
        in (lines[0])
    )
    assert len(report.warnings) == 2  # and that frames repeat


def test_contradicting_labels_of_one_state_make_one_line_too():
    frames = []
    for step in range(4):
        several = repeated([-10.0, -9.0 + step])
        for atoms in several:
            atoms.positions[0] += 0.02 * step
        frames += several
    (line,) = [w for w in read_dataset(frames).check().warnings if "different energies" in w]
    assert line.startswith("identical structures with different energies: structure 6, structure 7")
    assert "differ by 4.0000 eV; 4 structures in all" in line
