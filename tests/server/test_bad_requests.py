"""Bodies, ids, names and headers that no honest client sends: a stated refusal, never an error of ours."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator

import pytest
from running_gateways import SMALL, Inside, gateway_inside

from rushes.server.bounds import Bounds

BOUNDS = Bounds(header_bytes=16_384, header_s=0.5, body_bytes=100_000, body_s=0.5, stall_s=0.5)
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    with gateway_inside(tmp_path_factory.mktemp("bad") / "store", bounds=BOUNDS) as found:
        yield found


def refused(inside: Inside, body: bytes | str, status: int = 400, **headers: str) -> dict:
    answer = inside.client.post("/v1/videos", content=body, headers={**JSON, **headers})
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["request_id"] == answer.headers["x-request-id"]
    return error


def raw(inside: Inside, data: bytes, *, timeout_s: float = 10.0) -> bytes:
    """What comes back for these bytes until the server closes."""
    with socket.create_connection(inside.address, timeout=timeout_s) as found:
        found.sendall(data)
        return received(found)


def received(found: socket.socket) -> bytes:
    parts = []
    try:
        while part := found.recv(65_536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


BAD_JSON = {
    "empty": b"",
    "cut off": b'{"prompt": "a',
    "not an object": b"[1, 2]",
    "a number": b"12",
    "null": b"null",
    "NaN": b'{"prompt": "a", "flow_shift": NaN}',
    "infinity": b'{"prompt": "a", "flow_shift": -Infinity}',
    "twice": b'{"prompt": "a", "prompt": "b"}',
    "twice within": b'{"prompt": {"a": 1, "a": 2}}',
    "deep": b"[" * 45_000 + b"]" * 45_000,
    "deep objects": b'{"a":' * 9_000 + b"1" + b"}" * 9_000,
    "deeper than any of ours": b'{"prompt": ' + b"[" * 100 + b"]" * 100 + b"}",
    "deep and long": b'{"prompt": "' + b"x" * 40_000 + b'", "a": ' + b"[" * 950 + b"]" * 950 + b"}",
    "no text": b"\xff\xfe\x00",
    "half a pair": b'{"prompt": "\\ud800"}',
    "half a pair in UTF-16": '{"prompt": "\\ud800"}'.encode("utf-16"),
    "half a pair as bytes": b'{"prompt": "\xed\xa0\x80"}',
    "half a pair in a name": b'{"\\udc00": 1}',
    "too many lists": b'{"prompt": [' + b"[]," * 30_000 + b"[]]}",
    "too many lists in UTF-16": ('{"\u2200": ' + "[" * 26_000).encode("utf-16-le"),
    "lists, then a text without an end": b'{"a": ' + b"[" * 26_000 + b'\\"' * 30_000,
    "long number": b'{"prompt": "a", "seed": ' + b"9" * 5_000 + b"}",
}


@pytest.mark.parametrize("body", BAD_JSON.values(), ids=BAD_JSON)
def test_what_is_no_json_of_ours(inside: Inside, body: bytes):
    assert refused(inside, body)["code"] == "invalid_json"


BAD_FIELDS = {
    "width": [-64, 0, 65, 64.5, 1e400, "64", True, [64], 2**70, {"a": 1}],
    "num_frames": [-1, 0, 10**9, "many"],
    "num_inference_steps": [0, -5, 1.5],
    "flow_shift": [-1, "x"],
    "seed": [-1, 2**64, 1.5, "7"],
    "fps": [0, -16, 1e9],
    "prompt": ["", " ", 7, None, ["a"], "x" * 50_000],
    "model": ["../../etc/passwd", "none", 3, "toy\0"],
    "size": ["64", "x", "64x", "-64x64", "64x64x64", 64, "99999x99999"],
    "seconds": ["", "-1", "nan", "inf", 1e300, [], True],
    "priority": ["urgent", 1],
    "degrade": ["yes", 1],
    "deadline_s": [0, -1, "soon", 1e300],
    "preview_every": [-1, 1.5, 10**6],
    "preset": ["none", 5],
    "mode": ["sideways", 5],
    "input_reference": ["a.png", {"file_id": "x"}],
    "lora": ["../../secret"],
    "unknown": [1],
    "__class__": [1],
}


@pytest.mark.parametrize("field", BAD_FIELDS)
def test_a_field_that_breaks_its_rule_is_named(inside: Inside, field: str):
    for value in BAD_FIELDS[field]:
        error = refused(inside, json.dumps({**SMALL, field: value}).replace("Infinity", "1e400"))
        assert error["code"] == "invalid_request", error
        assert error["message"], (field, value)
        assert error["field"] == error["param"] == field, (value, error)


def test_a_field_is_named_as_it_was_given(inside: Inside):
    wrong = {"size": ("100x64", "100x64: width must be"), "seconds": (3600, "3600: num_frames must be")}
    for name, (value, says) in wrong.items():
        body = {key: SMALL[key] for key in SMALL if key not in ("width", "height", "num_frames")}
        error = refused(inside, json.dumps({**body, name: value}))
        assert (error["field"], error["value"]) == (name, value)
        assert error["message"].startswith(f"{name}: {says}"), error
    error = refused(inside, json.dumps({**SMALL, "wdth": 64}))
    assert (error["field"], error["value"]) == ("wdth", 64)
    assert "did you mean 'width'" in error["rule"]


def test_an_empty_prompt_is_told_without_pythons_words(inside: Inside):
    for prompt, says in (("", "prompt: must not be empty"), (" \n", "prompt: must not be empty, and this")):
        message = refused(inside, json.dumps({**SMALL, "prompt": prompt}))["message"]
        assert message.startswith(says)
        assert "(str)" not in message


def test_a_long_value_is_not_sent_back_whole(inside: Inside):
    error = refused(inside, json.dumps({**SMALL, "size": "9" * 90_000}))
    assert len(json.dumps(error)) < 1000


def test_a_large_value_is_not_sent_back_whole(inside: Inside):
    error = refused(inside, json.dumps({**SMALL, "size": [{"a": [n, None]} for n in range(4_000)]}))
    assert error["value"] == repr([{"a": [n, None]} for n in range(50)])[:197] + "..."
    assert "got [{'a': [0, None]}," in error["message"]


def test_json_in_other_encodings_and_with_whole_pairs(inside: Inside):
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        body = json.dumps({**SMALL, "prompt": "a dog \U0001f415"}).encode(encoding)
        answer = inside.client.post("/v1/videos", content=body, headers=JSON)
        assert answer.status_code == 200, answer.text
        assert answer.json()["prompt"] == "a dog \U0001f415"


def test_a_body_that_is_too_long(inside: Inside):
    """Told before it is read, and in mid-way where its length was not told; the client sees the answer."""
    body = json.dumps({**SMALL, "prompt": "x" * 10_000_000}).encode()
    assert refused(inside, body, 413)["code"] == "body_too_large"

    def chunks() -> Iterator[bytes]:
        for begin in range(0, len(body), 50_000):
            yield body[begin : begin + 50_000]

    answer = inside.client.post("/v1/videos", content=chunks(), headers=JSON)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


def drip(found: socket.socket, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found.sendall(b" ")
        time.sleep(0.1)


def test_a_body_that_comes_too_slowly(inside: Inside):
    head = (
        b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Type: application/json\r\nContent-Length: 50\r\n\r\n"
    )
    begin = time.monotonic()
    with socket.create_connection(inside.address, timeout=10) as found:
        found.sendall(head + b'{"pro')
        answer = found.recv(65_536)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"body_too_slow" in answer
        # Who goes on dripping behind the answer is let go.
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            drip(found, 15.0)
    assert time.monotonic() - begin >= 0.5


def test_headers_that_never_end(inside: Inside):
    begin = time.monotonic()
    answer = raw(inside, b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
    assert answer.startswith(b"HTTP/1.1 408")
    assert raw(inside, b"").startswith(b"HTTP/1.1 408"), "a connection on which nothing is said"
    assert time.monotonic() - begin < 8
    answer = raw(inside, b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"a" * 60_000)
    assert answer.startswith(b"HTTP/1.1 431")
    many = b"".join(b"X-%d: y\r\n" % number for number in range(20_000))
    assert raw(inside, b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + many).startswith(b"HTTP/1.1 431")


def test_one_that_keeps_a_connection_alive_may_be_slow_between_requests(inside: Inside):
    request = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with socket.create_connection(inside.address, timeout=10) as found:
        for _ in range(2):
            found.sendall(request)
            assert found.recv(65_536).startswith(b"HTTP/1.1 200")
            time.sleep(0.8)  # more than `header_s`
        found.sendall(request)
        assert found.recv(65_536).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "data",
    [
        b"GARBAGE\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nBad Header: y\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n",
        b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_what_is_no_http(inside: Inside, data: bytes):
    assert b"HTTP/1.1 500" not in raw(inside, data)
    assert inside.client.get("/health").status_code == 200


BAD_FORMS = {
    "no boundary": ("multipart/form-data", b"x"),
    "another boundary": ("multipart/form-data; boundary=a", b"--b\r\n\r\n--b--"),
    "cut off": (
        "multipart/form-data; boundary=a",
        b'--a\r\nContent-Disposition: form-data; name="prompt"\r\n',
    ),
    "no name": (
        "multipart/form-data; boundary=a",
        b"--a\r\nContent-Disposition: form-data\r\n\r\nx\r\n--a--",
    ),
    "twice": (
        "multipart/form-data; boundary=a",
        b'--a\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nx\r\n' * 2 + b"--a--\r\n",
    ),
    "many fields": (
        "multipart/form-data; boundary=a",
        b"".join(b'--a\r\nContent-Disposition: form-data; name="f%d"\r\n\r\nx\r\n' % n for n in range(300))
        + b"--a--\r\n",
    ),
    "bad charset": ("multipart/form-data; boundary=a; charset=none", b"--a--\r\n"),
    "a long boundary": ("multipart/form-data; boundary=" + "a" * 5000, b"--" + b"a" * 5000 + b"--\r\n"),
}


@pytest.mark.parametrize(("kind", "body"), BAD_FORMS.values(), ids=BAD_FORMS)
def test_what_is_no_form_of_ours(inside: Inside, kind: str, body: bytes):
    answer = inside.client.post("/v1/videos", content=body, headers={"Content-Type": kind})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] in ("invalid_multipart", "invalid_request")


def test_a_form_is_as_good_as_json(inside: Inside):
    fields = {name: str(value) for name, value in SMALL.items()}
    made = inside.client.post("/v1/videos", files={name: (None, text) for name, text in fields.items()})
    assert made.status_code == 200, made.text
    assert made.json()["width"] == 64
    file = inside.client.post("/v1/videos", data=fields, files={"input_reference": ("a.png", b"png")})
    assert (file.status_code, file.json()["error"]["field"]) == (400, "input_reference")


def test_another_type_of_body(inside: Inside):
    for kind in ("text/plain", "application/xml", "", "application/json2"):
        answer = inside.client.post("/v1/videos", content=b"{}", headers={"Content-Type": kind})
        assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")


def test_json_that_is_sent_as_a_form_is_told_what_it_lacks(inside: Inside):
    headers = {"Content-Type": "application/x-www-form-urlencoded"}  # by curl, where -d stands alone
    answer = inside.client.post("/v1/videos", content=json.dumps(SMALL), headers=headers)
    assert answer.status_code == 415
    assert "send Content-Type: application/json" in answer.json()["error"]["message"]


BAD_IDS = [
    "../../../../etc/passwd",
    "..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/jobs.sqlite",
    "..%5c..%5cwindows",
    "%00",
    "a" * 5000,
    "0" * 32 + "%0aX-Injected:%201",
    "0" * 32 + ".mp4",
    "F" * 32,
    "é" * 32,
    "' OR 1=1 --",
    "%ff%fe",
    "0" * 32,
]


@pytest.mark.parametrize("bad", BAD_IDS)
def test_ids_that_can_be_none(inside: Inside, bad: str):
    for more in ("", "/content", "/events", "/stream", "/preview", "/content?variant=../../jobs.sqlite"):
        answer = inside.client.get(f"/v1/videos/{bad}{more}")
        assert answer.status_code in (400, 404), (more, answer.text)
        assert answer.json()["error"]["code"] in ("not_found", "invalid_request")
        assert "x-injected" not in answer.headers
    assert inside.client.delete(f"/v1/videos/{bad}").status_code in (404, 405)


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=-1", "limit=101", "limit=x", "order=up", "after=" + "a" * 100, "limit=1e3"],
)
def test_queries_that_break_a_rule(inside: Inside, query: str):
    answer = inside.client.get(f"/v1/videos?{query}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert answer.json()["error"]["field"] == query.partition("=")[0]


def test_an_after_that_is_nobody_is_an_order_all_the_same(inside: Inside):
    for after in ("zz", "%00", "%ff", "0", "'; DROP TABLE jobs; --"):
        assert inside.client.get(f"/v1/videos?after={after}").status_code == 200
    assert inside.client.get("/v1/videos").status_code == 200


def test_request_ids_that_would_break_a_header_or_a_log(inside: Inside):
    for bad in ("a b", "a\tb", "x" * 65, "é", '"}', "a;b", ""):
        data = (
            b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Request-Id: "
            + bad.encode()
            + b"\r\n\r\n"
        )
        head = raw(inside, data).partition(b"\r\n\r\n")[0].lower()
        assert b"x-request-id: req_" in head, bad
    assert (
        inside.client.get("/health", headers={"X-Request-Id": "mine-1"}).headers["x-request-id"] == "mine-1"
    )


@pytest.mark.parametrize("key", ["", "x" * 256, "ä", "a\tb"])
def test_idempotency_keys_that_break_their_rule(inside: Inside, key: str):
    data = json.dumps(SMALL).encode()
    head = (
        b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\n"
        b"Connection: close\r\nContent-Type: application/json\r\n"
    )
    head += b"Content-Length: %d\r\nIdempotency-Key: %s\r\n\r\n" % (len(data), key.encode("latin-1"))
    answer = raw(inside, head + data)
    assert answer.startswith(b"HTTP/1.1 400"), answer
    assert b"Idempotency-Key" in answer


def test_a_key_with_another_body_is_a_conflict(inside: Inside):
    def ask(**fields):
        body = {"prompt": "a dog", "width": 64, "height": 64, **fields}
        return inside.client.post("/v1/videos", json=body, headers={"Idempotency-Key": "k1"})

    first, again = ask(), ask()
    assert (first.status_code, again.json()["id"]) == (200, first.json()["id"])
    for changed in ({"prompt": "a cat"}, {"num_frames": 5}, {"seed": 3}):
        answer = ask(**changed)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "idempotency_conflict")
    assert ask().json()["id"] == first.json()["id"]


def test_no_such_page_and_no_such_method(inside: Inside):
    for path in ("/v2", "/v1/video", "/studio/../../../../etc/passwd", "/studio/%2e%2e/%2e%2e/run.py"):
        answer = inside.client.get(path)
        assert answer.status_code == 404, path
        assert answer.json()["error"]["code"] == "not_found"
    for method in ("PUT", "PATCH"):
        answer = inside.client.request(method, "/v1/videos")
        assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
        assert "POST" in answer.headers["allow"] or "GET" in answer.headers["allow"]
