"""What becomes of a file: the middle of its first picture, without anything else that is in it."""

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from PIL import Image, ImageCms

from app.features.avatars.image import RefusedImage, image_format, make_avatar
from tests.features.avatars.pictures import colours, opened, quarters, written

SECRET = b"51.5007 N, 0.1246 W"  # where the picture was taken


def made(content: bytes) -> Image.Image:
    file_format = image_format(content)
    assert file_format is not None
    return opened(make_avatar(content, file_format))


def exif(orientation: int = 1) -> Any:
    found = Image.Exif()
    found[0x0112] = orientation
    found[0x010E] = SECRET.decode()
    found.get_ifd(0x8825)[29] = SECRET.decode()
    return found


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_nothing_but_pixels_is_kept(file_format: str) -> None:
    options = {"exif": exif(), "icc_profile": ImageCms.ImageCmsProfile(profile()).tobytes()}
    if file_format != "PNG":
        options["xmp"] = b"<x>" + SECRET + b"</x>"
    if file_format == "JPEG":
        options["comment"] = SECRET
    content = written(quarters(), file_format, **options)
    assert SECRET in content
    result = make_avatar(content, file_format)
    assert SECRET not in result
    assert not any(chunk in result for chunk in (b"EXIF", b"ICCP", b"XMP "))
    assert colours(opened(result)) == ("red", "lime", "blue", "white")


# How the quarters are found in the file, for each way of holding the camera.
HELD = {
    1: ("red", "lime", "blue", "white"),
    2: ("lime", "red", "white", "blue"),
    3: ("white", "blue", "lime", "red"),
    4: ("blue", "white", "red", "lime"),
    5: ("red", "blue", "lime", "white"),
    6: ("blue", "red", "white", "lime"),
    7: ("white", "lime", "blue", "red"),
    8: ("lime", "white", "red", "blue"),
}


@pytest.mark.parametrize("orientation", HELD)
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_picture_is_turned_upright(file_format: str, orientation: int) -> None:
    result = made(written(quarters(), file_format, exif=exif(orientation)))
    assert colours(result) == HELD[orientation]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_does_not_matter() -> None:
    content = written(quarters(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + bytes(9))
    assert colours(made(content)) == HELD[1]


def profile() -> Any:
    return ImageCms.createProfile("sRGB")


def test_damaged_colour_profile_does_not_matter() -> None:
    assert colours(made(written(quarters(), "PNG", icc_profile=b"no profile" * 20))) == HELD[1]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_kind_of_png_is_taken(mode: str) -> None:
    result = made(written(Image.new(mode, (30, 50)), "PNG"))
    assert (result.size, result.mode) == ((256, 256), "RGBA" if "A" in mode else "RGB")


@pytest.mark.parametrize("transparent", [None, 65_535])
def test_grey_values_of_16_bits_are_kept(transparent: int | None) -> None:
    image = Image.new("I;16", (256, 256), 32_768)
    image.paste(65_535, (0, 0, 256, 128))
    result = made(
        written(image, "PNG", **({} if transparent is None else {"transparency": 65_535}))
    )
    upper, lower = (result.convert("RGBA").getpixel((128, row)) for row in (64, 192))
    assert upper == (255, 255, 255, 255 if transparent is None else 0)
    assert isinstance(lower, tuple)
    assert lower[3] == 255
    assert abs(lower[0] - 128) < 5


def test_print_colours_are_taken() -> None:
    assert colours(made(written(quarters().convert("CMYK"), "JPEG"))) == HELD[1]


def test_transparency_is_kept() -> None:
    result = made(written(Image.new("RGBA", (9, 9), (255, 0, 0, 0)), "PNG"))
    assert result.convert("RGBA").getpixel((128, 128))[3] == 0  # type: ignore[index]


@pytest.mark.parametrize("size", [(1, 1), (1, 60_000), (60_000, 1), (3, 4_000)])
def test_every_shape_is_taken(size: tuple[int, int]) -> None:
    assert made(written(Image.new("L", size), "PNG")).size == (256, 256)


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "AVIF", "PNG"])
def test_first_picture_of_an_animation_is_taken(file_format: str) -> None:
    others = [Image.new("RGB", (400, 400), "white")] * 3
    content = written(quarters(), file_format, save_all=True, append_images=others)
    assert colours(made(content)) == HELD[1]


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """Return a PNG that claims a size, and holds this data."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def gif_of(width: int, height: int) -> bytes:
    small = bytearray(written(Image.new("P", (1, 1)), "GIF"))
    struct.pack_into("<HH", small, 6, width, height)
    return bytes(small)


LARGE: dict[str, Callable[[], bytes]] = {
    "PNG": lambda: png(30_000, 30_000),
    "largest PNG": lambda: png(2**31 - 1, 2**31 - 1),
    "GIF": lambda: gif_of(65_535, 65_535),
    "WEBP": lambda: written(Image.new("L", (5_000, 4_000)), "WEBP", method=0),
    "AVIF": lambda: written(Image.new("L", (5_000, 4_000)), "AVIF", speed=10),
    "JPEG": lambda: written(Image.new("L", (7_200, 7_000)), "JPEG"),
}


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_too_many_pixels_are_refused_before_they_are_decoded(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = LARGE[name]()
    monkeypatch.setattr(Image.Image, "load", None)
    with pytest.raises(RefusedImage, match="megapixels"):
        made(content)


def test_too_many_frames_are_refused() -> None:
    frames = [Image.new("P", (1, 1), number % 2) for number in range(1_001)]
    content = written(Image.new("P", (1, 1)), "PNG", save_all=True, append_images=frames)
    with pytest.raises(RefusedImage, match="1000 frames"):
        made(content)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "AVIF", "GIF"])
def test_every_truncated_file_is_refused(file_format: str) -> None:
    noise = Image.effect_noise((60, 60), 80).convert("RGB")
    content = written(noise, file_format)
    for length in range(16, len(content) - 40, 1 + len(content) // 40):
        with pytest.raises(RefusedImage, match="damaged"):
            made(content[:length])


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF"])
def test_what_follows_a_picture_is_dropped(file_format: str) -> None:
    page = b"<script>alert(document.domain)</script>"
    result = make_avatar(written(quarters(), file_format) + page, file_format)
    assert b"script" not in result
    assert BytesIO(result).read(4) == b"RIFF"


@pytest.mark.parametrize("step", ["transpose", "save"])
def test_memory_that_is_missing_after_decoding_is_no_error_of_the_service(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    content = written(quarters(), "JPEG", exif=exif(3))
    monkeypatch.setattr(Image.Image, step, fail)
    with pytest.raises(RefusedImage, match="too much memory"):
        make_avatar(content, "JPEG")
