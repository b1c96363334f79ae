"""Open every bomb in turn, under a limit of one gigabyte. Exit 0 if each ends in a message or an answer, in time."""

from __future__ import annotations

import resource
import sys
import time

from hostile_files import bombs, checkpoint

from mvae.checkpoint import CheckpointError, inspect

SECONDS = 30


def main() -> int:
    failed = 0
    for name, pickle in bombs():
        raw = checkpoint(pickle) if len(pickle) < 1_000_000 else pickle
        del pickle
        # the bytes of the file itself are already here; the gigabyte is for what reading it takes
        resource.setrlimit(resource.RLIMIT_AS, (_address_space() + 2**30, resource.RLIM_INFINITY))
        began = time.monotonic()
        try:
            file = inspect(raw)
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
        took = time.monotonic() - began
        if took > SECONDS:
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
