"""What people see: the screen, figures, HTML reports."""

import logging
import os
import sys
from contextlib import suppress


def import_matplotlib() -> None:
    """Imports matplotlib before any module that uses it, whatever MPLBACKEND is.

    Matplotlib refuses to be imported if that backend is not installed. A notebook's kernel exports its own to all
    commands. The figures here need none.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # not about a missing folder for its font cache
    if "matplotlib" in sys.modules:
        return
    backend = os.environ.pop("MPLBACKEND", "")
    import matplotlib as mpl

    if backend:
        os.environ["MPLBACKEND"] = backend
        with suppress(ValueError):
            mpl.rcParams["backend"] = backend  # as importing matplotlib does


import_matplotlib()
