"""``MODEL_CARD.md``: what a model is, how good, and what it must not be used for."""

from __future__ import annotations

from shards.machine import human_time
from train.report.content import Content
from train.scores.danger import NOTICE

CARD = "MODEL_CARD.md"


def model_card(content: Content) -> str:
    """Markdown, after Mitchell et al., "Model Cards for Model Reporting" (arXiv:1810.03993)."""
    row, summary = content.row, content.summary
    shown = row["intervals"]
    scores = "\n".join(
        f"| {name} | {row[key]:.4f} | {shown[key][0]:.4f} to {shown[key][1]:.4f} |"
        for key, name in (("miou", "mIoU"), ("mf1", "mF1"), ("oa", "OA"), ("top5", "top-5"))
    )
    splits = "\n".join(
        f"- {name}: {each['photographs']:,} photographs in {each['rows']:,} rows"
        for name, each in content.data.items()
    )
    worst = sorted(
        (each for each in row["classes"] if each["iou"] is not None), key=lambda each: each["iou"]
    )[:5]
    weak = "\n".join(f"- {_plain(each['name'])}: IoU {each['iou']:.4f}" for each in worst)
    return f"""# Model card: {summary["arch"]}, {summary["recipe"]}

## Model
{summary["arch"]} for {summary["num_classes"]} classes at {summary["image_size"]} px, trained by
hyphae's recipe `{summary["recipe"]}`: {summary["samples_seen"]:,} images seen in \
{human_time(summary["seconds"])} on {summary["resolved"]["device"]} ({summary["resolved"]["precision"]}).

    {content.config.get("command", "command not recorded")}

## Data
Shard set {summary["shards"]["fingerprint"][:16]}
{splits}

## Scores
On {row["split"]}, {row["images"]:,} images, with 95 % bootstrap intervals:

| score | value | interval |
|---|---|---|
{scores}

Calibration: temperature {row["calibration"]["temperature"]:.3f}, fitted on val; expected calibration \
error {row["calibration"]["ece"]:.4f} without it, {row["calibration"]["ece_scaled"]:.4f} with it.

The weakest classes:
{weak}

## Use and limits
The model knows its {summary["num_classes"]} classes and nothing else: whatever it is shown, it names \
one of them.
Photographs from other cameras, places or seasons than those of its data were not tested.
{_danger(content)}

## Licences
Weights: to be decided by whoever trained them. Data: that of the data set; hyphae does not know it
(of the published mushroom set, see `docs/data-card.md`).
"""


def _danger(content: Content) -> str:
    danger = content.row["danger"]
    if danger is None:
        return ""
    plain = danger["prices"][0]
    return (
        f"\n**{NOTICE}** On {content.row['split']}, {plain['dangerous']:,} of {danger['images']:,} "
        f"images of poisonous or deadly species were called edible ({plain['rate']:.2%}; 95 %: "
        f"{plain['interval']['low']:.2%} to {plain['interval']['high']:.2%})."
    )


def _plain(name: str) -> str:
    """A class name that Markdown takes for text."""
    return "".join(f"\\{each}" if each in "\\`*_{}[]<>#|" else each for each in name)
