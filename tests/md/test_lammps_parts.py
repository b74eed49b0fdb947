"""Parts of the way into LAMMPS that need none: inputs, halo, lists of pairs."""

import numpy as np
import pytest

from kernelpot.data import _pairs
from kernelpot.md.lammps.halo import Folding
from kernelpot.md.lammps.inputs import rewrite, substituted
from kernelpot.md.lammps.leaving import agreed, one_line
from kernelpot.md.lammps.pairs import PairList


def rewritten(tmp_path, text, name="in.si"):
    path = tmp_path / name
    path.write_text(text)
    return rewrite(str(path), "STOP")


def test_two_lines_are_put_in_place(tmp_path):
    found = rewritten(
        tmp_path,
        "units metal\npair_style kernelpot gate on &\n  std local threads 2\n"
        "pair_coeff * * ${model} Si C # here\nrun 10\n",
    )
    assert found.lines == [
        "units metal",
        "pair_style zero 1.0 full",
        "variable kernelpot_stop string 0",
        'jump "STOP"',
        "label kernelpot_0",
        "run 10",
    ]
    (attaching,) = found.attachings
    assert attaching.options == {"gate": "on", "std": "local", "threads": "2"}
    assert attaching.words == ["${model}", "Si", "C"]
    assert attaching.where.endswith("in.si, line 4")


def test_beside_other_styles(tmp_path):
    found = rewritten(
        tmp_path,
        "pair_style hybrid/overlay kernelpot on_gate stop coul/long 9.0\n"
        "pair_coeff * * coul/long\npair_coeff * * kernelpot nacl.kpot Na Cl\n",
    )
    assert found.lines[:2] == [
        "pair_style hybrid/overlay zero 1.0 full coul/long 9.0",
        "pair_coeff * * coul/long",
    ]
    assert found.attachings[0].options == {"on_gate": "stop"}
    assert found.attachings[0].words == ["nacl.kpot", "Na", "Cl"]


def test_jumps_to_the_input_itself_and_text_in_quotes(tmp_path):
    path = tmp_path / "in.si"
    found = rewritten(
        tmp_path,
        f"pair_style kernelpot\npair_coeff * * silicon.kpot Si\nlabel again\njump {path} again\n"
        f'if "1 > 0" then "jump {path} again"\nprint """\npair_style kernelpot gate never\n"""\n',
    )
    assert "jump SELF again" in found.lines
    assert 'if "1 > 0" then "jump SELF again"' in found.lines
    assert "pair_style kernelpot gate never" in found.lines


def test_files_that_are_included(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "potential.in").write_text("pair_style kernelpot\npair_coeff * * silicon.kpot Si\n")
    (tmp_path / "other.in").write_text("label x\njump SELF x\n")
    found = rewritten(tmp_path, "include other.in\ninclude potential.in\nrun 1\n")
    assert found.lines[:2] == ["include other.in", "pair_style zero 1.0 full"]
    (tmp_path / "potential.in").write_text("label x\npair_style kernelpot\n")
    with pytest.raises(ValueError, match="potential.in, line 1: .* has no labels"):
        rewritten(tmp_path, "include potential.in\n")


OURS = "pair_style kernelpot\npair_coeff * * silicon.kpot Si\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("units metal\n", "has no `pair_style kernelpot`"),
        ("pair_style kernelpot gates on\n", "line 1: pair_style kernelpot has no 'gates'"),
        ("pair_style kernelpot gate yes\n", "`gate` .* is on or off, got 'yes'"),
        ("pair_style kernelpot gate\n", "`gate` .* is on or off, got ''"),
        ("pair_style kernelpot threads 0\n", "`threads` .* is a number, got '0'"),
        ("pair_style hybrid kernelpot lj/cut 3\n", "one of hybrid/overlay"),
        ("pair_style hybrid/overlay kernelpot zero 3\n", "pair_style zero is what kernelpot"),
        ("pair_style hybrid/overlay kernelpot kernelpot\n", "one potential of kernelpot"),
        ("pair_style kernelpot\npair_coeff 1 1 silicon.kpot Si\n", "line 2: kernelpot acts on all"),
        ("pair_style kernelpot\npair_coeff * * silicon.kpot\n", "with an element for each type"),
        (OURS + "run_style respa 2 2\n", "line 3: run_style respa never asks"),
        (OURS + "suffix kk\n", "KOKKOS"),
        (OURS + "neigh_modify every 1 exclude type 1 1\n", "exclude takes pairs away"),
    ],
)
def test_inputs_that_are_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        rewritten(tmp_path, text)


def test_settings_that_are_not_refused(tmp_path):
    rest = ["neigh_modify exclude none", "neigh_modify every 5", "run_style verlet", "# exclude"]
    assert rewritten(tmp_path, OURS + "\n".join(rest)).lines[-4:] == rest


def test_variables_are_filled_in():
    class Lammps:
        def extract_variable(self, name):
            return {"model": "silicon.kpot", "n": 2.0}.get(name)

    assert substituted(Lammps(), "dir/${model}") == "dir/silicon.kpot"
    assert substituted(Lammps(), "$n.kpot") == "2.kpot"
    with pytest.raises(ValueError, match="no variable 'other'"):
        substituted(Lammps(), "${other}")
    with pytest.raises(ValueError, match="are understood here"):
        substituted(Lammps(), "$(1+1)")


def test_forces_on_ghosts_go_to_their_owners(rng):
    tags = np.array([5, 2, 9, 2, 2, 9, 5])
    values = rng.normal(size=(7, 3))
    found = Folding(None, tags, 3)(values)
    expected = [values[tags == tag].sum(axis=0) for tag in tags[:3]]
    np.testing.assert_allclose(found, expected, atol=1e-14)


def test_a_ghost_without_owner_is_refused():
    with pytest.raises(ValueError, match="atom 7 has a ghost, but no owner"):
        Folding(None, np.array([1, 2, 7]), 2)


def test_vectors_between_atoms_are_those_of_numpy(rng):
    positions = rng.normal(size=(6, 3))
    first, neighbors = np.array([0, 2, 2, 5]), np.array([3, 1, 0, 5, 4])
    found = np.empty((5, 3))
    _pairs.between(first, neighbors, positions, found)
    centers = np.repeat(np.arange(3), np.diff(first))
    np.testing.assert_array_equal(found, positions[neighbors] - positions[centers])


def test_a_list_with_pairs_missing_is_found_out(rng):
    positions = 3.0 * rng.uniform(size=(12, 3))
    apart = np.linalg.norm(positions[:5, None] - positions, axis=2)
    near = (apart < 1.5) & (apart > 0)
    first = np.concatenate([[0], np.cumsum(near.sum(axis=1))])
    neighbors = np.nonzero(near)[1]
    tags = np.arange(1, 13)
    PairList(first, neighbors, 12).check(positions, 1.4, tags)
    fewer = np.where(np.arange(6) > 2, first - 1, first)
    missing = PairList(fewer, np.delete(neighbors, first[2]), 12)
    with pytest.raises(ValueError, match="of atom 3, where there are"):
        missing.check(positions, 1.5, tags)


def test_errors_are_one_line():
    assert one_line(ValueError("two\n lines")) == "two lines"
    assert one_line(KeyError("x")) == "KeyError: 'x'"
    assert one_line(RuntimeError()) == "RuntimeError"
    assert agreed(None, None) is None
