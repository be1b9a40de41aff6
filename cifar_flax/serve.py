"""`python -m cifar_flax.serve --workdir runs/cnn`: a local page that classifies pictures.

A picture can be dropped, pasted or chosen there. Programs send one to its endpoint:
`curl --data-binary @cat.png http://127.0.0.1:8000/predict`
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import numpy as np

from cifar_flax.cli.commandline import Parser, exit_code
from cifar_flax.cli.streams import say
from cifar_flax.data.pictures import check_channels
from cifar_flax.errors import BadInput, import_problem
from cifar_flax.inference import Classifier, load_run


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="python -m cifar_flax.serve", description=__doc__, allow_abbrev=False)
    parser.add_argument("--workdir", required=True, help="the folder of a run")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at (default: only this machine)")
    parser.add_argument("--port", type=int, default=8000, help="its port; 0: any free one (default: 8000)")
    arguments = parser.parse_args(argv)
    if not 0 <= arguments.port < 2**16:
        raise BadInput(f"--port: {arguments.port} is not valid; use a number from 1 to 65535, or 0 for any free port")
    return arguments


def import_serving() -> tuple[Any, Any]:
    """The modules of the application and the server, which need packages that are optional."""
    try:
        from cifar_flax.serving import app, server
    except ImportError as error:
        problem = import_problem(error, "starlette, uvicorn or python-multipart")
        raise BadInput(f"the page needs more packages, and {problem}; run: pip install 'cifar_flax[serve]'") from error
    return app, server


def load(workdir: str) -> Classifier:
    """The run, compiled for one picture at a time."""
    classifier = load_run(workdir, eval_batch_size=1)
    check_channels(classifier.image_shape[-1])
    classifier(np.zeros((1, *classifier.image_shape), np.uint8))
    return classifier


def command(argv: Sequence[str]) -> None:
    arguments = parse(argv)
    app, server = import_serving()
    with closing(server.open_socket(arguments.host, arguments.port)) as opened:
        classifier, url = load(arguments.workdir), server.url_of(opened, arguments.host)
        running = server.Server(
            app.make_app(classifier, arguments.host),
            on_start=lambda: say(f"{url} is ready ({classifier.run['experiment']}); Ctrl-C stops it"),
        )
        running.run([opened])
    raise SystemExit(128 + running.signal_number)


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(command, argv)


if __name__ == "__main__":
    sys.exit(main())
