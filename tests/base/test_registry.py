import pytest

from base.registry import Registry, UnknownNameError, nearest
from utils.errors import UserError


@pytest.fixture
def registry():
    registry = Registry("fruit")
    registry.register("apple", provided=("stem",))(dict)
    registry.register("pear")(list)
    return registry


def test_register_returns_its_target_and_get_finds_it(registry):
    @registry.register("plum")
    def plum():
        return "plum"

    assert plum() == "plum"
    assert registry.get("plum") is plum
    assert registry.names() == ["apple", "pear", "plum"]


def test_entry_holds_what_the_program_provides(registry):
    assert registry.entry("apple").provided == ("stem",)
    assert registry.entry("pear").provided == ()


def test_a_name_is_registered_once(registry):
    with pytest.raises(KeyError, match="fruit 'pear' is registered twice"):
        registry.register("pear")(dict)
    assert registry.get("pear") is list


def test_an_unknown_name_is_a_user_error_with_the_nearest_name(registry):
    with pytest.raises(UnknownNameError) as caught:
        registry.get("aple")
    assert str(caught.value) == 'unknown fruit "aple"; did you mean "apple"?'
    assert isinstance(caught.value, UserError)


def test_a_far_name_lists_all(registry):
    with pytest.raises(UnknownNameError, match=r'^unknown fruit "zzz"; valid: apple, pear$'):
        registry.entry("zzz")


def test_nearest_without_names_says_nothing():
    assert nearest("x", []) == ""


def test_a_refused_name_says_why(registry):
    registry.refuse("quince", "it was never published")
    with pytest.raises(UnknownNameError) as caught:
        registry.get("quince")
    assert str(caught.value) == 'the fruit "quince" can\'t be had: it was never published'
    assert "quince" not in registry.names()


def test_a_metric_says_of_each_key_which_value_is_best(registry):
    registry.register("fig", keys={"sweet": "max", "seeds": "min", "odd": None})(dict)
    registry.register("kiwi", keys=("sweet",))(dict)
    fig, kiwi = registry.entry("fig"), registry.entry("kiwi")
    assert (fig.keys, fig.directions) == (("sweet", "seeds", "odd"), ("max", "min", None))
    assert (kiwi.keys, kiwi.directions) == (("sweet",), (None,))
    with pytest.raises(ValueError, match='\'lime\': best is "min" or "max"'):
        registry.register("lime", keys={"sour": "least"})
