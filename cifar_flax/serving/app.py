"""The page and the endpoint `POST /predict`, as a Starlette application."""

import asyncio
import secrets
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jinja2
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from cifar_flax.data.pictures import read_image
from cifar_flax.data.pixels import FORMATS
from cifar_flax.errors import BadInput, in_one_line
from cifar_flax.inference import Classifier
from cifar_flax.serving.answers import HEADERS, answer, refuse
from cifar_flax.serving.guard import Guard
from cifar_flax.serving.upload import MAX_BYTES, picture_in, read_body

MAX_REQUESTS = 8  # that are received or wait for the network; each keeps up to MAX_BYTES in memory
SENTENCES = {
    404: "there is nothing at this address; the page is at / and the endpoint at /predict",
    405: "this method is not possible here; send a picture with POST to /predict, and open the page at /",
}
POLICY = (
    "default-src 'none'; connect-src 'self'; img-src blob: data:; script-src 'nonce-{nonce}'; "
    "style-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def make_app(classifier: Classifier, host: str) -> Starlette:
    """The application. `host` is the name or address that the server was started with."""
    template = load_template()
    contents = describe(classifier)
    slots, thread = asyncio.Semaphore(MAX_REQUESTS), ThreadPoolExecutor(1, "predict")

    async def page(_request: Request) -> Response:
        nonce = secrets.token_urlsafe(16)
        headers = HEADERS | {"Content-Security-Policy": POLICY.format(nonce=nonce)}
        return HTMLResponse(template.render(contents, nonce=nonce), headers=headers)

    async def predict(request: Request) -> Response:
        if slots.locked():
            raise HTTPException(503, "too many pictures at once; try again", {"Retry-After": "1"})
        async with slots:
            body, loop = await read_body(request), asyncio.get_running_loop()
            kind = request.headers.get("content-type", "")
            return answer(await loop.run_in_executor(thread, classify, classifier, body, kind))

    return Starlette(
        routes=[Route("/", page), Route("/predict", predict, methods=["POST"])],
        middleware=[Middleware(Guard, host=host)],
        exception_handlers={HTTPException: report, Exception: report_fault},
    )


def classify(classifier: Classifier, body: bytes, content_type: str) -> dict[str, Any]:
    """The answer to a request: the probabilities of all classes, the most probable first.

    Raises:
        HTTPException: the body is not a picture.
    """
    try:
        image = read_image(picture_in(body, content_type), classifier.image_shape)
    except BadInput as error:
        raise HTTPException(415, str(error)) from error
    return {"classes": classifier.most_probable(classifier(image[None])[0])}


def load_template() -> jinja2.Template:
    place = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=place, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.get_template("page.html")


def describe(classifier: Classifier) -> dict[str, Any]:
    """What the page shows of a run."""
    run, (height, width, channels) = classifier.run, classifier.image_shape
    facts = [
        f"trained on {Path(run['dataset']).name}",
        f"{len(classifier.class_names)} classes",
        f"{width} x {height} pixels, {'gray' if channels == 1 else 'color'}",
    ]
    if classifier.done and "test_accuracy" in run:
        facts.append(f"{run['test_accuracy']:.2%} test accuracy")
    return {"title": run["experiment"], "facts": facts, "formats": FORMATS, "max_bytes": MAX_BYTES}


async def report(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return refuse(error.status_code, SENTENCES.get(error.status_code, error.detail), error.headers)


async def report_fault(_request: Request, error: Exception) -> Response:
    """Prints the traceback of a bug on stderr; the server continues."""
    traceback.print_exception(error, file=sys.stderr)
    return refuse(500, f"the server failed ({in_one_line(error)}); its terminal shows where")
