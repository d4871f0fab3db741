"""
The express lane's protocol, on texts: what is believed, and what is a doubt.
"""

from __future__ import annotations

import pytest

from ferry.worker.git.express.wire import DoubtError, Read, read_advert, read_report, update

REF = "refs/heads/main"
OLD, NEW = "1" * 40, "2" * 40
ABLE = "report-status report-status-v2 delete-refs side-band-64k quiet object-format=sha1 agent=git/2.39.5"


def _line(text: str | bytes) -> bytes:
    content = text.encode() if isinstance(text, str) else text
    return b"%04x" % (len(content) + 4) + content


def _reader(content: bytes) -> Read:
    left = bytearray(content)

    def read(size: int) -> bytes:
        if size > len(left):
            raise EOFError
        found = bytes(left[:size])
        del left[:size]
        return found

    return read


def _advert(*lines: str, able: str = ABLE) -> bytes:
    first, *more = lines or (f"{OLD} {REF}",)
    return b"".join([_line(f"{first}\0{able}\n"), *(_line(f"{line}\n") for line in more), b"0000"])


def _report(*lines: str, band: int = 1) -> bytes:
    return _line(bytes([band]) + b"".join(_line(f"{line}\n") for line in lines) + b"0000") + b"0000"


def test_the_tip_of_our_ref_is_found_among_others():
    found = read_advert(_reader(_advert(f"{NEW} refs/heads/a", f"{OLD} {REF}", f"{NEW} .have")), REF)
    assert (found.tip, "quiet" in found.capabilities) == (OLD, True)


def test_a_remote_without_our_ref_has_no_tip():
    assert read_advert(_reader(_advert(f"{'0' * 40} capabilities^{{}}")), REF).tip is None


@pytest.mark.parametrize(
    "said",
    [
        b"0000",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"0003",
        b"+123 a line",
        b"0_1f",
        _line("ERR access denied") + b"0000",
        _line("version 1\n") + _advert(),
        _advert(f"{OLD} {REF}", f"shallow {NEW}"),
        _advert(able="report-status side-band-64k object-format=sha256"),
        _advert(able="report-status side-band-64k no-thin"),
        _advert(able="report-status"),
        _advert(able="side-band-64k"),
        _advert(able=""),
    ],
)
def test_what_is_no_ordinary_list_of_refs_is_a_doubt(said: bytes):
    with pytest.raises(DoubtError):
        read_advert(_reader(said), REF)


@pytest.mark.parametrize("said", [b"", b"00", _advert()[:-4], _advert()[:20]])
def test_a_list_that_ends_early_has_ended(said: bytes):
    with pytest.raises(EOFError):
        read_advert(_reader(said), REF)


def test_a_list_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ferry.worker.git.express.wire._MOST_BYTES", 1000)
    with pytest.raises(DoubtError, match="too many refs"):
        read_advert(_reader(_advert(*[f"{OLD} refs/heads/{number}" for number in range(100)])), REF)


def test_the_request_names_the_old_tip_and_what_both_sides_can_do():
    request = update(REF, old=OLD, new=NEW, capabilities=frozenset(ABLE.split()))
    wanted = "report-status-v2 side-band-64k object-format=sha1 quiet agent=ferry"
    assert request == _line(f"{OLD} {NEW} {REF}\0 {wanted}") + b"0000"


@pytest.mark.parametrize(("old", "new"), [("0" * 40, NEW), (OLD, "0" * 40), ("", NEW), (OLD, "")])
def test_no_request_creates_or_removes_a_ref(old: str, new: str):
    with pytest.raises(ValueError, match="not an update"):
        update(REF, old=old, new=new, capabilities=frozenset())


def test_a_clean_report_is_believed_and_what_a_hook_prints_is_kept():
    said = bytearray()
    keep_alive = b"0005\x01"
    content = keep_alive + _line(b"\x02hello\n") + _report("unpack ok", f"ok {REF}")
    read_report(_reader(content), REF, said.extend)
    assert said == b"hello\n"


@pytest.mark.parametrize(
    "said",
    [
        b"0000",
        _report("unpack ok"),
        _report(f"ok {REF}"),
        _report("unpack ok", "ok refs/heads/other"),
        _report("unpack ok", f"ok {REF}", "ok refs/heads/other"),
        _report("unpack ok", f"ok {REF}", f"option refname {REF}2"),
        _report("unpack ok", f"ng {REF} hook declined"),
        _report("unpack index-pack abnormal exit", f"ok {REF}"),
        _report("unpack ok", f"ok {REF}", band=3),
        _report("unpack ok", f"ok {REF}", band=7),
        _line(b"\x01" + _line("unpack ok\n") + _line(f"ok {REF}\n")) + b"0000",
        _line(b"\x01" + _line("unpack ok\n") + b"00") + b"0000",
        _line("unpack ok\n") + _line(f"ok {REF}\n") + b"0000",
        b"nonsense",
    ],
)
def test_any_other_report_is_a_doubt(said: bytes):
    with pytest.raises(DoubtError):
        read_report(_reader(said), REF, bytearray().extend)


@pytest.mark.parametrize("cut", [1, 4, 5, 20])
def test_a_report_that_is_cut_off_is_not_believed(cut: int):
    with pytest.raises(EOFError):
        read_report(_reader(_report("unpack ok", f"ok {REF}")[:-cut]), REF, bytearray().extend)
