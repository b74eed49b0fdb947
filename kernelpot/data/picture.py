"""Labelled structures in one picture: what there is of each group."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ase.data import chemical_symbols
from ase.units import GPa

from kernelpot.common.axes import COLORS, MARKERS, PANEL, few_ticks, legend, new_axes
from kernelpot.common.types import FloatArray
from kernelpot.data.dataset import Dataset
from kernelpot.data.neighbors import by_species, neighbor_list

if TYPE_CHECKING:
    from matplotlib.axes import Axes

QUANTITIES = ("energy", "forces", "pressure", "distances")
# Groups with a row of their own; the smaller ones share the last.
MAX_ROWS = 20
# Height of a row, and of axes and labels [inches].
ROW, FRAME = 0.28, 1.3
# Points of a row, pairs of species and structures that are looked at, at most.
MAX_PER_ROW, MAX_PAIRS, MAX_STRUCTURES = 3000, 12, 200
# Distances up to here, in bins of this width [Å].
REACH, BIN = 6.0, 0.05


def draw_dataset(data: Dataset, quantity: str, axes: Axes | None) -> Axes:
    """Draw one quantity; see `Dataset.plot`.

    Raises
    ------
    ValueError
        If there is no such quantity, or no label of it.
    """
    if quantity not in QUANTITIES:
        raise ValueError(f"`quantity` must be one of {', '.join(QUANTITIES)}, got {quantity!r}")
    if quantity == "distances":
        return _draw_distances(data, axes)
    values = {"energy": _energies, "forces": _forces, "pressure": _pressures}[quantity](data)
    label = {
        "energy": "energy over lowest of composition [eV/atom]",
        "forces": "force on an atom [eV/Å]",
        "pressure": "pressure [GPa]",
    }[quantity]
    if not values:
        raise ValueError(f"the data have no labels to draw the {quantity} of")
    return _draw_rows(values, label, axes)


def picture_size(data: Dataset, quantity: str) -> tuple[float, float]:
    """Size of a figure with a readable row for each config type [inches].

    Parameters
    ----------
    data : Dataset
    quantity : str

    Returns
    -------
    (float, float)
    """
    if quantity == "distances":
        return PANEL
    return _size(len(data.config_types))


def _size(n_rows: int) -> tuple[float, float]:
    return PANEL[0], max(PANEL[1], FRAME + ROW * min(n_rows, MAX_ROWS))


def _energies(data: Dataset) -> dict[str, FloatArray]:
    """Per atom, over the lowest of the same composition, of each group [eV]."""
    known = [f for f in data if f.energy is not None and not f.is_isolated_atom]
    formulas = [f.atoms.symbols.get_chemical_formula("hill", True) for f in known]
    per_atom = [(f.energy or 0.0) / len(f) for f in known]
    lowest: dict[str, float] = {}
    for formula, energy in zip(formulas, per_atom, strict=True):
        lowest[formula] = min(energy, lowest.get(formula, np.inf))
    found: dict[str, list[float]] = {}
    for frame, formula, energy in zip(known, formulas, per_atom, strict=True):
        found.setdefault(frame.config_type, []).append(energy - lowest[formula])
    return {name: np.array(values) for name, values in found.items()}


def _forces(data: Dataset) -> dict[str, FloatArray]:
    """Length of the force on every atom of each group [eV/Å]."""
    found: dict[str, list[FloatArray]] = {}
    for frame in data:
        if frame.forces is not None and len(frame) > 1:
            found.setdefault(frame.config_type, []).append(np.linalg.norm(frame.forces, axis=1))
    return {name: np.concatenate(values) for name, values in found.items()}


def _pressures(data: Dataset) -> dict[str, FloatArray]:
    """A third of the negative trace of the stress, of each structure of each group [GPa]."""
    found: dict[str, list[float]] = {}
    for frame in data:
        if frame.stress is not None:
            pressure = -float(frame.stress[:3].mean()) / GPa
            found.setdefault(frame.config_type, []).append(pressure)
    return {name: np.array(values) for name, values in found.items()}


def _draw_rows(values: dict[str, FloatArray], label: str, axes: Axes | None) -> Axes:
    """Draw one row of points for each group, with its median."""
    rows = sorted(values.items(), key=lambda item: float(np.median(item[1])))
    if len(rows) > MAX_ROWS:
        by_size = sorted(rows, key=lambda item: -len(item[1]))
        kept = {name for name, _ in by_size[: MAX_ROWS - 1]}
        others = np.concatenate([v for name, v in rows if name not in kept])
        name = f"{len(rows) - len(kept)} others"
        rows = [*(row for row in rows if row[0] in kept), (name, others)]
    axes = new_axes(axes, size=_size(len(rows)))
    rng = np.random.default_rng(0)
    for height, (_, found) in enumerate(rows):
        drawn = found[:: max(1, -(-len(found) // MAX_PER_ROW))]
        axes.plot(
            drawn,
            height + rng.uniform(-0.3, 0.3, len(drawn)),
            linestyle="none",
            marker="o",
            markersize=3 if len(drawn) < 300 else 1.5,
            markeredgewidth=0,
            color=COLORS[0],
            alpha=0.5,
            rasterized=True,
        )
        axes.plot([np.median(found)] * 2, [height - 0.38, height + 0.38], color=COLORS[1])
    few_ticks(axes)
    axes.set_yticks(range(len(rows)), [f"{name} ({len(found)})" for name, found in rows])
    axes.set(xlabel=label, ylim=(-0.6, len(rows) - 0.4))
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    return axes


def _draw_distances(data: Dataset, axes: Axes | None) -> Axes:
    """Draw how many pairs of each two species there are at each distance, per atom and Å."""
    edges = np.arange(0.0, REACH + BIN / 2, BIN)
    counts: dict[tuple[int, int], FloatArray] = {}
    atoms: dict[int, int] = {}
    for frame in data[:: max(1, -(-len(data) // MAX_STRUCTURES))]:
        numbers = frame.atoms.numbers
        for z in numbers:
            atoms[int(z)] = atoms.get(int(z), 0) + 1
        pairs = neighbor_list(frame.atoms, REACH)
        r = np.linalg.norm(pairs.displacements(frame.atoms.positions), axis=1)
        for key, members in by_species(numbers, pairs, np.arange(pairs.n_pairs)):
            found = np.histogram(r[members], edges)[0].astype(float)
            counts[key] = counts.get(key, 0.0) + found
    if not counts:
        raise ValueError(f"the data have no two atoms within {REACH:g} Å of each other")
    axes = new_axes(axes)
    middle = 0.5 * (edges[1:] + edges[:-1])
    largest = sorted(counts, key=lambda key: -counts[key].sum())[:MAX_PAIRS]
    for k, (a, b) in enumerate(sorted(largest)):
        # pairs are found from both of their atoms: of two species half are from the first
        per_atom = counts[a, b] * (1.0 if a == b else 0.5) / (atoms[a] * BIN)
        axes.plot(
            middle,
            per_atom,
            drawstyle="steps-mid",
            color=COLORS[k % len(COLORS)],
            linestyle=("-", "--")[k // len(COLORS) % 2],
            marker=MARKERS[k % len(MARKERS)],
            markevery=(k, 12),
            markersize=4,
            label=f"{chemical_symbols[a]}-{chemical_symbols[b]}",
        )
    axes.set(
        xlabel="distance [Å]",
        ylabel="neighbors per atom and Å",
        xlim=(max(0.0, _first(counts, middle) - 0.5), REACH),
        ylim=(0, None),
    )
    legend(axes, loc="best")
    return axes


def _first(counts: dict[tuple[int, int], FloatArray], middle: FloatArray) -> float:
    return min(float(middle[np.flatnonzero(found)[0]]) for found in counts.values() if found.any())
