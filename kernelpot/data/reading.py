"""Reading labelled structures: energies, forces, virials and where they came from.

Labels are taken under names that are given, or under those of the field
(`kernelpot.data.label_names`), ASE's results of a calculator among them; what was found and
not read is named. Constraints never zero a force: arrays are read, not getters.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from ase import Atoms

from kernelpot.common.caller import warn_user
from kernelpot.common.types import FloatArray
from kernelpot.data import label_names
from kernelpot.data.dataset import Dataset, Frame, LabelKeys, is_isolated_name
from kernelpot.data.label_names import Label, LostLabelsWarning
from kernelpot.data.soundness import bare_copy, check_structure, finite
from kernelpot.data.state import STATE
from kernelpot.data.symmetry import forces_vanish_by_symmetry
from kernelpot.data.system import voigt, volume_of

# Names of total charge and spin in ``atoms.info``.
_STATE = ("charge", "total_charge", "spin", "total_spin", "multiplicity", "spin_multiplicity")


# Frames of a file: a number, or a slice.
_INDEX = re.compile(r"-?\d+|(-?\d+)?:(-?\d+)?(:(-?\d+)?)?")


# What terms of a model may read of ``atoms.info``: charge and spin, and labels of dipoles.
_KEPT = (*STATE, "REF_dipole")


def read_dataset(source: Any, *, keys: LabelKeys | None = None) -> Dataset:
    """Read labelled structures from files or ASE objects.

    Parameters
    ----------
    source : path, glob pattern, ase.Atoms, Dataset, or sequence of these
        Any format ASE reads, also compressed (``.gz``), with ``file@index`` for some of its
        frames (``run.traj@-1``, ``OUTCAR@::10``); of data bases of ASE (``.db``, also rows of
        one) labels may be key-value pairs or data.
    keys : LabelKeys, optional
        Names of the labels. By default ``REF_energy`` and so on, or where a frame has neither
        energy nor forces under these, other names of the field: with ``dft_`` or without
        prefix, results that ASE stored with the frame included. Of an energy and a free energy
        the free energy is read, as forces are its derivative: ``LabelKeys(energy="energy")``
        reads the other.

    Returns
    -------
    Dataset

    Raises
    ------
    FileNotFoundError
        If a path or pattern matches nothing.
    ValueError
        If a file cannot be read or a label is missing, malformed or not finite; the
        message names the frame, the key, the value and the remedy. If a key that was given
        is in no frame.

    Warns
    -----
    LostLabelsWarning
        If frames lack a kind of label though they hold what looks like one; with the option
        that reads it.
    """
    keys = keys or LabelKeys()
    if isinstance(source, Dataset) and len(source):
        _check_given(source, {}, keys)
        return source
    frames = []
    names: dict[str, None] = {}  # of everything that frames hold, in order
    for item in _items(source):
        if isinstance(item, Frame):
            frames.append(item)
        else:
            frames.append(_frame(*item, keys))
            names |= dict.fromkeys(_names(item[0]))
    if not frames:
        raise ValueError("the data contain no structures")
    dataset = Dataset(frames)
    _check_given(dataset, names, keys)
    _check_whole(dataset, keys)
    for sentence in label_names.lost_labels(label_names.unread_labels(dataset), len(dataset)):
        warn_user(sentence, LostLabelsWarning)
    return dataset


def _names(atoms: Atoms) -> list[str]:
    """Names of everything that a frame holds besides its structure."""
    results = (
        [] if atoms.calc is None else [k for k, v in atoms.calc.results.items() if v is not None]
    )
    arrays = [name for name in atoms.arrays if name not in ("numbers", "positions")]
    return [str(name) for name in (*atoms.info, *arrays, *results)]


def _check_given(data: Dataset, names: Iterable[str], keys: LabelKeys) -> None:
    """Refuse names that were given and that no frame has."""
    frames = [frame for frame in data if frame.sources]  # not those made by hand
    for kind in sorted(keys.named):
        name = getattr(keys, kind)
        if kind == "config_type":
            missing = bool(names) and name not in names
        else:
            read = {source for f in frames for source in f.sources.values()}
            found = {n for f in frames for _, n, *_ in f.unread}
            missing = bool(frames) and not {name, f"ASE results {name!r}"} & (read | found)
        if missing:
            raise ValueError(label_names.not_found(kind, name, names))


def read_structures(source: Any) -> list[tuple[Atoms, str]]:
    """Read structures (labels ignored) with their names, checked for soundness.

    Raises
    ------
    FileNotFoundError, ValueError
        As `read_dataset`.
    """
    items = _items(source)
    found = [(i.atoms, i.name) if isinstance(i, Frame) else i for i in items]
    for atoms, name in found:
        check_structure(atoms, name)
    return found


def _items(source: Any) -> Iterator[Frame | tuple[Atoms, str]]:
    if isinstance(source, Atoms):
        yield source, "structure"
    elif isinstance(source, Dataset):
        yield from source
    elif isinstance(source, (str, os.PathLike)):
        for path, which in _paths(os.fspath(source)):
            yield from _read_file(path, which)
    elif isinstance(source, Iterable):
        for index, item in enumerate(source):
            if isinstance(item, Atoms):
                yield item, f"structure {index}"
            elif isinstance(item, (str, os.PathLike, Dataset)):
                yield from _items(item)
            elif isinstance(item, Frame):
                yield item
            elif hasattr(item, "toatoms") and hasattr(item, "key_value_pairs"):  # of a data base
                yield _atoms_of_row(item), f"id={item.id}"
            else:
                raise TypeError(
                    "data must be a path, ase.Atoms, or a sequence of these, got "
                    f"{type(item).__name__} at position {index}"
                )
    else:
        raise TypeError(
            "data must be a path, ase.Atoms, a Dataset, or a sequence of these, got "
            f"{type(source).__name__}"
        )


def _paths(pattern: str) -> list[tuple[str, str | None]]:
    """Files that a path or pattern means, and which of their frames: ASE's ``file@index``."""
    if os.path.exists(pattern):
        return [(pattern, None)]
    found = sorted(glob.glob(pattern))
    if found:
        return [(path, None) for path in found]
    path, at, index = pattern.rpartition("@")
    if at and path and index:
        files = [path] if os.path.exists(path) else sorted(glob.glob(path))
        if files:
            return [(file, index) for file in files]
        pattern = path
    raise FileNotFoundError(f"no file matches {pattern!r}")


def _read_file(path: str, index: str | None = None) -> Iterator[tuple[Atoms, str]]:
    if os.path.isdir(path) and not path.endswith(".traj"):  # a bundle of ASE
        raise ValueError(f"{path} is a directory; name a file or a pattern such as '*.xyz'")
    if os.path.getsize(path) == 0:
        raise ValueError(f"{path} is empty")
    if index is not None and not path.endswith((".db", ".json")) and not _INDEX.fullmatch(index):
        raise ValueError(
            f"{path}: {index!r} is no index; name frames as {path}@5, @-1, @:10 or @::2"
        )
    try:
        frames, numbers = _frames_of(path, index)
    except Exception as error:  # every reader has its own exceptions
        raise ValueError(_unreadable(path, index, error)) from error
    if not frames:
        which = "" if index is None else f" at {index!r}"
        raise ValueError(f"{path} contains no structures{which}")
    name = os.path.basename(path)
    for number, atoms in zip(numbers, frames, strict=True):
        if not isinstance(atoms, Atoms):
            raise ValueError(
                f"{name}:{number} cannot be read: {type(atoms).__name__} in place of a structure"
            )
        yield atoms, f"{name}:{number}"


def _frames_of(path: str, index: str | None) -> tuple[list[Atoms], list[int | str]]:
    """Frames of a file and their numbers in it."""
    import ase.io
    from ase.utils import string2index

    where = slice(None) if index is None else string2index(index)
    if path.endswith((".db", ".json")) and (found := _rows(path, where)) is not None:
        return found
    if isinstance(where, str):
        raise ValueError(f"{where!r} is no index; name frames as 5, -1, :10 or ::2")
    plain = path.removesuffix(".gz").removesuffix(".bz2").removesuffix(".xz")
    # ASE takes .xyz for plain xyz only if the second line is no extended comment.
    format_ = "extxyz" if plain.endswith((".xyz", ".extxyz")) else None
    read = ase.io.read(path, where, format=format_, do_not_split_by_at_sign=True)
    if isinstance(where, int):
        return ([read] if isinstance(read, Atoms) else list(read)), [where]
    forward = all(part is None or part >= 0 for part in (where.start, where.step))
    if not forward:  # counted from the end, which is not known
        return list(read), [f"{index}[{k}]" for k in range(len(read))]
    start, step = where.start or 0, where.step or 1
    return list(read), [start + k * step for k in range(len(read))]


def _rows(path: str, where: int | slice | str) -> tuple[list[Atoms], list[int | str]] | None:
    """Frames of a data base of ASE with all that their rows hold; None if it is none."""
    import ase.db
    from ase.io.formats import filetype

    if path.endswith(".json") and filetype(path) != "json":
        return None
    with ase.db.connect(path) as base:
        rows = list(base.select(where if isinstance(where, str) else ""))
    if isinstance(where, int):
        rows = [rows[where]]
    elif isinstance(where, slice):
        rows = rows[where]
    return [_atoms_of_row(row) for row in rows], [f"id={row.id}" for row in rows]


def _atoms_of_row(row: Any) -> Atoms:
    """Structure of a row, key-value pairs and data where those of a file would be."""
    atoms: Atoms = row.toatoms()
    for name, value in {**row.key_value_pairs, **(row.data or {})}.items():
        if np.ndim(value) and np.shape(value)[0] == len(atoms) and name not in atoms.arrays:
            array = np.asarray(value)
            if array.dtype.kind in "fiub" and not (len(atoms) in (3, 6, 9) and array.ndim == 1):
                atoms.set_array(name, array)
                continue
        atoms.info[name] = value
    return atoms


def _unreadable(path: str, index: str | None, error: Exception) -> str:
    """A sentence on what a reader stumbled over."""
    if path.endswith(".kpot"):
        return f"{path} is a potential of kernelpot, not structures"
    detail = str(error).strip().splitlines()
    if isinstance(error, IndexError) and index is not None:
        return f"{path} has no frame {index!r}"
    if type(error).__name__ == "UnknownFileTypeError" or not detail:
        reason = f"no reader of ASE knows what it is ({type(error).__name__})"
    elif isinstance(error, (ValueError, OSError, ImportError, RuntimeError)):
        reason = detail[0]
    else:  # a reader that expected something else, not a sentence
        reason = f"ASE's reader stopped with {type(error).__name__}: {detail[0]}"
    return (
        f"{path} cannot be read: it is truncated, without a finished calculation, or not a "
        f"structure file ({reason})"
    )


def _as_array(value: object, name: str, key: str) -> FloatArray:
    try:
        if np.asarray(value).dtype.kind in "bc":
            raise TypeError
        return np.array(value, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {key} is not numeric, got {value!r}") from error


def _frame(atoms: Atoms, name: str, keys: LabelKeys) -> Frame:
    check_structure(atoms, name)
    labels = label_names.find_labels(atoms, keys)
    config_type = str(atoms.info.get(keys.config_type, "default"))
    bare = bare_copy(atoms)
    free = len(atoms) == 1 and is_isolated_name(config_type)
    if free:  # its box is a matter of the code that computed it
        bare.pbc = False
    sources: dict[str, str] = {}
    energy = forces = virial = None
    why: dict[str, str] = {}
    if "energy" in labels.read:
        label = labels.read["energy"]
        sources["energy"] = label.source
        energy = _energy(label, name)
    if "forces" in labels.read:
        label = labels.read["forces"]
        sources["forces"] = label.source
        forces = _forces(label, name, len(atoms))
    others = list(labels.others)
    for kind in {"virial", "stress"} & set(labels.read):
        label = labels.read[kind]
        reason = None if free else _no_strain(label, bare, name, given=kind in keys.named)
        if free:
            continue
        if reason is None:
            sources[kind] = label.source
            virial = _virial(label, bare, name)
        elif np.any(_as_array(label.value, name, label.name)):  # codes write zeros
            others.append(label)
            why[label.name] = reason
    if energy is None and forces is None and virial is None:
        raise ValueError(_no_labels(atoms, name, keys))
    charges = atoms.calc.results.get("charges") if atoms.calc is not None else None
    if charges is not None and np.shape(charges) == (len(atoms),) and "charges" not in bare.arrays:
        bare.set_array("charges", np.asarray(charges, dtype=float))
    for key in _KEPT:
        if atoms.info.get(key) is not None:
            bare.info[key] = atoms.info[key]
    if free:
        others = [label for label in others if label.kind in ("energy", "forces")]
    return Frame(
        bare,
        energy,
        forces,
        virial,
        config_type,
        name,
        sources,
        _sigmas(atoms, name),
        _n_constrained(atoms),
        label_names.unread(labels, others, why, len(atoms)),
        _state(atoms),
    )


def _state(atoms: Atoms) -> str:
    """Total charge and spin, as far as the frame names them."""
    found = {k: atoms.info[k] for k in _STATE if atoms.info.get(k) is not None}
    return ", ".join(
        f"{k}={v:g}" if np.ndim(v) == 0 and np.isreal(v) else f"{k}={v}" for k, v in found.items()
    )


def _energy(label: Label, name: str) -> float:
    array = _as_array(label.value, name, label.name)
    if array.size != 1:
        raise ValueError(f"{name}: {label.name} must be one number, got shape {array.shape}")
    return float(finite(array, name, label.name).reshape(()))


def _forces(label: Label, name: str, n_atoms: int) -> FloatArray:
    forces = _as_array(label.value, name, label.name)
    if forces.size == 3 * n_atoms == 3:
        forces = forces.reshape(1, 3)
    if forces.shape != (n_atoms, 3):
        raise ValueError(f"{name}: {label.name} must have shape ({n_atoms}, 3), got {forces.shape}")
    return finite(forces, name, label.name)


def _n_constrained(atoms: Atoms) -> int:
    indices = [
        np.atleast_1d(c.get_indices()) for c in atoms.constraints if hasattr(c, "get_indices")
    ]
    return len(np.unique(np.concatenate(indices))) if indices else len(atoms.constraints)


def _no_strain(label: Label, atoms: Atoms, name: str, *, given: bool) -> str | None:
    """Why a virial or stress is not read, None if it is.

    Without periodicity in three directions it is read only under a name that is given: codes
    write a stress for boxes of vacuum, too.
    """
    if np.all(atoms.pbc):
        return None
    has_volume = volume_of(atoms) is not None
    if has_volume and given:
        return None
    if label.kind == "virial":
        how = f"; with --virial-key {label.name} it is read" if has_volume else ""
        raise ValueError(
            f"{name}: {label.name} given but the structure is not periodic in three "
            f"directions; remove the label or set the cell and pbc{how}"
        )
    return label_names.NOT_PERIODIC if has_volume else label_names.NO_CELL


def _virial(label: Label, atoms: Atoms, name: str) -> FloatArray:
    """-dE/d strain [eV] of a virial or a stress."""
    key = label.name
    array = _as_array(label.value, name, key)
    if array.size == 9:
        full = array.reshape(3, 3)
        if np.abs(full - full.T).max() > 1e-3 * max(1.0, np.abs(full).max()):
            raise ValueError(f"{name}: {key} is not symmetric")
        array = voigt(full)
    if array.shape != (6,):
        raise ValueError(
            f"{name}: {key} must have 9 or 6 (xx yy zz yz xz xy) numbers, got shape {array.shape}"
        )
    sign = 1.0 if label.kind == "virial" else -float(atoms.get_volume())
    return sign * finite(array, name, key)


def _sigmas(atoms: Atoms, name: str) -> dict[str, float]:
    sigmas = {}
    for kind in ("energy", "forces", "virial"):
        key = f"sigma_{kind}"
        if key in atoms.info:
            value = float(_as_array(atoms.info[key], name, key).reshape(()))
            if not (np.isfinite(value) and value > 0):
                raise ValueError(f"{name}: {key} must be positive, got {value}")
            sigmas[kind] = value
    if "sigma_stress" in atoms.info:
        raise ValueError(
            f"{name}: sigma_stress is not read from a frame; give sigma_virial, the absolute "
            "noise of its virial in eV"
        )
    return sigmas


def _no_labels(atoms: Atoms, name: str, keys: LabelKeys) -> str:
    wanted = f"{keys.energy}, {keys.forces}, {keys.virial} or {keys.stress}"
    message = f"{name} has no label: none of {wanted} found"
    available = _names(atoms)
    for kind in ("energy", "forces", "virial", "stress"):
        for key in available:
            if kind.rstrip("s") in key.lower() and "sigma" not in key.lower():
                return f"{message}; found {key!r}: use {label_names.option(kind, key)}"
    if available:
        message += f"; the frame has {', '.join(sorted(available))}"
    return (
        f"{message}; name the keys with --energy-key, --forces-key, --virial-key or, in Python, "
        "keys=kp.LabelKeys(energy=..., forces=..., virial=...)"
    )


def _check_whole(dataset: Dataset, keys: LabelKeys) -> None:
    if all(f.energy is None and f.forces is None for f in dataset):
        raise ValueError(
            f"no frame has an energy or forces ({keys.energy}, {keys.forces}): "
            "a potential cannot be fitted to virials alone"
        )
    several = [f for f in dataset if len(f) > 1 and f.forces is not None]
    if several and not any(np.any(f.forces) for f in several):
        lost = [f for f in several if not forces_vanish_by_symmetry(f.atoms)]
        if lost:
            raise ValueError(
                f"every force is exactly zero in all {len(several)} frames with more than "
                f"one atom ({several[0].sources.get('forces', 'given')}), but no symmetry makes "
                f"them so in {lost[0].name}: the labels were lost on the way; export them again"
            )
