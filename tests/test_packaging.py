import os
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_folder_with_python_files_is_in_the_wheel():
    packages = set(PROJECT["tool"]["setuptools"]["packages"])
    # Where each package root lies in the repository; the cards hold no Python.
    roots = {"aimbench": "aimbench", "methods": "aimbench.methods", "baselines": "aimbench.baselines"}
    found = {
        ".".join([name, *path.parent.relative_to(ROOT / folder).parts])
        for folder, name in roots.items()
        for path in (ROOT / folder).rglob("*.py")
    }
    lacking = sorted(found - packages)
    assert not lacking, f"add {lacking} to [tool.setuptools] packages in pyproject.toml"
    assert found == packages - {"aimbench._cards"}


def test_every_package_has_an_init_file():
    folders = {path.parent for top in ("aimbench", "methods", "baselines") for path in (ROOT / top).rglob("*.py")}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


def test_datasets_holds_no_python():
    assert list((ROOT / "datasets").rglob("*.py")) == []


def test_the_citation_agrees_with_the_project():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["project"]["version"]
    assert f"{{{citation['title']}}}" in (ROOT / "aimbench" / "results" / "cite.py").read_text(encoding="utf-8")
    assert citation["license"] == PROJECT["project"]["license"]
    # What the schema of CFF 1.2.0 requires.
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    for reference in citation["references"]:
        assert {"type", "title", "authors"} <= reference.keys()
    assert citation["references"][0]["url"] == PROJECT["project"]["urls"]["Paper"]


def test_ci_runs_what_a_contributor_runs():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text(encoding="utf-8").splitlines()
