import json
import os

import pytest

from base.config import ConfigError
from parse_config import load_config
from parsing.json_files import apply_overrides, merge_configs, read_config
from tests.conftest import ROOT


def written(folder, name, content):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def only_problem(path):
    """Return the one problem of a file that can't be read."""
    with pytest.raises(ConfigError) as caught:
        read_config(str(path))
    assert str(caught.value).startswith(f"{path}: 1 problem\n  ")
    [problem] = caught.value.problems
    return problem


def test_a_file_is_read_without_schema_and_byte_order_mark(tmp_path):
    path = written(tmp_path, "a.json", '\ufeff{"$schema": "schema.json", "name": "é", "n_gpu": 2}')
    assert read_config(path) == ({"name": "é", "n_gpu": 2}, [])


def test_a_missing_file_gives_the_nearest(tmp_path):
    near = written(tmp_path, "TextVR_fusion.json", {})
    assert only_problem(tmp_path / "TextVR_fusoin.json") == f'no such file; did you mean "{near}"?'


def test_a_missing_file_in_an_empty_or_missing_folder(tmp_path):
    assert only_problem(tmp_path / "a.json") == f"no such file; {tmp_path} holds no JSON file"
    gone = tmp_path / "gone"
    assert only_problem(gone / "a.json").startswith(
        f"no such file; the folder {gone} does not exist"
    )


def test_a_folder_is_no_file(tmp_path):
    assert only_problem(tmp_path) == "is a folder; give a JSON file in it"


def test_not_json_gives_line_and_column(tmp_path):
    path = written(tmp_path, "a.json", '{\n  "name": "x"\n  "seed": 1\n}')
    assert only_problem(path) == (
        "not JSON: Expecting ',' delimiter at line 3, column 3; "
        "look there for a comma, quote or bracket"
    )


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[1]", 'expected a JSON object, {"name": ..., ...}, got [1]'),
        ("3", 'expected a JSON object, {"name": ..., ...}, got 3'),
        ("NaN", 'expected a JSON object, {"name": ..., ...}, got null'),
        ("[" * 200_000, "nested too deeply; a configuration is a few levels"),
    ],
)
def test_what_is_no_object(tmp_path, content, problem):
    assert only_problem(written(tmp_path, "a.json", content)) == problem


def test_a_number_of_thousands_of_digits(tmp_path):
    _, problems = read_config(written(tmp_path, "a.json", '{"seed": ' + "1" * 5000 + "}"))
    assert problems == [(("seed",), "expected a finite number, got an integer this large")]


def test_text_that_is_not_utf8(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'{"name": "\xe9"}')
    assert only_problem(path) == "is not UTF-8 text (byte 10); save it as UTF-8"


def test_what_a_lenient_parser_lets_through_is_found_with_its_path(tmp_path):
    text = '{"a": {"b": 1, "c": [NaN, -Infinity, 1e999], "b": 2}, "d": "\\ud800"}'
    _, problems = read_config(written(tmp_path, "a.json", text))
    assert sorted(problems, key=str) == [
        (("a", "b"), "written twice; keep one of them"),
        (("a", "c", 0), "expected a finite number, got NaN"),
        (("a", "c", 1), "expected a finite number, got -Infinity"),
        (("a", "c", 2), "expected a finite number, got a number this large"),
        (("d",), "holds half a character (a lone surrogate); write the whole character"),
    ]


def test_extends_is_relative_to_the_file(tmp_path):
    (tmp_path / "sub").mkdir()
    written(tmp_path, "base.json", {"$schema": "s", "name": "base", "trainer": {"epochs": 3}})
    child = written(
        tmp_path / "sub",
        "child.json",
        {"extends": "../base.json", "name": "child", "trainer": {"save_dir": "x"}},
    )
    assert read_config(child) == (
        {"name": "child", "trainer": {"epochs": 3, "save_dir": "x"}},
        [],
    )


def extends_problem(folder, value):
    data, problems = read_config(written(folder, "a.json", {"extends": value, "name": "a"}))
    assert data["name"] == "a"
    [(path, text)] = problems
    assert path == ("extends",)
    return text


def test_extends_a_missing_file(tmp_path):
    written(tmp_path, "base.json", {})
    assert extends_problem(tmp_path, "bas.json") == (
        f'{tmp_path / "bas.json"} no such file; did you mean "{tmp_path / "base.json"}"?'
    )


def test_extends_a_file_that_is_not_json(tmp_path):
    written(tmp_path, "base.json", "{")
    text = extends_problem(tmp_path, "base.json")
    assert text.startswith(f"{tmp_path / 'base.json'} not JSON: ")
    assert "line 1, column 2" in text


def test_extends_a_file_with_a_key_twice(tmp_path):
    written(tmp_path, "base.json", '{"a": {"b": 1, "b": 1}}')
    text = extends_problem(tmp_path, "base.json")
    assert text == f"{tmp_path / 'base.json'} a.b: written twice; keep one of them"


def test_extends_itself(tmp_path):
    text = extends_problem(tmp_path, "a.json")
    assert text == "the file extends itself; remove the key or name another file"


def test_extends_in_a_circle_names_every_file_of_it(tmp_path):
    (tmp_path / "sub").mkdir()
    written(tmp_path, "b.json", {"extends": "c.json"})
    written(tmp_path, "c.json", {"extends": "sub/../b.json"})
    names = ("a.json", "b.json", "c.json", "sub/../b.json")
    chain = " extends ".join(f"{tmp_path}/{name}" for name in names)
    assert extends_problem(tmp_path, "b.json") == (
        f"{chain}: the files extend each other in a circle; remove the key from one of them"
    )


def test_extends_of_any_depth(tmp_path):
    folders = [tmp_path / "/".join("sub" for _ in range(depth)) for depth in range(12)]
    folders[-1].mkdir(parents=True)
    written(folders[-1], "f.json", {"trainer": {"epochs": 1, "save_dir": "x"}, "seed": 11})
    for depth in range(10, -1, -1):
        changes = {"extends": "sub/f.json", "seed": depth, "trainer": {f"depth_{depth}": 1}}
        written(folders[depth], "f.json", changes)
    data, problems = read_config(str(tmp_path / "f.json"))
    assert problems == [] and data["seed"] == 0
    keys = {"epochs", "save_dir", *(f"depth_{depth}" for depth in range(11))}
    assert data["trainer"].keys() == keys


@pytest.mark.parametrize(
    ("child", "parent", "grand", "merged"),
    [  # what a chain of two files gives, extended once more
        ({"type": "B"}, {"args": {"p": 1}}, {"type": "A", "args": {"g": 1}}, {"type": "B"}),
        (
            {"type": "A", "args": {"c": 1}},
            {"type": "B", "args": {"p": 1}},
            {"type": "A", "args": {"g": 1}},
            {"type": "A", "args": {"c": 1}},
        ),
        (
            {"args": {"c": 1}},
            {"type": "B"},
            {"type": "A", "args": {"g": 1}},
            {"type": "B", "args": {"c": 1}},
        ),
    ],
)
def test_a_block_of_another_type_in_the_middle_of_a_chain(tmp_path, child, parent, grand, merged):
    written(tmp_path, "c.json", {"arch": grand})
    written(tmp_path, "b.json", {"extends": "c.json", "arch": parent})
    path = written(tmp_path, "a.json", {"extends": "b.json", "arch": child})
    assert read_config(path) == ({"arch": merged}, [])


def test_a_problem_far_down_the_chain_names_the_files_that_lead_there(tmp_path):
    written(tmp_path, "b.json", {"extends": "c.json"})
    files = [str(tmp_path / name) for name in ("a.json", "b.json", "c.json")]
    where = " extends ".join(files) + ": "
    assert extends_problem(tmp_path, "b.json").startswith(f"{where}{files[2]} no such file")
    written(tmp_path, "c.json", '{"a": 1, "a": 2}')
    assert extends_problem(tmp_path, "b.json").startswith(f"{where}{files[2]} a: written twice")
    written(tmp_path, "c.json", {"extends": 3})
    text = extends_problem(tmp_path, "b.json")
    assert text == f"{where}expected the name of a file beside this one, got 3"


@pytest.mark.parametrize("value", [3, "", None, ["b.json"]])
def test_extends_needs_a_name(tmp_path, value):
    assert extends_problem(tmp_path, value) == (
        f"expected the name of a file beside this one, got {json.dumps(value)}"
    )


def test_objects_merge_and_everything_else_is_replaced():
    parent = {"a": {"b": {"c": 1, "d": 2}, "l": [1, 2]}, "e": {"x": 1}, "f": 1}
    child = {"a": {"b": {"c": 3}, "l": [3]}, "e": None, "g": {"y": 1}}
    assert merge_configs(parent, child) == {
        "a": {"b": {"c": 3, "d": 2}, "l": [3]},
        "e": None,
        "f": 1,
        "g": {"y": 1},
    }
    assert parent == {"a": {"b": {"c": 1, "d": 2}, "l": [1, 2]}, "e": {"x": 1}, "f": 1}


def test_a_block_of_another_type_takes_no_arguments_from_its_parent():
    parent = {"type": "AdamW", "args": {"lr": 1, "eps": 2}}
    assert merge_configs(parent, {"type": "SGD"}) == {"type": "SGD"}
    assert merge_configs(parent, {"type": "SGD", "args": {"lr": 3}}) == {
        "type": "SGD",
        "args": {"lr": 3},
    }
    same = merge_configs(parent, {"type": "AdamW", "args": {"lr": 3}})
    assert same == merge_configs(parent, {"args": {"lr": 3}})
    assert same == {"type": "AdamW", "args": {"lr": 3, "eps": 2}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=1e-4", 1e-4),
        ("a.b=true", True),
        ("a.b=null", None),
        ('a.b=["ocr"]', ["ocr"]),
        ('a.b="1"', "1"),
        ("a.b=decord", "decord"),
        ("a.b=x=y", "x=y"),
        ("a.b=", ""),
        (" a.b = 3", 3),
        ("a.b=[1", "[1"),
    ],
)
def test_set_takes_json_or_text(text, value):
    data = {"a": {"b": 0, "c": 1}}
    assert apply_overrides(data, [text]) == []
    assert data == {"a": {"b": value, "c": 1}}
    assert type(data["a"]["b"]) is type(value)


def test_set_makes_objects_and_later_ones_win():
    data = {}
    assert apply_overrides(data, ["a.b.c=1", "a.b.c=2", 'a.d={"e": 1}', "a.d.f=2"]) == []
    assert data == {"a": {"b": {"c": 2}, "d": {"e": 1, "f": 2}}}


def test_set_puts_an_object_for_null():
    data = {"tsfm_params": None}
    assert apply_overrides(data, ["tsfm_params.hflip=false"]) == []
    assert data == {"tsfm_params": {"hflip": False}}


def test_set_numbers_the_items_of_a_list():
    data = {"data_loader": [{"args": {"n": 1}}, {"args": {"n": 1}}]}
    assert apply_overrides(data, ["data_loader.1.args.n=8"]) == []
    assert data == {"data_loader": [{"args": {"n": 1}}, {"args": {"n": 8}}]}


def test_set_takes_a_single_loader_for_the_first():
    data = {"data_loader": {"type": "T", "args": {"n": 1}}}
    assert apply_overrides(data, ["data_loader.0.args.n=8"]) == []
    assert data == {"data_loader": {"type": "T", "args": {"n": 8}}}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("seed", "expected KEY=VALUE, for example optimizer.args.lr=1e-4"),
        ("=3", "expected KEY=VALUE, for example optimizer.args.lr=1e-4"),
        ("a..b=3", "expected KEY=VALUE, for example optimizer.args.lr=1e-4"),
        ("seed.x=3", "seed is 1, which has no member x"),
        (
            "data_loader.args.n=3",
            "data_loader is a list of 2; name the entry by its number: data_loader.0.args.n",
        ),
        ("data_loader.2.args.n=3", "data_loader has 2 entries, numbered from 0; got 2"),
        ("data_loader.-1.args.n=3", "data_loader has 2 entries, numbered from 0; got -1"),
        ("seed=NaN", "expected a finite number, got NaN"),
        ('a={"b": 1, "b": 2}', "written twice; keep one of them"),
    ],
)
def test_a_faulty_set_changes_nothing(text, problem):
    data = {"seed": 1, "data_loader": [{}, {}]}
    assert apply_overrides(data, [text]) == [f"--set {text}: {problem}"]
    assert data == {"seed": 1, "data_loader": [{}, {}]}


def test_every_faulty_set_is_reported_and_the_others_hold():
    data = {}
    assert len(apply_overrides(data, ["x", "a=1", "a.b=2"])) == 2
    assert data == {"a": 1}


def test_a_problem_names_the_file_that_has_the_value(tmp_path, monkeypatch):
    base = json.loads((ROOT / "configs/TextVR_fusion.json").read_text())
    base["optimizer"]["args"]["lr"] = "fast"
    base["n_gpu"] = -1
    written(tmp_path, "base.json", base)
    path = written(tmp_path, "own.json", {"extends": "base.json", "n_gpu": -2, "seeed": 1})
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    lr = 'optimizer.args.lr: expected a number of at least 0, got "fast"'
    assert set(caught.value.problems) == {
        f"{lr} (it stands in {tmp_path / 'base.json'})",
        "n_gpu: expected an integer of at least 0, got -2",
        'seeed: unknown key; did you mean "seed"?',
    }
    with pytest.raises(ConfigError) as caught:  # --set has no file
        load_config(path, ["optimizer.args.lr=slow", "n_gpu=1"])
    assert lr.replace("fast", "slow") in caught.value.problems


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (
            '{"name": "' + "a" * 1_000_000 + '"}',
            "has more than 1,000,000 bytes, no configuration has",
        ),
        (
            json.dumps({"metrics": ["x"] * 20_000}),
            "more than 10,000 values; a configuration has a few dozen",
        ),
    ],
)
def test_what_is_too_large_for_a_configuration(tmp_path, content, problem):
    assert only_problem(written(tmp_path, "a.json", content)) == problem


@pytest.mark.parametrize("depth", [30, 120, 300])
def test_depth_is_one_problem(tmp_path, depth):
    path = written(tmp_path, "a.json", '{"arch": ' + '{"args": [' * depth + "]}" * depth + "}")
    _, problems = read_config(path)
    place = ("arch", "args", 0)
    assert problems == [(place, "nested too deeply; a configuration is a few levels")]


HALF = "holds half a character (a lone surrogate); write the whole character"
CONTROL = "holds a control character; write plain text"


@pytest.mark.parametrize(
    ("text", "problem"), [("a\ud83d", HALF), ("a\x1b[31m", CONTROL), ("a\u202eb", CONTROL)]
)
def test_text_that_a_terminal_would_obey(tmp_path, text, problem):
    found = read_config(written(tmp_path, "a.json", {"name": text}))
    assert found == ({"name": None}, [(("name",), problem)])
    assert read_config(written(tmp_path, "b.json", {text: 1})) == ({}, [((text,), problem)])


def test_extends_what_never_ends_or_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "itself.json").symlink_to(tmp_path / "itself.json")
    for name, text in (
        ("/dev/zero", "is no regular file"),
        ("pipe", "is no regular file"),
        ("itself.json", "can't be read: Too many levels of symbolic links"),
        ("a" * 5000, "can't be read: File name too long"),
    ):
        assert extends_problem(tmp_path, name) == f"{tmp_path / name} {text}"


def test_a_file_may_come_through_a_pipe(tmp_path):
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as file:
        file.write('{"name": "a"}')
    assert read_config(f"/dev/fd/{reading}") == ({"name": "a"}, [])
    os.close(reading)


def test_a_device_without_end_is_no_configuration():
    assert only_problem("/dev/zero").startswith("has more than 1,000,000 bytes")


def test_many_problems_are_found_in_time_and_counted(tmp_path):
    base = json.loads((ROOT / "configs/TextVR_fusion.json").read_text())
    base["metrics"] = [f"metric_{number}" for number in range(9_000)]
    with pytest.raises(ConfigError) as caught:
        load_config(written(tmp_path, "a.json", base))
    assert len(caught.value.problems) >= 9_000 and "more" in str(caught.value)
    assert len(str(caught.value)) <= 10_000


def test_set_of_any_size_and_depth():
    long = "a" * 10_000
    assert apply_overrides({}, [long]) == [apply_overrides({}, [long])[0]]
    assert len(apply_overrides({}, [long])[0]) < 300
    [problem] = apply_overrides({}, [".".join("a" * 100) + "=1"])
    assert problem.endswith("expected KEY=VALUE, for example optimizer.args.lr=1e-4")
    assert apply_overrides({}, ["a\ud83d=1"]) != []


def test_a_name_too_long_for_a_folder_is_no_folder():
    with pytest.raises(ConfigError, match=r"aaa \.\.\. "):
        load_config(ROOT / "configs/TextVR_clip.json", [f"arch.args.tower={'a' * 5000}"])


def test_a_value_that_can_not_be_read_is_told_once(tmp_path):
    base = json.loads((ROOT / "configs/TextVR_fusion.json").read_text())
    text = json.dumps(base | {"name": "a\ud83d"}).replace('"n_gpu": 8', '"n_gpu": ' + "9" * 30)
    assert "9" * 30 in text
    with pytest.raises(ConfigError) as caught:
        load_config(written(tmp_path, "a.json", text))
    assert sorted(caught.value.problems) == [
        "n_gpu: expected a finite number, got an integer this large",
        f"name: {HALF}",
    ]
