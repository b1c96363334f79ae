"""How long a training step takes, at the size of the course's specimen: `make bench-speed`.

`__main__` sets up what is compared, lets each take its turns, and writes the README's table. `contestants` is what runs
in the processes that are compared, each in an environment of its own; so it imports nothing of this package at the top.
"""
