"""A tower's folder without weights: a small CLIP configuration, its tokenizer and its processor.

``transformers`` loads the folder without network; a ``DualEncoder`` of it is trained from scratch.
"""

from collections.abc import Iterable
from pathlib import Path

from data_loader.synthetic.layout import write_json_line
from data_loader.synthetic.text_model import SPECIAL_TOKENS, build_tokenizer, list_pieces
from utils.files import write_text

TOWER_FILES = ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json", "config.json")
MAX_POSITIONS = 64
IMAGE_SIZE, PATCH_SIZE, WIDTH = 64, 16, 128
_SIDE = {
    "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_attention_heads": 4,
    "hidden_act": "gelu", "projection_dim": WIDTH,
}  # fmt: skip


def write_tower(folder: Path, texts: Iterable[str], max_words: int = 4000) -> None:
    """Write the files of a small CLIP; the vocabulary is that of ``write_text_model``.

    Args:
        folder: made if need be; config.json is written last, so its presence means "complete".
        texts: what the vocabulary is made from.
        max_words: whole words kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {piece: index for index, piece in enumerate(list_pieces(texts, max_words))}
    write_text(folder / "tokenizer.json", build_tokenizer(vocabulary).to_str(pretty=True) + "\n")
    pad, unknown, first, last, _ = SPECIAL_TOKENS
    tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": MAX_POSITIONS,
        "model_input_names": ["input_ids", "attention_mask"],
        "pad_token": pad, "unk_token": unknown, "bos_token": first, "eos_token": last,
    }  # fmt: skip
    write_json_line(folder / "tokenizer_config.json", tokenizer, indent=2)
    half, size = [0.5, 0.5, 0.5], {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True, "size": {"shortest_edge": IMAGE_SIZE}, "resample": 3,
        "do_center_crop": True, "crop_size": size,
        "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": True, "image_mean": half, "image_std": half,
        "do_convert_rgb": True,
    }  # fmt: skip
    write_json_line(folder / "preprocessor_config.json", processor, indent=2)
    config = {
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "projection_dim": WIDTH,
        "text_config": _SIDE | {
            "model_type": "clip_text_model", "num_hidden_layers": 2,
            "vocab_size": len(vocabulary), "max_position_embeddings": MAX_POSITIONS,
            "pad_token_id": vocabulary[pad], "bos_token_id": vocabulary[first],
            "eos_token_id": vocabulary[last],
        },
        "vision_config": _SIDE | {
            "model_type": "clip_vision_model", "num_hidden_layers": 4,
            "image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE,
        },
    }  # fmt: skip
    write_json_line(folder / "config.json", config, indent=2)
