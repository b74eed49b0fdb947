"""The labels streamed by the workers of a Dask cluster.

Only frames travel to the workers, and triangular factors between them. Parts, batches
and the order of merging are those of one process, and so is the result.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from kernelpot.common.parallel import single_blas_thread
from kernelpot.common.types import Progress
from kernelpot.fit.accumulation import BATCH_BYTES, BRANCH, FactorTree, Labels
from kernelpot.gp.design import Design
from kernelpot.regression.factors import GroupedFactor

if TYPE_CHECKING:
    from distributed import Client


# A part is tried again on another worker this often before the fit gives up.
RETRIES = 5


def accumulate_on(
    client: Client,
    labels: Labels,
    *,
    batch_bytes: float = BATCH_BYTES,
    progress: Progress | None = None,
) -> GroupedFactor:
    """Stream the labels on the workers of a cluster; `accumulate` otherwise.

    A worker that dies costs the parts it held: others make them again.

    Parameters
    ----------
    client : distributed.Client
        Its workers need kernelpot of the same version.
    labels : Labels
    batch_bytes : float
        Memory for the rows of a batch.
    progress : callable, optional
        Told the share of the work that is done.

    Returns
    -------
    GroupedFactor
        Equal to that of `accumulate`.
    """
    design = client.scatter(labels.design, broadcast=True)
    parts = labels.parts(batch_bytes)
    total = sum(labels.work(batch) for part in parts for batch in part)
    done = 0.0

    def finished(work: float) -> Any:
        def report(_: object) -> None:
            nonlocal done
            done += work
            if progress is not None:
                progress("labels", done, total)

        return report

    branch = trunk = None
    for index, part in enumerate(parts, start=1):
        indices = [i for batch in part for i in batch]
        own = labels.take(indices)
        sizes = list(map(len, part))
        factor = client.submit(
            part_factor, design, own.frames, own.noise, sizes, own.apart,
            pure=False, retries=RETRIES,
        )  # fmt: skip
        factor.add_done_callback(finished(sum(map(labels.work, part))))
        branch = _merged_on(client, branch, factor)
        if index % BRANCH == 0:
            trunk, branch = _merged_on(client, trunk, branch), None
        del factor  # nothing here holds what the workers no longer need
    if branch is not None:
        trunk = _merged_on(client, trunk, branch)
        del branch
    assert trunk is not None
    result: GroupedFactor = deepcopy(trunk.result())  # arrays from the wire may be read-only
    labels.add_prior(result)
    return result


def _merged_on(client: Client, left: Any, right: Any) -> Any:
    if left is None:
        return right
    return client.submit(merged, left, right, pure=False, retries=RETRIES)


def part_factor(
    design: Design, frames: Any, noise: Any, sizes: list[int], apart: frozenset[int]
) -> GroupedFactor:
    """Factor of one part from zero; its batches are consecutive, of `sizes` frames."""
    labels = Labels(design, frames, noise, apart=apart)
    tree = FactorTree(design.n_columns)
    start = 0
    with single_blas_thread():
        for k, size in enumerate(sizes, start=1):
            batch = list(range(start, start + size))
            tree.add(labels.rows(batch), closes_part=k == len(sizes))
            start += size
        return tree.result()


def merged(left: GroupedFactor, right: GroupedFactor) -> GroupedFactor:
    """Factor of both; the arguments, which a retry may need again, stay as they are."""
    result = deepcopy(left)
    with single_blas_thread():
        result.merge(right)
    return result
