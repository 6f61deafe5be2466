"""Times as people read them."""


def format_time(seconds: float) -> str:
    """Return a time as ``1:02:03.5``, with a tenth where it is not a whole second."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest // 10:02}" + (f".{rest % 10}" if rest % 10 else "")
    return f"{hours}:{minutes:02}:{text}" if hours else f"{minutes}:{text}"
