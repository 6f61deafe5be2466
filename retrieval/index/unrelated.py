"""Texts that hardly any folder of videos has to do with, and the file of their embeddings.

A search learns from them how similar the most similar entry is to a text that matches nothing: see
``retrieval.search.calibration``. They are concrete, as queries are, and rare, each from another
field; it does no harm when some of them are shown in the videos after all.

Shapes: U texts, E width of the common space.
"""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import IndexFolderError

UNRELATED_TEXTS = (
    "a walrus on an ice floe",
    "a blacksmith at the anvil",
    "monks making a sand mandala",
    "the inside of a nuclear reactor",
    "a beekeeper with a smoker",
    "a hot air balloon over the savanna",
    "a cuneiform tablet in a glass case",
    "a lighthouse keeper trimming a lamp",
    "camels drinking at a well",
    "a glassblower shaping a vase",
    "a harvester lifting sugar beets",
    "a chess grandmaster thinking",
    "an octopus opening a jar",
    "a falconer with a hooded bird",
    "a woman playing the bagpipes",
    "a solar eclipse above the sea",
    "miners riding an underground train",
    "a potter throwing a tall bowl",
    "a swarm of locusts",
    "an astronaut repairing a satellite",
    "a fencing match",
    "a sumo wrestler throwing salt",
    "a flamingo standing on one leg",
    "a surgeon holding a scalpel",
    "a peacock spreading its tail",
    "an ice sculpture of a swan",
    "a cheese cellar full of wheels",
    "a printing press from the last century",
    "a tightrope walker between two towers",
    "a dentist looking at an x-ray",
    "a hedgehog eating a worm",
    "a gondola under a stone bridge",
    "an organist pulling a stop",
    "a man shearing sheep",
    "a pangolin curled into a ball",
    "the northern lights above a cabin",
    "a bulldozer pushing snow",
    "a ballet class at the barre",
    "an avalanche in the mountains",
    "a rodeo rider falling",
    "a spider wrapping a fly",
    "a map of the seventeenth century",
    "the moon through a telescope",
    "a judge in a wig",
    "divers in a flooded cave",
    "a bonsai tree being pruned",
    "a bowling ball hitting the pins",
    "an accordion player on a balcony",
    "a man in a suit of armour",
    "tea pickers on a green slope",
    "a satellite picture of a hurricane",
    "a seamstress at a treadle machine",
    "a pole vaulter above the bar",
    "a microscope picture of a cell",
    "a bride on a donkey",
    "a stork building a nest on a chimney",
    "a magician sawing a box",
    "a drawing of a steam engine",
    "a woodpecker at a dead trunk",
    "a fire eater at night",
    "a court of arbitration",
    "a parliament voting",
    "an abacus and a ledger",
    "a shipyard with a hull on the slip",
)


def name_unrelated(checksum: str) -> str:
    """Name the file of these very texts, embedded by the query encoder of this checksum."""
    key = "\n".join([checksum, *UNRELATED_TEXTS])
    return f"unrelated-{hashlib.sha256(key.encode()).hexdigest()[:12]}.npy"


def read_unrelated(file: Path) -> NDArray | None:
    """Read their embeddings (U, E); None where there is no file.

    Raises:
        IndexFolderError: it is damaged.
    """
    try:
        return np.load(file, allow_pickle=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        raise IndexFolderError(
            f"{file}: can't be read ({error}); delete this file: searches do without it, but take "
            "longer to begin"
        ) from error
