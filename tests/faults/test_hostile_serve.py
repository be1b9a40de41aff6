"""Malicious and damaged requests to serve: each is answered in JSON with a known status, and none is a server error."""

import json

import pytest
from hostile import examples, mutated
from hypothesis import given
from hypothesis import strategies as st
from served import Client, picture, tiny_classifier

pytestmark = pytest.mark.medium

STATUSES = {200, 400, 403, 404, 405, 413, 415, 421}
PICTURES = [picture(format, side=12) for format in ("png", "jpeg", "gif", "webp", "tiff", "ppm", "bmp")]
FORM = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
FORMS = [FORM + content + b"\r\n--b--\r\n" for content in PICTURES]
FORMS += [b'--b\r\nContent-Disposition: form-data; name="note"\r\n\r\ntext\r\n' + FORMS[0], FORM, b"--b--\r\n"]
KIND = b"multipart/form-data; boundary=b"

VALUES = st.one_of(
    st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.binary(max_size=40),
    st.sampled_from([KIND, b"multipart/form-data", b"127.0.0.1", b"[::1]:8000", b"http://127.0.0.1:8000", b"null"]),
    mutated([KIND, b'multipart/form-data; charset=utf-8; boundary="b"', b"http://127.0.0.1:8000", b"same-origin"]),
    st.integers(-(10**30), 10**30).map(lambda number: str(number).encode()),
    st.sampled_from([b"9" * 5_000, b"1e9", b"\xb2", b"0x10", b" 7", b"+7", b"7_0"]),
)
NAMES = ["host", "origin", "sec-fetch-site", "content-length", "content-type", "content-disposition", "expect", "x"]
HEADERS = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=3)


@pytest.fixture(scope="module")
def client():
    return Client(tiny_classifier())


def check(response, capfd):
    assert response is not None
    assert response.status_code in STATUSES
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == (["classes"] if response.status_code == 200 else ["error"])
    assert "\n" not in response.json().get("error", "")
    assert "Traceback" not in capfd.readouterr().err


@given(mutated(PICTURES))
@examples(0.3)
def test_damaged_picture_is_answered(watch, client, capfd, body):
    response = watch(client.predict, body)
    check(response, capfd)
    assert response.status_code in (200, 400, 415)


@given(mutated(FORMS) | st.binary(max_size=200), mutated([KIND]) | st.just(KIND))
@examples(0.4)
def test_damaged_form_is_answered(watch, client, capfd, body, kind):
    check(watch(lambda: client.predict(body, headers=[("content-type", kind)])), capfd)


@given(HEADERS, st.sampled_from(PICTURES[:2] + FORMS[:2] + [b""]))
@examples(0.2)
def test_arbitrary_headers_are_answered(watch, client, capfd, headers, body):
    check(watch(lambda: client.predict(body, headers=list(headers.items()))), capfd)


METHODS = st.sampled_from(["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY", "CONNECT", "x"])
PATHS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)


@given(METHODS, PATHS | st.just("predict"), st.binary(max_size=20))
@examples(0.1)
def test_arbitrary_paths_and_methods_are_answered(watch, client, capfd, method, path, body):
    check(watch(lambda: client(method, f"http://127.0.0.1:8000/{path}", content=body)), capfd)


def test_answers_are_strict_json(client):
    json.loads(client.predict(picture()).content, parse_constant=pytest.fail)
