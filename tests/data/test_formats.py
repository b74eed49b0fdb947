"""Whatever ASE reads: one small file of each kind, named as users of ASE name files."""

import gzip
import pathlib

import ase.db
import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

import kernelpot as kp
from kernelpot import LabelKeys, read_dataset
from kernelpot.data.symmetry import forces_vanish_by_symmetry
from tests.conftest import label, rattled_alloy
from tests.data import code_outputs


@pytest.fixture(scope="module")
def frames():
    """Structures with energy, free energy, forces and stress."""
    found = []
    for seed in (1, 2, 3):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.1, seed=seed)
        atoms.calc = EMT()
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        found.append((atoms, energy + 0.01, energy, forces, atoms.get_stress(voigt=False)))
    return found


def written_by_ase(frames, path):
    images = []
    for atoms, energy, free, forces, stress in frames:
        image = atoms.copy()
        voigt = stress.ravel()[[0, 4, 8, 5, 2, 1]]
        image.calc = SinglePointCalculator(
            image, energy=energy, free_energy=free, forces=forces, stress=voigt
        )
        images.append(image)
    ase.io.write(path, images)


@pytest.mark.parametrize("name", ["a.traj", "a.db", "a.json", "a.xyz", "a.extxyz"])
def test_files_that_ase_writes(frames, tmp_path, name):
    written_by_ase(frames, tmp_path / name)
    data = read_dataset(tmp_path / name)
    assert len(data) == 3
    for frame, (atoms, _, free, forces, stress) in zip(data, frames, strict=True):
        assert frame.energy == pytest.approx(free, abs=1e-7)
        np.testing.assert_allclose(frame.forces, forces, atol=1e-7)
        np.testing.assert_allclose(
            frame.virial[:3], -np.diag(stress) * atoms.get_volume(), atol=1e-6
        )


CODES = {
    "vasprun.xml": code_outputs.vasprun,
    "OUTCAR": code_outputs.outcar,
    "pw.out": lambda frames: code_outputs.espresso(frames[0]),
    "a.castep": lambda frames: code_outputs.castep(frames[0]),
}


@pytest.mark.parametrize("name", list(CODES))
@pytest.mark.parametrize("compressed", [False, True])
def test_outputs_of_codes(frames, tmp_path, name, compressed):
    text = CODES[name](frames)
    path = tmp_path / (name + ".gz" * compressed)
    path.write_bytes(gzip.compress(text.encode()) if compressed else text.encode())
    data = read_dataset(path)
    assert len(data) == (3 if name in ("vasprun.xml", "OUTCAR") else 1)
    for frame, (atoms, _, free, forces, stress) in zip(data, frames, strict=False):
        found = frame.atoms.get_all_distances(mic=True)
        np.testing.assert_allclose(found, atoms.get_all_distances(mic=True), atol=1e-5)
        # free energies, of which forces are derivatives
        assert frame.energy == pytest.approx(free, abs=1e-6)
        np.testing.assert_allclose(frame.forces, forces, atol=1e-6)
        if name != "a.castep":
            expected = -stress * atoms.get_volume()
            np.testing.assert_allclose(frame.virial[:3], np.diag(expected), atol=1e-4)
            np.testing.assert_allclose(frame.virial[3], expected[1, 2], atol=1e-4)


@pytest.mark.parametrize("name", ["a.traj", "a.db", "a.xyz", "vasprun.xml"])
def test_frames_are_named_as_for_ase(frames, tmp_path, name):
    path = tmp_path / name
    if name in CODES:
        path.write_text(CODES[name](frames))
    else:
        written_by_ase(frames, path)
    energies = [free for _, _, free, _, _ in frames]

    def read(index):
        return [f.energy for f in read_dataset(f"{path}@{index}")]

    assert read(0) == pytest.approx(energies[:1], abs=1e-6)
    assert read("-1") == pytest.approx(energies[-1:], abs=1e-6)
    assert read("1:") == pytest.approx(energies[1:], abs=1e-6)
    assert read("::2") == pytest.approx(energies[::2], abs=1e-6)
    assert read("-2:") == pytest.approx(energies[-2:], abs=1e-6)
    if name != "a.db":
        assert [f.name for f in read_dataset(f"{path}@1::1")] == [f"{name}:1", f"{name}:2"]
    assert len(read_dataset(f"{tmp_path}/*@:2")) == 2
    with pytest.raises(ValueError, match=f"{name} has no frame '7'|{name} cannot be read"):
        read_dataset(f"{path}@7")
    with pytest.raises(ValueError, match="contains no structures at '9:'"):
        read_dataset(f"{path}@9:")
    with pytest.raises(FileNotFoundError, match="no file matches '.*absent.xyz'"):
        read_dataset(tmp_path / "absent.xyz@3")


def test_a_name_may_hold_an_at_sign(frames, tmp_path):
    path = tmp_path / "run@300K.xyz"
    written_by_ase(frames, path)
    assert len(read_dataset(path)) == 3
    assert len(read_dataset(f"{path}@:1")) == 1


def test_labels_in_a_data_base_may_be_pairs_and_data(frames, tmp_path):
    path = tmp_path / "a.db"
    with ase.db.connect(path) as base:
        for atoms, _, free, forces, _ in frames:
            base.write(
                atoms.copy(), REF_energy=free, config_type="bulk", data={"REF_forces": forces}
            )
    data = read_dataset(path)
    assert data.config_types == {"bulk": 3}
    for frame, (_, _, free, forces, _) in zip(data, frames, strict=True):
        assert frame.energy == free
        np.testing.assert_array_equal(frame.forces, forces)
    assert data[1].name == "a.db:id=2"
    assert len(read_dataset(f"{path}@id<3")) == 2
    with ase.db.connect(path) as base:
        assert len(read_dataset(base.select("id>1"))) == 2


@pytest.mark.parametrize("name", list(CODES))
def test_truncated_outputs_are_refused_by_a_sentence(frames, tmp_path, name):
    text = CODES[name](frames[:1])
    path = tmp_path / name
    for share in (0.05, 0.3, 0.5):
        path.write_text(text[: int(share * len(text))])
        with pytest.raises(ValueError, match=name) as caught:
            read_dataset(path)
        said = str(caught.value)
        assert "cannot be read: it is truncated" in said or "no label" in said or "contains" in said
        assert "\n" not in said


def test_what_is_no_structure_file_is_refused_by_a_sentence(tmp_path):
    for name, text in (
        ("notes.txt", "nothing to read\n"),
        ("a.cif", "no crystal\n"),
        ("POSCAR", "one line\n"),
        ("a.json", '{"a": 1}'),
        ("a.traj", "no trajectory"),
        ("a.db", "no data base of ASE"),
        ("vasprun.xml", "<modeling></modeling>"),
    ):
        path = tmp_path / name
        path.write_text(text)
        with pytest.raises(ValueError, match=name) as caught:
            read_dataset(path)
        assert "cannot be read" in str(caught.value) or "contains no structures" in str(
            caught.value
        )


# ---- what is legitimate, what is not ----------------------------------------------------


def test_perfect_crystals_are_enough(small_terms):
    frames = [label(bulk("Cu", a=a, cubic=True)) for a in np.linspace(3.4, 3.8, 9)]
    frames += [label(bulk("Cu", "bcc", a=a, cubic=True)) for a in np.linspace(2.7, 3.0, 4)]
    for atoms in frames:
        atoms.arrays["REF_forces"][:] = 0.0  # as codes print them
    data = read_dataset(frames)
    report = data.check()
    assert not report.warnings
    assert report.facts["zero_force_frames"] == 13
    pot = kp.KernelPotential([t.changed(n_sparse=6) for t in small_terms]).fit(data)
    assert kp.evaluate(pot, data)["energy_mae_mev_per_atom"] < 5.0


def test_forces_that_are_lost_are_told_from_those_that_vanish():
    alloy = bulk("NaCl", "rocksalt", a=5.6)
    for atoms in (alloy, alloy.repeat(2), bulk("Si"), bulk("Mg"), Atoms("Cu")):
        assert forces_vanish_by_symmetry(atoms)
    ordered = bulk("Cu", cubic=True)
    ordered.numbers[0] = 79  # of Cu3Au
    assert forces_vanish_by_symmetry(ordered)
    for atoms in (rattled_alloy(1, (1, 1, 1)), Atoms("Cu2", [[0, 0, 0], [0, 0, 2]])):
        assert not forces_vanish_by_symmetry(atoms)
    lost = [label(rattled_alloy(s, (1, 1, 1))) for s in range(3)]
    for atoms in lost:
        atoms.arrays["REF_forces"][:] = 0.0
    crystal = label(bulk("Cu"))
    crystal.arrays["REF_forces"][:] = 0.0
    with pytest.raises(ValueError, match="no symmetry makes them so in structure 1"):
        read_dataset([crystal, *lost])
    sound = label(rattled_alloy(9, (1, 1, 1)))
    (line,) = [w for w in read_dataset([sound, *lost]).check().warnings if "exactly zero" in w]
    assert "in 3 frames without a symmetry" in line


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("ghost", r"structure 0: atom 1 is no chemical element \(atomic number 0"),
        ("bool", "REF_energy is not numeric, got True"),
        ("complex", "REF_energy is not numeric"),
        ("unit", "REF_energy is not numeric, got '-3 eV'"),
        ("object", "REF_forces contains nan"),
    ],
)
def test_what_is_no_atom_and_no_label_is_refused_by_name(what, message):
    atoms = label(rattled_alloy(0, (1, 1, 1)))
    if what == "ghost":
        atoms.numbers[1] = 0
    elif what == "object":
        del atoms.arrays["REF_forces"]
        atoms.arrays["REF_forces"] = np.full((4, 3), None)
    else:
        atoms.info["REF_energy"] = {"bool": True, "complex": 1 + 2j, "unit": "-3 eV"}[what]
    with pytest.raises(ValueError, match=message):
        read_dataset([atoms])


def test_a_given_key_and_a_path_object(frames, tmp_path):
    written_by_ase(frames, tmp_path / "a.traj")
    path = pathlib.Path(tmp_path / "a.traj")
    found = read_dataset(path, keys=LabelKeys(energy="energy"))
    assert found[0].energy == pytest.approx(frames[0][1])
