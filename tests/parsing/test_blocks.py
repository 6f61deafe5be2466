from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
import torch
from pydantic import BaseModel, Field, ValidationError

from base.config import NO_EFFECT, Block, ConfigModel
from base.registry import Entry, Registry
from parsing.blocks import check_block, find_ineffective_in_block, make_args_model


class Video(BaseModel):  # the base of ConfigModel on purpose: strictness must not depend on it
    model_config = {"extra": "forbid", "frozen": True}

    num_frames: int = Field(4, ge=1, description="Frames of a clip.")
    fps: Annotated[int | None, NO_EFFECT] = Field(None, description="Old.")


@dataclass(frozen=True)
class Words:
    limit: int = 200
    ranges: tuple[int, ...] = (1, 2)


class Part:
    """A part.

    Args:
        video: which frames, and
            how many.
        rate: described here, but the annotation wins.
    """

    def __init__(
        self,
        device: Any,
        video: Video,
        rate: Annotated[float, Field(gt=0, description="Learning rate.")] = 1.0,
        mode: "Literal['rand', 'first']" = "rand",
        betas: tuple[float | torch.Tensor, float] = (0.9, 0.999),
        words: Words = Words(),  # noqa: B008
        either: Video | bool = False,
        clips: tuple[Video, ...] = (),
        old: Annotated[Any, NO_EFFECT] = None,
        anything=None,
        *rest: int,
        **more: int,
    ) -> None:
        self.given = {"device": device, "video": video, "rate": rate, "betas": betas}


@pytest.fixture
def registry():
    registry = Registry("part")
    registry.register("Part", provided=("device",))(Part)
    return registry


def problems(registry, data):
    _, found = check_block(data, ("arch",), registry)
    return [(".".join(map(str, path)), text) for path, text in found]


def arg_problems(registry, **args):
    return problems(registry, {"type": "Part", "args": {"video": {}} | args})


def test_defaults_are_resolved_and_types_kept(registry):
    block, found = check_block(
        {"type": "Part", "args": {"video": {"num_frames": 2}, "betas": [0, 1]}}, ("x",), registry
    )
    assert found == []
    assert block.args.video == Video(num_frames=2)
    kwargs = block.kwargs()
    assert isinstance(kwargs["video"], Video)
    assert isinstance(kwargs["words"], Words)
    assert kwargs["betas"] == (0.0, 1.0) and isinstance(kwargs["betas"], tuple)
    assert list(kwargs) == [
        *("video", "rate", "mode", "betas", "words", "either", "clips", "old", "anything")
    ]


def test_build_calls_the_target_with_arguments_and_what_is_provided(registry):
    block, _ = check_block({"type": "Part", "args": {"video": {}, "rate": 2}}, ("x",), registry)
    part = block.build(registry, device="cpu")
    assert part.given == {"device": "cpu", "video": Video(), "rate": 2.0, "betas": (0.9, 0.999)}


def test_a_block_and_its_arguments_are_frozen(registry):
    block, _ = check_block({"type": "Part", "args": {"video": {}}}, ("x",), registry)
    for change in (
        lambda: setattr(block, "type", "Other"),
        lambda: setattr(block.args, "rate", 3.0),
    ):
        with pytest.raises(ValidationError, match="frozen"):
            change()


@pytest.mark.parametrize(
    ("args", "path", "text"),
    [
        ({"rat": 1}, "rat", 'unknown key; did you mean "rate"?'),
        ({"device": "cpu"}, "device", "unknown key; valid: "),
        ({"more": 1}, "more", 'unknown key; did you mean "mode"?'),
        ({"rate": "1"}, "rate", 'expected a number above 0, got "1"'),
        ({"rate": True}, "rate", "expected a number above 0, got true"),
        ({"rate": 0}, "rate", "expected a number above 0, got 0"),
        ({"mode": "last"}, "mode", 'expected one of "rand", "first", got "last"'),
        ({"betas": [0.9]}, "betas.1", "missing; expected a number"),
        ({"betas": [1, 2, 3]}, "betas", "expected a list of 2 (a number, a number), got [1, 2, 3]"),
        ({"video": {"num_frame": 3}}, "video.num_frame", 'unknown key; did you mean "num_frames"?'),
        (
            {"video": {"num_frames": True}},
            "video.num_frames",
            "expected an integer of at least 1, got true",
        ),
        (
            {"video": {"num_frames": 4.0}},
            "video.num_frames",
            "expected an integer of at least 1, got 4.0",
        ),
        ({"video": 3}, "video", 'expected an object with "num_frames", "fps", got 3'),
        ({"words": {"limt": 3}}, "words.limt", 'unknown key; did you mean "limit"?'),
        ({"words": {"limit": "3"}}, "words.limit", 'expected an integer, got "3"'),
        (
            {"either": 3},
            "either",
            'expected an object with "num_frames", "fps" or true or false, got 3',
        ),
        (
            {"either": {"num_frames": 0}},
            "either.num_frames",
            "expected an integer of at least 1, got 0",
        ),
        ({"clips": [{}, {"fp": 1}]}, "clips.1.fp", 'unknown key; did you mean "fps"?'),
    ],
)
def test_a_faulty_argument(registry, args, path, text):
    [(where, said)] = arg_problems(registry, **args)
    assert where == f"arch.args.{path}"
    assert said == text if not text.endswith(" ") else said.startswith(text)


def test_a_missing_argument(registry):
    assert problems(registry, {"type": "Part"}) == [
        ("arch.args.video", 'missing; expected an object with "num_frames", "fps"')
    ]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (3, [("arch", 'expected an object with "type" and "args", got 3')]),
        (
            {"typ": "Part"},
            [
                ("arch.typ", 'unknown key; did you mean "type"?'),
                ("arch.type", 'missing; expected the name of a registered part ("Part")'),
            ],
        ),
        (
            {"type": 3, "args": []},
            [
                ("arch.args", "expected an object, got []"),
                ("arch.type", 'expected the name of a registered part ("Part"), got 3'),
            ],
        ),
        ({"type": "Prat"}, [("arch.type", 'unknown part "Prat"; did you mean "Part"?')]),
    ],
)
def test_a_faulty_block(registry, data, expected):
    assert problems(registry, data) == expected


def test_faulty_values_do_not_hide_the_others(registry):
    block, found = check_block(
        {"type": "Part", "args": {"video": {"num_frames": 9, "fsp": 1}, "rate": "x"}},
        ("arch",),
        registry,
    )
    assert len(found) == 2
    assert block.args.video.num_frames == 9 and block.args.rate == 1.0


def test_keys_without_effect_are_found_where_the_file_sets_them(registry):
    args = {"video": {"fps": 25}, "clips": [{}, {"fps": None}], "old": {"a": 1}, "either": True}
    assert find_ineffective_in_block({"type": "Part", "args": args}, registry) == [
        ("video", "fps"),
        ("clips", 1, "fps"),
        ("old",),
    ]
    assert find_ineffective_in_block({"type": "Part", "args": {"video": {}}}, registry) == []


def test_descriptions_come_from_the_annotation_or_the_docstring(registry):
    fields = make_args_model(registry.entry("Part")).model_fields
    assert fields["rate"].description == "Learning rate."
    assert fields["video"].description == "which frames, and how many."


def test_torchs_own_signatures_can_be_registered():
    adamw = make_args_model(Entry(torch.optim.AdamW, provided=("params",)))
    assert issubclass(adamw, ConfigModel)
    assert adamw.model_fields["lr"].annotation is float  # a file can't give the tensor
    assert adamw.model_json_schema()["properties"]["betas"]["default"] == [0.9, 0.999]
    milestones = Entry(torch.optim.lr_scheduler.MultiStepLR, provided=("optimizer",))
    registry = Registry("schedule")
    registry.register("M", provided=("optimizer",))(milestones.target)
    block, found = check_block({"type": "M", "args": {"milestones": [3, 5]}}, (), registry)
    assert found == [] and block.args.milestones == [3, 5]


def test_a_block_holds_no_other_keys():
    with pytest.raises(ValidationError, match="Extra inputs"):
        Block(type="x", arg={})
