"""One HTML file that needs no network: style, scripts and pictures inside, all names escaped."""

from __future__ import annotations

import html
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from shards.errors import UserError


def plain(text: str) -> str:
    """Text for a figure, where plotly would take ``<b>`` and the like for markup."""
    return html.escape(text, quote=False)


def require_plotly() -> None:
    """Raise :class:`UserError` where the library that draws is missing."""
    try:
        import plotly  # noqa: F401
    except ImportError:
        raise UserError("plotly is not installed; pip install 'hyphae[report]'") from None


def render(template: str, figures: dict[str, Any], **content: Any) -> str:
    """A page.

    Args:
        template: Name of a file in ``templates``.
        figures: plotly figures by name; the template places them as ``figures.NAME``.
        content: What else the template names. Everything in it is escaped.
    """
    environment = Environment(
        loader=PackageLoader("train.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["score"] = _score
    drawn = {
        # plotly writes <, > and / of the data as \u003c and so on: no name can end the script.
        name: Markup(
            figure.to_html(
                full_html=False,
                include_plotlyjs=False,
                div_id=f"figure-{name}",
                config={"responsive": True, "displaylogo": False},
            )
        )
        for name, figure in figures.items()
    }
    page = environment.get_template(template)
    return page.render(figures=drawn, plotly=_plotly() if figures else "", **content)


def _plotly() -> Markup:
    from plotly.offline import get_plotlyjs

    return Markup(get_plotlyjs())


def _score(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
