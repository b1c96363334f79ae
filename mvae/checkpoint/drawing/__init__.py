"""The faces of a report: a tree in the terminal, a page in a notebook, a figure.

Imports `report` and below; rich and matplotlib only when something is drawn. Nothing is worked out here.
"""
