"""Packets that ask (GDB manual E.4 General Query Packets), and ``monitor``."""

from __future__ import annotations

from pyvmm.observe.gdb import framing, target_xml
from pyvmm.observe.gdb.target import TargetError
from pyvmm.observe.gdb.words import numbers, thread, unhex

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.observe.gdb.session import Session

_XML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def _supported(session: Session, body: bytes) -> bytes:
    if session.refusal:
        raise TargetError(session.refusal)  # gdb shows the words of an error here; at "?" it would wait for ever
    session.features = {each[:-1].decode(errors="replace") for each in body.split(b";") if each.endswith(b"+")}
    features = [f"PacketSize={framing.PACKET_SIZE:x}", "QStartNoAckMode+", "qXfer:features:read+", "qXfer:threads:read+", "vContSupported+"]
    features += [f"{name}+" for name in ("swbreak", "hwbreak") if name in session.features]
    if session.target.reversible:
        features += ["ReverseStep+", "ReverseContinue+"]
    return ";".join(features).encode()


def _transfer(session: Session, body: bytes) -> bytes:
    """``object:read:annex:offset,length``."""
    parts = body.split(b":")
    if len(parts) != 4 or parts[1] != b"read":
        return b""
    what, _, annex, piece = parts
    start, length = numbers(piece)
    if what == b"features":
        if annex != b"target.xml":
            return b"E00"
        document = target_xml.document(session.description)
    elif what == b"threads" and not annex:
        if start == 0:
            session.threads_xml = _threads(session)
        document = session.threads_xml
    else:
        return b""
    if start > len(document):
        return b"E01"
    end = start + min(length, framing.PACKET_SIZE // 2 - 1)  # half: each byte may need an escape
    return (b"m" if end < len(document) else b"l") + framing.escape(document[start:end])


def _threads(session: Session) -> bytes:
    lines = ['<?xml version="1.0"?>', "<threads>"]
    if session.attached:
        for vcpu in range(session.target.vcpus()):
            words = "".join(_XML.get(each, each) for each in _describe(session, vcpu) if each.isprintable())
            lines.append(f'<thread id="{vcpu + 1:x}" core="{vcpu}" name="vCPU {vcpu}">{words}</thread>')
    return "\n".join([*lines, "</threads>", ""]).encode(errors="replace")


def _describe(session: Session, vcpu: int) -> str:
    if session.running:
        return "running"
    try:
        return session.target.describe(vcpu)
    except TargetError as problem:
        return str(problem)


def _first_threads(session: Session, body: bytes) -> bytes:
    ids = ",".join(f"{vcpu + 1:x}" for vcpu in range(session.target.vcpus()))
    return f"m{ids}".encode() if session.attached else b"l"


def _more_threads(session: Session, body: bytes) -> bytes:
    return b"l"


def _thread_words(session: Session, body: bytes) -> bytes:
    chosen = thread(body)
    if not 0 < chosen <= session.target.vcpus():
        return b"E01"
    return _describe(session, chosen - 1).encode(errors="replace").hex().encode()


def _current(session: Session, body: bytes) -> bytes:
    return b"QC%x" % (session.selected + 1)


def _attached(session: Session, body: bytes) -> bytes:
    return b"1"  # so that gdb detaches when it ends, and does not kill


def _symbols(session: Session, body: bytes) -> bytes:
    return b"OK"  # we want to know none


def _actions(session: Session, body: bytes) -> bytes:
    return b"vCont;c;C;s;S;r"


def monitor(session: Session, body: bytes) -> None:
    """``qRcmd``: gdb's ``monitor``."""
    session.command(unhex(body).decode(errors="replace") or "help")


HANDLERS: dict[bytes, Callable[[Session, bytes], bytes | None]] = {
    b"qSupported": _supported,
    b"qXfer": _transfer,
    b"qfThreadInfo": _first_threads,
    b"qsThreadInfo": _more_threads,
    b"qThreadExtraInfo": _thread_words,
    b"qC": _current,
    b"qAttached": _attached,
    b"qSymbol": _symbols,
    b"vCont?": _actions,
}
