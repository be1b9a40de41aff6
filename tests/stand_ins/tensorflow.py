"""Takes the place of TensorFlow in runs whose events are not read, see `processes.environment`."""

from types import SimpleNamespace


class OpError(Exception):
    """An error that no stand-in raises."""


errors = SimpleNamespace(OpError=OpError)
config = SimpleNamespace(set_visible_devices=lambda devices, kind: None)
