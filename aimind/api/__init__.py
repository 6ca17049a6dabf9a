"""A client of an OpenAI-compatible server: requests, streamed answers, and errors as sentences."""

from aimind.api.answer import Answer, Piece
from aimind.api.server import Server

__all__ = ["Answer", "Piece", "Server"]
