"""The quarantine through the real command and a real ClickHouse: a bad row costs itself, and comes back once."""

import json
import os
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.rows import CURRENT
from service.errors import Rejected
from service.spool.quarantine_entry import Entry, document_of
from tests.support import wait_until
from tests.support.quarantine import Rig
from tests.support.rows import rows_of
from tests.support.service import ANALYTICS, HEALTH, Service

Make = Callable[..., Service]


@pytest.fixture
def rig(make_service: Make, server_dsn: str) -> Rig:
    return Rig(make_service(server_dsn, ANALYTICS_FLUSH_INTERVAL=0.05).start(), server_dsn)


@pytest.fixture(params=["running", "stopped"])
def state(request: pytest.FixtureRequest, rig: Rig) -> Callable[[], object]:
    """Stops the service, or does not: a command must work either way."""
    return rig.service.stop if request.param == "stopped" else lambda: None


def test_a_bad_row_in_a_batch_of_10000_costs_only_itself(make_service: Make, server_dsn: str) -> None:
    rig = Rig(make_service(server_dsn, ANALYTICS_FLUSH_INTERVAL=600).start(), server_dsn)
    for start in range(0, 10_000, 100):
        rig.post(*(f"poison-{number}" if number == 6172 else f"s{number}" for number in range(start, start + 100)))
    rig.settle(1)
    stored = rig.stored()
    assert len(stored) == stored.total() == 9999
    assert "poison-6172" not in stored
    [entry] = rig.listed()
    assert (entry["event_name"], entry["code"], entry["tries"]) == ("named-poison-6172", 469, 1)
    assert entry["name"].endswith(".6172.json")
    rig.mend()
    rig.command("retry", "--all")
    rig.settle(0)
    assert rig.stored() == stored + Counter(["poison-6172"])


def test_list_show_and_drop(rig: Rig, state: Callable[[], object]) -> None:
    rig.post("poison-1", "good", "poison-2\t\x1b[31m")
    rig.settle(2)
    state()
    first, second = rig.names()
    lines = rig.command("list").stdout.splitlines()
    assert [line.split("\t")[0] for line in lines] == [first, second]
    _, time, code, reason, event_name = lines[1].split("\t")
    assert time.startswith("20")
    assert code == "469"
    assert "no_poison" in reason
    assert event_name == "named-poison-2\\t\\x1b[31m", "nothing that a terminal obeys"
    document = json.loads(rig.command("show", first).stdout)
    assert document["values"]["session_id"] == "poison-1"
    assert document["types"]["event_id"] == "UUID"

    dropped = rig.command("drop", first)
    assert (dropped.returncode, dropped.stdout) == (0, f"{first}\n")
    assert rig.names() == [second]
    again = rig.command("drop", first)
    assert again.returncode == 1
    assert again.stderr == f"analytics: the quarantine {rig.folder} has no entry named '{first}'\n"
    assert rig.command("drop", second, "../lock").returncode == 1
    assert rig.names() == [second], "all or none are named rightly"
    assert rig.command("drop", "--all").stdout == f"{second}\n"
    assert rig.command("list").stdout == ""
    rig.run_again()
    rig.mend()
    rig.settle(0)
    assert rig.stored() == Counter(["good"]), "dropped is dropped, even if the table would take it now"


@pytest.mark.parametrize("wrong", [["retry"], ["drop"], ["retry", "--all", "x"], ["show"], []])
def test_a_wrong_call_ends_with_2(tmp_path: Path, wrong: list[str]) -> None:
    assert subprocess.run([ANALYTICS, "quarantine", *wrong], capture_output=True, cwd=tmp_path).returncode == 2


def test_a_folder_that_is_none_of_ours_is_named(tmp_path: Path) -> None:
    done = subprocess.run([ANALYTICS, "quarantine", "drop", "--all"], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"there is no {tmp_path}/data/quarantine" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_list_that_is_cut_off_by_its_reader_is_no_error(rig: Rig) -> None:
    rig.post(*(f"poison-{number}" for number in range(20)))
    rig.settle(20)
    read, write = os.pipe()
    os.close(read)
    environment = os.environ | {"ANALYTICS_DATA_DIR": str(rig.service.data)}
    done = subprocess.run([ANALYTICS, "quarantine", "list"], env=environment, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert done.stderr == b""


def test_a_retried_row_is_stored_once_with_the_id_that_was_acknowledged(rig: Rig, state: Callable[[], object]) -> None:
    acknowledged = rig.service.post({"event_name": "e", "session_id": "poison-1"}).json["event_id"].replace("-", "")
    rig.post("good", "poison-2", "poison-3")
    rig.settle(3)
    rig.mend()
    state()
    stays = next(one["name"] for one in rig.listed() if one["event_name"] == "named-poison-3")
    back = [name for name in rig.names() if name != stays]
    done = rig.command("retry", *back)
    assert (done.returncode, sorted(done.stdout.splitlines())) == (0, back)
    assert rig.names() == [stays], "an entry is gone as soon as its row is on its way"
    assert rig.command("retry", *back).returncode == 1
    rig.run_again()
    rig.settle(1)
    assert rig.stored() == Counter(["good", "poison-1", "poison-2"])
    assert rig.ids()["poison-1"] == acknowledged
    wait_until(lambda: rig.service.stats()["buffer_status"]["events_pending"] == 0)
    assert rig.service.stats()["buffer_status"]["events_flushed_total"] == 3


def test_a_row_that_is_refused_again_is_back_with_its_number_of_tries(rig: Rig, state: Callable[[], object]) -> None:
    rig.post(*(f"poison-{number}" for number in range(5)))
    rig.settle(5)
    state()
    before = {json.dumps(json.loads((rig.folder / name).read_bytes())["values"]) for name in rig.names()}
    first = set(rig.names())
    for tries in (2, 3):
        assert rig.command("retry", "--all").returncode == 0
        rig.run_again()
        rig.settle(5)
        assert {one["tries"] for one in rig.listed()} == {tries}
    assert not first & set(rig.names()), "no name comes twice"
    assert before == {json.dumps(json.loads((rig.folder / name).read_bytes())["values"]) for name in rig.names()}
    rig.mend()
    rig.command("retry", "--all")
    rig.settle(0)
    assert rig.stored() == Counter(f"poison-{number}" for number in range(5))


def test_an_entry_whose_segment_is_still_in_the_spool_is_left_alone(rig: Rig) -> None:
    """As after a kill -9 between the entry and the end of its batch: the entry keeps its row from being sent."""
    for name in ("poison", "good"):  # the first alone, as a segment of one row
        rig.post(name)
        rig.settle(1)
    [name] = rig.names()
    assert rig.service.stop() == 0
    entry = json.loads((rig.folder / name).read_bytes())
    segment = rig.service.data / "spool" / f"{entry['token']}.1.sealed"
    segment.write_bytes(segment_of(rig.folder / name))
    for action in ("retry", "drop"):
        done = rig.command(action, "--all")
        assert (done.returncode, done.stdout) == (1, "")
        assert "its segment is still in the spool" in done.stderr
    rig.mend()
    rig.service.start()
    rig.settle(1)
    assert rig.stored() == Counter(["good"])
    assert rig.command("retry", name).returncode == 0
    rig.settle(0)
    assert rig.stored() == Counter(["good", "poison"])


def segment_of(path: Path) -> bytes:
    from schemas.payload import encode_header, encode_rows
    from service.spool.format import FILE_MAGIC, encode_frame
    from service.spool.quarantine_entry import Entry

    header, row = Entry(path, "", 0).row()
    return (
        FILE_MAGIC + encode_frame(encode_header(header), 0) + encode_frame(encode_rows([row], header.types).payload, 1)
    )


def test_thousands_go_back_as_a_few_batches(rig: Rig) -> None:
    rig.post("poison")
    rig.settle(1)
    rig.mend()
    document = json.loads((rig.folder / rig.names()[0]).read_bytes())
    for number in range(2500):
        document["values"] |= {"event_id": f"{number:032x}", "session_id": f"poison-{number}"}
        (rig.folder / f"0123456789ab-{number:016x}.0.json").write_text(json.dumps(document))
    rig.service.stop()
    assert len(rig.command("retry", "--all").stdout.splitlines()) == 2501
    assert [path.name.split(".")[1] for path in sorted((rig.service.data / "retry").iterdir())] == [
        "1000",
        "1000",
        "501",
    ]
    rig.service.start()
    rig.settle(0)
    assert rig.stored() == Counter(["poison", *(f"poison-{number}" for number in range(2500))])


def test_a_value_that_a_person_mended_is_stored_and_one_bent_beyond_sense_stays(rig: Rig) -> None:
    rig.post("poison-1", "poison-2", "poison-3")
    rig.settle(3)
    for name, change in zip(rig.names(), ({"session_id": "mended"}, {"timestamp": "yesterday"}, None), strict=True):
        document = json.loads((rig.folder / name).read_bytes())
        document["values"] |= change or {}
        (rig.folder / name).write_text(json.dumps(document) if change else "{")
    rig.mend()
    done = rig.command("retry", "--all")
    assert done.returncode == 1
    assert "timestamp is no whole number" in done.stderr
    assert len(rig.listed()) == 2
    rig.settle(2)
    assert rig.stored() == Counter(["mended"])
    assert rig.command("show", rig.names()[1]).stdout.endswith("00000000  7b" + " " * 47 + "{\n")


def test_entries_of_an_earlier_version_say_no_types_and_are_retried_all_the_same(rig: Rig) -> None:
    rig.post("poison")
    rig.settle(1)
    path = rig.folder / rig.names()[0]
    document = json.loads(path.read_bytes())
    path.write_text(json.dumps({name: one for name, one in document.items() if name not in ("types", "tries")}))
    rig.mend()
    assert rig.command("retry", "--all").returncode == 0
    rig.settle(0)
    assert rig.stored() == Counter(["poison"])


@pytest.mark.parametrize(
    ("column", "bent"),
    [
        *(("sequence", bent) for bent in (None, -1, 2**32, 1.0, "1", True)),
        *(("clock_skew", bent) for bent in (2**63, 0.5, "", False)),
    ],
)
def test_an_entry_gives_back_its_row_unless_a_person_bent_it_beyond_sense(
    tmp_path: Path, column: str, bent: object
) -> None:
    rows = rows_of({"event_name": "timed", "timestamp": 0, "sequence": 2**32 - 1}, {"event_name": "bare"}, sent_at=0)
    entry = Entry(tmp_path / "entry.json", "token", 0)
    for row in rows:
        document = document_of("token", 0, CURRENT, row, Rejected("no"))
        entry.path.write_bytes(document)
        assert entry.row() == (CURRENT._replace(tries=1), row)
        bent_document = json.loads(document)
        bent_document["values"][column] = bent
        entry.path.write_text(json.dumps(bent_document))
        with pytest.raises(ValueError, match=f"{column} is no whole number"):
            entry.row()


def test_damaged_bytes_are_listed_and_shown_but_not_retried(rig: Rig) -> None:
    name = "0123456789ab-0123456789abcdef.99.damaged"
    (rig.folder / name).write_bytes(b"\x1b[31mprecious\x00" * 1000)
    assert rig.command("list").stdout.split("\t")[2:] == ["-", "damaged: 14000 bytes", "-\n"]
    shown = rig.command("show", name).stdout
    assert "14000 bytes, of which the first 4096" in shown
    assert "1b 5b 33 31 6d 70 72 65 63 69 6f 75 73 00 1b 5b  .[31mprecious..[" in shown
    assert "\x1b" not in shown
    refused = rig.command("retry", name)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "damaged bytes can't be retried" in refused.stderr
    assert rig.command("retry", "--all").returncode == 0
    assert rig.names() == [name]
    assert rig.command("drop", "--all").stdout == f"{name}\n"
    assert rig.names() == []


def test_health_counts_what_is_there_and_the_start_warns_of_it(rig: Rig) -> None:
    def held() -> dict[str, int]:
        health = rig.service.get(HEALTH).json
        assert health["status"] == "ok"
        return health["quarantine"]

    assert held() == {"events": 0, "files": 0, "bytes": 0}
    rig.post("poison-1", "poison-2")
    (rig.folder / "0123456789ab-0123456789abcdef.99.damaged").write_bytes(b"x" * 10)
    rig.settle(3)
    size = sum(path.stat().st_size for path in rig.folder.iterdir())
    wait_until(lambda: held() == {"events": 2, "files": 1, "bytes": size}, 5, lambda: str(held()))
    assert "the quarantine holds" not in rig.service.log()
    rig.service.stop()
    rig.service.start()
    assert held() == {"events": 2, "files": 1, "bytes": size}
    assert f"the quarantine holds 2 events and 1 damaged files, {size} bytes" in rig.service.log()
    rig.command("drop", "--all")
    wait_until(lambda: held() == {"events": 0, "files": 0, "bytes": 0}, 5)
