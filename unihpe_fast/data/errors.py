"""The errors of files that cannot be used."""


class SourceError(ValueError):
    """A file of a dataset that cannot be used; the message names it, what was found and what was wanted."""


class StoreError(ValueError):
    """A prepared file that cannot be used; the message names the file, what was found and what was wanted."""
