"""The user network's options, which program is taken, and passt where it is installed."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from pyvmm.backends.net import passt, slirp_abi
from pyvmm.backends.net.backend import open_netdev
from pyvmm.backends.net.user import dotted, parse
from pyvmm.config import NetConfig
from pyvmm.errors import ConfigError
from tests.support.guestnet import Guest
from tests.support.network import running_loop


def config(*options: tuple[str, str]) -> NetConfig:
    return NetConfig(id="n7", kind="user", options=options)


def test_defaults_are_qemus() -> None:
    options = parse(config())
    assert [dotted(each) for each in (options.network, options.mask, options.host, options.dns, options.dhcp)] == [
        "10.0.2.0", "255.255.255.0", "10.0.2.2", "10.0.2.3", "10.0.2.15",
    ]  # fmt: skip
    assert options.ipv6 and not options.restrict and options.forwards == ()


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        ("192.168.76.9/24", ["192.168.76.0", "192.168.76.2", "192.168.76.3", "192.168.76.15"]),
        ("172.20.0.0/255.255.0.0", ["172.20.0.0", "172.20.2.2", "172.20.2.3", "172.20.2.15"]),
        ("10.1.2.16/28", ["10.1.2.16", "10.1.2.18", "10.1.2.19", "10.1.2.31"]),
        ("10.5.5.5", ["10.5.5.0", "10.5.5.2", "10.5.5.3", "10.5.5.15"]),
    ],
)
def test_other_networks(net: str, expected: list[str]) -> None:
    if net.endswith("/28"):  # .31 is the broadcast address: the default does not fit
        with pytest.raises(ConfigError, match="dhcpstart"):
            parse(config(("net", net)))
        options = parse(config(("net", net), ("dhcpstart", "10.1.2.30")))
        expected = [*expected[:3], "10.1.2.30"]
    else:
        options = parse(config(("net", net)))
    assert [dotted(each) for each in (options.network, options.host, options.dns, options.dhcp)] == expected


def test_forwards() -> None:
    texts = ("tcp:127.0.0.1:2222-10.0.2.16:22", "udp::53-:5353", "::80-:8080", "tcp::1-:65535")
    options = parse(config(*(("hostfwd", text) for text in texts)))
    assert [(each.udp, each.host, each.host_port, each.guest, each.guest_port) for each in options.forwards] == [
        (False, "127.0.0.1", 2222, "10.0.2.16", 22),
        (True, "0.0.0.0", 53, "10.0.2.15", 5353),
        (False, "0.0.0.0", 80, "10.0.2.15", 8080),
        (False, "0.0.0.0", 1, "10.0.2.15", 65535),
    ]


_BAD_FORWARDS = ("", "tcp", "tcp:80-:80", "tcp::80-80", "sctp::1-:1", "tcp::0-:1", "tcp::1-:99999", "tcp::1", "tcp::1-x:y:2",
                 "tcp:host:1-:1", "tcp::١-:1", "tcp::1--:1")  # fmt: skip


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        *((("hostfwd", text), "hostfwd=") for text in _BAD_FORWARDS),
        (("net", "x"), "net=x"),
        (("net", "10.0.2.0/33"), "8 to 28"),
        (("net", "10.0.2.0/255.0.255.0"), "8 to 28"),
        (("net", "10.0.2.0/"), "net="),
        (("net", "10.2/24"), "such as 10.0.2.2"),
        (("host", "10.0.3.2"), "not an address of a host in 10.0.2.0/24"),
        (("dns", "10.0.2.255"), "not an address of a host"),
        (("dns", "10.0.2.2"), "each its own"),
        (("dhcpstart", "10.0.2.0"), "not an address"),
        (("restrict", "perhaps"), "restrict=on"),
        (("ipv4", "off"), "ipv4=off"),
        (("hostname", "x" * 33), "up to 32"),
        (("hostname", "ü"), "ASCII"),
        (("domainname", "a\nb"), "ASCII"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(option: tuple[str, str], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(config(option))
    assert problem in str(caught.value) and "-netdev user,id=n7" in str(caught.value)


def test_without_library_and_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slirp_abi, "load", lambda: None)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError) as caught:
        open_netdev(config())
    text = str(caught.value)
    assert "apt install libslirp0" in text and "passt" in text and "\n" not in text


def test_passts_command_line() -> None:
    given = (("hostfwd", "tcp:127.0.0.1:2222-:22"), ("hostfwd", "udp::53-:5353"), ("ipv6", "off"), ("domainname", "example.org"))
    words = passt.arguments(config(), parse(config(*given)), 9)
    text = " ".join(words)
    for part in ("--fd 9", "--tcp-ports 127.0.0.1/2222:22", "--udp-ports 0.0.0.0/53:5353", "--ipv4-only", "--search example.org",
                 "--address 10.0.2.15 --netmask 255.255.255.0 --gateway 10.0.2.2 --dns 10.0.2.3 --dns-forward 10.0.2.3"):  # fmt: skip
        assert part in text


@pytest.mark.parametrize("option", [("restrict", "on"), ("hostname", "box"), ("tftp", "/srv"), ("hostfwd", "tcp::1-10.0.2.16:1")])
def test_what_passt_cannot_do_is_said(option: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match="libslirp0"):
        passt.arguments(config(), parse(config(option)), 9)


def program(tmp_path: Path, body: str) -> str:
    path = tmp_path / "passt"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_a_passt_that_does_not_start(tmp_path: Path) -> None:
    options = parse(config())
    with pytest.raises(ConfigError, match="passt: Failed to bind port 80"):
        passt.open_passt(config(), options, program(tmp_path, "echo noise >&2; echo 'Failed to bind port 80' >&2; exit 1"))
    with pytest.raises(ConfigError, match="passt: status 7"):
        passt.open_passt(config(), options, program(tmp_path, "exit 7"))
    with pytest.raises(ConfigError, match="No such file"):
        passt.open_passt(config(), options, str(tmp_path / "none"))


def test_a_passt_that_never_gets_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passt, "_PATIENCE", 0.2)
    with pytest.raises(ConfigError, match="not ready in time"):
        passt.open_passt(config(), parse(config()), program(tmp_path, "exec sleep 100"))


def test_passt_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    if not passt.find():
        pytest.skip("passt is not installed")
    monkeypatch.setattr(slirp_abi, "load", lambda: None)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with running_loop() as loop, socket.create_server(("127.0.0.1", 0)) as server:
        wire = open_netdev(config(("hostfwd", f"tcp:127.0.0.1:{port}-:22")))
        guest = Guest(wire)
        wire.attach(loop, guest)
        assert wire.link
        guest.discover()
        assert loop.until(lambda: guest.dhcp)
        offer = guest.dhcp[0]
        guest.request(offer[0], offer[54])
        assert loop.until(lambda: len(guest.dhcp) == 2)
        assert dotted(int.from_bytes(guest.dhcp[1][0], "big")) == "10.0.2.15"
        guest.address = guest.dhcp[1][0]
        guest.ask("10.0.2.2")
        assert loop.until(lambda: guest.neighbours)
        connection = guest.connect("10.0.2.2", server.getsockname()[1])
        assert loop.until(lambda: connection.established)
        with server.accept()[0] as peer:
            peer.send(b"hello guest")
            assert loop.until(lambda: connection.received == b"hello guest")
        guest.listen.add(22)
        with socket.socket() as client:
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
            assert loop.until(lambda: len(guest.connections) == 2)
        wire.close()
