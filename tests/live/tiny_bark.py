"""Run by vox-box's own Python: writes a tiny Bark with random weights. Not a module of the tests.

    python tiny_bark.py FOLDER

Its sound is noise, of a fraction of a second.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import BarkConfig, BarkModel, BertTokenizer, EncodecConfig
from transformers.models.bark import generation_configuration_bark as generation

VOICE = "v2/en_speaker_6"


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    size = {"num_layers": 1, "num_heads": 2, "hidden_size": 32, "block_size": 1024}
    model = BarkModel(
        BarkConfig(
            # Vocabularies of the real ones: their special tokens are numbers in the code.
            semantic_config={**size, "input_vocab_size": 129600, "output_vocab_size": 10048},
            coarse_acoustics_config={**size, "input_vocab_size": 12096, "output_vocab_size": 12096},
            fine_acoustics_config={**size, "input_vocab_size": 1056, "output_vocab_size": 1056},
            codec_config=EncodecConfig(
                num_filters=4, hidden_size=32, codebook_size=1024, codebook_dim=32, num_lstm_layers=1
            ).to_dict(),
        )
    )
    model.config.architectures = ["BarkModel"]
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    settings = generation.BarkGenerationConfig.from_sub_model_configs(
        generation.BarkSemanticGenerationConfig(max_new_tokens=24),
        generation.BarkCoarseGenerationConfig(),
        generation.BarkFineGenerationConfig(),
    )
    (folder / "generation_config.json").write_text(json.dumps(settings.to_dict()))
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nHello\n")
    BertTokenizer(str(folder / "vocab.txt"), do_lower_case=False).save_pretrained(folder)
    random = np.random.default_rng(1)
    shapes = {"semantic_prompt": (30,), "coarse_prompt": (2, 45), "fine_prompt": (8, 45)}
    voice = {name: f"speaker_embeddings/{VOICE}_{name}.npy" for name in shapes}
    for name, shape in shapes.items():
        path = folder / voice[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, random.integers(0, 1000, shape))
    listed = {"repo_or_path": str(folder), VOICE: voice}
    (folder / "speaker_embeddings_path.json").write_text(json.dumps(listed))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
