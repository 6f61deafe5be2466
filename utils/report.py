"""Old spelling of ``python -m tools.report``, kept for one release."""

from utils.moved_command import run_moved_command

if __name__ == "__main__":
    run_moved_command("utils.report", "tools.report")
