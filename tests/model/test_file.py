"""The model file: bit for bit, no pickle, and every refusal."""

import json
import zipfile

import numpy as np
import pytest

import kernelpot as kp
from kernelpot.common import archive
from kernelpot.common.archive import ModelFileError
from tests.conftest import rattled_alloy, structures


@pytest.fixture
def path(potential, tmp_path):
    target = tmp_path / "model.kpot"
    potential.save(target)
    return target


def test_a_round_trip_is_bit_for_bit(potential, path, tmp_path):
    loaded = kp.load(path)
    for atoms in (structures()["crystal"], structures()["cluster"], rattled_alloy(9)):
        one = potential.predict(atoms, return_std=True)
        two = loaded.predict(atoms, return_std=True)
        assert one.energy == two.energy
        np.testing.assert_array_equal(one.forces, two.forces)
        np.testing.assert_array_equal(one.energies_std, two.energies_std)
    assert loaded.describe() == json.loads(json.dumps(potential.describe()))
    assert loaded.summary() == potential.summary()
    again = tmp_path / "again.kpot"
    loaded.save(again)
    assert archive.read(again)[0] == archive.read(path)[0]


def test_there_is_no_pickle_inside(path):
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            assert name.endswith(".npy")
            assert b"'|O'" not in archive.read(name)[:200]


def test_saving_replaces_atomically_and_leaves_nothing_behind(potential, path):
    before = path.read_bytes()
    potential.save(path)
    assert path.read_bytes()[:2] == before[:2]
    assert [p.name for p in path.parent.iterdir()] == ["model.kpot"]
    with pytest.raises(FileNotFoundError, match="no directory"):
        potential.save(path.parent / "absent" / "model.kpot")


def test_a_failed_save_keeps_the_old_file(potential, path, monkeypatch):
    before = path.read_bytes()

    def fail(*_args, **_kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        potential.save(path)
    assert path.read_bytes() == before
    assert len(list(path.parent.iterdir())) == 1


def test_foreign_and_missing_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        kp.load(tmp_path / "absent.kpot")
    foreign = tmp_path / "foreign.kpot"
    foreign.write_text("<GAP_params>")
    with pytest.raises(ModelFileError, match="is not a kernelpot model file"):
        kp.load(foreign)
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ModelFileError, match="is not a kernelpot model file"):
        kp.load(tmp_path / "other.npz")
    (tmp_path / "empty.kpot").write_bytes(b"")
    with pytest.raises(ModelFileError, match="is not a kernelpot model file"):
        kp.load(tmp_path / "empty.kpot")


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ModelFileError, match="truncated or damaged"):
        kp.load(path)


def test_an_altered_array_is_refused(path):
    with np.load(path) as archive:
        stored = {k: archive[k] for k in archive.files}
    stored["weights"] = stored["weights"] * 1.001
    with open(path, "wb") as stream:
        np.savez(stream, **stored)
    with pytest.raises(ModelFileError, match="array 'weights' does not match its hash"):
        kp.load(path)


def test_an_altered_header_is_refused(path):
    with np.load(path) as archive:
        stored = {k: archive[k] for k in archive.files}
    text = stored["header"].tobytes().replace(b'"zeta": 2', b'"zeta": 3')
    stored["header"] = np.frombuffer(text, dtype=np.uint8)
    with open(path, "wb") as stream:
        np.savez(stream, **stored)
    with pytest.raises(ModelFileError, match="the header does not match its hash"):
        kp.load(path)


def test_an_added_array_is_refused(path):
    with np.load(path) as archive:
        stored = {k: archive[k] for k in archive.files}
    with open(path, "wb") as stream:
        np.savez(stream, extra=np.zeros(2), **stored)
    with pytest.raises(ModelFileError, match="arrays are missing or added"):
        kp.load(path)


def test_a_newer_format_is_refused(path, monkeypatch):
    header, arrays = archive.read(path)
    header.pop("arrays")
    monkeypatch.setattr(archive, "FORMAT_VERSION", 99)
    header.pop("format_version")
    archive.write(path, header, arrays)
    monkeypatch.undo()
    with pytest.raises(ModelFileError, match="format version 99; .*upgrade kernelpot"):
        kp.load(path)


@pytest.mark.parametrize(
    "keys",
    [
        ("parameters",),
        ("noise",),
        ("e0",),
        ("calibration",),
        ("safety", "width"),
        ("calibration", "models"),
        ("calibration", "beyond"),
    ],
)
def test_a_header_without_its_parts_is_refused(path, keys):
    header, arrays = archive.read(path)
    header.pop("arrays")
    part = header
    for key in keys[:-1]:
        part = part[key]
    part.pop(keys[-1])
    archive.write(path, header, arrays)
    with pytest.raises(ModelFileError, match="incompatible version"):
        kp.load(path)


def test_a_golden_structure_that_is_not_reproduced_is_refused(path):
    header, arrays = archive.read(path)
    header.pop("arrays")
    header["golden"]["energy"] += 1e-4
    archive.write(path, header, arrays)
    with pytest.raises(ModelFileError, match="not reproduced on this machine .energy by"):
        kp.load(path)
    assert kp.load(path, verify=False).fitted_.species == (13, 29)
