"""What of ``atoms.info`` belongs to a structure: energies depend on it as on positions."""

from __future__ import annotations

from typing import Any

from ase import Atoms

# Total charge [e] and number of unpaired electrons.
STATE = ("charge", "spin")


def state_of(atoms: Atoms) -> dict[str, Any]:
    """Charge and spin of a structure, where it names them.

    Parameters
    ----------
    atoms : ase.Atoms

    Returns
    -------
    dict
        As in ``atoms.info``.
    """
    return {name: atoms.info[name] for name in STATE if name in atoms.info}
