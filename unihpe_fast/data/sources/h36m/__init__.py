"""Human3.6M: source.py is what `prepare` calls, each module beside it reads one kind of file."""
