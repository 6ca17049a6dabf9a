"""Metadata and settings -> bytes: `ggml` for the llama.cpp family, `paged` for vLLM and its like.

Below `ggml` are what is held (`weights`, `cache`), the operations of one step (`network`, from `blocks`,
`mixers` and `remember`, with `families` for what no tensor tells), and the memory that these take (`graph`,
`schedule`).
"""
