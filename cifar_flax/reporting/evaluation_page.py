"""The HTML page of `python -m cifar_flax.evaluate --report`."""

from collections.abc import Sequence
from typing import Any

from cifar_flax.reporting import figures
from cifar_flax.reporting.evaluations import MEAN, Table
from cifar_flax.reporting.html import inline, page


def evaluation_page(title: str, sentences: Sequence[str], tables: Sequence[Table], result: dict[str, Any]) -> str:
    """A page with the sentences and the tables and, for a set of corruptions, a figure.

    Args:
        title: of the page.
        sentences: about the run and the results.
        tables: of the results.
        result: the results, as `evaluate_corruptions` or `evaluate_images` gives them.
    """
    drawn = []
    if "corruptions" in result:
        rows = {
            name: [row[column]["accuracy"] for column in row if column != MEAN]
            for name, row in result["corruptions"].items()
        }
        description = "Accuracy by severity, a panel for each corruption; the first table has the numbers."
        drawn = [(description, inline(figures.accuracy_by_severity(rows)))]
    return page(title=title, evaluation={"sentences": sentences, "tables": tables, "charts": drawn})
