"""A report on a potential and labelled structures: one HTML file with its figures inside."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kernelpot._version import __version__
from kernelpot.common.files import write_text
from kernelpot.common.types import Progress
from kernelpot.data.dataset import LabelKeys
from kernelpot.data.doctor import check_dataset
from kernelpot.data.reading import read_dataset
from kernelpot.plot import draw
from kernelpot.plot.comparison import Reliability
from kernelpot.potential import KernelPotential
from kernelpot.report.diagnosis import Diagnosis, diagnose

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Labels drawn per panel: more only make the file slow.
MAX_DRAWN = 20_000
# Rows of the table of structures that contradict the model.
MAX_SUSPECTS = 20
UNITS = {"energy": "eV/atom", "forces": "eV/Å", "stress": "GPa"}
STYLE = """
body { font-family: sans-serif; max-width: 62em; margin: 2em auto; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: 1em 0; }
th, td { padding: 0.25em 0.8em; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
pre { background: #f6f6f6; padding: 1em; overflow-x: auto; font-size: 85%; }
img { max-width: 100%; }
"""


def write_report(
    potential: KernelPotential,
    data: Any,
    path: str | os.PathLike[str],
    *,
    keys: LabelKeys | None = None,
    title: str = "kernelpot report",
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a self-contained HTML page on a potential and how it does on data.

    Model summary, errors overall and per config type, parity, predicted standard
    deviations against errors, the energy of every dimer and of compressed structures
    with the gate and without, where the gate acts, and structures whose labels look
    wrong.

    Parameters
    ----------
    potential : KernelPotential
    data : path, Dataset, ...
        Whatever `read_dataset` takes.
    path : path
        File to write; replaced only once everything is computed.
    keys : LabelKeys, optional
    title : str
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
        If matplotlib is not installed.
    ValueError
        If data and potential do not fit together.
    FileNotFoundError
        If there is no such directory.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "the report draws with matplotlib, which is not installed: pip install matplotlib"
        ) from error
    folder = os.path.dirname(os.path.abspath(os.fspath(path)))
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"cannot write {path}: there is no directory {folder}")
    dataset = read_dataset(data, keys=keys)
    diagnosis = diagnose(potential, dataset, n_threads=n_threads, progress=progress)
    warnings = check_dataset(dataset).warnings
    suspects = potential.suspicious(dataset, n_threads=n_threads, progress=progress)
    flagged = [[s.name, s.config_type, f"{s.score:.1f}", s.describe()] for s in suspects.flagged]
    sections = [
        _errors_section(diagnosis),
        _parity_section(diagnosis),
        _reliability_section(diagnosis.reliability),
        _gate_section(diagnosis),
        _curves_section(diagnosis),
        _suspects_section(warnings, flagged, len(dataset)),
        _heading("Model") + f"<pre>{html.escape(potential.summary())}</pre>",
    ]
    write_text(path, _page(title, sections))
    return {
        **diagnosis.to_dict(),
        "warnings": list(warnings),
        "suspects": [s.to_dict() for s in suspects.flagged],
    }


def _errors_section(diagnosis: Diagnosis) -> str:
    errors = diagnosis.errors
    columns = {
        "energy_mae_mev_per_atom": ("energy MAE [meV/atom]", 2),
        "energy_rmse_mev_per_atom": ("RMSE [meV/atom]", 2),
        "forces_mae_ev_per_ang": ("forces MAE [eV/Å]", 4),
        "forces_rmse_ev_per_ang": ("RMSE [eV/Å]", 4),
        "stress_mae_gpa": ("stress MAE [GPa]", 3),
    }
    header = ["", "structures", "atoms", *[name for name, _ in columns.values()]]

    def row(name: str, found: Mapping[str, Any]) -> list[str]:
        values = [
            "-" if found[key] is None else f"{found[key]:.{digits}f}"
            for key, (_, digits) in columns.items()
        ]
        return [name, str(found["n_structures"]), str(found["n_atoms"]), *values]

    groups = errors["by_config_type"]
    rows = [row("all", errors), *(row(name, e) for name, e in groups.items())]
    return _heading("Errors") + _table(header, rows)


def _parity_section(diagnosis: Diagnosis) -> str:
    kinds = list(diagnosis.parity)
    figure = _figure(4.5 * len(kinds), 4.3)
    for axes, kind in zip(_row(figure, len(kinds)), kinds, strict=True):
        draw.draw_parity(axes, diagnosis.parity[kind])
    words = "Energies are relative to free atoms. Every label is drawn"
    most = max(len(found.label) for found in diagnosis.parity.values())
    words += f", of more than {MAX_DRAWN} an even choice." if most > MAX_DRAWN else "."
    return _heading("Predictions against labels") + _text(words) + _image(figure, "parity")


def _reliability_section(found: Reliability | None) -> str:
    heading = _heading("Does it know what it does not know?")
    if found is None:
        return heading + _text("The data have no forces to judge the standard deviations by.")
    figure = _figure(9.5, 4.3)
    left, right = _row(figure, 2)
    draw.draw_uncertainty(left, found)
    draw.draw_calibration(right, found)
    rank = "" if found.spearman is None else f"; rank correlation {found.spearman:.2f}"
    words = (
        f"{'Calibrated' if found.calibrated else 'Uncalibrated'} standard deviations of force "
        f"components on {found.n_structures} structures: {100 * found.coverage['1']:.1f} % of the "
        f"errors lie within one (68.3 % for Gaussian errors), {100 * found.coverage['2']:.1f} % "
        f"within two (95.4 %){rank} (of force vectors)."
    )
    return heading + _text(words) + _image(figure, "reliability")


def _gate_section(diagnosis: Diagnosis) -> str:
    gated = diagnosis.gated
    rows = []
    for symbol, limits in diagnosis.thresholds.items():
        n, of = gated["by_species"][symbol]
        values = [f"{limits[k]:.4f}" for k in ("std_known", "width")]
        rows.append([symbol, *values, f"{n} of {of}"])
    header = [
        "", "known up to std [eV]", "penalty sets in over [eV]", "atoms beyond",
    ]  # fmt: skip
    words = (
        "Where the local standard deviation is higher than that of the training data, the energy "
        f"is a pessimistic one. {gated['n_atoms']} atoms in {gated['n_structures']} of these "
        f"{diagnosis.errors['n_structures']} structures are raised by more than 1 meV."
    )
    named = ", ".join(f"{name} ({n})" for name, n in list(gated["structures"].items())[:10])
    more = " ..." if len(gated["structures"]) > 10 else ""
    return (
        _heading("The safety net")
        + _text(words)
        + _table(header, rows)
        + (_text(f"They are in {named}{more}") if named else "")
    )


def _curves_section(diagnosis: Diagnosis) -> str:
    parts = [_heading("Beyond the data")]
    for curves, name in ((diagnosis.dimers, "dimers"), (diagnosis.compressions, "compressed")):
        if curves:
            n_rows = -(-len(curves) // 3)
            figure = _figure(4.2 * min(3, len(curves)), 3.6 * n_rows)
            panels = figure.subplots(n_rows, min(3, len(curves)), squeeze=False).ravel()
            for axes in panels[len(curves) :]:
                axes.set_axis_off()
            for axes, curve in zip(panels, curves, strict=False):
                draw.draw_curve(axes, curve)
            parts += [_table(["", "energy inward of the data"], [
                [c.name, {True: "rises throughout", False: "FALLS somewhere", None: "not known"}[
                    c.repulsive]] for c in curves
            ]), _image(figure, name)]  # fmt: skip
    parts.append(
        _text(
            "Solid: with the safety net; dashed: without; dotted: the baseline alone; shaded "
            "beyond the data; vertical: the shortest distance of the data (of crystals: 0.9 of the "
            "structure in the data)."
        )
    )
    parts += [_text(note) for note in diagnosis.notes]
    return "".join(parts)


def _suspects_section(
    warnings: Sequence[str], flagged: Sequence[Sequence[str]], n_structures: int
) -> str:
    parts = [_heading("Suspicious structures")]
    if warnings:
        parts.append(f"<ul>{''.join(f'<li>{html.escape(w)}</li>' for w in warnings)}</ul>")
    parts.append(
        _text(
            f"{len(flagged)} of {n_structures} structures contradict what all other data say"
            + (" (score: deviation in units of what is usual among its peers):" if flagged else ".")
        )
    )
    if flagged:
        parts.append(_table(["structure", "config type", "score", "what"], flagged[:MAX_SUSPECTS]))
    return "".join(parts)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _row(figure: Figure, n: int) -> list[Axes]:
    return list(figure.subplots(1, n, squeeze=False)[0])


def _heading(text: str) -> str:
    return f"<h2>{html.escape(text)}</h2>\n"


def _text(text: str) -> str:
    return f"<p>{html.escape(text)}</p>\n"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>\n"

    return f"<table>\n{line(header, 'th')}{''.join(line(row, 'td') for row in rows)}</table>\n"


def _image(figure: Figure, name: str) -> str:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    encoded = base64.b64encode(stream.getvalue()).decode()
    return f'<img alt="{html.escape(name)}" src="data:image/png;base64,{encoded}">\n'


def _page(title: str, sections: Sequence[str]) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{html.escape(title)}</h1>\n{''.join(sections)}"
        f"<p>kernelpot {__version__}</p>\n</body>\n</html>\n"
    )
