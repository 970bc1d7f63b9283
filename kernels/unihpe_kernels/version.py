"""The version of the distribution, in this one place: packaging, both packages and CITATION.cff follow it."""

__version__ = "0.2.0"
