"""Images as they come: grey, CMYK, 16-bit, rotated by EXIF, of other formats."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_tree import write_card, write_tree

from aimbench.data.build import build
from aimbench.data.dataset import ShardDataset
from aimbench.data.decode import _pixels
from aimbench.data.export import export_image_folder
from aimbench.data.samples import decode_mask, decode_rgb
from aimbench.data.verify import verify
from aimbench.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "raw" / "mine") / "val" / "cat"


def build_mine(tmp_path: Path) -> ShardDataset:
    cards = write_card(tmp_path)
    return build("mine", tmp_path / "raw", tmp_path / "data", cards_dir=cards, workers=1).dataset


def stored(dataset: ShardDataset, stem: str) -> bytes:
    test = dataset.split("test")
    return test.read(test.keys.index(f"cat__{stem}")).image


def ramp(width: int = 40, height: int = 30) -> np.ndarray:
    return np.linspace(0, 255, width * height).reshape(height, width)


def test_grey_and_cmyk_are_kept_and_counted(folder: Path, tmp_path: Path) -> None:
    Image.fromarray(ramp().astype(np.uint8)).save(folder / "grey.JPEG")
    Image.new("CMYK", (40, 30), (255, 0, 0, 0)).save(folder / "cmyk.JPEG")
    dataset = build_mine(tmp_path)
    assert dataset.manifest.image_traits == {"CMYK": 1, "grey": 1}
    for name in ("grey", "cmyk"):
        assert stored(dataset, name) == (folder / f"{name}.JPEG").read_bytes()
    assert decode_rgb(stored(dataset, "grey"), "grey").shape == (30, 40, 3)
    # full cyan is no red
    assert decode_rgb(stored(dataset, "cmyk"), "cmyk")[..., 0].max() < 60
    verify(dataset)


def test_exif_rotation_is_not_applied(folder: Path, tmp_path: Path) -> None:
    """As in torchvision's ImageFolder; boxes and masks of the releases are of the pixels as stored."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(ramp().astype(np.uint8)).convert("RGB").save(folder / "rotated.JPEG", exif=exif)
    dataset = build_mine(tmp_path)
    assert stored(dataset, "rotated") == (folder / "rotated.JPEG").read_bytes()
    assert decode_rgb(stored(dataset, "rotated"), "rotated").shape == (30, 40, 3)
    assert dataset.manifest.image_traits == {"EXIF-rotated": 1}


def test_a_jpeg_with_a_second_picture_keeps_its_bytes(folder: Path, tmp_path: Path) -> None:
    first, second = (Image.fromarray(ramp().astype(np.uint8)[::step]).convert("RGB") for step in (1, -1))
    first.save(folder / "two.jpg", "MPO", save_all=True, append_images=[second])
    with Image.open(folder / "two.jpg") as opened:
        assert opened.format == "MPO"
    dataset = build_mine(tmp_path)
    assert stored(dataset, "two") == (folder / "two.jpg").read_bytes()
    assert decode_rgb(stored(dataset, "two"), "two")[0, 0, 0] < 20  # the first picture
    verify(dataset)
    (file,) = export_image_folder(dataset, tmp_path / "out").rglob("*two.jpg")
    assert file.read_bytes() == stored(dataset, "two")


def test_16_bits_are_reduced_and_not_clipped(folder: Path, tmp_path: Path) -> None:
    deep = (ramp() * 257).astype(np.uint16)
    Image.fromarray(deep).save(folder / "deep.png")
    dataset = build_mine(tmp_path)
    assert dataset.manifest.image_traits == {"16-bit grey": 1}
    pixels = decode_rgb(stored(dataset, "deep"), "deep")
    assert np.array_equal(pixels[..., 0], deep >> 8)
    with Image.open(io.BytesIO(stored(dataset, "deep"))) as image:
        assert image.mode == "RGB", "readers that know nothing of 16 bits see the same"
    buffer = io.BytesIO()
    Image.fromarray(deep).save(buffer, "PNG")
    assert np.array_equal(decode_mask(buffer.getvalue(), "mask"), deep >> 8)


@pytest.mark.parametrize(("suffix", "options"), [("webp", {"lossless": True}), ("bmp", {}), ("tif", {}), ("gif", {})])
def test_other_formats_become_png_without_loss(
    folder: Path, tmp_path: Path, suffix: str, options: dict[str, bool]
) -> None:
    pixels = np.repeat(ramp().astype(np.uint8)[..., None], 3, axis=2)
    Image.fromarray(pixels).save(folder / f"other.{suffix}", **options)
    dataset = build_mine(tmp_path)
    data = stored(dataset, "other")
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PNG"
    with Image.open(folder / f"other.{suffix}") as original:
        assert np.array_equal(decode_rgb(data, "other"), np.asarray(original.convert("RGB")))


def test_png_that_is_called_jpeg_keeps_its_bytes(folder: Path, tmp_path: Path) -> None:
    """ImageNet has one of these."""
    Image.fromarray(ramp().astype(np.uint8)).convert("RGB").save(folder / "really.JPEG", "PNG")
    dataset = build_mine(tmp_path)
    assert stored(dataset, "really") == (folder / "really.JPEG").read_bytes()
    verify(dataset)


def test_32_bits_are_refused(folder: Path, tmp_path: Path) -> None:
    Image.fromarray(ramp().astype(np.float32)).save(folder / "float.tif")
    with pytest.raises(DataError, match=r"float\.tif has 32 bits a pixel; convert it") as caught:
        build_mine(tmp_path)
    assert "\n" not in str(caught.value)


def test_decompression_bomb_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"corrupt or truncated.*exceeds limit"):
        build_mine(tmp_path)


def test_a_picture_of_ones_own_that_is_a_bomb_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40)).save(buffer, "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"sample huge: its image cannot be decoded"):
        _pixels(buffer.getvalue(), "huge", "image", "RGB")
