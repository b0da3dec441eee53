"""Makes an avatar of an image file. It runs in a process of its own, because decoders are attacked.

Images that are too large are refused before they are decoded. Only the pixels of the file are kept:
EXIF data, such as the place of a photo, is removed.
"""

from contextlib import suppress
from io import BytesIO

from PIL import (
    AvifImagePlugin,  # noqa: F401 - without this, the first AVIF loads the decoders of all formats
    Image,
    ImageCms,
    WebPImagePlugin,  # noqa: F401
)

SIDE = 256
MAX_FRAMES = 1_000
MEGA = 1_000_000
# A JPEG is decoded at an eighth of its size if it is large. The others need 4 bytes for each pixel.
MAX_PIXELS = {"JPEG": 50 * MEGA, "PNG": 17 * MEGA, "WEBP": 17 * MEGA, "AVIF": 17 * MEGA}
MAX_PIXELS["GIF"] = MAX_PIXELS["PNG"]
ORIENTATION = 0x0112
TURNS = {
    2: (Image.Transpose.FLIP_LEFT_RIGHT,),
    3: (Image.Transpose.ROTATE_180,),
    4: (Image.Transpose.FLIP_TOP_BOTTOM,),
    5: (Image.Transpose.TRANSPOSE,),
    6: (Image.Transpose.ROTATE_270,),
    7: (Image.Transpose.TRANSVERSE,),
    8: (Image.Transpose.ROTATE_90,),
}
AVIF_BRANDS = {b"avif", b"avis"}  # HEIC is another format in the same container
MOST_BRANDS_BYTES = 256


class RefusedImage(Exception):
    """The file cannot become an avatar. The message is a sentence for its owner."""


def image_format(content: bytes) -> str | None:
    """Return the format, as Pillow names it, by the first bytes. Content-Type proves nothing."""
    if content.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WEBP"
    if content[4:8] == b"ftyp" and AVIF_BRANDS & _brands(content):
        return "AVIF"
    if content.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    return None


def _brands(content: bytes) -> set[bytes]:
    """Return the formats with which an ISO media file says that it is compatible."""
    size = min(int.from_bytes(content[:4], "big"), MOST_BRANDS_BYTES)
    return {content[at : at + 4] for at in (8, *range(16, size, 4))}


def make_avatar(content: bytes, file_format: str) -> bytes:
    """Return a WebP of 256 × 256 pixels: the middle of the picture, or of its first frame.

    Raises `RefusedImage`.
    """
    try:
        return _decoded_and_written(content, file_format)
    except RefusedImage:
        raise
    except MemoryError:
        raise RefusedImage("The picture needs too much memory.") from None
    except Image.DecompressionBombError:
        raise _too_many_pixels(file_format) from None
    except Exception:  # decoders raise many kinds of errors for damaged files
        raise RefusedImage("The file is damaged.") from None


def load_decoders() -> None:
    """Do nothing. A process that calls this has imported the decoders."""


def _decoded_and_written(content: bytes, file_format: str) -> bytes:
    with Image.open(BytesIO(content), formats=[file_format]) as image:
        _check_size(image, file_format)
        image.draft(None, (2 * SIDE, 2 * SIDE))  # does something for JPEG only
        orientation = _orientation(image)
        small = _in_srgb(_middle(image), image.info.get("icc_profile"))
    for turn in TURNS.get(orientation, ()):
        small = small.transpose(turn)
    written = BytesIO()
    small.save(written, "WEBP", quality=82, exif=b"", icc_profile=b"", xmp=b"")
    return written.getvalue()


def _check_size(image: Image.Image, file_format: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS[file_format]:
        raise _too_many_pixels(file_format)
    # The number of frames of a GIF is known only after reading all of it.
    if file_format != "GIF" and getattr(image, "n_frames", 1) > MAX_FRAMES:
        raise RefusedImage(f"An animation may have {MAX_FRAMES} frames.")


def _too_many_pixels(file_format: str) -> RefusedImage:
    most = MAX_PIXELS[file_format] // MEGA
    return RefusedImage(f"A picture in {file_format} may have {most} megapixels.")


def _orientation(image: Image.Image) -> int:
    """Return how the camera was held (EXIF), from 1 to 8."""
    with suppress(Exception):  # the rest of a damaged EXIF does not matter
        return int(image.getexif().get(ORIENTATION, 1))
    return 1


def _middle(image: Image.Image) -> Image.Image:
    """Return the square in the middle, small. This decodes the picture."""
    if image.mode == "I;16":
        image = _in_eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode not in ("RGB", "CMYK", "L"):
        image = image.convert("RGB")
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((SIDE, SIDE), Image.Resampling.LANCZOS, box, reducing_gap=3.0)


def _in_eight_bits(image: Image.Image) -> Image.Image:
    """Convert grey values of 16 bits. `convert` alone makes everything above 255 white."""
    grey = image.point(lambda value: value / 256).convert("L")
    if "transparency" in grey.info:
        grey.info["transparency"] //= 256
    return grey


def _in_srgb(small: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert the colours, because the profile that explains them is removed."""
    mode = "RGBA" if small.mode == "RGBA" else "RGB"
    if profile:
        with suppress(Exception):  # a damaged profile, or one of another colour space
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            target = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(small, source, target, outputMode=mode)
            if converted is not None:
                return converted
    return small.convert(mode)
