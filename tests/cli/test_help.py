"""Help of every verb, completion of words, and progress."""

import argparse
import io
import re
import shlex
import sys

import pytest

import kernelpot as kp
from kernelpot.cli.arguments import EXAMPLES, build_parser
from kernelpot.cli.console import read_config
from kernelpot.cli.verbs import _VERBS, main

PARSER = build_parser()
(_SUB,) = [a for a in PARSER._actions if isinstance(a, argparse._SubParsersAction)]


@pytest.mark.parametrize("verb", list(_SUB.choices))
def test_every_help_has_an_example_and_units(verb, capsys):
    with pytest.raises(SystemExit) as left:
        main([verb, "--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    # on one line, to be copied
    (example,) = [line.strip() for line in shown.splitlines() if line.startswith("  kernelpot ")
                  or line.startswith("  mpiexec ")]  # fmt: skip
    assert example == EXAMPLES[verb]
    assert "eV/Å" in shown
    # and it is one that the command takes
    words = shlex.split(example)
    PARSER.parse_args(words[words.index("kernelpot") + 1 :])


def test_every_verb_can_be_run():
    assert set(_SUB.choices) == set(EXAMPLES) == set(_VERBS)


@pytest.mark.parametrize("verb", list(_SUB.choices))
def test_every_number_with_a_unit_says_it(verb):
    physical = ("sigma", "temperature", "pressure", "timestep", "energy", "e0", "atom_energy")
    for action in _SUB.choices[verb]._actions:
        if action.type is float or action.dest == "e0":
            assert any(name in action.dest for name in physical), action.dest
            assert "[" in action.help, action.dest
        assert action.help, action.dest


def test_completion_is_printed_where_shtab_is_installed(capsys, monkeypatch):
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit) as left:
        main(["--print-completion", "bash"])
    assert left.value.code == 0
    script = capsys.readouterr().out
    for verb in _SUB.choices:
        assert verb in script
    assert "_shtab_kernelpot_fit_pos_0_COMPGEN=_shtab_compgen_files" in script


def test_completion_without_shtab_says_what_to_do(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(SystemExit) as left:
        main(["--print-completion", "bash"])
    assert left.value.code == 2
    assert "pip install shtab" in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_shows_what_remains_and_is_silent_when_piped(monkeypatch):
    for stream, shown in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        with kp.ProgressBar() as bar:
            bar("first", 1, 10)
            bar("second", 5, 10)
            bar("second", 10, 10)
        text = stream.getvalue()
        assert ("left" in text) is shown
        assert ("second" in text) is shown


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sigma_force = 0.1", "unknown sigma_force (did you mean sigma_forces?); known are"),
        (
            "[[terms]]\nrcut = 4.0",
            "a term of the kind 'soap' has no parameter 'rcut' (did you mean r_cut?); it has r_cut",
        ),
        ('[[terms]]\nkind = "pear"', "unknown kind of term 'pear'"),
    ],
)
def test_misspelt_parameters_of_a_configuration_are_named(tmp_path, text, message):
    path = tmp_path / "fit.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        read_config(str(path))
