"""Read, check and show a configuration.

    python parse_config.py -c configs/TextVR_fusion.json            the file with all defaults
    python parse_config.py -c X.json --set optimizer.args.lr=1e-4   with a value changed
    python parse_config.py --schema > configs/schema.json           for editors

``configs/README.md`` lists every key. What can be named by "type" is what ``data_loader``,
``model`` and ``trainer`` register when they are imported.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import data_loader.registrations  # noqa: F401
import model.registrations  # noqa: F401
import trainer.registrations  # noqa: F401
from base.config import Config, ConfigError, resolve_config
from parsing.arguments import SetOption, add_config_arguments, add_override_argument
from parsing.config_builder import build_config
from parsing.json_files import merge_layers, parse_json, read_layers, to_plain_values
from parsing.schema import make_file_schema
from utils.cli import run_cli
from utils.errors import UserError
from utils.run_dir import CONFIG_NAME

__all__ = [
    "Config",
    "ConfigError",
    "SetOption",
    "add_config_arguments",
    "add_override_argument",
    "config_from_dict",
    "load_config",
    "load_run_config",
    "resolve_config",
]


def load_config(
    path: str | Path,
    overrides: Sequence[str] = (),
    under: str | Path | None = None,
    training: bool = False,
    is_kept: bool = False,
) -> Config:
    """Read and check a configuration file.

    Args:
        path: the JSON file.
        overrides: ``KEY=VALUE`` texts as ``--set`` takes them.
        under: the file that a run was made with, whose keys count where ``path`` does not set them.
        training: whether to refuse what can't be trained, though it might be tested.
        is_kept: whether ``path`` is itself such a file, of a run or an index.

    Raises:
        ConfigError: with every problem of the file and of the overrides.
    """
    layers, problems = read_layers(str(path))
    made_with = merge_layers(layers) if is_kept else None
    if under is not None:
        lower, lower_problems = read_layers(str(under))
        made_with = merge_layers(lower)
        layers, problems = [*layers, *lower], lower_problems + problems
    data = merge_layers(layers)
    return build_config(data, str(path), overrides, problems, training, made_with, layers)


def load_run_config(
    checkpoint: Path, config: str | Path | None, overrides: Sequence[str] = ()
) -> Config:
    """Read the ``config.json`` beside a checkpoint, with the keys of ``config`` laid over it.

    Raises:
        UserError: there is no such checkpoint, or neither file.
        ConfigError: with every problem of the files and of the overrides.
    """
    if not checkpoint.is_file():
        raise UserError(f"{checkpoint}: no such checkpoint")
    beside = checkpoint.parent / CONFIG_NAME
    if beside.is_file():
        return load_config(config or beside, overrides, under=beside)
    if config is None:
        raise UserError(f"{beside}: no such file; give the model's configuration with -c")
    return load_config(config, overrides)


def config_from_dict(data: dict[str, Any], source: str, overrides: Sequence[str] = ()) -> Config:
    """Check a configuration that is already in memory, such as a checkpoint's.

    Args:
        data: JSON values; what ``resolve_config`` returns is accepted.
        source: named in messages, such as the checkpoint's path.
        overrides: ``KEY=VALUE`` texts as ``--set`` takes them.

    Raises:
        ConfigError: with every problem.
    """
    data, problems = to_plain_values(parse_json(json.dumps(data)))
    data.pop("$schema", None)
    return build_config(data, source, overrides, problems)


def main() -> None:
    """Print the resolved configuration, or the schema."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_config_arguments(parser, required=False)
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of the files")
    options = parser.parse_args()
    if options.schema == (options.config is not None):
        parser.error("give either -c FILE or --schema")
    if options.schema:
        result = make_file_schema()
    else:
        result = resolve_config(load_config(options.config, options.overrides, training=True))
    sys.stdout.write(json.dumps(result, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    run_cli(main)
