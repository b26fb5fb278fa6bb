"""What the documentation shows is what the program takes."""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from aimbench.method_cards import load_method_card
from aimbench.sweep.plan import MethodPlan, Plan, Search, read_plan
from aimbench.train import phase, registry

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def block(path: str, language: str, beginning: str = "") -> str:
    """The code block of a page that is in a language and begins with a text."""
    found = BLOCK.findall((ROOT / path).read_text(encoding="utf-8"))
    (text,) = (text for kind, text in found if kind == language and text.startswith(beginning))
    return text


@pytest.mark.parametrize(
    ("page", "name", "phases"),
    [("README.md", "mine", ["train"]), ("docs/adding-a-method.md", "second_look", ["first", "again"])],
)
def test_the_methods_that_are_shown_run(
    page: str,
    name: str,
    phases: list[str],
    experiment: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = f"shown_{name}"
    path = tmp_path / f"{module}.py"
    path.write_text(block(page, "python", f"# methods/{name}/"))
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    monkeypatch.syspath_prepend(tmp_path)
    spec = importlib.util.spec_from_file_location(module, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, module, loaded)
    spec.loader.exec_module(loaded)
    record = experiment(name).run().record
    assert list(dict.fromkeys(entry["phase"] for entry in record.phases)) == phases
    assert record.code.method_source is not None


@pytest.mark.parametrize(("page", "name"), [("README.md", "mine"), ("docs/adding-a-method.md", "second_look")])
def test_the_methods_that_are_shown_pass_the_lint_that_theirs_must(page: str, name: str) -> None:
    where = str(ROOT / "methods" / name / "__init__.py")
    command = [sys.executable, "-m", "ruff", "check", "--stdin-filename", where, "-"]
    shown = block(page, "python", f"# methods/{name}/")
    done = subprocess.run(command, input=shown, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout


def test_the_card_that_is_shown_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "second_look.yaml"
    path.write_text(block("docs/adding-a-method.md", "yaml", "# methods/second_look/"))
    assert load_method_card(path).bibtex.startswith("@misc")


def test_the_plan_that_is_shown_is_one(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(block("docs/plans.md", "yaml"))
    plan = read_plan(path)
    assert all(len(plan.points(method)) == 4 for method in plan.methods)


@pytest.mark.parametrize(
    ("model", "beginning"), [(Plan, "| `"), (MethodPlan, "Of a method: "), (Search, "| `search` |")]
)
def test_the_page_on_plans_names_every_field(model: type[BaseModel], beginning: str) -> None:
    page = (ROOT / "docs" / "plans.md").read_text(encoding="utf-8")
    parts = [part.strip() for part in page.replace("|\n", "|\n\n").split("\n\n")]
    found = [part for part in parts if part.startswith(beginning)]
    text = " ".join(part.split("|")[1] if model is Plan else part for part in found)
    assert [name for name in model.model_fields if f"`{name}`" not in text] == []


def test_the_page_on_methods_names_only_fields_that_a_phase_has() -> None:
    text = (ROOT / "docs" / "adding-a-method.md").read_text(encoding="utf-8")
    table = text[text.index("**`Phase`**") : text.index("**Other things")]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    named = {name for line in rows for name in re.findall(r"`(\w+)`", line.split("|")[1])}
    assert named
    assert named <= set(phase.Phase.__dataclass_fields__)
