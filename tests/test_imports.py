import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_our_datasets_folder_does_not_shadow_hugging_faces_library():
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import datasets; print(datasets.__file__)"
    assert not Path(run_python(code + "; datasets.load_dataset")).is_relative_to(ROOT / "datasets")


@pytest.mark.parametrize(
    "modules",
    [
        "aimbench.record",
        "aimbench.cards",
        "aimbench.results.store, aimbench.results.tables, aimbench.results.render, "
        "aimbench.results.reference, aimbench.results.validate, aimbench.results.summary, "
        "aimbench.metrics.groups",
    ],
)
def test_records_results_and_cards_import_without_torch(modules):
    assert run_python(f"import sys, {modules}; print('torch' in sys.modules)") == "False"


def test_a_methods_settings_are_read_without_the_libraries_that_only_training_needs():
    heavy = "{'timm', 'torchvision', 'lightning_fabric', 'torchmetrics'}"
    code = f"import sys, aimbench.methods.aim; print({heavy} & {{*sys.modules}})"
    assert run_python(code) == "set()"


def test_the_engine_imports_no_method():
    # import-linter does not see the mapped packages aimbench.methods and aimbench.baselines.
    offenders = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in (ROOT / "aimbench").rglob("*.py")
        for name in _imported(path)
        if name.startswith(("aimbench.methods", "aimbench.baselines"))
    ]
    assert offenders == []


def test_methods_import_the_api_and_themselves_alone():
    allowed = ("aimbench.train.api.", "aimbench.methods.", "aimbench.baselines.")
    files = [path for folder in ("methods", "baselines") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 20
    offenders = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in files
        for name in _imported(path)
        if name.startswith("aimbench.") and not name.startswith(allowed)
    ]
    assert offenders == []


def _imported(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names
