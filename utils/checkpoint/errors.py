"""What is wrong with a checkpoint."""

from utils.errors import UserError


class CheckpointError(UserError):
    """A checkpoint that can't be read, does not fit, or can't be written."""
