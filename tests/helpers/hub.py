# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""A local server with the part of the Hugging Face Hub's protocol that downloads and uploads of small files need."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote

COMMIT = "c0ffee" + "0" * 34


class Hub(ThreadingHTTPServer):
    """The server, with contents of files by name, by revision, by repository."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}

    @property
    def url(self) -> str:
        """What HF_ENDPOINT must be."""
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serve() -> Iterator[Hub]:
    with Hub() as hub:
        Thread(target=hub.serve_forever, daemon=True).start()
        try:
            yield hub
        finally:
            hub.shutdown()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.send_file(body=False)

    def do_GET(self):
        self.send_file(body=True)

    def send_file(self, body):
        if "/resolve/" not in self.path:  # such as a check for a newer client
            self.answer(404, b"", {})
            return
        owner, name, _, revision, file = unquote(self.path.replace("%2F", "\0")).lstrip("/").split("/", 4)
        revisions = self.server.repos.get(f"{owner}/{name}")
        files = (revisions or {}).get(revision.replace("\0", "/"))
        content = (files or {}).get(file)
        missing = "RepoNotFound" if revisions is None else "RevisionNotFound" if files is None else "EntryNotFound"
        commit = sha1(revision.encode(), usedforsecurity=False).hexdigest()
        if content is None:
            self.answer(404, b"", {"X-Error-Code": missing})
        else:
            self.answer(200, content, {"ETag": f'"{sha256(content).hexdigest()}"', "X-Repo-Commit": commit}, body=body)

    def do_POST(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        repo = "/".join(self.path.split("/")[3:5])
        if self.path == "/api/repos/create":
            given = json.loads(content)
            repo = f"{given['organization']}/{given['name']}"
            self.server.repos.setdefault(repo, {"main": {}})
            answer = {"url": f"{self.server.url}/{repo}"}
        elif "/preupload/" in self.path:
            asked = json.loads(content)["files"]
            answer = {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]}
        elif "/commit/" in self.path:
            for line in map(json.loads, content.splitlines()):
                if line["key"] == "file":
                    stored = base64.b64decode(line["value"]["content"])
                    self.server.repos[repo]["main"][line["value"]["path"]] = stored
            answer = {"commitOid": COMMIT, "commitUrl": f"{self.server.url}/{repo}/commit/{COMMIT}"}
        else:  # the model card is checked
            answer = {"errors": [], "warnings": []}
        self.answer(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def answer(self, status, content, headers, *, body=True):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_):
        pass
