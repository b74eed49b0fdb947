"""Progress of a whole fit from that of its stages."""

from __future__ import annotations

from collections.abc import Mapping

from kernelpot.common.types import Progress


class Overall:
    """Turn the progress of stages into that of the whole, by what each is expected to cost.

    ``done / total`` then grows evenly in time, and ``elapsed * (total - done) / done``
    is an honest estimate of what remains. A stage without a cost counts nothing.

    Parameters
    ----------
    progress : callable
        Called as ``progress(stage, done, total)`` with the whole in milliseconds of
        expected work.
    costs : mapping of str to float
        Expected seconds of each stage, in their order.
    """

    def __init__(self, progress: Progress, costs: Mapping[str, float]) -> None:
        self.progress = progress
        self.costs = dict(costs)
        self._finished = {stage: 0.0 for stage in costs}

    def __call__(self, stage: str, done: float, total: float) -> None:
        """Report the share of a stage that is done; stages before it are complete."""
        if stage in self._finished:
            for earlier in self.costs:
                if earlier == stage:
                    break
                self._finished[earlier] = 1.0
            share = done / total if total > 0 else 1.0
            self._finished[stage] = max(self._finished[stage], min(1.0, share))
        reached = sum(self.costs[name] * share for name, share in self._finished.items())
        whole = max(sum(self.costs.values()), 1e-3)
        self.progress(stage, round(1e3 * reached), round(1e3 * whole))


def nth_of(progress: Progress, index: int, n: int) -> Progress:
    """Progress of a stage from that of the `index`-th of its `n` equal shares."""

    def report(stage: str, done: float, total: float) -> None:
        progress(stage, index + (done / total if total else 1.0), n)

    return report


def never_back(progress: Progress) -> Progress:
    """Progress that stays where it was while a stage reports less than was reported before."""
    farthest = 0.0

    def report(stage: str, done: float, total: float) -> None:
        nonlocal farthest
        farthest = max(farthest, done / total if total else 1.0)
        progress(stage, farthest * total, total)

    return report
