"""Several checkpoints in one table: measured, published, and the difference."""

from __future__ import annotations

from collections.abc import Sequence

from train.scores.evaluation import Compared
from train.scores.published import CAUTIONS, published_table

NAMES = ("miou", "mf1", "oa")
TITLES = {"miou": "mIoU", "mf1": "mF1", "oa": "OA"}


def comparison_table(rows: Sequence[Compared]) -> list[str]:
    """The lines of the table, scores in percent as they were published; differences in points."""
    width = max(len("checkpoint"), *(len(each.checkpoint) for each in rows))
    arch_width = max(len("arch"), *(len(each.arch) for each in rows))
    groups = ("measured", "published", "difference")
    title = "".join(f"  {f'{TITLES[name]} {group}':>16}" for name in NAMES for group in groups)
    lines = [f"{'checkpoint':<{width}}  {'arch':<{arch_width}}{title}"]
    reasons = []
    for row in rows:
        published = published_table().get(row.arch) if row.not_beside is None else None
        cells = ""
        for name in NAMES:
            measured = 100 * getattr(row.result.scores, name)
            cells += f"  {measured:>16.1f}"
            if published is None:
                cells += f"  {'-':>16}  {'-':>16}"
            else:
                theirs = 100 * getattr(published, name)
                cells += f"  {theirs:>16.1f}  {measured - theirs:>+16.1f}"
        lines.append(f"{row.checkpoint:<{width}}  {row.arch:<{arch_width}}{cells}")
        if row.not_beside is not None:
            reasons.append(f"no published row beside {row.checkpoint}: {row.not_beside}")
    cautions = [f"caution: {each}" for each in CAUTIONS] if len(reasons) < len(rows) else []
    return [*lines, *reasons, *cautions]
