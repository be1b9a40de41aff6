"""docs/index.html: the published results on one self-contained page, from the generated sections of the other pages."""

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import markdown_it
from markupsafe import Markup

from cifar_flax.reporting.templates import render

INTRODUCTION = """
All numbers are generated from the records in `results/`. Runs with validation images chose their epoch by them. Each
run used the test images once. The pages behind the links say how each number was obtained, and what it does not show.
"""

# (title, its text, names of generated sections); the text is Markdown
SECTIONS = (
    (
        "Accuracy",
        "![Test accuracy of all experiments with the mean's confidence interval, beside the notebook's single runs]"
        "(accuracy.svg)\n\n[How accurate, run by run](results.md)",
        ("accuracy",),
    ),
    (
        "The notebook's recipe in Keras itself",
        "The [control](results.md#keras-itself-as-the-control) trains the same networks with Keras' own `fit`.",
        ("control",),
    ),
    (
        "airbench94 and Muon",
        "[airbench94](results.md#airbench94-less-compute-than-alexnet-with-a-modern-recipe) and its successor: nothing "
        "was tuned, and the seeds were named beforehand.",
        ("muon",),
    ),
    ("Every run", "Training seconds depend on what else the machine did.", ("accuracy in detail",)),
    (
        "Learning curves",
        "Filled markers are the mean over the seeds with their range, hollow ones the notebook's single run.",
        ("curves",),
    ),
    (
        "Speed",
        "Each contestant trains the same network on the same images, in [alternating rounds](performance.md); in "
        "parentheses the lowest and the highest round.",
        ("speed in detail", "speed of airbench94"),
    ),
    (
        "Corrupted images",
        "Test images with computed corruptions, which are [like CIFAR-10-C, and not CIFAR-10-C](robustness.md).",
        ("robustness", "robustness by corruption"),
    ),
    (
        "Calibration",
        "Scores before → after [one temperature](robustness.md#calibration), which is fitted on validation images.",
        ("calibration",),
    ),
)


def page(generated: Mapping[str, str], figures: Mapping[str, str]) -> str:
    """The HTML page.

    Args:
        generated: the generated sections in Markdown, by name.
        figures: SVG documents, by the file names that the sections use.
    """
    sections = []
    for title, text, names in SECTIONS:
        identifier = re.sub(r"\W+", "-", title.lower()).strip("-")
        content = to_html("\n\n".join([text, *(generated[name] for name in names)]), title, figures)
        sections.append({"title": title, "id": identifier, "content": content})
    template = Path(__file__).with_name("page.html")
    introduction = to_html(INTRODUCTION, "", figures)
    return render(template, title="cifar_flax: results", introduction=introduction, sections=sections) + "\n"


def to_html(markdown: str, title: str, figures: Mapping[str, str]) -> Markup:
    """HTML of Markdown. Tables scroll on narrow screens and have headers for rows; figures are part of the page."""
    html = markdown_it.MarkdownIt("commonmark").enable("table").render(markdown)
    html = html.replace("<th", '<th scope="col"').replace('<th scope="col"ead', "<thead")
    html = re.sub(r"<tr>\n<td([^>]*)>(.*?)</td>", r'<tr>\n<th scope="row"\1>\2</th>', html)
    number = itertools.count(1)
    opened = '<div class="scroll" role="region" aria-label="{}, table {}" tabindex="0">\n<table>'
    html = re.sub("<table>", lambda _: opened.format(title, next(number)), html)
    html = html.replace("</table>", "</table>\n</div>")
    for name, svg in figures.items():
        # URLs lose their line breaks; what may stand in an attribute is not escaped, which saves a quarter of the page
        encoded = quote(svg.replace("\n", " "), safe="/ =:;,.()-")
        html = html.replace(f'src="{name}"', f'src="data:image/svg+xml,{encoded}"')
    return Markup(html)
