"""Published GAPs, translated by import-gap, against their published errors.

The commands are those of Zuo et al. (J. Phys. Chem. A 124, 731, 2020) as the code of that paper
puts them together (mlearn/potentials/gap.py of materialsvirtuallab/mlearn), with the values
published for each element; errors published for GAP as listed by ACEpotentials.jl
(examples/zuobench).

    python benchmarks/accuracy/from_gap.py DATA_DIR --elements Si
    python benchmarks/accuracy/from_gap.py DATA_DIR --elements Si --weights 0.05 0.2 1.0

The first fits the configuration as it comes and reads the test file. The second does not read it: a
seventh of the training file is kept from fits with other weights of the central atom.
"""

import argparse
import os
import tempfile

import ase.io
from _tables import run, show

import kernelpot as kp
from kernelpot.cli.from_gap import translate
from kernelpot.cli.gap_command import parse_gap_command

# cutoff [Å], sparse points, published errors: energy [meV/atom], forces [eV/Å, two digits]
PUBLISHED = {
    "Ni": (3.9, 4000, "0.42", "0.02"),
    "Cu": (4.1, 4000, "0.46", "0.01"),
    "Li": (4.8, 4000, "0.49", "0.01"),
    "Mo": (5.2, 2000, "2.24", "0.09"),
    "Si": (5.4, 1000, "2.91", "0.07"),
    "Ge": (5.4, 2000, "2.06", "0.05"),
}
COMMAND = (
    "teach_sparse at_file={train} gap={{soap l_max=8 n_max=8 atom_sigma=0.5 zeta=4 cutoff={cutoff} "
    "cutoff_transition_width=0.5 delta=1.0 f0=0.0 n_sparse={n_sparse} covariance_type=dot_product "
    "sparse_method=cur_points}} sparse_jitter=1e-08 e0=0.0 e0_offset=0.0 "
    "default_sigma={{0.01 0.05 0.05 0.01}} energy_parameter_name=REF_energy "
    "force_parameter_name=REF_forces gp_file=gap.xml"
)


def translated(train, element):
    """Configuration of the published command, as import-gap writes it."""
    cutoff, n_sparse, *_ = PUBLISHED[element]
    command = COMMAND.format(train=train, cutoff=cutoff, n_sparse=n_sparse)
    return translate(parse_gap_command(command), kp.read_dataset(train)).to_toml()


def main():
    """Print one row per element, or per weight."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir")
    parser.add_argument("--elements", nargs="+", default=["Si"])
    parser.add_argument("--weights", nargs="+", default=[], help="central_weight to compare")
    parser.add_argument("--output", help="CSV file")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for element in arguments.elements:
            data = os.path.join(arguments.data_dir, f"zuo2020-{element}")
            train, test = (os.path.join(data, name) for name in ("train.xyz", "test.xyz"))
            text = translated(train, element)
            config = os.path.join(folder, "fit.toml")
            options = ["--config", config, "--no-self-test"]
            if arguments.weights:
                frames = ase.io.read(train, ":", format="extxyz")
                train, test = (os.path.join(folder, name) for name in ("fit.xyz", "kept.xyz"))
                kept = [k % 7 == 3 for k in range(len(frames))]
                for path, wanted in ((train, False), (test, True)):
                    own = [f for f, k in zip(frames, kept, strict=True) if k is wanted]
                    ase.io.write(path, own, format="extxyz")
            for weight in arguments.weights or [None]:
                line = "" if weight is None else f"central_weight = {weight}\n"
                with open(config, "w", encoding="utf-8") as stream:
                    stream.write(text + line)
                fit, errors = run(train, test, options)
                rows.append(
                    [
                        element,
                        "as imported" if weight is None else weight,
                        f"{errors['energy_mae_mev_per_atom']:.2f}",
                        "-" if arguments.weights else PUBLISHED[element][2],
                        f"{errors['forces_mae_ev_per_ang']:.4f}",
                        "-" if arguments.weights else PUBLISHED[element][3],
                        f"{fit['wall_seconds']:.0f}",
                    ]
                )
    header = [
        "element", "central weight", "E MAE [meV/atom]", "published GAP", "F MAE [eV/Å]",
        "published GAP", "fit [s]",
    ]  # fmt: skip
    show(header, rows, arguments.output)


if __name__ == "__main__":
    main()
