"""Open every bomb in turn, under a limit of one gigabyte. Exit 0 if each ends in a message or an answer, in time.

An argument divides all of it: the bombs, the reader's own limits, and the gigabyte.
"""

from __future__ import annotations

import resource
import sys
import time

from hostile_files import bombs, checkpoint

from mvae.checkpoint import CheckpointError, inspect
from mvae.checkpoint.pickled.limits import DEFAULT_LIMITS, Limits

SECONDS, SECONDS_IF_SMALL = 30, 10
"""Of processor time; what SECURITY.md promises of files up to 10 MB."""


def main() -> int:
    failed = 0
    scale = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    limits = Limits(opcodes=DEFAULT_LIMITS.opcodes // scale, memory=DEFAULT_LIMITS.memory // scale)
    for name, pickle in bombs(scale):
        raw = checkpoint(pickle) if len(pickle) < 20_000_000 else pickle
        del pickle
        # the bytes of the file itself are already here; the gigabyte is for what reading it takes
        resource.setrlimit(resource.RLIMIT_AS, (_address_space() + 2**30 // scale, resource.RLIM_INFINITY))
        began = time.process_time()
        try:
            file = inspect(raw, limits=limits)
            file.to_dict()
            file._repr_html_()
            outcome = "an answer"
        except CheckpointError as error:
            outcome = str(error)
        except BaseException as error:
            outcome = f"FAILED: {type(error).__name__}"
            failed += 1
        file = None
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        took = time.process_time() - began
        if took > (SECONDS if len(raw) > 10_000_000 else SECONDS_IF_SMALL):
            outcome = f"FAILED: {took:.0f} seconds"
            failed += 1
        print(f"{name:40} {took:6.2f} s  {outcome[:100]}", flush=True)
    return failed


def _address_space() -> int:
    """Bytes of address space this process has now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    sys.exit(main())
