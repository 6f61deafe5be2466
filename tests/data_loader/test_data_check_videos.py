from data_loader.data_check.videos import check_files, decode_videos
from tests.videos import truncate, write_video


def test_each_file_is_looked_at_once_and_decoded(tmp_path):
    whole, short = (write_video(tmp_path / f"{n}.mp4", n, 64, 48) for n in (30, 3))
    cut = truncate(tmp_path / "cut.mp4", whole, 0.5)
    facts = check_files([whole, short, cut, whole, tmp_path / "gone.mp4"], images=False)
    assert facts.files == 4 and facts.missing == [str(tmp_path / "gone.mp4")]
    assert facts.sizes == {str(path): path.stat().st_size for path in (whole, short, cut)}
    assert list(facts.unreadable) == [str(cut)]
    decode_videos(facts, "av", 4, 1, "here")
    decoded = facts.decoded
    assert (decoded.videos, decoded.shorter) == (2, 1) and list(facts.unreadable) == [str(cut)]
    assert (decoded.num_frames.min, decoded.num_frames.max) == (3, 30)
    assert (decoded.width.median, decoded.height.median) == (64, 48)


def test_images_are_no_videos(tmp_path):
    from PIL import Image

    names = [tmp_path / f"{name}.jpg" for name in ("good", "bad", "empty", "gone")]
    Image.new("RGB", (20, 10)).save(names[0])
    names[1].write_text("no image")
    names[2].write_bytes(b"")
    facts = check_files(names, images=True)
    assert facts.missing == [str(names[3])] and list(facts.unreadable) == [str(names[2])]
    decode_videos(facts, None, 4, 1, "here")
    assert set(facts.unreadable) == {str(names[1]), str(names[2])}
    assert (facts.decoded.videos, facts.decoded.shorter) == (1, 1)
    assert (facts.decoded.width.max, facts.decoded.height.max) == (20, 10)
