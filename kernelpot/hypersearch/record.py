"""The record of a search: candidates that were fitted, in a file from which it goes on."""

from __future__ import annotations

import json
import os
from dataclasses import replace

from kernelpot._version import __version__
from kernelpot.common.files import write_text
from kernelpot.common.types import KINDS
from kernelpot.data.order import digest, frame_digest
from kernelpot.gp.labels import Noise
from kernelpot.hypersearch.candidates import Candidate, Judge, Terms
from kernelpot.hypersearch.space import Space

FORMAT = "kernelpot search"


class Record:
    """Candidates that were fitted, in a JSON file if one is named."""

    def __init__(self, path: str | os.PathLike[str] | None, identity: str) -> None:
        self._path = path
        self.identity_of = identity
        self._known: list[Candidate] = []

    def load(self, judge: Judge, start: Terms) -> None:
        """Read the file, if there is one.

        Raises
        ------
        ValueError
            If it belongs to another search or is damaged.
        """
        if self._path is None:
            return
        name = os.fspath(self._path)
        folder = os.path.dirname(os.path.abspath(name))
        if not os.path.isdir(folder):
            raise ValueError(f"cannot write {name}: there is no directory {folder}")
        if not os.path.exists(name):
            return
        try:
            with open(name, encoding="utf-8") as stream:
                content = json.load(stream)
            if content["format"] != FORMAT:
                raise ValueError("another format")
            identity, sigmas, stored = (content[k] for k in ("search", "sigmas", "candidates"))
            known = [
                Candidate(
                    tuple(t.changed(**s) for t, s in zip(start, c["terms"], strict=True)),
                    c["errors"],
                    c["n_sparse"],
                    c["seconds"],
                    c["failure"],
                )
                for c in stored
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{name} is not a checkpoint of a search, or is damaged: delete it, or name another"
            ) from error
        if identity != self.identity_of:
            raise ValueError(
                f"{name} is the checkpoint of a search in other data or with other parameters: "
                "repeat that search, delete the file, or name another"
            )
        self._known = known
        if sigmas is not None:
            judge.noise = replace(judge.problem.noise, **sigmas)

    def find(self, terms: Terms) -> Candidate | None:
        """Return the candidate of these terms, if it was fitted before."""
        return next((c for c in self._known if c.terms == terms), None)

    def add(self, candidate: Candidate, noise: Noise | None) -> None:
        """Remember a candidate, and write the file."""
        self._known.append(candidate)
        if self._path is None:
            return
        names = [f"sigma_{kind}" for kind in KINDS]
        content = {
            "format": FORMAT,
            "search": self.identity_of,
            "sigmas": None if noise is None else {name: getattr(noise, name) for name in names},
            "candidates": [known.stored() for known in self._known],
        }
        write_text(self._path, json.dumps(content, indent=1))


def identity_of(judge: Judge, space: Space) -> str:
    """SHA-256 of all that the scores of a search depend on: data, parameters, version."""
    problem = judge.problem
    return digest(
        __version__,
        [frame_digest(frame) for frame in problem.frames],
        problem.species,
        problem.noise,
        judge.seed,
        judge.chosen,
        space.to_dict(),
    )
