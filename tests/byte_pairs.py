"""Small byte-level BPE tokenizers whose vocabularies differ, so that they cut a text at other places."""

from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

_TEXTS = [
    "hello there, the world is a word and the word is the answer",
    "compute 12 + 34 and answer 46; compute 7 * 8 and answer 56",
    "größer 数学 🙂 naïve answers, indented\n    lines and boxed numbers 12345",
]
_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def byte_pair_tokenizer(size: int, *, eos: str = "<|im_end|>", normalize: bool = False) -> Any:
    """A tokenizer of at most `size` tokens; with `normalize` it composes characters, as Qwen's does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if normalize:
        tokenizer.normalizer = normalizers.NFC()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_TEXTS, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, pad_token=eos)
    fast.chat_template = _TEMPLATE
    return fast
