"""The text model folder: what transformers makes of it."""

import pytest
from synthetic_helpers import OPTIONS, contents, read_json

from data_loader.synthetic.demo import make_demo
from data_loader.synthetic.text_model import write_text_model


def test_text_model_loads_and_knows_every_word(tmp_path):
    transformers = pytest.importorskip("transformers")
    make_demo(tmp_path, OPTIONS)
    folder = str(tmp_path / "text_model")
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert config.model_type == "distilbert"
    assert (config.dim, config.n_layers, config.n_heads, config.hidden_dim) == (128, 2, 4, 256)
    assert config.vocab_size == len(tokenizer)
    assert config.pad_token_id == tokenizer.pad_token_id == 0
    for split in ("train", "test"):
        for entry in read_json(tmp_path / f"TextVR_{split}.json"):
            for info in entry["captions_info"]:
                tokens = tokenizer.convert_ids_to_tokens(tokenizer(info["caption"]).input_ids)
                assert (tokens[0], tokens[-1]) == ("[CLS]", "[SEP]")
                words = info["caption"].lower().replace(".", " .").split()
                assert tokens[1:-1] == words  # whole words: neither pieces nor [UNK]
    assert tokenizer.tokenize("Q!7~zzz") == ["q", "!", "7", "~", "z", "##z", "##z"]
    long = tokenizer(["red " * 100, "red"], padding=True, truncation=True)
    assert len(long["input_ids"][0]) == config.max_position_embeddings
    assert set(long) == {"input_ids", "attention_mask"}


def test_text_model_keeps_the_most_frequent_words(tmp_path):
    texts = ["Café noir noir", "noir café rouge", "bleu 北"]
    size = write_text_model(tmp_path / "a", texts, max_words=3)
    pieces = (tmp_path / "a" / "vocab.txt").read_text(encoding="utf-8").splitlines()
    assert len(set(pieces)) == len(pieces) == size
    assert pieces[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert pieces[-3:] == ["noir", "cafe", "bleu"]
    assert {"a", "##a", "9", "##9", "!", "北"} <= set(pieces)
    write_text_model(tmp_path / "b", reversed(texts), max_words=3)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
