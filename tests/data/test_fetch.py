"""Downloads from a server on this machine that misbehaves on purpose."""

import hashlib
import http.server
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_tree import write_card

from aimbench.cards import Card, load_card
from aimbench.data import fetch as fetching
from aimbench.data.fetch import check_space, fetch, offers
from aimbench.data.raw import HUB_NOTE, RawFolder
from aimbench.errors import DataError


def zip_of(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("images/all", content)
    return buffer.getvalue()


CONTENT = zip_of(bytes(range(256)) * 4000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """What the server does, by path, and what it was asked."""

    port: int = 0
    content: bytes = CONTENT
    tag: str = '"one"'
    break_after: int | None = None
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"


def make_handler(server: Server) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            wanted = self.headers.get("Range")
            server.asked.append((self.command, self.path, wanted))
            kind = self.path.strip("/")
            if kind in ("404", "500", "403"):
                self.send_error(int(kind))
                return
            content = b"x" * len(server.content) if kind == "wrong" else server.content
            start = 0
            if wanted and kind != "deaf" and self.headers.get("If-Range") == server.tag:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
                if start >= len(content):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(content)}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            if kind != "tagless":
                self.send_header("ETag", server.tag)
            if start:
                shown = start - 1 if kind == "liar" else start
                self.send_header("Content-Range", f"bytes {shown}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            if not body:
                return
            end = len(content)
            if server.break_after is not None:
                end = min(end, start + server.break_after)
            self.wfile.write(content[start:end])
            if end < len(content):
                self.wfile.flush()
                self.connection.close()

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(fetching, "PAUSE", 0.01)
    monkeypatch.setattr(fetching, "TIMEOUT", 5.0)
    state = Server()
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), make_handler(state))
    state.port = running.server_port
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield state
    running.shutdown()
    running.server_close()


def make_card(folder: Path, urls: list[str], sha256: str | None = SHA256, **source: Any) -> Card:
    entry = {"archive": "mine.zip", "folders": ["mine"], "urls": urls, "sha256": sha256, **source}
    return load_card("mine", write_card(folder, sources={"images": entry}))


def shown(folder: Path) -> list[str]:
    """Files that a user sees; a lock stays."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


@dataclass
class Fetched:
    lines: list[str] = field(default_factory=list)
    bytes: list[tuple[str, int, int | None]] = field(default_factory=list)

    def run(self, card: Card, raw: Path) -> Path:
        raw.mkdir(exist_ok=True)
        (offer,) = offers(card, ["images"], raw, self.lines.append)
        return fetch(offer, raw, self.lines.append, lambda *step: self.bytes.append(step))


def test_archive_is_downloaded_and_checked(server: Server, tmp_path: Path) -> None:
    fetched, raw = Fetched(), tmp_path / "raw"
    path = fetched.run(make_card(tmp_path, [server.url("good")]), raw)
    assert path == raw / "mine.zip"
    assert path.read_bytes() == CONTENT
    assert shown(raw) == ["mine.zip"]
    assert fetched.bytes[-1] == ("mine.zip", len(CONTENT), len(CONTENT))
    assert [step[1] for step in fetched.bytes] == sorted(step[1] for step in fetched.bytes)


def test_sizes_are_told_before_and_nothing_is_loaded(server: Server, tmp_path: Path) -> None:
    (offer,) = offers(make_card(tmp_path, [server.url("404"), server.url("good")]), ["images"], tmp_path, print)
    assert (offer.size, offer.address, offer.there) == (len(CONTENT), server.url("good"), False)
    assert {command for command, _, _ in server.asked} == {"HEAD"}
    (tmp_path / "mine").mkdir()
    server.asked.clear()
    (offer,) = offers(make_card(tmp_path, [server.url("good")]), ["images"], tmp_path, print)
    assert offer.there
    assert not server.asked


def test_disk_that_is_too_small(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = offers(make_card(tmp_path, [server.url("good")]), ["images"], tmp_path, print)
    check_space(tmp_path, found)
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(DataError, match="free, the archives need"):
        check_space(tmp_path, found)
    (tmp_path / "mine.zip.part").write_bytes(CONTENT[1000:])  # what is there already needs no space
    check_space(tmp_path, found)


def test_dropped_connection_is_resumed_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.break_after = len(CONTENT) * 2 // 5
    fetched = Fetched()
    path = fetched.run(make_card(tmp_path, [server.url("good")]), tmp_path / "raw")
    assert path.read_bytes() == CONTENT
    ranges = [wanted for command, _, wanted in server.asked if command == "GET"]
    assert ranges == [None, f"bytes={server.break_after}-", f"bytes={2 * server.break_after}-"]
    assert any("broke off" in line and "going on at byte" in line for line in fetched.lines)


def test_another_run_resumes_too(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.break_after = 100_000
    monkeypatch.setattr(fetching, "ATTEMPTS", 1)
    card, raw = make_card(tmp_path, [server.url("good")]), tmp_path / "raw"
    with pytest.raises(DataError, match="broke off at 100000 of"):
        Fetched().run(card, raw)
    assert not (raw / "mine.zip").exists(), "what is not whole never has its name"
    server.break_after = None
    server.asked.clear()
    assert Fetched().run(card, raw).read_bytes() == CONTENT
    assert ("GET", "/good", "bytes=100000-") in server.asked


def test_host_that_ignores_ranges_starts_over(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.break_after = 100_000
    monkeypatch.setattr(fetching, "ATTEMPTS", 1)
    card, raw = make_card(tmp_path, [server.url("deaf")]), tmp_path / "raw"
    with pytest.raises(DataError):
        Fetched().run(card, raw)
    server.break_after = None
    assert Fetched().run(card, raw).read_bytes() == CONTENT


def test_file_that_changed_meanwhile_is_not_stitched(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.break_after = 100_000
    monkeypatch.setattr(fetching, "ATTEMPTS", 1)
    new = CONTENT[::-1]
    card = make_card(tmp_path, [server.url("good")], hashlib.sha256(new).hexdigest())
    with pytest.raises(DataError):
        Fetched().run(card, tmp_path / "raw")
    server.break_after, server.content, server.tag = None, new, '"two"'
    assert Fetched().run(card, tmp_path / "raw").read_bytes() == new


def test_host_without_a_validator_starts_over(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.break_after = 100_000
    monkeypatch.setattr(fetching, "ATTEMPTS", 1)
    card, raw = make_card(tmp_path, [server.url("tagless")]), tmp_path / "raw"
    with pytest.raises(DataError):
        Fetched().run(card, raw)
    server.break_after = None
    server.asked.clear()
    assert Fetched().run(card, raw).read_bytes() == CONTENT
    assert ("GET", "/tagless", None) in server.asked


def test_host_that_sends_other_bytes_than_asked_for(server: Server, tmp_path: Path) -> None:
    server.break_after = 300_000
    with pytest.raises(DataError, match="for the bytes from 300000"):
        Fetched().run(make_card(tmp_path, [server.url("liar")]), tmp_path / "raw")


def test_partial_file_that_is_whole_already(server: Server, tmp_path: Path) -> None:
    """A kill between the last byte and the rename: the host answers 416. What is longer than the archive goes."""
    for name, content, asked in (("whole", CONTENT, 1), ("longer", CONTENT + b"x", 2)):
        raw = tmp_path / name
        raw.mkdir()
        (raw / "mine.zip.part").write_bytes(content)
        note = {"address": server.url("good"), "validator": server.tag}
        (raw / "mine.zip.part.json").write_text(json.dumps(note))
        server.asked.clear()
        assert Fetched().run(make_card(tmp_path, [server.url("good")]), raw).read_bytes() == CONTENT
        assert [command for command, _, _ in server.asked].count("GET") == asked


def test_two_fetches_into_one_folder_make_one_archive(server: Server, tmp_path: Path) -> None:
    raw, card = tmp_path / "raw", make_card(tmp_path, [server.url("tagless")], None)
    raw.mkdir()
    (offer,) = offers(card, ["images"], raw, lambda line: None)
    found: list[Path] = []

    def one() -> None:
        found.append(fetch(offer, raw, lambda line: None, lambda *step: None))

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [raw / "mine.zip"] * 4
    assert (raw / "mine.zip").read_bytes() == CONTENT
    assert [command for command, _, _ in server.asked].count("GET") == 1


@pytest.mark.parametrize("bad", ["404", "500", "403", "wrong"])
def test_next_source_is_tried_and_the_failure_told(server: Server, tmp_path: Path, bad: str) -> None:
    fetched = Fetched()
    path = fetched.run(make_card(tmp_path, [server.url(bad), server.url("good")]), tmp_path / "raw")
    assert path.read_bytes() == CONTENT
    told = next(line for line in fetched.lines if line.startswith("images: ") and server.url(bad) in line)
    assert ("sha256 is" if bad == "wrong" else bad) in told


def test_dead_host_moves_on(server: Server, tmp_path: Path) -> None:
    fetched = Fetched()
    path = fetched.run(make_card(tmp_path, ["http://127.0.0.1:9/x", server.url("good")]), tmp_path / "raw")
    assert path.read_bytes() == CONTENT
    assert any("127.0.0.1:9" in line and "refused" in line for line in fetched.lines)


def test_wrong_bytes_everywhere_leave_nothing(server: Server, tmp_path: Path) -> None:
    card = make_card(tmp_path, [server.url("wrong")], pages=["https://example.org/mine"])
    with pytest.raises(DataError) as caught:
        Fetched().run(card, tmp_path / "raw")
    message = str(caught.value)
    for part in (
        "mine.zip could not be downloaded",
        f"the card says {SHA256}",
        "by hand from https://example.org/mine",
    ):
        assert part in message
    assert "\n" not in message
    assert shown(tmp_path / "raw") == []


def test_md5_is_enforced_too(server: Server, tmp_path: Path) -> None:
    md5 = hashlib.md5(CONTENT).hexdigest()
    Fetched().run(make_card(tmp_path, [server.url("good")], None, md5=md5), tmp_path / "a")
    with pytest.raises(DataError, match="md5 is"):
        Fetched().run(make_card(tmp_path, [server.url("good")], None, md5="0" * 32), tmp_path / "b")


def test_a_page_in_place_of_an_archive_is_refused(server: Server, tmp_path: Path) -> None:
    server.content = b"<!DOCTYPE html><title>The file has moved</title>"
    with pytest.raises(DataError, match=r"no archive \(it begins with b'<!DOCTYPE html>"):
        Fetched().run(make_card(tmp_path, [server.url("good")], None), tmp_path / "raw")
    assert [path.name for path in (tmp_path / "raw").iterdir() if not path.name.startswith(".")] == []


def test_without_a_checksum_the_digest_is_told(server: Server, tmp_path: Path) -> None:
    fetched = Fetched()
    fetched.run(make_card(tmp_path, [server.url("good")], None), tmp_path / "raw")
    assert any(SHA256 in line and "no checksum to compare" in line for line in fetched.lines)


def test_source_without_an_address(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the card names no address"):
        Fetched().run(make_card(tmp_path, []), tmp_path / "raw")


def test_hub_is_the_last_resort(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def download(name: str, **options: Any) -> None:
        calls.append((name, options))
        (options["local_dir"] / "0.parquet").parent.mkdir(parents=True, exist_ok=True)
        (options["local_dir"] / "0.parquet").touch()

    commits = {"v1": "c0ffee"}
    monkeypatch.setattr(
        "huggingface_hub.dataset_info", lambda name, revision: SimpleNamespace(sha=commits[revision]), raising=False
    )
    monkeypatch.setattr("huggingface_hub.snapshot_download", download, raising=False)
    card = make_card(tmp_path, [server.url("404")], None, hub="someone/mine", revision="v1", only=["small/"])
    assert Fetched().run(card, tmp_path / "raw") == tmp_path / "raw" / "mine"
    assert (tmp_path / "raw" / "mine" / "0.parquet").is_file()
    ((name, options),) = calls
    assert (name, options["repo_type"], options["revision"]) == ("someone/mine", "dataset", "c0ffee")
    assert options["local_dir"] == tmp_path / "raw" / "mine.part"
    assert options["allow_patterns"] == ["small/*.parquet", "small/*.arrow", "small/*.json"]

    def offline(*_: object, **__: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline, raising=False)
    with pytest.raises(DataError, match=r"404.*Hugging Face someone/mine: no route"):
        Fetched().run(card, tmp_path / "raw2")

    def broken_off(name: str, **options: Any) -> None:
        (options["local_dir"] / ".cache").mkdir(parents=True)
        raise OSError("no route")

    monkeypatch.setattr("huggingface_hub.snapshot_download", broken_off, raising=False)
    with pytest.raises(DataError, match="no route"):
        Fetched().run(card, tmp_path / "raw3")
    (offer,) = offers(card, ["images"], tmp_path / "raw3", lambda line: None)
    assert not offer.there
    monkeypatch.setattr("huggingface_hub.snapshot_download", download, raising=False)
    (tmp_path / "raw3" / "mine.part" / "of-c0ffee.parquet").touch()
    commits["v1"] = "decaf"  # moved on between the two attempts
    folder = Fetched().run(card, tmp_path / "raw3")
    assert sorted(path.name for path in folder.iterdir()) == ["0.parquet", HUB_NOTE]
    raw = RawFolder(tmp_path / "raw3", tmp_path / "cache")
    assert raw.open(card, "images") == folder
    assert raw.forms == ["images: folder mine, someone/mine at decaf"]
    by_hand = tmp_path / "raw4" / "mine"
    by_hand.mkdir(parents=True)
    (by_hand / "own.parquet").touch()
    card.sources["images"].holds.append("0.parquet")
    assert (Fetched().run(card, tmp_path / "raw4") / "own.parquet").is_file()
