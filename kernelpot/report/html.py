"""A report on a potential and labelled structures: one HTML file with its figures inside."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from kernelpot.common.axes import require_matplotlib
from kernelpot.common.files import write_text
from kernelpot.common.tables import number
from kernelpot.common.types import Progress
from kernelpot.data.dataset import Dataset, LabelKeys
from kernelpot.data.doctor import check_dataset
from kernelpot.data.picture import picture_size
from kernelpot.data.reading import read_dataset
from kernelpot.model.summary import summary_facts
from kernelpot.model.suspects import Suspects
from kernelpot.plot import draw
from kernelpot.plot.comparison import MAX_STD_STRUCTURES, Reliability
from kernelpot.plot.scans import structure_name
from kernelpot.plot.structures import MAX_DRAWN_ATOMS, draw_structure
from kernelpot.potential import KernelPotential
from kernelpot.report import page
from kernelpot.report.diagnosis import Diagnosis, diagnose

# Rows of the table of structures that contradict the model, and of that of the data.
MAX_SUSPECTS, MAX_GROUPS = 20, 40
# Structures beyond the data that are named.
MAX_NAMED = 10
# Of the picture of a structure [inches].
SQUARE = (3.0, 3.0)


def write_report(
    potential: KernelPotential,
    data: Any,
    path: str | os.PathLike[str],
    *,
    keys: LabelKeys | None = None,
    title: str = "kernelpot report",
    chemiscope: str | os.PathLike[str] | None = None,
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a self-contained HTML page on a potential and how it does on data.

    What the data are, what was chosen for the model, errors overall, per config type and
    species, parity, the worst structures, predicted standard deviations against errors, where
    the gate acts, the energy of every dimer and of compressed structures with the gate and
    without, a map of the environments, and structures whose labels look wrong.

    Parameters
    ----------
    potential : KernelPotential
    data : path, Dataset, ...
        Whatever `read_dataset` takes.
    path : path
        File to write; replaced only once everything is computed.
    keys : LabelKeys, optional
    title : str
    chemiscope : path, optional
        Also write the map of environments with the structures, to be turned and clicked
        through at chemiscope.org or in a notebook (``.json`` or ``.json.gz``; extra
        ``chemiscope``).
    n_threads : int, optional
    progress : callable, optional
        Called as ``progress(stage, done, total)``.

    Returns
    -------
    dict
        The numbers of the report as plain data.

    Raises
    ------
    ImportError
        If matplotlib (or chemiscope, where it is needed) is not installed.
    ValueError
        If data and potential do not fit together.
    FileNotFoundError
        If there is no such directory.
    """
    require_matplotlib()
    for file in (path, chemiscope):
        folder = os.path.dirname(os.path.abspath(os.fspath(file or path)))
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"cannot write {file}: there is no directory {folder}")
    if chemiscope is not None:
        from kernelpot.report.interactive import check_chemiscope

        check_chemiscope(chemiscope)
    dataset = read_dataset(data, keys=keys)
    diagnosis = diagnose(potential, dataset, n_threads=n_threads, progress=progress)
    warnings = check_dataset(dataset).warnings
    suspects = potential.suspicious(dataset, n_threads=n_threads, progress=progress)
    sections = {
        "The data": _data_section(dataset, warnings),
        "The model": _model_section(potential),
        "Errors": _errors_section(diagnosis),
        "The worst structures": _worst_section(diagnosis, dataset),
        "Does it know what it does not know?": _reliability_section(diagnosis.reliability),
        "The safety net": _gate_section(diagnosis),
        "Beyond the data": _curves_section(diagnosis),
        "Environments": _maps_section(diagnosis),
        "Suspicious structures": _suspects_section(suspects, len(dataset)),
    }
    body = _headlines(diagnosis, suspects) + page.contents(list(sections))
    body += "".join(page.heading(name) + content for name, content in sections.items())
    write_text(path, page.page(title, body))
    if chemiscope is not None:
        from kernelpot.report.interactive import write_chemiscope

        write_chemiscope(chemiscope, dataset, diagnosis, title)
    return {
        **diagnosis.to_dict(),
        "warnings": list(warnings),
        "suspects": [s.to_dict() for s in suspects.flagged],
    }


def _headlines(diagnosis: Diagnosis, suspects: Suspects) -> str:
    """Five numbers to know first."""
    errors, found = diagnosis.errors, diagnosis.reliability
    facts = [
        (name, f"{number(errors[key], digits)} {unit}")
        for name, key, digits, unit in (
            ("mean absolute error of energies", "energy_mae_mev_per_atom", 2, "meV/atom"),
            ("of force components", "forces_mae_ev_per_ang", 4, "eV/Å"),
            ("of stress components", "stress_mae_gpa", 3, "GPa"),
        )
        if errors[key] is not None
    ]
    if found is not None and found.covered is not None:
        at = list(found.promised).index(0.95)
        facts.append(("of force errors in 95 % intervals", f"{100 * found.covered[at]:.1f} %"))
    gated = diagnosis.gated
    facts.append(
        (
            f"atoms beyond the data, in {gated['n_structures']} of {errors['n_structures']} "
            "structures",
            str(gated["n_atoms"]),
        )
    )
    facts.append(("structures contradict the rest", str(len(suspects.flagged))))
    return page.tiles(facts)


def _data_section(data: Dataset, warnings: Sequence[str]) -> str:
    groups = sorted(data.config_types.items(), key=lambda item: -item[1])
    rows = []
    for name, count in groups[:MAX_GROUPS]:
        frames = [f for f in data if f.config_type == name]
        atoms = sorted({len(f) for f in frames})
        labels = [
            sum(getattr(f, kind) is not None for f in frames)
            for kind in ("energy", "forces", "virial")
        ]
        extent = str(atoms[0]) if len(atoms) == 1 else f"{atoms[0]} to {atoms[-1]}"
        rows.append([f"{name} ({count})", extent, *map(str, labels)])
    words = (
        f"{len(data)} structures of {', '.join(data.symbols)}, {data.n_atoms} atoms, "
        f"{data.n_rows} labels."
    )
    header = ["config type", "atoms", "energies", "forces", "stresses"]
    pictures = [page.table(header, rows)]
    for quantity, caption in (
        ("energy", "Energy of each structure over the lowest of its composition"),
        ("forces", "Force on each atom"),
        ("distances", "Neighbors of an atom by distance"),
    ):
        try:
            pictures.append(
                page.panel(
                    f"data: {quantity}",
                    lambda axes, q=quantity: data.plot(q, axes=axes),  # type: ignore[misc]
                    f"{caption}.",
                    size=picture_size(data, quantity),
                )
            )
        except ValueError:
            continue  # no such labels
    more = len(groups) - len(rows)
    return (
        page.paragraph(words)
        + page.items(warnings)
        + (
            page.paragraph(f"The table has the most frequent config types, {more} are left out.")
            if more > 0
            else ""
        )
        + page.panels(pictures)
    )


def _model_section(potential: KernelPotential) -> str:
    model = potential.describe()
    return (
        page.table(["", ""], [list(fact) for fact in summary_facts(model)], text=True)
        + (page.paragraph("Choices made from its data, and what to know:")
           if model["training"]["notes"] else "")
        + page.items(model["training"]["notes"])
        + page.folded("The whole summary", potential.summary())
    )  # fmt: skip


def _errors_section(diagnosis: Diagnosis) -> str:
    errors = diagnosis.errors

    def pair(found: Mapping[str, Any], mae: str, rmse: str, digits: int) -> str:
        return f"{number(found.get(mae), digits)} / {number(found.get(rmse), digits)}"

    def row(name: str, found: Mapping[str, Any]) -> list[str]:
        return [
            f"{name} ({found['n_structures']})",
            pair(found, "energy_mae_mev_per_atom", "energy_rmse_mev_per_atom", 2),
            pair(found, "forces_mae_ev_per_ang", "forces_rmse_ev_per_ang", 4),
            number(found["stress_mae_gpa"], 3),
        ]

    groups = errors["by_config_type"]
    rows = [row("all", errors), *(row(name, e) for name, e in groups.items())]
    header = ["", "energy [meV/atom]", "force [eV/Å]", "stress [GPa]"]
    species = [
        [
            symbol,
            str(found["n_atoms"]),
            pair(found, "forces_mae_ev_per_ang", "forces_rmse_ev_per_ang", 4),
        ]
        for symbol, found in diagnosis.by_species.items()
    ]
    words = (
        "Mean absolute / root mean square errors (of stresses mean absolute ones). On the line of "
        "a picture predictions are labels; energies are relative to free atoms."
    )
    cells = [page.table(header, rows)]
    cells += [
        page.panel(f"parity: {kind}", partial(draw.draw_parity, found=found))
        for kind, found in diagnosis.parity.items()
    ]
    if species:
        cells.append(page.table(["species", "atoms", "force [eV/Å]"], species))
    return page.paragraph(words) + page.panels(cells)


def _worst_section(diagnosis: Diagnosis, data: Dataset) -> str:
    if not diagnosis.worst:
        return page.paragraph("The data have no energies or forces.")
    pictures, others = [], []
    for found in diagnosis.worst:
        atoms = data[found.index].atoms
        off = []
        if found.energy_error is not None:
            off.append(f"energy off by {found.energy_error:+.2f} meV/atom")
        if found.force_error is not None and found.atom is not None:
            on = f"{atoms.symbols[found.atom]} {found.atom}"
            off.append(f"force on {on} by {found.force_error:.4f} eV/Å")
        what = f"{structure_name(atoms)} ({found.config_type})"
        caption = f"{found.name}: {'; '.join([what, *off])}."
        if len(atoms) > MAX_DRAWN_ATOMS:
            others.append(caption)
            continue
        picture = partial(draw_structure, atoms=atoms, atom=found.atom)
        pictures.append(page.panel(f"structure: {found.name}", picture, caption, size=SQUARE))
    words = (
        "Largest errors of energies, then of forces; in orange the atom of the largest of force."
    )
    return page.paragraph(words) + page.panels(pictures, small=True) + page.items(others)


def _reliability_section(found: Reliability | None) -> str:
    if found is None:
        return page.paragraph("The data have no forces to judge the standard deviations by.")
    rank = "" if found.spearman is None else f"; rank correlation {found.spearman:.2f}"
    words = (
        f"{'Calibrated' if found.calibrated else 'Uncalibrated'} standard deviations of force "
        f"components on {found.n_structures} structures (evenly over the data, at most "
        f"{MAX_STD_STRUCTURES}): {100 * found.coverage['1']:.1f} % of the "
        f"errors lie within one (68.3 % for Gaussian errors), {100 * found.coverage['2']:.1f} % "
        f"within two (95.4 %){rank} (of force vectors)."
    )
    pictures = [
        page.panel(
            "uncertainty", partial(draw.draw_uncertainty, found=found),
            "Errors against predicted standard deviations: their root mean squares should lie on "
            "the line.",
        ),
        page.panel(
            "calibration", partial(draw.draw_calibration, found=found),
            "Share of errors within intervals against the share promised: below the line "
            "intervals are too narrow.",
        ),
    ]  # fmt: skip
    return page.paragraph(words) + page.panels(pictures)


def _gate_section(diagnosis: Diagnosis) -> str:
    gated = diagnosis.gated
    rows = []
    for symbol, limits in diagnosis.thresholds.items():
        n, of = gated["by_species"][symbol]
        values = [f"{limits[k]:.4f}" for k in ("std_known", "width")]
        rows.append([symbol, *values, f"{n} of {of}"])
    header = ["", "known up to std [eV]", "penalty sets in over [eV]", "atoms beyond"]
    words = (
        "Where the local standard deviation is higher than that of the training data, the energy "
        f"is a pessimistic one. {gated['n_atoms']} atoms in {gated['n_structures']} of these "
        f"{diagnosis.errors['n_structures']} structures are raised by more than 1 meV."
    )
    named = ", ".join(f"{name} ({n})" for name, n in list(gated["structures"].items())[:MAX_NAMED])
    more = " ..." if len(gated["structures"]) > MAX_NAMED else ""
    return (
        page.paragraph(words)
        + page.table(header, rows)
        + (page.paragraph(f"They are in {named}{more}") if named else "")
    )


def _curves_section(diagnosis: Diagnosis) -> str:
    curves = [*diagnosis.dimers, *diagnosis.compressions]
    verdicts = {True: "rises throughout", False: "FALLS somewhere", None: "not known"}
    pictures = [
        page.panel(f"scan: {curve.name}", partial(draw.draw_curve, curve=curve), size=draw.SCAN)
        for curve in curves
    ]
    words = (
        "Two atoms of every pair of species, and small structures of the data compressed and "
        "stretched, from where nothing is known: with the safety net energies should rise all the "
        "way inward of the data."
    )
    return (
        page.paragraph(words)
        + page.table(
            ["", "energy inward of the data"], [[c.name, verdicts[c.repulsive]] for c in curves]
        )
        + page.panels(pictures)
        + "".join(page.paragraph(note) for note in diagnosis.notes)
    )


def _maps_section(diagnosis: Diagnosis) -> str:
    if not diagnosis.maps:
        return page.paragraph("No term of the model compares whole environments of atoms.")
    words = (
        "Surroundings of atoms by what a kernel compares, projected onto where they differ most: "
        "near each other is alike. Bright ones are little known; circles are the sparse points "
        "that the potential knows."
    )
    pictures = [
        page.panel(
            f"map: {found.symbol}",
            partial(draw.draw_map, found=found),
            f"{len(found.x)} environments of {found.symbol}, features of {found.term}.",
        )
        for found in diagnosis.maps
    ]
    return page.paragraph(words) + page.panels(pictures)


def _suspects_section(suspects: Suspects, n_structures: int) -> str:
    flagged = suspects.flagged
    words = f"{len(flagged)} of {n_structures} structures contradict what all other data say"
    words += " (score: deviation in units of what is usual among its peers):" if flagged else "."
    rows = [[s.name, s.config_type, f"{s.score:.1f}", s.describe()] for s in flagged]
    header = ["structure", "config type", "score", "what"]
    return page.paragraph(words) + (
        page.table(header, rows[:MAX_SUSPECTS], text=True) if rows else ""
    )
