"""Reading labelled structures: energies, forces, virials and where they came from.

Labels are taken under explicit names (``REF_energy``, ``REF_forces``, ``REF_virial``
or ``REF_stress`` by default) or, where a frame has none of these, from the results
ASE attached to it. Constraints never zero a force: arrays are read, not getters.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt
from ase import Atoms

from kernelpot.neighbors import NeighborList, neighbor_list

if TYPE_CHECKING:
    from kernelpot.checks import DataReport

FloatArray = npt.NDArray[np.float64]

# Closer than this, two atoms are taken to sit on one spot [Å].
COINCIDENCE = 0.05
# A single atom further than this from its own images is a free atom [Å].
ISOLATED = 7.0
VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


_VOIGT_ROWS, _VOIGT_COLUMNS = (list(axis) for axis in zip(*VOIGT, strict=True))


def voigt(full: FloatArray) -> FloatArray:
    """Symmetrize a 3x3 tensor and list xx yy zz yz xz xy."""
    return (0.5 * (full + full.T))[_VOIGT_ROWS, _VOIGT_COLUMNS]


@dataclass(frozen=True)
class LabelKeys:
    """Names under which labels are stored in ``atoms.info`` and ``atoms.arrays``.

    Parameters
    ----------
    energy, forces, virial, stress, config_type : str
        Keys. A virial is 3x3 (or 9, or Voigt-6) in eV with the sign of -dE/d strain;
        a stress has ASE's sign and unit (eV/Å^3).
    """

    energy: str = "REF_energy"
    forces: str = "REF_forces"
    virial: str = "REF_virial"
    stress: str = "REF_stress"
    config_type: str = "config_type"


@dataclass(frozen=True)
class Frame:
    """One labelled structure.

    Parameters
    ----------
    atoms : ase.Atoms
        Numbers, positions, cell and periodicity, and arrays of one number per atom
        (charges).
    energy : float or None
        Total energy [eV].
    forces : ndarray of shape (n_atoms, 3) or None
        [eV/Å].
    virial : ndarray of shape (6,) or None
        ``-dE/d strain`` [eV], Voigt order xx yy zz yz xz xy.
    config_type : str
        Group label, ``"default"`` where the data have none.
    name : str
        Where the frame came from, for messages: ``file:index``.
    sources : dict
        Key or ASE result each label was read from.
    sigmas : dict
        Absolute noise of this frame: ``energy`` [eV], ``forces`` [eV/Å], ``virial`` [eV].
    n_constrained : int
        Atoms that were under a constraint when the frame was read.
    """

    atoms: Atoms
    energy: float | None
    forces: FloatArray | None
    virial: FloatArray | None
    config_type: str = "default"
    name: str = "frame"
    sources: dict[str, str] = field(default_factory=dict)
    sigmas: dict[str, float] = field(default_factory=dict)
    n_constrained: int = 0

    def __len__(self) -> int:
        """Return the number of atoms."""
        return len(self.atoms)

    @cached_property
    def is_isolated_atom(self) -> bool:
        """Whether this is a single atom, without periodic images or far from them."""
        return len(self.atoms) == 1 and neighbor_list(self.atoms, ISOLATED).n_pairs == 0

    @property
    def stress(self) -> FloatArray | None:
        """Label in ASE's sign and order [eV/Å^3], None without a virial."""
        return None if self.virial is None else -self.virial / self.atoms.get_volume()

    @property
    def n_rows(self) -> int:
        """Number of scalar labels."""
        return (
            (self.energy is not None)
            + (0 if self.forces is None else self.forces.size)
            + (0 if self.virial is None else 6)
        )


class Dataset(Sequence[Frame]):
    """An immutable list of labelled frames.

    Parameters
    ----------
    frames : iterable of Frame
        Validated frames (`read_dataset` makes them).
    """

    def __init__(self, frames: Iterable[Frame]) -> None:
        self._frames = tuple(frames)

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self._frames)

    @overload
    def __getitem__(self, index: int) -> Frame: ...
    @overload
    def __getitem__(self, index: slice) -> Dataset: ...
    def __getitem__(self, index: int | slice) -> Frame | Dataset:
        """Return one frame, or a Dataset of a slice."""
        if isinstance(index, slice):
            return Dataset(self._frames[index])
        return self._frames[index]

    def __iter__(self) -> Iterator[Frame]:
        """Iterate over the frames."""
        return iter(self._frames)

    def __repr__(self) -> str:
        """Summarize the contents in one line."""
        return (
            f"Dataset({len(self)} frames, {self.n_atoms} atoms, "
            f"{'-'.join(self.symbols)}, {self.n_rows} labels)"
        )

    @property
    def n_atoms(self) -> int:
        """Atoms in all frames."""
        return sum(map(len, self))

    @property
    def n_rows(self) -> int:
        """Scalar labels in all frames."""
        return sum(frame.n_rows for frame in self)

    @property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers present, ascending."""
        return tuple(sorted({int(z) for frame in self for z in set(frame.atoms.numbers)}))

    @property
    def symbols(self) -> list[str]:
        """Chemical symbols present."""
        from ase.data import chemical_symbols

        return [chemical_symbols[z] for z in self.species]

    @property
    def config_types(self) -> dict[str, int]:
        """Number of frames of each config type."""
        return dict(Counter(frame.config_type for frame in self))

    def check(self) -> DataReport:
        """Examine the labels: sources, ranges, signs, units, suspicious frames.

        Returns
        -------
        DataReport
            Print it, or take its ``facts`` and ``warnings``.
        """
        from kernelpot.checks import check_dataset

        return check_dataset(self)


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


def check_structure(atoms: Atoms, name: str) -> None:
    """Refuse a structure no potential can be evaluated for.

    Raises
    ------
    ValueError
        As `check_cell`, or if two atoms sit on one spot.
    """
    check_cell(atoms, name)
    pairs = neighbor_list(atoms, COINCIDENCE)
    check_distances(pairs, pairs.displacements(atoms.positions), name)


def bare_copy(atoms: Atoms) -> Atoms:
    """Numbers, positions, cell, periodicity, and one number per atom such as a charge."""
    bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    for name, values in atoms.arrays.items():
        if values.ndim == 1 and values.dtype.kind in "fi" and name not in ("numbers", "tags"):
            bare.set_array(name, values)
    return bare


def check_distances(pairs: NeighborList, displacements: FloatArray, name: str) -> None:
    """Refuse pairs closer than `COINCIDENCE`, and positions that are not finite."""
    if not np.isfinite(displacements).all():
        pair = int(np.argwhere(~np.isfinite(displacements))[0, 0])
        raise ValueError(
            f"{name}: atoms {pairs.centers[pair]} and {pairs.neighbors[pair]} have no finite "
            "distance: a position is not finite"
        )
    close = np.flatnonzero(np.einsum("pc,pc->p", displacements, displacements) < COINCIDENCE**2)
    if len(close):
        i, j = int(pairs.centers[close[0]]), int(pairs.neighbors[close[0]])
        raise ValueError(
            f"{name}: atoms {i} and {j} sit on one spot (closer than {COINCIDENCE} Å); "
            "remove the duplicate or fix the cell"
        )


def check_cell(atoms: Atoms, name: str) -> None:
    """Refuse a structure for which no neighbors can be found.

    Raises
    ------
    ValueError
        Without atoms, with a position that is not finite, a periodic direction without
        a cell vector, or a degenerate cell.
    """
    if len(atoms) == 0:
        raise ValueError(f"{name} has no atoms")
    if not np.isfinite(atoms.positions).all():
        atom = int(np.argwhere(~np.isfinite(atoms.positions))[0, 0])
        raise ValueError(f"{name}: position of atom {atom} is not finite")
    pbc = np.asarray(atoms.pbc, dtype=bool)
    if pbc.any():
        cell = np.asarray(atoms.cell)
        if not np.isfinite(cell).all():
            raise ValueError(f"{name}: the cell is not finite")
        missing = [axis for axis in range(3) if pbc[axis] and not cell[axis].any()]
        if missing:
            raise ValueError(
                f"{name}: periodic along {missing} but the cell has no vector there; "
                "set the cell or pbc=False"
            )
        if abs(np.linalg.det(np.array(atoms.cell.complete()))) < 1e-6:
            raise ValueError(f"{name}: the cell vectors are linearly dependent")


def _finite(value: FloatArray, name: str, key: str) -> FloatArray:
    if not np.isfinite(value).all():
        wrong = value[~np.isfinite(value)].flat[0]
        raise ValueError(f"{name}: {key} contains {wrong}; correct the label or remove the frame")
    return value


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
        energy = float(_finite(array, name, keys.energy).reshape(()))
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
        _finite(forces, name, keys.forces)
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
        full = 0.5 * (full + full.T)
        array = np.array([full[a, b] for a, b in VOIGT])
    if array.shape != (6,):
        raise ValueError(
            f"{name}: {key} must have 9 or 6 (xx yy zz yz xz xy) numbers, got shape {array.shape}"
        )
    if not np.all(atoms.pbc):
        raise ValueError(
            f"{name}: {key} given but the structure is not periodic in three "
            "directions; remove the label or set the cell and pbc"
        )
    return sign * _finite(array, name, key)


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
