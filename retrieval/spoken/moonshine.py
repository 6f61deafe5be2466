"""Process of Moonshine: samples on standard input, lines as JSON on standard output."""

import json
import os
import sys

import numpy as np

from retrieval.spoken.sound import RATE
from retrieval.spoken.transcription import find_model

_OPTIONS = {"return_audio_data": "false", "identify_speakers": "false"}
_MAX_REPEATS = 3


def main() -> None:
    """Read float32 samples at ``RATE``, write [[text, start_s, end_s], …]."""
    output = os.dup(1)
    os.dup2(2, 1)  # what the library prints is no result
    from moonshine_voice.moonshine_api import ModelArch
    from moonshine_voice.transcriber import Transcriber

    samples = np.frombuffer(sys.stdin.buffer.read(), np.float32)
    with Transcriber(find_model(), ModelArch.TINY, options=_OPTIONS) as transcriber:
        found = transcriber.transcribe_without_streaming(samples.tolist(), RATE)
    duration_s = len(samples) / RATE
    lines = [
        (line.text.strip(), line.start_time, min(duration_s, line.start_time + line.duration))
        for line in found.lines
    ]
    kept = [line for line in lines if line[0] and not is_loop(line[0])]
    with open(output, "w", encoding="utf-8") as file:
        json.dump(kept, file)


def is_loop(text: str) -> bool:
    """Whether a line says the same again and again, as recognisers do of what is no speech."""
    words = text.casefold().split()
    most = max(map(words.count, set(words)), default=0)
    return len(words) > 2 * _MAX_REPEATS and most > len(words) / 2
