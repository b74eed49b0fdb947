"""Arguments of the ``kernelpot`` command."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kernelpot._version import __version__
from kernelpot.cli.console import meant

# One use of each verb, for its help.
EXAMPLES = {
    "quickstart": "kernelpot quickstart --folder demo",
    "fit": "kernelpot fit train.xyz -o model.kpot --preset fast",
    "update": "kernelpot update model.kpot new.xyz -o better.kpot",
    "check": "kernelpot check train.xyz --forces-key dft_forces",
    "evaluate": "kernelpot evaluate model.kpot test.xyz -o predictions.xyz",
    "md": "kernelpot md model.kpot start.xyz --ensemble nvt --temperature 600 --steps 5000 "
    "--trajectory run.traj",
    "lammps": "mpiexec -n 4 kernelpot lammps in.silicon --log silicon.log",
    "report": "kernelpot report model.kpot test.xyz -o report.html",
    "search": "kernelpot search train.xyz -o better.toml --budget 30min",
    "import-gap": "kernelpot import-gap fit_gap.sh -o fit.toml",
    "info": "kernelpot info model.kpot --json -",
    "export": "kernelpot export model.kpot -o slim.kpot --slim",
}


# Labels by kind, and what they are called by default.
_KEYS = {
    "energy": "of a frame [eV] (default: REF_energy, then other names of the field)",
    "forces": "[eV/Å] (default: REF_forces, ...)",
    "virial": "-dE/d strain [eV] (default: REF_virial, ...)",
    "stress": "with ASE's sign [eV/Å^3] (default: REF_stress, ...)",
    "config-type": "group of a frame (default: config_type)",
}


# What every help ends with.
UNITS = "Units are eV, Å, eV/Å, and eV/Å^3 for stresses (ASE's sign), where nothing else is said."
# Arguments that are files, by what their help calls them.
_FILES = ("MODEL", "MODEL2", "NEW", "DATA", "STRUCTURE", "INPUT", "COMMAND", "FILE")


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Help with defaults, where there are any, and examples on one line."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = text.splitlines()
        return "\n".join(
            line
            if line.startswith("  ")
            else super(_Formatter, self)._fill_text(line, width, indent)
            for line in lines
        )

    def _get_help_string(self, action: argparse.Action) -> str | None:
        plain = action.default is None or action.default is False or action.required
        if plain or "default" in (action.help or ""):
            return action.help
        if isinstance(action.default, tuple):
            return f"{action.help} (default: {' '.join(map(str, action.default))})"
        return super()._get_help_string(action)


if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]


def build_parser() -> argparse.ArgumentParser:
    """Parser of all verbs; the chosen one is in `verb`."""
    parser = argparse.ArgumentParser(
        prog="kernelpot",
        description="Gaussian-process interatomic potentials: fit, evaluate, run.",
    )
    parser.add_argument("--version", action="version", version=f"kernelpot {__version__}")
    parser.add_argument(
        "--print-completion", choices=("bash", "zsh", "tcsh"), action=_PrintCompletion,
        help="print what makes this shell complete the command (needs shtab)",
    )  # fmt: skip
    parser.epilog = (
        "Start with: kernelpot quickstart, or kernelpot check YOUR_DATA.xyz. "
        "Help on a verb: kernelpot VERB --help. Completion of words in bash: "
        'eval "$(kernelpot --print-completion bash)"'
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    _add_quickstart(verbs)
    _add_fit(verbs)
    _add_update(verbs)
    _add_check(verbs)
    _add_evaluate(verbs)
    _add_md(verbs)
    _add_lammps(verbs)
    _add_report(verbs)
    _add_search(verbs)
    _add_import_gap(verbs)
    _add_info(verbs)
    _add_export(verbs)
    for name, verb in verbs.choices.items():
        verb.formatter_class = _Formatter
        verb.description = f"{verb.description or ''}".strip() or None
        verb.epilog = f"{UNITS}\nExample:\n  {EXAMPLES[name]}"
    return parser


def refuse_misspelt(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Leave with a sentence if the verb, or an option of it, is none, and name what is near.

    argparse says of a misspelt option that others are missing, or prints all there are.
    """
    (verbs,) = (a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    verb = words[0] if words else "-"
    if verb.startswith("-"):
        return
    if verb not in verbs:
        parser.exit(2, f"kernelpot: there is no verb {verb!r}{meant(verb, list(verbs))}; there are "
                       f"{', '.join(verbs)}\n")  # fmt: skip
    known = [name for a in verbs[verb]._actions for name in a.option_strings]
    for word in words[1:]:
        if word == "--":
            return
        name = word.partition("=")[0]
        if name.startswith("--") and not any(k.startswith(name) for k in known):
            parser.exit(
                2,
                f"kernelpot: {verb} has no option {name}{meant(name, known)}; all of them: "
                f"kernelpot {verb} --help\n",
            )


class _PrintCompletion(argparse.Action):
    """Print what makes a shell complete the command, made by shtab."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: Any = None
    ) -> None:
        try:
            import shtab
        except ImportError:
            parser.exit(2, "kernelpot: completion needs shtab: pip install shtab\n")
        _complete_files(parser, shtab.FILE)
        print(shtab.complete(parser, shell=values))
        parser.exit(0)


def _complete_files(parser: argparse.ArgumentParser, files: Any) -> None:
    """Mark the arguments that are files."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                _complete_files(verb, files)
        elif str(action.metavar or action.dest).upper().split(".")[0] in (*_FILES, "TRAIN"):
            action.complete = files  # type: ignore[attr-defined]


def _add_quickstart(verbs: Verbs) -> None:
    quick = verbs.add_parser("quickstart", help="fit the shipped silicon, evaluate, run MD, draw")
    quick.add_argument("--folder", default=".", help="where to write silicon.kpot, silicon.png")
    _finish(quick, "quickstart", keys=False)


def _add_fit(verbs: Verbs) -> None:
    fit = verbs.add_parser("fit", help="fit a potential to labelled structures")
    fit.add_argument("train", nargs="+", help="labelled structures: files, patterns, file@index")
    fit.add_argument("-o", "--output", required=True, metavar="MODEL", help="file to write")
    fit.add_argument("--preset", choices=("fast", "default", "accurate"), default=None,
        help="sparse points per term that names no number: 300, 1,000 or 3,000; of whole forms "
        "600, 2,000 or 3,000 columns (default: default)")  # fmt: skip
    fit.add_argument(
        "--config", metavar="FILE.toml",
        help="parameters of KernelPotential; in [config_type_sigma.NAME], forces = \"search\" "
        "instead of a number has the noise of that group chosen apart",
    )  # fmt: skip
    fit.add_argument(
        "--n-sparse", type=int, help="sparse points per term (default: those of the preset)"
    )
    fit.add_argument(
        "--sigma-energy", type=float, help="noise of energies [eV/atom] (default: chosen)"
    )
    fit.add_argument("--sigma-forces", type=float, help="noise of forces [eV/Å] (default: chosen)")
    fit.add_argument(
        "--sigma-stress", type=float, help="noise of stresses [eV/Å^3] (default: chosen)"
    )
    fit.add_argument(
        "--e0", type=_e0, metavar="isolated|least_squares|Cu=-3.5,...",
        help="energies of isolated atoms [eV], or where they come from (also as a dict by atomic "
        "number)",
    )  # fmt: skip
    fit.add_argument(
        "--optimize",
        choices=("loo", "evidence", "none"),
        help="how noise that is not given is chosen (default: loo)",
    )
    fit.add_argument("--memory", help="memory budget, such as 2GB (default: none)")
    fit.add_argument(
        "--checkpoint", metavar="FILE",
        help="keep the state of the fit here; the same command continues from it",
    )  # fmt: skip
    fit.add_argument("--seed", type=_seed, help="of random choices among the data (default: 0)")
    fit.add_argument(
        "--no-self-test", action="store_true", help="do not try the model in short dynamics"
    )
    _add_about(fit)
    _finish(fit, "fit")


def _add_update(verbs: Verbs) -> None:
    update = verbs.add_parser("update", help="let a potential learn from more structures")
    update.add_argument("model", metavar="MODEL", help="a .kpot file")
    update.add_argument("new", nargs="+", metavar="NEW", help="structures it has not seen")
    update.add_argument("-o", "--output", required=True, metavar="MODEL2", help="file to write")
    update.add_argument("--add-sparse", type=int, default=0, metavar="N",
        help="sparse points to add per term; needs --data and costs a whole fit")  # fmt: skip
    update.add_argument("--data", nargs="+", help="all structures the potential was fitted to")
    _finish(update, "update")


def _add_check(verbs: Verbs) -> None:
    check = verbs.add_parser("check", help="what was read from data: labels, signs, suspects")
    check.add_argument(
        "data", nargs="+", metavar="DATA", help="labelled structures: files, patterns, file@index"
    )
    check.add_argument(
        "--model", metavar="MODEL", help="rank frames by how much they contradict this model"
    )
    _finish(check, "check")


def _add_evaluate(verbs: Verbs) -> None:
    evaluate = verbs.add_parser("evaluate", help="errors against labelled structures")
    evaluate.add_argument("model", metavar="MODEL", help="a .kpot file")
    evaluate.add_argument(
        "data", nargs="+", metavar="DATA", help="labelled structures: files, patterns, file@index"
    )
    evaluate.add_argument(
        "-o", "--output", metavar="FILE",
        help="write every structure with predictions, labels, errors and standard deviations "
        "(.xyz, .extxyz, .traj or .db)",
    )  # fmt: skip
    evaluate.add_argument("--gated", action="store_true", help="with the safety net")
    evaluate.add_argument(
        "--uncertainty", action="store_true", help="coverage of calibrated intervals too (slow)"
    )
    evaluate.add_argument(
        "--self-test", action="store_true",
        help="try the model in short dynamics, compression, collisions (seconds to a minute)",
    )  # fmt: skip
    _finish(evaluate, "evaluate")


def _add_md(verbs: Verbs) -> None:
    md = verbs.add_parser("md", help="molecular dynamics with uncertainty logged")
    md.add_argument("model", metavar="MODEL", help="a .kpot file")
    md.add_argument("structure", metavar="STRUCTURE", help="first frame of any file ASE reads")
    md.add_argument("--ensemble", choices=("nve", "nvt", "npt"), default="nve",
        help="velocity Verlet, Langevin, or Martyna-Tobias-Klein")  # fmt: skip
    md.add_argument("--temperature", type=float, default=300.0,
        help="of the initial velocities and of the thermostat [K]")  # fmt: skip
    md.add_argument("--pressure", type=float, default=0.0, help="[GPa], npt only")
    md.add_argument("--timestep", type=float, default=1.0, help="time step [fs]")
    md.add_argument("--steps", type=int, default=1000, help="time steps to make")
    md.add_argument("--supercell", type=int, nargs=3, default=(1, 1, 1), metavar="N",
        help="repeat a periodic structure along its cell vectors")  # fmt: skip
    md.add_argument("--interval", type=int, default=10, help="steps between log lines")
    md.add_argument(
        "--trajectory", metavar="FILE", help="write frames (.traj, .xyz, .extxyz or .db)"
    )
    md.add_argument("--log", metavar="FILE", help="write the log as CSV")
    md.add_argument("--seed", type=_seed, default=0, help="of velocities and thermostat")
    md.add_argument("--no-gate", action="store_true", help="kernels alone, wherever they lead")
    md.add_argument(
        "--on-gate",
        choices=("warn", "stop"),
        default="warn",
        help="where the model does not know: say so once and go on, or stop",
    )
    bounds = md.add_argument_group("bounds of what is physical, where a run stops")
    bounds.add_argument("--no-bounds", action="store_true", help="go on, whatever happens")
    for name, unit, what in (
        ("temperature", "K", "temperature of all atoms [K] (default: by --temperature and size)"),
        (
            "atom-energy",
            "EV",
            "kinetic energy of one atom [eV] (default: by --temperature and size)",
        ),
        (
            "energy-drift",
            "EV",
            "change of the total energy per atom [eV], nve only (default: by --temperature)",
        ),
        ("energy-fall", "EV", "fall of the potential energy per atom [eV] (default: 10)"),
    ):
        bounds.add_argument(f"--max-{name}", type=float, metavar=unit, help=what)
    md.add_argument(
        "--no-timestep-check",
        action="store_true",
        help="do not look for the fastest vibration (24 evaluations) before the first step",
    )
    _finish(md, "md", keys=False)


def _add_lammps(verbs: Verbs) -> None:
    lammps = verbs.add_parser("lammps", help="run an input of LAMMPS that has pair_style kernelpot")
    lammps.description = (
        "Run an input of LAMMPS in which `pair_style kernelpot [gate on|off] [on_gate "
        "warn|stop|none] [std local|none] [threads N] [earlier_fixes ID,...]` and `pair_coeff * * "
        "MODEL.kpot ELEMENT ...` stand, also within hybrid/overlay. Under mpiexec the atoms are "
        "divided among its processes."
    )
    lammps.add_argument("input", metavar="INPUT", help="LAMMPS commands, units metal")
    lammps.add_argument("--log", metavar="FILE", help="LAMMPS' log (default: log.lammps)")
    lammps.add_argument(
        "--var", nargs="+", action="append", metavar=("NAME", "VALUE"),
        help="a variable of the input, as of lmp -var; may be given again",
    )  # fmt: skip
    lammps.add_argument("--json", metavar="FILE", help="machine-readable, - for standard output")
    lammps.add_argument("--quiet", action="store_true", help="nothing on the screen but errors")
    lammps.set_defaults(verb="lammps")


def _add_report(verbs: Verbs) -> None:
    report = verbs.add_parser("report", help="errors, uncertainty, scans and gate as one HTML page")
    report.add_argument("model", metavar="MODEL", help="a .kpot file")
    report.add_argument(
        "data", nargs="+", metavar="DATA", help="labelled structures: files, patterns, file@index"
    )
    report.add_argument("-o", "--output", required=True, metavar="FILE.html", help="file to write")
    report.add_argument("--chemiscope", metavar="FILE.json.gz",
        help="also write the map of environments for chemiscope (extra chemiscope)")  # fmt: skip
    _finish(report, "report")


def _add_search(verbs: Verbs) -> None:
    search = verbs.add_parser("search", help="better kernels from training data, for fit --config")
    search.add_argument("train", nargs="+", help="labelled structures: files, patterns, file@index")
    search.add_argument("-o", "--output", required=True, metavar="FILE.toml", help="file to write")
    search.add_argument("--budget", default="20", help="candidates, or a time such as 30min")
    search.add_argument("--parameters", nargs="+", metavar="NAME", help="what to search")
    search.add_argument("--n-sparse", type=int, help="sparse points per term while searching")
    search.add_argument("--checkpoint", metavar="FILE.json", help="continue from, and write to")
    search.add_argument("--seed", type=_seed, default=0, help="of random choices")
    _finish(search, "search")


def _add_import_gap(verbs: Verbs) -> None:
    gap = verbs.add_parser("import-gap", help="a gap_fit command as a file for fit --config")
    gap.description = (
        "Translate a gap_fit command into the configuration of kernelpot fit that is nearest to "
        "it. Every option that has no equivalent is named in a comment."
    )
    gap.add_argument(
        "command", nargs="+", metavar="COMMAND",
        help="the command in quotes, a file that holds it, or - for standard input",
    )  # fmt: skip
    gap.add_argument(
        "-o", "--output", metavar="FILE.toml", help="file to write (default: standard output)"
    )
    gap.add_argument(
        "--data", nargs="+", metavar="DATA",
        help="training data, for species and volumes [Å^3] (default: at_file, if it is there)",
    )  # fmt: skip
    gap.add_argument("--json", metavar="FILE", help="machine-readable, - for standard output")
    gap.set_defaults(verb="import-gap")


def _add_info(verbs: Verbs) -> None:
    info = verbs.add_parser("info", help="what a model is and how it was fitted")
    info.add_argument("model", metavar="MODEL", help="a .kpot file")
    info.add_argument("--json", metavar="FILE", help="machine-readable, - for standard output")
    info.set_defaults(verb="info")


def _add_export(verbs: Verbs) -> None:
    export = verbs.add_parser("export", help="write a model file anew, smaller with --slim")
    export.add_argument("model", metavar="MODEL", help="a .kpot file")
    export.add_argument("-o", "--output", required=True, metavar="MODEL2", help="file to write")
    export.add_argument(
        "--slim", action="store_true",
        help="keep what prediction needs, not the factor of the training (which std of forces, "
        "samples, suspects and updates need)",
    )  # fmt: skip
    _add_about(export)
    export.add_argument("--json", metavar="FILE", help="machine-readable, - for standard output")
    export.set_defaults(verb="export")


def _add_about(parser: argparse.ArgumentParser) -> None:
    """What a model file says of itself."""
    parser.add_argument("--author", help="of the model, kept in its file")
    parser.add_argument("--licence", "--license", help="of the model, kept in its file")


def _seed(text: str) -> int:
    """A number that random choices begin with."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be 0 or a larger whole number, got {text!r}")
    return int(text)


def _e0(text: str) -> str | dict[str, float]:
    """Where energies of isolated atoms come from, or the energies."""
    if text in ("isolated", "least_squares", "average"):
        return text
    parts = text.strip().strip("{}").replace(":", "=").split(",")
    pairs = [part.split("=") for part in parts if part.strip()]
    try:
        return {element.strip(" '\""): float(energy) for element, energy in pairs}
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be isolated, least_squares or energies such as Cu=-3.5,Al=-2.1, got {text!r}"
        ) from None


def _finish(parser: argparse.ArgumentParser, verb: str, *, keys: bool = True) -> None:
    """Add what verbs share, and the name of the verb."""
    if keys:
        group = parser.add_argument_group("names of the labels")
        for kind, words in _KEYS.items():
            group.add_argument(f"--{kind}-key", metavar="KEY", help=words)
    parser.add_argument("--json", metavar="FILE", help="machine-readable, - for standard output")
    parser.add_argument("--threads", type=int, metavar="N", help="default: all free cores")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    parser.set_defaults(verb=verb)
