"""Why a photograph is left out."""

from __future__ import annotations


class RejectedImage(Exception):
    """The photograph cannot be stored; the message is the reason, short enough for a table."""


def damaged_jpeg(error: Exception) -> RejectedImage:
    """What libjpeg said, without the byte counts that would make each reason unique."""
    words = str(error).split(":")[0].strip().lower() or "undecodable"
    return RejectedImage(f"damaged JPEG: {words}")


def too_large(max_pixels: int) -> RejectedImage:
    """Refused before it is decoded."""
    return RejectedImage(f"too large: more than {max_pixels} pixels")
