"""Renders the Jinja templates of HTML pages, which share head.html."""

from pathlib import Path
from typing import Any

import jinja2


def render(template: Path, **contents: Any) -> str:
    """The page of a template. It may include head.html, which needs `title`."""
    places = jinja2.FileSystemLoader([template.parent, Path(__file__).parent])
    environment = jinja2.Environment(loader=places, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.get_template(template.name).render(contents)
