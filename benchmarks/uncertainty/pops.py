"""Pointwise optimal parameter sets: our formula against the package of the method's authors.

    python benchmarks/uncertainty/pops.py [--splits 4]

Needs ``pip install popsregression``. Rows of a small potential (shipped silicon, 150 sparse points
for each term), whitened by noise and prior, so that the package's ridge regression with both of its
precisions held at one is the fit itself. Half of the structures are fitted, forces of the others
predicted. The covariance of parameters that fit each label exactly is computed in two ways, which
have to agree, and the standard deviations of the package's variants are judged beside what the data
leave open: negative log-likelihood of a Gaussian after one common factor, with hindsight for all
alike [nats, of eV/Å], and rank correlation of std and error by component.
"""

import argparse
import sys
import warnings
from pathlib import Path

import numpy as np
import scipy.linalg
from popsregression import POPSRegression
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).parent / ".." / "accuracy"))

from _tables import show

import kernelpot as kp
from kernelpot.common.types import KINDS
from kernelpot.data.order import canonical_order
from kernelpot.datasets import load_silicon
from kernelpot.fit.left_out import build_rows
from kernelpot.model.calibration import ErrorModel, informative, log_loss
from kernelpot.regression.factors import TriangularFactor
from kernelpot.regression.leave_one_out import leave_one_out

# Shape and rate of the package's prior of its precisions: so large that these are their ratio.
FIXED = 1e14
VARIANTS = {
    "package, box (default)": {},
    "package, box of 5-95 %": {"percentile_clipping": 5.0},
    "package, ensemble of the upper half of leverages": {"posterior": "ensemble"},
    "package, ensemble": {"posterior": "ensemble", "leverage_percentile": 0.0},
}


def rows_of_silicon():
    """Rows of each structure, and the model they are of."""
    pot = kp.KernelPotential(n_sparse=150).fit(
        load_silicon("train"), calibrate=False, self_test=False
    )
    model = pot.model
    frames = canonical_order(load_silicon("train"))
    frames = [model.remainder(f) for f in frames if len(f) > 1]
    return model, build_rows(model.design, frames, model.noise, range(len(frames)))


def whitened(structures, noise):
    """Rows and targets in units of their noise."""
    inverse = [1.0 / rows.noise(noise.sigma) for rows in structures]
    phi = np.concatenate([r.phi * i[:, None] for r, i in zip(structures, inverse, strict=True)])
    return phi, np.concatenate([r.y * i for r, i in zip(structures, inverse, strict=True)])


def package(phi, y, **options):
    """The package's regression with the prior and noise of the rows."""
    prior = dict.fromkeys(("alpha_1", "alpha_2", "lambda_1", "lambda_2"), FIXED)
    return POPSRegression(**prior, **options).fit(phi, y)


def pops_variance(phi, residual, at):
    """Variance at rows `at`: (k_i e_i / h_i)^2, averaged, with k the posterior covariance."""
    R = np.linalg.qr(np.vstack([phi, np.eye(phi.shape[1])]), mode="r")
    inside, outside = (scipy.linalg.solve_triangular(R, a.T, trans="T") for a in (phi, at))
    leverage = np.sum(inside**2, axis=0)
    # labels that are zero by symmetry say nothing of the parameters
    exact = np.divide(residual, leverage, out=np.zeros_like(leverage), where=leverage > 0)
    return (outside.T @ inside) ** 2 @ exact**2 / len(phi)


def one_split(model, structures, seed):
    """Likelihood and rank of each candidate; greatest relative difference of the two ways."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(structures))
    fitted = [structures[i] for i in np.sort(order[::2])]
    others = [structures[i] for i in np.sort(order[1::2])]
    phi, y = whitened(fitted, model.noise)
    at, target = whitened(others, model.noise)
    unit = np.concatenate([rows.noise(model.noise.sigma) for rows in others])
    forces = np.concatenate([rows.kind for rows in others]) == KINDS.index("forces")

    factor = TriangularFactor(phi.shape[1])
    factor.update(phi, y)
    weights = factor.solve()
    left = list(leave_one_out(fitted, factor, model.noise.sigma, variance=True))
    out = np.concatenate([found.residual / found.noise for found in left])
    error = ((target - at @ weights) * unit)[forces]
    open_ = np.sqrt(factor.open_variance(at[forces])) * unit[forces]

    stds = {}
    for name, options in VARIANTS.items():
        np.random.seed(seed)  # noqa: NPY002 (the package draws from it)
        found = package(phi, y, **options)
        stds[name] = found.predict(at[forces], return_std=True)[1]
        if name == "package, ensemble":
            np.testing.assert_allclose(found.coef_, weights, atol=1e-6 * np.abs(weights).max())
            variance = np.einsum(
                "ij,jk,ik->i", at[forces], found.misspecification_sigma_, at[forces]
            )
            own = pops_variance(phi, y - phi @ weights, at[forces])
            some = own > 1e-12 * own.max()
            difference = float(np.max(np.abs(variance / own - 1.0)[some]))
    stds["our formula, residuals of structures left out"] = np.sqrt(
        pops_variance(phi, out, at[forces])
    )
    stds = {name: std * unit[forces] for name, std in stds.items()}
    kinds = np.concatenate([rows.kind for rows in fitted]) == KINDS.index("forces")
    inside = np.concatenate([np.sqrt(found.variance) for found in left])[kinds]
    residual = np.concatenate([found.residual for found in left])[kinds]
    some = informative(inside)
    stds["open part"] = open_
    stds["open part and a constant (the default)"] = ErrorModel.of(
        residual[some], inside[some]
    ).std(open_)
    used = informative(open_)
    gaussian = 0.5 * (1.0 + np.log(2.0 * np.pi))
    judged = {"constant": (log_loss(error[used], np.ones(used.sum())) + gaussian, np.nan)}
    for name, std in stds.items():
        rank = spearmanr(np.abs(error[used]), std[used]).statistic
        judged[name] = (log_loss(error[used], std[used]) + gaussian, rank)
    return judged, difference


def main():
    """Print the mean over splits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--splits", type=int, default=4)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    model, structures = rows_of_silicon()
    found = [one_split(model, structures, seed) for seed in range(arguments.splits)]
    rows = []
    for name in found[0][0]:
        nll, rank = np.mean([judged[name] for judged, _ in found], axis=0)
        rows.append([name, f"{nll:.2f}", "-" if np.isnan(rank) else f"{rank:.2f}"])
    show(("std of a force component", "NLL", "Spearman"), rows)
    print(
        "\nVariances of the ensemble by the package and by our formula differ by at most "
        f"{max(difference for _, difference in found):.0e} of themselves."
    )


if __name__ == "__main__":
    main()
