"""The state of an interrupted fit in one file, from which it continues."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from kernelpot._version import __version__
from kernelpot.common import archive
from kernelpot.common.types import Array
from kernelpot.data.order import digest, frame_digest
from kernelpot.fit import accumulation
from kernelpot.fit.accumulation import FactorTree
from kernelpot.fit.plan import Plan
from kernelpot.fit.problem import Problem
from kernelpot.fit.settings import Settings
from kernelpot.fit.state import State
from kernelpot.gp.design import Design
from kernelpot.regression.conjugate_gradients import Iteration
from kernelpot.regression.factors import GroupedFactor, TriangularFactor

FORMAT = "kernelpot checkpoint"
# Writing takes at most this share of the time of a fit.
_SHARE = 0.05


def fingerprint(problem: Problem, settings: Settings, plan: Plan, *options: object) -> str:
    """SHA-256 of all that a fit depends on: data, parameters, version."""
    batches = (
        plan.batch_bytes,
        plan.candidate_bytes,
        accumulation.BATCH_ATOMS,
        accumulation.ROWS_PER_COLUMN,
        accumulation.BRANCH,
    )
    return digest(
        __version__,
        [frame_digest(frame) for frame in problem.frames],
        batches,
        problem.species,
        problem.noise,
        problem.terms,
        settings.seed,
        settings.default_n_sparse,
        settings.sparse_points,
        options,
    )


_log = logging.getLogger("kernelpot")


@dataclasses.dataclass
class Checkpoint:
    """Where a fit writes its state, and how often.

    Parameters
    ----------
    path : path
    fingerprint : str
        Of the fit (`fingerprint`).
    interval : float
        Seconds between two states; longer where writing takes more than a twentieth of
        the time.
    """

    path: str | os.PathLike[str]
    fingerprint: str
    interval: float = 60.0
    _written: float = dataclasses.field(default=-np.inf, repr=False)
    _cost: float = dataclasses.field(default=0.0, repr=False)

    def load(self) -> State | None:
        """State of the interrupted fit; None without a file.

        Raises
        ------
        ValueError
            If the file belongs to another fit, or is damaged.
        """
        name = os.fspath(self.path)
        if not os.path.exists(name):
            return None
        header, arrays = archive.read(name, format=FORMAT)
        if header["fingerprint"] != self.fingerprint:
            raise ValueError(
                f"{name} is the checkpoint of a fit to other data or with other parameters: "
                "repeat that fit, delete the file, or name another"
            )
        self._written = time.monotonic()
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(os.path.getmtime(name)))
        _log.info(
            "the fit continues from %s of %s: sparse points chosen, %d batches of labels done",
            name,
            when,
            header["n_batches"],
        )
        return State(
            Design.from_arrays(header, arrays),
            header["notes"],
            _tree(header, arrays),
            header["unseen"],
        )

    def save(self, state: State) -> None:
        """Write the state under a temporary name and rename it into place."""
        started = time.monotonic()
        tree_header, tree_arrays = _packed(state.tree)
        design_header, design_arrays = state.design.to_arrays()
        header = {
            **design_header,
            **tree_header,
            "fingerprint": self.fingerprint,
            "notes": list(state.notes),
            "unseen": [int(index) for index in state.unseen],
        }
        arrays = {**design_arrays, **tree_arrays}
        archive.write(self.path, header, arrays, format=FORMAT)
        self._written = time.monotonic()
        self._cost = self._written - started

    def save_if_due(self, state: State) -> None:
        """Write the state if the last one is old enough."""
        if time.monotonic() - self._written >= max(self.interval, self._cost / _SHARE):
            self.save(state)

    # ---- iterations of a later stage -----------------------------------------------

    @property
    def _second(self) -> str:
        return f"{os.fspath(self.path)}.iteration"

    def load_iteration(self) -> Iteration | None:
        """State of the iterations of an interrupted fit; None without a file.

        Raises
        ------
        ValueError
            If the file is damaged.
        """
        if not os.path.exists(self._second):
            return None
        header, arrays = archive.read(self._second, format=FORMAT)
        if header["fingerprint"] != self.fingerprint:
            return None
        x, residual, direction = (arrays[name] for name in ("x", "residual", "direction"))
        return Iteration(x, residual, direction, header["square"], header["start"], header["n"])

    def save_iteration_if_due(self, state: Iteration) -> None:
        """Write the state of iterations, beside the file, if the last one is old enough."""
        started = time.monotonic()
        if started - self._written < max(self.interval, self._cost / _SHARE):
            return
        header = {
            "fingerprint": self.fingerprint,
            **{name: getattr(state, name) for name in ("square", "start", "n")},
        }
        arrays = {name: getattr(state, name) for name in ("x", "residual", "direction")}
        archive.write(self._second, header, arrays, format=FORMAT)
        self._written = time.monotonic()
        self._cost = self._written - started

    def remove(self) -> None:
        """Delete the files: the fit is complete."""
        for path in (self.path, self._second):
            if os.path.exists(path):
                os.unlink(path)


def _packed(tree: FactorTree) -> tuple[dict[str, Any], dict[str, Array]]:
    arrays: dict[str, Array] = {}
    levels = []
    for level, factor in enumerate(tree.levels):
        groups = []
        for index, group in enumerate(() if factor is None else factor.groups):
            assert factor is not None
            name = f"level_{level}_{index}"
            triangle = factor.triangles.get(group)
            if triangle is None:
                arrays[name] = factor.rows[group]
            else:
                arrays[name] = archive.pack_triangle(triangle.matrix)
            groups.append([group, None if triangle is None else triangle.n_rows])
        levels.append(None if factor is None else groups)
    counts = {"n_features": tree.n_features, "n_batches": tree.n_batches, "n_parts": tree.n_parts}
    return {**counts, "levels": levels}, arrays


def _tree(header: Mapping[str, Any], arrays: Mapping[str, Array]) -> FactorTree:
    n_features = header["n_features"]
    levels: list[GroupedFactor | None] = []
    for level, groups in enumerate(header["levels"]):
        factor = None if groups is None else GroupedFactor(n_features)
        for index, (group, n_rows) in enumerate(groups or ()):
            assert factor is not None
            array = arrays[f"level_{level}_{index}"]
            if n_rows is None:
                factor.rows[tuple(group)] = array
            else:
                triangle = TriangularFactor(n_features, prior=False)
                triangle.matrix = np.asfortranarray(archive.unpack_triangle(array))
                triangle.n_rows = n_rows
                factor.triangles[tuple(group)] = triangle
        levels.append(factor)
    return FactorTree(n_features, levels, header["n_batches"], header["n_parts"])
