"""The formats: from a path, a folder or bytes to one `Contents`, and from a tree back to a file.

`reading` takes anything, `detect` says what it is, `one_file` and `folders` read it. Imports `files` and `pickled`.
What the values mean for a training is not known here.
"""
