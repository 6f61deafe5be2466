"""Optional packages: those of ``requirements-scale.txt``, imported where they are used."""

import importlib
from types import ModuleType

from utils.errors import UserError

INSTALL = "pip install -r requirements-scale.txt"


def import_optional(name: str, purpose: str) -> ModuleType:
    """Return an optional package or a module of it.

    Args:
        purpose: what needs it, as the beginning of a sentence: ``an export``.

    Raises:
        UserError: it is not installed, or can't be loaded.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise UserError(f"{purpose} needs the package {package} ({error}): {INSTALL}") from error
