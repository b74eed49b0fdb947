"""Labelled structures: one frame, and an immutable list of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, overload

from ase import Atoms

from kernelpot.common.cards import card, grid
from kernelpot.common.compare import ComparesArrays
from kernelpot.common.types import FloatArray
from kernelpot.data.neighbors import neighbor_list

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from kernelpot.data.distances import DistanceFacts
    from kernelpot.data.doctor import DataReport


# A single atom further than this from its own images is a free atom [Å].
ISOLATED = 7.0


# A single atom is a free one under these config types, whatever its box.
_ISOLATED_NAMES = ("isolatedatom", "isolatedatoms")


@dataclass(frozen=True)
class LabelKeys:
    """Names under which labels are stored in ``atoms.info`` and ``atoms.arrays``.

    A name that is given is read, also where ASE keeps it as a result of a calculator, and has
    to be in the data. For what is not given, names of the field are taken: ``REF_energy``,
    ``REF_forces`` (or ``force``), ``REF_virial`` (``virials``), ``REF_stress``, in frames
    without these energy and forces the same with ``dft_``, then without a prefix.

    Parameters
    ----------
    energy, forces, virial, stress, config_type : str
        Keys. A virial is 3x3 (or 9, or Voigt-6) in eV with the sign of -dE/d strain;
        a stress has ASE's sign and unit (eV/Å^3).
    given : frozenset of str, optional
        Which of these were given; found by itself.
    """

    energy: str = ""
    forces: str = ""
    virial: str = ""
    stress: str = ""
    config_type: str = ""
    given: frozenset[str] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Put names in for what is not given."""
        named = set() if self.given is None else set(self.given)
        for kind, default in _DEFAULT_KEYS.items():
            name = getattr(self, kind)
            if not isinstance(name, str):
                raise TypeError(f"the name of the {kind} must be text, got {name!r}")
            if name and (self.given is None or name != default):
                named.add(kind)
            object.__setattr__(self, kind, name or default)
        object.__setattr__(self, "given", frozenset(named))

    @property
    def named(self) -> frozenset[str]:
        """Kinds whose name was given."""
        return self.given or frozenset()


_DEFAULT_KEYS = {
    "energy": "REF_energy",
    "forces": "REF_forces",
    "virial": "REF_virial",
    "stress": "REF_stress",
    "config_type": "config_type",
}


class Unread(NamedTuple):
    """A label that a frame has and that was not read.

    Of an energy beside one that was read also by how much it differs per atom [eV].
    """

    kind: str
    name: str
    why: str
    difference: float | None = None


def is_isolated_name(config_type: str) -> bool:
    """Whether a config type says that its frames are free atoms (as ``IsolatedAtom``)."""
    return config_type.lower().replace("_", "").replace("-", "") in _ISOLATED_NAMES


@dataclass(frozen=True, eq=False, repr=False)
class Frame(ComparesArrays):
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
    unread : tuple of Unread
        What looks like a label and was not read.
    state : str
        Total charge and spin as far as the data name them, such as ``"charge=1"``: no part of
        what is fitted, but a reason for two energies of one structure.
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
    unread: tuple[Unread, ...] = ()
    state: str = ""

    def __len__(self) -> int:
        """Return the number of atoms."""
        return len(self.atoms)

    @cached_property
    def is_isolated_atom(self) -> bool:
        """Whether this is a single atom, called one or far from its periodic images."""
        return len(self.atoms) == 1 and (
            is_isolated_name(self.config_type) or neighbor_list(self.atoms, ISOLATED).n_pairs == 0
        )

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

    @cached_property
    def distances(self) -> DistanceFacts:
        """How close atoms come; looked for once."""
        from kernelpot.data.distances import DistanceFacts

        return DistanceFacts.of(self)

    def relabelled(self, frames: Iterable[Frame]) -> Dataset:
        """The same structures with other labels, one for one.

        Parameters
        ----------
        frames : iterable of Frame

        Returns
        -------
        Dataset
        """
        other = Dataset(frames)
        if "distances" in self.__dict__:
            other.__dict__["distances"] = self.distances
        return other

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

    def _repr_html_(self) -> str:
        """Show in a notebook what there is of each config type."""
        groups: dict[str, list[Frame]] = {}
        for frame in self:
            groups.setdefault(frame.config_type, []).append(frame)
        rows = []
        for name, frames in sorted(groups.items(), key=lambda item: -len(item[1])):
            labels = (
                sum(getattr(f, kind) is not None for f in frames)
                for kind in ("energy", "forces", "virial")
            )
            sizes = sorted({len(f) for f in frames})
            atoms = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
            rows.append([name, str(len(frames)), atoms, *map(str, labels)])
        header = ["config type", "structures", "atoms each", "energies", "forces", "stresses"]
        facts = [
            ("species", ", ".join(self.symbols)),
            ("structures", f"{len(self)}, {self.n_atoms} atoms"),
            ("labels", str(self.n_rows)),
        ]
        return card("Dataset", facts, grid(header, rows))

    @property
    def n_atoms(self) -> int:
        """Atoms in all frames."""
        return sum(map(len, self))

    @property
    def n_rows(self) -> int:
        """Scalar labels in all frames."""
        return sum(frame.n_rows for frame in self)

    @cached_property
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
        from kernelpot.data.doctor import check_dataset

        return check_dataset(self)

    def plot(self, quantity: str = "energy", *, axes: Axes | None = None) -> Axes:
        """Draw what there is of each config type.

        Parameters
        ----------
        quantity : {"energy", "forces", "pressure", "distances"}
            Energies over the lowest of the same composition [eV/atom], lengths of forces
            [eV/Å] or pressures [GPa], a row of points for each config type with its median;
            or neighbors of each pair of species per distance (of 200 structures at most).
        axes : matplotlib.axes.Axes, optional
            What to draw on; by default a new figure of one panel.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If there are no such labels.
        """
        from kernelpot.data.picture import draw_dataset

        return draw_dataset(self, quantity, axes)


def label_sources(data: Dataset) -> dict[str, dict[str, int]]:
    """Frames per key (or ASE result) that each kind of label was read from."""
    result: dict[str, dict[str, int]] = {}
    for frame in data:
        for kind, source in frame.sources.items():
            counts = result.setdefault(kind, {})
            counts[source] = counts.get(source, 0) + 1
    return result
