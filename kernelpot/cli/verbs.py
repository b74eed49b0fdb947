"""The ``kernelpot`` command: quickstart, check, fit, update, search, evaluate, report, md, ...

Every verb is a few lines over the Python interface. Wrong input ends with one
sentence on standard error, exit status 2, and nothing written; so does dynamics that stops
being physical, but for what there is of it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from kernelpot.cli.arguments import build_parser, refuse_misspelt
from kernelpot.cli.console import (
    FIT_OPTIONS,
    Bars,
    check_writable,
    config_of,
    label_keys,
    peak_memory_bytes,
    read_config,
    refuse_overwriting,
    text_stream,
    write_json,
)
from kernelpot.cli.dynamics import bounds_of, dynamics_text, start_structure, write_log
from kernelpot.common.files import read_text, write_text

if TYPE_CHECKING:
    from kernelpot.data.dataset import Dataset, LabelKeys


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = build_parser()
    refuse_misspelt(parser, sys.argv[1:] if argv is None else argv)
    arguments = parser.parse_args(argv)
    try:
        if arguments.json not in (None, "-"):
            check_writable(arguments.json)
        refuse_overwriting(arguments)
        _VERBS[arguments.verb](arguments)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, TypeError, OSError, ImportError, ArithmeticError, RuntimeError) as error:
        print(f"kernelpot: {_sentence(error)}", file=sys.stderr)
        return 2
    except MemoryError as error:
        print(f"kernelpot: out of memory; fit has --memory: {_sentence(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"kernelpot: interrupted{_how_to_resume(arguments)}", file=sys.stderr)
        return 130
    return 0


def _sentence(error: BaseException) -> str:
    """What went wrong, on one line; of errors of the system without their number."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror and error.filename:
        text = f"{error.filename}: {error.strerror[0].lower()}{error.strerror[1:]}"
    return " ".join(text.split()) or type(error).__name__


def _how_to_resume(arguments: argparse.Namespace) -> str:
    path = getattr(arguments, "checkpoint", None)
    if path is None:
        return ""
    if os.path.exists(path):
        return f"; the same command continues from {path}"
    return f" before the first state was written to {path}"


def _fit(arguments: argparse.Namespace) -> None:
    from kernelpot.data.label_names import unread_labels
    from kernelpot.fit.sufficiency import FewDataWarning
    from kernelpot.potential import KernelPotential

    started = time.perf_counter()
    check_writable(arguments.output)
    parameters, options, keys = _fit_parameters(arguments)
    if arguments.checkpoint is not None:
        check_writable(arguments.checkpoint)
    out = text_stream(arguments)
    data = _read(arguments.train, keys, out)
    print(f"read {data}", file=out, flush=True)
    with warnings.catch_warnings(), _printed_log(out), Bars(arguments.quiet) as bars:
        warnings.simplefilter("ignore", FewDataWarning)  # in the summary
        potential = KernelPotential(**parameters).fit(
            data, progress=bars, self_test=not arguments.no_self_test, **options
        )
    potential.save(arguments.output, author=arguments.author, licence=arguments.licence)
    model = potential.describe()
    wall, memory = time.perf_counter() - started, peak_memory_bytes()
    print(potential.summary(), file=out)
    print(
        f"\nwrote {arguments.output} in {wall:.1f} s, peak memory {memory / 1e9:.2f} GB",
        file=out,
    )
    write_json(
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
            "self_test": model["self_test"],
            "unread_labels": unread_labels(data),
        },
    )  # fmt: skip


def _fit_parameters(
    arguments: argparse.Namespace,
) -> tuple[dict[str, Any], dict[str, Any], LabelKeys | None]:
    """Parameters of `KernelPotential`, options of its fit, and names of the labels.

    Those of the command line go before those of the configuration file; a checkpoint of
    the latter is put into `arguments`, for the message after an interruption.
    """
    parameters = read_config(arguments.config) if arguments.config else {}
    keys = label_keys(arguments, parameters.pop("keys", None))
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
            parameters[name] = value
    options = {name: parameters.pop(name) for name in FIT_OPTIONS if name in parameters}
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
    arguments.checkpoint = options.get("checkpoint")
    return parameters, options, keys


@contextmanager
def _printed_log(out: TextIO) -> Iterator[None]:
    """Print what the library says before long work; callers of `main` keep their own handlers."""
    import logging

    log = logging.getLogger("kernelpot")
    level, handlers = log.level, log.handlers
    log.setLevel(logging.INFO)
    log.handlers = [logging.StreamHandler(out)]  # which flushes after each line
    try:
        yield
    finally:
        log.setLevel(level)
        log.handlers = handlers


def _update(arguments: argparse.Namespace) -> None:
    from kernelpot.data.label_names import unread_labels
    from kernelpot.potential import load

    started = time.perf_counter()
    check_writable(arguments.output)
    keys, out = label_keys(arguments), text_stream(arguments)
    potential = load(arguments.model)
    new = _read(arguments.new, keys, out)
    print(f"read {new}", file=out, flush=True)
    data = None if arguments.data is None else _read(arguments.data, keys, out)
    with warnings.catch_warnings(), Bars(arguments.quiet) as bars:
        warnings.filterwarnings("ignore", message=".*an update leaves in place")  # in the summary
        potential.update(
            new,
            add_sparse=arguments.add_sparse,
            data=data,
            n_threads=arguments.threads,
            progress=bars,
        )
    potential.save(arguments.output)
    wall, memory = time.perf_counter() - started, peak_memory_bytes()
    print(potential.summary(), file=out)
    print(
        f"\nwrote {arguments.output} in {wall:.1f} s, peak memory {memory / 1e9:.2f} GB",
        file=out,
    )
    model = potential.describe()
    write_json(
        arguments,
        {
            "model": arguments.output,
            "n_sparse": {str(t): term["n_sparse"] for t, term in enumerate(model["terms"])},
            "wall_seconds": wall,
            "peak_memory_bytes": memory,
            "training": model["training"],
            "unread_labels": unread_labels(new),
        },
    )


def _quickstart(arguments: argparse.Namespace) -> None:
    from kernelpot.cli.quickstart import quickstart

    started = time.perf_counter()
    check_writable(os.path.join(arguments.folder, "silicon.kpot"))
    out = text_stream(arguments)
    bars = Bars(arguments.quiet)

    def say(line: str) -> None:
        bars.close()
        print(line, file=out, flush=True)

    result = quickstart(arguments.folder, say=say, progress=bars, n_threads=arguments.threads)
    wall, memory = time.perf_counter() - started, peak_memory_bytes()
    print(f"{wall:.0f} s in all, peak memory {memory / 1e9:.2f} GB", file=out)
    write_json(arguments, {**result, "wall_seconds": wall, "peak_memory_bytes": memory})


def _check(arguments: argparse.Namespace) -> None:
    from kernelpot.data.label_names import LostLabelsWarning
    from kernelpot.data.reading import read_dataset

    potential = None
    if arguments.model is not None:
        from kernelpot.potential import load

        potential = load(arguments.model)
    out = text_stream(arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LostLabelsWarning)  # in the report
        data = read_dataset(arguments.data, keys=label_keys(arguments))
    report = data.check()
    print(report, file=out)
    content = report.to_dict()
    if potential is not None:
        with Bars(arguments.quiet) as bars:
            found = potential.suspicious(data, n_threads=arguments.threads, progress=bars)
        print(f"\n{found}", file=out)
        content = {**content, "suspects": found.to_dict()}
    write_json(arguments, content)


def _evaluate(arguments: argparse.Namespace) -> None:
    from kernelpot.cli.predictions import Predictions
    from kernelpot.data.label_names import unread_labels
    from kernelpot.model.errors import evaluate
    from kernelpot.model.summary import error_table, uncertainty_table
    from kernelpot.potential import load

    started = time.perf_counter()
    if arguments.output is not None:
        check_writable(arguments.output)
    potential = load(arguments.model)
    data = _read(arguments.data, label_keys(arguments), text_stream(arguments))
    found = Predictions(arguments.output, potential.model.reference.array_names)
    with Bars(arguments.quiet) as bars:
        errors = evaluate(
            potential,
            data,
            gate=arguments.gated,
            uncertainty=arguments.uncertainty,
            n_threads=arguments.threads,
            progress=bars,
            each=found,
            local_std=arguments.output is not None,
        )
        tested = None
        if arguments.self_test:
            tested = potential.test_itself(data, n_threads=arguments.threads, progress=bars)
    wall, memory = time.perf_counter() - started, peak_memory_bytes()
    out = text_stream(arguments)
    print(error_table(errors), file=out)
    print(f"\n{found.text()}", file=out)
    if arguments.output is not None:
        print(f"\nwrote {arguments.output}", file=out)
    if tested is not None:
        print("\n" + "\n".join(tested.lines()), file=out)
    if arguments.uncertainty:
        print(f"\n{uncertainty_table(errors)}", file=out)
        print(
            f"{errors['n_outside']} of {errors['n_structures']} structures have atoms outside the "
            "data: their standard deviations are extrapolations",
            file=out,
        )
    print(
        f"\n{errors['n_structures']} structures, {errors['n_atoms']} atoms in {wall:.1f} s, "
        f"peak memory {memory / 1e9:.2f} GB",
        file=out,
    )
    write_json(
        arguments,
        {
            "model": arguments.model,
            "data": arguments.data,
            **errors,
            "self_test": None if tested is None else tested.to_dict(),
            "unread_labels": unread_labels(data),
            "worst": found.worst(),
            "output": arguments.output,
            "wall_seconds": wall,
            "peak_memory_bytes": memory,
        },
    )


def _md(arguments: argparse.Namespace) -> None:
    from kernelpot.md.dynamics import UnphysicalDynamicsError, run_dynamics
    from kernelpot.md.vibration import TimestepWarning
    from kernelpot.model.self_test import UnsafePotentialWarning
    from kernelpot.potential import load
    from kernelpot.safety.gate import GateWarning, VarianceGate

    for path in (arguments.trajectory, arguments.log):
        if path is not None:
            check_writable(path)
    potential = load(arguments.model)
    atoms = start_structure(arguments)
    out = text_stream(arguments)
    gate = None if arguments.no_gate else VarianceGate(on_gate=arguments.on_gate)
    bounds = bounds_of(arguments)
    print(
        f"{len(atoms)} atoms, {arguments.ensemble} at {arguments.temperature:g} K, "
        f"{arguments.steps} steps of {arguments.timestep:g} fs",
        file=out,
        flush=True,
    )
    stopped = None
    try:
        said = (TimestepWarning, GateWarning, UnsafePotentialWarning)
        with Bars(arguments.quiet) as bars, _printed_warnings(out, *said):
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
                bounds=bounds,
                check_timestep=not arguments.no_timestep_check,
                progress=bars,
            )
    except UnphysicalDynamicsError as error:
        result, stopped = error.dynamics, error
    if arguments.log is not None:
        write_log(arguments.log, result)
    memory = peak_memory_bytes()
    print(dynamics_text(result, memory), file=out)
    content = {**result.summary(), "stopped": None if stopped is None else str(stopped)}
    write_json(arguments, {**content, "peak_memory_bytes": memory})
    if stopped is not None:
        raise stopped


def _lammps(arguments: argparse.Namespace) -> None:
    from kernelpot.md.lammps.run import run_input

    if not read_text(arguments.input, "LAMMPS input").strip():
        raise ValueError(f"the LAMMPS input {arguments.input!r} is empty")
    found = run_input(
        arguments.input,
        log=arguments.log,
        screen=not (arguments.quiet or arguments.json == "-"),
        variables={name: values for name, *values in arguments.var or ()},
    )
    if not found.pop("first"):
        return
    if not arguments.quiet:
        print(_lammps_text(found), file=text_stream(arguments))
    write_json(arguments, found)


def _lammps_text(found: Mapping[str, Any]) -> str:
    """What kernelpot did in a run of LAMMPS, in a line."""
    most = found["most_beyond"]
    beyond = "no atom was beyond the training data"
    if most["atoms"]:
        beyond = f"up to {most['atoms']} atoms (step {most['step']}) were beyond the training data"
    return (
        f"kernelpot: {found['n_atoms']} atoms on {found['processes']} processes, "
        f"{found['evaluations']} evaluations, {found['lists']} lists of neighbors; {beyond}"
    )


def _read(paths: Sequence[str], keys: LabelKeys | None, out: TextIO) -> Dataset:
    """Read labelled structures, and say which labels were found and not read."""
    from kernelpot.data.label_names import LostLabelsWarning, choices, unread_labels
    from kernelpot.data.reading import read_dataset

    with _printed_warnings(out, LostLabelsWarning):
        data = read_dataset(paths, keys=keys)
    for sentence in choices(unread_labels(data)):
        print(sentence, file=out, flush=True)
    return data


@contextmanager
def _printed_warnings(out: TextIO, *categories: type[Warning]) -> Iterator[None]:
    """Print warnings of some categories at once, as sentences without a line of code."""
    with warnings.catch_warnings():
        for category in categories:
            warnings.simplefilter("always", category)
        show = warnings.showwarning

        def print_or_show(message: Warning | str, kind: type[Warning], *where: Any) -> None:
            if issubclass(kind, categories):
                print(f"warning: {message}", file=out, flush=True)
            else:
                show(message, kind, *where)

        warnings.showwarning = print_or_show  # type: ignore[assignment]
        yield


def _report(arguments: argparse.Namespace) -> None:
    from kernelpot.data.label_names import unread_labels
    from kernelpot.model.summary import error_table
    from kernelpot.potential import load
    from kernelpot.report.html import write_report

    for path in (arguments.output, arguments.chemiscope):
        if path is not None:
            check_writable(path)
    potential = load(arguments.model)
    data = _read(arguments.data, label_keys(arguments), text_stream(arguments))
    with Bars(arguments.quiet) as bars:
        found = write_report(
            potential,
            data,
            arguments.output,
            title=f"{os.path.basename(arguments.model)} on {', '.join(arguments.data)}",
            chemiscope=arguments.chemiscope,
            n_threads=arguments.threads,
            progress=bars,
        )
    out = text_stream(arguments)
    print(error_table(found["errors"]), file=out)
    gated = found["gated"]
    print(
        f"\n{gated['n_atoms']} atoms beyond the data in {gated['n_structures']} structures; "
        f"{len(found['suspects'])} suspicious structures\nwrote {arguments.output}",
        file=out,
    )
    write_json(
        arguments,
        {
            "model": arguments.model,
            "data": arguments.data,
            "report": arguments.output,
            "unread_labels": unread_labels(data),
            **found,
        },
    )


def _search(arguments: argparse.Namespace) -> None:
    from kernelpot.hypersearch.candidates import N_SPARSE
    from kernelpot.hypersearch.search import search

    for path in (arguments.output, arguments.checkpoint):
        if path is not None:
            check_writable(path)
    out = text_stream(arguments)
    with _printed_log(out), Bars(arguments.quiet) as bars:
        found = search(
            _read(arguments.train, label_keys(arguments), out),
            budget=arguments.budget,
            parameters=arguments.parameters,
            n_sparse=N_SPARSE if arguments.n_sparse is None else arguments.n_sparse,
            seed=arguments.seed,
            checkpoint=arguments.checkpoint,
            refit=False,
            n_threads=arguments.threads,
            progress=bars,
        )
    text = config_of(found.best_params_["terms"] or ())
    write_text(arguments.output, f"# written by kernelpot search\n{text}")
    print(found.summary(), file=out)
    print(f"\nwrote {arguments.output}: use it with kernelpot fit --config", file=out)
    write_json(
        arguments,
        {
            "config": arguments.output,
            "best_index": found.best_index_,
            "best_score": found.best_score_,
            "results": found.results_,
        },
    )


def _export(arguments: argparse.Namespace) -> None:
    from kernelpot.potential import load

    check_writable(arguments.output)
    potential = load(arguments.model)
    onto = os.path.exists(arguments.output) and os.path.samefile(arguments.model, arguments.output)
    if onto and arguments.slim and not potential.model.is_slim:
        raise ValueError(
            f"{arguments.output} is the whole model, which no slim one can be turned back into: "
            "name another file"
        )
    potential.save(
        arguments.output,
        slim=arguments.slim,
        author=arguments.author,
        licence=arguments.licence,
    )
    before, after = (os.path.getsize(path) for path in (arguments.model, arguments.output))
    print(
        f"wrote {arguments.output}: {after / 1e6:.1f} MB, where {arguments.model} has "
        f"{before / 1e6:.1f} MB",
        file=text_stream(arguments),
    )
    write_json(
        arguments,
        {"model": arguments.output, "slim": potential.model.is_slim or arguments.slim,
         "bytes": after, "bytes_before": before},
    )  # fmt: skip


def _import_gap(arguments: argparse.Namespace) -> None:
    from kernelpot.cli.from_gap import translate
    from kernelpot.cli.gap_command import parse_gap_command
    from kernelpot.data.dataset import LabelKeys
    from kernelpot.data.reading import read_dataset

    if arguments.output is not None:
        check_writable(arguments.output)
    text = " ".join(arguments.command)
    if text == "-":
        text = sys.stdin.read()
    elif len(arguments.command) == 1 and os.path.isfile(text):
        text = read_text(text, "gap_fit command")
    elif "=" not in text:
        why = "is a directory" if os.path.isdir(text) else "is no file that is there"
        raise ValueError(f"{text!r} {why}, and no gap_fit command either")
    command = parse_gap_command(text)
    paths = arguments.data
    if paths is None:
        named = command.options.get("at_file", command.options.get("atoms_filename", ""))
        paths = [named] if os.path.isfile(named) else None
    data = None
    if paths is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of labels: the fit reads them, and says more
            keys = LabelKeys(**translate(command).to_dict().get("keys", {}))
            try:
                data = read_dataset(paths, keys=keys)
            except ValueError:  # names that the data do not have: the fit says so
                data = read_dataset(paths)
    found = translate(command, data)
    if arguments.output is not None:
        write_text(arguments.output, found.to_toml())
        print(
            f"wrote {arguments.output}: {len(found.terms)} terms; {len(found.left)} options have "
            "no line of their own and are named in its comments",
            file=text_stream(arguments),
        )
    elif arguments.json != "-":
        print(found.to_toml(), end="")
    write_json(arguments, found.to_dict())


def _info(arguments: argparse.Namespace) -> None:
    from kernelpot.potential import load

    potential = load(arguments.model)
    print(potential.summary(), file=text_stream(arguments))
    write_json(arguments, potential.describe())


_VERBS = {
    "quickstart": _quickstart,
    "fit": _fit,
    "update": _update,
    "check": _check,
    "evaluate": _evaluate,
    "md": _md,
    "lammps": _lammps,
    "report": _report,
    "search": _search,
    "import-gap": _import_gap,
    "info": _info,
    "export": _export,
}
