"""Access tokens: made, listed, revoked; never kept in plain text; what they allow."""

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from service.edge import access_tokens
from service.errors import StartError
from tests.cli.test_start import NOWHERE, refused, run
from tests.support.clickhouse import query
from tests.support.service import STATS, Service


def test_a_new_token_is_shown_once_and_only_its_hash_is_kept(tmp_path: Path) -> None:
    done = run(tmp_path, "token", "new", "--name", "web", "--scope", "write", ANALYTICS_TOKENS_FILE="t.json")
    token = done.stdout.strip()
    assert done.returncode == 0
    assert token.startswith("web_")
    assert len(token) > 40
    file = tmp_path / "t.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    [entry] = json.loads(file.read_text())["tokens"]
    assert entry == {"name": "web", "scopes": ["write"], "sha256": access_tokens.digest(token).hex()}
    assert access_tokens.from_file(file) == {
        access_tokens.digest(token): access_tokens.AccessToken("web", frozenset({"write"}))
    }


def test_tokens_are_listed_and_revoked_by_name(tmp_path: Path) -> None:
    for name in ("web", "bi"):
        run(tmp_path, "token", "new", "--name", name, "--scope", "read", "--scope", "write")
    assert run(tmp_path, "token", "list").stdout == "web\tread,write\nbi\tread,write\n"
    assert run(tmp_path, "token", "revoke", "--name", "web").returncode == 0
    assert run(tmp_path, "token", "list").stdout == "bi\tread,write\n"
    assert "has no token named web" in refused(run(tmp_path, "token", "revoke", "--name", "web"))


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "ä", "a,b"])
def test_a_name_that_would_not_do_as_source_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(StartError, match="is not a valid name for a token"):
        access_tokens.create(tmp_path / "t.json", name, ["write"])


def test_a_name_is_given_once(tmp_path: Path) -> None:
    access_tokens.create(tmp_path / "t.json", "web", ["write"])
    with pytest.raises(StartError, match="already has a token named web"):
        access_tokens.create(tmp_path / "t.json", "web", ["read"])


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"tokens":[{"name":"x"}]}', '{"tokens":[{"name":"x","scopes":["admin"],"sha256":"00"}]}']
)
def test_a_damaged_tokens_file_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.json"
    path.write_text(text)
    path.chmod(0o600)
    line = refused(run(tmp_path, "serve", ANALYTICS_TOKENS_FILE="t.json", ANALYTICS_CLICKHOUSE_DSN=NOWHERE))
    assert "the tokens file t.json is damaged" in line


def test_a_tokens_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    access_tokens.create(path, "web", ["write"])
    path.chmod(0o644)
    with pytest.raises(StartError, match="chmod 600"):
        access_tokens.from_file(path)


def test_tokens_of_the_environment_and_of_the_file_are_known_together(
    make_service: Callable[..., Service], server_dsn: str, tmp_path: Path
) -> None:
    both = access_tokens.create(tmp_path / "t.json", "web", ["write", "read"])
    service = make_service(
        server_dsn,
        ANALYTICS_TOKENS_FILE=tmp_path / "t.json",
        ANALYTICS_WRITE_TOKENS="one, two ,,three",
        ANALYTICS_READ_TOKENS="three",
    ).start()
    for token in ("one", "two", "three", both):
        assert service.post({"event_name": "e"}, token=token).status == 200
    assert service.post({"event_name": "e"}, token="one, two").status == 401
    assert [service.get(STATS, token).status for token in ("one", "three", both)] == [403, 200, 200]
    stats = service.send("GET", STATS, token="three")
    assert stats.status == 200
    from tests.support import wait_until

    sources = wait_until(
        lambda: (found := query(server_dsn, "SELECT DISTINCT source FROM events")) and len(found) == 4 and found
    )
    names = {name for (name,) in sources}
    assert names == {"web"} | {f"env-{access_tokens.digest(one).hex()[:8]}" for one in ("one", "two", "three")}
