"""Flags of vLLM: those that hold a setting of aimind, those that aimind sets alone, and those that are gone.

What is gone was a flag of `python -m vllm.entrypoints.openai.api_server` in some version from 0.4 on, and is
none in 0.32. An older version that still has it takes it, once it has told its flags.
"""

from __future__ import annotations

from aimind.launchers import parsers
from aimind.launchers.base import KEY_IS_SEEN, TOKEN_IS_SEEN, Flag
from aimind.types import Help

_ONE_MACHINE = "aimind runs it on one machine"
_ONE_SERVER = (
    "aimind starts one server that spreads requests over its groups itself: --data-parallel-size alone"
)
FLAGS = {
    "served_name": Flag(spellings=("--served-model-name",), several=True),
    "address": Flag(spellings=("--host",)),
    "port": Flag(spellings=("--port",), kind="int"),
    "max_model_len": Flag(
        spellings=("--max-model-len",), kind="tokens", words=(("auto", None), ("-1", None))
    ),
    "max_num_seqs": Flag(spellings=("--max-num-seqs",), kind="int"),
    "max_num_batched_tokens": Flag(spellings=("--max-num-batched-tokens",), kind="tokens"),
    "tensor_parallel_size": Flag(spellings=("--tensor-parallel-size", "-tp"), kind="int"),
    "pipeline_parallel_size": Flag(spellings=("--pipeline-parallel-size", "-pp"), kind="int"),
    "gpu_memory_utilization": Flag(
        spellings=("--gpu-memory-utilization", "--device-memory-utilization"), kind="float"
    ),
    "kv_cache_memory_bytes": Flag(spellings=("--kv-cache-memory-bytes",), kind="int"),
    "kv_cache_dtype": Flag(spellings=("--kv-cache-dtype",)),
    "block_size": Flag(spellings=("--block-size",), kind="int"),
    "dtype": Flag(spellings=("--dtype",)),
    "runner": Flag(spellings=("--runner",), words=(("auto", None),)),
    "convert": Flag(spellings=("--convert",), words=(("auto", None),)),
    "data_parallel_size": Flag(spellings=("--data-parallel-size", "-dp"), kind="int"),
    "performance_mode": Flag(spellings=("--performance-mode",)),
    "enforce_eager": Flag(spellings=("--enforce-eager",), kind="switch", off=("--no-enforce-eager",)),
    "trust_remote_code": Flag(
        spellings=("--trust-remote-code",), kind="switch", off=("--no-trust-remote-code",)
    ),
    "auto_tool_choice": Flag(
        spellings=("--enable-auto-tool-choice",), kind="switch", off=("--no-enable-auto-tool-choice",)
    ),
    **parsers.FLAGS,
}
RESERVED = {
    "--model": "aimind passes the model itself",
    "--config": "it would override the plan",
    "--revision": "aimind downloads the model itself: use MODEL@REVISION",
    "--api-key": KEY_IS_SEEN,
    "--hf-token": TOKEN_IS_SEEN,
    "--num-gpu-blocks-override": "it would override the KV cache of the plan",
    **dict.fromkeys(
        ("--nnodes", "-n", "--node-rank", "-r", "--master-addr", "--master-port", "--headless"), _ONE_MACHINE
    ),
    **dict.fromkeys(
        (
            *("--data-parallel-rank", "-dpn", "--data-parallel-start-rank", "-dpr"),
            *("--data-parallel-size-local", "-dpl", "--data-parallel-address", "-dpa"),
            *("--data-parallel-rpc-port", "-dpp", "--data-parallel-backend", "-dpb"),
            *("--data-parallel-hybrid-lb", "-dph", "--data-parallel-external-lb", "-dpe"),
            *("--data-parallel-multi-port-external-lb", "-dpm"),
        ),
        _ONE_SERVER,
    ),
}
UNCOUNTED = tuple(
    "--cpu-offload-gb --kv-offloading-size --kv-transfer-config --mm-processor-cache-gb "
    "--enable-lora --speculative-config -sc --spec-model --quantization -q --enable-expert-parallel -ep "
    "--decode-context-parallel-size -dcp --hf-overrides --max-cudagraph-capture-size "
    "--cudagraph-capture-sizes --compilation-config -cc --optimization-level -O "
    "--load-format --config-format".split()
)
_GONE = "vLLM removed it without a replacement: omit it"
_TOKENIZERS = "vLLM always tokenizes outside the engine: omit it"
_IMAGES = "vLLM reads this from the model: omit it"
_PROCESSOR = "the processor comes with the model: use --mm-processor-kwargs to configure it"
_GRAPHS = "use --max-cudagraph-capture-size, a number of sequences"
_ROPE = 'use --hf-overrides \'{"rope_parameters": {"rope_type": …, "rope_theta": …}}\''
_RAY = "use --distributed-executor-backend ray"
_GUIDED = "use --structured-outputs-config"
_DROPPED = {
    "--block-manager": _GONE,
    "--calculate-kv-scales": _GONE,
    "--cuda-graph-sizes": "use --cudagraph-capture-sizes",
    "--device": "use aimind's own --device, before the --",
    "--disable-frontend-multiprocessing": _GONE,
    "--disable-image-processor": _PROCESSOR,
    "--disable-log-requests": "vLLM logs requests only with --enable-log-requests: omit it",
    "--disable-mm-preprocessor-cache": "use --mm-processor-cache-gb 0",
    "--enable-reasoning": "--reasoning-parser alone is enough",
    "--engine-use-ray": "the engine always runs in its own process: omit it",
    "--guided-decoding-backend": f"{_GUIDED}.backend",
    "--guided-decoding-disable-additional-properties": f"{_GUIDED}.disable_additional_properties true",
    "--guided-decoding-disable-any-whitespace": f"{_GUIDED}.disable_any_whitespace true",
    "--guided-decoding-disable-fallback": _GONE,
    "--image-feature-size": _IMAGES,
    "--image-input-shape": _IMAGES,
    "--image-input-type": _IMAGES,
    "--image-processor": _PROCESSOR,
    "--image-processor-revision": _PROCESSOR,
    "--image-token-id": _IMAGES,
    "--long-lora-scaling-factors": _GONE,
    "--lora-extra-vocab-size": "vLLM no longer supports adapters with extra vocabulary: omit it",
    "--max-context-len-to-capture": _GRAPHS,
    "--max-seq-len-to-capture": _GRAPHS,
    "--multi-step-stream-outputs": _GONE,
    "--ngram-prompt-lookup-max": "use --speculative-config.prompt_lookup_max",
    "--ngram-prompt-lookup-min": "use --speculative-config.prompt_lookup_min",
    "--num-lookahead-slots": "vLLM derives it from --speculative-config: omit it",
    "--num-scheduler-steps": "vLLM schedules steps asynchronously by default: omit it",
    "--num-speculative-tokens": "use --spec-tokens, or --speculative-config.num_speculative_tokens",
    "--override-neuron-config": _GONE,
    "--override-pooler-config": "use --pooler-config",
    "--preemption-mode": "vLLM always recomputes preempted requests: omit it",
    "--qlora-adapter-name-or-path": "use --enable-lora --lora-modules NAME=PATH",
    "--quantization-param-path": "vLLM reads the scales of an fp8 cache from the model's weights: omit it",
    "--rope-scaling": _ROPE,
    "--rope-theta": _ROPE,
    "--scheduler-delay-factor": _GONE,
    "--speculative-disable-by-batch-size": "use --speculative-config.num_speculative_tokens_per_batch_size",
    "--speculative-draft-tensor-parallel-size": "use --speculative-config.draft_tensor_parallel_size",
    "--speculative-max-model-len": "use --speculative-config.max_model_len",
    "--speculative-model": "use --spec-model, or --speculative-config.model",
    "--swap-space": "vLLM recomputes preempted requests; use --kv-offloading-size to keep a cache in RAM",
    "--task": "use --runner, and --convert to change the kind of the model",
    "--tokenizer-pool-extra-config": _TOKENIZERS,
    "--tokenizer-pool-size": _TOKENIZERS,
    "--tokenizer-pool-type": _TOKENIZERS,
    "--use-v2-block-manager": "vLLM has no other block manager: omit it",
    "--worker-use-ray": _RAY,
}
HELP = Help(
    args=("-m", "vllm.entrypoints.openai.api_server", "--help=all"),
    dotted=True,
    also=("-O",),  # its parser makes it --optimization-level
    dropped=_DROPPED,
    dropped_since="0.32",
    values="vllm",
)
