"""The downloader against a server on this machine that misbehaves on request."""

import hashlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from aevb.data import download
from aevb.data.download import RemoteFile, fetch, find, obtain
from aevb.errors import DataError

BODY = bytes(range(256)) * 1024
SHA256 = hashlib.sha256(BODY).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves what `pages` says: a function for each path, which is given the handler."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: Any) -> None:
        """Say nothing when a client hangs up, which is what it should do in some tests."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.pages[self.path](self)

    def log_message(self, *_: Any) -> None:
        pass


def page(
    body: bytes, length: int | None = None, status: int = 200
) -> Callable[[BaseHTTPRequestHandler], None]:
    """Answer with a body and a Content-Length, which may lie; none at all for -1."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        if length != -1:
            handler.send_header("Content-Length", str(len(body) if length is None else length))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    with Server() as running:
        running.pages["/good"] = page(BODY)
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def closed_port() -> Iterator[str]:
    """It is held while nobody listens at it, so that no other server is given it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{probe.getsockname()[1]}/good"


def files_below(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_file_is_fetched_into_a_new_folder(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "aevb")
    target = tmp_path / "new" / "folder" / "a.bin"
    mirrors = [f"{server.url}/good", f"{server.url}/never"]
    assert fetch(mirrors, target, SHA256, size=len(BODY)) == target
    assert target.read_bytes() == BODY
    assert files_below(tmp_path) == ["a.bin"]
    assert server.asked == ["/good"]
    assert caplog.messages == [f"downloading a.bin ({len(BODY):,} bytes) from {server.url}/good"]


BAD_PAGES = [
    (page(BODY[:-1] + b"x"), "expected the SHA-256"),
    (page(BODY[:1000], len(BODY)), "the connection was cut after 1,000 of 262,144 bytes"),
    (page(BODY[:1000], -1), "the connection was cut after 1,000 of 262,144 bytes"),
    (page(b"", -1), "the connection was cut after 0 of 262,144 bytes"),
    (page(BODY + b"x"), "expected 262,144 bytes, found a file of 262,145"),
    (page(BODY + b"x", -1), "expected 262,144 bytes, found more"),
    (page(b"<html>"), "expected 262,144 bytes, found a file of 6"),
    (page(b"gone", status=404), "answered 404 Not Found"),
    (lambda handler: handler.wfile.write(b"no http\r\n\r\n"), "failed ("),
    (lambda handler: None, "failed ("),
]


@pytest.mark.parametrize(("bad", "reason"), BAD_PAGES)
def test_a_bad_mirror_is_named_and_the_next_one_is_taken(
    server: Server,
    tmp_path: Path,
    bad: Callable[[BaseHTTPRequestHandler], None],
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server.pages["/bad"] = bad
    target = tmp_path / "a.bin"
    with pytest.raises(DataError) as caught:
        fetch([f"{server.url}/bad"], target, SHA256, size=len(BODY))
    assert f"{server.url}/bad: {reason}" in str(caught.value)
    assert files_below(tmp_path) == []
    mirrors = [f"{server.url}/bad", f"{server.url}/good"]
    caplog.set_level("INFO", "aevb")
    fetch(mirrors, target, SHA256, size=len(BODY))
    assert target.read_bytes() == BODY
    assert files_below(tmp_path) == ["a.bin"]
    assert reason in caplog.messages[1]


def test_an_endless_body_is_left_alone(server: Server, tmp_path: Path) -> None:
    sent: list[int] = []
    over = threading.Event()

    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            for _ in range(10_000):
                handler.wfile.write(BODY)
                sent.append(len(BODY))
        finally:
            over.set()

    server.pages["/endless"] = endless
    with pytest.raises(DataError, match="found more"):
        fetch([f"{server.url}/endless"], tmp_path / "a.bin", SHA256, size=len(BODY))
    assert over.wait(5)
    assert len(sent) < 1000


def test_a_silent_server_is_given_up(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TIMEOUT", 0.1)
    done = threading.Event()

    def silent(_: BaseHTTPRequestHandler) -> None:
        done.wait(5)

    server.pages["/silent"] = silent
    with pytest.raises(DataError, match="timed out"):
        fetch([f"{server.url}/silent"], tmp_path / "a.bin", SHA256, size=len(BODY))
    done.set()
    assert files_below(tmp_path) == []


def test_a_dead_mirror_is_passed_over(server: Server, tmp_path: Path, closed_port: str) -> None:
    target = tmp_path / "a.bin"
    fetch([closed_port, f"{server.url}/good"], target, SHA256, size=len(BODY))
    assert target.read_bytes() == BODY


def test_when_all_mirrors_are_dead_the_sentence_says_what_to_do(
    tmp_path: Path, closed_port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    target = tmp_path / "a.bin"
    other = "file:///etc/hostname"
    with pytest.raises(DataError) as caught:
        fetch([closed_port, other], target, SHA256, size=len(BODY))
    sentence = str(caught.value)
    assert sentence.startswith(f"a.bin could not be downloaded ({closed_port}: cannot be reached")
    assert f"{other}: expected an address that begins with http" in sentence
    assert f"put the file at {target}, or set AEVB_DATA" in sentence
    assert "\n" not in sentence
    assert caught.value.exit_code == 3
    assert files_below(tmp_path) == []


def test_nothing_stands_under_the_final_name_before_the_end(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    seen: list[bool] = []

    def halting(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(BODY[:-1])
        handler.wfile.flush()
        seen.append(target.exists())
        handler.wfile.write(BODY[-1:])

    server.pages["/halting"] = halting
    fetch([f"{server.url}/halting"], target, SHA256, size=len(BODY))
    assert seen == [False]
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("moment", ["fsync", "replace"])
@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_leaves_nothing_and_passes_through(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    stop: type[BaseException],
) -> None:
    def interrupt(*_: Any) -> None:
        assert len(files_below(tmp_path)) == 1
        raise stop

    monkeypatch.setattr(os, moment, interrupt)
    with pytest.raises(stop):
        fetch([f"{server.url}/good"], tmp_path / "a.bin", SHA256, size=len(BODY))
    assert files_below(tmp_path) == []


def test_the_data_are_on_the_disk_before_they_get_their_name(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    for name in ("fsync", "replace"):
        call = getattr(os, name)

        def spy(*arguments: Any, name: str = name, call: Any = call) -> None:
            order.append(name)
            call(*arguments)

        monkeypatch.setattr(os, name, spy)
    fetch([f"{server.url}/good"], tmp_path / "a.bin", SHA256, size=len(BODY))
    assert order == ["fsync", "replace"]


def test_an_older_file_outlives_a_failure(server: Server, tmp_path: Path) -> None:
    server.pages["/bad"] = page(BODY[::-1])
    target = tmp_path / "a.bin"
    target.write_bytes(b"older")
    with pytest.raises(DataError):
        fetch([f"{server.url}/bad"], target, SHA256, size=len(BODY))
    assert target.read_bytes() == b"older"


def test_a_folder_that_cannot_be_made_is_not_blamed_on_the_mirror(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written") as caught:
        fetch([f"{server.url}/good"], tmp_path / "file" / "a.bin", SHA256, size=len(BODY))
    assert server.url not in str(caught.value)
    assert server.asked == []


def test_a_full_disk_is_not_blamed_on_the_mirror(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="No space left on device") as caught:
        fetch([f"{server.url}/good"], tmp_path / "a.bin", SHA256, size=len(BODY))
    assert server.url not in str(caught.value)
    assert files_below(tmp_path) == []


# --- where files are looked for ----------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """AEVB_DATA and the cache folder, both empty."""
    chosen, cache = tmp_path / "chosen", tmp_path / "cache" / "aevb"
    chosen.mkdir()
    cache.mkdir(parents=True)
    monkeypatch.setenv("AEVB_DATA", str(chosen))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return chosen, cache


def put(folder: Path, path: str, content: bytes = BODY) -> Path:
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    return target


def test_the_chosen_folder_comes_first_then_the_cache_then_the_network(
    server: Server, folders: tuple[Path, Path]
) -> None:
    chosen, cache = folders
    file = RemoteFile("set/a.bin", len(BODY), SHA256, (f"{server.url}/good",))
    assert find(file) is None
    assert obtain(file) == cache / "set/a.bin"
    assert find(file) == (file, cache / "set/a.bin")
    assert obtain(file) == cache / "set/a.bin"
    assert server.asked == ["/good"]
    put(chosen, "set/a.bin")
    assert obtain(file) == chosen / "set/a.bin"
    assert files_below(chosen) == ["a.bin"]


def test_without_variables_the_cache_is_below_the_home(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AEVB_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    file = RemoteFile("set/a.bin", len(BODY), SHA256, (f"{server.url}/good",))
    # The standard of the variable has relative paths ignored.
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert obtain(file) == tmp_path / ".cache/aevb/set/a.bin"


@pytest.mark.parametrize("place", [0, 1])
def test_a_damaged_file_is_named_and_never_replaced_unasked(
    server: Server, folders: tuple[Path, Path], place: int
) -> None:
    path = put(folders[place], "set/a.bin", BODY[:-1])
    file = RemoteFile("set/a.bin", len(BODY), SHA256, (f"{server.url}/good",))
    with pytest.raises(DataError, match="damaged") as caught:
        obtain(file)
    assert str(path) in str(caught.value)
    assert "remove it" in str(caught.value)
    assert path.read_bytes() == BODY[:-1]
    path.unlink()
    assert obtain(file).read_bytes() == BODY


def test_another_form_of_a_file_will_do(server: Server, folders: tuple[Path, Path]) -> None:
    plain = RemoteFile("set/a.txt", len(BODY), SHA256, (f"{server.url}/good",))
    packed = RemoteFile("set/a.txt.gz", 3, hashlib.sha256(b"abc").hexdigest())
    assert obtain(packed, plain) == folders[1] / "set/a.txt"
    path = put(folders[1], "set/a.txt.gz", b"abc")
    assert obtain(packed, plain) == path
    path = put(folders[0], "set/a.txt")
    assert obtain(packed, plain) == path


def test_a_file_without_mirrors_says_how_to_get_it(folders: tuple[Path, Path]) -> None:
    with pytest.raises(DataError) as caught:
        obtain(RemoteFile("set/a.bin", 3, SHA256), note="made by hand")
    for part in ("set/a.bin is not here", "AEVB_DATA", str(folders[1]), "(made by hand)"):
        assert part in str(caught.value)


def test_a_variable_that_names_no_folder_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEVB_DATA", str(tmp_path / "typo"))
    with pytest.raises(DataError, match=r"AEVB_DATA: expected a folder of data sets, found .*typo"):
        find(RemoteFile("set/a.bin", 3, SHA256))
