"""Checkpoints made to be expensive: one message each, at once; good ones like them are read."""

import json

import pytest
import torch
from safetensors.torch import save_file

from tests.fuzz.expensive_checkpoints import ARCHIVES, SAFETENSORS, VALUES, archive, hold
from tools import checkpoint as command
from tools.checkpoint import convert_checkpoint
from utils.checkpoint.files import CheckpointError, load_checkpoint, verify_checkpoint
from utils.checkpoint.weights import fit_weights, get_weights, hash_weights
from utils.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:Duplicate name")  # of zipfile, which writes it

# Of each kind a size that is read, one that is refused, and why.
PICKLED = {
    "tuples that double": (20, 60, "there are too many values"),
    "dicts that double": (18, 60, "there are too many values"),
    "arguments that double": (20, 60, "there are too many values"),
    "lists in lists": (90, 2_000, "nested too deeply"),
    "keys of one hash": (4, 5_000, "an integer as key has too many digits"),
    "a number of many digits": (300, 5_000, "an integer of 16610 bits"),
    "a range of many digits": (300, 5_000, "an integer of 16610 bits"),
    "a class of many letters": (400, 10_000, "names a class by too many letters"),
    "half a surrogate pair": (None, 1, "surrogates not allowed"),
    "bytes by number": (None, 3 * 10**8, "bytes are made of what is no text"),
    "empty texts by rows": (10**4, 3 * 10**8, "its arrays hold too many texts"),
    "texts of no letters": (1, 3 * 10**8, "another size than its shape says"),
    "an array of many dimensions": (None, 65, "a tensor's shape is impossible"),
    "arrays of the same bytes": (1, 5, "larger than the file"),
    "scalars of the same bytes": (1, 5, "larger than the file"),
    "a number that repeats": (2**20, 10**9, "repeat their numbers without end"),
    "numbers that repeat": (2, 30, "repeat their numbers without end"),
    "a negative stride": (None, 1, "shape is impossible"),
    "an offset outside": (1, 4, "outside its storage"),
    "sizes that overflow": (None, 2**32, "shape is impossible"),
    "sizes with a zero": (1, 2**62, "shape is impossible"),
    "many dimensions": (64, 65, "shape is impossible"),
    "numbers of int4": (None, 4, "it holds numbers of the type torch.int4"),
    "numbers of quint4x2": (None, 4, "it holds numbers of the type torch.quint4x2"),
    "numbers of float8_e5m2": (4, None, ""),
}


def write(path, pickled):
    path.write_bytes(archive([("a/data.pkl", pickled), ("a/data/0", bytes(16))]))
    return path


def refuse(path, reason):
    with pytest.raises(CheckpointError, match=f"^{path}: .*({reason})") as caught:
        load_checkpoint(path)
    assert len(str(caught.value)) < 1_000 and str(caught.value).isprintable()


@pytest.mark.parametrize("kind", PICKLED)
def test_a_value_that_is_too_much(tmp_path, kind):
    good, bad, reason = PICKLED[kind]
    make, _ = VALUES[kind]
    if good is not None:
        path = write(tmp_path / "good.pth", hold(make(good), "optimizer"))
        lines = command.describe_checkpoint(path, load_checkpoint(path), whole_config=False)
        assert sum(map(len, lines)) < 4_000
    if bad is not None:
        refuse(write(tmp_path / "bad.pth", hold(make(bad), "optimizer")), reason)


def test_a_configuration_of_one_text_again_and_again(tmp_path):
    make, _ = VALUES["the same text"]
    path = write(tmp_path / "a.pth", hold(make(5), "config"))
    assert len(load_checkpoint(path)["config"]["a"]) == 5
    refuse(write(tmp_path / "b.pth", hold(make(20), "config")), "there are too many values")


@pytest.mark.parametrize(
    ("kind", "size", "reason"),
    [
        ("parts that overlap", 3, "its parts overlap"),
        ("two of one name", 2, "two have one name"),
        ("a bomb of zeros", 10**6, "compressed"),
        ("a long byte order", 10**6, "big-endian"),
        ("a directory elsewhere", 2**31, "damaged or no checkpoint"),
    ],
)
def test_a_zip_directory_that_lies(tmp_path, kind, size, reason):
    path = tmp_path / "a.pth"
    path.write_bytes(ARCHIVES[kind][0](size))
    refuse(path, reason)
    with pytest.raises(CheckpointError):
        verify_checkpoint(path)


@pytest.mark.parametrize(
    ("kind", "size", "reason"),
    [
        ("a long header", 2**30, "its header is too long"),
        ("a header of blanks", 4 * 10**7, "its header is too long"),
        ("numbers of F4", 8, "it holds numbers of the type torch.float4"),
        ("shapes that overflow", 2**62, "damaged or no checkpoint"),
        ("shapes with a zero", 2**62, "a tensor's shape is impossible"),
        ("an epoch of many digits", 4_000, "its epoch is no number .it has 4000 digits"),
        ("an epoch of many digits", 40_000, "its epoch is no number"),
    ],
)
def test_a_header_of_safetensors_that_is_too_much(tmp_path, kind, size, reason):
    path = tmp_path / "a.safetensors"
    path.write_bytes(SAFETENSORS[kind][0](size))
    refuse(path, reason)


def test_weights_that_no_model_has(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"a" * 501: torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match="names of more than 500 letters"):
        get_weights(load_checkpoint(path), path)
    one = torch.ones(1).expand(2**25)
    torch.save({f"a{i}": one for i in range(20)}, path)
    with pytest.raises(CheckpointError, match="repeat their numbers|again without end"):
        get_weights(load_checkpoint(path), path)
    model = torch.nn.Linear(2, 2)
    weights = {name: value.to(torch.complex64) for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match="bias: complex numbers in the file, real ones"):
        fit_weights(model, weights, path)


def test_what_is_shown_of_many_and_long_names_is_short(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({f"part{i}\x1b{'x' * 300}.w": torch.ones(1) for i in range(500)}, path)
    lines = command.describe_checkpoint(path, load_checkpoint(path), whole_config=False)
    assert len(lines) < 110 and lines[-1] == "… and 400 more parts"
    state = {"state_dict": {"w": torch.ones(1)}} | {f"key {i} {'y' * 99}": i for i in range(500)}
    torch.save(state, tmp_path / "b.pth")
    last = convert_checkpoint(tmp_path / "b.pth", tmp_path / "c.pth")[1]
    assert last.startswith("left out: key 0 yyy") and last.endswith(", …") and len(last) < 5_000


def test_a_configuration_beside_of_any_size(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"w": torch.ones(1)}, path)
    (tmp_path / "a.json").write_text(json.dumps({"a": "b" * 2**24}))
    with pytest.raises(CheckpointError, match="a.json: can't be read .it has more than 16 MiB"):
        load_checkpoint(path)


def test_adapters_that_do_not_fit_are_one_message(tmp_path):
    path, name = tmp_path / "a.pth", "a.parametrizations.w."
    good = {"original": torch.ones(2, 3), "0.up": torch.ones(2, 1), "0.down": torch.ones(1, 3)}
    good |= {"0.scale": torch.tensor(1.0)}
    huge = {"0.up": torch.ones(10**6, 1), "0.down": torch.ones(1, 10**6)}
    for weights in (good, good | huge, {"original": torch.ones(2, 3)}):
        torch.save({name + part: value for part, value in weights.items()}, path)
        if weights is good:
            convert_checkpoint(path, tmp_path / "b.pth")
            continue
        with pytest.raises(UserError, match="the low-rank adapter of a.w does not fit it"):
            convert_checkpoint(path, tmp_path / "c.pth")


def test_a_single_number_of_any_stride_has_one_hash():
    one = torch.tensor([2.0])
    assert hash_weights({"a": one.as_strided((1,), (0,))}) == hash_weights({"a": one})


def test_weights_that_fill_their_memory_are_written_without_a_copy():
    weight, part = torch.ones(4, 5), torch.arange(10.0)[2:4]
    copies = command.copy_weights({"a": weight, "tied": weight, "part": part}, keep_tied=False)
    assert copies["a"].data_ptr() == weight.data_ptr() != copies["tied"].data_ptr()
    assert copies["part"].untyped_storage().nbytes() == 8
