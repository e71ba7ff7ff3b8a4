"""A Hugging Face Hub on 127.0.0.1: the endpoints that the real client uses to publish and load models.

Repositories are in memory: each a list of commits, of which every one holds all files. Tokens name users, and only a
user writes to the user's repositories. ``server.failures`` makes steps fail, by repository.
"""

import base64
import contextlib
import hashlib
import itertools
import json
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml

TOKENS = {"hf_" + "aliceAlice" * 3: "alice", "hf_" + "bobbyBobby" * 3: "bob"}
ALICE, BOB = TOKENS
NAME = r"(?P<repo>[\w.-]+/[\w.-]+)"


@dataclass
class Repository:
    """Commits are (id, files), the newest last: of main, and of branches by name. A tag names one."""

    private: bool = False
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    branches: dict[str, list[tuple[str, dict[str, bytes]]]] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        commits = self.branches.get(branch, self.commits)
        digest = hashlib.sha1(json.dumps([branch, len(commits), sorted(files)]).encode())
        for name in sorted(files):
            digest.update(files[name])
        commits.append((digest.hexdigest(), files))
        return digest.hexdigest()

    @property
    def head(self) -> str:
        return self.commits[-1][0]

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1][1]

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if revision == "main" or revision in self.branches:
            return self.branches.get(revision, self.commits)[-1]
        wanted, commits = self.tags.get(revision, revision), itertools.chain(self.commits, *self.branches.values())
        return next((commit for commit in commits if commit[0] == wanted), None)


class Failure:
    """Fails a step so many times.

    With an HTTP status; by closing the connection before ("drop") or after it was done ("drop after"); or not, but with
    a commit of somebody else before it ("race").
    """

    def __init__(self, action: int | str, times: int = 1) -> None:
        self.action, self.times = action, times


class Hub(ThreadingHTTPServer):
    """``failures[repository, step]`` with the steps of :data:`ROUTES`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[tuple[str, str], bytes] = {}
        self.failures: dict[tuple[str, str], Failure] = {}
        self.requests: list[tuple[str, str]] = []
        self.bodies: list[bytes] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def environment(self, home: Path, token: str | None = ALICE) -> dict[str, str]:
        """Of a process that is to use this Hub, with a cache of its own."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        own = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
        own |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "ACCELERATE_USE_CPU": "true"}
        return kept | own | ({} if token is None else {"HF_TOKEN": token})


@contextlib.contextmanager
def running_hub() -> Iterator[Hub]:
    with Hub() as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        yield hub
        hub.shutdown()


class _Error(Exception):
    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.code = status, code


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, _, _ = self.path.partition("?")
        with self.server.lock:
            self.server.bodies.append(self.body)
            for method, pattern, step in ROUTES:
                if (found := re.fullmatch(pattern, path)) and self.command in method:
                    self.server.requests.append((step, path))
                    return self._perform(step, {name: unquote(value) for name, value in found.groupdict().items()})
        self._send(404, {"error": "Not Found"})

    def _perform(self, step: str, parts: dict[str, str]) -> None:
        failure = self.server.failures.get((parts.get("repo", ""), step))
        action = None
        if failure is not None and failure.times:
            failure.times -= 1
            action = failure.action
        if action == "drop":
            return self._drop()
        if action == "race":
            present = self.server.repositories[parts["repo"]]
            present.commit({**present.files, "theirs.txt": b"somebody else's"})
        if isinstance(action, int):
            return self._send(action, {"error": "the server failed"})
        try:
            status, value, headers = getattr(self, f"_{step}")(**parts)
        except _Error as error:
            headers = {"X-Error-Message": str(error)} | ({"X-Error-Code": error.code} if error.code else {})
            status, value = error.status, {"error": str(error)}
        if action == "drop after":
            return self._drop()
        self._send(status, value, headers)

    def _drop(self) -> None:
        self.close_connection = True
        self.connection.close()

    def _send(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        headers = {"Content-Length": str(len(content)), **(headers or {})}
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _user(self) -> str | None:
        header = self.headers.get("Authorization", "")
        if not header:
            return None
        user = TOKENS.get(header.removeprefix("Bearer "))
        if user is None:
            raise _Error(401, "Invalid credentials in Authorization header")
        return user

    def _readable(self, repo: str) -> Repository:
        user, found = self._user(), self.server.repositories.get(repo)
        if found is None or (found.private and user != repo.partition("/")[0]):
            raise _Error(401 if user is None else 404, "Repository not found", "RepoNotFound")
        return found

    def _writable(self, repo: str) -> Repository:
        found, user = self._readable(repo), self._user()
        if user is None:
            raise _Error(401, "Invalid username or password.")
        if user != repo.partition("/")[0]:
            raise _Error(403, f"you don't have write access to {repo}")
        return found

    def _whoami(self) -> tuple[int, Any, dict[str, str]]:
        user = self._user()
        if user is None:
            raise _Error(401, "Invalid username or password.")
        token = {"displayName": "tests", "role": "write"}
        return 200, {"type": "user", "name": user, "orgs": [], "auth": {"accessToken": token}}, {}

    def _create(self) -> tuple[int, Any, dict[str, str]]:
        asked, user = json.loads(self.body), self._user()
        if user is None:
            raise _Error(401, "Invalid username or password.")
        owner = asked.get("organization") or user
        repo = f"{owner}/{asked['name']}"
        if owner != user:
            raise _Error(403, f"you don't have the rights to create a model under the namespace {owner}")
        url = {"url": f"{self.server.url}/{repo}"}
        if repo in self.server.repositories:
            return 409, {**url, "error": "You already created this model repo"}, {}
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        self.server.repositories[repo] = Repository(private)
        self.server.repositories[repo].commit({".gitattributes": b""})
        return 200, url, {}

    def _info(self, repo: str, revision: str = "main") -> tuple[int, Any, dict[str, str]]:
        found = self._readable(repo)
        commit = self._at(found, revision)
        siblings = [{"rfilename": name} for name in commit[1]]
        return 200, {"id": repo, "sha": commit[0], "private": found.private, "siblings": siblings}, {}

    def _validate(self) -> tuple[int, Any, dict[str, str]]:
        content = json.loads(self.body)["content"]
        block = re.match(r"---\r?\n(.*?)\r?\n---\s*(\r?\n|$)", content, re.DOTALL)
        errors = []
        try:
            data = yaml.safe_load(block[1]) if block else None
            if not isinstance(data, dict):
                errors.append({"message": "no metadata"})
        except yaml.YAMLError as error:
            errors.append({"message": str(error)})
        return (400, {"errors": errors, "warnings": []}, {}) if errors else (200, {"errors": [], "warnings": []}, {})

    def _preupload(self, repo: str, revision: str) -> tuple[int, Any, dict[str, str]]:
        (_, present), files = self._at(self._writable(repo), revision), []
        for file in json.loads(self.body)["files"]:
            mode = "lfs" if file["path"].endswith(".safetensors") else "regular"
            entry = {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
            if file["path"] in present:
                entry["oid"] = _object_id(present[file["path"]], mode)
            files.append(entry)
        return 200, {"files": files}, {}

    def _batch(self, repo: str) -> tuple[int, Any, dict[str, str]]:
        self._writable(repo)
        objects = []
        for asked in json.loads(self.body)["objects"]:
            entry = {"oid": asked["oid"], "size": asked["size"]}
            if (repo, asked["oid"]) not in self.server.blobs:
                href = f"{self.server.url}/lfs/{repo}/{asked['oid']}"
                entry["actions"] = {"upload": {"href": href}}
            objects.append(entry)
        return 200, {"objects": objects, "transfer": "basic"}, {}

    def _put(self, repo: str, oid: str) -> tuple[int, Any, dict[str, str]]:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _Error(400, "the content is not that of its id")
        self.server.blobs[repo, oid] = self.body
        return 200, {}, {}

    def _commit(self, repo: str, revision: str) -> tuple[int, Any, dict[str, str]]:
        found = self._writable(repo)
        head, present = self._at(found, revision)
        files, parent = dict(present), None
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                parent = value.get("parentCommit")
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if (repo, value["oid"]) not in self.server.blobs:
                    raise _Error(400, "this LFS file was never uploaded")
                files[value["path"]] = self.server.blobs[repo, value["oid"]]
        if parent is not None and parent != head:
            raise _Error(412, "A commit has happened since. Please refresh and try again.")
        oid = found.commit(files, revision)
        return 200, {"commitUrl": f"{self.server.url}/{repo}/commit/{oid}", "commitOid": oid, "success": True}, {}

    def _tag(self, repo: str, revision: str) -> tuple[int, Any, dict[str, str]]:
        found, name = self._writable(repo), json.loads(self.body)["tag"]
        if name in found.tags:
            raise _Error(409, "Tag reference exists already")
        found.tags[name] = self._at(found, revision)[0]
        return 200, {}, {}

    def _branch(self, repo: str, branch: str) -> tuple[int, Any, dict[str, str]]:
        found = self._writable(repo)
        if branch == "main" or branch in found.branches:
            raise _Error(409, "Reference already exists")
        found.branches[branch] = list(found.commits)
        return 200, {}, {}

    def _at(self, found: Repository, revision: str) -> tuple[str, dict[str, bytes]]:
        commit = found.at(revision)
        if commit is None:
            raise _Error(404, "Revision not found", "RevisionNotFound")
        return commit

    def _resolve(self, repo: str, revision: str, path: str) -> tuple[int, Any, dict[str, str]]:
        commit = self._at(self._readable(repo), revision)
        if path not in commit[1]:
            raise _Error(404, "Entry not found", "EntryNotFound")
        return 200, commit[1][path], {"X-Repo-Commit": commit[0], "ETag": f'"{_object_id(commit[1][path], "lfs")}"'}


def _object_id(content: bytes, mode: str) -> str:
    if mode == "lfs":
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


ROUTES: list[tuple[str, str, str]] = [
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/repos/create", "create"),
    ("POST", r"/api/validate-yaml", "validate"),
    ("GET", rf"/api/models/{NAME}", "info"),
    ("GET", rf"/api/models/{NAME}/revision/(?P<revision>[^/]+)", "info"),
    ("POST", rf"/api/models/{NAME}/preupload/(?P<revision>[^/]+)", "preupload"),
    ("POST", rf"/{NAME}\.git/info/lfs/objects/batch", "batch"),
    ("PUT", rf"/lfs/{NAME}/(?P<oid>\w+)", "put"),
    ("POST", rf"/api/models/{NAME}/commit/(?P<revision>[^/]+)", "commit"),
    ("POST", rf"/api/models/{NAME}/branch/(?P<branch>[^/]+)", "branch"),
    ("POST", rf"/api/models/{NAME}/tag/(?P<revision>[^/]+)", "tag"),
    ("GET HEAD", rf"/{NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
]
