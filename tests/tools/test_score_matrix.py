"""``python -m trainer.evaluator``: a matrix scored without a model, and every file it refuses."""

import json
import subprocess
import sys
from functools import partial

import numpy as np
import pytest

from evaluation.similarity_file import follows_other_columns
from model.metric import t2v_metrics, v2t_metrics
from tests.conftest import ROOT, tiny
from tests.data_loader.textvr_folder import entry, write_json
from tools import score_matrix as command

BOX = [0, 0, 4, 0, 4, 4, 0, 4, 0, 0]
CAPTIONS = [f"video {number} shows a sign" for number in range(18)]
CAPTIONS += ["people talk"] * 2
NAMES = [f"{'Sports' if number % 3 else 'Games'}/{number}.mp4" for number in range(20)]
ORDER = [7 * number % 20 for number in range(20)]


@pytest.fixture
def ended(run_main):
    """Return a function that runs the command here; it gives the exit code, stdout and stderr."""
    return partial(run_main, command)


@pytest.fixture
def folder(tmp_path):
    """Annotations of 20 videos that are not there, the shuffled file, and a matrix."""
    entries = [entry(name, [text], f"{name}.json")
               for name, text in zip(NAMES, CAPTIONS, strict=True)]  # fmt: skip
    write_json(tmp_path / "TextVR_test.json", entries)
    rand = [entries[a] | {"captions_info": entries[b]["captions_info"]}
            for b, a in enumerate(ORDER)]  # fmt: skip
    write_json(tmp_path / "TextVR_test_rand.json", rand)
    matrix = np.random.default_rng(0).random((20, 20)).astype(np.float32)
    matrix += 0.4 * np.eye(20, dtype="f4")
    np.save(tmp_path / "m.npy", matrix)
    return tmp_path


def written(folder, name="m.metrics.json"):
    return json.loads((folder / name).read_text())


def test_what_it_prints_and_writes(folder, ended):
    file = folder / "TextVR_test.json"
    code, out, err = ended(folder / "m.npy", "--annotations", file)
    assert (code, err) == (0, "")
    found, matrix = written(folder), np.load(folder / "m.npy")
    assert found["t2v_metrics"] == t2v_metrics(matrix)
    assert found["v2t_metrics"] == v2t_metrics(matrix)
    assert found["best_possible"]["t2v_metrics"]["R1"] == 95
    assert found["best_possible"]["equal_captions"]["v2t_metrics"]["R1"] == 100
    assert found["equal_captions"]["shared_captions"] == 1
    assert found["breakdown"]["category"]["Sports"]["count"] == 13
    assert "note" not in found and found["postprocessed"] == {}
    lines = out.splitlines()
    assert lines[0].split() == ["R1", "R5", "R10", "R50", "MedR", "MeanR", "gmean"]
    assert [line[:34].strip() for line in lines[1:9]] == [
        "t2v, one right video (published)", "best possible",
        "t2v, equal captions count", "best possible",
        "v2t, one right video (published)", "best possible",
        "v2t, equal captions count", "best possible",
    ]  # fmt: skip
    shown = [f"{value:.2f}" for value in found["t2v_metrics"].values()]
    assert lines[1].split()[-7:] == shown and len({len(line) for line in lines[:9]}) == 1
    assert f"needs reading: not computed: no OCR documents at {folder}/Kwai_VideoOCR" in out
    assert "captions shared by several videos: 1, by 2 videos" in out and str(file) in out
    assert lines[-1] == str(folder / "m.metrics.json")


def test_needs_reading_from_another_folder(folder, tmp_path, ended):
    documents = tmp_path / "spotted"
    for number, name in enumerate(NAMES[:15]):
        record = {"text": "Sign" if number < 5 else "shop", "score": 1, "tracks": {"0": BOX}}
        write_json(documents / f"{name}.json", {"0": record})
    options = ["--annotations", folder / "TextVR_test.json", "--ocr", documents]
    code, out, _ = ended(folder / "m.npy", *options)
    groups = written(folder)["breakdown"]["needs_reading"]
    assert code == 0 and groups["needs reading"]["count"] == 5
    assert groups["does not"]["count"] == 15
    assert "needs reading: 5 videos have no OCR document" in out
    (documents / f"{NAMES[0]}.json").write_text("{")
    code, _, err = ended(folder / "m.npy", *options)
    assert code == 2 and "no readable OCR document" in err


def test_the_shuffled_file(folder, ended):
    rand = folder / "TextVR_test_rand.json"
    code, out, _ = ended(folder / "m.npy", "--annotations", rand)
    assert code == 0 and "not meaningful (shuffled test file)" in out.splitlines()[0]
    assert f"--annotations {folder / 'TextVR_test.json'} --columns {rand}" in out
    assert next(iter(written(folder).items())) == ("note", "not meaningful (shuffled test file)")
    renamed = rand.rename(folder / "mine.json")
    assert "not meaningful (shuffled test file)" in ended(
        folder / "m.npy", "--annotations", renamed
    )[1]  # fmt: skip


def test_columns_in_the_order_of_the_shuffled_file(folder, ended):
    matrix = np.load(folder / "m.npy")
    np.save(folder / "moved.npy", matrix[:, ORDER])
    options = [folder / "moved.npy", "--annotations", folder / "TextVR_test.json"]
    note = "not meaningful (columns in the order of TextVR_test_rand.json)"
    code, out, _ = ended(*options)
    assert code == 0 and note in out and written(folder, "moved.metrics.json")["note"] == note
    columns = ["--columns", folder / "TextVR_test_rand.json"]
    assert f"add --columns {columns[1]}" in out
    code, out, _ = ended(*options, *columns)
    found = written(folder, "moved.metrics.json")
    assert code == 0 and "not meaningful" not in out and "note" not in found
    assert found["t2v_metrics"] == t2v_metrics(matrix)
    assert found["v2t_metrics"] == v2t_metrics(matrix)
    ended(folder / "m.npy", *options[1:])
    assert found["breakdown"] == written(folder)["breakdown"]
    code, out, _ = ended(folder / "m.npy", *options[1:], *columns)  # columns are right as they are
    assert "not meaningful" in out and "leave out --columns" in out


def test_chance_in_both_orders_is_not_taken_for_another_order(folder, ended):
    np.save(folder / "m.npy", np.random.default_rng(1).random((20, 20)))
    _, out, _ = ended(folder / "m.npy", "--annotations", folder / "TextVR_test.json")
    assert "not meaningful" not in out


def test_a_good_order_is_not_left_for_another_good_one(folder):
    found = command.annotated_queries(folder / "TextVR_test.json", folder)
    matrix = np.load(folder / "m.npy")
    few_moved = [NAMES[1], NAMES[0], *NAMES[2:]]
    assert follows_other_columns(matrix[:, ORDER], found, [NAMES[number] for number in ORDER])
    for other in (few_moved, NAMES, NAMES[:-1], [*NAMES[:-1], "other.mp4"]):
        assert not follows_other_columns(matrix, found, other)


def test_columns_of_other_videos(folder, ended):
    other = write_json(folder / "other.json", [entry("a.mp4", ["x"])])
    options = ["--annotations", folder / "TextVR_test.json", "--columns", other]
    code, _, err = ended(folder / "m.npy", *options)
    assert code == 2 and err.startswith(f"{other}: its videos are not those of ")


def test_postprocessing_is_named_and_apart(folder, ended):
    np.save(folder / "bank.npy", np.random.default_rng(2).random((50, 20)))
    options = [folder / "m.npy", "--annotations", folder / "TextVR_test.json"]
    ended(*options)
    plain = written(folder)
    both = ["--postprocess", "dual_softmax", "--postprocess", "qb_norm", "--temperature", 0.5]
    code, out, _ = ended(*options, *both, "--query_bank", folder / "bank.npy")
    found = written(folder)
    assert code == 0 and list(found["postprocessed"]) == ["dual_softmax", "qb_norm"]
    assert found | {"postprocessed": {}} == plain
    assert found["postprocessed"]["qb_norm"]["bank_queries"] == 50
    assert found["postprocessed"]["dual_softmax"]["temperature"] == 0.5
    assert "all test queries at once" in found["postprocessed"]["dual_softmax"]["note"]
    assert "AFTER dual_softmax (temperature 0.5): " in out and "AFTER qb_norm (" in out


@pytest.mark.parametrize("out", ["sub/x.json", "sub"])
def test_where_the_metrics_go(out, folder, ended):
    options = [folder / "m.npy", "--annotations", folder / "TextVR_test.json"]
    name = out if out.endswith("json") else f"{out}/m.metrics.json"
    assert ended(*options, "--out", folder / out)[0] == 0
    assert (folder / name).is_file() and not (folder / "m.metrics.json").exists()


GOOD = np.eye(20, dtype=np.float32)


def write_header(shape: str) -> bytes:
    """The header of a matrix of float32, without any value."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


REFUSED = {
    "nan": (np.where(GOOD > 0, np.nan, 0), "not finite: nan in row 0, column 0"),
    "infinite": (np.where(GOOD > 0, 0, -np.inf), "not finite: -inf in row 0, column 1"),
    "one dimension": (np.ones(20), r"has the shape (20,), but a matrix has captions as rows"),
    "three dimensions": (np.ones((2, 20, 20)), "has the shape (2, 20, 20)"),
    "empty": (np.ones((0, 20)), "has the shape (0, 20)"),
    "too small": (np.ones((19, 19)), "has the shape (19, 19), but "),
    "text": (np.full((20, 20), "a"), "holds values of the type <U1"),
    "complex": (GOOD * 1j, "holds values of the type complex"),
    "truth values": (GOOD > 0, "holds values of the type bool"),
    "objects": (GOOD.astype(object), "holds values of the type object"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_matrix_that_can_not_be_scored(kind, folder, ended):
    matrix, said = REFUSED[kind]
    np.save(folder / "m.npy", matrix, allow_pickle=True)
    code, out, err = ended(folder / "m.npy", "--annotations", folder / "TextVR_test.json")
    assert (code, out) == (2, "") and err.startswith(f"{folder}/m.npy: ") and said in err
    assert err.count("\n") == 1 and not (folder / "m.metrics.json").exists()


def test_a_transposed_matrix_is_said_to_be_one(folder, ended):
    write_json(folder / "two.json", [entry(name, ["a", "b"]) for name in NAMES])
    np.save(folder / "m.npy", np.ones((20, 40)))
    code, _, err = ended(folder / "m.npy", "--annotations", folder / "two.json")
    assert code == 2 and "40 captions (rows) and 20 videos (columns); it seems to be transp" in err


def test_damaged_files(folder, ended):
    whole = (folder / "m.npy").read_bytes()
    options = [folder / "m.npy", "--annotations", folder / "TextVR_test.json"]
    for length in (*range(0, 140, 3), len(whole) - 1):
        (folder / "m.npy").write_bytes(whole[:length])
        code, _, err = ended(*options)
        assert code == 2 and "no .npy file of numbers, or is cut short" in err, length
    np.savez(folder / "m.npz", GOOD)
    (folder / "m.npz").rename(folder / "m.npy")
    assert "is an .npz archive" in ended(*options)[2]
    (folder / "m.npy").unlink()
    assert "no such matrix file" in ended(*options)[2]
    assert "is a folder" in ended(folder, *options[1:])[2]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"PK\x05\x06 no zip", "is an .npz archive"),
        (write_header("(9223372036854775808, 20)"), "is cut short (0 bytes for"),
        (write_header("(2, 4611686018427387904)"), "is cut short (0 bytes for"),
        (write_header("(-3, -3)"), "has the shape (-3, -3)"),
        (write_header("(True, 3)"), "has the shape (True, 3)"),
        (write_header("(3,) * 10**9"), "no .npy file of numbers"),
        (write_header("(" * 300), "no .npy file of numbers"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "a header of 4,294,967,295 bytes"),
    ],
)
def test_headers_that_no_array_has(content, said, folder, ended):
    (folder / "m.npy").write_bytes(content)
    code, _, err = ended(folder / "m.npy", "--annotations", folder / "TextVR_test.json")
    assert code == 2 and err.startswith(f"{folder}/m.npy: ") and said in err


@pytest.mark.parametrize(
    ("dtype", "least"), [("<f8", 1 + 2**-52), (">f8", 1 + 2**-52), ("<i8", 2**62), ("<u8", 2**63)]
)
def test_values_that_float32_takes_for_equal_are_not(dtype, least, folder, ended):
    """The right video is better by the last digit of the file's own type."""
    matrix = np.full((20, 20), least, dtype)
    step = 2**-52 if dtype.endswith("f8") else 1
    matrix[np.diag_indices(20)] += np.dtype(dtype).type(step)
    np.save(folder / "m.npy", matrix)
    code, _, err = ended(folder / "m.npy", "--annotations", folder / "TextVR_test.json")
    assert (code, err) == (0, "")
    assert written(folder)["t2v_metrics"]["R1"] == written(folder)["v2t_metrics"]["R1"] == 100


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "give either --annotations FILE or -c CONFIG"),
        (["--annotations", "a.json", "-c", "b.json"], "give either"),
        (["--annotations", "gone.json"], "gone.json: no such annotation file"),
        (["--annotations", "a.json", "--split", "val"], "--split is for -c"),
        (["--annotations", "a.json", "--set", "n_gpu=0"], "--set is for -c"),
        (["-c", "a.json", "--ocr", "b"], "--ocr is for --annotations"),
        (["--annotations", "a.json", "--query_bank", "b"], "--query_bank is for"),
        (["--annotations", "a.json", "--temperature", "0"], "at least 0.003, got 0"),
        (["--annotations", "a.json", "--temperature", "nan"], "at least 0.003, got nan"),
        (["--annotations", "a.json", "--postprocess", "x"], "invalid choice: 'x'"),
    ],
)
def test_wrong_options(options, said, folder, ended):
    code, out, err = ended(folder / "m.npy", *options)
    assert (code, out) == (2, "") and said in err


def test_a_data_set_of_a_configuration(demo, tmp_path, ended):
    changes = [word for value in tiny(demo) for word in ("--set", value)]
    np.save(tmp_path / "m.npy", np.random.default_rng(0).random((16, 8)))
    config = ["-c", ROOT / "configs/demo/ocr.json", *changes]
    code, out, _ = ended(tmp_path / "m.npy", *config, "--split", "train")
    found = written(tmp_path)
    assert code == 0 and (found["num_captions"], found["num_videos"]) == (16, 8)
    assert found["annotation_file"] == f"{demo}/TextVR_train.json"
    code, _, err = ended(tmp_path / "m.npy", *config)
    assert code == 2 and "has 8 captions (rows) and 8 videos (columns)" in err


def test_the_command_as_it_is_called(folder):
    words = [sys.executable, "-m", "tools.score_matrix", folder / "m.npy", "--annotations"]
    done = subprocess.run([*words, folder / "TextVR_test.json"], cwd=ROOT, capture_output=True)
    assert done.returncode == 0 and b"best possible" in done.stdout, done.stderr
