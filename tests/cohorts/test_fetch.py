"""Downloads: only what has the right digest gets its name, and what can't be had says what to do by hand."""

import functools
import hashlib
import http.server
import subprocess
import threading

import pytest

from pipeline.cohorts import _fetch
from pipeline.cohorts._fetch import Package, fetch_package, fetch_url

CONTENT = b"voxels" * 1000
RIGHT = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked += 1
        if self.path == "/cut":
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[:100])
        elif self.path == "/whole":
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT)
        else:
            self.send_error(404)

    def log_message(self, *words):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.asked = 0
    threading.Thread(target=functools.partial(served.serve_forever, poll_interval=0.02), daemon=True).start()
    yield served
    served.shutdown()
    served.server_close()


def address(server, name):
    return f"http://127.0.0.1:{server.server_address[1]}/{name}"


def test_a_file_with_the_right_digest_is_fetched_once(server, tmp_path):
    path = fetch_url(address(server, "whole"), tmp_path / "a" / "scans.tar", RIGHT)
    assert path.read_bytes() == CONTENT
    fetch_url(address(server, "whole"), path, RIGHT)
    assert server.asked == 1


def test_a_cached_file_that_was_damaged_is_fetched_again(server, tmp_path):
    path = tmp_path / "scans.tar"
    path.write_bytes(b"damaged")
    assert fetch_url(address(server, "whole"), path, RIGHT).read_bytes() == CONTENT


@pytest.mark.parametrize(("name", "digest"), [("whole", "md5:" + "0" * 32), ("cut", RIGHT), ("none", RIGHT)])
def test_nothing_is_kept_of_a_wrong_or_broken_download(server, tmp_path, name, digest):
    path = tmp_path / "scans.tar"
    with pytest.raises(ValueError, match=r"could not be downloaded|its (md5|sha256) is"):
        fetch_url(address(server, name), path, digest)
    assert list(tmp_path.iterdir()) == []


def test_without_internet_the_message_names_the_address_the_digest_and_the_place(tmp_path, server):
    url = address(server, "whole")
    server.shutdown()
    server.server_close()
    with pytest.raises(ValueError) as error:
        fetch_url(url, tmp_path / "scans.tar", RIGHT)
    assert url in str(error.value)
    assert RIGHT.partition(":")[2] in str(error.value)
    assert str(tmp_path / "scans.tar") in str(error.value)


def test_only_http_addresses_are_opened(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(CONTENT)
    with pytest.raises(ValueError, match="no http address"):
        fetch_url(secret.as_uri(), tmp_path / "copy", RIGHT)


PACKAGE = Package("thing", "1.0", "thing-1.0-py3-none-any.whl", hashlib.sha256(CONTENT).hexdigest(), "MIT")


def pip(monkeypatch, content: bytes | None):
    """Stands for pip: puts a file where it was asked to, or fails as pip does without an index."""
    calls = []

    def run(command, **keywords):
        calls.append(command)
        if content is None:
            return subprocess.CompletedProcess(command, 1, "", "WARNING: retrying\nERROR: No matching distribution found for thing==1.0\n")
        folder = command[command.index("--dest") + 1]
        with open(f"{folder}/{PACKAGE.file}", "wb") as stream:
            stream.write(content)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(_fetch.subprocess, "run", run)
    return calls


def test_pip_is_asked_for_the_file_alone_with_its_hash_required(tmp_path, monkeypatch):
    calls = pip(monkeypatch, CONTENT)
    assert fetch_package(PACKAGE, tmp_path).read_bytes() == CONTENT
    assert "download" in calls[0]
    assert {"--no-deps", "--require-hashes", "--only-binary"} <= set(calls[0])
    fetch_package(PACKAGE, tmp_path)
    assert len(calls) == 1


@pytest.mark.parametrize("content", [None, b"another file"])
def test_a_package_that_cannot_be_had_leaves_nothing_and_says_what_to_do(tmp_path, monkeypatch, content):
    pip(monkeypatch, content)
    with pytest.raises(ValueError) as error:
        fetch_package(PACKAGE, tmp_path)
    for word in (PACKAGE.file, PACKAGE.sha256, "thing 1.0", str(tmp_path / PACKAGE.file)):
        assert word in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_put_there_by_hand_needs_no_index(tmp_path, monkeypatch):
    pip(monkeypatch, None)
    (tmp_path / PACKAGE.file).write_bytes(CONTENT)
    assert fetch_package(PACKAGE, tmp_path) == tmp_path / PACKAGE.file
