import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from tiny_tree import write_card, write_tree

from aimbench.data import samples, shards
from aimbench.data.build import build
from aimbench.data.dataset import ShardDataset
from aimbench.data.rendering import rendered
from aimbench.data.samples import Recipe
from aimbench.data.verify import verify
from aimbench.errors import DataError


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(shards, "MAX_SAMPLES", 4)
    write_tree(tmp_path / "raw" / "mine", train=12, val=4)
    write_card(tmp_path)
    return tmp_path


def build_mine(tree: Path, data: str, workers: int = 1) -> ShardDataset:
    return build("mine", tree / "raw", tree / data, cards_dir=tree / "cards", workers=workers).dataset


def files(dataset: ShardDataset) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(dataset.root.iterdir())}


def test_killed_build_goes_on_behind_its_last_finished_shard(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = samples.render, []

    def counted(recipe: Recipe) -> samples.Sample:
        calls.append(recipe.key)
        if len(calls) == 11 and not killed:
            raise KeyboardInterrupt  # two shards of four are finished, the third holds two
        return real(recipe)

    monkeypatch.setattr("aimbench.data.rendering.render", counted)
    killed: list[bool] = []
    with pytest.raises(KeyboardInterrupt):
        build_mine(tree, "data")
    left = list((tree / "data" / "mine").glob(".building-*"))
    assert len(list(left[0].glob("parts/*.parquet"))) == 2
    with pytest.raises(DataError, match="is not built"):
        ShardDataset.open("mine", tree / "data", tree / "cards")
    before = {path.name: path.stat().st_mtime_ns for path in left[0].glob("*.tar")}

    killed.append(True)
    calls.clear()
    resumed = build_mine(tree, "data")
    assert len(calls) == 32 - 8
    assert [path.name for path in (tree / "data" / "mine").iterdir()] == ["all"]
    after = {path.name: path.stat().st_mtime_ns for path in resumed.root.glob("*.tar")}
    assert sum(after[name] == before.get(name) for name in after) == 2
    assert files(resumed) == files(build_mine(tree, "other"))
    verify(resumed)


def kill_before_the_manifest(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("aimbench.data.assemble._finish", stop)
        with pytest.raises(KeyboardInterrupt):
            build_mine(tree, "data")


def test_finished_shard_that_was_damaged_is_made_again(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kill_before_the_manifest(tree, monkeypatch)
    (left,) = (tree / "data" / "mine").glob(".building-*")
    shard = sorted(left.glob("*-train-000001.tar"))[0]
    shard.write_bytes(shard.read_bytes()[:-10] + b"0123456789")
    assert files(build_mine(tree, "data")) == files(build_mine(tree, "other"))


def test_a_variant_whose_name_begins_alike_is_left_alone(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kill_before_the_manifest(tree, monkeypatch)
    (left,) = (tree / "data" / "mine").glob(".building-*")
    scratch = left.with_name(".synthetic-all-small.abc")
    other = left.with_name(left.name.replace("-all.", "-all-small."))
    shutil.copytree(left, other)
    scratch.mkdir()
    build("mine", tree / "raw", tree / "data", cards_dir=tree / "cards", workers=1, force=True)
    assert sorted(path.name for path in (tree / "data" / "mine").iterdir()) == sorted([other.name, scratch.name, "all"])


def test_build_of_other_raw_data_does_not_take_up_old_shards(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kill_before_the_manifest(tree, monkeypatch)
    write_tree(tree / "raw" / "mine", train=13, val=4)
    dataset = build_mine(tree, "data")
    assert sum(split.count for split in dataset.manifest.splits.values()) == 34
    assert [path.name for path in (tree / "data" / "mine").iterdir()] == ["all"]


def _build_slowly(tree: Path, started: "multiprocessing.synchronize.Event") -> None:
    def slow(recipe: Recipe) -> samples.Sample:
        started.set()
        time.sleep(0.05)
        return samples.render(recipe)

    import aimbench.data.rendering as rendering

    rendering.render = slow  # type: ignore[attr-defined]
    build("mine", tree / "raw", tree / "data", cards_dir=tree / "cards", workers=2)


def test_sigkill_leaves_neither_a_lock_nor_workers(tree: Path) -> None:
    context = multiprocessing.get_context("fork")
    started = context.Event()
    process = context.Process(target=_build_slowly, args=(tree, started))
    process.start()
    assert started.wait(30)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    began = time.monotonic()
    verify(build_mine(tree, "data"))
    assert time.monotonic() - began < 20


def test_order_and_number_in_flight(tree: Path) -> None:
    paths = sorted((tree / "raw").rglob("*.JPEG"))
    taken: list[int] = []

    def recipes() -> "list[Recipe]":
        return [Recipe("train", f"k{i}", 0, 0, -1, "s", paths[i % len(paths)], None, (), None, 0.5) for i in range(600)]

    def counted() -> "object":
        for i, recipe in enumerate(recipes()):
            taken.append(i)
            yield recipe

    results = rendered(counted(), workers=2)  # type: ignore[arg-type]
    first = [next(results).recipe.key for _ in range(20)]
    assert first == [f"k{i}" for i in range(20)]
    assert len(taken) <= 16 * 4 * 2 + 16, "recipes are taken as results are, not all at once"
    assert [sample.recipe.key for sample in results] == [f"k{i}" for i in range(20, 600)]
