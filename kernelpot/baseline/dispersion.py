"""Dispersion by Grimme's D3 as a term of the baseline, through the library s-dftd3.

The library and its interface (``pip install kernelpot[dispersion]``) are imported when a term is
made: a model that was fitted with it is refused where it is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.geometry import complete_cell
from ase.units import Bohr, Hartree

from kernelpot.baseline.reference import Reference
from kernelpot.baseline.whole_structures import WholeStructureBaseline
from kernelpot.common.types import FloatArray
from kernelpot.data.dataset import Dataset

# Pairs and triples end here [Å], smoothly over the last `_W`: with sharp ends stresses of crystals
# are off by 1e-3 of their value, against finite differences.
REACH, REACH_ATM = 60.0 * Bohr, 40.0 * Bohr
_W = 10.0  # [bohr]
# Names of the damping parameters in the library.
_PARAMETERS = ("s6", "s8", "a1", "a2", "s9")


@dataclass(frozen=True)
class D3(WholeStructureBaseline):
    """D3 dispersion with Becke-Johnson damping [1]_ [2]_.

    Energies, forces and stress are subtracted from the labels before the fit and added to
    predictions after it: for labels of a functional that has dispersion (D3 among it), whose
    tail then reaches beyond every cutoff.

    Parameters
    ----------
    functional : str, optional
        Whose damping parameters to take, such as ``"PBE"``.
    parameters : mapping of str to float, optional
        Damping parameters instead: ``s8``, ``a1``, ``a2`` [bohr], and ``s6``, ``s9`` if they
        are not those of the library (1 each).
    atm : bool, default=False
        Whether the three-body term counts. Its cost grows faster than that of pairs.

    Raises
    ------
    ValueError
        If the functional is unknown, or a parameter is; if neither is given, or both are.
    ModuleNotFoundError
        Without the library; the message says how to have it.

    References
    ----------
    .. [1] Grimme, Antony, Ehrlich, Krieg, J. Chem. Phys. 132, 154104 (2010).
    .. [2] Grimme, Ehrlich, Goerigk, J. Comput. Chem. 32, 1456 (2011).

    Examples
    --------
    >>> import kernelpot as kp
    >>> kp.KernelPotential(baseline=[kp.Wall(), kp.D3("PBE")])  # doctest: +SKIP
    """

    functional: str | None = None
    parameters: Mapping[str, float] | None = None
    atm: bool = False

    kind: ClassVar[str] = "d3"

    def __post_init__(self) -> None:
        """Refuse what the library cannot be asked for, before any work starts."""
        if (self.functional is None) == (self.parameters is None):
            raise ValueError("D3 needs `functional`, such as 'PBE', or `parameters`, one of them")
        unknown = set(self.parameters or {}) - set(_PARAMETERS)
        if unknown:
            raise ValueError(
                f"`parameters` of D3 must be of {', '.join(_PARAMETERS)}, got {sorted(unknown)}"
            )
        if self.parameters is not None:  # in one order, as files have them
            object.__setattr__(self, "parameters", dict(sorted(self.parameters.items())))
        missing = {"s8", "a1", "a2"} - set(self.parameters or {"s8": 0, "a1": 0, "a2": 0})
        if missing:
            raise ValueError(f"`parameters` of D3 lack {', '.join(sorted(missing))}")
        self._damping()

    def _damping(self) -> Any:
        library = _library()
        if self.parameters is not None:
            given = {"s6": 1.0, "s9": 1.0 if self.atm else 0.0, **self.parameters}
            return library.RationalDampingParam(**given)
        try:
            return library.RationalDampingParam(method=self.functional, atm=self.atm)
        except RuntimeError as error:
            raise ValueError(
                f"D3(BJ) has no parameters for the functional {self.functional!r} ({error}); give "
                "`parameters`"
            ) from error

    def fit(self, data: Dataset, species: Sequence[int], known: Reference) -> D3:
        """Nothing is fitted.

        Parameters
        ----------
        data : Dataset
            Plays no part.
        species : sequence of int
            Plays no part.
        known : Reference
            Plays no part.

        Returns
        -------
        D3
            Itself.
        """
        return self

    def _of(self, atoms: Atoms) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Equal shares of the energy, forces and virial of a structure."""
        lattice, periodic = None, None
        if atoms.pbc.any():
            lattice, periodic = _padded(atoms) / Bohr, np.ones(3, dtype=bool)
        model = _library().DispersionModel(atoms.numbers, atoms.positions / Bohr, lattice, periodic)
        model.set_realspace_cutoff(REACH / Bohr, REACH_ATM / Bohr, REACH_ATM / Bohr, _W, _W)
        found = model.get_dispersion(self._damping(), grad=True)
        energies = np.full(len(atoms), Hartree * found["energy"] / len(atoms))
        virial = -Hartree * np.asarray(found["virial"])
        forces = -Hartree / Bohr * np.asarray(found["gradient"])
        return energies, forces, 0.5 * (virial + virial.T)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the model file.

        Returns
        -------
        dict
        """
        return {
            "kind": self.kind,
            "functional": self.functional,
            "parameters": None if self.parameters is None else dict(self.parameters),
            "atm": bool(self.atm),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> D3:
        """Inverse of `to_dict`.

        Parameters
        ----------
        data : mapping

        Returns
        -------
        D3

        Raises
        ------
        ModuleNotFoundError
            Without the library.
        """
        return cls(data["functional"], data["parameters"], data["atm"])

    @classmethod
    def example(cls, species: Sequence[int]) -> D3:
        """Strong dispersion, to try things out with: the tests of all kinds do.

        Parameters
        ----------
        species : sequence of int
            Atomic numbers it will be used for.

        Returns
        -------
        D3
        """
        return cls(parameters={"s8": 3.0, "a1": 0.1, "a2": 2.0})

    def describe(self) -> list[str]:
        """Return a heading and one line per fact, for reports.

        Returns
        -------
        list of str
        """
        given = ", ".join(f"{k} {v:g}" for k, v in (self.parameters or {}).items())
        return [
            "Dispersion, D3 with Becke-Johnson damping:",
            f"of {self.functional}" if self.functional else given,
            f"three-body term {'included' if self.atm else 'left out'}",
        ]


def _padded(atoms: Atoms) -> FloatArray:
    """Cell of a periodic structure in which images along the other directions are out of reach.

    The library folds atoms of slabs and wires into the cell in directions without periodicity.
    """
    cell = np.array(atoms.cell.array) * np.asarray(atoms.pbc)[:, None]
    cell = np.array(complete_cell(cell))
    for axis in np.flatnonzero(~atoms.pbc):
        direction = cell[axis] / np.linalg.norm(cell[axis])
        along = atoms.positions @ direction
        cell[axis] = (np.ptp(along) + 1.1 * REACH) * direction
    return cell


def _library() -> Any:
    """The Python interface of s-dftd3."""
    try:
        from dftd3 import interface
    except ImportError as error:
        raise ModuleNotFoundError(
            f"D3 needs the library s-dftd3 ({error}): pip install 'kernelpot[dispersion]'"
        ) from error
    return interface
