"""Answers to photographs as a page of thumbnails: what the model saw, and what it said."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from train.answers import Answer
from train.danger import NOTICE
from train.report.gallery import jpeg_url
from train.report.page import render


@dataclass(slots=True)
class AnswerPage:
    """Collects answers; some 10 kB each."""

    warns: bool
    """Whether danger can be told."""
    cards: list[tuple[str, Answer, str]] = field(default_factory=list)
    """Path, answer, thumbnail."""

    def add(self, path: Path, answer: Answer, image: torch.Tensor) -> None:
        """Add the answer to a photograph; ``image`` is the ``(3, S, S)`` uint8 that the model saw."""
        shown = str(path).encode(errors="replace").decode()
        self.cards.append((shown, answer, jpeg_url(image.permute(1, 2, 0).numpy())))

    def html(self) -> str:
        """The page."""
        return render("answers.html", {}, cards=self.cards, notice=NOTICE if self.warns else "")
