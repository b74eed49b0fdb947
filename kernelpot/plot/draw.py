"""Numbers onto axes: one function for each kind of picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kernelpot.common.axes import (
    COLORS,
    GREY,
    PANEL,
    SCALE,
    evenly,
    few_ticks,
    legend,
    legend_below,
    new_axes,
    note,
    plain_log_ticks,
    points,
)
from kernelpot.plot.comparison import UNITS, Parity, Reliability
from kernelpot.plot.environments import EnvironmentMap
from kernelpot.plot.learning import ERRORS, LearningCurve
from kernelpot.plot.scans import Curve
from kernelpot.safety.gate import NOTICEABLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMES = {"energy": "energy", "forces": "force component", "stress": "stress component"}
WALL, GATED, UNGATED = "black", COLORS[0], COLORS[1]
# A panel with its legend below [inches].
SCAN = (PANEL[0], PANEL[1] + 0.9)
# So much over the lowest energy a scan is drawn at most [eV], of one curve and of several.
HIGHEST, HIGHEST_OF_SEVERAL = 20.0, 10.0


def draw_parity(axes: Axes | None, found: Parity, *, label: str | None = None) -> Axes:
    """Predictions against labels, by config type or all alike under `label`."""
    first = axes is None or not axes.lines
    axes = new_axes(axes)
    names = found.groups if label is None else [label] * len(found.label)
    if label is None:
        points(axes, found.label, found.predicted, names)
    else:
        # every call of its own colour
        points(
            axes,
            found.label,
            found.predicted,
            names,
            color=COLORS[len(axes.get_legend_handles_labels()[0]) % len(COLORS)],
        )
    if first:
        axes.axline((0.0, 0.0), slope=1.0, color="black", linewidth=0.8, zorder=1)
    low = min(float(found.label.min()), float(found.predicted.min()))
    high = max(float(found.label.max()), float(found.predicted.max()))
    margin = 0.05 * (high - low) + 1e-12
    if not first:
        low, high = min(low, axes.get_xlim()[0] + margin), max(high, axes.get_xlim()[1] - margin)
    name, unit = NAMES[found.kind], UNITS[found.kind]
    axes.set(
        xlabel=f"label, {name} [{unit}]",
        ylabel=f"prediction [{unit}]",
        xlim=(low - margin, high + margin),
        ylim=(low - margin, high + margin),
    )
    few_ticks(axes)
    if label is None:
        scale, small = (1e3, "meV/atom") if found.kind == "energy" else (1.0, unit)
        note(axes, f"MAE {scale * found.mae:.3g}, RMSE {scale * found.rmse:.3g} {small}")
    legend(axes, loc="upper left")
    return axes


def draw_uncertainty(axes: Axes | None, found: Reliability) -> Axes:
    """Errors of force components against their predicted standard deviations."""
    axes = new_axes(axes)
    error = np.abs(found.error)
    floor = max(1e-6, 1e-2 * float(found.bin_rmse.min()))
    drawn = evenly(len(error))
    axes.loglog(
        found.std[drawn],
        np.maximum(error[drawn], floor),
        linestyle="none",
        marker=".",
        markersize=2,
        color="#b0b0b0",
        rasterized=True,
        label="one component",
    )
    axes.loglog(
        found.bin_std, found.bin_rmse, "o-", color=COLORS[1], label="root mean square of a tenth"
    )
    ends = [float(found.bin_std.min()), float(found.bin_std.max())]
    axes.loglog(ends, ends, color="black", linewidth=1, label="error = std")
    axes.set(
        xlabel="predicted std [eV/Å]",
        ylabel="error of a force component [eV/Å]",
        ylim=(floor, 2 * float(error.max()) + 1e-12),
    )
    legend(axes, loc="lower right")
    return axes


def draw_calibration(axes: Axes | None, found: Reliability) -> Axes:
    """Share of errors within intervals against the share that these promise."""
    axes = new_axes(axes)
    percent = 100 * found.promised
    axes.plot([0, 100], [0, 100], color="black", linewidth=0.8, zorder=1)
    if found.covered is not None:
        axes.plot(percent, 100 * found.covered, "o-", color=COLORS[0], label="intervals")
    axes.plot(
        percent,
        100 * found.covered_gaussian,
        "s--",
        color=COLORS[1],
        markersize=4,
        label="std, taken as Gaussian",
    )
    axes.set(
        xlabel="promised [% of force components]",
        ylabel="found within [%]",
        xlim=(0, 100),
        ylim=(0, 100),
    )
    legend(axes, loc="upper left")
    return axes


def draw_curve(axes: Axes | None, curve: Curve, *, title: bool = True) -> Axes:
    """A scan with the gate and without, the wall (baseline), and where the data are."""
    axes = new_axes(axes, size=SCAN)
    beyond = (curve.penalty > NOTICEABLE).tolist()
    strip = {"where": beyond, "step": "mid", "color": "black", "linewidth": 0}
    across = axes.get_xaxis_transform()
    axes.fill_between(curve.x, 0, 1, alpha=0.06, transform=across, **strip)
    axes.fill_between(curve.x, 0, 0.03, alpha=0.6, transform=across, label="gate acts", **strip)
    axes.plot(curve.x, curve.ungated, "--", color=UNGATED, label="kernels alone")
    axes.fill_between(
        curve.x,
        curve.ungated - 2 * curve.energy_std,
        curve.ungated + 2 * curve.energy_std,
        color=UNGATED,
        alpha=0.2,
        linewidth=0,
        label="± 2 std",
    )
    axes.plot(curve.x, curve.gated, "-", color=GATED, linewidth=2, label="with the gate")
    axes.plot(curve.x, curve.baseline, ":", color=WALL, linewidth=1.5, label="wall and baseline")
    if curve.mark is not None:
        label = "shortest in the data" if curve.mark == curve.contact else "structure as it is"
        axes.axvline(curve.mark, color=GREY, linewidth=1, linestyle="-.", label=label)
    axes.set(
        xlabel=curve.x_label,
        ylabel=curve.y_label,
        xlim=(float(curve.x.min()), float(curve.x.max())),
        ylim=_limits([curve], HIGHEST),
    )
    if title and curve.name:
        axes.set_title(curve.name, fontsize="medium")
    legend_below(axes)
    return axes


def draw_dimers(axes: Axes | None, curves: Sequence[Curve]) -> Axes:
    """Dimers of several pairs of species with the gate; faint where the gate acts."""
    if len(curves) == 1:
        return draw_curve(axes, curves[0], title=False)
    axes = new_axes(axes, size=SCAN)
    for k, curve in enumerate(curves):
        color = COLORS[k % len(COLORS)]
        style = ("-", "--", "-.", ":")[(k // len(COLORS)) % 4]
        beyond = curve.penalty > NOTICEABLE
        known = np.where(beyond, np.nan, curve.gated)
        axes.plot(curve.x, curve.gated, style, color=color, linewidth=1, alpha=0.6)
        axes.plot(curve.x, known, style, color=color, linewidth=2.5, label=curve.name)
        if curve.mark is not None:
            height = float(np.interp(curve.mark, curve.x, curve.gated))
            axes.plot([curve.mark], [height], "o", color=color, markersize=5)
    axes.set(
        xlabel="distance [Å]",
        ylabel="energy over free atoms [eV]",
        xlim=(min(float(c.x.min()) for c in curves), max(float(c.x.max()) for c in curves)),
        ylim=_limits(curves, HIGHEST_OF_SEVERAL),
    )
    title = "thin: gate acts; dots: shortest in the data"
    legend_below(axes, ncols=4, title=title, title_fontsize="small")
    return axes


def draw_map(axes: Axes | None, found: EnvironmentMap) -> Axes:
    """Environments by likeness, coloured by local std, and the sparse points among them."""
    axes = new_axes(axes)
    order = np.argsort(found.std, kind="stable")
    if len(found.points):
        axes.plot(
            *found.points.T,
            linestyle="none",
            marker="o",
            markersize=6,
            markerfacecolor="none",
            markeredgewidth=0.8,
            color=COLORS[1],
            alpha=0.7,
            label=f"{len(found.points)} sparse points",
        )
    first, second = found.x[order].T
    drawn = axes.scatter(
        first,
        second,
        c=found.std[order],
        s=8,
        zorder=3,
        cmap=SCALE,
        linewidths=0,
        rasterized=True,
        label=f"{found.symbol} in the data",
    )
    bar = axes.figure.colorbar(drawn, ax=axes, shrink=0.9)
    bar.set_label("local std [eV]")
    along = (f"{100 * share:.0f} % of variance" for share in found.explained)
    x_share, y_share = along
    axes.set(
        xlabel=f"first component ({x_share})",
        ylabel=f"second component ({y_share})",
        title=f"environments of {found.symbol}",
    )
    axes.title.set_fontsize("medium")
    legend(axes, loc="best")
    return axes


def draw_learning_curve(axes: Axes | None, found: LearningCurve, label: str | None = None) -> Axes:
    """Error on test structures against the number of structures fitted."""
    axes = new_axes(axes)
    color = COLORS[len(axes.lines) % len(COLORS)]
    axes.loglog(found.sizes, found.mae, "o-", color=color, label=label)
    axes.set(
        xlabel="structures fitted",
        ylabel=f"MAE, {NAMES[found.kind]} [{ERRORS[found.kind][1]}]",
    )
    for axis, own in zip(
        (axes.xaxis, axes.yaxis),
        zip(*(line.get_data() for line in axes.lines), strict=True),
        strict=True,
    ):
        values = np.concatenate([np.asarray(v, dtype=float) for v in own])
        plain_log_ticks(axis, float(values.min()), float(values.max()))
    axes.set_xticks(found.sizes)
    legend(axes)
    return axes


def _limits(curves: Sequence[Curve], at_most: float) -> tuple[float, float]:
    """Heights between which a scan is drawn: what binds, and the foot of the wall."""
    low = min(0.0, *(float(curve.gated.min()) for curve in curves))
    top = low
    for curve in curves:
        trusted = curve.ungated[curve.penalty < 1.0]
        low = min(low, float(np.min(trusted, initial=0.0)))
        outward = curve.gated if curve.contact is None else curve.gated[curve.x >= curve.contact]
        top = max(top, float(np.max(outward, initial=0.0)))
    # the wall is orders of magnitude higher than what binds
    height = min(top - low, at_most)
    return low - 0.1 * height - 0.2, low + 1.5 * height + 1.0
