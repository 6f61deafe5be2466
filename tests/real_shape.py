"""A dry run of 30 entries in the real test file's form, and its shuffled file."""

import json
from pathlib import Path

from data_loader.synthetic.dry_run import make_dry_run

PLACES = ("café", "naïve", "Ångström", "STREET", "Señor")
FOLDERS = (("Activity", "Activity"), ("News_Movie", "News"), ("Sports", "Sports"))


def entry(number: int) -> dict:
    """One entry in the real file's form: blanks in front, accents, digits, folders that differ."""
    folder, ocr_folder = FOLDERS[number % 3]
    name = f"v_{number * 7919 % 1000:03}-x_{number}"
    blank, place = " " * (number % 2), PLACES[number % 5]
    caption = f"{blank}{number} people of the {place} carry sign {1000 + number * 37}."
    info = {"duration": 10.0 if number % 2 else 0, "desc_id": number * 13}
    ocr = f"{ocr_folder}/{name}.json"
    return {
        "path": f"{folder}/{name}.mp4",
        "captions_info": [{"caption": caption, "caption_info": info}],
        "videos_info": {"source": "made_up", "split": "test", "Kwai_OCR": ocr},
    }


def write_real_shape(work: Path) -> tuple[list[dict], list[int]]:
    """Write ``work/dry``; returns the entries and the video of each shuffled one."""
    entries = [entry(number) for number in range(30)]
    assert any(e["captions_info"][0]["caption"].startswith(" ") for e in entries)
    (work / "TextVR_test.json").write_text(json.dumps(entries))
    make_dry_run(work / "TextVR_test.json", work / "dry")
    order = [7 * number % 30 for number in range(30)]  # captions stay, videos are shuffled
    shuffled = [
        entries[a] | {"captions_info": entries[b]["captions_info"]} for b, a in enumerate(order)
    ]
    (work / "dry" / "TextVR_test_rand.json").write_text(json.dumps(shuffled))
    return entries, order
