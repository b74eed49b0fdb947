"""What a run of molecular dynamics must remember, as arrays and files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ase.io
import numpy as np
from ase import Atoms

from kernelpot.common.types import Array
from kernelpot.data.dataset import Frame
from kernelpot.data.soundness import bare_copy
from kernelpot.data.state import state_of


def numbers(thing: Any, prefix: str = "") -> dict[str, Array]:
    """Numbers an ASE integrator and its parts (thermostats) hold, by path."""
    found: dict[str, Array] = {}
    for name, value in sorted(vars(thing).items()):
        if isinstance(value, (bool, int, float, np.generic, np.ndarray)):
            array = np.asarray(value)
            if array.dtype.kind in "biuf":
                found[prefix + name] = array
        elif type(value).__module__.startswith("ase.md.") and hasattr(value, "__dict__"):
            found |= numbers(value, f"{prefix}{name}/")
    return found


def set_numbers(thing: Any, values: Mapping[str, Array]) -> None:
    """Inverse of `numbers`."""
    for path, value in values.items():
        owner = thing
        *parts, name = path.split("/")
        for part in parts:
            owner = getattr(owner, part)
        setattr(owner, name, value.item() if value.ndim == 0 else value.copy())


def pack(frame: Frame, prefix: str) -> dict[str, Array]:
    """Structure and labels as arrays, to the last bit."""
    arrays: dict[str, Any] = {
        "cell": frame.atoms.cell.array,
        "pbc": frame.atoms.pbc,
        "energy": np.array(frame.energy),
        "forces": frame.forces,
        "virial": np.array([]) if frame.virial is None else frame.virial,
    }
    arrays |= {f"array/{name}": values for name, values in frame.atoms.arrays.items()}
    arrays |= {f"info/{name}": np.array(v) for name, v in state_of(frame.atoms).items()}
    return {f"{prefix}/{name}": np.array(values) for name, values in arrays.items()}


def unpack(arrays: Mapping[str, Array], prefix: str, name: str, sources: dict[str, str]) -> Frame:
    """Inverse of `pack`."""
    own = {k.removeprefix(prefix + "/"): v for k, v in arrays.items() if k.startswith(prefix + "/")}
    kept = {k.removeprefix("array/"): v for k, v in own.items() if k.startswith("array/")}
    atoms = Atoms(kept.pop("numbers"), kept.pop("positions"), cell=own["cell"], pbc=own["pbc"])
    for key, values in kept.items():
        atoms.set_array(key, values)
    atoms.info |= {k.removeprefix("info/"): v.item() for k, v in own.items() if k[:5] == "info/"}
    virial = own["virial"] if len(own["virial"]) else None
    return Frame(atoms, float(own["energy"]), own["forces"], virial, "on_the_fly", name, sources)


def labelled(frame: Frame) -> Atoms:
    """Structure with its labels under the names `read_dataset` knows."""
    atoms = frame.atoms.copy()
    atoms.info["REF_energy"] = frame.energy
    atoms.arrays["REF_forces"] = frame.forces
    if frame.virial is not None:
        atoms.info["REF_virial"] = frame.virial
    atoms.info["config_type"] = frame.config_type
    return atoms


def snapshot(atoms: Atoms, step: int) -> Atoms:
    """Present state without the calculator, with what it said."""
    bare = bare_copy(atoms)
    bare.set_momenta(atoms.get_momenta())
    bare.info["step"] = step
    bare.info["potential_energy"] = float(atoms.get_potential_energy())
    bare.arrays["std_bound"] = atoms.calc.uncertainty["std_bound"].copy()
    return bare


def append(path: str, atoms: Atoms) -> None:
    """Add a structure to an extended XYZ file."""
    ase.io.write(path, atoms, format="extxyz", append=True)
