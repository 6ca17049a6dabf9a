"""Metadata and settings -> bytes: `ggml` for the llama.cpp family, `paged` for vLLM and its like."""
