"""The error of every file that someone else wrote."""


class SourceError(ValueError):
    """A file of a dataset that cannot be used; the message names it, what was found and what was wanted."""
