"""Reading labelled structures: energies, forces, virials and where they came from.

Labels are taken under explicit names (``REF_energy``, ``REF_forces``, ``REF_virial``
or ``REF_stress`` by default) or, where a frame has none of these, from the results
ASE attached to it. Constraints never zero a force: arrays are read, not getters.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from ase import Atoms

from kernelpot.common.types import FloatArray
from kernelpot.data.dataset import Dataset, Frame, LabelKeys
from kernelpot.data.soundness import bare_copy, check_structure, finite
from kernelpot.data.system import voigt


def read_dataset(source: Any, *, keys: LabelKeys | None = None) -> Dataset:
    """Read labelled structures from files or ASE objects.

    Parameters
    ----------
    source : path, glob pattern, ase.Atoms, Dataset, or sequence of these
        Any format ASE reads, also compressed (``.gz``).
    keys : LabelKeys, optional
        Names of the labels, default ``REF_energy`` and so on. Frames without these
        fall back on results ASE stored with the frame, unless `keys` names others.

    Returns
    -------
    Dataset

    Raises
    ------
    FileNotFoundError
        If a path or pattern matches nothing.
    ValueError
        If a file cannot be read or a label is missing, malformed or not finite; the
        message names the frame, the key, the value and the remedy.
    """
    if isinstance(source, Dataset) and len(source):
        return source
    keys = keys or LabelKeys()
    frames = [item if isinstance(item, Frame) else _frame(*item, keys) for item in _items(source)]
    if not frames:
        raise ValueError("the data contain no structures")
    dataset = Dataset(frames)
    _check_whole(dataset, keys)
    return dataset


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
        for path in _paths(os.fspath(source)):
            yield from _read_file(path)
    elif isinstance(source, Iterable):
        for index, item in enumerate(source):
            if isinstance(item, Atoms):
                yield item, f"structure {index}"
            elif isinstance(item, (str, os.PathLike, Dataset)):
                yield from _items(item)
            elif isinstance(item, Frame):
                yield item
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


def _paths(pattern: str) -> list[str]:
    if os.path.exists(pattern):
        return [pattern]
    found = sorted(glob.glob(pattern))
    if not found:
        raise FileNotFoundError(f"no file matches {pattern!r}")
    return found


def _read_file(path: str) -> Iterator[tuple[Atoms, str]]:
    import ase.io

    if os.path.isdir(path):
        raise ValueError(f"{path} is a directory; name a file or a pattern such as '*.xyz'")
    if os.path.getsize(path) == 0:
        raise ValueError(f"{path} is empty")
    plain = path.removesuffix(".gz")
    # ASE takes .xyz for plain xyz only if the second line is no extended comment.
    format_ = "extxyz" if plain.endswith((".xyz", ".extxyz")) else None
    try:
        frames = ase.io.read(path, ":", format=format_)
    except Exception as error:  # every reader has its own exceptions
        detail = str(error).strip().splitlines()
        reason = detail[0] if detail else type(error).__name__
        raise ValueError(
            f"{path} cannot be read (truncated or not a structure file): {reason}"
        ) from error
    if not frames:
        raise ValueError(f"{path} contains no structures")
    name = os.path.basename(path)
    for index, atoms in enumerate(frames):
        yield atoms, f"{name}:{index}"


def _as_array(value: object, name: str, key: str) -> FloatArray:
    try:
        return np.array(value, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {key} is not numeric, got {value!r}") from error


def _frame(atoms: Atoms, name: str, keys: LabelKeys) -> Frame:
    check_structure(atoms, name)
    results = dict(atoms.calc.results) if atoms.calc is not None else {}
    charges = results.get("charges")
    sources: dict[str, str] = {}
    named = LabelKeys()

    if atoms.info.get(keys.energy) is not None or atoms.arrays.get(keys.forces) is not None:
        results = {}  # never two levels of theory in one frame

    def label(kind: str, key: str, store: dict[str, Any]) -> Any:
        if store.get(key) is not None:
            sources[kind] = key
            return store[key]
        # ASE moves labels called energy, forces, stress into a calculator when reading.
        asked_for_default = key == getattr(named, kind)
        if kind in results and (asked_for_default or key == kind):
            sources[kind] = f"ASE results {kind!r}"
            return results[kind]
        return None

    energy = label("energy", keys.energy, atoms.info)
    if energy is not None:
        array = _as_array(energy, name, keys.energy)
        if array.size != 1:
            raise ValueError(f"{name}: {keys.energy} must be one number, got shape {array.shape}")
        energy = float(finite(array, name, keys.energy).reshape(()))
    forces = label("forces", keys.forces, atoms.arrays)
    if forces is None and len(atoms) == 1:
        forces = label("forces", keys.forces, atoms.info)
    if forces is not None:
        forces = _as_array(forces, name, keys.forces)
        if forces.size == 3 * len(atoms) == 3:
            forces = forces.reshape(1, 3)
        if forces.shape != (len(atoms), 3):
            raise ValueError(
                f"{name}: {keys.forces} must have shape ({len(atoms)}, 3), got {forces.shape}"
            )
        finite(forces, name, keys.forces)
    virial = _virial(atoms, name, keys, label, sources)
    if energy is None and forces is None and virial is None:
        raise ValueError(_no_labels(atoms, name, keys, results))
    bare = bare_copy(atoms)
    if charges is not None and np.shape(charges) == (len(atoms),) and "charges" not in bare.arrays:
        bare.set_array("charges", np.asarray(charges, dtype=float))
    config_type = str(atoms.info.get(keys.config_type, "default"))
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
    )


def _n_constrained(atoms: Atoms) -> int:
    indices = [
        np.atleast_1d(c.get_indices()) for c in atoms.constraints if hasattr(c, "get_indices")
    ]
    return len(np.unique(np.concatenate(indices))) if indices else len(atoms.constraints)


def _virial(
    atoms: Atoms, name: str, keys: LabelKeys, label: Any, sources: dict[str, str]
) -> FloatArray | None:
    virial = label("virial", keys.virial, atoms.info)
    if virial is not None:
        key, sign = keys.virial, 1.0
        value = virial
    else:
        value = label("stress", keys.stress, atoms.info)
        if value is None:
            return None
        if not np.all(atoms.pbc):
            sources.pop("stress", None)  # needs a volume; codes write one for vacuum cells
            return None
        key, sign = keys.stress, -float(atoms.get_volume())
    array = _as_array(value, name, key)
    if array.size == 9:
        full = array.reshape(3, 3)
        if np.abs(full - full.T).max() > 1e-3 * max(1.0, np.abs(full).max()):
            raise ValueError(f"{name}: {key} is not symmetric")
        array = voigt(full)
    if array.shape != (6,):
        raise ValueError(
            f"{name}: {key} must have 9 or 6 (xx yy zz yz xz xy) numbers, got shape {array.shape}"
        )
    if not np.all(atoms.pbc):
        raise ValueError(
            f"{name}: {key} given but the structure is not periodic in three "
            "directions; remove the label or set the cell and pbc"
        )
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


def _no_labels(atoms: Atoms, name: str, keys: LabelKeys, results: dict[str, Any]) -> str:
    wanted = f"{keys.energy}, {keys.forces}, {keys.virial} or {keys.stress}"
    available = [k for k in [*atoms.info, *atoms.arrays] if k not in ("numbers", "positions")]
    message = f"{name} has no label: none of {wanted} found"
    for kind in ("energy", "forces", "virial", "stress"):
        for key in [*available, *results]:
            if kind.rstrip("s") in key.lower() and "sigma" not in key.lower():
                return f"{message}; found {key!r}: use --{kind}-key {key}"
    if available:
        message += f"; the frame has {', '.join(sorted(available))}"
    return f"{message}; name the keys with --energy-key, --forces-key, --virial-key"


def _check_whole(dataset: Dataset, keys: LabelKeys) -> None:
    if all(f.energy is None and f.forces is None for f in dataset):
        raise ValueError(
            f"no frame has an energy or forces ({keys.energy}, {keys.forces}): "
            "a potential cannot be fitted to virials alone"
        )
    several = [f for f in dataset if len(f) > 1 and f.forces is not None]
    if several and not any(np.any(f.forces) for f in several):
        raise ValueError(
            f"every force is exactly zero in all {len(several)} frames with more than "
            f"one atom ({several[0].sources['forces']}): the labels were lost on the "
            "way; export them again"
        )
