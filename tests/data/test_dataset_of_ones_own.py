"""A dataset by a card alone, given by ``--cards DIR``, as a user types it: from the download to a picture."""

import functools
import hashlib
import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_tree import write_card, write_tree
from typer.testing import CliRunner

from aimbench.cli.data import app
from aimbench.errors import CardError


def invoke(*words: str) -> str:
    result = CliRunner().invoke(app, list(words))
    if result.exception is not None:
        raise result.exception
    return result.output


@pytest.fixture
def archive_on_a_server(tmp_path: Path) -> Iterator[tuple[str, bytes]]:
    """Address and content of an archive of photographs on a local HTTP server."""
    write_tree(tmp_path / "made" / "mine")
    made = Path(shutil.make_archive(str(tmp_path / "served" / "mine"), "zip", tmp_path / "made"))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(made.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/mine.zip", made.read_bytes()
        server.shutdown()


def test_from_download_to_preview(archive_on_a_server: tuple[str, bytes], tmp_path: Path) -> None:
    address, content = archive_on_a_server
    source = {"archive": "mine.zip", "folders": ["mine"], "inside": "mine", "urls": [address]}
    cards = str(write_card(tmp_path, sources={"images": {**source, "sha256": hashlib.sha256(content).hexdigest()}}))
    raw, root, picture = str(tmp_path / "raw"), str(tmp_path / "data"), tmp_path / "sheet.png"
    told = invoke("fetch", "mine", "--cards", cards, "--raw", raw)
    assert f"images: mine.zip {len(content) / 1e6:.1f} MB, {address}" in told
    assert "kind uncounted" in invoke("build", "mine", "--cards", cards, "--raw", raw, "--data", root, "--workers", "1")
    assert "22 samples" in invoke("verify", "mine", "--cards", cards, "--data", root)
    assert "archive mine.zip" in invoke("info", "mine", "--cards", cards, "--data", root)
    invoke("preview", "mine", "--cards", cards, "--data", root, "--out", str(picture))
    assert picture.is_file()
    assert "mine@all" in invoke("list", "--cards", cards, "--data", root)
    assert invoke("card", "mine", "--cards", cards, "--markdown").startswith("# Mine")
    with pytest.raises(CardError, match="unknown dataset 'mine'"):
        invoke("info", "mine", "--data", root)
