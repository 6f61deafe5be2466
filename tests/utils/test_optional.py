"""Optional packages: found where they are installed, and one line says what to install."""

import json
import sys

import pytest

from utils.errors import UserError
from utils.optional import import_optional


def test_an_installed_package_is_returned():
    assert import_optional("json", "a test") is json


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError) as error:
        import_optional("pyarrow", "an export")
    assert "an export needs the package pyarrow" in str(error.value)
    assert str(error.value).endswith("pip install -r requirements-scale.txt")
