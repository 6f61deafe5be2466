"""Everything that was found: what is wrong, as JSON values and as lists of files."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from data_loader.inspection.needs import DiskNeeds, LoaderNeeds, ModelNeeds
from data_loader.inspection.splits import SplitFacts


@dataclass(frozen=True)
class Report:
    """What ``check_data.py`` found.

    Attributes:
        config: the configuration's file.
        modalities: what the model uses.
        splits: that could be opened.
        closed: names of those that could not -> why.
        model: what the model needs.
        disk: what the checkpoints need.
        loaders: what each loader's batches need.
    """

    config: str
    modalities: tuple[str, ...]
    splits: list[SplitFacts]
    closed: Mapping[str, str]
    model: ModelNeeds
    disk: DiskNeeds
    loaders: list[LoaderNeeds]

    @property
    def wrong(self) -> list[str]:
        """One line for each thing that is wrong."""
        wrong = [f"{name}: {' '.join(text.split())}" for name, text in self.closed.items()]
        for split in self.splits:
            wrong += [f"{split.name}: {' '.join(text.split())}" for text in split.wrong]
        disk = self.disk
        if disk.needed is not None and disk.needed > disk.free:
            wrong.append(
                f"disk: {disk.checkpoints} checkpoints need {size(disk.needed)}, but "
                f"{size(disk.free)} are free at {disk.folder}; raise trainer.save_period, lower "
                "trainer.epochs, or set trainer.save_dir"
            )
        return wrong

    def lists(self) -> dict[str, Any]:
        """Return what is wrong, and every split's lists of files."""
        return {
            "config": self.config,
            "wrong": self.wrong,
            "splits": {split.name: split.lists() for split in self.splits},
        }

    def described(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "config": self.config,
            "modalities": list(self.modalities),
            "wrong": self.wrong,
            "not_opened": dict(self.closed),
            "splits": [split.described() for split in self.splits],
            "estimates": {
                "model": asdict(self.model),
                "disk": asdict(self.disk),
                "loaders": [asdict(loader) for loader in self.loaders],
            },
        }


def size(count: float) -> str:
    """Write a number of bytes for people: ``12.3 GB`` (powers of 1000)."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB" if count < 1000 else f"{count:,.0f} TB"
