"""Pictures with and without a face for the face search: from scikit-image, and drawn here.

Nothing is downloaded. A folder of the user's own photos can be added on the benchmark's command line.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

_LONG_SIDE_PX = 512  # of every picture: quick, and what users often have
_PHOTOGRAPHS = (
    "brick", "cell", "cat", "clock", "coffee", "coins", "colorwheel", "grass", "gravel", "horse", "hubble_deep_field",
    "immunohistochemistry", "microaneurysms", "moon", "page", "retina", "rocket", "shepp_logan_phantom", "text",
    "checkerboard",
)  # fmt: skip


def without_face() -> Iterator[tuple[str, Image.Image]]:
    """Name and picture (RGB): photographs, details of them, textures, noise, drawings of animals, drawn places."""
    from skimage import data

    from drawn_world.places import draw_place
    from drawn_world.scene import PLACES

    for name in _PHOTOGRAPHS:
        yield name, _fitted(_rgb(getattr(data, name)()))
    yield "motorcycle", _fitted(_rgb(data.stereo_motorcycle()[0]))
    cat, astronaut = _rgb(data.cat()), _rgb(data.astronaut())
    yield "cat's face", cat.crop((120, 20, 330, 230))
    yield "cat upside down", _fitted(cat.rotate(180))
    yield "cat mirrored, grey", _fitted(ImageOps.mirror(cat.convert("L").convert("RGB")))
    yield "space suit", astronaut.crop((90, 250, 400, 512))
    yield "flag", astronaut.crop((0, 0, 140, 200))
    yield "model of a shuttle", astronaut.crop((300, 0, 512, 200))
    yield "coffee, close", _rgb(data.coffee()).crop((150, 60, 480, 330))
    yield "rocket's top", _rgb(data.rocket()).crop((200, 0, 440, 240))
    yield "wheel", _rgb(data.stereo_motorcycle()[1]).crop((80, 180, 380, 480))
    yield "coins, close", _rgb(data.coins()).crop((40, 60, 240, 260))
    yield "page, close", _rgb(data.page()).crop((0, 0, 180, 180))
    yield "white", Image.new("RGB", (256, 256), "white")
    yield "black", Image.new("RGB", (256, 256), "black")
    rng = np.random.default_rng(0)
    for scale in (1, 4, 16, 64):
        grid = rng.uniform(0, 255, (384 // scale, 384 // scale, 3)).astype(np.uint8)
        yield f"noise of {scale} px", Image.fromarray(grid).resize((384, 384), Image.Resampling.BICUBIC)
    for power in (1.0, 2.0):
        yield f"clouds {power:g}", _clouds(rng, power)
    rows, columns = np.mgrid[:384, :384]
    for name, values in {
        "gradient": rows / 384,
        "stripes": (columns // 12) % 2,
        "tiles": ((columns // 48) + (rows // 48)) % 2,
        "rings": np.sin(np.hypot(rows - 192, columns - 192) / 6) * 0.5 + 0.5,
        "dots": ((columns % 32 - 16) ** 2 + (rows % 32 - 16) ** 2 < 60).astype(float),
    }.items():
        yield name, Image.fromarray((values * 255).astype(np.uint8)).convert("RGB")
    for name, draw in _ANIMALS.items():
        for size_px in (160, 384):
            yield f"drawn {name}, {size_px} px", draw().resize((size_px, size_px), Image.Resampling.LANCZOS)
    for place in PLACES:
        yield f"drawn {place}", draw_place(place, size_px=320, rng=np.random.default_rng(1)).convert("RGB")


def with_face() -> Iterator[tuple[str, Image.Image, tuple[float, float]]]:
    """Name, picture (RGB) and the middle of its face in px: one photo as users' photos are, in 60 ways and more."""
    from skimage import data

    photo, middle = _rgb(data.astronaut()), (225.0, 124.0)
    for name, change in _CHANGES.items():
        yield name, change(photo), middle
    for degrees in range(15, 360, 15):
        yield f"turned by {degrees}", *_turned(photo, middle, degrees)
    for factor in (0.16, 0.25, 0.5, 1.5, 2.5):
        size_px = round(512 * factor)
        yield f"{size_px} px", photo.resize((size_px, size_px), Image.Resampling.LANCZOS), _times(middle, factor)
    for name, box in {
        "close": (150, 30, 300, 190), "face fills the picture": (170, 60, 280, 180),
        "cut at the left": (205, 20, 420, 230), "cut at the chin": (120, 20, 330, 148),
        "cut at the forehead": (120, 88, 330, 300), "in the corner": (140, 50, 500, 410),
        "wide strip": (0, 40, 512, 210), "tall strip": (140, 0, 310, 512),
    }.items():  # fmt: skip
        yield name, photo.crop(box), (middle[0] - box[0], middle[1] - box[1])
    for name in ("brick", "coffee", "grass", "page", "hubble_deep_field", "cat"):
        ground, face = _fitted(_rgb(getattr(data, name)())), photo.crop((140, 20, 310, 200))
        left, top = ground.width - face.width - 10, ground.height - face.height - 10
        ground.paste(face, (left, top))
        yield f"pasted on {name}", ground, (middle[0] - 140 + left, middle[1] - 20 + top)


def _jpeg(quality: int) -> Callable[[Image.Image], Image.Image]:
    def change(picture: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer).convert("RGB")

    return change


def _noisy(sigma: float) -> Callable[[Image.Image], Image.Image]:
    def change(picture: Image.Image) -> Image.Image:
        noise = np.random.default_rng(0).normal(0, sigma, (picture.height, picture.width, 3))
        return Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))

    return change


def _half_dark(picture: Image.Image) -> Image.Image:
    ramp = np.clip(np.linspace(-0.6, 1.8, picture.width), 0.12, 1.0)[None, :, None]
    return Image.fromarray((np.asarray(picture) * ramp).astype(np.uint8))


def _tinted(*factors: float) -> Callable[[Image.Image], Image.Image]:
    return lambda picture: Image.fromarray(np.clip(np.asarray(picture) * np.array(factors), 0, 255).astype(np.uint8))


def _sunglasses(picture: Image.Image) -> Image.Image:
    picture = picture.copy()
    draw = ImageDraw.Draw(picture)
    for x in (205, 247):
        draw.ellipse((x - 17, 92, x + 17, 116), fill=(15, 15, 20))
    draw.line((205, 100, 247, 100), fill=(15, 15, 20), width=4)
    return picture


def _mask(picture: Image.Image) -> Image.Image:
    picture = picture.copy()
    ImageDraw.Draw(picture).polygon([(190, 128), (258, 130), (256, 150), (228, 172), (196, 152)], fill=(190, 215, 230))
    return picture


_CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "as it is": lambda picture: picture,
    "grey": lambda picture: picture.convert("L").convert("RGB"),
    "sepia": _tinted(1.1, 0.9, 0.65),
    "blue light": _tinted(0.5, 0.6, 1.1),
    "red light": _tinted(1.1, 0.5, 0.4),
    "dark": lambda picture: ImageEnhance.Brightness(picture).enhance(0.2),
    "bright": lambda picture: ImageEnhance.Brightness(picture).enhance(1.9),
    "flat": lambda picture: ImageEnhance.Contrast(picture).enhance(0.3),
    "hard": lambda picture: ImageEnhance.Contrast(picture).enhance(2.5),
    "lit from one side": _half_dark,
    "slightly blurred": lambda picture: picture.filter(ImageFilter.GaussianBlur(2)),
    "blurred": lambda picture: picture.filter(ImageFilter.GaussianBlur(4)),
    "sharpened": lambda picture: picture.filter(ImageFilter.UnsharpMask(4, 300, 0)),
    "JPEG 10": _jpeg(10),
    "JPEG 30": _jpeg(30),
    "noise 15": _noisy(15),
    "noise 40": _noisy(40),
    "posterised": lambda picture: ImageOps.posterize(picture, 2),
    "few colours": lambda picture: picture.quantize(8).convert("RGB"),
    "equalised": ImageOps.equalize,
    "half tones": lambda picture: picture.convert("1").convert("RGB").filter(ImageFilter.GaussianBlur(1)),
    "sunglasses": _sunglasses,
    "face mask": _mask,
}


def _turned(photo: Image.Image, middle: tuple[float, float], degrees: int) -> tuple[Image.Image, tuple[float, float]]:
    """Counter-clockwise, on a canvas that holds all of it."""
    turned = photo.rotate(degrees, Image.Resampling.BICUBIC, expand=True, fillcolor=(128, 128, 128))
    angle = np.deg2rad(degrees)
    x, y = middle[0] - photo.width / 2, middle[1] - photo.height / 2
    return turned, (
        float(np.cos(angle) * x + np.sin(angle) * y + turned.width / 2),
        float(-np.sin(angle) * x + np.cos(angle) * y + turned.height / 2),
    )


def _times(point: tuple[float, float], factor: float) -> tuple[float, float]:
    return point[0] * factor, point[1] * factor


def _rgb(pixels: np.ndarray) -> Image.Image:
    if pixels.dtype == bool or pixels.dtype.kind == "f":
        pixels = (pixels.astype(np.float64) / max(float(pixels.max()), 1e-9) * 255).astype(np.uint8)
    return Image.fromarray(pixels).convert("RGB")


def _fitted(picture: Image.Image) -> Image.Image:
    picture = picture.copy()
    picture.thumbnail((_LONG_SIDE_PX, _LONG_SIDE_PX), Image.Resampling.LANCZOS)
    return picture


def _clouds(rng: np.random.Generator, power: float) -> Image.Image:
    """Noise whose spectrum falls with this power of the frequency."""
    frequency = np.hypot(np.fft.fftfreq(384)[:, None], np.fft.fftfreq(384)[None, :])
    spectrum = np.fft.fft2(rng.normal(size=(384, 384))) / np.maximum(frequency, 1 / 384) ** power
    values = np.fft.ifft2(spectrum).real
    values = (values - values.min()) / (values.max() - values.min())
    return Image.fromarray((values * 255).astype(np.uint8)).convert("RGB")


def _animal(head: str, *, ears: str, snout: str, eye: str = "black", ground: str = "lightblue") -> Image.Image:
    picture = Image.new("RGB", (512, 512), ground)
    draw = ImageDraw.Draw(picture)
    for x in (150, 362):
        if ears == "pointed":
            draw.polygon([(x - 55, 190), (x + 55, 190), (x + (x - 256) // 4, 40)], fill=head, outline="black")
        elif ears == "round":
            draw.ellipse((x - 60, 60, x + 60, 180), fill=head, outline="black", width=4)
        elif ears == "long":
            draw.ellipse((x - 35, 20, x + 35, 240), fill=head, outline="black", width=4)
    draw.ellipse((106, 120, 406, 430), fill=head, outline="black", width=5)
    for x in (196, 316):
        draw.ellipse((x - 26, 216, x + 26, 268), fill="white", outline="black", width=3)
        draw.ellipse((x - 12, 230, x + 12, 258), fill=eye)
    if snout == "beak":
        draw.polygon([(226, 290), (286, 290), (256, 350)], fill="orange", outline="black")
    elif snout == "pig":
        draw.ellipse((196, 290, 316, 370), fill="hotpink", outline="black", width=3)
        for x in (230, 282):
            draw.ellipse((x - 10, 318, x + 10, 344), fill="darkred")
    else:
        draw.polygon([(236, 300), (276, 300), (256, 324)], fill="black")
        draw.arc((206, 310, 256, 360), 0, 180, fill="black", width=4)
        draw.arc((256, 310, 306, 360), 0, 180, fill="black", width=4)
        for side in (-1, 1):
            for end in (300, 330, 360):
                draw.line((256 + side * 50, 330, 256 + side * 170, end), fill="black", width=2)
    return picture


_ANIMALS: dict[str, Callable[[], Image.Image]] = {
    "cat": lambda: _animal("gray", ears="pointed", snout="cat", eye="darkgreen"),
    "fox": lambda: _animal("darkorange", ears="pointed", snout="cat", ground="darkgreen"),
    "bear": lambda: _animal("saddlebrown", ears="round", snout="cat", ground="beige"),
    "rabbit": lambda: _animal("whitesmoke", ears="long", snout="cat", ground="lightgreen"),
    "pig": lambda: _animal("pink", ears="pointed", snout="pig"),
    "owl": lambda: _animal("peru", ears="none", snout="beak", ground="midnightblue"),
}
