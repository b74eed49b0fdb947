"""Labels that contradict what all other data say.

Every frame of the fit is left out in closed form; its residuals, in units of their
predicted standard deviation (posterior without it, and noise), are compared with those
of its peers. A wrong label stands out by orders of magnitude; a structure of a rare kind
does so too, by less. Where the data hold all of the fit, a species that occurs in one
structure alone, among many without it, has nothing to be compared with: that structure
heads the list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from ase.units import GPa

from kernelpot.common.cards import card, grid
from kernelpot.common.parallel import map_in_order
from kernelpot.common.tables import table
from kernelpot.common.types import KINDS, Progress
from kernelpot.data.dataset import Dataset
from kernelpot.data.order import are_among
from kernelpot.model.fitted import FittedModel
from kernelpot.regression.leave_one_out import LeftOut, leave_one_out
from kernelpot.regression.rows import StructureRows

# Peers: frames of the same config type, or all frames where there are fewer.
MINIMUM_PEERS = 8
# A frame whose residual is this many times what is usual among its peers is flagged.
FLAGGED = 5.0


@dataclass(frozen=True)
class Suspect:
    """One quantity of one frame.

    Attributes
    ----------
    index : int
        Position of the frame in the data.
    name, config_type : str
        Of the frame.
    quantity : {"energy", "forces", "stress", "species"}
    error : float
        Label minus prediction: per atom [eV]; norm for the worst atom [eV/Å]; root mean
        square over components [eV/Å^3]. For "species" the number of atoms of a species
        that no other structure has.
    deviations : float
        The error in predicted standard deviations; for "species" the number of other
        structures.
    score : float
        The same in units of what is usual among the frame's peers.
    atom : int or None
        The worst atom, for forces; the first of the species.
    left_out : bool
        Whether the frame was fitted, and left out for this.
    """

    index: int
    name: str
    config_type: str
    quantity: str
    error: float
    deviations: float
    score: float
    atom: int | None
    left_out: bool

    def describe(self) -> str:
        """The error in words."""
        if self.quantity == "energy":
            return f"energy off by {1e3 * self.error:+.1f} meV/atom"
        if self.quantity == "forces":
            return f"force on atom {self.atom} off by {self.error:.3f} eV/Å"
        if self.quantity == "species":
            return f"no other structure has the species of atom {self.atom}"
        return f"stress off by {self.error / GPa:.2f} GPa"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return dict(vars(self))


class Suspects(Sequence[Suspect]):
    """Frames, worst first; of each its worst quantity.

    Parameters
    ----------
    ranked : sequence of Suspect
        Sorted by score.
    details : sequence of Suspect
        All quantities of all frames, sorted by score.
    """

    def __init__(self, ranked: Sequence[Suspect], details: Sequence[Suspect]) -> None:
        self._ranked = tuple(ranked)
        self.details = tuple(details)

    @property
    def flagged(self) -> list[Suspect]:
        """Frames with a score of at least 5: worth a look."""
        return [s for s in self._ranked if s.score >= FLAGGED]

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self._ranked)

    @overload
    def __getitem__(self, index: int) -> Suspect: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Suspect]: ...
    def __getitem__(self, index: int | slice) -> Suspect | Sequence[Suspect]:
        """Return one frame, or several."""
        return self._ranked[index]

    def __iter__(self) -> Iterator[Suspect]:
        """Iterate from the worst."""
        return iter(self._ranked)

    def __repr__(self) -> str:
        """Say how many stand out."""
        return f"Suspects({len(self)} frames, {len(self.flagged)} flagged; print them for a table)"

    def _repr_html_(self) -> str:
        """Show in a notebook the frames flagged, or the worst three."""
        rows = [
            [s.name, s.config_type, f"{s.score:.1f}", s.describe()]
            for s in (self.flagged or self._ranked[:3])
        ]
        title = f"{len(self.flagged)} of {len(self)} frames contradict the rest"
        if not self.flagged:
            title += "; the worst"
        return card(title, (), grid(["frame", "config type", "score", "what"], rows))

    def __str__(self) -> str:
        """Table of the frames flagged (of the three worst if there are none)."""
        flagged = self.flagged
        fitted = sum(s.left_out for s in self._ranked)
        lines = [
            f"{len(self)} frames against the model, {fitted} of them fitted and left out one at "
            f"a time; {len(flagged)} contradict the rest (score of {FLAGGED:g} or more):"
        ]
        rows = [
            [s.name, s.config_type, f"{s.score:.1f}", f"{s.deviations:.1f}", s.describe()]
            for s in (flagged or self._ranked[:3])
        ]
        if not flagged:
            lines[0] = lines[0].replace(":", "; the worst:", 1)
        header = ["frame", "config type", "score", "deviations", "what"]
        return "\n".join([*lines, table(header, rows)])

    def to_dict(self) -> list[dict[str, Any]]:
        """Plain data, worst first."""
        return [s.to_dict() for s in self._ranked]


def find_suspects(
    model: FittedModel,
    data: Dataset,
    *,
    n_threads: int = 1,
    progress: Progress | None = None,
) -> Suspects:
    """Rank frames; see `KernelPotential.suspicious`.

    Parameters
    ----------
    model : FittedModel
    data : Dataset
    n_threads : int
    progress : callable, optional

    Returns
    -------
    Suspects

    Raises
    ------
    ValueError
        If the data have a species the model does not know, or no labels.
    """
    fitted = are_among(data, model.training.fingerprints)
    used = [k for k, frame in enumerate(data) if frame.n_rows and not frame.is_isolated_atom]
    if not used:
        raise ValueError("the data have no labelled structures of more than one atom")
    design = model.design

    def build(index: int) -> StructureRows:
        return design.structure_rows(index, model.remainder(data[index]), model.noise)

    found: list[Suspect] = []
    left_out = leave_one_out(
        map_in_order(build, used, n_threads),
        model.factor,
        model.noise.sigma,
        variance=True,
        included=lambda rows: fitted[rows.index],
    )
    for done, left in enumerate(left_out):
        frame = data[left.rows.index]
        for kind in KINDS:
            if (left.rows.kind == KINDS.index(kind)).any():
                error, deviations, atom = _worst(left, kind)
                found.append(
                    Suspect(
                        left.rows.index,
                        frame.name,
                        frame.config_type,
                        kind,
                        error,
                        deviations,
                        0.0,
                        atom,
                        fitted[left.rows.index],
                    )
                )
        if progress is not None:
            progress("suspects", done + 1, len(used))
    found = _scored(found)
    n_isolated = sum(frame.is_isolated_atom for frame in data)
    if sum(fitted) + n_isolated >= model.training.n_structures:  # all of the fit is here
        found += _alone(data, used, fitted)
    details = sorted(found, key=lambda s: (-s.score, s.index))
    first: dict[int, Suspect] = {}
    for suspect in details:
        first.setdefault(suspect.index, suspect)
    return Suspects(list(first.values()), details)


def _worst(left: LeftOut, kind: str) -> tuple[float, float, int | None]:
    """Error of a frame, in standard deviations, and the atom with the largest."""
    assert left.variance is not None
    own = left.rows.kind == KINDS.index(kind)
    z = left.residual[own] / np.sqrt(left.variance[own] + left.noise[own] ** 2)
    error = left.of(kind)
    if kind == "energy":
        return float(error[0]), float(abs(z[0])), None
    if kind == "stress":
        return float(np.sqrt(np.mean(error**2))), float(np.sqrt(np.mean(z**2))), None
    by_atom = np.sqrt(np.mean(z.reshape(-1, 3) ** 2, axis=1))
    atom = int(by_atom.argmax())
    return float(np.linalg.norm(error.reshape(-1, 3)[atom])), float(by_atom[atom]), atom


def _alone(data: Dataset, used: Sequence[int], fitted: Sequence[bool]) -> list[Suspect]:
    """Structures that are the only ones, of many, with some species."""
    found = []
    n_others = len(used) - 1
    for species in data.species if n_others >= MINIMUM_PEERS else ():
        holders = [k for k in used if species in data[k].atoms.numbers]
        if len(holders) == 1:
            (index,) = holders
            frame = data[index]
            atoms = np.flatnonzero(frame.atoms.numbers == species)
            found.append(
                Suspect(
                    index,
                    frame.name,
                    frame.config_type,
                    "species",
                    float(len(atoms)),
                    float(n_others),
                    float(n_others),
                    int(atoms[0]),
                    fitted[index],
                )
            )
    return found


def _scored(found: Sequence[Suspect]) -> list[Suspect]:
    """Compare with the median of the peers, or one standard deviation if that is more."""
    result = []
    for kind in KINDS:
        of_kind = [s for s in found if s.quantity == kind]
        usual = _usual(of_kind)
        for s in of_kind:
            fields = {**vars(s), "score": s.deviations / max(1.0, usual(s.config_type))}
            result.append(Suspect(**fields))
    return result


def _usual(found: Sequence[Suspect]) -> Callable[[str], float]:
    overall = float(np.median([s.deviations for s in found])) if found else 1.0
    groups: dict[str, list[float]] = {}
    for s in found:
        groups.setdefault(s.config_type, []).append(s.deviations)
    medians = {
        name: float(np.median(values))
        for name, values in groups.items()
        if len(values) >= MINIMUM_PEERS
    }

    def usual(name: str) -> float:
        own = medians.get(name, overall)
        # a type of little variety has a small median; what is usual elsewhere is half excused
        return own if own > overall else float(np.sqrt(own * overall))

    return usual
