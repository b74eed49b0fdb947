"""Names of labels: which ones are read, and what else looks like a label and is not.

Labels of one level of theory share a prefix: ``REF_`` first, then ``dft_``, then none (what
ASE keeps as results of a calculator among them). A frame is read under one of these, but for
names that are given, and for ``REF_`` names, which are always read. Everything else that
looks like a label is named, so that no label is lost in silence.

Of an energy and a free energy of the same level the free energy is read: codes with smeared
occupations (VASP) call that extrapolated to zero smearing the energy, but forces and stress are
derivatives of the free energy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms

from kernelpot.data.dataset import Dataset, LabelKeys, Unread

KINDS = ("energy", "forces", "virial", "stress")
# Levels of theory by the prefix of their names, the first one found is read.
_PREFIXES = {"REF_": "ref_", "dft_": "dft_", "": ""}
# What other packages of the field call labels, without a prefix, in order of preference.
_NAMES = {
    "energy": ("free_energy", "energy"),
    "forces": ("forces", "force", "atomic_forces"),
    "virial": ("virial", "virials"),
    "stress": ("stress", "cauchy_stress"),
}
_STEMS = {"energy": "energy", "forces": "force", "virial": "virial", "stress": "stress"}
# What is short is a label only as a word of its own: ``E_DFT``, ``F_abinit``, ``gradient``.
_WORDS = {
    "energy": {"e", "e0", "en", "ene", "etot", "etotal", "toten"},
    "forces": {"f", "frc", "grad", "gradient", "gradients"},
}
_NO_ENERGY_WORDS = {"f", "form", "fermi", "gap", "field", "band", "zpe"}
_NO_LABEL = (
    "sigma", "weight", "std", "uncert", "error", "cutoff", "kinetic", "max", "min", "const",
    "novelty", "interval", "per_atom", "formation", "hull",
)  # fmt: skip
# Why a label was not read.
OTHER_NAME, NOT_PERIODIC, NO_CELL = "another name", "not periodic", "no cell"
NO_FREE_ENERGY = "free energy read"


class LostLabelsWarning(UserWarning):
    """The data hold what looks like labels that were not read."""


@dataclass(frozen=True)
class Label:
    """Something in a frame that is a label by its name.

    Attributes
    ----------
    kind : {"energy", "forces", "virial", "stress"}
    name : str
    value : object
    is_result : bool
        Whether ASE keeps it as the result of a calculator.
    prefix : str or None
        Level of theory; None for names that no package of the field uses.
    """

    kind: str
    name: str
    value: Any
    is_result: bool = False
    prefix: str | None = None

    @property
    def source(self) -> str:
        """Where it is, in words."""
        return f"ASE results {self.name!r}" if self.is_result else self.name

    @property
    def is_free_energy(self) -> bool:
        """Whether it is one by its name."""
        return self.kind == "energy" and self.name.lower().endswith("free_energy")

    @property
    def rank(self) -> int:
        """Preference among the names of a kind and prefix."""
        return _NAMES[self.kind].index(self.name.lower().removeprefix((self.prefix or "").lower()))


@dataclass(frozen=True)
class Labels:
    """What is read from a frame, and what is not.

    Attributes
    ----------
    read : mapping of kind to Label
        With a virial or a stress, not both.
    others : list of Label
    """

    read: Mapping[str, Label]
    others: list[Label]


def find_labels(atoms: Atoms, keys: LabelKeys) -> Labels:
    """Choose what is read from a frame.

    Parameters
    ----------
    atoms : ase.Atoms
        With ``info``, ``arrays`` and the results of a calculator.
    keys : LabelKeys

    Returns
    -------
    Labels
    """
    found = list(_labels(atoms, keys))
    read: dict[str, Label] = {}
    for kind in keys.named & set(KINDS):
        own = [f for f in found if f.kind == kind and f.name == getattr(keys, kind)]
        if own:
            read[kind] = own[0]
    level = _level(found, keys, read)
    for kind in KINDS:
        if kind not in keys.named:
            own = [f for f in found if f.kind == kind and f.prefix == "REF_"]
            if not own and level is not None:
                own = [f for f in found if f.kind == kind and f.prefix == level]
            if own:
                read[kind] = _preferred(own)
    if "virial" in read and "stress" in read:  # they say the same, what is named goes first
        del read["virial" if "stress" in keys.named and "virial" not in keys.named else "stress"]
    return Labels(read, [f for f in found if f not in read.values()])


def _preferred(own: Sequence[Label]) -> Label:
    """The first of several names; a free energy that is the energy is called the energy."""
    first, *others = sorted(own, key=lambda f: f.rank)
    for other in others:
        if first.is_free_energy and not other.is_free_energy and other.value == first.value:
            return other
    return first


def _level(found: Iterable[Label], keys: LabelKeys, given: Mapping[str, Label]) -> str | None:
    """Level of theory that what is not given is read from, besides ``REF_``.

    One that has an energy (or forces) of its own is not completed by that of another one.
    """
    found = list(found)
    for kinds in (("energy", "forces"), KINDS):
        for prefix in _PREFIXES:
            own = {f.kind for f in found if f.prefix == prefix}
            others = {k for k in given if given[k].prefix != prefix and k in ("energy", "forces")}
            if own & (set(kinds) - keys.named) and not (own & others and prefix != "REF_"):
                return prefix
    return None


def _labels(atoms: Atoms, keys: LabelKeys) -> Iterator[Label]:
    """Everything that is a label by its name, and where that is not known by its shape."""
    results = atoms.calc.results if atoms.calc is not None else {}
    for store, is_result in ((atoms.info, False), (atoms.arrays, False), (results, True)):
        for name, value in store.items():
            if value is None or not isinstance(name, str):
                continue
            given = [k for k in KINDS if k in keys.named and getattr(keys, k) == name]
            kind, prefix = _known(name)
            if given:
                yield from (Label(k, name, value, is_result, prefix) for k in given)
            elif kind is not None and _is_where(kind, store is atoms.arrays, value, len(atoms)):
                yield Label(kind, name, value, is_result, prefix)
            elif prefix is None and (kind := _looks_like(name, value, len(atoms))) is not None:
                yield Label(kind, name, value, is_result)


def _known(name: str) -> tuple[str | None, str | None]:
    """Kind and prefix of a name of the field."""
    for prefix, start in _PREFIXES.items():
        lower = name.lower()
        if lower.startswith(start):
            for kind, names in _NAMES.items():
                if lower[len(start) :] in names:
                    return kind, prefix
    return None, None


def _is_where(kind: str, per_atom: bool, value: Any, n_atoms: int) -> bool:
    """Whether labels of a kind are kept there: forces per atom, the others per frame."""
    if kind != "forces":
        return not per_atom
    return per_atom or np.ndim(value) == 2 or np.size(value) == 3 * n_atoms


def _looks_like(name: str, value: Any, n_atoms: int) -> str | None:
    """Kind of a label under a name of the user's own."""
    lower = name.lower()
    if any(word in lower for word in _NO_LABEL):
        return None
    try:
        shape = np.shape(np.asarray(value, dtype=float))
    except (TypeError, ValueError):
        return None
    words = set(re.split(r"[^a-z0-9]+", lower))
    for kind, stem in _STEMS.items():
        fits = {
            "energy": int(np.prod(shape)) == 1,
            "forces": shape == (n_atoms, 3),
        }.get(kind, shape in ((9,), (3, 3), (6,)))
        short = words & _WORDS.get(kind, set())
        if kind == "energy" and words & _NO_ENERGY_WORDS:
            short = set()
        if fits and (stem in lower or short):
            return kind
    return None


# ---- in words --------------------------------------------------------------------------


def option(kind: str, name: str) -> str:
    """How a name is given, on the command line and in Python."""
    return f"--{kind}-key {name} or, in Python, keys=kp.LabelKeys({kind}={name!r})"


def unread_labels(data: Dataset) -> dict[str, dict[str, dict[str, Any]]]:
    """Labels found and not read: by kind and name.

    Parameters
    ----------
    data : Dataset

    Returns
    -------
    dict of kind to dict of name to dict
        ``n_frames`` that have it, ``n_lost``: those of them that are left without a label of
        that kind, ``why``, and of energies ``max_difference_ev_per_atom`` from that read.
    """
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for frame in data:
        for kind, name, why, difference in frame.unread:
            entry = result.setdefault(kind, {}).setdefault(
                name, {"n_frames": 0, "n_lost": 0, "why": why}
            )
            entry["n_frames"] += 1
            if difference is not None:
                entry["max_difference_ev_per_atom"] = max(
                    difference, entry.get("max_difference_ev_per_atom", 0.0)
                )
            if getattr(frame, "virial" if kind == "stress" else kind) is None:
                entry["n_lost"] += 1
                entry["why"] = why
    return result


def lost_labels(found: Mapping[str, Mapping[str, Mapping[str, Any]]], n_frames: int) -> list[str]:
    """Say which kinds of labels frames lack though they hold one that was not read.

    Parameters
    ----------
    found : mapping
        What `unread_labels` found.
    n_frames : int

    Returns
    -------
    list of str
        A sentence for each name, with the option that reads it.
    """
    return [
        _lost(kind, name, entry, n_frames)
        for kind, names in found.items()
        for name, entry in names.items()
        if entry["n_lost"]
    ]


def _lost(kind: str, name: str, entry: Mapping[str, Any], n_frames: int) -> str:
    what = f"{kind} of {entry['n_lost']} of {n_frames} frames: found under {name!r}, not read"
    if entry["why"] == NO_CELL:
        return f"{what}: a stress needs a cell of three vectors; store a virial instead"
    if entry["why"] == NOT_PERIODIC:
        return (
            f"{what}, as they are not periodic in three directions: if it is right all the same "
            f"(-dE/d strain), read it with {option(kind, name)}"
        )
    if kind == "forces" and "grad" in name.lower():
        return f"{what}: if it is a gradient, store its negative as REF_forces"
    return f"{what}: read it with {option(kind, name)}"


def not_found(kind: str, name: str, has: Iterable[str]) -> str:
    """Say that a name that was given is in no frame, and what there is instead."""
    others = sorted(set(has))
    there = f"; the frames have {', '.join(others)}" if others else ""
    return (
        f"no frame has {name!r}, which was given as the name of the {kind.replace('_', ' ')}"
        f"{there}. Correct --{kind.replace('_', '-')}-key (in Python "
        f"keys=kp.LabelKeys({kind}=...)) or leave it out"
    )


def choices(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """Say which of several labels of one level was read, and how the other is.

    Parameters
    ----------
    found : mapping
        What `unread_labels` found.

    Returns
    -------
    list of str
        A sentence for each energy beside a free energy.
    """
    return [
        f"free energies were read in {entry['n_frames']} frames, as forces and stress are their "
        f"derivatives; {name!r} beside them (as of zero smearing) differs by up to "
        f"{1e3 * entry.get('max_difference_ev_per_atom', 0.0):.3g} meV/atom: read it with "
        f"{option('energy', name)}"
        for name, entry in found.get("energy", {}).items()
        if entry["why"] == NO_FREE_ENERGY
    ]


def unread(
    labels: Labels, others: Iterable[Label], why: Mapping[str, str], n_atoms: int
) -> tuple[Unread, ...]:
    """Record of labels that were not read, with the reason of those that have another one."""
    energy = labels.read.get("energy")
    result = []
    for f in others:
        reason, difference = why.get(f.name, OTHER_NAME), None
        if f.kind == "energy" and energy is not None:
            try:
                difference = abs(float(f.value) - float(energy.value)) / n_atoms
            except (TypeError, ValueError):
                difference = None
            if energy.is_free_energy and not f.is_free_energy and f.prefix == energy.prefix:
                reason = NO_FREE_ENERGY
        result.append(Unread(f.kind, f.name, reason, difference))
    return tuple(result)
