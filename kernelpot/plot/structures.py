"""A structure as a picture, with the atom to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.data.colors import jmol_colors

from kernelpot.common.axes import COLORS, PANEL, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Larger structures are not drawn: single atoms could not be told apart.
MAX_DRAWN_ATOMS = 500
# From where it is seen, and how much of an atom is shown.
ROTATION = "-70x,-15y,-10z"
RADIUS = 0.75


def draw_structure(axes: Axes | None, atoms: Atoms, *, atom: int | None = None) -> Axes:
    """Draw a structure in the pale colours of its elements, one atom in a strong one.

    Parameters
    ----------
    axes : matplotlib.axes.Axes or None
    atoms : ase.Atoms
    atom : int, optional
        The one to look at.

    Returns
    -------
    matplotlib.axes.Axes
    """
    from ase.visualize.plot import plot_atoms
    from matplotlib.colors import to_rgb

    axes = new_axes(axes, size=(PANEL[0], PANEL[1]))
    colors = 0.45 + 0.55 * jmol_colors[atoms.numbers]
    if atom is not None:
        colors = np.array(colors)
        colors[atom] = to_rgb(COLORS[1])
    plot_atoms(
        atoms,
        axes,
        radii=RADIUS * covalent_radii[atoms.numbers],
        colors=colors,
        rotation=ROTATION,
        show_unit_cell=2 if any(atoms.pbc) else 0,
    )
    axes.set_axis_off()
    return axes
