"""The spool on real files: what is durable, what recovery finds, what damage costs."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.payload import EncodedRows
from service.errors import StartError
from service.spool.format import FILE_MAGIC, encode_frame, frames
from service.spool.segment import Segment
from service.spool.spool import Contents, Spool

pytestmark = pytest.mark.quick

HEADER = b'["columns"]'


def make(folder: Path) -> Spool:
    (folder / "spool").mkdir(exist_ok=True)
    return Spool(folder / "spool", folder / "quarantine", HEADER)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return make(tmp_path)


def payloads(contents: Contents) -> list[bytes]:
    return [part.payload for part in contents.parts]


def seal(spool: Spool, *payloads: bytes) -> Segment:
    for payload in payloads:
        spool.append(EncodedRows(payload, 1))
    segment = spool.seal()
    assert segment
    return segment


def test_sealed_segment_gives_back_what_was_appended(spool: Spool) -> None:
    segment = seal(spool, b"one", b"", b"three")
    assert spool.read(segment).header == HEADER
    assert payloads(spool.read(segment)) == [b"one", b"", b"three"]
    assert segment.rows == 3
    assert segment.path.name == f"{segment.name}.3.sealed"
    assert segment.path.stat().st_mode & 0o077 == 0


def test_sealing_nothing_makes_no_segment_and_leaves_no_file(spool: Spool) -> None:
    assert spool.seal() is None
    assert list(spool.folder.iterdir()) == []
    assert spool.size == 0


def test_size_is_that_of_the_files(spool: Spool) -> None:
    first = seal(spool, b"x" * 1000)
    spool.append(EncodedRows(b"y" * 500, 1))
    assert spool.size == sum(path.stat().st_size for path in spool.folder.iterdir())
    spool.drop(first)
    assert spool.size == sum(path.stat().st_size for path in spool.folder.iterdir()) > 0


def test_names_are_unique_and_sort_by_age_even_if_the_clock_goes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = make(tmp_path)
    first = seal(spool, b"1")
    monkeypatch.setattr("time.time_ns", lambda: 10**18)
    names = [first.name, *(seal(spool, b"n").name for _ in range(20))]
    assert len(set(names)) == 21
    assert names == sorted(names)
    again = make(tmp_path)
    assert [one.name for one in again.recover()] == sorted(names)
    assert seal(again, b"later").name[:12] >= names[-1][:12]


@pytest.mark.parametrize("done", [True, False])
def test_a_rename_that_fails_or_only_says_so_leaves_a_segment_that_can_be_read(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, done: bool
) -> None:
    rename = os.rename

    def failing(*names: Path) -> None:
        if done:
            rename(*names)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "rename", failing)
    segment = seal(spool, b"one")
    assert payloads(spool.read(segment)) == [b"one"]
    spool.drop(segment)
    assert list(spool.folder.iterdir()) == []


def test_recovery_seals_the_open_segment_under_the_same_name(tmp_path: Path, spool: Spool) -> None:
    spool.append(EncodedRows(b"kept", 2))
    [path] = spool.folder.iterdir()
    [segment] = make(tmp_path).recover()
    assert segment.name == path.stem
    assert segment.rows == 2
    assert payloads(make(tmp_path).read(segment)) == [b"kept"]


def test_recovery_again_and_again_finds_the_same(tmp_path: Path, spool: Spool) -> None:
    seal(spool, b"1", b"2")
    spool.append(EncodedRows(b"3", 1))
    found = [make(tmp_path).recover() for _ in range(5)]
    assert found[0] == found[4]
    assert [segment.rows for segment in found[0]] == [2, 1]


def test_recovery_cuts_every_torn_tail_and_keeps_every_whole_frame(tmp_path: Path, spool: Spool) -> None:
    for payload in (b"first", b"second"):
        spool.append(EncodedRows(payload, 1))
    [path] = spool.folder.iterdir()
    whole = path.read_bytes()
    path.unlink()
    ends = [end for _, end, rows, _ in frames(whole) if rows]
    for length in range(len(whole) + 1):
        folder = tmp_path / f"cut-{length}"
        folder.mkdir()
        cut = make(folder)
        (cut.folder / path.name).write_bytes(whole[:length])
        segments = cut.recover()
        expected = [payload for payload, end in zip((b"first", b"second"), ends, strict=True) if end <= length]
        assert [payloads(cut.read(segment)) for segment in segments] == ([expected] if expected else [])
        assert not (folder / "quarantine").exists(), "a torn tail was never acknowledged: nothing to keep"
        assert cut.size == sum(one.stat().st_size for one in cut.folder.iterdir())


def test_a_flipped_bit_anywhere_costs_at_most_its_own_frame(tmp_path: Path, spool: Spool) -> None:
    sent = [b"alpha" * 5, b"beta" * 5, b"gamma" * 5]
    segment = seal(spool, *sent)
    whole = segment.path.read_bytes()
    spans = [(start, end) for start, end, _, _ in frames(whole)]
    for position in range(len(whole)):
        segment.path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        contents = spool.read(segment)
        hit = next((index for index, (start, end) in enumerate(spans) if start <= position < end), None)
        expected = [one for index, one in enumerate(sent, 1) if index != hit]
        assert payloads(contents) == expected, f"byte {position}"
    assert any(path.suffix == ".damaged" for path in (tmp_path / "quarantine").iterdir())


def test_damaged_bytes_are_copied_to_the_quarantine(tmp_path: Path, spool: Spool) -> None:
    segment = seal(spool, b"before", b"precious", b"after")
    whole = segment.path.read_bytes()
    segment.path.write_bytes(whole.replace(b"precious", b"preciouS"))
    assert payloads(spool.read(segment)) == [b"before", b"after"]
    [copy] = (tmp_path / "quarantine").iterdir()
    assert b"preciouS" in copy.read_bytes()


@pytest.mark.parametrize("stretch", [bytes(8), b"\xff" * 8, encode_frame(b"x", 1)[:9]])
def test_a_length_field_that_lies_is_not_believed(spool: Spool, stretch: bytes) -> None:
    segment = seal(spool, b"before", b"after")
    whole = segment.path.read_bytes()
    place = whole.index(encode_frame(b"after", 1))
    segment.path.write_bytes(whole[:place] + stretch + whole[place:])
    assert payloads(spool.read(segment)) == [b"before", b"after"]


@pytest.mark.parametrize("rows", [1, 5])
def test_damage_in_an_open_segment_is_counted_in_the_name_of_the_sealed_one(
    tmp_path: Path, spool: Spool, rows: int
) -> None:
    """Wherever a bit flips, what was acknowledged is read or missing; and what is missing has its bytes kept."""
    sent = [name * 20 * rows for name in (b"alpha", b"beta!", b"gamma")]
    for payload in sent:
        spool.append(EncodedRows(payload, rows))
    [path] = spool.folder.iterdir()
    whole = path.read_bytes()
    path.unlink()
    spans = [(start, end) for start, end, count, _ in frames(whole) if count]
    for position in range(len(whole)):
        if position == 7:  # the version of the format: see above
            continue
        again = make(tmp_path)
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x80]) + whole[position + 1 :])
        [segment] = again.recover()
        hit = next((index for index, (start, end) in enumerate(spans) if start <= position < end), None)
        contents = again.read(segment)
        assert payloads(contents) == [one for index, one in enumerate(sent) if index != hit], f"byte {position}"
        lost = segment.rows - sum(len(part) for part in contents.parts)
        rows_field = hit is not None and spans[hit][0] + 8 <= position < spans[hit][0] + 12
        assert lost == (0 if hit is None else 1 if rows_field else rows), f"byte {position}"
        [kept] = (tmp_path / "quarantine").iterdir()
        kept.unlink()
        again.drop(segment)


def test_an_open_segment_of_which_nothing_is_intact_is_lost_and_not_deleted_in_silence(
    tmp_path: Path, spool: Spool
) -> None:
    spool.append(EncodedRows(b"alpha" * 20, 5))
    [path] = spool.folder.iterdir()
    path.write_bytes(path.read_bytes().replace(b"alpha", b"ALPHA"))
    again = make(tmp_path)
    [segment] = again.recover()
    assert segment.rows == 5
    assert again.read(segment).parts == []
    [kept] = (tmp_path / "quarantine").iterdir()
    assert b"ALPHA" in kept.read_bytes()


def test_what_was_refused_and_could_not_be_cut_off_is_not_read(spool: Spool) -> None:
    segment = seal(spool, b"kept", b"too")
    with segment.path.open("ab") as file:
        file.write(encode_frame(b"refused", 1))
    assert spool.holds_all(segment)
    assert payloads(spool.read(segment)) == [b"kept", b"too"]


def test_a_later_format_is_refused_and_left_alone(tmp_path: Path, spool: Spool) -> None:
    path = spool.folder / "0123456789ab-0123456789abcdef.5.sealed"
    path.write_bytes(b"EVSPOOL4" + b"whatever")
    with pytest.raises(StartError, match="format '4'"):
        make(tmp_path).recover()
    assert path.exists()


def test_strange_files_are_reported_and_left_alone(spool: Spool) -> None:
    (spool.folder / "notes.txt").write_text("mine")
    assert spool.recover() == []
    assert spool.unknown_files == ["notes.txt"]
    assert (spool.folder / "notes.txt").read_text() == "mine"


def test_a_segment_deleted_by_hand_while_open_is_an_error_not_a_promise(spool: Spool) -> None:
    spool.append(EncodedRows(b"one", 1))
    for path in spool.folder.iterdir():
        path.unlink()
    with pytest.raises(OSError, match="deleted"):
        spool.append(EncodedRows(b"two", 1))


_IN_A_SMALL_FILE = """
import resource, signal, sys
from pathlib import Path
from schemas.payload import EncodedRows
from service.spool.spool import Contents, Spool

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
spool = Spool(Path(sys.argv[1]) / "spool", Path(sys.argv[1]) / "quarantine", b"header")
spool.append(EncodedRows(b"kept", 1))
try:
    spool.append(EncodedRows(b"x" * 5000, 1))
except OSError as error:
    print(error)
first = spool.seal()
spool.append(EncodedRows(b"next", 1))
second = spool.seal()
assert spool.size == first.size + second.size
"""


def test_a_failed_append_keeps_what_was_before_and_nothing_of_itself(spool: Spool, tmp_path: Path) -> None:
    """A real limit of the operating system: a write beyond 4000 bytes of a file is short. In a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", _IN_A_SMALL_FILE, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "short write" in done.stdout
    segments = spool.recover()
    assert [payloads(spool.read(one)) for one in segments] == [[b"kept"], [b"next"]]
    assert [one.path.stat().st_size for one in segments] == [one.size for one in segments]


def test_ranges_that_an_earlier_version_cut_are_read_and_go_with_their_segment(tmp_path: Path, spool: Spool) -> None:
    segment = seal(spool, b"1")
    path = spool.folder / f"{segment.name}.splits"
    path.write_bytes(b"\n0-8;\n4-8;\n4-")
    again = make(tmp_path)
    assert again.recover() == [segment._replace(splits=frozenset({(0, 8), (4, 8)}))], "a torn record is none"
    assert again.unknown_files == []
    again.drop(again.recover()[0])
    assert list(spool.folder.iterdir()) == []


def test_rows_with_ids_have_frames_of_their_own_and_the_name_counts_them(tmp_path: Path, spool: Spool) -> None:
    spool.append(EncodedRows(b"plain", 3), EncodedRows(b"ids", 2, True))
    spool.append(EncodedRows(b"more ids", 4, True))
    open_name = spool._path.name
    for segment in (spool.recover()[0], make(tmp_path).recover()[0]):  # sealed by recovery, then found sealed
        assert (segment.rows, segment.ids) == (9, 6)
        assert segment.path.name == f"{open_name.removesuffix('.open')}.9-6.sealed"
        assert [(part.payload, part.count, part.with_ids) for part in spool.read(segment).parts] == [
            (b"plain", 3, False),
            (b"ids", 2, True),
            (b"more ids", 4, True),
        ]
    assert spool.find(segment.name) == segment
    assert spool.find("0123456789ab-0123456789abcdef") is None


def test_probe_tells_whether_the_folder_takes_writes(spool: Spool) -> None:
    spool.probe(sync=True)
    assert list(spool.folder.iterdir()) == []
    spool.folder.rmdir()
    with pytest.raises(OSError, match="No such file"):
        spool.probe(sync=False)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.binary(max_size=60)),
            st.tuples(st.sampled_from(["seal", "crash", "drop", "torn"]), st.just(b"")),
        ),
        max_size=30,
    )
)
@settings(max_examples=60)
def test_whatever_is_appended_is_there_until_dropped(
    tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[str, bytes]]
) -> None:
    folder = tmp_path_factory.mktemp("model")
    spool, kept, pending = make(folder), [], []  # kept: lists of payloads by segment; pending: the open one's
    for action, payload in actions:
        if action == "append":
            spool.append(EncodedRows(payload, 1))
            pending.append(payload)
        elif action == "seal" and spool.seal():
            kept.append(pending)
            pending = []
        elif action == "drop" and kept:
            spool.drop(make(folder).recover()[0] if not pending else next(iter(sealed(spool))))
            kept.pop(0)
        elif action in ("crash", "torn"):
            if action == "torn" and pending:
                [open_file] = spool.folder.glob("*.open")
                with open_file.open("ab") as file:
                    file.write(encode_frame(b"never acknowledged", 1)[:-3])
            spool = make(folder)
            spool.recover()
            if pending:
                kept.append(pending)
                pending = []
        if not pending:
            found = make(folder).recover()
            assert [payloads(spool.read(one)) for one in found] == kept
            assert spool.size == sum(one.size for one in found)


def sealed(spool: Spool) -> list[Segment]:
    found = []
    for path in sorted(spool.folder.glob("*.sealed")):
        name, rows, _ = path.name.split(".")
        found.append(Segment(name, int(rows), path, path.stat().st_size))
    return found


def test_file_starts_with_the_magic_and_the_header(spool: Spool) -> None:
    segment = seal(spool, b"x")
    assert segment.path.read_bytes() == FILE_MAGIC + encode_frame(HEADER, 0) + encode_frame(b"x", 1)
    assert list(spool.folder.iterdir()) == [segment.path]
