"""The page and the endpoint of serve, and its command."""

import asyncio
import json
import signal
import socket
import sys

import httpx
import pytest
from processes import call, command, start, train_command, write_dataset
from served import Client, picture, tiny_classifier

from cifar_flax import serve
from cifar_flax.data.pictures import read_image
from cifar_flax.serving import app as serving_app
from cifar_flax.serving import upload

HOST = "127.0.0.1"


@pytest.fixture(scope="module")
def classifier():
    return tiny_classifier()


@pytest.fixture(scope="module")
def client(classifier):
    return Client(classifier)


def assert_refused(response, status, words):
    assert response.status_code == status
    assert list(response.json()) == ["error"]
    assert words in response.json()["error"]
    assert "\n" not in response.json()["error"]


@pytest.mark.parametrize("format", ["png", "jpeg", "gif", "bmp", "webp", "tiff", "ppm"])
def test_answer_has_the_probabilities_of_predict_best_first(classifier, client, format):
    content = picture(format)
    response = client.predict(content)
    assert response.status_code == 200
    expected = classifier.most_probable(classifier(read_image(content, (8, 8, 3))[None])[0])
    assert response.json() == {"classes": expected}
    assert list(response.json()["classes"]) == list(expected)


def test_form_with_a_picture_is_answered_as_its_content(client):
    form = client.predict(data={"note": "text"}, files={"image": ("a.png", picture())})
    assert form.json() == client.predict(picture()).json()


def test_forms_without_one_picture_are_refused(client):
    two = [("image", ("a.png", picture())), ("image", ("b.png", picture()))]
    assert_refused(client.predict(files=two), 400, "2 files")
    assert_refused(client.predict(files={"image": (None, "text")}), 400, "0 files")
    assert_refused(client.predict(files=20 * two), 400, "more than 20 parts")
    for kind in ("multipart/form-data", "multipart/form-data; boundary=b"):
        assert_refused(client.predict(picture(), headers={"Content-Type": kind}), 400, "the form")


@pytest.mark.parametrize("content", [b"some text", picture()[:2_000], b"GIF89a", b"<svg/>"])
def test_body_that_is_no_picture_is_refused(client, content):
    assert_refused(client.predict(content), 415, "not a readable image")


def test_empty_body_is_refused(client):
    assert_refused(client.predict(), 400, "the body is empty")


def test_picture_with_too_many_pixels_is_refused_before_it_is_decoded(client):
    bomb = b"P5 10000 10000 255\n" + bytes(10)
    assert_refused(client.predict(bomb), 415, "10000 x 10000 pixels")


def test_body_that_is_too_large_is_refused_by_its_declared_and_its_real_size(client, monkeypatch):
    headers = {"Content-Length": str(upload.MAX_BYTES + 1)}
    assert_refused(client.predict(picture(), headers=headers), 413, "larger than 32 MiB")
    monkeypatch.setattr(upload, "MAX_BYTES", 2**20)
    assert_refused(client.predict(chunks()), 413, "larger than 1 MiB")
    assert_refused(client.predict(b"", headers={"Content-Length": "many"}), 400, "Content-Length")


async def chunks():
    for _ in range(3):
        yield bytes(2**19)


def test_slow_upload_is_refused(client, monkeypatch):
    async def stuck():
        yield picture()
        await asyncio.Event().wait()

    monkeypatch.setattr(upload, "UPLOAD_TIMEOUT", 0.01)
    assert_refused(client.predict(stuck()), 408, "did not arrive")


def test_too_many_pictures_at_once_are_refused(classifier, monkeypatch):
    monkeypatch.setattr(serving_app, "MAX_REQUESTS", 0)
    response = Client(classifier).predict(picture())
    assert_refused(response, 503, "too many pictures")
    assert response.headers["retry-after"] == "1"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8000", "evil.example:127.0.0.1", "[", ""])
@pytest.mark.parametrize("path", ["/", "/predict"])
def test_other_host_names_are_refused(client, host, path):
    method = "POST" if path == "/predict" else "GET"
    response = client(method, path, content=picture(), headers={"Host": host})
    assert_refused(response, 421, "the server has no name")


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:9000", "[::1]:8000", "192.168.1.2", "MyBox:8000"])
def test_addresses_and_the_given_host_are_accepted(classifier, host):
    client = Client(classifier, "mybox")
    headers = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
    assert client.predict(picture(), headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:3000"},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
def test_pictures_that_another_site_sends_are_refused(client, headers):
    assert_refused(client.predict(picture(), headers=headers), 403, "another web site")


def test_unknown_paths_and_methods_are_refused_in_json(client):
    assert_refused(client("GET", "/other"), 404, "the page is at /")
    assert_refused(client("GET", "/predict"), 405, "POST to /predict")
    assert_refused(client("PUT", "/"), 405, "POST to /predict")
    assert_refused(client("OPTIONS", "/predict", headers={"Origin": "http://evil.example"}), 403, "another web site")


def test_bug_is_reported_and_the_server_continues(classifier, monkeypatch, capsys):
    def fail(*arguments):
        raise RuntimeError("of the network")

    client = Client(classifier)
    with monkeypatch.context() as patched:
        patched.setattr(serving_app, "classify", fail)
        assert_refused(client.predict(picture()), 500, "RuntimeError: of the network")
    assert "RuntimeError: of the network" in capsys.readouterr().err
    assert client.predict(picture()).status_code == 200


def test_page_describes_the_run_and_needs_nothing_else(client):
    response = client("GET", "/")
    for words in ("tiny", "shades", "4 classes", "8 x 8 pixels, color", "87.50% test accuracy"):
        assert words in response.text
    assert "src=" not in response.text
    assert "http://" not in response.text
    assert "https://" not in response.text
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; connect-src 'self'; img-src blob: data:; script-src 'nonce-")
    assert policy != client("GET", "/").headers["content-security-policy"]
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_test_accuracy_of_an_unfinished_run_is_not_shown():
    client = Client(tiny_classifier(status="interrupted", experiment="<b>"))
    assert "accuracy" not in client("GET", "/").text
    assert "<h1>&lt;b&gt;</h1>" in client("GET", "/").text


def assert_error(capsys, *arguments, words):
    assert serve.main(["--workdir=missing", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert words in err
    return err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port=70000"], "--port: 70000 is not valid; use a number from 1 to 65535"),
        (["--port=a"], "argument --port: invalid int value: 'a'"),
        (["--host=no.such.invalid"], "--host: 'no.such.invalid' cannot be resolved"),
        (["--host="], "--host: '' cannot be resolved"),
        (["--host=" + 70 * "a"], "cannot be resolved"),
        (["--host=203.0.113.1", "--port=0"], "--host: 203.0.113.1 is not an address of this machine"),
        (["--port=0"], "--workdir: "),
    ],
    ids=str,
)
def test_unusable_arguments_are_reported(capsys, arguments, words):
    assert_error(capsys, *arguments, words=words)


def test_port_that_is_taken_is_reported(capsys):
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        assert_error(capsys, f"--port={port}", words=f"--port: {port} is already in use; choose another one")


@pytest.mark.parametrize("package", ["starlette", "uvicorn", "python_multipart"])
def test_missing_package_is_reported(capsys, monkeypatch, package):
    for name in [name for name in sys.modules if name.startswith(("cifar_flax.serving", f"{package}."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("cifar_flax.serving", None, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    err = assert_error(capsys, words=f"error: the page needs more packages, and {package}")
    assert err.endswith(" is not installed; run: pip install 'cifar_flax[serve]'\n")


@pytest.mark.parametrize(
    ("host", "url", "warns"),
    [("127.0.0.1", "127.0.0.1", False), ("localhost", "localhost", False), ("0.0.0.0", "localhost", True)],
)
def test_socket_that_others_can_reach_is_warned_of(capsys, host, url, warns):
    _, server = serve.import_serving()
    with server.open_socket(host, 0) as opened:
        assert server.url_of(opened, host) == f"http://{url}:{opened.getsockname()[1]}/"
    err = capsys.readouterr().err
    assert err == (f"--host: everybody in the network can reach {host}; without --host only this machine can\n" * warns)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A finished run of the MLP."""
    folder = tmp_path_factory.mktemp("served")
    assert call(train_command(write_dataset(folder / "d.npz"), folder / "w"))[0] == 0
    return folder / "w"


@pytest.mark.medium
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_command_announces_its_address_and_ends_with_a_signal(name, workdir, tmp_path):
    process = start(command("serve", f"--workdir={workdir}", "--port=0"))
    line = process.stdout.readline()
    assert line.endswith("is ready (mlp); Ctrl-C stops it\n"), process.stderr.read()
    response = httpx.post(f"{line.split()[0]}predict", content=picture(), trust_env=False)
    (tmp_path / "a.png").write_bytes(picture())
    assert response.status_code == 200
    process.send_signal(getattr(signal, name))
    out, err = process.communicate()
    assert (process.returncode, out, err) == (128 + getattr(signal, name), "", "")
    out = call(command("predict", f"--workdir={workdir}", "--json", tmp_path / "a.png"))[1]
    assert response.json()["classes"] == pytest.approx(json.loads(out)[0]["classes"])
