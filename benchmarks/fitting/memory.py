"""Peak memory of a fit: as estimated, within its budget, whatever the amount of data.

    python benchmarks/fitting/memory.py DATA_DIR/zuo2020-Cu/train.xyz --repeat 1 2 4
    python benchmarks/fitting/memory.py DATA_DIR/zuo2020-Si/train.xyz --memory 2GB 1GB

Every fit runs in a process of its own, whose peak resident memory the system reports.
Repeated data have the same environments: only the number of labels grows.
"""

import argparse
import json
import resource
import subprocess
import sys
import time


def fit(path: str, repeat: int, n_sparse: int, memory: str) -> None:
    """Fit, and print what it took as JSON."""
    import kernelpot as kp

    started = time.perf_counter()
    data = kp.read_dataset([path] * repeat)
    stages: dict[str, float] = {}

    def progress(stage: str, done: float, total: float) -> None:
        stages[stage] = peak()

    pot = kp.KernelPotential(n_sparse=n_sparse).fit(
        data, memory=None if memory == "free" else memory, progress=progress
    )
    note = next(n for n in pot.describe()["training"]["notes"] if "GB of memory" in n)
    found = {
        "n_structures": len(data),
        "n_rows": pot.describe()["training"]["n_rows"],
        "note": note,
        "estimate_gb": float(note.split("about ")[1].split(" GB")[0]),
        "peak_gb": peak(),
        "peak_gb_after": stages,
        "seconds": time.perf_counter() - started,
    }
    print(json.dumps(found))


def peak() -> float:
    """Peak resident memory of this process so far [GB]."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def main() -> None:
    """Run every combination and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--repeat", type=int, nargs="+", default=[1])
    parser.add_argument("--n-sparse", type=int, nargs="+", default=[1000], help="points per term")
    parser.add_argument("--memory", nargs="+", default=["free"], help="budgets, such as 2GB")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        fit(arguments.data, arguments.repeat[0], arguments.n_sparse[0], arguments.memory[0])
        return
    print("repeat  n_sparse  budget    labels  estimated  peak [GB]  time [s]")
    for n_sparse in arguments.n_sparse:
        for memory in arguments.memory:
            for repeat in arguments.repeat:
                command = [
                    sys.executable, __file__, arguments.data, "--one", "--repeat", str(repeat),
                    "--n-sparse", str(n_sparse), "--memory", memory,
                ]  # fmt: skip
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    print(
                        f"{repeat:6d}  {n_sparse:8d}  {memory:6s}  {done.stderr.splitlines()[-1]}"
                    )
                    continue
                found = json.loads(done.stdout)
                print(
                    f"{repeat:6d}  {n_sparse:8d}  {memory:6s}  {found['n_rows']:8d}  "
                    f"{found['estimate_gb']:9.2f}  {found['peak_gb']:9.2f}  {found['seconds']:8.1f}"
                )
                after = ", ".join(f"{s} {p:.2f}" for s, p in found["peak_gb_after"].items())
                print(f"        after {after}; {found['note']}", flush=True)


if __name__ == "__main__":
    main()
