"""A tokenizer with one token per word, stored in the same `tokenizer.json` that hub models use."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"


def make_tokenizer(symbols, specials=(PAD, EOS, UNKNOWN)):
    """A word-level tokenizer: `symbols` (list of str) get the ids after the special ones, 3, 4, ...

    Text is split at white space, so "3 1 =" is three tokens. Like Qwen's tokenizer it adds nothing
    by itself: no token for the beginning; the end (`<eos>`) is written where it is meant.
    Padding goes to the left, as generation needs it. A special token left out of `specials` is
    replaced by <eos>.
    """
    vocabulary = {word: i for i, word in enumerate([*specials, *symbols])}
    pad = PAD if PAD in specials else EOS
    unknown = UNKNOWN if UNKNOWN in specials else EOS
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)  # joins words by a space
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        eos_token=EOS,
        unk_token=unknown,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
