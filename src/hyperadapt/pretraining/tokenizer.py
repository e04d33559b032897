"""A tokenizer trained on the text, with T5's special tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from accelerate.utils import broadcast_object_list
from tqdm import tqdm

from hyperadapt.config.sections import TextConfig, TokenizerConfig
from hyperadapt.errors import UserError
from hyperadapt.pretraining.text import read_texts
from hyperadapt.progress import SECONDS_BEFORE_PROGRESS_SHOWS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, TrainingArguments


SENTINELS = [f"<extra_id_{number}>" for number in range(100)]


def train_tokenizer(texts: Iterator[str], config: TokenizerConfig) -> PreTrainedTokenizerFast:
    """Train a tokenizer with T5's special tokens and 100 sentinels, which count among its vocabulary."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "</s>", "<unk>", *SENTINELS]
    model: Any
    words: Any
    decoder: Any
    trainer: Any
    if config.kind == "unigram":
        model, words, decoder = models.Unigram(), pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=config.vocab_size, special_tokens=special, unk_token="<unk>", show_progress=False
        )
    else:
        model = models.BPE(unk_token="<unk>")
        decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", left=1, right=0)])
        words = pre_tokenizers.ByteLevel(add_prefix_space=True)
        trainer = trainers.BpeTrainer(
            vocab_size=config.vocab_size,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = normalizers.NFKC(), words, decoder
    tokenizer.train_from_iterator(
        tqdm(texts, desc="training the tokenizer", delay=SECONDS_BEFORE_PROGRESS_SHOWS), trainer
    )
    end = tokenizer.token_to_id("</s>")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", end)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=SENTINELS,
    )


def trained_by_one(
    text: TextConfig, config: TokenizerConfig, args: TrainingArguments
) -> PreTrainedTokenizerFast:
    """Train the tokenizer in one process, as two trainings may differ, and give it to all."""
    trained = train_tokenizer(read_texts(text), config) if args.process_index == 0 else None
    return broadcast_object_list([trained])[0]


def sentinel_ids(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Return the ids of <extra_id_0>, <extra_id_1>, …

    Raises:
        UserError: if the vocabulary has none.
    """
    vocabulary = tokenizer.get_vocab()
    ids = [vocabulary[name] for name in SENTINELS if name in vocabulary]
    if len(ids) < len(SENTINELS):
        raise UserError(
            f"the tokenizer has {len(ids)} of the {len(SENTINELS)} sentinels <extra_id_0> … <extra_id_99>, which span "
            "corruption needs; train one with the section `tokenizer`, or use a T5's"
        )
    return np.array(ids)
