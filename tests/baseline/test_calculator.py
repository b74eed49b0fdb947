"""Calculators and dispersion as baselines: what is checked, refused, and written down."""

import builtins
import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

import kernelpot as kp
from kernelpot.baseline.free_atoms import AtomicEnergies
from kernelpot.baseline.kinds import baseline_of
from kernelpot.baseline.reference import ReadsAtoms, Reference
from tests.conftest import label, rattled_alloy

SPECIES = (13, 29)
NOTHING = Reference(AtomicEnergies(dict.fromkeys(SPECIES, 0.0), "given"))


class Wrong(EMT):
    """Forces or stress that are no derivatives."""

    def __init__(self, what):
        super().__init__()
        self.what = what

    def calculate(self, *args):
        super().calculate(*args)
        if self.what in self.results:  # a free atom has no stress
            self.results[self.what] = 1.1 * self.results[self.what]


class Stressless(EMT):
    implemented_properties = ["energy", "forces"]  # noqa: RUF012 - as ASE has it


@pytest.fixture
def data():
    return kp.read_dataset([label(rattled_alloy(k, (1, 1, 1))) for k in range(4)])


def test_what_the_labels_are_made_of_leaves_nothing(data):
    """EMT labels, EMT baseline: only the energy of free atoms is left, which e0 are."""
    term = kp.CalculatorBaseline("emt").fit(data, SPECIES, NOTHING)
    for frame in data:
        left = Reference(NOTHING.e0, [term]).remainder(frame)
        free = sum(term.free_atoms[s] for s in frame.atoms.symbols)
        assert left.energy == pytest.approx(free, abs=1e-9)
        np.testing.assert_allclose(left.forces, 0.0, atol=1e-9)
        np.testing.assert_allclose(left.virial, 0.0, atol=1e-8)
    energies, _, _ = term._of(Atoms("Cu"))
    assert energies[0] == 0.0


@pytest.mark.parametrize("what", ["forces", "stress"])
def test_what_is_no_derivative_is_refused(data, what):
    kp.CalculatorBaseline.register("wrong", Wrong)
    term = kp.CalculatorBaseline("wrong", {"what": what})
    with pytest.raises(ValueError, match=f"{what} of wrong are no derivatives of its energy"):
        term.fit(data, SPECIES, NOTHING)


def test_a_calculator_without_stress_is_refused_for_crystals_and_serves_molecules(data):
    kp.CalculatorBaseline.register("stressless", Stressless)
    term = kp.CalculatorBaseline("stressless")
    with pytest.raises(ValueError, match="stressless has no stress, which periodic"):
        term.fit(data, SPECIES, NOTHING)
    free = kp.read_dataset([label(Atoms("Cu2", [[0, 0, 0], [2.4, 0, 0]]))])
    assert term.fit(free, (29,), NOTHING).free_atoms


def test_a_name_is_needed_and_must_be_known():
    with pytest.raises(TypeError, match=r"register\('name'"):
        kp.CalculatorBaseline(EMT())
    with pytest.raises(ValueError, match="no calculator 'nobody' in this process"):
        kp.CalculatorBaseline("nobody")
    with pytest.raises(TypeError, match="must be callable"):
        kp.CalculatorBaseline.register("thing", 3)


def test_a_model_is_refused_where_its_calculator_is_not_known(data, tmp_path, monkeypatch):
    kp.CalculatorBaseline.register("mine", EMT)
    kernels = [kp.SOAPTerm.example(SPECIES).changed(n_sparse=10)]
    pot = kp.KernelPotential(kernels, baseline=[kp.Wall(), kp.CalculatorBaseline("mine")])
    pot.fit(list(data), optimize=None, self_test=False)
    pot.save(tmp_path / "model.kpot")
    assert kp.load(tmp_path / "model.kpot").model.baseline[1].calculator == "mine"
    monkeypatch.setattr("kernelpot.baseline.calculator._FACTORIES", {})
    with pytest.raises(ValueError, match=r"CalculatorBaseline.register\('mine'"):
        kp.load(tmp_path / "model.kpot")


# ---- dispersion --------------------------------------------------------------------


def test_dispersion_is_refused_without_its_library(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("dftd3"):
            raise ImportError("no module named dftd3")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    plain = {"kind": "d3", "functional": "PBE", "parameters": None, "atm": False}
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'kernelpot\[dispersion\]'"):
        baseline_of([plain])


def test_dispersion_is_that_of_the_librarys_own_calculator():
    pytest.importorskip("dftd3", reason="the extra `dispersion` is not installed")
    from dftd3.ase import DFTD3

    for atoms, tolerance in ((molecule("C6H6"), 1e-10), (bulk("Cu", cubic=True), 2e-3)):
        # the crystal: its sums end sharply at the same distance, ours smoothly before it
        atoms.rattle(0.05, seed=1)
        for parameters in ({}, {"s8": 0.5, "a1": 0.3, "a2": 4.0}):
            term = kp.D3(parameters=parameters) if parameters else kp.D3("PBE")
            energies, forces, virial = term._of(atoms)
            tweaks = {"method": "PBE", "atm": False} if not parameters else {**parameters, "s9": 0}
            atoms.calc = DFTD3(method="PBE", damping="d3bj", params_tweaks=tweaks)
            assert energies.sum() == pytest.approx(atoms.get_potential_energy(), rel=tolerance)
            np.testing.assert_allclose(forces, atoms.get_forces(), atol=tolerance)
            if atoms.pbc.any():
                stress = -virial / atoms.get_volume()
                np.testing.assert_allclose(stress, atoms.get_stress(voigt=False), rtol=0.01)


def test_dispersion_reaches_beyond_every_cutoff():
    """The tail is C6 / r^6."""
    pytest.importorskip("dftd3", reason="the extra `dispersion` is not installed")
    r = np.array([12.0, 18.0])
    energy, _ = kp.D3("PBE").pair_energy(r, 18, 18)
    assert energy[0] / energy[1] == pytest.approx(1.5**6, rel=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "D3 needs `functional`"),
        ({"functional": "PBE", "parameters": {"s8": 1.0, "a1": 0.4, "a2": 4.0}}, "one of them"),
        ({"parameters": {"s8": 1.0}}, "lack a1, a2"),
        ({"parameters": {"s8": 1.0, "a1": 1.0, "a2": 4.0, "alpha": 6.0}}, r"got \['alpha'\]"),
        ({"functional": "nobody"}, "no parameters for the functional 'nobody'"),
    ],
)
def test_dispersion_says_what_it_needs(arguments, message):
    pytest.importorskip("dftd3", reason="the extra `dispersion` is not installed")
    with pytest.raises(ValueError, match=message):
        kp.D3(**arguments)


def test_whoever_cuts_space_into_domains_can_tell():
    """They read whole structures, whatever their reach says."""
    for kind in (kp.CalculatorBaseline, kp.D3):
        assert not kind.local
        assert isinstance(kind.__new__(kind), ReadsAtoms)


def test_both_are_plain_data():
    term = kp.CalculatorBaseline("lj", {"sigma": 2.0}, {"Cu": 0.0})
    assert baseline_of([json.loads(json.dumps(term.to_dict()))]) == [term]


class OfState(EMT):
    """One electronvolt for each charge, two for each unpaired electron."""

    def calculate(self, *args):
        super().calculate(*args)
        extra = self.atoms.info.get("charge", 0) + 2 * self.atoms.info.get("spin", 0)
        for name in ("energy", "free_energy"):
            self.results[name] += extra
        self.results["energies"] = self.results["energies"] + extra / len(self.atoms)


def test_a_calculator_is_asked_anew_where_charge_or_spin_differ():
    kp.CalculatorBaseline.register("of_state", OfState)
    term = kp.CalculatorBaseline("of_state", free_atoms={"Cu": 0.0})
    states = ({}, {"charge": 1}, {"spin": 1})
    frames = [
        Atoms("Cu2", [[0, 0, 0], [0, 0, 2.3]], info={**state, "REF_energy": 0.0})
        for state in states
    ]
    read = kp.read_dataset(frames)
    assert [dict(f.atoms.info) for f in read] == [*states]
    energies = np.array([term._of(f.atoms)[0].sum() for f in read])
    np.testing.assert_allclose(energies - energies[0], [0.0, 1.0, 2.0], atol=1e-12)
