import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from aimbench.cli.data import app
from aimbench.errors import AimbenchError, CardError, ConfigError, DataError

runner = CliRunner()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def invoke(*words: str) -> str:
    result = runner.invoke(app, list(words))
    if isinstance(result.exception, AimbenchError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_build_verify_info_preview_of_a_mini(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aimbench.data.synth_settings.TRAIN_PER_SPECIES", 5)
    monkeypatch.setattr("aimbench.data.synth_settings.TEST_PER_SPECIES", 2)
    built = invoke("build", "cub@mini", "--data", str(data), "--workers", "1")
    assert "kind mini" in built
    assert "built in" in built
    assert "already built" in invoke("build", "cub@mini", "--data", str(data), "--workers", "1")
    assert "70 samples in 3 shards are whole" in invoke("verify", "cub@mini", "--data", str(data))
    lines = invoke("info", "cub@mini", "--data", str(data)).splitlines()  # into a pipe: one line a row, unwrapped
    assert "split\tsamples" in lines
    assert "test\t20" in lines
    picture = tmp_path / "sheet.png"
    invoke("preview", "cub@mini", "--data", str(data), "--rows", "2", "--out", str(picture))
    with Image.open(picture) as sheet:
        assert sheet.format == "PNG"
    listed = invoke("list", "--data", str(data))
    rows = dict(line.split("\t")[:2] for line in listed.splitlines())
    assert rows["cub@mini"] == "mini"
    assert rows["travelingbirds@official"] == rows["imagenet100@kaggle"] == "-"
    manifest = data / "cub" / "mini" / "manifest.json"
    whole = manifest.read_text()
    manifest.write_text("{}")
    damaged = runner.invoke(app, ["list", "--data", str(data)])
    assert "cub@mini\tdamaged" in damaged.stdout
    assert "warning: manifest" in damaged.stderr
    manifest.write_text(whole)
    with pytest.raises(ConfigError, match=r"--out sheet\.jpg is no name of a PNG"):
        invoke("preview", "cub@mini", "--data", str(data), "--out", "sheet.jpg")


def test_export_and_fetch_of_a_mini(data: Path, tmp_path: Path) -> None:
    assert "needs no download" in invoke("fetch", "cub@mini", "--raw", str(tmp_path))
    for form in ("hf", "imagefolder"):
        out = tmp_path / form
        assert str(out) in invoke("export", "cub@mini", "--to", form, "--out", str(out), "--data", str(data))
        assert (out / "README.md").is_file()
    assert "croissant.json" in invoke("export", "cub@mini", "--to", "croissant", "--data", str(data))
    with pytest.raises(ConfigError, match="did you mean 'imagefolder'"):
        invoke("export", "cub@mini", "--to", "imagefolders", "--data", str(data))


def test_fetch_says_what_it_would_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIMBENCH_RAW", raising=False)
    with pytest.raises(ConfigError, match="add --raw DIR"):
        invoke("fetch", "cub")
    monkeypatch.setattr(
        "aimbench.data.fetch._ask", lambda source, report: (12_000_000, source.urls[0]) if source.urls else (None, None)
    )
    (tmp_path / "segmentations").mkdir()
    told = invoke("fetch", "cub", "--raw", str(tmp_path), "--dry-run")
    assert "cub: CUB_200_2011.tgz 12.0 MB, https://data.caltech.edu" in told
    assert "segmentations: segmentations.tgz is there already" in told
    assert [path.name for path in tmp_path.iterdir()] == ["segmentations"]
    told = invoke("fetch", "waterbirds@100", "--raw", str(tmp_path), "--dry-run")
    assert "waterbirds_100: waterbird_1.0_forest2water2.tar.gz size unknown, no address for a download" in told
    with pytest.raises(DataError, match=r"waterbird_1\.0.*by hand from https://github\.com/spetryk/GALS"):
        invoke("fetch", "waterbirds@100", "--raw", str(tmp_path))


def test_card(monkeypatch: pytest.MonkeyPatch) -> None:
    assert invoke("card", "waterbirds") == invoke("card", "waterbirds", "--markdown")  # a pipe gets the text itself
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    assert "Known defects" in invoke("card", "waterbirds")
    assert invoke("card", "cub", "--markdown").startswith("# CUB-200-2011")


def test_errors_come_as_our_own(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIMBENCH_RAW", raising=False)
    with pytest.raises(DataError, match="name their folder with --raw DIR"):
        invoke("build", "cub", "--data", str(data))
    with pytest.raises(CardError, match="did you mean"):
        invoke("info", "waterbird", "--data", str(data))
    with pytest.raises(DataError, match="name another file with --out"):
        invoke("preview", "cub@mini", "--data", str(data), "--out", str(tmp_path / "no" / "folder.png"))


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    command = [sys.executable, "-m", "aimbench", "data", "build", "cub@mini", "--data", str(tmp_path / "file")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"{tmp_path / 'file'}" in done.stderr
    assert "name another place" in done.stderr


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from aimbench.cli import data; "
        "print([m for m in ('torch', 'pandas', 'pyarrow', 'webdataset', 'PIL', 'numpy') if m in sys.modules])"
    )
    # The module itself, not the package: other commands are not ours to check here.
    code = code.replace("from aimbench.cli import data", "import aimbench.cli.data")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ})
    assert done.stdout.strip() == "[]"
