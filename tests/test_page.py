"""docs/index.html, the page of all published results."""

import re

import pytest

from benchmarks import page, publish

PAGE = publish.ROOT / "docs/index.html"


def test_page_is_self_contained_and_readable_without_its_pictures():
    html = PAGE.read_text()
    assert not re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=\"(?!data:)", html)
    images = re.findall(r"<img [^>]*>", html)
    assert len(images) >= 9
    assert all(re.search(r'alt="[^"]{20,}"', image) for image in images)
    assert len(re.findall("<h1>", html)) == 1
    assert re.findall(r"<h2 id=\"([^\"]*)\"", html) == re.findall(r"<li><a href=\"#([^\"]*)\"", html)


def test_rows_and_columns_of_a_table_have_headers():
    html = page.to_html("| a | b |\n| --- | ---: |\n| one | 1 |\n| two | 2 |", "Numbers", {})
    assert re.findall(r'<th scope="(\w+)"[^>]*>(\w+)', html) == [
        ("col", "a"),
        ("col", "b"),
        ("row", "one"),
        ("row", "two"),
    ]
    assert 'aria-label="Numbers, table 1" tabindex="0"' in html


@pytest.mark.medium
@pytest.mark.parametrize("width", [400, 1280])
def test_page_fits_and_has_no_violation_of_accessibility_rules(browser, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    opened = browser.new_page(viewport={"width": width, "height": 900})
    opened.goto(PAGE.as_uri())
    assert opened.evaluate("document.documentElement.scrollWidth") == width
    results = axe.Axe().run(opened)
    assert not results.violations_count, results.generate_report()
    opened.close()
