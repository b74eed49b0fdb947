"""Fit and evaluate through the command line; one row of figures per data set."""

import csv
import json
import os
import subprocess
import sys
import tempfile


def run(train, test, options=()):
    """Fit `train` with the defaults and evaluate `test`; return both JSON reports."""
    with tempfile.TemporaryDirectory() as folder:
        model = os.path.join(folder, "model.kpot")
        reports = []
        for verb in (["fit", train, "-o", model, *options], ["evaluate", model, test]):
            path = os.path.join(folder, "report.json")
            command = [sys.executable, "-m", "kernelpot.cli", *verb, "--quiet", "--json", path]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            with open(path) as stream:
                reports.append(json.load(stream))
    return reports


def show(header, rows, output=None):
    """Print a markdown table and write the same as CSV if asked."""
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)
    if output:
        with open(output, "w", newline="") as stream:
            csv.writer(stream).writerows([header, *rows])
