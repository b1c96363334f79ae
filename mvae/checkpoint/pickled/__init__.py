"""The pickle: read as data by a machine of our own, and written again as PyTorch would.

`machine` goes through the opcodes, `rebuild` knows what the harmless calls mean, `values` are what comes out; `writer`
writes them. Imports `files`. Nothing that a pickle names is ever imported or called here, torch is not needed, and time
and memory are bounded.
"""
