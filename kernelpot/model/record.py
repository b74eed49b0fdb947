"""The record of a training: what a model was fitted to, what was chosen, how well it fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timezone
from typing import Any

from kernelpot._version import __version__
from kernelpot.data.dataset import Dataset, label_sources
from kernelpot.data.label_names import unread_labels
from kernelpot.data.order import digest, fingerprint


@dataclass(frozen=True)
class TrainingRecord:
    """What a model was fitted to, what was chosen, how well it fits.

    Attributes
    ----------
    n_structures, n_atoms, n_rows : int
        Sizes of the data; rows are labels.
    config_types : mapping of str to int
        Structures of each.
    sources : mapping of kind to mapping of str to int
        Names under which labels were found, and in how many structures.
    hyperparameters : mapping
        How noise and prior scales were chosen (`kernelpot.fit.noise`).
    fingerprints : sequence of str
        Of the frames fitted: tell whether data are those of the fit.
    notes : sequence of str
        Choices made from the data, for the user.
    shortcomings : sequence of str
        What the data lack, and the remedy (`kernelpot.fit.sufficiency`).
    errors : mapping
        On the data named by `errors_of` (`kernelpot.model.errors.evaluate`).
    errors_of : str
    wall_seconds : float
    updates : sequence of mapping
        Sizes of the data of each later update.
    unread : mapping
        Labels that were found and not read (`kernelpot.data.label_names.unread_labels`).
    version, date : str
        Of kernelpot, and the day (UTC), when the model was fitted or updated last.
    author, licence : str
        Of the model, if they were given.
    """

    n_structures: int
    n_atoms: int
    n_rows: int
    config_types: Mapping[str, int]
    sources: Mapping[str, Mapping[str, int]]
    hyperparameters: Mapping[str, Any]
    fingerprints: Sequence[str]
    notes: Sequence[str]
    errors: Mapping[str, Any]
    errors_of: str = "the training data"
    wall_seconds: float = 0.0
    updates: Sequence[Mapping[str, int]] = field(default_factory=tuple)
    shortcomings: Sequence[str] = ()
    unread: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    version: str = ""
    date: str = ""
    author: str = ""
    licence: str = ""

    @property
    def data_hash(self) -> str:
        """SHA-256 of the frames fitted, whatever their order: structures, labels and noise."""
        return digest(sorted(self.fingerprints))

    def about(self) -> dict[str, str | None]:
        """Where the model is from, for those who use it.

        Returns
        -------
        dict
            ``version`` of kernelpot and ``date`` of the fit, ``data_hash``, ``author`` and
            ``licence``; None for what is not known.
        """
        names = ("version", "date", "author", "licence")
        known = {name: getattr(self, name) or None for name in names}
        return {**known, "data_hash": self.data_hash}

    def stamped(self) -> TrainingRecord:
        """The same of today."""
        today = datetime.now(timezone.utc).strftime("%Y-%m-%d")
        return replace(self, version=__version__, date=today)

    def noting(self, note: str) -> TrainingRecord:
        """The same with one more note."""
        return replace(self, notes=[*self.notes, note])

    def continued(
        self,
        new: Dataset,
        notes: Sequence[str],
        errors: Mapping[str, Any],
        errors_of: str,
        wall_seconds: float,
    ) -> TrainingRecord:
        """Record of the data before and new ones together.

        Parameters
        ----------
        new : Dataset
        notes : sequence of str
            To add.
        errors, errors_of, wall_seconds
            In place of those before.

        Returns
        -------
        TrainingRecord
        """
        sources = {kind: dict(found) for kind, found in self.sources.items()}
        for kind, found in label_sources(new).items():
            own = sources.setdefault(kind, {})
            for name, count in found.items():
                own[name] = own.get(name, 0) + count
        config_types = dict(self.config_types)
        for name, count in new.config_types.items():
            config_types[name] = config_types.get(name, 0) + count
        unread = {kind: dict(names) for kind, names in self.unread.items()}
        for kind, more in unread_labels(new).items():
            for name, entry in more.items():
                before = unread.setdefault(kind, {}).get(name, {"n_frames": 0, "n_lost": 0})
                counts = {k: before[k] + entry[k] for k in ("n_frames", "n_lost")}
                unread[kind][name] = {**before, **entry, **counts}
        added = {"n_structures": len(new), "n_atoms": new.n_atoms, "n_rows": new.n_rows}
        return replace(
            self,
            n_structures=self.n_structures + len(new),
            n_atoms=self.n_atoms + new.n_atoms,
            n_rows=self.n_rows + new.n_rows,
            config_types=config_types,
            sources=sources,
            unread=unread,
            fingerprints=[*self.fingerprints, *map(fingerprint, new)],
            notes=[*self.notes, *notes],
            errors=errors,
            errors_of=errors_of,
            wall_seconds=wall_seconds,
            updates=[*self.updates, added],
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for files and reports.

        Returns
        -------
        dict
        """
        return dict(vars(self))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainingRecord:
        """Inverse of `to_dict`.

        Parameters
        ----------
        data : mapping

        Returns
        -------
        TrainingRecord
        """
        known = {f.name for f in fields(cls)}
        return cls(**{name: value for name, value in data.items() if name in known})


# Of a model whose fit is not complete.
NOTHING = TrainingRecord(0, 0, 0, {}, {}, {"method": None}, (), (), {})
