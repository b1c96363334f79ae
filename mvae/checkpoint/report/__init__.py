"""The report: what there is to say about a checkpoint that was read.

`report` gathers it: names (`entries`), bytes (`byte_budget`), what follows about the run (`facts`), what loading would
do (`safety`). Imports `formats` and below. Nothing is drawn here.
"""
