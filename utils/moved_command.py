"""Commands under their former names, which work for one release and print the new one."""

import runpy
import sys


def run_moved_command(old: str, new: str) -> None:
    """Run module ``new`` in place of ``old``, with the same arguments; stderr says the new name."""
    sys.stderr.write(f"python -m {old} is now python -m {new}\n")
    runpy.run_module(new, run_name="__main__", alter_sys=True)
