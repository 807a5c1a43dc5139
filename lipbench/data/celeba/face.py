"""The picture of a face, drawn from its parameters by polygons on a canvas of twice the size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

WIDTH, HEIGHT = 178, 218
ZOOM = 2
Colour = tuple[int, int, int]
Points = list[tuple[float, float]]

HAIR: dict[str, Colour] = {
    "Black_Hair": (32, 27, 26),
    "Brown_Hair": (98, 64, 40),
    "Blond_Hair": (206, 168, 104),
    "Gray_Hair": (158, 156, 152),
    "": (136, 66, 36),  # red, for which CelebA has no name
}
SKIN: tuple[Colour, ...] = ((241, 205, 178), (226, 178, 143), (198, 145, 107), (152, 103, 72), (98, 66, 48))
PALE: Colour = (248, 227, 214)
IRIS: tuple[Colour, ...] = ((72, 48, 30), (58, 84, 112), (84, 104, 66), (110, 82, 44))


def draw(attributes: Mapping[str, bool], random: np.random.Generator) -> Image.Image:
    """One face, 178x218 RGB, with these attributes of CelebA; everything else about it is drawn at random."""
    parts = (_back_hair, _shoulders, _ears, _head, _cheeks, _nose, _eyes, _mouth, _beard, _front_hair, _glasses, _hat)
    # Each part has its own random numbers: an attribute changes what it is about, and nothing else.
    background, shape, photograph, *own = random.spawn(3 + len(parts))
    face = _Face(_background(background), attributes, shape)
    for part, face.random in zip(parts, own, strict=True):
        part(face)
    return _photographed(face.image, attributes["Blurry"], photograph)


class _Face:
    """A canvas with the coordinates of a head on it.

    (0, 0) is the middle between the eyes, 1 half their distance; y runs down. The head is turned (`yaw`): what lies
    before its surface moves further, by `depth`.
    """

    def __init__(self, image: Image.Image, attributes: Mapping[str, bool], random: np.random.Generator):
        self.image, self.attributes, self.random = image, attributes, random
        self.pen = ImageDraw.Draw(image, "RGBA")
        self.centre = (89 + random.normal(0, 2.5), 112 + random.normal(0, 2.5))
        self.scale = 19.5 * random.uniform(0.92, 1.06)
        self.angle = random.normal(0, 0.05)
        self.yaw = random.normal(0, 0.13)
        self.wide = random.uniform(2.25, 2.6) * (1.04 if attributes["Male"] else 1.0)
        self.chin = random.uniform(3.55, 4.0)
        self.top = -random.uniform(2.7, 3.1)
        tone = (len(SKIN) - 1.001) * random.random() ** 1.7  # mostly light, as in CelebA
        pair = np.array(SKIN[int(tone) : int(tone) + 2], float)
        self.skin = _mixed(pair[0], pair[1], tone % 1) if not attributes["Pale_Skin"] else PALE
        colour = next((hair for hair in HAIR if attributes.get(hair)), "")
        self.hair = _varied(HAIR[colour], random, 14)
        self.mouth_y = random.uniform(2.1, 2.3)
        self.fill = random.uniform(0.75, 1.25)  # how full lips, brows and the like are

    def at(self, x: float, y: float, depth: float = 0.0) -> tuple[float, float]:
        """On the canvas."""
        x = x + self.yaw * (1 + depth)
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        return (
            ZOOM * (self.centre[0] + self.scale * (cosine * x - sine * y)),
            ZOOM * (self.centre[1] + self.scale * (sine * x + cosine * y)),
        )

    def polygon(
        self, points: Iterable[tuple[float, float]], colour: Colour, alpha: int = 255, depth: float = 0
    ) -> None:
        """Filled, in the coordinates of the head."""
        self.pen.polygon([self.at(x, y, depth) for x, y in points], fill=(*colour, alpha))

    def line(self, points: Points, colour: Colour, width: float, alpha: int = 255, depth: float = 0) -> None:
        """`width` in units of the head."""
        thick = max(1, round(width * self.scale * ZOOM))
        self.pen.line([self.at(x, y, depth) for x, y in points], fill=(*colour, alpha), width=thick, joint="curve")


def _background(random: np.random.Generator) -> Image.Image:
    """Soft blotches, sometimes with edges: a wall, a window, foliage."""
    cells = random.integers(2, 7)
    base, spread = random.uniform(25, 220) + random.normal(0, 25, 3), random.uniform(5, 45)
    shape = (cells + 1, cells)
    field = base + random.normal(0, spread, (*shape, 1)) + random.normal(0, spread / 3, (*shape, 3))
    image = Image.fromarray(np.clip(field, 0, 255).astype(np.uint8)).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image, "RGBA")
    for _ in range(random.integers(0, 5)):
        x, y = random.uniform(0, WIDTH), random.uniform(0, HEIGHT)
        w, h = random.uniform(8, 75, 2)
        colour = (*_bounded(random.uniform(0, 255) + random.normal(0, 30, 3)), int(random.uniform(40, 160)))
        (pen.ellipse if random.random() < 0.5 else pen.rectangle)((x - w, y - h, x + w, y + h), fill=colour)
    image = image.filter(ImageFilter.BoxBlur(random.uniform(0.5, 3.5)))
    return image.resize((ZOOM * WIDTH, ZOOM * HEIGHT), Image.Resampling.BILINEAR)


def _back_hair(face: _Face) -> None:
    if face.attributes["Bald"] or (face.attributes["Male"] and face.random.random() < 0.9):
        return
    length, width = face.random.uniform(2.2, 6), face.wide + face.random.uniform(0.35, 0.9)
    waves = face.random.uniform(0, 0.18)
    sides = [(width + waves * math.sin(3 * y), y) for y in np.linspace(-1.2, length, 14)]
    points = [(-x, y) for x, y in reversed(sides)] + _arc(width, 2.4, -1.2) + sides
    face.polygon(points, _shade(face.hair, 0.82), depth=-0.6)


def _shoulders(face: _Face) -> None:
    cloth = _bounded(face.random.uniform(15, 240) + face.random.normal(0, 40, 3))
    neck, y = face.wide * face.random.uniform(0.52, 0.68), face.chin
    face.polygon(
        [(-neck, 1), (neck, 1), (neck * 1.1, y + 1.6), (-neck * 1.1, y + 1.6)], _shade(face.skin, 0.82), depth=-0.5
    )
    slope, collar = face.random.uniform(0.3, 0.9), face.random.uniform(0.8, 1.5)
    points = [(-neck * 1.3, y + 0.5), (0, y + collar), (neck * 1.3, y + 0.5), (5.5, y + 1 + slope), (5.5, 9), (-5.5, 9)]
    face.polygon([*points, (-5.5, y + 1 + slope)], cloth, depth=-0.6)


def _ears(face: _Face) -> None:
    if not face.attributes["Male"] and face.random.random() < 0.6 and not face.attributes["Wearing_Earrings"]:
        return
    for side in (-1, 1):
        x = side * (face.wide + 0.12)
        face.polygon(_ellipse(x, 0.45, 0.36, 0.75), _shade(face.skin, 0.86), depth=-0.5)
        if face.attributes["Wearing_Earrings"]:
            y, size = 1.25 + face.random.uniform(0, 0.4), face.random.uniform(0.14, 0.3)
            face.polygon(_ellipse(x, y, size, size * face.random.uniform(1, 2)), (236, 204, 92), depth=-0.4)


def _head(face: _Face) -> None:
    face.polygon(_outline(face), face.skin)
    side = face.random.choice((-1, 1))
    outer = [(side * x, y) for x, y in _outline(face) if x >= 0]
    for share in (0.94, 0.88, 0.81, 0.73, 0.64):  # the cheek away from the light
        inner = [(share * x, y) for x, y in reversed(outer)]
        face.polygon(outer + inner, _shade(face.skin, 0.7), alpha=22)


def _cheeks(face: _Face) -> None:
    rosy = face.attributes["Rosy_Cheeks"]
    for side in (-1, 1):
        for size in (0.8, 0.62, 0.45):
            face.polygon(_ellipse(side * 1.3, 1.25, size, size * 0.75), (220, 80, 84), 46 if rosy else 7)
        if face.random.random() < 0.25:
            face.line(_curve(side * 1.0, 0.62, 0.5, -0.12), _shade(face.skin, 0.7), 0.05, 150)


def _nose(face: _Face) -> None:
    size, length = face.random.uniform(0.38, 0.6), face.random.uniform(1.15, 1.4)
    dark, light = _shade(face.skin, 0.72), _shade(face.skin, 1.1)
    side = face.random.choice((-1, 1))
    face.polygon([(side * 0.18, 0.1), (side * 0.2, length - 0.3), (side * size, length), (0, length)], dark, 70, 0.5)
    face.polygon([(-0.1, 0.2), (0.1, 0.2), (0.16, length - 0.15), (-0.16, length - 0.15)], light, 70, 0.6)
    face.line(_curve(0, length + 0.05, size, 0.14), dark, 0.07, 190, 0.6)
    for nostril in (-0.5, 0.5):
        face.polygon(_ellipse(nostril * size, length + 0.03, 0.11, 0.06), _shade(face.skin, 0.4), 200, 0.6)


def _eyes(face: _Face) -> None:
    open_ = face.random.uniform(0.24, 0.34) * (0.5 if face.attributes["Narrow_Eyes"] else 1.0)
    long = face.random.uniform(0.5, 0.6)
    iris = _varied(IRIS[face.random.integers(len(IRIS))], face.random, 14)
    gaze = face.random.normal(0, 0.06)
    brow = _shade(face.hair, 0.7)
    thick = 0.28 if face.attributes["Bushy_Eyebrows"] else face.random.uniform(0.09, 0.17)
    lift, bend = face.random.uniform(0.55, 0.8), face.random.uniform(0.08, 0.3)
    for side in (-1, 1):
        x = side * 1.0
        face.polygon(_ellipse(x, -0.05, long * 1.2, open_ * 1.7), _shade(face.skin, 0.86), 130)
        face.polygon(_almond(x, 0, long, open_), (240, 237, 234))
        radius = min(0.27, open_ * 1.05)
        face.polygon(_ellipse(x + gaze, -0.01, radius, radius), iris, depth=0.1)
        face.polygon(_ellipse(x + gaze, -0.01, radius * 0.5, radius * 0.5), (12, 10, 10), depth=0.1)
        face.polygon(_ellipse(x + gaze + 0.08, -0.1, 0.06, 0.06), (255, 255, 255), 220, 0.1)
        lashes = 0.1 if face.attributes["Wearing_Lipstick"] else 0.06
        face.line([p for p in _almond(x, 0, long, open_) if p[1] <= 0.01], (34, 24, 22), lashes)
        face.line(_curve(x, -lift, 0.62, -bend), brow, thick, 225)


def _mouth(face: _Face) -> None:
    smiling, open_ = face.attributes["Smiling"], face.attributes["Mouth_Slightly_Open"]
    wide = face.random.uniform(0.98, 1.2) if smiling else face.random.uniform(0.7, 0.88)
    bend = face.random.uniform(0.22, 0.42) if smiling else face.random.uniform(-0.12, 0.06)
    gap = face.random.uniform(0.16, 0.34) if open_ else 0.0
    lip = _mixed(np.array(face.skin, float), np.array((176, 70, 76), float), face.random.uniform(0.35, 0.6))
    if face.attributes["Wearing_Lipstick"]:
        lip = _varied((188, 30, 56), face.random, 25)
    y, full = face.mouth_y - bend / 2, 0.2 * face.fill
    upper, lower = _curve(0, y, wide, bend), _curve(0, y, wide, bend + gap)
    top = [(x, v - full * (1 - (x / wide) ** 2) * (1 - 0.35 * math.exp(-30 * x * x))) for x, v in upper]
    bottom = [(x, v + 1.2 * full * (1 - (x / wide) ** 2)) for x, v in lower]
    face.polygon(top + bottom[::-1], lip, depth=0.3)
    if open_:
        face.polygon(upper + lower[::-1], (74, 22, 24), depth=0.3)
        teeth = [(0.94 * x, v + 0.62 * gap * (1 - (x / wide) ** 2)) for x, v in upper]
        face.polygon(upper + teeth[::-1], (238, 234, 226), depth=0.3)
    else:
        face.line(upper, _shade(lip, 0.55), 0.06, depth=0.3)
    if smiling:  # the folds from the nose to the corners
        for side in (-1, 1):
            face.line(
                [(side * 0.62, 1.3), (side * (wide + 0.12), y - 0.35), (side * (wide + 0.2), y + 0.1)],
                _shade(face.skin, 0.7),
                0.05,
                170,
            )


def _beard(face: _Face) -> None:
    colour = _shade(face.hair, face.random.uniform(0.65, 0.95))
    colour = _visible(colour, face.skin)
    y = face.mouth_y
    if face.attributes["5_o_Clock_Shadow"]:
        jaw = [(x * 0.97, v) for x, v in _outline(face) if v > 1.1]
        lip = [(-0.95, y - 0.45), (0.95, y - 0.45)]
        face.polygon([*jaw, (1.5, 1.4), *reversed(lip), (-1.5, 1.4)], (44, 42, 46), int(face.random.integers(34, 60)))
    if face.attributes["Goatee"]:
        wide, low = face.random.uniform(0.45, 0.85), face.chin + face.random.uniform(-0.15, 0.4)
        face.polygon(
            [(-wide, y + 0.5), (wide, y + 0.5), (wide * 0.8, low - 0.2), (0, low), (-wide * 0.8, low - 0.2)],
            colour,
            225,
        )
    if face.attributes["Mustache"]:
        _mustache(face, colour)


def _mustache(face: _Face, colour: Colour) -> None:
    """Two wings between nose and mouth, from pencil-thin to walrus."""
    wide, thick = face.random.uniform(0.75, 1.3), face.random.uniform(0.2, 0.42)
    droop, middle = face.random.uniform(-0.1, 0.4), face.mouth_y - 0.34 - thick / 2
    for side in (-1, 1):
        wing = [(side * x, v) for x, v in ((0.02, middle - 0.06), (0.45 * wide, middle - 0.02), (wide, middle + droop))]
        under = [(side * x, v) for x, v in ((0.5 * wide, middle + thick), (0.02, middle + 0.8 * thick))]
        face.polygon(wing + under, colour, 240, 0.4)
        for _ in range(14):  # single hairs
            x = face.random.uniform(0.05, 0.9) * wide
            start = (side * x, middle + droop * x / wide)
            end = (side * (x + face.random.uniform(0, 0.2)), start[1] + thick * face.random.uniform(0.4, 1.1))
            face.line([start, end], _shade(colour, face.random.uniform(0.7, 1.4)), 0.03, 160, 0.4)


def _front_hair(face: _Face) -> None:
    if face.attributes["Bald"]:
        face.polygon(_ellipse(0.5, face.top * 0.8, 0.7, 0.3), _shade(face.skin, 1.15), 90)
        for side in (-1, 1):  # a wreath, at most
            if face.random.random() < 0.4:
                face.polygon(_ellipse(side * face.wide, -0.6, 0.2, 0.7), face.hair, 200, -0.3)
        return
    volume = face.random.uniform(0.25, 0.75)
    line = face.random.uniform(-1.9, -1.5) if face.attributes["Bangs"] else face.random.uniform(-2.3, -1.75)
    low = -0.85 if face.attributes["Bangs"] else line
    part = face.random.uniform(-1, 1)
    crown = _arc(face.wide + 0.1 + 0.25 * volume, -face.top - 0.6 + volume, -0.4)
    inner = []
    for x in np.linspace(face.wide * 0.96, -face.wide * 0.96, 24):
        edge = (abs(x) / face.wide) ** 4
        ragged = face.random.normal(0, 0.06)
        fringe = low if face.attributes["Bangs"] else line + 0.35 * abs(x - part) / face.wide
        inner.append((float(x), fringe * (1 - edge) - 0.4 * edge + ragged))
    face.polygon(crown + inner, face.hair)
    for _ in range(26):  # strands
        x = face.random.uniform(-1, 1) * face.wide
        y = face.top + 0.1 + 0.9 * (abs(x) / face.wide) ** 2
        end = (x * 1.05 + face.random.normal(0, 0.15), y + face.random.uniform(0.3, 0.9))
        if end[1] < -0.4 * (abs(x) / face.wide) ** 4 + low * (1 - (abs(x) / face.wide) ** 4):
            face.line([(x * 0.9, y), end], _shade(face.hair, face.random.uniform(0.75, 1.35)), 0.05, 130)


def _glasses(face: _Face) -> None:
    if not face.attributes["Eyeglasses"]:
        return
    random = face.random
    frames: tuple[Colour, ...] = (
        (24, 22, 22),
        (70, 42, 26),
        (150, 146, 140),
        (120, 24, 30),
        (30, 44, 96),
        (188, 152, 80),
    )
    frame = _varied(frames[random.choice(len(frames), p=(0.42, 0.2, 0.14, 0.06, 0.08, 0.1))], random, 10)
    frame = _visible(frame, face.skin)
    wide, high = random.uniform(0.68, 0.86), random.uniform(0.44, 0.72)
    power, thick = random.choice((2.0, 2.6, 5.0)), random.uniform(0.09, 0.18)
    dark = random.random() < 0.2  # sunglasses
    for side in (-1, 1):
        rim = _ellipse(side * 0.98, 0.12, wide, high, power)
        face.polygon(
            rim, (20, 20, 24) if dark else (210, 222, 232), int(random.integers(150, 225)) if dark else 26, 0.5
        )
        face.line([*rim, rim[0], rim[1]], frame, thick, depth=0.5)
        face.line([(side * (0.98 + wide), 0), (side * (face.wide + 0.1), -0.05)], frame, thick, depth=0.2)
        if random.random() < 0.5:
            shine = [
                (side * 0.98 - 0.35, 0.3),
                (side * 0.98 + 0.05, -0.22),
                (side * 0.98 + 0.2, -0.22),
                (side * 0.98 - 0.2, 0.3),
            ]
            face.polygon(shine, (255, 255, 255), 70, 0.5)
    face.line(_curve(0, 0.02, 0.98 - wide, -0.1), frame, thick, depth=0.6)


def _hat(face: _Face) -> None:
    if not face.attributes["Wearing_Hat"]:
        return
    brim = face.random.uniform(-1.75, -1.35)
    shade = _bounded(face.random.uniform(20, 235) + face.random.normal(0, 45, 3))
    crown = face.wide * face.random.uniform(0.95, 1.15)
    face.polygon([(crown, brim), *reversed(_arc(crown, -brim + 1.9, brim)), (-crown, brim)], shade)
    wide = crown * face.random.uniform(1.02, 1.7)
    face.polygon(_ellipse(0, brim, wide, 0.28), _shade(shade, 0.75), depth=0.3)


def _photographed(image: Image.Image, blurry: bool, random: np.random.Generator) -> Image.Image:
    """Light from one side, colour of the light, contrast, sharpness and noise, at the final size."""
    image = image.reduce(ZOOM)
    if blurry:
        image = image.filter(ImageFilter.GaussianBlur(random.uniform(1.6, 2.6)))
    pixels = np.asarray(image, np.float32)
    angle, strength = random.uniform(0, 2 * math.pi), random.uniform(0, 0.35)
    x, y = np.linspace(-1, 1, WIDTH, dtype=np.float32), np.linspace(-1, 1, HEIGHT, dtype=np.float32)[:, None]
    light = 1 + strength * (math.cos(angle) * x + math.sin(angle) * y)
    tint = (random.uniform(0.78, 1.14) * random.normal(1, 0.035, 3)).astype(np.float32)
    pixels = (pixels - 128) * np.float32(random.uniform(0.75, 1.1)) + 128
    noise = random.standard_normal(pixels.shape[:2], dtype=np.float32)[..., None] * np.float32(random.uniform(1, 7))
    return Image.fromarray(np.clip(pixels * light[..., None] * tint + noise, 0, 255).astype(np.uint8))


def _outline(face: _Face) -> Points:
    """The head: an egg, its narrow end the chin."""
    points = []
    for turn in np.linspace(-math.pi / 2, 1.5 * math.pi, 60, endpoint=False):
        x, y = math.cos(turn), math.sin(turn)
        if y < 0:
            points.append((face.wide * x, -face.top * y))
        else:
            points.append((face.wide * x * (1 - 0.28 * y * y), face.chin * y**1.08))
    return points


def _ellipse(x: float, y: float, wide: float, high: float, power: float = 2.0) -> Points:
    """A superellipse; a large power makes it a rectangle with round corners."""
    turns = np.linspace(0, 2 * math.pi, 32, endpoint=False)
    return [(x + wide * _signed(math.cos(t), 2 / power), y + high * _signed(math.sin(t), 2 / power)) for t in turns]


def _arc(wide: float, high: float, y: float) -> Points:
    """Over the head, from left to right, `high` above y."""
    return [(-wide * math.cos(t), y - high * math.sin(t) ** 0.8) for t in np.linspace(0, math.pi, 24)]


def _almond(x: float, y: float, wide: float, high: float) -> Points:
    upper = [(x + wide * t, y - 1.1 * high * (1 - t * t)) for t in np.linspace(-1, 1, 14)]
    return upper + [(x + wide * t, y + 0.8 * high * (1 - t * t)) for t in np.linspace(1, -1, 14)]


def _curve(x: float, y: float, wide: float, bend: float) -> Points:
    """A parabola through (x ± wide, y) with its middle `bend` lower."""
    return [(x + wide * t, y + bend * (1 - t * t)) for t in np.linspace(-1, 1, 15)]


def _signed(value: float, power: float) -> float:
    return math.copysign(abs(value) ** power, value)


def _shade(colour: Colour, factor: float) -> Colour:
    return _bounded(factor * np.array(colour, float))


def _visible(colour: Colour, skin: Colour) -> Colour:
    """Darker where it would look like the skin."""
    return _shade(colour, 0.45) if np.abs(np.subtract(colour, skin)).sum() < 150 else colour


def _varied(colour: Colour, random: np.random.Generator, spread: float) -> Colour:
    return _bounded(np.array(colour) + random.normal(0, spread) + random.normal(0, spread / 3, 3))


def _mixed(one: NDArray[np.float64], other: NDArray[np.float64], share: float) -> Colour:
    return _bounded((1 - share) * one + share * other)


def _bounded(values: NDArray[np.float64]) -> Colour:
    red, green, blue = (int(v) for v in np.clip(values, 0, 255))
    return red, green, blue
