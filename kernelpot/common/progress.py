"""A bar that shows how far long work is, in a terminal and in a notebook."""

from __future__ import annotations

import sys
from typing import Any, TypeVar

_Self = TypeVar("_Self", bound="ProgressBar")


class ProgressBar:
    """Progress with the time that remains, for every ``progress`` argument.

    Of tqdm: as text in a terminal, as a widget in a notebook (with ipywidgets; else as text).
    Nothing is shown where standard error is neither, such as a file or a pipe. One bar is shown
    as long as the whole is the same, and taken away when it is done.

    Examples
    --------
    >>> import kernelpot as kp
    >>> from kernelpot.datasets import load_silicon
    >>> terms = [kp.SOAPTerm(r_cut=4.0, n_max=4, l_max=3, n_sparse=50)]
    >>> with kp.ProgressBar() as bar:
    ...     pot = kp.KernelPotential(terms).fit(
    ...         load_silicon(), optimize=None, self_test=False, progress=bar
    ...     )
    """

    def __init__(self) -> None:
        self._bar: Any = None

    def __call__(self, stage: str, done: float, total: float) -> None:
        """Show that `done` of `total` is done, in the stage of this name."""
        if not _is_watched():
            return
        from tqdm.auto import tqdm

        if self._bar is not None and (done < self._bar.n or total != self._bar.total):
            self.close()
        if self._bar is None:
            # counts mean nothing to the user where they are weighted by cost
            shown = "{l_bar}{bar}| {elapsed} passed, {remaining} left"
            self._bar = tqdm(total=total, desc=stage, leave=False, bar_format=shown)
        self._bar.set_description(stage, refresh=False)
        self._bar.n = done
        self._bar.refresh()
        if done >= total:
            self.close()

    def __enter__(self: _Self) -> _Self:
        """Show progress within a block, and take the bar away however it ends."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Take the bar away."""
        self.close()

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _is_watched() -> bool:
    """Whether somebody looks: a terminal, or a notebook."""
    if "ipykernel" in sys.modules and "IPython" in sys.modules:
        shell = sys.modules["IPython"].get_ipython()
        if shell is not None and hasattr(shell, "kernel"):
            return True
    return sys.stderr.isatty()
