from pathlib import Path

import pytest
from tiny_raw import write_cub, write_places

from aimbench.paths import raw_root


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    write_cub(folder)
    write_places(folder)
    return folder


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def raw_photographs() -> Path:
    """The real photographs; a test that asks for them skips where they are absent."""
    folder = raw_root()
    if folder is None or not (folder / "CUB_200_2011" / "images.txt").is_file():
        pytest.skip("needs real photographs: set AIMBENCH_RAW to a raw folder with CUB_200_2011")
    return folder
