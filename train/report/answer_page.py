"""Answers to photographs as a page of thumbnails: what the model saw, and what it said."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from train.inference.answers import Answer
from train.report.gallery import jpeg_url
from train.report.page import render
from train.scores.danger import NOTICE


@dataclass(slots=True)
class AnswerPage:
    """Collects answers; some 10 kB a picture."""

    warns: bool
    """Whether danger can be told."""
    cards: list[tuple[str, Answer, str, str]] = field(default_factory=list)
    """Path, answer, thumbnail, and that of the overlay or nothing."""

    def add(
        self,
        path: Path,
        answer: Answer,
        image: torch.Tensor,
        overlay: npt.NDArray[np.uint8] | None = None,
    ) -> None:
        """Add the answer to a photograph.

        Args:
            path: Of the photograph.
            answer: To it.
            image: ``(3, S, S)`` uint8, what the model saw.
            overlay: ``(S, S, 3)`` RGB, where it looked.
        """
        shown = str(path).encode(errors="replace").decode()
        looked = "" if overlay is None else jpeg_url(overlay)
        self.cards.append((shown, answer, jpeg_url(image.permute(1, 2, 0).numpy()), looked))

    def html(self) -> str:
        """The page."""
        return render("answers.html", {}, cards=self.cards, notice=NOTICE if self.warns else "")
