"""No label is lost in silence: names of the field are read, what is not read is named."""

import warnings
from dataclasses import replace

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

import kernelpot as kp
from kernelpot import LabelKeys, read_dataset
from kernelpot.data.label_names import LostLabelsWarning, unread_labels
from tests.conftest import label, rattled_alloy


@pytest.fixture
def frame():
    return label(rattled_alloy(0, (1, 1, 1)), "bulk")


def renamed(frame, names):
    """The same labels under other names, through a file."""
    other = Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc)
    virial = frame.info["REF_virial"]
    values = {
        "energy": frame.info["REF_energy"],
        "virial": virial,
        "stress": -virial / frame.get_volume(),
    }
    for kind, name in names.items():
        if kind == "forces":
            other.arrays[name] = frame.arrays["REF_forces"]
        else:
            other.info[name] = values[kind]
    return other


def through_a_file(atoms, path):
    columns = [
        "symbols",
        "positions",
        *(k for k in atoms.arrays if k.lower().endswith(("e", "es"))),
    ]
    columns = ["symbols", "positions", *(k for k in atoms.arrays if "force" in k)]
    ase.io.write(path, atoms, format="extxyz", columns=columns)
    return path


SPELLINGS = {
    "plain": {"energy": "energy", "forces": "forces", "stress": "stress"},
    "force without s": {"energy": "energy", "forces": "force", "virial": "virial"},
    "half renamed by hand": {
        "energy": "REF_energy", "forces": "REF_forces", "virial": "REF_virials",
    },
    "virials without prefix": {"energy": "energy", "forces": "forces", "virial": "virials"},
    "GAP": {"energy": "dft_energy", "forces": "dft_force", "virial": "dft_virial"},
    "dft, plural": {"energy": "dft_energy", "forces": "dft_forces", "stress": "dft_stress"},
    "DFT": {"energy": "DFT_energy", "forces": "DFT_forces", "virial": "DFT_virial"},
    "atomic forces": {
        "energy": "energy", "forces": "atomic_forces", "stress": "cauchy_stress",
    },
    "free energy": {"energy": "free_energy", "forces": "forces", "stress": "stress"},
    "REF free energy": {"energy": "REF_free_energy", "forces": "REF_force", "stress": "ref_stress"},
}  # fmt: skip


@pytest.mark.parametrize("names", list(SPELLINGS.values()), ids=list(SPELLINGS))
def test_names_of_the_field_are_read(frame, names, tmp_path):
    found = read_dataset(through_a_file(renamed(frame, names), tmp_path / "a.xyz"))[0]
    expected = read_dataset(frame)[0]
    assert found.energy == pytest.approx(expected.energy, rel=1e-7)
    np.testing.assert_allclose(found.forces, expected.forces, atol=1e-7)
    np.testing.assert_allclose(found.virial, expected.virial, atol=1e-6)
    assert found.unread == ()


LOST = {
    "plain forces beside REF_energy": (
        {"energy": "REF_energy", "forces": "forces", "virial": "REF_virial"},
        "forces", "forces",
    ),
    "plain energy beside REF_forces": (
        {"energy": "energy", "forces": "REF_forces", "virial": "REF_virial"}, "energy", "energy",
    ),
    "plain virial beside REF_energy": (
        {"energy": "REF_energy", "forces": "REF_forces", "virial": "virial"}, "virial", "virial",
    ),
    "plain stress beside dft": (
        {"energy": "dft_energy", "forces": "dft_forces", "stress": "stress"}, "stress", "stress",
    ),
    "forces of the user's own name": (
        {"energy": "energy", "forces": "vasp_forces"}, "forces", "vasp_forces",
    ),
    "energy of the user's own name": (
        {"energy": "my_energy", "forces": "forces"}, "energy", "my_energy",
    ),
    "stress of the user's own name": (
        {"energy": "energy", "forces": "forces", "stress": "pbe_stress"}, "stress", "pbe_stress",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", list(LOST.values()), ids=list(LOST))
def test_what_is_not_read_is_named_with_the_option_that_reads_it(frame, case, tmp_path):
    names, kind, key = case
    path = through_a_file(renamed(frame, names), tmp_path / "a.xyz")
    message = f"{kind} of 1 of 1 frames: found under '{key}', not read: read it with --{kind}-key"
    with pytest.warns(LostLabelsWarning, match=message) as caught:
        data = read_dataset(path)
    assert caught[0].filename == __file__
    assert unread_labels(data)[kind][key]["n_lost"] == 1
    report = data.check()
    assert any(message in warning for warning in report.warnings)
    assert report.to_dict()["unread"][kind][key] == {
        "n_frames": 1, "n_lost": 1, "why": "another name",
    }  # fmt: skip
    # what the sentence says reads it, and loses nothing else
    found = read_dataset(path, keys=LabelKeys(**{kind: key}))[0]
    expected = read_dataset(frame)[0]
    for other in names:
        other = "virial" if other == "stress" else other
        np.testing.assert_allclose(getattr(found, other), getattr(expected, other), rtol=1e-6)


def test_labels_of_another_level_of_theory_are_named_and_lose_nothing(frame):
    frame.calc = SinglePointCalculator(frame, energy=-99.0, forces=np.full((4, 3), 99.0))
    data = read_dataset(frame)
    assert data[0].energy == pytest.approx(frame.info["REF_energy"])
    report = data.check()
    assert report.facts["unread"]["energy"] == {
        "energy": {
            "n_frames": 1, "n_lost": 0, "why": "another name",
            "max_difference_ev_per_atom": pytest.approx((99.0 + data[0].energy) / 4),
        }
    }  # fmt: skip
    assert "not read, forces: forces in 1 frames" in str(report)
    assert not report.warnings
    by_name = read_dataset(frame, keys=LabelKeys(energy="energy", forces="forces"))[0]
    assert (by_name.energy, by_name.forces[0, 0]) == (-99.0, 99.0)


@pytest.mark.parametrize("kind", ["energy", "forces", "virial", "stress", "config_type"])
def test_a_name_that_is_given_and_in_no_frame_is_refused(frame, kind):
    option = f"--{kind.replace('_', '-')}-key"
    with pytest.raises(ValueError, match=f"no frame has 'absent'.* REF_energy.*{option}"):
        read_dataset([frame, frame], keys=LabelKeys(**{kind: "absent"}))


def test_a_default_name_counts_as_given_where_it_is(frame):
    plain = renamed(frame, SPELLINGS["GAP"])
    with pytest.raises(ValueError, match="no frame has 'REF_energy'"):
        read_dataset(plain, keys=LabelKeys(energy="REF_energy"))
    assert LabelKeys(energy="a", forces="REF_forces").named == {"energy", "forces"}
    assert LabelKeys() == LabelKeys(energy="REF_energy")
    assert replace(LabelKeys(), energy="a").named == {"energy"}
    assert LabelKeys().virial == "REF_virial"
    with pytest.raises(TypeError, match="name of the energy must be text, got 3"):
        LabelKeys(energy=3)


def test_a_name_given_for_data_that_were_read_without_it_is_refused(frame):
    data = read_dataset(frame)
    assert read_dataset(data, keys=LabelKeys(energy="REF_energy")) is data
    with pytest.raises(ValueError, match="no frame has 'mine'"):
        read_dataset(data, keys=LabelKeys(energy="mine"))


def test_a_name_may_be_missing_in_some_frames(frame):
    other = renamed(frame, {"forces": "forces"})
    other.info["mine"] = 1.0
    with pytest.warns(LostLabelsWarning, match="energy of 1 of 2 frames: found under 'REF_energy'"):
        found = read_dataset([other, frame], keys=LabelKeys(energy="mine"))
    assert [f.energy for f in found] == [1.0, None]


def test_names_may_change_within_a_file(frame):
    frames = [renamed(frame, names) for names in SPELLINGS.values()]
    found = read_dataset(frames)
    assert all(f.energy == pytest.approx(frame.info["REF_energy"]) for f in found)
    assert all(f.forces is not None and f.virial is not None for f in found)


def test_a_stress_that_is_given_goes_before_a_virial_that_is_not(frame):
    frame.info["s"] = np.full(6, 0.01)
    found = read_dataset(frame, keys=LabelKeys(stress="s"))[0]
    np.testing.assert_allclose(found.stress, 0.01)
    assert [u.name for u in found.unread] == ["REF_virial"]


@pytest.mark.parametrize("pbc", [(True, True, False), (False, False, False)])
def test_stresses_without_periodicity_are_named_and_read_on_demand(frame, pbc):
    del frame.info["REF_virial"]
    frame.info["REF_stress"] = np.arange(1.0, 7.0) * 1e-3
    frame.pbc = pbc
    with pytest.warns(LostLabelsWarning, match="they are not periodic in three directions"):
        data = read_dataset(frame)
    assert data[0].virial is None
    assert data.check().facts["unread"]["stress"]["REF_stress"]["why"] == "not periodic"
    found = read_dataset(frame, keys=LabelKeys(stress="REF_stress"))[0]
    np.testing.assert_allclose(found.stress, frame.info["REF_stress"])


def test_a_stress_without_a_cell_is_named_with_the_reason(frame):
    frame.info["REF_stress"] = np.arange(1.0, 7.0)
    del frame.info["REF_virial"]
    frame.pbc, frame.cell = False, None
    with pytest.warns(LostLabelsWarning, match="a stress needs a cell of three vectors"):
        read_dataset(frame)
    frame.info["REF_stress"][:] = 0.0  # what codes write for want of another
    assert read_dataset(frame)[0].unread == ()


@pytest.mark.parametrize("name", ["IsolatedAtom", "isolated_atom", "isolatedatom"])
def test_a_config_type_makes_a_free_atom(frame, name):
    atom = Atoms("Cu", cell=[6.0, 6.0, 6.0], pbc=True)
    atom.info |= {"REF_energy": -3.0, "config_type": name, "REF_stress": np.zeros(6)}
    atom.arrays["REF_forces"] = np.zeros((1, 3))
    found = read_dataset([atom, frame])
    assert found[0].is_isolated_atom
    assert found[0].virial is None
    assert found.check().facts["isolated_atoms"] == {"Cu": -3.0}
    atom.info["config_type"] = "crystal"
    assert not read_dataset([atom, frame])[0].is_isolated_atom


def test_free_atoms_that_cannot_be_are_named(frame):
    frame.info["config_type"] = "IsolatedAtom"
    one, two = Atoms("Cu", info={"REF_energy": -3.0}), Atoms("Cu", info={"REF_energy": -2.0})
    warned = " ".join(read_dataset([frame, one, two]).check().warnings)
    assert "1 frames are called isolated atoms but have several atoms (structure 0)" in warned
    assert "isolated atoms of Cu have different energies (-3.0000 to -2.0000 eV)" in warned


def test_energies_of_free_atoms_by_number_and_by_average(frame, small_terms):
    frames = [frame, label(rattled_alloy(1, (1, 1, 1)))]
    terms = [term.changed(n_sparse=8) for term in small_terms]
    fits = [
        kp.KernelPotential(terms, e0=e0, baseline=[]).fit(frames, optimize=None)
        for e0 in ({"Al": -1.0, "Cu": -2.0}, {13: -1.0, "29": -2.0})
    ]
    assert fits[0].fitted_.e0 == fits[1].fitted_.e0
    from kernelpot.fit.problem import _given_e0

    assert _given_e0("average") == "least_squares"
    with pytest.raises(ValueError, match="neither a chemical symbol nor an atomic number: 'Xx', 0"):
        _given_e0({"Xx": 1.0, 0: 2.0})
    with pytest.raises(ValueError, match="two values for Cu"):
        _given_e0({"Cu": 1.0, 29: 2.0})
    with pytest.raises(ValueError, match="MACE's 'average'"):
        _given_e0("mean")


def test_a_fit_says_what_was_not_read_in_summary_file_and_json(frame, small_terms, tmp_path):
    frames = [label(rattled_alloy(s, (1, 1, 1))) for s in range(3)]
    for atoms in frames:
        atoms.arrays["vasp_forces"] = atoms.arrays.pop("REF_forces")
    with pytest.warns(LostLabelsWarning, match="forces of 3 of 3 frames"):
        pot = kp.KernelPotential([t.changed(n_sparse=8) for t in small_terms], baseline=[]).fit(
            frames, optimize=None
        )
    sentence = "NOT READ, forces of 3 of 3 frames: found under 'vasp_forces'"
    assert sentence in pot.summary()
    pot.save(tmp_path / "a.kpot")
    loaded = kp.load(tmp_path / "a.kpot")
    assert sentence in loaded.summary()
    assert loaded.describe()["training"]["unread"]["forces"]["vasp_forces"]["n_lost"] == 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded.update([label(rattled_alloy(7, (1, 1, 1)))])
    assert "forces of 3 of 4 frames" in loaded.summary()


# ---- energies and free energies ---------------------------------------------------------


def as_vasp(frame, difference=0.02):
    """Results as ASE's reader of VASP keeps them."""
    atoms = renamed(frame, {})
    atoms.calc = SinglePointCalculator(
        atoms,
        energy=frame.info["REF_energy"] + difference,
        free_energy=frame.info["REF_energy"],
        forces=frame.arrays["REF_forces"],
    )
    return atoms


def test_forces_are_derivatives_of_the_free_energy_and_it_is_read(frame, tmp_path):
    atoms = as_vasp(frame)
    ase.io.write(tmp_path / "a.xyz", atoms, format="extxyz")
    for source in (atoms, tmp_path / "a.xyz"):
        data = read_dataset(source)
        assert data[0].energy == pytest.approx(frame.info["REF_energy"], rel=1e-7)
        assert data[0].sources["energy"] == "ASE results 'free_energy'"
        report = data.check()
        assert not report.warnings
        said = "'energy' beside them (as of zero smearing) differs by up to 5 meV/atom: read it"
        assert said in str(report)
        found = report.facts["unread"]["energy"]["energy"]
        assert found["max_difference_ev_per_atom"] == pytest.approx(0.005, rel=1e-4)
        other = read_dataset(source, keys=LabelKeys(energy="energy"))[0]
        assert other.energy == pytest.approx(frame.info["REF_energy"] + 0.02, rel=1e-7)
        assert other.forces is not None


def test_a_free_energy_that_is_the_energy_is_not_worth_a_word(frame):
    data = read_dataset(as_vasp(frame, 0.0))
    assert data[0].sources["energy"] == "ASE results 'energy'"
    assert "free energies were read" not in str(data.check())


def test_an_energy_beside_the_free_energy_is_no_other_level_of_theory(frame):
    atoms = renamed(frame, {"energy": "dft_energy", "forces": "dft_forces"})
    atoms.info["dft_free_energy"] = frame.info["REF_energy"] - 1.0
    found = read_dataset(atoms)[0]
    assert found.energy == pytest.approx(frame.info["REF_energy"] - 1.0)
    found = read_dataset(atoms, keys=LabelKeys(energy="dft_energy"))[0]
    assert found.energy == pytest.approx(frame.info["REF_energy"])
    assert found.forces is not None


def test_a_fit_says_that_free_energies_were_read(frame, small_terms, tmp_path):
    frames = [as_vasp(label(rattled_alloy(s, (1, 1, 1)))) for s in range(3)]
    terms = [t.changed(n_sparse=8) for t in small_terms]
    pot = kp.KernelPotential(terms, baseline=[]).fit(frames, optimize=None)
    assert "free energies were read in 3 frames" in pot.summary()
    pot.save(tmp_path / "a.kpot")
    assert "--energy-key energy" in kp.load(tmp_path / "a.kpot").summary()


@pytest.mark.parametrize(
    ("energy", "forces"),
    [("E_DFT", "F_DFT"), ("etot", "f_abinit"), ("TOTEN", "grad"), ("E0", "gradient")],
)
def test_short_names_are_told_by_their_words_and_shapes(frame, energy, forces):
    found = frame.copy()
    found.info, found.arrays = dict(frame.info), dict(frame.arrays)
    for name in [k for k in found.info if k.startswith("REF_")]:
        del found.info[name]
    del found.arrays["REF_forces"]
    found.info |= {energy: -1.0, "E_fermi": 2.0, "e_gap": 0.5, "frame": 3}
    found.arrays |= {forces: np.ones((len(found), 3)), "velo": np.ones((len(found), 3))}
    with pytest.raises(ValueError, match="has no label") as error:
        read_dataset(found)
    found.info["REF_energy"] = -1.0
    with pytest.warns(LostLabelsWarning, match=f"found under '{forces}', not read") as caught:
        data = read_dataset(found)
    assert {u.name for u in data[0].unread} == {energy, forces}
    assert ("store its negative" in str(caught[0].message)) == ("grad" in forces)
    assert energy in str(error.value)
