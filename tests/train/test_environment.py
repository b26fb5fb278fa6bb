"""What a record says of the code that made it."""

import subprocess
from pathlib import Path

from aimbench.train.environment import _code_info


def test_code_is_dirty_where_a_file_was_changed_or_a_module_was_added(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(["git", "-C", str(tmp_path), *identity, *words], check=True, capture_output=True)

    def write(name: str, text: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    assert _code_info(tmp_path).dirty is None  # no checkout
    git("init")
    write("methods/aim/model.py", "one")
    write("results/records/a.json", "{}")
    git("add", ".")
    git("commit", "-m", "first")
    assert _code_info(tmp_path).dirty is False
    write("results/records/a.json", "[]")
    write("results/records/b.json", "{}")
    write("notes.txt", "of no matter")
    assert _code_info(tmp_path).dirty is False
    write("methods/mine/__init__.py", "a method that git does not know")
    assert _code_info(tmp_path).dirty is True
    (tmp_path / "methods/mine/__init__.py").unlink()
    write("methods/aim/model.py", "two")
    assert _code_info(tmp_path).dirty is True
