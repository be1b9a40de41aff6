"""A writer that writes nothing."""


class SummaryWriter:
    """Takes calls of all methods that clu's writer has."""

    def __init__(self, folder):
        pass

    def __getattr__(self, name):
        return lambda *arguments: None
