"""Docstrings of the public interface, checked by numpydoc's rules."""

import inspect

import pytest

import kernelpot as kp

validate = pytest.importorskip("numpydoc.validate").validate

MODULES = ("kernelpot.datasets", "kernelpot.testing")
# layout, summary, every parameter documented with a type and nothing else, returns
CHECKS = {
    "GL03", "GL05", "GL06", "GL07", "GL08", "GL09", "GL10", "SS02", "SS04", "PR01", "PR02",
    "PR03", "PR04", "PR10", "RT01",
}  # fmt: skip


def public_objects():
    names = [f"kernelpot.{name}" for name in kp.__all__ if name != "__version__"]
    for module in MODULES:
        imported = __import__(module, fromlist=["_"])
        names += [
            f"{module}.{name}"
            for name, value in vars(imported).items()
            if not name.startswith("_") and inspect.isfunction(value) and value.__module__ == module
        ]
    for name in list(names):
        value = getattr(kp, name.split(".")[1], None)
        if inspect.isclass(value):
            names += [
                f"{name}.{method}"
                for method, member in vars(value).items()
                if not method.startswith("_")
                and (inspect.isfunction(member) or isinstance(member, (property, classmethod)))
            ]
    return names


@pytest.mark.parametrize("name", public_objects())
def test_docstring(name):
    found = validate(name)
    is_property = isinstance(inspect.getattr_static(_parent(name), name.split(".")[-1]), property)
    errors = [
        f"{code} {text}"
        for code, text in found["errors"]
        if code in CHECKS and not (code == "RT01" and is_property)
    ]
    assert errors == []


def _parent(name):
    parts = name.split(".")
    value = __import__(parts[0])
    for k, part in enumerate(parts[1:-1], 2):
        if not hasattr(value, part):
            __import__(".".join(parts[:k]))
        value = getattr(value, part)
    return value
