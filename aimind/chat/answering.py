"""One answer of a language model, shown while it comes."""

from __future__ import annotations

import contextlib

from aimind import show
from aimind.api import Answer
from aimind.chat.conversation import Conversation
from aimind.chat.target import CHAT, Target, explained
from aimind.errors import AimindError


def answer(target: Target, conversation: Conversation) -> Answer:
    """Ask for the next answer and write it to stdout; it becomes part of the conversation.

    After Ctrl-C (KeyboardInterrupt) the part that has come belongs to the conversation, too.

    Raises:
        ApiError: there is no answer, or not all of it; then the last message is taken back.
    """
    body = conversation.body() if target.path == CHAT else conversation.completion_body()
    found = Answer(target.server, target.path, {**target.template, **body})
    view = show.AnswerView()
    try:
        with contextlib.closing(found.pieces()) as pieces:
            for piece in pieces:
                view.piece(piece)
    except AimindError as problem:
        conversation.take_back()
        raise explained(target, problem) from problem
    except KeyboardInterrupt:
        conversation.answer(found.text)
        raise
    finally:
        view.end()
    conversation.answer(found.text)
    if found.finish_reason == "length":
        show.warn(_why_cut(found, conversation.settings.max_tokens))
    if conversation.settings.statistics:
        show.tell(show.statistics(found))
    return found


def _why_cut(found: Answer, max_tokens: int | None) -> str:
    if max_tokens is not None and found.output_tokens >= max_tokens:
        return f"the answer ends here: it has reached the limit of {max_tokens:,} tokens"
    used = (found.prompt_tokens or 0) + found.output_tokens
    return f"the answer ends here: the model's context is full ({used:,} tokens)"
