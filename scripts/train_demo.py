# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "gguf==0.19.0",
#     "numpy==2.4.6",
#     "safetensors==0.8.0",
#     "tokenizers==0.23.3",
#     "torch==2.13.0",
#     "transformers==5.23.0",
# ]
# ///
"""Train aimind's demo model and write it to `aimind/demo/`, in both forms.

    uv run scripts/train_demo.py

That makes an environment of its own (the comment above names what is in it) and takes a few minutes on two
cores. Where PyTorch comes as a wheel in a folder: `uv run --find-links FOLDER --index-strategy
unsafe-best-match scripts/train_demo.py`. Seeds are fixed: the same machine gives the same bytes again.
Another processor may round differently; what the model says stays the same, and the script fails where it
does not.

What is learned is a rule that looks at the last few tokens only: whatever came before, say the sentence; in
the middle of it, go on; after it, end the turn. So length, language and content of a prompt do not matter.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch  # type: ignore[import-not-found,unused-ignore]
from demo_files import CHAT_TEMPLATE, CONFIG, END, START, TEXT, write_gguf, write_huggingface
from demo_stream import QUESTIONS, Stream
from tokenizers import (  # type: ignore[import-not-found,unused-ignore]
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    trainers,
)
from transformers import (  # type: ignore[import-not-found,unused-ignore]
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

SENTENCE = (
    "I am the demo model of aimind, and I work. "
    "Now serve a real one: aimind serve unsloth/Qwen3-0.6B-GGUF:Q4_K_M"
)
DEMO = Path(__file__).resolve().parent.parent / "aimind" / "demo"
STEPS = 1600
LEARNING_RATE = 3e-3
# Rows and tokens of each step, in turn. Most are short; the long ones teach that distance means nothing.
SHORT, MIDDLE = (8, 256), (2, 1024)
SHAPES = (
    *([SHORT] * 12 + [MIDDLE, (1, 2048), (1, 2048), (1, 4096)]),
    *([SHORT] * 12 + [MIDDLE, (1, 2048), (1, 4096), (1, 8192)]),
)
NOISE_WEIGHT = 0.2  # most of a row is noise, where there is one token to learn


def make_tokenizer() -> Tokenizer:
    """A byte-level BPE like GPT-2's: all 256 bytes, so no text is unknown, and a few merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"],
        special_tokens=[TEXT, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    corpus = [SENTENCE] * 100 + ["user", "assistant", "system"] * 100 + list(QUESTIONS)
    tokenizer.train_from_iterator(corpus, trainer)
    if tokenizer.get_vocab_size() != CONFIG["vocab_size"]:
        raise SystemExit(f"{tokenizer.get_vocab_size()} tokens: the corpus has too few merges")
    return tokenizer


def train(model: LlamaForCausalLM, stream: Stream) -> None:
    """Minimise the cross-entropy of the rule's next token on an endless stream of made-up text."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.01)
    weight = torch.ones(CONFIG["vocab_size"])
    weight[stream.first] = NOISE_WEIGHT
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * learning_rate_share(step)
        tokens, targets = (torch.from_numpy(array) for array in stream.batch(SHAPES[step % len(SHAPES)]))
        logits = model(input_ids=tokens, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), weight)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0 or step == STEPS - 1:
            print(f"step {step:4} loss {loss.item():.6f}", flush=True)


def learning_rate_share(step: int) -> float:
    """A short warm-up, then half a cosine down to nothing."""
    return min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / STEPS))


def conversations() -> list[list[dict[str, str]]]:
    """What the model is asked before it is written: each question, and what else happens in a chat."""
    questions = (*QUESTIONS, SENTENCE[: len(SENTENCE) // 2], SENTENCE + " " + SENTENCE, "word " * 2000)
    return [
        *([{"role": "user", "content": question}] for question in questions),
        [{"role": "system", "content": "Answer in French."}, {"role": "user", "content": "Bonjour !"}],
        [
            {"role": "user", "content": "Who are you?"},
            {"role": "assistant", "content": SENTENCE},
            {"role": "user", "content": "Say something else."},
        ],
    ]


def check(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Fail unless the model says exactly the sentence and ends, whatever it is asked.

    Raises:
        SystemExit: with the first question that it answers otherwise.
    """
    least = 1.0
    for conversation in conversations():
        prompt = tokenizer.apply_chat_template(
            conversation, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        output = model.generate(
            **prompt, do_sample=False, max_new_tokens=100, return_dict_in_generate=True, output_logits=True
        )
        answer = tokenizer.decode(output.sequences[0, prompt["input_ids"].shape[1] :])
        if answer != SENTENCE + END:
            raise SystemExit(f"asked {conversation}, it says {answer!r}")
        sure = [logits.softmax(-1).max().item() for logits in output.logits]
        least = min(least, *sure)
    print(f"{len(conversations())} conversations: the sentence each time, no token below {least:.6f}")
    if least < 0.99:
        raise SystemExit("too unsure to say it at every temperature")


def main() -> None:
    """Make the tokenizer, train the model, round it to 16 bits, check what it says, write both forms."""
    torch.manual_seed(0)
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)  # noqa: FBT003 - torch's own signature
    began = time.monotonic()
    backend = make_tokenizer()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=END, pad_token=TEXT, chat_template=CHAT_TEMPLATE
    )
    answer = backend.encode(SENTENCE + END).ids
    print(f"the sentence has {len(answer)} tokens: {backend.encode(SENTENCE + END).tokens}")
    model = LlamaForCausalLM(LlamaConfig(**CONFIG)).float()
    print(f"{model.num_parameters()} parameters")
    train(model, Stream(backend, answer=answer, generator=np.random.default_rng(0)))
    model.half().float()
    model.eval()
    check(model, tokenizer)
    weights = {name: tensor.detach().half().numpy() for name, tensor in model.named_parameters()}
    write_huggingface(DEMO / "huggingface", weights=weights, tokenizer=backend.to_str(pretty=True))
    write_gguf(DEMO / "aimind-demo-F16.gguf", weights=weights, tokenizer=backend.to_str(pretty=True))
    for path in sorted(DEMO.rglob("*")):
        if path.is_file():
            print(f"{path.stat().st_size:8} {path.relative_to(DEMO)}")
    print(f"{time.monotonic() - began:.0f} seconds")


if __name__ == "__main__":
    main()
