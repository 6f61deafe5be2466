"""A text model folder without weights: a small DistilBERT configuration and its tokenizer.

``transformers.AutoConfig`` and ``AutoTokenizer`` load the folder without network.
"""

import string
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

from data_loader.synthetic.layout import write_json_line
from utils.files import write_text

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TEXT_MODEL_FILES = ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "config.json")
MAX_POSITIONS = 64
MODEL_CONFIG = {
    "model_type": "distilbert",
    "architectures": ["DistilBertModel"],
    "activation": "gelu",
    "dim": 128,
    "n_layers": 2,
    "n_heads": 4,
    "hidden_dim": 256,
    "max_position_embeddings": MAX_POSITIONS,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "initializer_range": 0.1,  # DistilBERT's 0.02 makes all texts alike at first: training stalls
    "sinusoidal_pos_embds": False,
    "pad_token_id": 0,
}


def write_text_model(folder: Path, texts: Iterable[str], max_words: int = 4000) -> int:
    """Write config.json, vocab.txt, tokenizer.json and tokenizer_config.json; returns the size.

    The vocabulary holds the special tokens, every ASCII character (lower case, the tokenizer
    lowers everything) and every character of the texts, each also as a continuation ("##x"),
    and the texts' words: so no text made of those characters has an unknown token.

    Args:
        folder: made if need be; config.json is written last, so its presence means "complete".
        texts: what the vocabulary is made from; their order does not matter.
        max_words: whole words kept, the most frequent ones, equal ones in alphabetical order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {piece: index for index, piece in enumerate(list_pieces(texts, max_words))}
    write_text(folder / "vocab.txt", "".join(f"{piece}\n" for piece in vocabulary))
    write_text(folder / "tokenizer.json", build_tokenizer(vocabulary).to_str(pretty=True) + "\n")
    tokenizer_config = {
        "tokenizer_class": "DistilBertTokenizer",
        "do_lower_case": True,
        "model_max_length": MAX_POSITIONS,
        # DistilBERT knows no token types
        "model_input_names": ["input_ids", "attention_mask"],
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    write_json_line(folder / "tokenizer_config.json", tokenizer_config, indent=2)
    config = {**MODEL_CONFIG, "vocab_size": len(vocabulary)}
    write_json_line(folder / "config.json", config, indent=2)
    return len(vocabulary)


def list_pieces(texts: Iterable[str], max_words: int) -> list[str]:
    """Return all pieces in the order of their numbers; see ``write_text_model``."""
    normalizer = normalizers.BertNormalizer(lowercase=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    for text in texts:
        words = splitter.pre_tokenize_str(normalizer.normalize_str(text))
        counts.update(word for word, _ in words)
    characters = set(string.ascii_lowercase + string.digits + string.punctuation)
    ordered = sorted(characters.union(*counts))
    words = [word for word in sorted(counts, key=lambda word: (-counts[word], word))]
    whole = [word for word in words if len(word) > 1][:max_words]
    return [*SPECIAL_TOKENS, *ordered, *(f"##{character}" for character in ordered), *whole]


def build_tokenizer(vocabulary: dict[str, int]) -> Tokenizer:
    """Return the uncased WordPiece tokenizer of BERT: [CLS] text [SEP]."""
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer
