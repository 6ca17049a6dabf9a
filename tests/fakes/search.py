"""The search of both hubs on loopback, as they answer in 2026: real HTTP, for whatever asks.

Hugging Face at `/api/models`: `search`, `filter`, `pipeline_tag`, `sort`, `limit`, and of each model only
what is asked for with `expand`. ModelScope at
`/openapi/v1/models`: `search`, `filter.library`, `filter.task`, `page_number`, `page_size` of at most 50.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

MOST_OF_MODELSCOPE = 50


@dataclass
class Entry:
    """A repository as the hubs index it. `details`: what only one of them tells, under its own names."""

    id: str
    downloads: int = 0
    tags: tuple[str, ...] = ()
    task: str = "text-generation"
    gated: bool = False
    details: dict[str, Any] = field(default_factory=dict)


@dataclass
class Asked:
    """One request."""

    path: str
    query: dict[str, list[str]]
    authorization: str | None


class SearchHub:
    """Both hubs, answering from `__enter__` to `__exit__`.

    Attributes:
        url: for `HF_ENDPOINT` and `MODELSCOPE_ENDPOINT`.
        answers: what is answered instead, one after the other: a status, a body, and headers.
    """

    def __init__(self, *entries: Entry) -> None:
        self.entries = sorted(entries, key=lambda each: -each.downloads)
        self.asked: list[Asked] = []
        self.answers: list[tuple[int, bytes, dict[str, str]]] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                hub.asked.append(Asked(parts.path, parse_qs(parts.query), self.headers["Authorization"]))
                status, body, headers = (
                    hub.answers.pop(0) if hub.answers else hub.answer(parts.path, parse_qs(parts.query))
                )
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                """Tests look at `asked` instead."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        serve = self._server.serve_forever
        threading.Thread(target=serve, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, query: dict[str, list[str]]) -> tuple[int, bytes, dict[str, str]]:
        """What the hub says."""
        if path == "/api/models":
            return self._hugging_face({name: values[0] for name, values in query.items()}, query)
        if path == "/openapi/v1/models":
            return self._modelscope({name: values[0] for name, values in query.items()})
        return 404, b"{}", {}

    def _hugging_face(
        self, asked: dict[str, str], all_asked: dict[str, list[str]]
    ) -> tuple[int, bytes, dict[str, str]]:
        found = [
            each
            for each in self.entries
            if asked.get("search", "").lower() in each.id.lower()
            and asked.get("filter", "") in {"", *each.tags}
            and asked.get("pipeline_tag", "") in {"", each.task}
        ]
        told = []
        for each in found[: int(asked["limit"])]:
            known = {
                "downloads": each.downloads,
                "gated": "manual" if each.gated else False,
                "tags": [*each.tags],
                "pipeline_tag": each.task,
                **each.details,
            }
            wanted = all_asked.get("expand", [])
            told.append({"_id": "0", "id": each.id} | {name: known[name] for name in wanted if name in known})
        return 200, json.dumps(told).encode(), {}

    def _modelscope(self, asked: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        size, number = int(asked["page_size"]), int(asked["page_number"])
        if size > MOST_OF_MODELSCOPE:
            return 400, b'{"success": false, "message": "page_size"}', {}
        library = asked.get("filter.library")
        found = [
            {
                "id": each.id,
                "downloads": each.downloads,
                "tasks": [each.task],
                "tags": [f"library:{tag}" for tag in each.tags],
                "private": False,
                "gated": each.gated,
                **each.details,
            }
            for each in self.entries
            if asked.get("search", "").lower() in each.id.lower()
            and (library is None or library in each.tags)
            and asked.get("filter.task", "") in {"", each.task}
        ]
        listed = found[(number - 1) * size : number * size]
        data = {"models": listed, "total_count": len(found), "page_number": number, "page_size": size}
        return 200, json.dumps({"success": True, "request_id": "0", "data": data}).encode(), {}
