"""Reading labels: every source, and every bad input of the design."""

import gzip
import os

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from kernelpot import Dataset, LabelKeys, read_dataset
from kernelpot.data.label_names import LostLabelsWarning
from tests.conftest import label, rattled_alloy


@pytest.fixture
def frame():
    return label(rattled_alloy(0, (1, 1, 1)), "bulk")


def check_equal(found, expected):
    assert found.energy == pytest.approx(expected.info["REF_energy"])
    np.testing.assert_allclose(found.forces, expected.arrays["REF_forces"], atol=1e-7)
    virial = np.asarray(expected.info["REF_virial"])
    voigt = [virial[0, 0], virial[1, 1], virial[2, 2], virial[1, 2], virial[0, 2], virial[0, 1]]
    np.testing.assert_allclose(found.virial, voigt, atol=1e-7)


def test_a_file_a_pattern_a_gz_and_objects_give_the_same(frame, tmp_path):
    other = label(rattled_alloy(1, (1, 1, 1)))
    path = tmp_path / "a.xyz"
    ase.io.write(path, [frame, other], format="extxyz")
    (tmp_path / "b.xyz.gz").write_bytes(gzip.compress(path.read_bytes()))
    for source in (path, str(path), tmp_path / "b.xyz.gz", str(tmp_path / "a*"), [path]):
        found = read_dataset(source)
        assert len(found) == 2
        check_equal(found[0], frame)
    check_equal(read_dataset([frame, other])[1], other)
    assert read_dataset(str(tmp_path / "*xyz*"))[3].name == "b.xyz.gz:1"
    dataset = read_dataset(frame)
    assert read_dataset(dataset) is dataset
    assert isinstance(dataset[:1], Dataset)
    assert dataset.config_types == {"bulk": 1}
    assert dataset.symbols == ["Al", "Cu"]
    assert dataset.n_rows == 1 + 12 + 6


def test_results_that_ase_attached_are_read_with_forces_of_fixed_atoms():
    atoms = rattled_alloy(2, (1, 1, 1))
    atoms.calc = EMT()
    energy, forces, stress = (
        atoms.get_potential_energy(),
        atoms.get_forces(),
        atoms.get_stress(),
    )
    atoms.set_constraint(FixAtoms([0, 1]))
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces, stress=stress)
    assert not atoms.get_forces()[0].any()  # what a getter would say
    found = read_dataset(atoms)[0]
    np.testing.assert_allclose(found.forces, forces)
    np.testing.assert_allclose(found.virial, -stress * atoms.get_volume())
    np.testing.assert_allclose(found.stress, stress)
    assert found.sources["forces"] == "ASE results 'forces'"


def test_labels_named_energy_and_forces_survive_ases_reader(frame, tmp_path):
    frame.info["energy"] = frame.info.pop("REF_energy")
    frame.arrays["forces"] = frame.arrays.pop("REF_forces")
    path = tmp_path / "plain.xyz"
    ase.io.write(path, frame, format="extxyz", columns=["symbols", "positions", "forces"])
    found = read_dataset(path)[0]
    assert found.energy == pytest.approx(frame.info["energy"])
    assert np.abs(found.forces).max() > 0.1


def test_other_names_by_option(frame):
    frame.info["dft_e"] = frame.info.pop("REF_energy")
    frame.arrays["dft_f"] = frame.arrays.pop("REF_forces")
    stress = -frame.info.pop("REF_virial") / frame.get_volume()
    frame.info["s"] = stress
    found = read_dataset(frame, keys=LabelKeys(energy="dft_e", forces="dft_f", stress="s"))[0]
    assert found.sources == {"energy": "dft_e", "forces": "dft_f", "stress": "s"}
    np.testing.assert_allclose(found.stress[:3], np.diag(stress))


@pytest.mark.parametrize("shape", [(9,), (3, 3)])
def test_a_virial_may_be_flat_or_square(frame, shape):
    frame.info["REF_virial"] = np.asarray(frame.info["REF_virial"]).reshape(shape)
    assert read_dataset(frame)[0].virial.shape == (6,)


def test_a_frame_may_lack_some_labels(frame):
    bare = frame.copy()
    del bare.info["REF_energy"], bare.info["REF_virial"]
    found = read_dataset([frame, bare])
    assert found[1].energy is None
    assert found[1].virial is None
    assert found[1].n_rows == 12


def test_zero_forces_are_fine_where_symmetry_makes_them(frame):
    still = frame.copy()
    still.arrays["REF_forces"][:] = 0.0
    assert len(read_dataset([frame, still])) == 2


def test_sigmas_of_a_frame_are_read(frame):
    frame.info["sigma_energy"] = 0.5
    assert read_dataset(frame)[0].sigmas == {"energy": 0.5}
    frame.info["sigma_energy"] = -1.0
    with pytest.raises(ValueError, match="structure: sigma_energy must be positive"):
        read_dataset(frame)


def spoil(frame, what):
    if what == "nan energy":
        frame.info["REF_energy"] = np.nan
    elif what == "inf force":
        frame.arrays["REF_forces"][3, 1] = np.inf
    elif what == "nan virial":
        frame.info["REF_virial"][0, 0] = np.nan
    elif what == "energy shape":
        frame.info["REF_energy"] = [1.0, 2.0]
    elif what == "energy text":
        frame.info["REF_energy"] = "high"
    elif what == "forces shape":
        del frame.arrays["REF_forces"]
        frame.arrays["REF_forces"] = np.zeros((4, 2))
    elif what == "virial shape":
        frame.info["REF_virial"] = [1.0, 2.0]
    elif what == "asymmetric virial":
        frame.info["REF_virial"][0, 1] += 5.0
    elif what == "one spot":
        frame.positions[1] = frame.positions[0]
    elif what == "periodic image on one spot":
        frame.positions[1] = frame.positions[0] + frame.cell[0]
    elif what == "no cell":
        frame.cell = np.zeros((3, 3))
    elif what == "flat cell":
        frame.cell = [[4, 0, 0], [8, 0, 0], [0, 0, 4]]
    elif what == "nan position":
        frame.positions[0, 0] = np.nan
    elif what == "virial of a cluster":
        frame.pbc = False
    elif what == "no labels":
        frame.info.clear()
        del frame.arrays["REF_forces"]
    elif what == "other names":
        frame.info["my_energy"] = frame.info.pop("REF_energy")
        frame.info.pop("REF_virial")
        del frame.arrays["REF_forces"]
    elif what == "all forces zero":
        frame.arrays["REF_forces"][:] = 0.0
    elif what == "virial only":
        del frame.info["REF_energy"], frame.arrays["REF_forces"]
    elif what == "no atoms":
        del frame[:]
    return frame


BAD = {
    "nan energy": "structure 0: REF_energy contains nan; correct the label or remove",
    "inf force": "structure 0: REF_forces contains inf",
    "nan virial": "structure 0: REF_virial contains nan",
    "energy shape": r"REF_energy must be one number, got shape \(2,\)",
    "energy text": "REF_energy is not numeric, got 'high'",
    "forces shape": r"REF_forces must have shape \(4, 3\), got \(4, 2\)",
    "virial shape": "REF_virial must have 9 or 6",
    "asymmetric virial": "REF_virial is not symmetric",
    "one spot": "atoms 0 and 1 sit on one spot",
    "periodic image on one spot": "atoms 0 and 1 sit on one spot",
    "no cell": "periodic along .* but the cell has no vector there",
    "flat cell": "cell vectors are linearly dependent",
    "nan position": "position of atom 0 is not finite",
    "virial of a cluster": "REF_virial given but the structure is not periodic",
    "no labels": "structure 0 has no label: none of REF_energy, REF_forces",
    "other names": "found 'my_energy': use --energy-key my_energy or, in Python, "
    r"keys=kp.LabelKeys\(energy='my_energy'\)",
    "all forces zero": "every force is exactly zero in all 1 frames",
    "virial only": "no frame has an energy or forces",
    "no atoms": "structure 0 has no atoms",
}


@pytest.mark.parametrize("what", list(BAD))
def test_bad_frames_are_refused_by_name(frame, what):
    with pytest.raises(ValueError, match=BAD[what]):
        read_dataset([spoil(frame, what)])


def test_bad_files_are_refused(frame, tmp_path):
    with pytest.raises(FileNotFoundError, match="no file matches"):
        read_dataset(tmp_path / "absent.xyz")
    empty = tmp_path / "empty.xyz"
    empty.write_text("")
    with pytest.raises(ValueError, match="empty.xyz is empty"):
        read_dataset(empty)
    whole = tmp_path / "whole.xyz"
    ase.io.write(whole, [frame, frame], format="extxyz")
    text = whole.read_text().splitlines()
    cut = tmp_path / "cut.xyz"
    cut.write_text("\n".join(text[:-2]))
    with pytest.raises(ValueError, match="cut.xyz cannot be read"):
        read_dataset(cut)
    foreign = tmp_path / "foreign.xyz"
    foreign.write_bytes(os.urandom(200))
    with pytest.raises(ValueError, match="foreign.xyz cannot be read"):
        read_dataset(foreign)
    with pytest.raises(ValueError, match="is a directory"):
        read_dataset(tmp_path)
    with pytest.raises(TypeError, match="data must be a path"):
        read_dataset(3)
    with pytest.raises(TypeError, match="got int at position 1"):
        read_dataset([frame, 3])
    with pytest.raises(ValueError, match="no structures"):
        read_dataset([])


def test_the_atoms_given_are_not_modified(frame):
    before = frame.copy()
    read_dataset(frame)
    assert frame == before
    assert set(frame.info) == set(before.info)


def test_isolated_atoms_are_recognized():
    assert read_dataset(label(Atoms("Cu")))[0].is_isolated_atom
    periodic = label(Atoms("Cu", cell=[3, 3, 3], pbc=True))
    assert not read_dataset(periodic)[0].is_isolated_atom


def test_two_levels_of_theory_are_never_mixed_in_a_frame(frame):
    del frame.arrays["REF_forces"], frame.info["REF_virial"]
    frame.calc = SinglePointCalculator(frame, energy=-99.0, forces=np.full((4, 3), 99.0))
    with pytest.warns(LostLabelsWarning, match="forces of 1 of 1 frames"):
        found = read_dataset(frame)[0]
    assert found.energy == pytest.approx(frame.info["REF_energy"])
    assert found.forces is None


def test_data_sets_can_be_joined_and_may_not_be_empty(frame):
    one = read_dataset(frame)
    both = read_dataset([one, one[:1], frame])
    assert len(both) == 3
    assert both[0] is one[0]
    with pytest.raises(ValueError, match="no structures"):
        read_dataset(one[:0])


def test_a_stress_without_a_volume_is_not_reported_as_read(frame):
    frame.pbc = (True, True, False)
    del frame.info["REF_virial"]
    frame.info["REF_stress"] = np.zeros(6)
    found = read_dataset(frame)[0]
    assert found.virial is None
    assert "stress" not in found.sources


def test_a_sigma_that_would_be_ignored_is_refused(frame):
    frame.info["sigma_stress"] = 0.1
    with pytest.raises(ValueError, match="give sigma_virial"):
        read_dataset(frame)
