"""Growth of the time of a fit with sparse points and with structures, as exponents.

    python benchmarks/fitting/scaling.py DATA_DIR/zuo2020-Si/train.xyz
    python benchmarks/fitting/scaling.py DATA_DIR/zuo2020-Si/train.xyz --n-sparse 500 4000

Stages are timed one by one: choosing sparse points, streaming the labels, solving.
Exponents are slopes of log time against log size by least squares; below some 1,000
points building rows (linear in points) outweighs annihilating them (quadratic).
"""

import argparse
import time

import numpy as np

import kernelpot as kp
from kernelpot.common.parallel import thread_count
from kernelpot.fit.pipeline import accumulate, select
from kernelpot.fit.plan import plan_memory
from kernelpot.fit.problem import prepare
from kernelpot.fit.settings import Settings
from kernelpot.fit.solution import solve

STAGES = ("sparse points", "labels", "solution")


def stages(data: kp.Dataset, n_sparse: int) -> list[float]:
    """Seconds of each stage of a fit with `n_sparse` points in each of two terms."""
    settings = Settings(n_sparse=n_sparse)
    problem = prepare(data, settings)
    plan = plan_memory(problem, settings, thread_count(), None)
    marks = [time.perf_counter()]
    state = select(problem, settings, plan)
    marks.append(time.perf_counter())
    grouped = accumulate(problem, state, plan)
    marks.append(time.perf_counter())
    solve(problem, state, grouped)
    marks.append(time.perf_counter())
    return list(np.diff(marks))


def table(name: str, sizes: list[int], seconds: list[list[float]]) -> None:
    """Print times and exponents."""
    print(f"\n{name:>12s}" + "".join(f"{stage:>15s}" for stage in (*STAGES, "all")))
    rows = [[*row, sum(row)] for row in seconds]
    for size, row in zip(sizes, rows, strict=True):
        print(f"{size:12d}" + "".join(f"{t:13.2f} s" for t in row))
    if len(sizes) > 1:
        slopes = np.polyfit(np.log(sizes), np.log(rows), 1)[0]
        print(f"{'exponent':>12s}" + "".join(f"{slope:15.2f}" for slope in slopes), flush=True)


def main() -> None:
    """Vary one size at a time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--n-sparse", type=int, nargs="+", default=[500, 1000, 2000, 4000])
    parser.add_argument("--frames", type=int, nargs="+", default=[25, 50, 100, 200])
    parser.add_argument("--fixed-n-sparse", type=int, default=500)
    parser.add_argument("--fixed-frames", type=int, default=100)
    arguments = parser.parse_args()
    whole = kp.read_dataset(arguments.data)
    order = np.random.default_rng(0).permutation(len(whole))

    def some(n: int) -> kp.Dataset:
        return kp.Dataset([whole[i] for i in order[:n]])

    stages(some(2), 30)  # load compiled code
    found = [stages(some(arguments.fixed_frames), n) for n in arguments.n_sparse]
    table("per term", arguments.n_sparse, found)
    counts = [n for n in arguments.frames if n <= len(whole)]
    table("structures", counts, [stages(some(n), arguments.fixed_n_sparse) for n in counts])


if __name__ == "__main__":
    main()
