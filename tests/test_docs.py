"""The documentation: examples run, what is written from the code is complete and agrees with it."""

import doctest
import importlib
import pathlib
import re
import sys

import numpy as np
import pytest

import kernelpot as kp
from kernelpot.datasets import load_silicon

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
if not DOCS.exists():
    pytest.skip("docs/ is not beside the tests (installed package)", allow_module_level=True)
PAGES = sorted(
    page
    for page in DOCS.rglob("*.md")
    if "_build" not in page.parts and ">>> " in page.read_text(encoding="utf-8")
)


@pytest.fixture(scope="module")
def written():
    """Modules that write pages."""
    sys.path.insert(0, str(DOCS / "_ext"))
    yield {name: importlib.import_module(name) for name in ("api", "constants", "measured")}
    sys.path.remove(str(DOCS / "_ext"))


@pytest.fixture(scope="module")
def known():
    """What pages may use without saying it: data, and a small potential of them."""
    train = load_silicon("train")
    terms = [kp.SOAPTerm(r_cut=4.8, n_max=6, l_max=4, n_sparse=150)]
    pot = kp.KernelPotential(terms, baseline=[kp.Wall()])
    pot.fit(train, optimize=None, self_test=False)
    return {"kp": kp, "train": train, "test": load_silicon("test"), "pot": pot}


@pytest.mark.filterwarnings("ignore::UserWarning")  # pages use few data, as they say
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_examples_run(page, known, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = doctest.testfile(
        str(page), module_relative=False, encoding="utf-8", globs=dict(known),
        optionflags=doctest.NORMALIZE_WHITESPACE,
    )  # fmt: skip
    assert result.attempted > 0
    assert result.failed == 0


def test_every_public_name_is_in_the_reference(written):
    named = {name for names in written["api"].by_heading().values() for name in names}
    page = written["api"].page()
    public = {f"kernelpot.{name}" for name in kp.__all__ if name != "__version__"}
    assert public <= named
    assert all(f"   {name}\n" in page for name in named)


def test_what_public_functions_return_is_in_the_reference(written):
    docscrape = pytest.importorskip("numpydoc.docscrape")
    named = {n.split(".")[-1] for names in written["api"].by_heading().values() for n in names}
    missing = set()
    for name in sorted(set(kp.__all__) - {"__version__"} - _EXTENDED):
        value = getattr(kp, name)
        members = [value]
        if isinstance(value, type):
            members += [v for k, v in vars(value).items() if not k.startswith("_") and callable(v)]
        for member in members:
            for entry in docscrape.FunctionDoc(getattr(member, "__func__", member))["Returns"]:
                for word in re.findall(r"\b[A-Z]\w+", entry.type):
                    if word not in named and word not in _OTHERS:
                        missing.add((name, word))
    assert missing == set()


# Results that are classes of other packages, or None.
_OTHERS = {"None", "Atoms", "Axes", "Properties"}
# What these return is met by those alone who write a term of their own.
_EXTENDED = {
    "ACSFTerm", "CoulombMatrixTerm", "CustomTerm", "GDMLTerm", "KernelCharges", "LODETerm",
    "LinearMap",    "NeighborList", "PairTerm", "PolynomialSOAP", "SOAP", "SOAPTerm", "TripletTerm",
}  # fmt: skip


def test_every_constant_is_on_its_page_with_its_value(written):
    constants = written["constants"]
    page = constants.page()
    found = list(constants.constants())
    assert len(found) > 100
    for constant in found:
        value = getattr(importlib.import_module(constant.module), constant.name)
        assert f"`{constant.path}` = {constants.shown(value)}" in page
    assert "`fit.defaults.N_SPARSE` = fast: 300, default: 1000, accurate: 3000" in page
    assert f"`safety.thresholds.KAPPA` = {kp.VarianceGate().kappa:g}" in page


def test_constants_that_are_explained_carry_both_explanation_and_comment(written):
    constants = written["constants"]
    found = {c.path: c for c in constants.constants()}
    for part in constants.TRADES.values():
        for path, text in part.items():
            assert path in found, f"the code has no {path} any more"
            assert text.endswith((".", ")", "`", "]."))


def test_the_configuration_page_is_read(tmp_path):
    from kernelpot.cli.console import read_config

    text = (DOCS / "reference" / "configuration.md").read_text(encoding="utf-8")
    block = re.search(r"```toml\n(.*?)```", text, re.DOTALL).group(1)
    path = tmp_path / "config.toml"
    path.write_text(block, encoding="utf-8")
    config = read_config(str(path))
    assert [term.kind for term in config["terms"]] == ["soap", "pair"]
    potential = {k: v for k, v in config.items() if k in kp.KernelPotential().get_params()}
    assert kp.KernelPotential(**potential).sigma_forces == 0.05


def test_names_of_labels_are_those_that_are_read():
    from kernelpot.data import label_names

    text = (DOCS / "reference" / "labels.md").read_text(encoding="utf-8")
    for kind, names in label_names._NAMES.items():
        listed = ", ".join(f"`{name}`" for name in names)
        assert f"| {kind} | {listed} |" in text
    assert all(f"`{prefix}`" in text for prefix in label_names._PREFIXES if prefix)


def test_measured_pages_say_where_figures_come_from_and_agree_with_the_readme(written):
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    results = sorted((ROOT / "benchmarks" / "results").glob("*.txt"))
    assert results
    for path in results:
        section = written["measured"].section(path)
        assert "commit `" in section
        text = path.read_text(encoding="utf-8")
        if "# note: figures as recorded" in text:
            for row in text.splitlines():
                if row.startswith("| "):
                    assert " ".join(row.split()) in readme, f"{path.name} and README.md differ"
    pages = written["measured"].pages()
    assert set(pages) == {f"{name}.md" for name in written["measured"].PAGES}


def test_pictures_of_pages_are_there_and_small():
    for page in (DOCS / "concepts").glob("*.md"):
        for name in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / name).stat().st_size < 200_000
    concepts = {page.stem for page in (DOCS / "concepts").glob("*.md")} - {"index"}
    for name in concepts:
        text = (DOCS / "concepts" / f"{name}.md").read_text(encoding="utf-8")
        assert "![" in text, f"{name}: no picture"
        assert "## Sources" in text, f"{name}: no sources"


def test_notebooks_are_committed_as_they_ran():
    nbformat = pytest.importorskip("nbformat")
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        book = nbformat.read(path, as_version=4)
        code = [cell for cell in book.cells if cell.cell_type == "code"]
        assert all(cell.execution_count for cell in code), f"{path.name} was not executed"
        assert not [o for c in code for o in c.outputs if o.output_type == "error"]
        assert "assert" in code[-1].source
        assert path.stat().st_size < 600_000
        assert not np.any([word in path.read_text("utf-8") for word in ("/tmp/", "/home/")])
