"""The former name of ``python -m tools.score_matrix``; it goes with the next release."""

from utils.moved_command import run_moved_command

if __name__ == "__main__":
    run_moved_command("trainer.evaluator", "tools.score_matrix")
