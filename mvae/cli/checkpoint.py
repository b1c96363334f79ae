"""``mvae inspect`` and the other commands on a checkpoint file."""

COMMANDS: list = []
