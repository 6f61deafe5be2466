"""Arguments of commands that read a configuration; without importing torch or a model."""

import argparse
from collections.abc import Sequence
from typing import Any


def add_config_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add ``-c/--config`` and ``--set``, the arguments of ``load_config``, to a command."""
    parser.add_argument(
        "-c", "--config", required=required, metavar="FILE", help="configuration file (JSON)"
    )
    add_override_argument(parser)


def add_override_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--set`` alone, for a command that finds its configuration elsewhere."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help="change a value, for example optimizer.args.lr=1e-4 or "
        "data_loader.0.args.batch_size=8; VALUE is JSON, or else text; repeatable",
    )


class SetOption(argparse.Action):
    """An option of the published commands that changes one value: short for ``--set KEY=VALUE``."""

    def __init__(self, option_strings: Sequence[str], dest: str, key: str, **settings: Any) -> None:
        settings.setdefault("help", f"the same as --set {key}=…")
        super().__init__(option_strings, "overrides", default=[], **settings)
        self.key = key

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any
    ) -> None:
        """Add the change behind those given so far."""
        namespace.overrides = [*namespace.overrides, f"{self.key}={values}"]
