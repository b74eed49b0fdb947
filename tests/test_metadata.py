"""What is said about the package in several places is the same, and true."""

import configparser
import pathlib
import pkgutil
import re

import pytest
from packaging.requirements import Requirement

import kernelpot as kp

ROOT = pathlib.Path(__file__).parents[1]

if not (ROOT / "setup.cfg").exists():
    pytest.skip("setup.cfg is not beside the tests (installed package)", allow_module_level=True)


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def setup():
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(read("setup.cfg"))
    return parser


def lines(text):
    return [line for line in text.splitlines() if line.strip()]


def cited(key):
    return re.search(rf'^{key}: "?([^"\n]+)"?$', read("CITATION.cff"), re.M).group(1)


def test_the_citation_is_of_this_version(setup):
    assert cited("version") == kp.__version__
    assert cited("license") == setup["metadata"]["license_expression"]
    assert cited("repository-code") == setup["metadata"]["url"]
    assert f"name: {setup['metadata']['author']}\n" in read("CITATION.cff")


def test_urls_belong_to_the_repository(setup):
    urls = dict(line.split(" = ") for line in lines(setup["metadata"]["project_urls"]))
    assert {"Source", "Issues", "Changelog"} <= set(urls)
    assert all(url.startswith(setup["metadata"]["url"]) for url in urls.values())


def test_python_versions_are_those_declared_and_tested(setup):
    found = re.findall(r"Python :: 3\.(\d+)", setup["metadata"]["classifiers"])
    minors = [int(minor) for minor in found]
    assert minors == list(range(minors[0], minors[-1] + 1))
    assert setup["options"]["python_requires"] == f">=3.{minors[0]}"
    assert f'python: ["3.{minors[0]}", "3.{minors[-1]}"]' in read(".github/workflows/tests.yml")
    assert f'target-version = "py3{minors[0]}"' in read("pyproject.toml")


def test_the_oldest_versions_tested_are_those_declared(setup):
    pins = [Requirement(line) for line in lines(read(".ci/oldest.txt")) if line[0] != "#"]
    pinned = {pin.name: pin.specifier for pin in pins}
    extras = setup["options.extras_require"]
    groups = [setup["options"]["install_requires"], extras["test"], extras["plot"], extras["dask"]]
    for requirement in (Requirement(line) for group in groups for line in lines(group)):
        (bound,) = requirement.specifier
        assert bound.operator == ">="
        # padded by zeros: 3.29 is 3.29.0
        assert bound.version in pinned[requirement.name], f"{requirement} is not {pinned}"
        assert str(pinned[requirement.name]).startswith("==")


def test_no_public_name_is_that_of_a_module():
    """Importing ``kernelpot.search`` would put the module in place of ``kp.search``."""
    modules = {module.name for module in pkgutil.iter_modules(kp.__path__)}
    assert {"baseline", "datasets", "potential", "testing"} <= modules
    assert modules.isdisjoint(kp.__all__)
    for name in kp.__all__:
        assert isinstance(getattr(kp, name), str) or callable(getattr(kp, name))
