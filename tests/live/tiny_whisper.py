"""Run by vox-box's own Python: writes a faster-whisper folder. Not a module of the tests.

    python tiny_whisper.py FOLDER [HIDDEN LAYERS MELS VOCABULARY]

Every layer gives nothing, so that what is heard does not matter: the position alone decides the token, and
the tokens are a sentence. With the sizes of a real model it needs the memory of one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from ctranslate2.specs import WhisperSpec
from tokenizers import decoders, models, pre_tokenizers

# What tests/live/test_vox_box.py expects to hear.
SENTENCE = "I am a tiny whisper and I work."
PROMPT = 4  # start, language, task, no timestamps
AUDIO, TEXT = 1500, 448  # positions: of Whisper's 30 seconds, and of its longest text
BEGIN = "<|endoftext|> <|startoftranscript|> <|en|> <|de|> <|translate|> <|transcribe|> <|startoflm|>"
END = "<|startofprev|> <|nospeech|> <|notimestamps|>"
SPECIAL = [*BEGIN.split(), *END.split()]
TIMESTAMPS = 1501


def main(folder: Path, hidden: int, layers: int, mels: int, vocabulary: int) -> None:
    words = [f"{'Ġ' if index else ''}{word}" for index, word in enumerate(SENTENCE.split())]
    # faster-whisper looks up marks that stand for no speech, byte by byte.
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    text = [*alphabet, *(word for word in words if word not in alphabet)]
    fill = [f"unused{index}" for index in range(vocabulary - len(text) - len(SPECIAL) - TIMESTAMPS)]
    text += fill
    ids = {token: number for number, token in enumerate(text)}
    tokenizer = tokenizers.Tokenizer(models.BPE(ids, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    times = [f"<|{index * 0.02:.2f}|>" for index in range(TIMESTAMPS)]
    tokenizer.add_special_tokens([*SPECIAL, *times])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))

    def number(token: str) -> int:
        found: int = tokenizer.token_to_id(token)
        return found

    vocabulary = tokenizer.get_vocab_size()
    random = np.random.default_rng(1)
    embedding = random.normal(0, 1, (vocabulary, hidden)).astype(np.float16)
    positions = np.zeros((TEXT, hidden), np.float16)
    spoken = [number(word) for word in words] + [number("<|endoftext|>")]
    positions[1] = 9 * embedding[number("<|en|>")]  # the language is asked for at the first position, too
    positions[0] = positions[1]
    positions[PROMPT - 1 : PROMPT - 1 + len(spoken)] = 9 * embedding[spoken]

    spec = WhisperSpec(layers, max(1, hidden // 64), layers, max(1, hidden // 64))
    for name, shape in (("conv1", (hidden, mels, 3)), ("conv2", (hidden, hidden, 3))):
        convolution = getattr(spec.encoder, name)
        convolution.weight, convolution.bias = zeros(*shape), zeros(hidden)
    spec.encoder.position_encodings.encodings = zeros(AUDIO, hidden)
    spec.decoder.position_encodings.encodings = positions
    spec.decoder.embeddings.weight = embedding
    spec.decoder.projection.weight = embedding
    norm(spec.encoder.layer_norm, hidden)
    norm(spec.decoder.layer_norm, hidden)
    for each in (*spec.encoder.layer, *spec.decoder.layer):
        attentions = [each.self_attention, *([each.attention] if hasattr(each, "attention") else [])]
        for attention in attentions:
            norm(attention.layer_norm, hidden)
            widths = (3 * hidden, hidden) if len(attention.linear) == 2 else (hidden, 2 * hidden, hidden)
            for linear, width in zip(attention.linear, widths, strict=True):
                linear.weight, linear.bias = zeros(width, hidden), zeros(width)
        norm(each.ffn.layer_norm, hidden)
        each.ffn.linear_0.weight, each.ffn.linear_0.bias = zeros(4 * hidden, hidden), zeros(4 * hidden)
        each.ffn.linear_1.weight, each.ffn.linear_1.bias = zeros(hidden, 4 * hidden), zeros(hidden)
    spec.register_vocabulary([tokenizer.id_to_token(index) for index in range(vocabulary)])
    spec.config.lang_ids = [number("<|en|>"), number("<|de|>")]
    spec.config.suppress_ids, spec.config.suppress_ids_begin = [], []
    spec.config.alignment_heads = [(0, 0)]
    spec.validate()
    spec.save(str(folder))
    extractor = {"processor_class": "WhisperProcessor", "feature_size": mels}
    (folder / "preprocessor_config.json").write_text(json.dumps(extractor))


def zeros(*shape: int) -> Any:
    return np.zeros(shape, np.float16)


def norm(layer: Any, hidden: int) -> None:
    layer.gamma, layer.beta = np.ones(hidden, np.float16), zeros(hidden)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *(map(int, sys.argv[2:]) if sys.argv[2:] else (64, 1, 80, 3000)))
