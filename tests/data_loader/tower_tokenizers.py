"""Small tokenizers in the ways of image-text towers, made on the spot."""

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import CLIPTokenizer, PreTrainedTokenizerFast

TEXTS = ["the man and the sale", "a photo of the house", "now open: half price"]
END = "<|endoftext|>"


def clip_like(pad: str = END) -> CLIPTokenizer:
    """CLIP's: a start and an end, and texts padded with the end, or with token 0, a letter."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "th", "the</w>"]
    vocab = {piece: n for n, piece in enumerate([*pieces, "<|startoftext|>", END])}
    return CLIPTokenizer(vocab, [("t", "h"), ("th", "e</w>")], pad_token=pad, model_max_length=77)


def siglip_like() -> PreTrainedTokenizerFast:
    """SigLIP's: sentence pieces and an end, which is the padding, too; no start, no limit."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Strip()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["</s>", "<unk>"]
    tokenizer.train_from_iterator(
        TEXTS, trainers.UnigramTrainer(vocab_size=60, special_tokens=special, unk_token="<unk>")
    )
    end = ("</s>", tokenizer.token_to_id("</s>"))
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[end])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="</s>", unk_token="<unk>"
    )


def plain_words(**special: str) -> PreTrainedTokenizerFast:
    """Whole words and nothing around them."""
    names = ["x", *special.values(), *sorted({w for text in TEXTS for w in text.split()})]
    vocab = {word: n for n, word in enumerate(dict.fromkeys(names))}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token=special.get("unk_token")))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
