"""The files that browsers load: packed for those who take that, and not sent again to those who have them."""

import gzip
from collections.abc import Callable

import pytest

from service.api.web.assets import has, prefers_gzip
from tests.cli.test_start import NOWHERE
from tests.support.service import Service

pytestmark = pytest.mark.quick

PATHS = ("/tracker.js", "/dashboard", "/dashboard/dashboard.js", "/dashboard/uPlot.min.css")


@pytest.mark.parametrize(
    ("accepted", "packed"),
    [
        ("", False),
        ("gzip", True),
        ("gzip, deflate, br, zstd", True),
        ("GZip;Q=1.0", True),
        ("x-gzip", True),
        ("*", True),
        ("gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("gzip;q=0, *", False),
        ("*;q=0", False),
        ("*;q=0, gzip;q=0.1", True),
        ("br", False),
        ("notgzip", False),
        ("identity", False),
        ("identity, gzip;q=0.5", False),
        ("identity;q=0.5, gzip", True),
        ("identity;q=0, gzip", True),
        ("identity;q=0", False),
        ("identity;q=0, *;q=0", False),
        ("gzip;q=nonsense", False),
        (" , ;q=1, gzip ;q=0.2 ", True),
    ],
)
def test_a_file_is_packed_for_who_takes_that(accepted: str, packed: bool) -> None:
    assert prefers_gzip(accepted) is packed


@pytest.mark.parametrize(
    ("given", "known"),
    [
        ('"tag"', True),
        ('W/"tag"', True),
        ('"other", W/"tag"', True),
        ('"other","tag" , "more"', True),
        ("*", True),
        (" * ", True),
        ('"a, b", "tag"', True),
        ('"*"', False),
        ('"tag-gzip"', False),
        ("tag", False),
        ("", False),
        ('W/tag, w"tag', False),
    ],
)
def test_a_tag_is_known_by_weak_comparison(given: str, known: bool) -> None:
    assert has("tag", given) is known


def test_files_are_negotiated_and_revalidated(make_service: Callable[..., Service]) -> None:
    service = make_service(NOWHERE).start()
    for path in PATHS:
        plain = service.send("GET", path, Accept_Encoding="gzip;q=0")
        packed = service.send("GET", path, Accept_Encoding="br, gzip")
        assert "Content-Encoding" not in plain.headers
        assert packed.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(packed.body) == plain.body
        for answer, accepted in ((plain, "identity"), (packed, "gzip")):
            tag = answer.headers["Etag"]
            assert answer.headers["Vary"] == "Accept-Encoding"
            head = service.send("HEAD", path, Accept_Encoding=accepted)
            assert (head.status, head.body, head.headers["Etag"]) == (200, b"", tag)
            assert int(head.headers["Content-Length"]) == len(answer.body)
            for given in (tag, f"W/{tag}", f'"x", W/{tag}', "*"):
                for method in ("GET", "HEAD"):
                    again = service.send(method, path, Accept_Encoding=accepted, If_None_Match=given)
                    assert (again.status, again.body) == (304, b""), (path, given)
                    assert again.headers["Etag"] == tag
                    assert again.headers["Vary"] == "Accept-Encoding"
            assert service.send("GET", path, Accept_Encoding=accepted, If_None_Match='W/"other"').status == 200
