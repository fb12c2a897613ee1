"""The obvious way to pack: one process, a loop over Pillow, ``tarfile``. A yardstick, not for use.

``python -I -S pillow_loop.py PIL_FOLDER REQUEST.json`` takes ``PIL`` from ``PIL_FOLDER`` and imports
nothing else from outside the standard library, so that two builds of Pillow meet the same
conditions. It prints one line of JSON: version, file, photographs, how many failed, seconds. The
seconds are those of the loop alone, without the start of Python.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
import time
import warnings
from pathlib import Path
from typing import Any


def main(pil_folder: str, request_file: str) -> dict[str, Any]:
    """Write the tar that the request asks for and tell how long it took."""
    sys.path.insert(0, pil_folder)
    import PIL
    from PIL import Image, ImageOps

    warnings.simplefilter("ignore")  # damaged metadata and the like
    Image.init()  # the format plug-ins, which the first photograph would load
    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    short_side, quality = request["short_side"], request["quality"]
    failed = 0
    start = time.perf_counter()
    with tarfile.open(request["out"], "w") as tar:
        for number, (path, label) in enumerate(request["photos"]):
            try:
                with Image.open(path) as file:
                    image = ImageOps.exif_transpose(file.convert("RGB"))
                scale = short_side / min(image.size)
                if scale < 1:
                    width, height = image.size
                    size = (max(1, round(width * scale)), max(1, round(height * scale)))
                    image = image.resize(size, Image.Resampling.BICUBIC)
                jpeg = io.BytesIO()
                image.save(jpeg, "JPEG", quality=quality)
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
                failed += 1
                continue
            members = {
                "jpg": jpeg.getvalue(),
                "cls": str(label).encode(),
                "json": json.dumps({"path": path}).encode(),
            }
            for extension, data in members.items():
                member = tarfile.TarInfo(f"{number:09d}.{extension}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    seconds = time.perf_counter() - start
    return {
        "version": PIL.__version__,
        "file": PIL.__file__,
        "photos": len(request["photos"]),
        "failed": failed,
        "seconds": seconds,
    }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
