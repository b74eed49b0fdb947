"""Sparse points or a whole quadratic form: what the default is for compounds.

Molecules have a whole form by default, and elements sparse points; both are known before the
fit. For compounds it depends: where environments are of many kinds and structures few, a form
predicted the forces of structures left out with errors smaller by a quarter to a half (quartz,
clusters on an oxide); where cells are near rest, or labels many, sparse points were as good or
better (`benchmarks/accuracy/README.md`). So where labels are few enough for two fits both are
made, and structures left out decide, under the rule of the choice of noise: the form is taken
where it predicts them better beyond doubt, and no kind of label or config type worse.
"""

from __future__ import annotations

from collections.abc import Sequence

from kernelpot.data.dataset import Dataset
from kernelpot.fit.defaults import is_of_molecules
from kernelpot.fit.limits import Limits
from kernelpot.fit.noise import MINIMUM_STRUCTURES, is_worthwhile
from kernelpot.fit.scores import Errors, in_words
from kernelpot.fit.settings import Settings
from kernelpot.regression.leave_one_out import LeftOut

# Labels up to which both are fitted: a form takes one to five times as long as sparse points.
MAX_LABELS = 10_000
# Standard errors that the form's gain must exceed: neither basis is a start that should stay.
SIGNIFICANCE = 1.0


def is_open(data: Dataset, settings: Settings, optimize: str | None) -> bool:
    """Whether structures left out are to decide.

    Parameters
    ----------
    data : Dataset
    settings : Settings
        What the user gave: with terms, a number of sparse points, charges or the preset
        ``fast`` nothing is open.
    optimize : str or None
        How hyper-parameters are chosen; without leaving structures out nothing is open.

    Returns
    -------
    bool
    """
    labelled = [f for f in data if len(f) > 1 and f.n_rows]
    return (
        settings.terms is None
        and settings.n_sparse is None
        and settings.charges is None
        and settings.preset != "fast"
        and optimize == "loo"
        and len(data.species) > 1
        and not is_of_molecules(data)
        and len(labelled) >= MINIMUM_STRUCTURES
        and sum(f.n_rows for f in labelled) <= MAX_LABELS
    )


def is_form_better(
    sparse: Sequence[LeftOut], form: Sequence[LeftOut], config_types: Sequence[str]
) -> tuple[bool, str]:
    """Compare errors of the same structures, left out of both in the same folds.

    Parameters
    ----------
    sparse, form : sequence of LeftOut
        Errors of each structure.
    config_types : sequence of str
        Of all frames.

    Returns
    -------
    better : bool
    compared : str
        The figures, for the user.
    """
    by_frame = [{left.rows.index: left for left in found} for found in (sparse, form)]
    common = sorted(set(by_frame[0]) & set(by_frame[1]))
    if len(common) < MINIMUM_STRUCTURES:
        return False, f"{len(common)} structures left out of both are too few to compare them"
    types = [config_types[index] for index in common]
    before, after = (Errors.of([found[i] for i in common]) for found in by_frame)
    limits = Limits.of(before, types)
    words = [
        f"{kind} {in_words(before.mean()[kind])} and {in_words(after.mean()[kind])} {unit}"
        for kind, unit in (("energy", "eV/atom"), ("forces", "eV/Å"), ("stress", "eV/Å^3"))
        if before.mean()[kind] is not None
    ]
    compared = f"{len(common)} structures left out, {', '.join(words)}"
    if not limits.allow(after):
        return False, f"{compared}; it would raise that of {limits.worst(after)}"
    if not is_worthwhile(before, after, types, SIGNIFICANCE):
        return False, f"{compared}; the difference is within doubt"
    return True, compared
