"""The fixture that the hostile-input tests share."""

import pytest
from hostile import watching


@pytest.fixture(scope="module")
def watch(request):
    """A Watch for the reader that the test module is named after: `test_hostile_npz` reports as `npz`."""
    with watching(request.module.__name__.removeprefix("test_hostile_")) as watch:
        yield watch
