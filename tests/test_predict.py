"""The output of predict: text, JSON, CSV and the progress bar."""

import csv
import io
import json

import pytest
from served import picture, tiny_classifier

from cifar_flax import predict
from cifar_flax.data.pictures import read_image

NAMES = ["dark", "middle", "light", "2"]


@pytest.fixture(scope="module")
def classifier():
    return tiny_classifier()


@pytest.fixture
def run(classifier, tmp_path, monkeypatch, capsys):
    """A function that runs predict on three pictures, the second broken; returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(predict, "load_run", lambda workdir, eval_batch_size: classifier)
    for seed, name in enumerate(("a, b.png", "broken.png", "c.png")):
        (tmp_path / name).write_bytes(picture(seed=seed)[: 100 if name == "broken.png" else None])

    def run(*arguments, images=("a, b.png", "broken.png", "c.png")):
        code = predict.main(["--workdir=w", *arguments, *images])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def expected(run, classifier):
    """The probabilities of all classes of the two readable pictures."""
    return {name: classifier(read_image(name, (8, 8, 3))[None])[0].tolist() for name in ("a, b.png", "c.png")}


def best(probabilities, count):
    order = sorted(range(len(NAMES)), key=lambda label: -probabilities[label])
    return {NAMES[label]: probabilities[label] for label in order[:count]}


@pytest.mark.parametrize(("arguments", "count"), [((), 3), (("--probabilities",), 4)])
def test_json_is_valid_although_a_picture_is_broken(run, expected, arguments, count):
    code, out, err = run("--json", *arguments)
    assert code == 2
    assert err.startswith("error: broken.png: ")
    assert err.count("\n") == 1
    results = json.loads(out)
    assert results == [{"image": name, "classes": best(p, count)} for name, p in expected.items()]
    assert [list(result["classes"]) for result in results] == [list(best(p, count)) for p in expected.values()]


def test_json_of_no_readable_picture_is_an_empty_list(run):
    code, out, _ = run("--json", images=("broken.png",))
    assert (code, json.loads(out)) == (2, [])


def test_csv_has_a_header_and_a_row_per_picture(run, expected):
    code, out, err = run("--csv")
    assert (code, err.count("\n")) == (2, 1)
    header, *rows = csv.reader(io.StringIO(out))
    assert ",".join(header) == "image,class_1,probability_1,class_2,probability_2,class_3,probability_3"
    for row, (name, probabilities) in zip(rows, expected.items(), strict=True):
        assert row[0] == name
        assert dict(zip(row[1::2], map(float, row[2::2]), strict=True)) == best(probabilities, 3)
        assert row[1::2] == list(best(probabilities, 3))


def test_csv_of_all_probabilities_has_a_column_per_class(run, expected):
    header, *rows = csv.reader(io.StringIO(run("--csv", "--probabilities")[1]))
    assert header == ["image", *NAMES]
    assert [[row[0], *map(float, row[1:])] for row in rows] == [[name, *p] for name, p in expected.items()]


def test_csv_is_valid_for_any_file_name(run, tmp_path):
    name = 'a "b",\n\rc.png'
    (tmp_path / name).write_bytes(picture())
    header, row = csv.reader(io.StringIO(run("--csv", images=(name,))[1], newline=""))
    assert row[0] == name
    assert len(row) == len(header)


@pytest.mark.parametrize(("arguments", "count"), [((), 3), (("--probabilities",), 4)])
def test_text_lists_the_classes_best_first(run, expected, arguments, count):
    lines = run(*arguments)[1].splitlines()
    for line, (name, probabilities) in zip(lines, expected.items(), strict=True):
        assert line == f"{name}: {', '.join(f'{c} {p:.1%}' for c, p in best(probabilities, count).items())}"


def test_two_formats_at_once_are_refused(run):
    code, out, err = run("--json", "--csv")
    assert (code, out, err) == (2, "", "error: argument --csv: not allowed with argument --json\n")


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("out", "err", "shows_bar"),
    [(io.StringIO, Terminal, True), (io.StringIO, io.StringIO, False), (Terminal, Terminal, False)],
)
def test_progress_bar_appears_only_on_a_terminal_that_shows_no_results(run, monkeypatch, out, err, shows_bar):
    out, err = out(), err()
    monkeypatch.setattr(predict, "BAR_DELAY", 0)
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", err)
    run("--json")
    assert ("0/3" in err.getvalue()) == shows_bar
    assert "error: broken.png: " in err.getvalue()
    assert len(json.loads(out.getvalue())) == 2
