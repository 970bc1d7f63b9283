"""MPI-INF-3DHP: source.py is what `prepare` calls, files.py reads the annotation files."""
