"""Draw one mushroom photograph: twelve species, their traits as data, and the forest around them.

Species of one genus differ by a subtle trait (a ring, a shade), genera by shape and habit, and the
light of each photo blurs the colours, so that shape has to be learned. Nothing here is meant for
the kitchen.

Lengths on a mushroom are fractions of its height: x to the right, y up, its foot at (0, 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

Colour = tuple[int, int, int]  # RGB in [0, 255]
Floats = npt.NDArray[np.floating]  # an outline is (N, 2): x, y
Ints = npt.NDArray[np.int_]
Image = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Marks:
    """Patches, warts or scales strewn over a cap or a stem."""

    count: int
    radius: float
    colour: Colour
    stretch: float = 1.0
    """Height over width of one mark."""


@dataclass(frozen=True, slots=True)
class Species:
    """What tells a species from the others; the rest is left to chance."""

    name: str
    shape: tuple[float, float]
    """Exponents (p, q) of the cap's outline: height (1 - |x|^p)^q at x in [-1, 1]."""
    cap: tuple[float, float]
    """Half width and height."""
    hues: tuple[Colour, Colour]
    """Each cap is a mixture of these two, so that neighbouring species overlap in colour."""
    stem: float
    """Half width."""
    stem_colour: Colour = (238, 232, 216)
    bulb: float = 0.3
    """How much wider the stem is at its foot."""
    underside: Literal["gills", "pores", "ridges"] | None = "gills"
    """None where it never shows."""
    under_colour: Colour = (238, 232, 216)
    cap_marks: Marks | None = None
    stem_marks: Marks | None = None
    ring: float | None = None
    """Height of the ring on the stem."""
    volva: bool = False
    troop: tuple[int, int] = (1, 2)
    """Fewest and most mushrooms in one photo."""
    size: float = 1.0


DOME, BUN, BELL, EGG, BALL, FLAT = (2, 0.55), (2.8, 0.45), (1.5, 0.9), (2.4, 0.55), (2, 0.5), (4, 1)
BROWNS, ORANGES = ((98, 62, 38), (192, 120, 70)), ((158, 84, 44), (228, 146, 68))
IVORY, LEMON, YOLK = (238, 232, 216), (226, 204, 84), (240, 178, 52)
PATCHES, SCABERS = Marks(26, 0.042, (244, 238, 224), 0.7), Marks(60, 0.009, (84, 76, 72), 1.5)
SHAG, WARTS = Marks(64, 0.014, (178, 152, 122), 1.9), Marks(150, 0.011, (150, 126, 98))

SPECIES: tuple[Species, ...] = (
    Species("Amanita muscaria", DOME, (0.42, 0.36), ((176, 36, 26), (204, 112, 58)), 0.065,
            bulb=0.9, cap_marks=PATCHES, ring=0.5),
    Species("Amanita pantherina", DOME, (0.40, 0.33), BROWNS, 0.06,
            bulb=0.9, cap_marks=PATCHES, ring=0.46),
    Species("Amanita phalloides", DOME, (0.40, 0.34), ((112, 112, 54), (186, 146, 92)), 0.06,
            bulb=0.7, ring=0.5, volva=True),
    Species("Leccinum scabrum", BUN, (0.29, 0.27), BROWNS, 0.075,
            underside="pores", stem_marks=SCABERS),
    Species("Leccinum versipelle", BUN, (0.29, 0.27), ORANGES, 0.08,
            underside="pores", under_colour=(206, 200, 182), stem_marks=SCABERS),
    Species("Suillus luteus", BUN, (0.45, 0.36), BROWNS, 0.09, LEMON,
            underside="pores", under_colour=LEMON, ring=0.42),
    Species("Suillus granulatus", BUN, (0.45, 0.36), ((112, 68, 40), (204, 138, 78)), 0.09, LEMON,
            underside="pores", under_colour=LEMON),
    Species("Mycena haematopus", BELL, (0.19, 0.26), ((122, 60, 52), (204, 128, 92)), 0.024,
            (146, 86, 66), under_colour=(226, 196, 184), troop=(3, 6)),
    Species("Mycena leaiana", BELL, (0.22, 0.23), ORANGES, 0.026,
            (196, 134, 84), under_colour=(236, 192, 150), troop=(4, 7)),
    Species("Cantharellus cibarius", FLAT, (0.46, 0.2), ((222, 142, 30), (246, 200, 84)), 0.1,
            underside="ridges", under_colour=(236, 184, 76), troop=(1, 4)),
    Species("Coprinus comatus", EGG, (0.16, 0.62), ((214, 204, 184), (240, 236, 226)), 0.045,
            underside=None, cap_marks=SHAG, ring=0.2, troop=(1, 4)),
    Species("Lycoperdon perlatum", BALL, (0.46, 0.5), ((182, 160, 128), (234, 226, 206)), 0.27,
            (224, 212, 186), underside=None, cap_marks=WARTS, troop=(1, 4), size=0.6),
)  # fmt: skip


class _Scene:
    """A canvas, the light that falls on it, and the one brush that everything is painted with."""

    def __init__(self, height: int, width: int, rng: np.random.Generator) -> None:
        self.height, self.width, self.rng = height, width, rng
        self.unit = min(height, width)
        self.canvas = np.zeros((height, width, 3), np.float32)
        self.light = np.array([rng.uniform(-1, 1), -rng.uniform(0.5, 1)])  # towards the light
        self.grain = self.noise(8, 3)

    def noise(self, cells: int, octaves: int) -> npt.NDArray[np.float32]:
        """Smooth ``(H, W)`` noise around 0.5, its coarsest cells 1 / ``cells`` of the short side."""
        total = np.zeros((self.height, self.width), np.float32)
        for fine in (cells * 2**octave for octave in range(octaves)):
            shape = 2 + self.height * fine // self.unit, 2 + self.width * fine // self.unit
            grid = self.rng.random(shape, np.float32) / octaves
            total += cv2.resize(grid, (self.width, self.height), interpolation=cv2.INTER_CUBIC)
        return total

    def anywhere(self, top: float, bottom: float) -> Floats:
        """Choose a point [px] between two heights, given as shares of the canvas."""
        return self.rng.uniform((0, top), (1, bottom)) * (self.width, self.height)

    def paint(
        self,
        shapes: Sequence[Floats],
        colour: Floats | Colour,
        relief: float = 0.0,
        opacity: float = 1.0,
        feather: float = 0.0,
        clip: Floats | None = None,
    ) -> None:
        """Fill outlines and shade them as one rounded body.

        Args:
            shapes: Outlines ``(N, 2)`` [px]; they may leave the canvas.
            colour: ``(3,)`` RGB in [0, 255].
            relief: 0 for flat colour; towards 1 for a body whose far side lies in shadow.
            opacity: 1 hides what lies beneath.
            feather: Width of a soft edge [px].
            clip: Paint only inside this outline.
        """
        corners, limit = np.vstack(list(shapes)), (self.width, self.height)
        start = np.clip(corners.min(axis=0) - feather - 2, 0, limit).astype(int)
        stop = np.clip(corners.max(axis=0) + feather + 3, 0, limit).astype(int)
        if (start >= stop).any():
            return
        box = (slice(start[1], stop[1]), slice(start[0], stop[0]))
        mask: cv2.typing.MatLike = _fill(shapes, start, stop)
        if clip is not None:
            mask = cv2.min(mask, _fill([clip], start, stop))
        if feather >= 1:
            mask = cv2.blur(mask, (int(feather), int(feather)), borderType=cv2.BORDER_REPLICATE)
        shade = np.ones(mask.shape, np.float32)
        if relief:
            shade = 1 + relief * (1.5 * self._lit(mask) - 0.95)
            shade *= 0.85 + 0.3 * self.grain[box]
        cover, patch = mask * np.float32(opacity / 255), self.canvas[box]
        patch[:] = cv2.blendLinear(_dye(shade, 0, colour), patch, cover, 1 - cover)

    def _lit(self, mask: cv2.typing.MatLike) -> npt.NDArray[np.float32]:
        """Guess how lit each pixel is: the share of body in a window that lies off the light."""
        side = max(3, min(mask.shape) // 2)
        # Moving the anchor of a box filter, rather than the image, shifts the window for free.
        x, y = np.clip((side * (0.5 + 0.3 * self.light)).astype(int), 0, side - 1).tolist()
        for _ in range(2):
            mask = cv2.blur(mask, (side, side), anchor=(x, y), borderType=cv2.BORDER_CONSTANT)
        return mask * np.float32(1 / 255)


def _dye(values: Floats, dark: Floats | float, bright: Floats | Colour) -> cv2.typing.MatLike:
    """Turn ``(H, W)`` values into ``(H, W, 3)`` colours: ``dark`` at 0, ``bright`` at 1."""
    slope, offset = np.broadcast_arrays(np.subtract(bright, dark), dark)
    # OpenCV, as the inner loop of NumPy would run over just 3 channels.
    return cv2.transform(values, np.stack([slope, offset], axis=1).astype(np.float32))


def _fill(shapes: Sequence[Floats], start: Ints, stop: Ints) -> Image:
    """Return the smooth-edged mask in [0, 255] of outlines inside a box with corners (x, y)."""
    mask = np.zeros((stop - start)[::-1], np.uint8)
    for shape in shapes:
        fixed = np.round((shape - start) * 16).astype(np.int32)
        cv2.fillPoly(mask, [fixed], 255, cv2.LINE_AA, shift=4)
    return mask


def draw_photo(species: Species, size: int, rng: np.random.Generator) -> Image:
    """Draw one photo of a species: ``(H, W, 3)`` RGB, shorter side about ``size`` pixels."""
    short = size * (rng.uniform(1.5, 1.75) if rng.random() < 1 / 8 else rng.uniform(0.8, 1.2))
    sides = [round(short), round(short * rng.choice([1, 5 / 4, 4 / 3, 3 / 2]))]
    height, width = sides[::-1] if rng.random() < 0.3 else sides
    scene = _Scene(height, width, rng)
    _draw_forest(scene)
    _draw_troop(scene, species)
    _draw_grass(scene)
    return _expose(scene)


_WOODS: tuple[tuple[Colour, Colour, Colour], ...] = (  # soil, ground cover, far light
    ((46, 38, 26), (122, 90, 54), (150, 140, 96)),  # leaf litter
    ((30, 44, 18), (104, 128, 48), (126, 148, 84)),  # moss
    ((40, 56, 26), (120, 150, 66), (186, 196, 130)),  # meadow
    ((34, 30, 28), (92, 84, 72), (112, 124, 128)),  # spruce needles
)


def _draw_forest(scene: _Scene) -> None:
    """Fill the canvas: blurred woods, a soft horizon, and ground with leaves and pebbles."""
    rng, unit = scene.rng, scene.unit
    woods = np.array(_WOODS[rng.integers(len(_WOODS))], np.float32)
    soil, cover, far = woods * np.float32(rng.uniform(0.8, 1.2))
    scene.canvas[:] = _dye(0.55 * scene.noise(2, 2), soil, far)
    for _ in range(rng.integers(6, 16)):  # discs out of focus
        disc = _blob(rng, rng.uniform(0.02, 0.08) * unit, 20) + scene.anywhere(0, 0.6)
        scene.paint([disc], far * 1.25, opacity=rng.uniform(0.1, 0.4), feather=unit / 60)

    horizon = rng.uniform(0.4, 0.62)
    slope = np.clip((np.linspace(0, 1, scene.height) - horizon) / 0.12, 0, 1)
    near = np.repeat(slope[:, None].astype(np.float32), scene.width, axis=1)
    ground = _dye(1.7 * scene.noise(10, 4) ** 2, soil, cover)
    scene.canvas[:] = cv2.blendLinear(ground, scene.canvas, near, 1 - near)
    for _ in range(rng.integers(10, 40)):  # fallen leaves, smaller far away
        spot = scene.anywhere(horizon, 1.05)
        length = unit * 0.14 * (spot[1] / scene.height - horizon) / (1 - horizon) + 2
        leaf = _blob(rng, length / 2, 8, 0.3) * rng.uniform(0.3, 1, 2) + spot
        scene.paint([leaf + np.array((0, unit / 90))], soil * 0.4, opacity=0.5, feather=unit / 80)
        scene.paint([leaf], cover * rng.uniform(0.65, 1.2, 3), relief=0.3)
    for _ in range(rng.integers(0, 5)):  # pebbles: round as a puffball, to learn nothing from
        stone = _blob(rng, rng.uniform(0.015, 0.06) * unit, 12, 0.15) * (1.3, 0.8)
        grey = np.full(3, rng.uniform(90, 190))
        scene.paint([stone + scene.anywhere(0.7, 1)], grey, relief=0.6)


def _draw_grass(scene: _Scene) -> None:
    """Let blades of grass hide a part of what stands behind them."""
    for _ in range(scene.rng.integers(4, 36)):
        reach = scene.rng.normal(0, 0.12), -scene.rng.uniform(0.08, 0.4)
        blade = _blade(np.array(reach), scene.rng.uniform(0.006, 0.014)) * scene.unit
        green = scene.rng.uniform((70, 110, 30), (150, 165, 70))
        scene.paint([blade + scene.anywhere(0.93, 1.08)], green, relief=0.2)


def _expose(scene: _Scene) -> Image:
    """Take the photo: colour cast, exposure, vignette, blur, sensor noise."""
    rng = scene.rng
    cast = rng.uniform(0.88, 1.12, 3) * rng.uniform(0.75, 1.2)
    y, x = (np.linspace(-1, 1, side) ** 2 for side in (scene.height, scene.width))
    vignette = 1 - rng.uniform(0, 0.15) * (y[:, None] + x)
    photo: cv2.typing.MatLike = scene.canvas * _dye(vignette.astype(np.float32), 0, cast)
    if (sigma := rng.uniform(-0.6, 1.2) * scene.unit / 320) > 0.3:
        photo = cv2.GaussianBlur(photo, (0, 0), sigma)
    noise = rng.standard_normal(photo.shape[:2], np.float32) * np.float32(rng.uniform(1, 6))
    photo += _dye(noise, 0, (1, 1, 1))
    exposed: Image = np.clip(photo, 0, 255).astype(np.uint8)
    return exposed


def _draw_troop(scene: _Scene, species: Species) -> None:
    """Place the mushrooms of one photo side by side and draw the far ones first."""
    rng = scene.rng
    # Rain washes patches off and rings tear, so no single trait decides.
    if rng.random() < 0.2:
        species = replace(species, cap_marks=None)
    if rng.random() < 0.2:
        species = replace(species, ring=None)
    count = int(rng.integers(species.troop[0], species.troop[1] + 1))
    middle = rng.uniform((0.3, 0.82), (0.7, 1)) * (scene.width, scene.height)
    height = scene.unit * species.size * rng.uniform(0.4, 0.8) * count**-0.15
    view, mushrooms = rng.uniform(-1, 1), []
    for rank in range(count):
        side = (rank - (count - 1) / 2) * rng.uniform(0.65, 1.2) * (0.3 + species.cap[0])
        foot = middle + height * np.array([side, rng.uniform(-0.16, 0.02)])
        tall = height * rng.uniform(0.55 if rank else 0.9, 1)
        turn = rng.normal((0.12 * side, 0, view), (0.1, 0.06, 0.15))
        mushrooms.append(_Mushroom(scene, species, foot, tall, *turn.tolist()))
    for mushroom in sorted(mushrooms, key=lambda mushroom: float(mushroom.foot[1])):
        mushroom.draw()


@dataclass(slots=True)
class _Mushroom:
    """One mushroom: where it stands, how it leans, and from where it is seen."""

    scene: _Scene
    species: Species
    foot: Floats
    tall: float
    lean: float
    bend: float
    view: float
    """Camera above the cap (towards 1) or below it (towards -1), where the underside shows."""

    def draw(self) -> None:
        """Draw the parts; the view decides which lies in front."""
        rng, species = self.scene.rng, self.species
        shadow = _blob(rng, self.tall * 0.3, 24) * (1.3, 0.35) + self.foot
        self.scene.paint([shadow], (0, 0, 0), opacity=0.55, feather=self.tall * 0.12)
        share = rng.uniform(-0.15, 1.15)
        colour = (1 - share) * np.array(species.hues[0]) + share * np.array(species.hues[1])
        half, height = np.array(species.cap) * rng.uniform(0.85, 1.12, 2)
        if species.underside == "ridges":
            self._draw_funnel(half, colour)
        elif species.underside and self.view < 0:
            cap = self._draw_cap(half, height, colour)
            self._draw_underside(half, 1 - height, cap)
            self._draw_stem(1 - height)
        else:
            self._draw_stem(1 - height)
            self._draw_cap(half, height, colour)

    def _place(self, outline: Floats) -> Floats:
        """Map an outline from the mushroom's own lengths to pixels."""
        x, y = outline[:, 0] + self.bend * outline[:, 1] ** 2, outline[:, 1]
        cos, sin = np.cos(self.lean), np.sin(self.lean)
        return self.foot + self.tall * np.stack([x * cos + y * sin, x * sin - y * cos], axis=1)

    def _rim(self, half: float) -> float:
        """Half height of the ellipse that the rim of the cap makes in this view."""
        return half * (0.1 + 0.3 * min(abs(self.view), 1))

    def _draw_cap(self, half: float, height: float, colour: Floats) -> Floats:
        """Draw the cap with its marks and a glint; return its outline [px]."""
        rng, marks, (p, q) = self.scene.rng, self.species.cap_marks, self.species.shape
        x = np.cos(np.linspace(0, np.pi, 40))
        sag = 0.3 if self.species.shape == BALL else self._rim(half)
        top = np.stack([x * half, 1 - height + height * (1 - np.abs(x) ** p) ** q], axis=1)
        rim = np.stack([-x * half, 1 - height - sag * np.sqrt(1 - x**2)], axis=1)
        cap = self._place(np.vstack([top, rim]))
        self.scene.paint([cap], colour, relief=0.65)
        if marks:
            along, up = rng.uniform((-0.96, -0.1), (0.96, 0.95), (marks.count, 2)).T
            y = 1 - height * (1 - up * (1 - np.abs(along) ** p) ** q)
            self._draw_marks(marks, np.stack([along * half, y], axis=1), cap)
        shine = (self.scene.light[0] * half * 0.4, 1 - height * 0.35)
        glint, soft = _blob(rng, half * 0.28, 16) * (1, 0.5) + shine, self.tall * half * 0.2
        gloss = rng.uniform(0.05, 0.3)
        self.scene.paint([self._place(glint)], (255,) * 3, opacity=gloss, feather=soft, clip=cap)
        return cap

    def _draw_underside(self, half: float, rim: float, cap: Floats) -> None:
        """Draw the gills or pores that show from below."""
        angle = np.linspace(0, 2 * np.pi, 72)
        disc = np.stack([np.cos(angle) * half, np.sin(angle) * self._rim(half)], axis=1)
        middle = np.array((0, rim))
        colour = np.array(self.species.under_colour) * self.scene.rng.uniform(0.8, 1)
        self.scene.paint([self._place(disc * 0.95 + middle)], colour, relief=0.35, clip=cap)
        if self.species.underside == "gills":
            pairs = disc.reshape(-1, 2, 2)
            gaps = [np.vstack([pair[:1] * 0.1, pair * 0.93]) + middle for pair in pairs]
        else:
            spots = disc * np.sqrt(self.scene.rng.uniform(0, 0.8, (72, 1)))
            gaps = [_blob(self.scene.rng, 0.012, 6) + spot for spot in spots + middle]
        self.scene.paint([self._place(gap) for gap in gaps], colour * 0.72, clip=cap)

    def _draw_stem(self, top: float) -> None:
        """Draw the stem from the foot to the cap, with its marks, ring and volva."""
        rng, species = self.scene.rng, self.species
        y = np.linspace(0, top + 0.02, 16)
        half = species.stem * rng.uniform(0.8, 1.2)
        width = half * (1 + species.bulb * (1 - y) ** 5) * np.minimum(1, 0.5 + 12 * y) ** 0.5
        stem = self._place(_mirrored(width, y))
        self.scene.paint([stem], np.array(species.stem_colour) * rng.uniform(0.85, 1), relief=0.6)
        if marks := species.stem_marks:
            self._draw_marks(marks, rng.uniform((-half, 0.05), (half, top), (marks.count, 2)), stem)
        if species.ring:
            y = species.ring * rng.uniform(0.94, 1.06) + np.array([0.03, 0, -0.06])
            skirt = self._place(_mirrored(half * np.array([1, 1.5, 2]), y))
            self.scene.paint([skirt], IVORY, relief=0.5)
        if species.volva:
            y = np.array([-0.03, 0, 0.1, 0.15])
            cup = self._place(_mirrored(half * np.array([1.4, 2.2, 2.1, 2.4]), y))
            self.scene.paint([cup], IVORY, relief=0.6)

    def _draw_funnel(self, half: float, colour: Floats) -> None:
        """Draw a vase with ridges that run down it, and the wavy bowl on top."""
        y, under = np.linspace(0, 0.92, 24), np.array(self.species.under_colour)
        width = self.species.stem + (half - self.species.stem) * (y / 0.92) ** 2.6
        body = self._place(_mirrored(width, y))
        self.scene.paint([body], under, relief=0.6)
        lines = [np.stack([width * x, y], axis=1)[8:] for x in np.linspace(-0.9, 0.9, 13)]
        thin = np.array((0.012, 0))
        ridges = [self._place(np.vstack([line, line[::-1] + thin])) for line in lines]
        self.scene.paint(ridges, under * 0.75, clip=body)
        bowl = _blob(self.scene.rng, half, 40) * (1.05, 0.16 + 0.18 * max(self.view, 0))
        wave = 0.03 * np.sin(np.linspace(0, 10 * np.pi, 40) + self.scene.rng.uniform(0, 6))
        rim, hollow = bowl + np.stack([0 * wave, 0.92 + wave], axis=1), bowl * 0.6 + (0, 0.93)
        self.scene.paint([self._place(rim)], colour, relief=0.35)
        soft = self.tall * half * 0.25
        self.scene.paint([self._place(hollow)], colour * 0.6, opacity=0.7, feather=soft)

    def _draw_marks(self, marks: Marks, spots: Floats, clip: Floats) -> None:
        """Draw one mark on each spot, inside the outline ``clip`` [px]."""
        rng, stretch = self.scene.rng, (1, marks.stretch)
        radius = marks.radius * rng.uniform(0.5, 1.2, (len(spots), 1, 1))
        shapes = spots[:, None] + radius * [_blob(rng, 1, 9, 0.2) * stretch for _ in spots]
        self.scene.paint([self._place(shape) for shape in shapes], marks.colour, 0.25, clip=clip)


def _mirrored(half: Floats, y: Floats) -> Floats:
    """Outline of a body that is symmetric about x = 0."""
    right = np.stack([half, y], axis=1)
    return np.vstack([right, (right * (-1, 1))[::-1]])


def _blob(rng: np.random.Generator, radius: float, corners: int, ragged: float = 0.0) -> Floats:
    """Round outline about (0, 0) whose corners stray by the share ``ragged``."""
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    reach = radius * (1 + ragged * rng.uniform(-1, 1, corners))
    return np.stack([np.cos(angle) * reach, np.sin(angle) * reach], axis=1)


def _blade(tip: Floats, width: float) -> Floats:
    """Blade of grass that rises from (0, 0) and bends over to ``tip``."""
    t = np.linspace(0, 1, 8)[:, None]
    spine, breadth = tip * np.hstack([t**2, t]), np.hstack([width * (1 - t), 0 * t])
    return np.vstack([spine - breadth, (spine + breadth)[::-1]])
