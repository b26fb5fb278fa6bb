import hashlib
import io
import random
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from aimbench.cards import Archive, load_card
from aimbench.data.archives import check_archive, unpack, unpack_into
from aimbench.data.raw import RawFolder, member
from aimbench.errors import DataError


def tar_with(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for info in members:
            info.size = 4 if info.isfile() else 0
            tar.addfile(info, io.BytesIO(b"data") if info.isfile() else None)
    return path


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "bad",
    [
        tarfile.TarInfo("../escape.txt"),
        tarfile.TarInfo("folder/../../escape.txt"),
        tarfile.TarInfo("/tmp/escape.txt"),
        link("folder/link", "/etc"),
        link("folder/link", "inside.txt"),
        link("folder/hard", "../escape.txt", tarfile.LNKTYPE),
        link("folder/pipe", "", tarfile.FIFOTYPE),
    ],
)
def test_unsafe_tar_members_are_refused(tmp_path: Path, bad: tarfile.TarInfo) -> None:
    archive = tar_with(tmp_path / "bad.tgz", tarfile.TarInfo("folder/good.txt"), bad)
    target = tmp_path / "target" / "deep"
    target.mkdir(parents=True)
    with pytest.raises(DataError, match="link or leads outside"):
        unpack(archive, target)
    assert not list(tmp_path.rglob("escape.txt"))


def test_unsafe_zip_members_are_refused(tmp_path: Path) -> None:
    for number, name in enumerate(("../escape.txt", "/escape.txt", "a\\..\\escape.txt")):
        archive = tmp_path / f"{number}.zip"
        with zipfile.ZipFile(archive, "w") as zipped:
            zipped.writestr(name, "data")
        (tmp_path / f"t{number}").mkdir()
        with pytest.raises(DataError, match="leads outside"):
            unpack(archive, tmp_path / f"t{number}")
    link_info = zipfile.ZipInfo("link")
    link_info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as zipped:
        zipped.writestr(link_info, "/etc")
    (tmp_path / "t").mkdir()
    with pytest.raises(DataError, match="is a link"):
        unpack(tmp_path / "link.zip", tmp_path / "t")


@pytest.mark.parametrize("suffix", [".tgz", ".tar", ".zip"])
def test_truncated_archives(tmp_path: Path, suffix: str) -> None:
    archive = tmp_path / f"a{suffix}"
    content = bytes(range(256)) * 400
    if suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as zipped:
            zipped.writestr("a.bin", content)
    else:
        with tarfile.open(archive, "w:gz" if suffix == ".tgz" else "w") as tar:
            info = tarfile.TarInfo("a.bin")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 3])
    (tmp_path / "t").mkdir()
    with pytest.raises(DataError, match="truncated or corrupt"):
        unpack(archive, tmp_path / "t")


def test_packed_bytes_that_are_damaged(tmp_path: Path) -> None:
    archive, refused = tmp_path / "a.zip", 0
    generator = random.Random(0)
    content = " ".join(str(generator.randrange(1000)) for _ in range(20_000)).encode()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("a.txt", content)
    whole = archive.read_bytes()
    for start in range(1000, len(whole) - 1000, len(whole) // 20):  # a few of them break the stream, the rest its sum
        archive.write_bytes(whole[:start] + bytes(64) + whole[start + 64 :])
        with pytest.raises(DataError, match=r"corrupt .*; remove it and download it again"):
            unpack(archive, tmp_path)
        refused += 1
    assert refused > 15


def several(path: Path, count: int = 30) -> bytes:
    """Writes a tar of ``count`` members of 512 + 3072 bytes each."""
    generator = random.Random(0)
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as tar:
        for i in range(count):
            info = tarfile.TarInfo(f"folder/{i}.bin")
            info.size = 3000
            tar.addfile(info, io.BytesIO(generator.randbytes(3000)))
    return path.read_bytes()


@pytest.mark.parametrize("end", [3584 * 3, 3584 * 3 + 100, 3584 * 3 + 512, 3584 * 30])
def test_a_tar_that_is_cut_anywhere_is_refused(tmp_path: Path, end: int) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(several(archive)[:end])
    (tmp_path / "t").mkdir()
    with pytest.raises(DataError, match="truncated or corrupt"):
        unpack(archive, tmp_path / "t")


def test_a_damaged_header_is_not_the_end_of_a_tar(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    damaged = bytearray(several(archive))
    damaged[3584 * 3 + 3] ^= 1
    archive.write_bytes(damaged)
    (tmp_path / "t").mkdir()
    with pytest.raises(DataError, match="truncated or corrupt"):
        unpack(archive, tmp_path / "t")


def test_damage_inside_a_compressed_tar_is_refused(tmp_path: Path) -> None:
    whole, generator = several(tmp_path / "a.tgz"), random.Random(1)
    for number in range(20):
        damaged = bytearray(whole)
        damaged[generator.randrange(20, len(whole) - 8)] ^= generator.randrange(1, 256)
        archive = tmp_path / f"{number}.tgz"
        archive.write_bytes(damaged)
        (tmp_path / str(number)).mkdir()
        with pytest.raises(DataError, match="truncated or corrupt"):
            unpack(archive, tmp_path / str(number))


@pytest.mark.parametrize("suffix", [".tgz", ".zip"])
def test_more_than_the_disk_holds_is_refused_before(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, target = tmp_path / f"a{suffix}", tmp_path / "t"
    if suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
            zipped.writestr("folder/0.bin", b"0" * 3000)
    else:
        several(archive)
    target.mkdir()
    monkeypatch.setattr("aimbench.data.archives.shutil.disk_usage", lambda path: SimpleNamespace(free=2999))
    with pytest.raises(DataError, match="the next member needs"):
        unpack(archive, target)
    assert not list(target.iterdir())


@pytest.mark.parametrize("wrong", [(), ("md5",), ("sha256",)])
def test_every_checksum_that_a_card_states_is_compared(tmp_path: Path, wrong: tuple[str, ...]) -> None:
    archive = tmp_path / "a.tgz"
    archive.write_bytes(b"data")
    stated = {name: hashlib.new(name, b"other" if name in wrong else b"data").hexdigest() for name in ("md5", "sha256")}
    source = Archive(archive="a.tgz", **stated)
    if wrong:
        with pytest.raises(DataError, match=f"{wrong[0]} is [0-9a-f]+, the card says {stated[wrong[0]]}"):
            check_archive(archive, source)
    else:
        assert check_archive(archive, source) == hashlib.sha256(b"data").hexdigest()


def test_only_the_wanted_part_is_unpacked(tmp_path: Path) -> None:
    archive = tar_with(tmp_path / "a.tgz", tarfile.TarInfo("x/keep/1.txt"), tarfile.TarInfo("x/drop/1.txt"))
    (tmp_path / "t").mkdir()
    unpack(archive, tmp_path / "t", ["x/keep/"])
    assert [path.name for path in (tmp_path / "t" / "x").iterdir()] == ["keep"]


def test_archive_is_unpacked_once(tmp_path: Path) -> None:
    card = load_card("waterbirds")
    raw = tmp_path / "raw"
    raw.mkdir()
    name = "waterbird_complete95_forest2water2"
    # Another suffix than the official one is fine: it is the same archive packed anew.
    with tarfile.open(raw / f"{name}.tar", "w") as tar:
        info = tarfile.TarInfo(f"{name}/metadata.csv")
        info.size = 4
        tar.addfile(info, io.BytesIO(b"data"))
    folder = RawFolder(raw, tmp_path / "cache").open(card, "waterbirds_95")
    (folder / "mark").touch()
    again = RawFolder(raw, tmp_path / "cache")
    assert (again.open(card, "waterbirds_95") / "mark").exists()
    assert again.forms == [f"waterbirds_95: archive {name}.tar"]
    assert len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()]) == 1


def test_what_a_killed_unpacking_left_is_removed(tmp_path: Path) -> None:
    archive = tar_with(tmp_path / "a.tgz", tarfile.TarInfo("folder/good.txt"))
    left = tmp_path / "cache" / ".unpacking-a-of-old"
    (left / "folder").mkdir(parents=True)
    unpack_into(tmp_path / "cache" / "a", lambda folder: unpack(archive, folder))
    assert (tmp_path / "cache" / "a" / "folder" / "good.txt").read_text() == "data"
    assert not left.exists()


def test_archive_with_other_content(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    tar_with(raw / "waterbird_complete95_forest2water2.tar.gz", tarfile.TarInfo("other/a.txt"))
    with pytest.raises(DataError, match="does not hold waterbird_complete95"):
        RawFolder(raw, tmp_path / "cache").open(load_card("waterbirds"), "waterbirds_95")


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "a\\b"])
def test_paths_in_data_files_stay_inside(tmp_path: Path, path: str) -> None:
    with pytest.raises(DataError, match="lies outside"):
        member(tmp_path, path)


def test_raw_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        RawFolder(tmp_path / "nowhere", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file is a file; name the folder"):
        RawFolder(tmp_path / "file", tmp_path)


def test_a_source_that_is_not_there_says_what_its_folder_must_hold(tmp_path: Path) -> None:
    (tmp_path / "CUB_200_2011").mkdir()
    with pytest.raises(DataError, match=r"unpacked folder CUB_200_2011/ with images\.txt and classes\.txt"):
        RawFolder(tmp_path, tmp_path).open(load_card("cub"), "cub")


def test_a_zip_with_a_password_is_named(tmp_path: Path) -> None:
    archive = tmp_path / "secret.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.txt", "data")
    content = archive.read_bytes()
    directory = content.index(b"PK\x01\x02")
    content = bytearray(content)
    content[6] |= 1  # the flag of encryption, in both headers
    content[directory + 8] |= 1
    archive.write_bytes(content)
    (tmp_path / "t").mkdir()
    with pytest.raises(DataError, match=r"secret\.zip"):
        unpack(archive, tmp_path / "t")
