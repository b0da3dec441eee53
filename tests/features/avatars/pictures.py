"""Picture files for tests."""

from io import BytesIO
from typing import Any

from PIL import Image

# Its four quarters, from the upper left one to the lower right one.
COLOURS = ("red", "lime", "blue", "white")
KEPT = {"JPEG": "jpeg", "PNG": "png", "WEBP": "webp", "AVIF": "avif", "GIF": "gif"}


def written(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    """Return an image as a file."""
    target = BytesIO()
    image.save(target, file_format, **options)
    return target.getvalue()


def noise(side: int = 1_000) -> Image.Image:
    """Return an image whose file is large, and has all values of a byte about equally often."""
    return Image.merge("RGB", [Image.effect_noise((side, side), 100) for _ in "RGB"])


def opened(content: bytes) -> Image.Image:
    image = Image.open(BytesIO(content))
    image.load()
    return image


def quarters(width: int = 400, height: int = 400) -> Image.Image:
    """Return an image whose quarters have different colours."""
    image = Image.new("RGB", (2, 2))
    image.putdata([Image.new("RGB", (1, 1), one).getpixel((0, 0)) for one in COLOURS])
    return image.resize((width, height), Image.Resampling.NEAREST)


def colours(image: Image.Image) -> tuple[str, ...]:
    """Return the names of the colours of the four quarters."""
    named = {Image.new("RGB", (1, 1), one).getpixel((0, 0)): one for one in COLOURS}
    side = image.width
    places = [(x, y) for y in (side // 4, 3 * side // 4) for x in (side // 4, 3 * side // 4)]
    return tuple(_nearest(image.convert("RGB").getpixel(place), named) for place in places)


def _nearest(pixel: Any, named: dict[Any, str]) -> str:
    near = min(named, key=lambda one: sum(abs(a - b) for a, b in zip(one, pixel, strict=True)))
    return named[near]
