import pickle
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from aimbench.errors import ConfigError
from aimbench.train import checkpoint


class _Explosive:
    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("raise SystemExit('this file ran code')",))


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    state = {"model": {"w": torch.arange(3.0)}, "epoch": 4, "log": [{"loss": 0.5}], "random": checkpoint.random_state()}
    checkpoint.save(tmp_path / "new" / "last.pt", state)
    again = checkpoint.load(tmp_path / "new" / "last.pt")
    assert torch.equal(again["model"]["w"], torch.tensor([0.0, 1.0, 2.0]))
    assert (again["epoch"], again["log"]) == (4, [{"loss": 0.5}])
    checkpoint.set_random_state(again["random"])
    first = torch.rand(3)
    checkpoint.set_random_state(again["random"])
    assert torch.equal(torch.rand(3), first)


def test_a_checkpoint_is_of_the_run_that_it_names_or_of_none(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"epoch": 1, "run": "erm-1"})
    assert checkpoint.load(path, "erm-1")["epoch"] == checkpoint.load(path)["epoch"] == 1
    with pytest.raises(ConfigError, match="is that of run erm-1, not of erm-2"):
        checkpoint.load(path, "erm-2")
    checkpoint.save(path, {"epoch": 2})  # as earlier ones were
    assert checkpoint.load(path, "erm-2")["epoch"] == 2


def test_a_file_of_torchs_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    torch.save([torch.zeros(2)], tmp_path / "last.pt")
    for run in (None, "erm-1"):
        with pytest.raises(ConfigError, match=r"last\.pt holds no run's state but a list"):
            checkpoint.load(tmp_path / "last.pt", run)


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"epoch": 1})

    def half(state: object, file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(path, {"epoch": 2})
    assert checkpoint.load(path) == {"epoch": 1}


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    torch.save({"model": _Explosive()}, path)
    with pytest.raises(ConfigError, match="could run code"):
        checkpoint.load(path)
    path.write_bytes(pickle.dumps(_Explosive()))
    with pytest.raises(ConfigError, match="could run code"):
        checkpoint.load(path)


def test_missing_and_truncated_checkpoints_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.pt does not exist"):
        checkpoint.load(tmp_path / "absent.pt")
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"w": torch.zeros(10_000)})
    path.write_bytes(path.read_bytes()[:5_000])
    with pytest.raises(ConfigError, match=r"last\.pt cannot be read"):
        checkpoint.load(path)
    path.write_bytes(b"")
    with pytest.raises(ConfigError, match=r"last\.pt cannot be read \(it ends too early\)"):
        checkpoint.load(path)


@pytest.mark.parametrize("place", [0.3, 0.5, 0.7])
def test_a_checkpoint_whose_bytes_changed_is_refused(place: float, tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"w": torch.zeros(10_000)})
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 64
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"last\.pt cannot be read \(.*does not have the checksum"):
        checkpoint.load(path)


def test_damage_anywhere_in_a_checkpoint_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"w": torch.zeros(3), "log": [{"loss": 0.5}]})
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        content = bytearray(whole)
        content[place] ^= 255
        path.write_bytes(content)
        with suppress(ConfigError):  # else it is a byte that nothing reads
            assert checkpoint.load(path)["log"] == [{"loss": 0.5}]
