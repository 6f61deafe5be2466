"""Settings of a library: how its videos are read, from one run to the next."""

from dataclasses import asdict, dataclass
from typing import Any

from typing_extensions import Self

NO_MODEL = "none"  # as ``--model``


@dataclass(frozen=True)
class LibrarySettings:
    """How the videos of a library are read; kept, so that the next run goes on alike."""

    engine: str = "rapidocr"  # that reads text
    script: str | None = None  # None: as the engine chooses
    model: str | None = None  # a tower; None: the default one where it can be had; or ``NO_MODEL``
    speech: bool = False  # whether what is said is written down

    def change(self, **values: Any) -> Self:
        """Return these with other values; what is None stays."""
        given = {name: value for name, value in values.items() if value is not None}
        return type(self)(**(asdict(self) | given))
