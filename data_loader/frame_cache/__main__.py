"""Old spelling of ``python -m tools.cache_frames``, kept for one release."""

from utils.moved_command import run_moved_command

if __name__ == "__main__":
    run_moved_command("data_loader.frame_cache", "tools.cache_frames")
