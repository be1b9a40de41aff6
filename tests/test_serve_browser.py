"""The page of serve in a browser: pictures dropped, pasted and chosen, and what is refused."""

import base64
import contextlib
import threading

import pytest
from served import picture, tiny_classifier

from cifar_flax.data.pictures import read_image
from cifar_flax.serving.app import make_app
from cifar_flax.serving.server import Server, open_socket, url_of

pytestmark = pytest.mark.medium

HOST = "127.0.0.1"

# Gives the page files by an event of the user's; `types` are what other programs offer besides files.
SEND = """([event, files, types]) => {
  const transfer = new DataTransfer();
  for (const { name, type, content } of files) {
    const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
    transfer.items.add(new File([bytes], name, { type }));
  }
  for (const type of types) transfer.setData(type, "text");
  const options = { bubbles: true, cancelable: true, dataTransfer: transfer, clipboardData: transfer };
  const sent = event === "paste" ? new ClipboardEvent(event, options) : new DragEvent(event, options);
  return document.querySelector("main").dispatchEvent(sent);
}"""


@pytest.fixture(scope="module")
def classifier():
    return tiny_classifier()


@contextlib.contextmanager
def serving(classifier):
    """The address of the page, served by a thread."""
    started = threading.Event()
    with contextlib.closing(open_socket(HOST, 0)) as opened:
        server = Server(make_app(classifier, HOST), on_start=started.set)
        thread = threading.Thread(target=server.run, args=([opened],))
        thread.start()
        try:
            assert started.wait(60)
            yield url_of(opened, HOST)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def url(classifier):
    with serving(classifier) as url:
        yield url


@pytest.fixture
def problems():
    """What the browser reports: console messages, exceptions of the page and failed requests."""
    return []


@pytest.fixture
def page(browser, url, problems):
    page = browser.new_page(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("requestfailed", lambda request: problems.append(request.url))
    page.goto(url)
    yield page
    page.close()


def send(page, event, *files, types=()):
    """Drops or pastes files, given as (name, type, content)."""
    files = [{"name": n, "type": t, "content": base64.b64encode(c).decode()} for n, t, c in files]
    page.evaluate(SEND, [event, files, list(types)])


def shown(page):
    """The classes and percentages on the page."""
    page.wait_for_selector("#classes:visible li")
    page.wait_for_selector(".waiting", state="detached")
    return page.eval_on_selector_all(
        "#classes li", "rows => rows.map(row => [...row.querySelectorAll('span')].map(s => s.textContent))"
    )


def expected(classifier, content):
    best = classifier.most_probable(classifier(read_image(content, (8, 8, 3))[None])[0], 3)
    return [[name, f"{probability:.1%}"] for name, probability in best.items()]


def assert_error(page, sentence):
    page.wait_for_selector("#error:visible")
    assert sentence in page.inner_text("#error")
    assert not page.is_visible("#classes")


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_classes_of_a_picture_that_is_given_are_those_of_predict(page, classifier, problems, event):
    for seed, format in enumerate(("png", "jpeg")):
        content = picture(format, seed=seed)
        send(page, event, (f"my {format}", f"image/{format}", content))
        page.wait_for_function(
            "name => document.querySelector('#spoken').textContent && document.querySelector('#picture').alt === name",
            arg=f"my {format}",
        )
        classes = shown(page)
        assert classes == expected(classifier, content)
        assert page.inner_text("#spoken") == ", ".join(map(" ".join, classes))
        widths = page.eval_on_selector_all(
            ".bar div", "bars => bars.map(b => b.clientWidth / b.parentElement.clientWidth)"
        )
        assert widths == pytest.approx([float(percent[:-1]) / 100 for _, percent in classes], abs=0.01)
        page.wait_for_function("document.querySelector('#picture').naturalWidth === 64")
    assert problems == []


def test_picture_is_chosen_with_the_keyboard(page, classifier, problems, tmp_path):
    (tmp_path / "a.webp").write_bytes(picture("webp"))
    page.on("filechooser", lambda chooser: None)  # takes effect some time after the call
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Choose a picture"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(tmp_path / "a.webp")
    assert shown(page) == expected(classifier, picture("webp"))
    assert problems == []


def test_picture_that_the_browser_cannot_show_is_classified(page, classifier, problems):
    send(page, "drop", ("a.tiff", "image/tiff", picture("tiff")))
    assert shown(page) == expected(classifier, picture("tiff"))
    page.wait_for_selector("#no-preview:visible")
    assert "show the picture" in page.inner_text(".drop")
    assert not page.is_visible("#picture")
    assert problems == []


@pytest.mark.parametrize("format", ["png", "jpeg", "gif", "bmp", "webp", "tiff", "ppm"])
def test_picture_of_any_format_is_classified_whatever_its_name(page, classifier, problems, format):
    send(page, "drop", ("notes.txt", "text/plain", picture(format)))
    assert shown(page) == expected(classifier, picture(format))
    assert problems == []


def test_file_of_300_mb_is_refused_without_sending_it(page, problems, tmp_path):
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(300_000_000)
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.set_input_files("#file", tmp_path / "large.png")
    assert_error(page, "large.png has 286.1 MiB, and at most 32 MiB can be sent.")
    assert requests == problems == []


def test_files_that_are_no_pictures_are_refused_without_sending_them(page, problems):
    send(page, "drop", ("notes.txt", "text/plain", b"some text"))
    assert_error(page, "notes.txt is not a picture that can be read. Possible formats are PNG, JPEG,")
    send(page, "drop", ("empty.png", "image/png", b""))
    assert_error(page, "empty.png is empty.")
    send(page, "drop", *(2 * [("a.png", "image/png", picture())]))
    assert_error(page, "These are several files.")
    send(page, "drop", types=["text/uri-list"])
    assert_error(page, "This is not a file. Save the picture, and drop its file.")
    send(page, "paste", types=["text/plain"])
    assert_error(page, "The clipboard has no picture.")
    assert problems == []


def test_refusal_of_the_server_is_shown_and_the_next_picture_classified(page, classifier):
    send(page, "drop", ("broken.png", "image/png", picture()[:2_000]))
    assert_error(page, "broken.png: not a readable image (")
    send(page, "drop", ("a.png", "image/png", picture()))
    assert shown(page) == expected(classifier, picture())
    assert not page.is_visible("#error")


def test_server_that_has_ended_is_reported(browser, classifier):
    with serving(classifier) as url:
        page = browser.new_page()
        page.goto(url)
    send(page, "drop", ("a.png", "image/png", picture()))
    assert_error(page, "The server does not answer. Check that it is running, and try again.")
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_page_fits_and_its_colors_have_contrast(browser, scheme):
    name = "a_very_long_name_of_a_class_" * 3
    with serving(tiny_classifier(class_names=[name, "b", "c", "d"], experiment=name)) as url:
        page = browser.new_page(viewport={"width": 400, "height": 800}, color_scheme=scheme)
        page.goto(url)
        files = {"#classes": ("a" * 90 + ".png", "image/png", picture()), "#error": ("a" * 90, "text/plain", b"text")}
        for answer, file in files.items():
            send(page, "drop", file)
            page.wait_for_selector(f"{answer}:visible")
            assert page.evaluate("document.documentElement.scrollWidth") <= 400
            text, card = (
                page.evaluate(f"getComputedStyle(document.querySelector('{tag}')).{field}")
                for tag, field in (("body", "color"), ("main", "backgroundColor"))
            )
            assert contrast(text, card) > 7
        page.close()


def contrast(*colors):
    """The contrast ratio of two colors, given as rgb(...), by WCAG 2."""

    def luminance(color):
        values = [int(value) / 255 for value in color.removeprefix("rgb(").removesuffix(")").split(",")]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted(map(luminance, colors))
    return (high + 0.05) / (low + 0.05)
