"""The reference of the Python interface: which names there are, under which heading."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator

import kernelpot

# Packages that public names come from, in the order of the page.
HEADINGS = {
    "potential": "The potential",
    "common": "The potential",
    "fit": "The potential",
    "data": "Data",
    "model": "What a potential says",
    "terms": "Kernels",
    "baseline": "What is added to the kernels",
    "safety": "The safety net",
    "md": "Dynamics",
    "learn": "What to compute next",
    "hypersearch": "Search for better kernels",
    "plot": "Pictures and reports",
    "report": "Pictures and reports",
}
# What users meet though it is not in `kernelpot.__all__`: results, errors, warnings, modules.
BESIDE = {
    "kernelpot.model.prediction": ["PosteriorStd"],
    "kernelpot.model.calibration": ["Calibration", "Interval"],
    "kernelpot.model.committee": ["CommitteePrediction"],
    "kernelpot.model.suspects": ["Suspects", "Suspect"],
    "kernelpot.model.self_test": ["SelfTest", "UnsafePotentialWarning"],
    "kernelpot.data.label_names": ["LostLabelsWarning"],
    "kernelpot.data.doctor": ["DataReport"],
    "kernelpot.data.distances": ["DistanceFacts"],
    "kernelpot.common.archive": ["ModelFileError"],
    "kernelpot.safety.gate": ["GateWarning", "GateClosedError"],
    "kernelpot.fit.sufficiency": ["FewDataWarning"],
    "kernelpot.md.dynamics": ["run_dynamics", "Dynamics", "UnphysicalDynamicsError"],
    "kernelpot.md.bounds": ["Bounds"],
    "kernelpot.md.vibration": ["TimestepWarning"],
    "kernelpot.learn.select_frames": ["Selection"],
    "kernelpot.model.errors": ["Errors"],
    "kernelpot.hypersearch.search": ["Search"],
    "kernelpot.report.html": ["write_report"],
    "kernelpot.datasets": None,  # all of it
    "kernelpot.testing": None,
}
_LAST = {"datasets": "Shipped data", "testing": "Checking derivatives"}


def beside() -> Iterator[str]:
    """Full names of what is documented besides `kernelpot.__all__`."""
    for module_name, names in BESIDE.items():
        module = importlib.import_module(module_name)
        if names is None:
            names = [
                name
                for name, value in vars(module).items()
                if not name.startswith("_")
                and inspect.isfunction(value)
                and value.__module__ == module_name
            ]
        for name in names:
            getattr(module, name)  # a name that is gone stops the build
            yield f"{module_name}.{name}"


def by_heading() -> dict[str, list[str]]:
    """Names to document, by heading."""
    found: dict[str, list[str]] = {title: [] for title in HEADINGS.values()}
    for name, home in kernelpot._HOMES.items():
        title = HEADINGS.get(home.split(".")[0], "More")
        found.setdefault(title, []).append(f"kernelpot.{name}")
    for name in beside():
        title = {**HEADINGS, **_LAST}.get(name.split(".")[1], "More")
        found.setdefault(title, []).append(name)
    return {title: names for title, names in found.items() if names}


def page() -> str:
    """The page, in reStructuredText (autosummary writes the pages of the names)."""
    lines = ["Python", "======", ""]
    lines += [
        "Everything of ``import kernelpot as kp``, and the results, warnings and errors one meets.",
        "",
    ]
    for title, names in by_heading().items():
        lines += [title, "-" * len(title), "", ".. autosummary::", "   :toctree: api", ""]
        lines += [f"   {name}" for name in sorted(names, key=lambda n: (n.count("."), n.lower()))]
        lines.append("")
    return "\n".join(lines)
