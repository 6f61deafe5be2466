"""A command for tests: ``distributed_steps.py`` with encoders that recompute or are compiled.

extra_steps.py TEXT_MODEL OUT CHUNK_SIZE SETTINGS recompute|compile
"""

import sys

from tests.trainer import distributed_steps

build = distributed_steps.build


def changed(text_model):
    model = build(text_model).train()
    if sys.argv[5] == "recompute":
        model.recompute_activations()
    else:
        model.compile_encoders("aot_eager")
    return model


if __name__ == "__main__":
    distributed_steps.build = changed
    distributed_steps.main()
