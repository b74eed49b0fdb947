"""How pictures look: axes in and out, sizes for a phone, colours that everybody can tell apart.

matplotlib is imported when something is drawn, and not before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kernelpot.common.types import Array, FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# One panel [inches]: its text of 10 points is as high as that of a page 390 pixels wide.
PANEL = (4.4, 3.5)
# Colours of Okabe and Ito (Color Universal Design, 2008), told apart with any colour vision;
# markers of the same groups, for print without colour.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
GREY = "#6b6b6b"
# A scale of colours that stays one in grey and with any colour vision.
SCALE = "cividis"
# More points than these only make a picture slow.
MAX_DRAWN = 20_000
# What is left when there are more groups than colours.
OTHERS = "others"


def new_axes(axes: Axes | None = None, *, size: tuple[float, float] = PANEL) -> Axes:
    """Return the axes that were given, or make a figure of one panel.

    Parameters
    ----------
    axes : matplotlib.axes.Axes, optional
    size : (float, float)
        Of a new figure [inches].

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    if axes is None:
        require_matplotlib()
        from matplotlib import pyplot

        _, axes = pyplot.subplots(figsize=size, layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, linewidth=0.5, alpha=0.4)
    axes.set_axisbelow(True)
    return axes


def require_matplotlib() -> None:
    """Say how to get matplotlib where it is not installed.

    Raises
    ------
    ImportError
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "pictures are drawn with matplotlib, which is not installed: pip install matplotlib"
        ) from error


def grouped(names: Iterable[str]) -> tuple[list[str], Array]:
    """Names to tell apart by colour, most frequent first, and the number of each entry's.

    Parameters
    ----------
    names : iterable of str
        Of the group of each entry.

    Returns
    -------
    shown : list of str
        At most as many as there are colours, the last of them `OTHERS` where there are more.
    number : ndarray of int
        Of each entry, in `shown`.
    """
    found, inverse, counts = np.unique(
        np.array(list(names), dtype=str), return_inverse=True, return_counts=True
    )
    order = np.argsort(-counts, kind="stable")
    place = np.empty(len(found), dtype=np.int64)
    place[order] = np.arange(len(found))
    shown = [str(found[k]) for k in order]
    if len(shown) > len(COLORS):
        last = len(COLORS) - 1
        shown = [*shown[:last], OTHERS]
        place = np.minimum(place, last)
    return shown, place[inverse]


def evenly(n: int, at_most: int = MAX_DRAWN) -> slice:
    """Choose every so many of `n` that no more than `at_most` are left."""
    return slice(None, None, max(1, -(-n // at_most)))


def points(axes: Axes, x: FloatArray, y: FloatArray, groups: Sequence[str], **style: Any) -> None:
    """Draw points in the colours and markers of their groups, the largest group below.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    x, y : ndarray of shape (n,)
    groups : sequence of str
        The group of each.
    **style
        For `matplotlib.axes.Axes.plot`.
    """
    shown, number = grouped(groups)
    chosen = np.arange(len(x))[evenly(len(x))]
    size = 4.0 if len(chosen) < 5000 else 2.5
    for k, name in enumerate(shown):
        own = chosen[number[chosen] == k]
        look: dict[str, Any] = {
            "linestyle": "none",
            "marker": MARKERS[k],
            "color": COLORS[k],
            "label": name,
            "markersize": size,
            "markeredgewidth": 0,
            "alpha": 0.7,
            "rasterized": True,
        }
        axes.plot(x[own], y[own], **(look | style))


def legend(axes: Axes, **options: Any) -> None:
    """Add a legend that covers as little as it can, where there is something to tell apart."""
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        axes.legend(
            **{"fontsize": "small", "framealpha": 0.85, "markerscale": 1.5, **options},
        )


def legend_below(axes: Axes, **options: Any) -> None:
    """Add a legend under the axes, where it covers nothing."""
    legend(
        axes,
        **{
            "loc": "upper center",
            "bbox_to_anchor": (0.5, -0.17),
            "ncols": 2,
            "frameon": False,
            "borderaxespad": 0.2,
            "handlelength": 1.6,
            "columnspacing": 1.2,
            **options,
        },
    )


def few_ticks(axes: Axes) -> None:
    """So few numbers on the axes that they do not run into each other on a phone."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(6))


def plain_log_ticks(axis: Any, low: float, high: float) -> None:
    """Plain numbers on a logarithmic axis, more of them where it spans less than a decade.

    Parameters
    ----------
    axis : matplotlib.axis.Axis
    low, high : float
        What is drawn.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    short = high < 5 * low
    axis.set_major_locator(MaxNLocator(5) if short else LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def note(axes: Axes, text: str) -> None:
    """Write a line into the corner where a parity plot has no points."""
    axes.text(
        0.98, 0.03, text, transform=axes.transAxes, ha="right", va="bottom", fontsize="small"
    )  # fmt: skip
