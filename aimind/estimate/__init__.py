"""Metadata and settings -> bytes: `ggml` for the llama.cpp family, `paged` for vLLM and its like.

Below `ggml`: what is held (`weights`, `cache`); the operations of one step (`network`, of `blocks`, `remember`
and `mixers`, with `families` for what no tensor tells); and the memory that they take (`graph`, `schedule`).
"""
