"""Parsers of file formats, which know no dataset: each reads what someone else wrote without running what is in it."""
