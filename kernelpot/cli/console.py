"""What the verbs of the command line share: progress, output, configuration files."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TextIO

from kernelpot.common.files import read_text
from kernelpot.common.progress import ProgressBar

if TYPE_CHECKING:
    from kernelpot.terms.base import Term

# Fields of the configuration file that go to `fit`, not to the constructor.
FIT_OPTIONS = ("memory", "n_threads", "checkpoint", "optimize")


class Bars(ProgressBar):
    """Progress bars of a verb: none with ``--quiet``."""

    def __init__(self, quiet: bool) -> None:
        super().__init__()
        self.quiet = quiet

    def __call__(self, stage: str, done: float, total: float) -> None:
        """Show that `done` of `total` is done."""
        if not self.quiet:
            super().__call__(stage, done, total)


def text_stream(arguments: argparse.Namespace) -> TextIO:
    """Text goes to standard error where standard output carries JSON."""
    return sys.stderr if arguments.json == "-" else sys.stdout


def write_json(arguments: argparse.Namespace, content: Mapping[str, Any]) -> None:
    """Write what a verb found, where ``--json`` says."""
    if arguments.json is None:
        return
    text = json.dumps(content, indent=2)
    if arguments.json == "-":
        print(text)
    else:
        with open(arguments.json, "w", encoding="utf-8") as stream:
            stream.write(text + "\n")


def peak_memory_bytes() -> int:
    """Largest resident memory of this process so far [bytes]."""
    try:
        import resource
    except ImportError:  # Windows, which is the system that tells psutil
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def label_keys(arguments: argparse.Namespace, config: Mapping[str, Any] | None = None) -> Any:
    """Names of the labels, from options over a configuration file."""
    from kernelpot.data.dataset import LabelKeys

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

    Tables ``[[terms]]`` hold the fields of a term and its ``kind``, ``[keys]`` those of
    `LabelKeys`; everything else is a parameter of `KernelPotential` (or ``memory``,
    ``n_threads``, ``optimize`` of `fit`).

    Raises
    ------
    ValueError
        If the file is not TOML or names something that does not exist.
    OSError
        If it cannot be read.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    import inspect

    from kernelpot.potential import KernelPotential
    from kernelpot.terms.kinds import term_from_dict

    text = read_text(path, "configuration file")
    try:
        config: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from error
    known = set(inspect.signature(KernelPotential.__init__).parameters) - {
        "self", "baseline", "sparse_points",
    }  # fmt: skip
    unknown = set(config) - known - set(FIT_OPTIONS) - {"keys"}
    if unknown:
        everything = sorted(known | {"keys", *FIT_OPTIONS})
        named = ", ".join(f"{name}{meant(name, everything)}" for name in sorted(unknown))
        raise ValueError(
            f"{path}: unknown {named}; known are "
            f"{', '.join(sorted(known | {'keys', *FIT_OPTIONS}))}"
        )
    if "terms" in config:
        if isinstance(config["terms"], dict):
            raise ValueError(
                f"{path}: there may be several terms: write [[terms]], in two brackets"
            )
        for number, term in enumerate(config["terms"]):
            try:
                config["terms"][number] = term_from_dict(term)
            except (TypeError, ValueError) as error:
                why = _misspelt(term) or error
                raise ValueError(f"{path}: [[terms]] number {number + 1}: {why}") from error
    if "charges" in config:
        try:
            config["charges"] = term_from_dict({"kind": "charges", **config["charges"]})
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: [charges]: {error}") from error
    return config


def _misspelt(term: Mapping[str, Any]) -> str | None:
    """What is wrong with the names in a table of a term, if anything is."""
    from kernelpot.terms.kinds import DEFAULT_KIND, TERMS

    kind = term.get("kind", DEFAULT_KIND)
    if kind not in TERMS:
        return None
    known = [f.name for f in fields(TERMS[kind])]
    wrong = [name for name in term if name != "kind" and name not in known]
    if not wrong:
        return None
    named = ", ".join(f"{name!r}{meant(name, known)}" for name in wrong)
    return f"a term of the kind {kind!r} has no parameter {named}; it has {', '.join(known)}"


def meant(name: str, known: Sequence[str]) -> str:
    """A question, where something close is known."""
    close = difflib.get_close_matches(name, known, 1)
    return f" (did you mean {close[0]}?)" if close else ""


def config_of(terms: Sequence[Term]) -> str:
    """TOML that `read_config` takes; it has no null, so what is None is left out."""
    import tomli_w

    def table(values: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in values.items():
            if isinstance(value, Mapping):
                found[name] = table(value)
            elif value is not None:
                found[name] = value.tolist() if hasattr(value, "tolist") else value
        return found

    tables = [table(term.to_dict()) for term in terms]
    return str(tomli_w.dumps({"terms": tables} if tables else {}))


def refuse_overwriting(arguments: argparse.Namespace) -> None:
    """Refuse to write a result over a file that the same command reads.

    A model may be written over by its own update or export.

    Raises
    ------
    ValueError
        If one of the files to write is one of those to read.
    """
    read = []
    for name in ("train", "data", "new", "structure", "input", "model", "config"):
        given = getattr(arguments, name, None)
        read += [(name, path) for path in ([given] if isinstance(given, str) else given or ())]
    for name in ("output", "json", "trajectory", "log", "chemiscope", "checkpoint"):
        path = getattr(arguments, name, None)
        if not isinstance(path, str) or not os.path.exists(path):
            continue
        for kind, source in read:
            own = kind == "model" and name == "output" and arguments.verb in ("update", "export")
            plain = source if os.path.exists(source) else source.rpartition("@")[0]
            if not own and os.path.exists(plain) and os.path.samefile(path, plain):
                raise ValueError(
                    f"{path} would be written over by --{name}, and is read: name another file"
                )


def check_writable(path: str) -> None:
    """Refuse a file whose folder does not exist, before any long work."""
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise ValueError(f"cannot write {path}: there is no directory {folder}")
    if os.path.isdir(path):
        raise ValueError(f"cannot write {path}: it is a directory")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"cannot write {path}: no permission in {folder}")
