"""Draw a data set of mushrooms in the Kaggle layout, for the demo and the tests.

The project ships no photographs, so it draws some: real species of the mushroom set in cartoon
form, with what makes real photographs awkward. Species of one genus differ by a subtle trait (a
ring, scales on the stem, patches on the cap), genera by shape and habit, and the light of each
photo blurs the colours, so that shape has to be learned. Nothing here is meant for the kitchen.

The data set has the traits the pipeline is built for: a long tail of classes that ``train.csv``
balances by repeating rows, names with spaces, four extensions, and sizes on both sides of 440 px.

Lengths on a mushroom are fractions of its height: x to the right, y up, foot at (0, 0).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["SPECIES", "DemoSummary", "draw_demo_data", "num_demo_photos"]

Split = Literal["train", "val", "test"]
Colour = tuple[int, int, int]  # RGB in [0, 255]
Floats = npt.NDArray[np.float64]  # outlines are (N, 2): x, y
Pixels = npt.NDArray[np.float32]

KAGGLE_ROOT = "/kaggle/working/merged_dataset"
PHOTO_FOLDER = "merged_dataset"
MARKER = "demo_data.json"
DRAWING = 1  # raise it whenever the same arguments give other bytes than before

IVORY, CREAM, TAN, UMBER = (238, 232, 216), (240, 222, 170), (178, 128, 82), (74, 52, 38)
SOOT, YOLK, LEMON = (52, 46, 44), (240, 178, 52), (226, 204, 84)
BROWNS = ((98, 62, 38), (176, 122, 74))
ORANGES = ((190, 84, 36), (232, 150, 66))


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
    shape: Literal["dome", "bun", "plane", "bell", "egg", "ball", "funnel"]
    cap: tuple[float, float]
    """Half width and height."""
    hues: tuple[Colour, Colour]
    """Each cap is a mixture of these two, so that neighbouring species overlap in colour."""
    stem: float
    """Half width."""
    stem_colour: Colour = IVORY
    bulb: float = 0.2
    """How much wider the stem is at its foot."""
    underside: Literal["gills", "pores"] | None = "gills"
    """None where it never shows."""
    under_colour: Colour = IVORY
    cap_marks: Marks | None = None
    stem_marks: Marks | None = None
    ring: float | None = None
    """Height of the ring on the stem."""
    volva: bool = False
    troop: tuple[int, int] = (1, 2)
    """Fewest and most mushrooms in one photo."""


PATCHES = Marks(26, 0.042, (244, 238, 224), 0.7)
SCABERS = Marks(60, 0.012, SOOT, 1.6)

SPECIES: tuple[Species, ...] = (
    Species("Amanita muscaria", "dome", (0.42, 0.36), ((186, 30, 22), (224, 104, 42)), 0.065,
            bulb=0.9, cap_marks=PATCHES, ring=0.5),
    Species("Amanita pantherina", "dome", (0.40, 0.33), BROWNS, 0.06,
            bulb=0.9, cap_marks=PATCHES, ring=0.46),
    Species("Amanita phalloides", "dome", (0.40, 0.34), ((112, 118, 52), (190, 172, 104)), 0.06,
            bulb=0.7, ring=0.5, volva=True),
    Species("Leccinum scabrum", "bun", (0.29, 0.27), BROWNS, 0.075, bulb=0.5,
            underside="pores", stem_marks=SCABERS),
    Species("Leccinum versipelle", "bun", (0.29, 0.27), ORANGES, 0.08, bulb=0.4,
            underside="pores", under_colour=(206, 200, 182), stem_marks=SCABERS),
    Species("Suillus luteus", "bun", (0.45, 0.36), BROWNS, 0.09, LEMON,
            underside="pores", under_colour=LEMON, ring=0.42),
    Species("Suillus granulatus", "bun", (0.45, 0.36), ((140, 84, 44), (214, 146, 78)), 0.09, LEMON,
            underside="pores", under_colour=LEMON),
    Species("Mycena haematopus", "bell", (0.19, 0.26), ((122, 60, 52), (192, 128, 104)), 0.022,
            (130, 72, 62), bulb=0, under_colour=(226, 196, 184), troop=(3, 6)),
    Species("Mycena leaiana", "bell", (0.23, 0.22), ORANGES, 0.026,
            (222, 164, 84), bulb=0, under_colour=(240, 190, 130), troop=(4, 7)),
    Species("Cantharellus cibarius", "funnel", (0.46, 0.2), ((222, 142, 30), (246, 200, 84)), 0.1,
            YOLK, under_colour=(236, 184, 76), troop=(1, 4)),
    Species("Coprinus comatus", "egg", (0.16, 0.62), ((214, 204, 184), (240, 236, 226)), 0.045,
            underside=None, cap_marks=Marks(70, 0.026, (172, 142, 108), 1.5), ring=0.2,
            troop=(1, 4)),
    Species("Lycoperdon perlatum", "ball", (0.42, 0.55), ((182, 160, 128), (234, 226, 206)), 0.22,
            (214, 202, 176), underside=None, cap_marks=Marks(150, 0.018, (140, 116, 88)),
            troop=(1, 4)),
)  # fmt: skip


# The data set: which photos there are, and the files on disk.


@dataclass(frozen=True, slots=True)
class DemoSummary:
    """What a finished demo data set holds."""

    classes: int
    train_files: int
    train_rows: int
    """Rows of ``train.csv``: more than its files, because it repeats them."""
    val_files: int
    test_files: int
    drawn: int
    """Photos that this call drew; the others were there from an earlier one."""


@dataclass(frozen=True, slots=True)
class _Photo:
    label: int
    index: int
    split: Split

    @property
    def path(self) -> str:
        """``<Species name>/<file>``: names and extensions vary as those of real cameras do."""
        serial = 7 * self.label + self.index
        name = f"IMG {self.index:04d}" if serial % 5 == 0 else f"IMG_{self.index:04d}"
        extension = ".png" if serial % 23 == 7 else ".jpeg" if serial % 9 == 4 else ".jpg"
        if self.label == self.index == 0:
            extension = ".JPG"
        return f"{SPECIES[self.label].name}/{name}{extension}"


def draw_demo_data(
    out: Path,
    *,
    seed: int = 0,
    train_files: int = 40,
    eval_files: int = 10,
    size: int = 320,
    progress: Callable[[int], None] | None = None,
) -> DemoSummary:
    """Draw ``merged_dataset/<Species name>/<file>`` and ``train.csv``, ``val.csv``, ``test.csv``.

    The same arguments give the same bytes, whatever the number of threads. The tables are written
    last, so an interrupted run is never taken for a complete one; calling again completes it.

    Args:
        out: Folder to fill; made if missing.
        seed: Seeds every photo on its own, and the order of the rows of ``train.csv``.
        train_files: Training photos of the largest class; the smallest has a third of them.
        eval_files: Photos of each class in ``val.csv``, and again in ``test.csv``.
        size: Typical shorter side of a photo [px]; one photo in eight is half as large again.
        progress: Called with 1 after each photo, as ``tqdm.update`` wants it; the total is
            ``num_demo_photos(train_files, eval_files)``.

    Returns:
        Counts of what ``out`` now holds.

    Raises:
        FileExistsError: If ``out`` holds anything but what this call, or an interrupted one with
            the same arguments, has written.
        ValueError: If a count is below 1 or ``size`` is below 32.
    """
    for name, value, least in (
        ("train_files", train_files, 1), ("eval_files", eval_files, 1), ("size", size, 32)
    ):  # fmt: skip
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    arguments = {"seed": seed, "train_files": train_files, "eval_files": eval_files, "size": size}
    _claim(out, arguments | {"drawing": DRAWING})

    photos = list(_plan(train_files, eval_files))
    for species in SPECIES:
        (out / PHOTO_FOLDER / species.name).mkdir(parents=True, exist_ok=True)
    missing = [photo for photo in photos if not (out / PHOTO_FOLDER / photo.path).exists()]
    for _ in range(len(photos) - len(missing)):
        if progress:
            progress(1)

    def draw(photo: _Photo) -> None:
        key = np.random.SeedSequence((seed, photo.label, photo.index))
        rng = np.random.Generator(np.random.Philox(key))
        encoded = _encode(draw_photo(SPECIES[photo.label], size, rng), photo.path, rng)
        _write(out / PHOTO_FOLDER / photo.path, encoded)

    # Threads suffice: OpenCV and NumPy release the interpreter lock where the time goes.
    pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
    try:
        for done in as_completed([pool.submit(draw, photo) for photo in missing]):
            done.result()
            if progress:
                progress(1)
    finally:
        pool.shutdown(cancel_futures=True)
    train_rows = _write_tables(out, photos, seed)
    of_split = [photo.split for photo in photos].count
    return DemoSummary(
        len(SPECIES), of_split("train"), train_rows, of_split("val"), of_split("test"), len(missing)
    )


def num_demo_photos(train_files: int = 40, eval_files: int = 10) -> int:
    """Count the photos that ``draw_demo_data`` draws with these arguments."""
    return sum(1 for _ in _plan(train_files, eval_files))


def _plan(train_files: int, eval_files: int) -> Iterator[_Photo]:
    """Yield every photo once, with a long tail of training photos and equal evaluation splits."""
    last = len(SPECIES) - 1
    for label in range(len(SPECIES)):
        # A stride of 5 keeps species of one genus, neighbours in the table, apart in the tail.
        rank = label * 5 % len(SPECIES)
        num_train = max(1, round(train_files * 3 ** (-rank / last)))
        splits: list[Split] = ["train"] * num_train + ["val"] * eval_files + ["test"] * eval_files
        for index, split in enumerate(splits):
            yield _Photo(label, index, split)


def _claim(out: Path, arguments: dict[str, int]) -> None:
    """Mark ``out`` as ours, or refuse it when it holds something else."""
    marker = json.dumps(arguments) + "\n"
    out.mkdir(parents=True, exist_ok=True)
    path = out / MARKER
    if path.exists() and (found := path.read_text()) != marker:
        raise FileExistsError(
            f"{out} holds demo data made with {found.strip()}, not {marker.strip()}; "
            "choose another folder or delete this one"
        )
    entries = sorted(entry.name for entry in out.iterdir() if entry.name != f"{MARKER}.part")
    if entries and not path.exists():
        raise FileExistsError(
            f"{out} is not empty (it holds {entries[0]!r}) and is not an earlier demo data set; "
            "choose a new or empty folder"
        )
    _write(path, marker.encode())


def _write(path: Path, content: bytes) -> None:
    """Write under a temporary name, then rename: a file under its own name is complete."""
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(content)
    part.replace(path)


def _write_tables(out: Path, photos: Sequence[_Photo], seed: int) -> int:
    """Write the three tables, ``train.csv`` last and balanced by repetition; return its rows."""
    rows: dict[Split, list[_Photo]] = {
        "test": [photo for photo in photos if photo.split == "test"],
        "val": [photo for photo in photos if photo.split == "val"],
    }
    files = [[p for p in photos if (p.split, p.label) == ("train", k)] for k in range(len(SPECIES))]
    largest = max(map(len, files))
    repeated = [photo for of_class in files for photo in islice(cycle(of_class), largest)]
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(repeated))
    rows["train"] = [repeated[i] for i in order]
    for split, table in rows.items():
        lines = [f"{KAGGLE_ROOT}/{photo.path},{SPECIES[photo.label].name}" for photo in table]
        _write(out / f"{split}.csv", "\n".join(["image_path,label", *lines, ""]).encode())
    return len(repeated)


def _encode(image: npt.NDArray[np.uint8], path: str, rng: np.random.Generator) -> bytes:
    """Encode ``(H, W, 3)`` RGB by the extension of ``path``; JPEG at quality 75 to 95."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(75, 96))]
    is_png = path.endswith(".png")
    _, encoded = cv2.imencode(
        ".png" if is_png else ".jpg", image[..., ::-1], [] if is_png else quality
    )
    return encoded.tobytes()


# One photo: a canvas with a single brush, then the things drawn with it from back to front.


class _Scene:
    """A canvas, the light that falls on it, and the one brush that everything is painted with."""

    def __init__(self, height: int, width: int, rng: np.random.Generator) -> None:
        self.rng = rng
        self.height, self.width = height, width
        self.unit = min(height, width)
        self.canvas: Pixels = np.zeros((height, width, 3), np.float32)
        self.light = np.array([rng.uniform(-1, 1), -rng.uniform(0.5, 1)])  # towards the light
        self.grain = self.noise(8, 3)

    def noise(self, cells: int, octaves: int) -> Pixels:
        """Smooth noise in about [0, 1], its coarsest cells ``cells`` to the shorter side."""
        total: Pixels = np.zeros((self.height, self.width), np.float32)
        for octave in range(octaves):
            rows, cols = (
                2 + side * cells * 2**octave // self.unit for side in (self.height, self.width)
            )
            grid = self.rng.random((rows, cols), np.float32)
            total += cv2.resize(grid, (self.width, self.height), interpolation=cv2.INTER_CUBIC)
        return total / octaves

    def paint(
        self,
        shapes: Sequence[Floats],
        colour: Floats,
        *,
        relief: float = 0.5,
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
        reach = 2 + feather
        points = np.vstack(list(shapes))
        limit = (self.width, self.height)
        left, top = np.clip(points.min(axis=0) - reach, 0, limit).astype(int).tolist()
        right, bottom = np.clip(points.max(axis=0) + reach + 1, 0, limit).astype(int).tolist()
        if left >= right or top >= bottom:
            return
        box = (slice(top, bottom), slice(left, right))
        mask = _fill(shapes, left, top, bottom - top, right - left)
        if clip is not None:
            mask = cv2.min(mask, _fill([clip], left, top, *mask.shape))
        shade = np.ones(mask.shape, np.float32)
        if relief:
            shade += relief * (1.5 * self._roundness(mask) - 0.95)
            shade *= 0.85 + 0.3 * self.grain[box]
        if feather >= 1:
            mask = cv2.blur(mask, (int(feather),) * 2, borderType=cv2.BORDER_REPLICATE)
        alpha = (mask * np.float32(opacity / 255))[..., None]
        patch = self.canvas[box]
        patch += alpha * (shade[..., None] * colour.astype(np.float32) - patch)

    def _roundness(self, mask: npt.NDArray[np.uint8]) -> Pixels:
        """Guess how lit each pixel is: the share of body in a window that lies away from it."""
        window = max(3, min(mask.shape) // 2)
        # Moving the anchor of a box filter, rather than the image, shifts the window for free.
        x, y = np.clip((window * (0.5 + 0.3 * self.light)).astype(int), 0, window - 1).tolist()
        soft = mask.astype(np.float32) / 255
        for _ in range(2):
            soft = cv2.blur(soft, (window, window), anchor=(x, y), borderType=cv2.BORDER_CONSTANT)
        return soft


def _fill(
    shapes: Sequence[Floats], left: int, top: int, height: int, width: int
) -> npt.NDArray[np.uint8]:
    """Return the smooth-edged ``(height, width)`` mask of outlines, in [0, 255]."""
    mask = np.zeros((height, width), np.uint8)
    for shape in shapes:
        fixed = np.round((shape - (left, top)) * 16).astype(np.int32)
        cv2.fillPoly(mask, [fixed], 255, cv2.LINE_AA, shift=4)
    return mask


def draw_photo(species: Species, size: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Draw one photo of a species: ``(H, W, 3)`` RGB, shorter side about ``size`` pixels."""
    short = size * (rng.uniform(1.5, 1.75) if rng.random() < 1 / 8 else rng.uniform(0.8, 1.2))
    sides = round(short), round(short * rng.choice([1, 5 / 4, 4 / 3, 3 / 2]))
    scene = _Scene(*(sides[::-1] if rng.random() < 0.3 else sides), rng)
    _draw_forest(scene)
    _strew_pebbles(scene)
    for pose in _arrange(scene, species):
        _draw_mushroom(scene, species, pose)
    _draw_grass(scene)
    return _expose(scene)


_WOODS: tuple[tuple[Colour, Colour, Colour], ...] = (  # soil, ground cover, far light
    ((46, 38, 26), (122, 90, 54), (150, 140, 96)),  # leaf litter
    ((30, 44, 18), (104, 128, 48), (126, 148, 84)),  # moss
    ((40, 56, 26), (120, 150, 66), (186, 196, 130)),  # meadow
    ((34, 30, 28), (92, 84, 72), (112, 124, 128)),  # spruce needles
)


def _draw_forest(scene: _Scene) -> None:
    """Fill the canvas: blurred woods behind, textured ground in front, and a soft horizon."""
    rng, unit = scene.rng, scene.unit
    soil, cover, far = np.array(_WOODS[rng.integers(len(_WOODS))], float) * rng.uniform(0.8, 1.2)
    scene.canvas[:] = soil + (far - soil) * 0.55 * scene.noise(2, 2)[..., None]
    for _ in range(rng.integers(6, 16)):  # bokeh
        disc = _blob(rng, rng.uniform(0.02, 0.08) * unit, 20, 0) + _anywhere(scene, 0, 0.6)
        scene.paint([disc], far * 1.25, relief=0, opacity=rng.uniform(0.1, 0.4), feather=unit / 60)

    ground: Floats = soil + (cover - soil) * scene.noise(10, 4)[..., None] ** 2 * 1.7
    horizon = scene.height * rng.uniform(0.4, 0.62)
    depth = (np.arange(scene.height) - horizon) / (0.12 * scene.height)
    scene.canvas += np.clip(depth, 0, 1)[:, None, None] * (ground - scene.canvas)
    for _ in range(rng.integers(10, 50)):  # fallen leaves
        foot = _anywhere(scene, horizon / scene.height, 1.05)
        width = unit * 0.14 * (foot[1] - horizon) / (scene.height - horizon) + 2
        leaf = _leaf(width, rng.uniform(0, 2 * np.pi)) * (1, 0.5) + foot
        tint = cover * rng.uniform(0.5, 1.3, 3)
        scene.paint([leaf + (0, unit / 90)], soil * 0.4, relief=0, opacity=0.5, feather=unit / 80)
        scene.paint([leaf], tint, relief=0.3)


def _strew_pebbles(scene: _Scene) -> None:
    """Put a few stones on the ground: round like a puffball, and nothing to learn from."""
    for _ in range(scene.rng.integers(0, 5)):
        radius = scene.rng.uniform(0.015, 0.06) * scene.unit
        stone = _blob(scene.rng, radius, 12, 0.15) * (1.3, 0.8) + _anywhere(scene, 0.7, 1)
        scene.paint([stone], np.full(3, scene.rng.uniform(90, 190)), relief=0.6)


def _draw_grass(scene: _Scene) -> None:
    """Let blades of grass hide a part of what stands behind them."""
    rng, unit = scene.rng, scene.unit
    for _ in range(rng.integers(4, 26)):
        foot = _anywhere(scene, 0.93, 1.08)
        tip = foot + (rng.normal(0, 0.12) * unit, -rng.uniform(0.08, 0.4) * unit)
        green = np.array([rng.uniform(70, 150), rng.uniform(110, 165), rng.uniform(30, 70)])
        scene.paint([_blade(foot, tip, unit * rng.uniform(0.006, 0.014))], green, relief=0.2)


def _expose(scene: _Scene) -> npt.NDArray[np.uint8]:
    """Take the photo: colour cast, exposure, vignette, blur, sensor noise."""
    rng, canvas = scene.rng, scene.canvas
    cast = rng.uniform(0.82, 1.15, 3) * rng.uniform(0.8, 1.2)
    y, x = (np.linspace(-1, 1, side, dtype=np.float32) for side in canvas.shape[:2])
    vignette = 1 - rng.uniform(0, 0.3) * (y[:, None] ** 2 + x**2) / 2
    canvas = canvas * vignette[..., None] * cast.astype(np.float32)
    if (sigma := rng.uniform(-0.6, 1.2) * scene.unit / 320) > 0.3:
        canvas = cv2.GaussianBlur(canvas, (0, 0), sigma)
    noise = rng.standard_normal(canvas.shape[:2], np.float32) * rng.uniform(1, 6)
    exposed: npt.NDArray[np.uint8] = np.clip(canvas + noise[..., None], 0, 255).astype(np.uint8)
    return exposed


# Mushrooms.


@dataclass(frozen=True, slots=True)
class _Pose:
    """Where a mushroom stands, how large it is, and from where it is seen."""

    foot: Floats
    height: float
    lean: float
    bend: float
    view: float
    """Camera above the cap (towards 1) or below it (towards -1), where the underside shows."""

    def place(self, outline: Floats) -> Floats:
        """Map an outline from the mushroom's own lengths to pixels."""
        x = outline[:, 0] + self.bend * outline[:, 1] ** 2
        cos, sin = np.cos(self.lean), np.sin(self.lean)
        turned = np.stack([x * cos + outline[:, 1] * sin, x * sin - outline[:, 1] * cos], axis=1)
        placed: Floats = self.foot + self.height * turned
        return placed


def _arrange(scene: _Scene, species: Species) -> list[_Pose]:
    """Place a troop of mushrooms, the far ones first."""
    rng, unit = scene.rng, scene.unit
    count = int(rng.integers(species.troop[0], species.troop[1] + 1))
    middle = np.array(
        [scene.width * rng.uniform(0.38, 0.62), scene.height * rng.uniform(0.85, 0.98)]
    )
    height = unit * rng.uniform(0.5, 0.8) * count**-0.15
    view = rng.uniform(-1, 1)
    poses = []
    for rank in range(count):
        side = (rank - (count - 1) / 2) * rng.uniform(0.5, 0.9) * (0.3 + species.cap[0])
        foot = middle + height * np.array([side * 1.3, rng.uniform(-0.16, 0.02)])
        poses.append(
            _Pose(
                foot,
                height * rng.uniform(0.55 if rank else 0.9, 1),
                lean=rng.normal(0, 0.1) + 0.15 * side,
                bend=rng.normal(0, 0.06),
                view=float(np.clip(view + rng.normal(0, 0.15), -1, 1)),
            )
        )
    return sorted(poses, key=lambda pose: float(pose.foot[1]))


_PROFILES: dict[str, Callable[[Floats], Floats]] = {  # height of a cap over its half width
    "dome": lambda x: (1 - x**2) ** 0.55,
    "bun": lambda x: (1 - np.abs(x) ** 2.8) ** 0.45,
    "plane": lambda x: (1 - x**4) ** 0.5,
    "bell": lambda x: (1 - np.abs(x) ** 1.5) ** 0.9,
    "egg": lambda x: (1 - np.abs(x) ** 2.4) ** 0.55,
    "ball": lambda x: (1 - x**2) ** 0.5,
    "funnel": lambda x: 0.25 * (1 - x**4) ** 0.5,
}


def _draw_mushroom(scene: _Scene, species: Species, pose: _Pose) -> None:
    """Draw one mushroom; what lies in front of what depends on the view."""
    rng = scene.rng
    shadow = _blob(rng, pose.height * 0.3, 24, 0) * (1.3, 0.35) + pose.foot
    scene.paint([shadow], np.zeros(3), relief=0, opacity=0.55, feather=pose.height * 0.12)
    colour = _mixture(rng, species.hues)
    half = species.cap[0] * rng.uniform(0.85, 1.12)
    height = species.cap[1] * rng.uniform(0.85, 1.1)
    if species.shape == "funnel":
        _draw_funnel(scene, species, pose, half, colour)
    elif species.underside and pose.view < 0:
        cap = _draw_cap(scene, species, pose, half, height, colour)
        _draw_underside(scene, species, pose, half, 1 - height, cap)
        _draw_stem(scene, species, pose, 1 - height)
    else:
        _draw_stem(scene, species, pose, 1 - height)
        _draw_cap(scene, species, pose, half, height, colour)


def _draw_cap(
    scene: _Scene, species: Species, pose: _Pose, half: float, height: float, colour: Floats
) -> Floats:
    """Draw the cap with its marks and return its outline [px]."""
    x = np.cos(np.linspace(0, np.pi, 40))
    top = np.stack([x * half, 1 - height + height * _PROFILES[species.shape](x)], axis=1)
    sag = 0.42 if species.shape == "ball" else _rim(half, pose)
    rim = np.stack([-x * half, 1 - height - sag * np.sqrt(1 - x**2)], axis=1)
    cap = pose.place(np.vstack([top, rim]))
    scene.paint([cap], colour, relief=0.65)
    if species.cap_marks:
        along, up = scene.rng.uniform((-1, -0.1), (1, 0.95), (species.cap_marks.count, 2)).T
        along *= 0.96
        spots = np.stack([along * half, 1 - height * (1 - up * _PROFILES[species.shape](along))], 1)
        _draw_marks(scene, pose, species.cap_marks, spots, cap)
    shine = np.array([scene.light[0] * half * 0.4, 1 - height * 0.35])
    glint = pose.place(_blob(scene.rng, half * 0.28, 16, 0.1) * (1, 0.5) + shine)
    white, gloss = np.full(3, 255.0), scene.rng.uniform(0.05, 0.3)
    scene.paint([glint], white, relief=0, opacity=gloss, feather=pose.height * half * 0.2, clip=cap)
    return cap


def _draw_underside(
    scene: _Scene, species: Species, pose: _Pose, half: float, rim: float, cap: Floats
) -> None:
    """Draw the gills or pores that show from below."""
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    disc = np.stack([np.cos(angle) * half, np.sin(angle) * _rim(half, pose)], axis=1)
    middle = np.array([0, rim])
    colour = np.array(species.under_colour) * scene.rng.uniform(0.8, 1.0)
    scene.paint([pose.place(disc * 0.95 + middle)], colour, relief=0.35, clip=cap)
    if species.underside == "gills":
        gaps = [
            np.stack([disc[i] * 0.1, disc[i] * 0.93, disc[i + 1] * 0.93]) for i in range(0, 71, 2)
        ]
    else:
        radii = np.sqrt(scene.rng.uniform(0, 0.8, (90, 1)))
        gaps = [_blob(scene.rng, 0.011, 6, 0) + spot for spot in disc[np.arange(90) % 72] * radii]
    scene.paint([pose.place(gap + middle) for gap in gaps], colour * 0.72, relief=0, clip=cap)


def _draw_stem(scene: _Scene, species: Species, pose: _Pose, top: float) -> None:
    """Draw the stem from the foot to the cap, with its marks, ring and volva."""
    rng = scene.rng
    y = np.linspace(0, top + 0.02, 16)
    half = species.stem * rng.uniform(0.8, 1.2) * (1 + species.bulb * (1 - y) ** 5)
    half[0] *= 0.75
    stem = pose.place(_mirrored(half, y))
    colour = np.array(species.stem_colour) * rng.uniform(0.85, 1.0)
    scene.paint([stem], colour, relief=0.6)
    if species.stem_marks:
        spots = rng.uniform((-1.2, 0.05), (1.2, top), (species.stem_marks.count, 2))
        _draw_marks(scene, pose, species.stem_marks, spots * (species.stem, 1), stem)
    if species.ring:
        y = species.ring * rng.uniform(0.94, 1.06) + np.array([0.03, 0, -0.06])
        skirt = _mirrored(species.stem * np.array([1.0, 1.5, 2.0]), y)
        scene.paint([pose.place(skirt)], np.array(IVORY) * 0.97, relief=0.5)
    if species.volva:
        cup = _mirrored(
            species.stem * np.array([1.4, 2.2, 2.1, 2.4]), np.array([-0.03, 0, 0.1, 0.15])
        )
        scene.paint([pose.place(cup)], np.array(IVORY) * 0.93, relief=0.6)


def _draw_funnel(scene: _Scene, species: Species, pose: _Pose, half: float, colour: Floats) -> None:
    """Draw a vase with ridges that run down it, and the wavy bowl on top."""
    y = np.linspace(0, 0.92, 24)
    width = species.stem + (half - species.stem) * (y / 0.92) ** 2.6
    body = pose.place(_mirrored(width, y))
    under = np.array(species.under_colour, float)
    scene.paint([body], under, relief=0.6)
    ridges = []
    for offset in np.linspace(-0.9, 0.9, 13):
        line = np.stack([width * offset, y], axis=1)[8:]
        ridges.append(pose.place(np.vstack([line, line[::-1] + (0.012, 0)])))
    scene.paint(ridges, under * 0.75, relief=0, clip=body)
    bowl = _blob(scene.rng, half, 40, 0) * (1.05, 0.16 + 0.18 * max(pose.view, 0))
    wave = 0.03 * np.sin(np.linspace(0, 10 * np.pi, 40) + scene.rng.uniform(0, 6))
    rim = bowl + np.stack([0 * wave, 0.92 + wave], axis=1)
    scene.paint([pose.place(rim)], colour, relief=0.35)
    hollow = bowl * 0.6 + (0, 0.93)
    scene.paint(
        [pose.place(hollow)], colour * 0.6, relief=0, opacity=0.7, feather=pose.height * half * 0.25
    )


def _draw_marks(scene: _Scene, pose: _Pose, marks: Marks, spots: Floats, clip: Floats) -> None:
    """Draw one mark on each spot, inside the outline ``clip`` [px]."""
    shapes = [
        _blob(scene.rng, marks.radius * scene.rng.uniform(0.5, 1.2), 9, 0.2) * (1, marks.stretch)
        + spot
        for spot in spots
    ]
    scene.paint(
        [pose.place(shape) for shape in shapes],
        np.array(marks.colour, float),
        relief=0.25,
        clip=clip,
    )


# Outlines.


def _rim(half: float, pose: _Pose) -> float:
    """Half height of the ellipse that the rim of a cap makes in this view."""
    return half * (0.1 + 0.3 * abs(pose.view))


def _mixture(rng: np.random.Generator, ends: tuple[Colour, Colour]) -> Floats:
    share = rng.random()
    mixed: Floats = (1 - share) * np.array(ends[0]) + share * np.array(ends[1])
    return mixed * rng.uniform(0.92, 1.08, 3)


def _anywhere(scene: _Scene, top: float, bottom: float) -> Floats:
    """Choose a point [px] between two heights, given as shares of the canvas."""
    return scene.rng.uniform((0, top), (1, bottom)) * (scene.width, scene.height)


def _mirrored(half: Floats, y: Floats) -> Floats:
    """Outline of a body that is symmetric about x = 0."""
    right = np.stack([half, y], axis=1)
    return np.vstack([right, (right * (-1, 1))[::-1]])


def _blob(rng: np.random.Generator, radius: float, corners: int, ragged: float) -> Floats:
    """Round outline about (0, 0) whose corners stray by the share ``ragged``."""
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    reach = radius * (1 + ragged * rng.uniform(-1, 1, corners))
    return np.stack([np.cos(angle) * reach, np.sin(angle) * reach], axis=1)


def _leaf(length: float, angle: float) -> Floats:
    x = np.linspace(-1, 1, 9)
    outline = _mirrored(0.35 * np.sqrt(1 - x**2) * (1 - 0.3 * x), x) * length / 2
    cos, sin = np.cos(angle), np.sin(angle)
    turned: Floats = outline @ np.array([[cos, sin], [-sin, cos]])
    return turned


def _blade(foot: Floats, tip: Floats, width: float) -> Floats:
    t = np.linspace(0, 1, 8)[:, None]
    spine = foot + (tip - foot) * np.hstack([t**2, t])
    breadth = np.hstack([width * (1 - t), 0 * t])
    return np.vstack([spine - breadth, (spine + breadth)[::-1]])
