"""The side that trains: loading a model, carrying it over to other items, saving durably and often, resuming.

The only room that imports torch and Lightning, and the only one that may.
"""
