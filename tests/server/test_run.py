"""The addresses that a server may bind, and connections that send nothing."""

import socket
import threading
import time

import pytest
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from templora_memory.errors import InvalidSetting
from templora_memory.server import serve
from templora_memory.server.run import header_limited_protocol
from templora_memory.testing import FakeBackend


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.com"])  # noqa: S104
def test_without_a_key_nothing_but_this_machine_is_served(tmp_path, host):
    with pytest.raises(InvalidSetting, match="no API key: make one"):
        serve(FakeBackend(), tmp_path, host=host)


@pytest.mark.enable_socket
@pytest.mark.parametrize("kind", ["auto", "h11"])
def test_a_head_that_does_not_arrive_ends_the_connection(make_app, monkeypatch, kind):
    if kind == "h11":
        monkeypatch.setattr("templora_memory.server.run.AutoHTTPProtocol", H11Protocol)
    config = uvicorn.Config(
        make_app(), port=0, log_config=None, http=header_limited_protocol(0.3), lifespan="on"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + 30
    while not server.started:
        assert time.monotonic() < end
        time.sleep(0.01)
    try:
        (port,) = {s.getsockname()[1] for one in server.servers for s in one.sockets}
        whole = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
        for before in (b"", whole):
            with socket.create_connection(("127.0.0.1", port), timeout=20) as line:
                if before:
                    line.sendall(before)
                    assert line.recv(4096).startswith(b"HTTP/1.1 200")
                line.sendall(b"GET /healthz HTTP/1.1\r\nhost: loc")
                while line.recv(4096):
                    pass  # what is left of the first answer, then the end
        with socket.create_connection(("127.0.0.1", port), timeout=20) as line:
            for _ in range(2):  # an idle connection between two requests is not a half request
                line.sendall(whole)
                answer = b""
                while b'{"status":"ok"}' not in answer:
                    answer += line.recv(4096)
                time.sleep(0.5)
    finally:
        server.should_exit = True
        thread.join(30)
