"""Former place of the report's command."""

from utils.moved_command import run_moved_command

if __name__ == "__main__":
    run_moved_command("utils.report", "tools.report")
