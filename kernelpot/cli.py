"""The ``kernelpot`` command: quickstart, check, fit, update, search, evaluate, report, md, info.

Every verb is a few lines over the Python interface. Wrong input ends with one
sentence on standard error, exit status 2, and nothing written.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from kernelpot._version import __version__
from kernelpot.textfile import write_text

if TYPE_CHECKING:
    from kernelpot.terms import SOAPTerm

# Fields of the configuration file that go to `fit`, not to the constructor.
_FIT_OPTIONS = ("memory", "n_threads", "checkpoint", "optimize")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        if arguments.json not in (None, "-"):
            _check_writable(arguments.json)
        arguments.run(arguments)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, TypeError, OSError, ImportError, ArithmeticError, RuntimeError) as error:
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"kernelpot: {message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"kernelpot: interrupted{_how_to_resume(arguments)}", file=sys.stderr)
        return 130
    return 0


def _how_to_resume(arguments: argparse.Namespace) -> str:
    path = getattr(arguments, "checkpoint", None)
    if path is None:
        return ""
    if os.path.exists(path):
        return f"; the same command continues from {path}"
    return f" before the first state was written to {path}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kernelpot",
        description="Gaussian-process interatomic potentials: fit, evaluate, run.",
    )
    parser.add_argument("--version", action="version", version=f"kernelpot {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    quick = verbs.add_parser("quickstart", help="fit the shipped silicon, evaluate, run MD, draw")
    quick.add_argument("--folder", default=".", help="where to write silicon.kpot, silicon.png")
    _add_common(quick)
    quick.set_defaults(run=_quickstart)

    fit = verbs.add_parser("fit", help="fit a potential to labelled structures")
    fit.add_argument("train", nargs="+", help="structure files or patterns (.xyz, .gz, ...)")
    fit.add_argument("-o", "--output", required=True, metavar="MODEL", help="file to write")
    fit.add_argument("--preset", choices=("fast", "default", "accurate"), default=None)
    fit.add_argument("--config", metavar="FILE.toml", help="parameters of KernelPotential")
    fit.add_argument("--n-sparse", type=int, help="sparse points per term")
    fit.add_argument("--sigma-energy", type=float, help="noise of energies [eV/atom]")
    fit.add_argument("--sigma-forces", type=float, help="noise of forces [eV/Å]")
    fit.add_argument("--sigma-stress", type=float, help="noise of stresses [eV/Å^3]")
    fit.add_argument("--e0", choices=("isolated", "least_squares"))
    fit.add_argument(
        "--optimize",
        choices=("loo", "evidence", "none"),
        help="how noise that is not given is chosen (default: leave one structure out)",
    )
    fit.add_argument("--memory", help="memory budget, such as 2GB")
    fit.add_argument(
        "--checkpoint", metavar="FILE",
        help="keep the state of the fit here; the same command continues from it",
    )  # fmt: skip
    fit.add_argument("--seed", type=int)
    _add_keys(fit)
    _add_common(fit)
    fit.set_defaults(run=_fit)

    update = verbs.add_parser("update", help="let a potential learn from more structures")
    update.add_argument("model", metavar="MODEL")
    update.add_argument("new", nargs="+", metavar="NEW", help="structures it has not seen")
    update.add_argument("-o", "--output", required=True, metavar="MODEL2", help="file to write")
    update.add_argument("--add-sparse", type=int, default=0, metavar="N",
        help="sparse points to add per term; needs --data and costs a whole fit")  # fmt: skip
    update.add_argument("--data", nargs="+", help="all structures the potential was fitted to")
    _add_keys(update)
    _add_common(update)
    update.set_defaults(run=_update)

    check = verbs.add_parser("check", help="what was read from data: labels, signs, suspects")
    check.add_argument("data", nargs="+", metavar="DATA")
    check.add_argument(
        "--model", metavar="MODEL", help="rank frames by how much they contradict this model"
    )
    _add_keys(check)
    _add_common(check)
    check.set_defaults(run=_check)

    evaluate = verbs.add_parser("evaluate", help="errors against labelled structures")
    evaluate.add_argument("model", metavar="MODEL")
    evaluate.add_argument("data", nargs="+", metavar="DATA")
    evaluate.add_argument("--gated", action="store_true", help="through the variance gate")
    evaluate.add_argument(
        "--uncertainty", action="store_true", help="coverage of calibrated intervals too (slow)"
    )
    _add_keys(evaluate)
    _add_common(evaluate)
    evaluate.set_defaults(run=_evaluate)

    md = verbs.add_parser("md", help="molecular dynamics with uncertainty logged")
    md.add_argument("model", metavar="MODEL")
    md.add_argument("structure", metavar="STRUCTURE", help="first frame of any file ASE reads")
    md.add_argument("--ensemble", choices=("nve", "nvt", "npt"), default="nve")
    md.add_argument("--temperature", type=float, default=300.0, help="[K]")
    md.add_argument("--pressure", type=float, default=0.0, help="[GPa], npt only")
    md.add_argument("--timestep", type=float, default=1.0, help="[fs]")
    md.add_argument("--steps", type=int, default=1000)
    md.add_argument("--supercell", type=int, nargs=3, default=(1, 1, 1), metavar="N")
    md.add_argument("--interval", type=int, default=10, help="steps between log lines")
    md.add_argument("--trajectory", metavar="FILE", help="write frames (.traj, .xyz, ...)")
    md.add_argument("--log", metavar="FILE", help="write the log as CSV")
    md.add_argument("--seed", type=int, default=0)
    md.add_argument("--no-gate", action="store_true", help="kernels alone, wherever they lead")
    md.add_argument(
        "--on-gate",
        choices=("warn", "stop"),
        default="warn",
        help="where the model does not know: say so once and go on, or stop",
    )
    _add_common(md)
    md.set_defaults(run=_md)

    report = verbs.add_parser("report", help="errors, uncertainty, scans and gate as one HTML page")
    report.add_argument("model", metavar="MODEL")
    report.add_argument("data", nargs="+", metavar="DATA")
    report.add_argument("-o", "--output", required=True, metavar="FILE.html", help="file to write")
    _add_keys(report)
    _add_common(report)
    report.set_defaults(run=_report)

    search = verbs.add_parser("search", help="better kernels from training data, for fit --config")
    search.add_argument("train", nargs="+", help="structure files or patterns (.xyz, .gz, ...)")
    search.add_argument("-o", "--output", required=True, metavar="FILE.toml", help="file to write")
    search.add_argument("--budget", default="20", help="candidates, or a time such as 30min")
    search.add_argument("--parameters", nargs="+", metavar="NAME", help="what to search")
    search.add_argument("--n-sparse", type=int, help="sparse points per term while searching")
    search.add_argument("--checkpoint", metavar="FILE.json", help="continue from, and write to")
    search.add_argument("--seed", type=int, default=0)
    _add_keys(search)
    _add_common(search)
    search.set_defaults(run=_search)

    info = verbs.add_parser("info", help="what a model is and how it was fitted")
    info.add_argument("model", metavar="MODEL")
    info.add_argument("--json", metavar="FILE", help="machine-readable, - for standard output")
    info.set_defaults(run=_info)
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", metavar="FILE", help="machine-readable, - for standard output")
    parser.add_argument("--threads", type=int, metavar="N", help="default: all free cores")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def _add_keys(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("names of the labels")
    for kind in ("energy", "forces", "virial", "stress", "config-type"):
        group.add_argument(f"--{kind}-key", metavar="KEY")


class _Bars:
    """Progress bars on standard error: one as long as the whole is the same."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self._bar: Any = None

    def __call__(self, stage: str, done: float, total: float) -> None:
        if self.quiet or not sys.stderr.isatty():
            return
        from tqdm import tqdm

        if self._bar is not None and (done < self._bar.n or total != self._bar.total):
            self.close()
        if self._bar is None:
            # counts mean nothing to the user where they are weighted by cost
            shown = "{l_bar}{bar}| {elapsed} passed, {remaining} left"
            self._bar = tqdm(total=total, desc=stage, leave=False, bar_format=shown)
        self._bar.set_description(stage, refresh=False)
        self._bar.n = done
        self._bar.refresh()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _out(arguments: argparse.Namespace) -> TextIO:
    """Text goes to standard error where standard output carries JSON."""
    return sys.stderr if arguments.json == "-" else sys.stdout


def _write_json(arguments: argparse.Namespace, content: Mapping[str, Any]) -> None:
    if arguments.json is None:
        return
    text = json.dumps(content, indent=2)
    if arguments.json == "-":
        print(text)
    else:
        with open(arguments.json, "w", encoding="utf-8") as stream:
            stream.write(text + "\n")


def _peak_memory_bytes() -> int:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _keys(arguments: argparse.Namespace, config: Mapping[str, Any] | None = None) -> Any:
    from kernelpot.dataset import LabelKeys

    chosen = dict(config or {})
    for kind in ("energy", "forces", "virial", "stress", "config_type"):
        value = getattr(arguments, f"{kind}_key")
        if value is not None:
            chosen[kind] = value
    try:
        return LabelKeys(**chosen)
    except TypeError as error:
        raise ValueError(f"[keys]: {error}") from error


def read_config(path: str) -> dict[str, Any]:
    """Read a TOML file of `KernelPotential` parameters.

    Tables ``[[terms]]`` hold the fields of `SOAPTerm`, ``[keys]`` those of
    `LabelKeys`; everything else is a parameter of `KernelPotential` (or ``memory``,
    ``n_threads``, ``optimize`` of `fit`).

    Raises
    ------
    ValueError
        If the file is not TOML or names something that does not exist.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    import inspect

    from kernelpot.potential import KernelPotential
    from kernelpot.terms import SOAPTerm

    try:
        with open(path, "rb") as stream:
            config = tomllib.load(stream)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from error
    known = set(inspect.signature(KernelPotential.__init__).parameters) - {
        "self", "baseline", "sparse_points",
    }  # fmt: skip
    unknown = set(config) - known - set(_FIT_OPTIONS) - {"keys"}
    if unknown:
        raise ValueError(
            f"{path}: unknown {', '.join(sorted(unknown))}; known are "
            f"{', '.join(sorted(known | {'keys', *_FIT_OPTIONS}))}"
        )
    if "terms" in config:
        try:
            config["terms"] = [SOAPTerm(**term) for term in config["terms"]]
        except TypeError as error:
            raise ValueError(f"{path}: [[terms]]: {error}") from error
    return config


def _check_writable(path: str) -> None:
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise ValueError(f"cannot write {path}: there is no directory {folder}")
    if os.path.isdir(path):
        raise ValueError(f"cannot write {path}: it is a directory")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"cannot write {path}: no permission in {folder}")


def _fit(arguments: argparse.Namespace) -> None:
    from kernelpot.dataset import read_dataset
    from kernelpot.potential import KernelPotential

    started = time.perf_counter()
    _check_writable(arguments.output)
    config = read_config(arguments.config) if arguments.config else {}
    keys = _keys(arguments, config.pop("keys", None))
    for name in (
        "preset",
        "n_sparse",
        "sigma_energy",
        "sigma_forces",
        "sigma_stress",
        "e0",
        "seed",
    ):
        value = getattr(arguments, name)
        if value is not None:
            config[name] = value
    options = {name: config.pop(name) for name in _FIT_OPTIONS if name in config}
    if arguments.optimize is not None:
        options["optimize"] = arguments.optimize
    if options.get("optimize") == "none":
        options["optimize"] = None
    if arguments.memory is not None:
        options["memory"] = arguments.memory
    if arguments.threads is not None:
        options["n_threads"] = arguments.threads
    if arguments.checkpoint is not None:
        options["checkpoint"] = arguments.checkpoint
    arguments.checkpoint = options.get("checkpoint")  # for the message after an interruption
    if arguments.checkpoint is not None:
        _check_writable(arguments.checkpoint)
    out = _out(arguments)
    _print_log(out)
    data = read_dataset(arguments.train, keys=keys)
    print(f"read {data}", file=out, flush=True)
    bars = _Bars(arguments.quiet)
    try:
        potential = KernelPotential(**config).fit(data, progress=bars, **options)
    finally:
        bars.close()
    potential.save(arguments.output)
    model = potential.describe()
    wall, memory = time.perf_counter() - started, _peak_memory_bytes()
    print(potential.summary(), file=out)
    print(
        f"\nwrote {arguments.output} in {wall:.1f} s, peak memory {memory / 1e9:.2f} GB",
        file=out,
    )
    _write_json(
        arguments,
        {
            "model": arguments.output,
            "n_structures": model["training"]["n_structures"],
            "n_atoms": model["training"]["n_atoms"],
            "n_rows": model["training"]["n_rows"],
            "n_sparse": {str(t): term["n_sparse"] for t, term in enumerate(model["terms"])},
            "wall_seconds": wall,
            "peak_memory_bytes": memory,
            "hyperparameters": {
                key: model[key]
                for key in (
                    "terms", "sigma_energy", "sigma_forces", "sigma_stress",
                    "config_type_sigma", "e0", "e0_origin", "baseline",
                )
            },
            "training": model["training"],
        },
    )  # fmt: skip


def _print_log(out: TextIO) -> None:
    """Print what the library has to say before long work starts."""
    import logging

    log = logging.getLogger("kernelpot")
    log.setLevel(logging.INFO)
    log.handlers = [logging.StreamHandler(out)]


def _update(arguments: argparse.Namespace) -> None:
    from kernelpot.dataset import read_dataset
    from kernelpot.potential import load

    started = time.perf_counter()
    _check_writable(arguments.output)
    keys, out = _keys(arguments), _out(arguments)
    potential = load(arguments.model)
    new = read_dataset(arguments.new, keys=keys)
    print(f"read {new}", file=out, flush=True)
    data = None if arguments.data is None else read_dataset(arguments.data, keys=keys)
    bars = _Bars(arguments.quiet)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*an update leaves in place")  # in the summary
        try:
            potential.update(
                new,
                add_sparse=arguments.add_sparse,
                data=data,
                n_threads=arguments.threads,
                progress=bars,
            )
        finally:
            bars.close()
    potential.save(arguments.output)
    wall, memory = time.perf_counter() - started, _peak_memory_bytes()
    print(potential.summary(), file=out)
    print(
        f"\nwrote {arguments.output} in {wall:.1f} s, peak memory {memory / 1e9:.2f} GB",
        file=out,
    )
    model = potential.describe()
    _write_json(
        arguments,
        {
            "model": arguments.output,
            "n_sparse": {str(t): term["n_sparse"] for t, term in enumerate(model["terms"])},
            "wall_seconds": wall,
            "peak_memory_bytes": memory,
            "training": model["training"],
        },
    )


def _quickstart(arguments: argparse.Namespace) -> None:
    from kernelpot.quickstart import quickstart

    started = time.perf_counter()
    _check_writable(os.path.join(arguments.folder, "silicon.kpot"))
    out = _out(arguments)
    bars = _Bars(arguments.quiet)

    def say(line: str) -> None:
        bars.close()
        print(line, file=out, flush=True)

    result = quickstart(arguments.folder, say=say, progress=bars, n_threads=arguments.threads)
    wall, memory = time.perf_counter() - started, _peak_memory_bytes()
    print(f"{wall:.0f} s in all, peak memory {memory / 1e9:.2f} GB", file=out)
    _write_json(arguments, {**result, "wall_seconds": wall, "peak_memory_bytes": memory})


def _check(arguments: argparse.Namespace) -> None:
    from kernelpot.dataset import read_dataset

    potential = None
    if arguments.model is not None:
        from kernelpot.potential import load

        potential = load(arguments.model)
    data = read_dataset(arguments.data, keys=_keys(arguments))
    report = data.check()
    print(report, file=_out(arguments))
    content = report.to_dict()
    if potential is not None:
        bars = _Bars(arguments.quiet)
        try:
            found = potential.suspicious(data, n_threads=arguments.threads, progress=bars)
        finally:
            bars.close()
        print(f"\n{found}", file=_out(arguments))
        content = {**content, "suspects": found.to_dict()}
    _write_json(arguments, content)


def _evaluate(arguments: argparse.Namespace) -> None:
    from kernelpot.dataset import read_dataset
    from kernelpot.metrics import evaluate
    from kernelpot.potential import load
    from kernelpot.report import error_table, uncertainty_table

    started = time.perf_counter()
    potential = load(arguments.model)
    data = read_dataset(arguments.data, keys=_keys(arguments))
    bars = _Bars(arguments.quiet)
    try:
        errors = evaluate(
            potential,
            data,
            gate=arguments.gated,
            uncertainty=arguments.uncertainty,
            n_threads=arguments.threads,
            progress=bars,
        )
    finally:
        bars.close()
    wall, memory = time.perf_counter() - started, _peak_memory_bytes()
    out = _out(arguments)
    print(error_table(errors), file=out)
    if arguments.uncertainty:
        print(f"\n{uncertainty_table(errors)}", file=out)
    print(
        f"\n{errors['n_structures']} structures, {errors['n_atoms']} atoms in {wall:.1f} s, "
        f"peak memory {memory / 1e9:.2f} GB",
        file=out,
    )
    _write_json(
        arguments,
        {
            "model": arguments.model,
            "data": arguments.data,
            **errors,
            "wall_seconds": wall,
            "peak_memory_bytes": memory,
        },
    )


def _md(arguments: argparse.Namespace) -> None:
    from kernelpot.dataset import read_structures
    from kernelpot.dynamics import COLUMNS, run_dynamics
    from kernelpot.gate import VarianceGate
    from kernelpot.potential import load
    from kernelpot.report import table

    for path in (arguments.trajectory, arguments.log):
        if path is not None:
            _check_writable(path)
    potential = load(arguments.model)
    atoms, _ = read_structures(arguments.structure)[0]
    if any(n < 1 for n in arguments.supercell):
        raise ValueError(f"--supercell must be positive, got {list(arguments.supercell)}")
    if tuple(arguments.supercell) != (1, 1, 1):
        if not atoms.pbc.all():
            raise ValueError("--supercell needs a structure periodic in three directions")
        atoms = atoms.repeat(arguments.supercell)
    out = _out(arguments)
    gate = None if arguments.no_gate else VarianceGate(on_gate=arguments.on_gate)
    print(
        f"{len(atoms)} atoms, {arguments.ensemble} at {arguments.temperature:g} K, "
        f"{arguments.steps} steps of {arguments.timestep:g} fs",
        file=out,
        flush=True,
    )
    bars = _Bars(arguments.quiet)
    try:
        result = run_dynamics(
            atoms,
            potential.calculator(gate=gate, n_threads=arguments.threads),
            ensemble=arguments.ensemble,
            temperature=arguments.temperature,
            pressure=arguments.pressure,
            timestep=arguments.timestep,
            steps=arguments.steps,
            interval=arguments.interval,
            trajectory=arguments.trajectory,
            seed=arguments.seed,
            progress=bars,
        )
    finally:
        bars.close()
    if arguments.log is not None:
        with open(arguments.log, "w", encoding="utf-8") as stream:
            stream.write(",".join(COLUMNS) + "\n")
            for row in result.rows:
                stream.write(",".join(f"{value:.9g}" for value in row) + "\n")
    shown = result.rows[:: max(1, len(result.rows) // 20)]
    header = ["time [ps]", "E total [eV/atom]", "E pot [eV/atom]", "T [K]", "max std [eV]", "gated"]
    print(
        table(
            header,
            [
                [
                    f"{r[0]:.3f}",
                    f"{r[1]:.6f}",
                    f"{r[2]:.6f}",
                    f"{r[4]:.0f}",
                    f"{r[5]:.4f}",
                    f"{r[8]:.0f}",
                ]
                for r in shown
            ],
        ),
        file=out,
    )
    summary = result.summary()
    memory = _peak_memory_bytes()
    drift = summary["drift_ev_per_atom"]
    if drift is not None:
        print(
            f"\ndrift of the total energy {drift:.2e} eV/atom in {summary['time_ps']:.3g} ps",
            file=out,
        )
    print(
        f"\nmean temperature {summary['mean_temperature_k']:.0f} K; "
        f"{summary['us_per_atom_step']:.1f} us per atom and "
        f"step; largest local std {summary['max_energies_std']:.4f} eV; peak memory "
        f"{memory / 1e9:.2f} GB",
        file=out,
    )
    _write_json(arguments, {**summary, "peak_memory_bytes": memory})


def _report(arguments: argparse.Namespace) -> None:
    from kernelpot.dataset import read_dataset
    from kernelpot.html_report import write_report
    from kernelpot.potential import load
    from kernelpot.report import error_table

    _check_writable(arguments.output)
    potential = load(arguments.model)
    data = read_dataset(arguments.data, keys=_keys(arguments))
    bars = _Bars(arguments.quiet)
    try:
        found = write_report(
            potential,
            data,
            arguments.output,
            title=f"{os.path.basename(arguments.model)} on {', '.join(arguments.data)}",
            n_threads=arguments.threads,
            progress=bars,
        )
    finally:
        bars.close()
    out = _out(arguments)
    print(error_table(found["errors"]), file=out)
    gated = found["gated"]
    print(
        f"\n{gated['n_atoms']} gated atoms in {gated['n_structures']} structures; "
        f"{len(found['suspects'])} suspicious structures\nwrote {arguments.output}",
        file=out,
    )
    _write_json(
        arguments,
        {
            "model": arguments.model,
            "data": arguments.data,
            "report": arguments.output,
            **found,
        },
    )


def _search(arguments: argparse.Namespace) -> None:
    from kernelpot.hypersearch import N_SPARSE, search

    _check_writable(arguments.output)
    bars = _Bars(arguments.quiet)
    try:
        found = search(
            arguments.train,
            budget=arguments.budget,
            parameters=arguments.parameters,
            n_sparse=N_SPARSE if arguments.n_sparse is None else arguments.n_sparse,
            keys=_keys(arguments),
            seed=arguments.seed,
            checkpoint=arguments.checkpoint,
            refit=False,
            n_threads=arguments.threads,
            progress=bars,
        )
    finally:
        bars.close()
    text = "".join(_toml_term(term) for term in found.best_params_["terms"] or ())
    write_text(arguments.output, f"# written by kernelpot search\n{text}")
    out = _out(arguments)
    print(found.summary(), file=out)
    print(f"\nwrote {arguments.output}: use it with kernelpot fit --config", file=out)
    _write_json(
        arguments,
        {
            "config": arguments.output,
            "best_index": found.best_index_,
            "best_score": found.best_score_,
            "results": found.results_,
        },
    )


def _toml_term(term: SOAPTerm) -> str:
    """A ``[[terms]]`` table; numbers, strings and arrays of JSON are those of TOML."""
    lines = ["", "[[terms]]"]
    for name, value in term.to_dict().items():
        if isinstance(value, Mapping):
            inner = ", ".join(f"{json.dumps(k)} = {json.dumps(v)}" for k, v in value.items())
            lines.append(f"{name} = {{ {inner} }}")
        elif value is not None:
            lines.append(f"{name} = {json.dumps(value)}")
    return "\n".join(lines) + "\n"


def _info(arguments: argparse.Namespace) -> None:
    from kernelpot.potential import load

    potential = load(arguments.model)
    print(potential.summary(), file=_out(arguments))
    _write_json(arguments, potential.describe())


if __name__ == "__main__":
    sys.exit(main())
