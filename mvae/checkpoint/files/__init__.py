"""The file: one read-only buffer, and where in it each piece lies.

`source` maps a file and names pieces of it; `archive` reads a zip's directory. Imports nothing of this package but its
errors. What a piece means is not known here.
"""
