# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The page over HTTP."""

import csv
import os
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file
from PIL import Image

from anomalib_genclip import cli
from anomalib_genclip.app.examples import write_examples
from anomalib_genclip.app.server import running

SLIDERS = {"image_threshold": 0.3, "pixel_threshold": 0.45, "opacity": 0.8}
VIEW = ("verdict", "picture", "images", "regions", "saved_picture", "saved_scores", "saved_regions")
DETAILS = ("filtering", "parts", "branches", "layers")


@pytest.fixture(scope="module")
def contacted():
    """Hosts that anything in this process has connected to, which includes the server."""
    hosts, connect = set(), socket.socket.connect
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", lambda own, to: hosts.add(to[0]) or connect(own, to))
        yield hosts


@pytest.fixture(scope="module")
def page(contacted):  # noqa: ARG001  # it watches
    """The page with the bundled demonstration."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", "")  # restored in the end
        with running("tiny-demo", None, "127.0.0.1", None) as page:
            yield page


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Paths of the examples by their titles."""
    return {example.title: example.path for example in write_examples(tmp_path_factory.mktemp("images"))}


@pytest.fixture
def visitor(page, tmp_path):
    """A visitor, who comes with an empty page."""
    return Client(page.local_url, verbose=False, download_files=str(tmp_path), analytics_enabled=False)


def score(visitor, *paths, class_name="object", references=()):
    """Drop images on the page: problems, strip of images, and the rest by name."""
    files, good = ([handle_file(str(path)) for path in group] for group in (paths, references))
    given = {"images": files, "class_name": class_name, "references": good, **SLIDERS}
    answer = visitor.predict(**given, api_name="/score")
    problems, strip, *others = answer
    return problems, strip, dict(zip(VIEW + DETAILS, others, strict=True))


def test_image_is_scored_drawn_and_explained(visitor, images):
    problems, strip, found = score(visitor, images["leather: hole"], class_name="leather")
    assert (problems["visible"], strip["visible"]) == (False, False)
    assert "anomalous" in found["verdict"]
    assert Image.open(found["picture"]).size == (960, 960)
    (row,) = found["images"]["data"]
    assert row[0] == "leather_hole.png"
    assert row[2:] == ["anomalous", 1, "object"]
    assert len(found["regions"]["data"]) == 1
    assert "replaced" in found["filtering"]
    assert [panel["caption"].split(",")[0] for panel in found["branches"]] == [
        "vision-enhanced branch",
        "query-only branch",
        "anomaly map",
    ]


def test_thresholds_and_opacity_change_the_view(visitor, images):
    _, _, found = score(visitor, images["leather: hole"], class_name="leather")
    view = dict(zip(VIEW, visitor.predict(0.99, 0.99, 0.0, api_name="/view"), strict=True))
    assert "normal" in view["verdict"]
    assert view["regions"]["data"] == []
    assert Path(view["picture"]).read_bytes() != Path(found["picture"]).read_bytes()


def test_layers_are_shown_on_demand(visitor, images):
    _, _, found = score(visitor, images["leather: good"])
    assert found["layers"] == []
    layers = visitor.predict(api_name="/layers")
    assert [panel["caption"][:7] for panel in layers] == ["layer 2", "layer 4", "layer 6", "layer 8"] * 2


def test_picture_and_tables_are_saved(visitor, images):
    _, _, found = score(visitor, images["coin: stain"], images["leather: good"])
    assert Path(found["saved_picture"]).name == "coin_stain_anomaly_map.jpg"
    with Path(found["saved_scores"]).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == ["coin_stain.png", "leather_good.png"]
    assert float(rows[0]["score"]) > float(rows[1]["score"])
    assert Path(found["saved_regions"]).read_text().startswith("path,region,")


def test_broken_files_are_named_and_the_others_scored(visitor, images, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    problems, strip, found = score(visitor, images["coin: stain"], broken, images["gear: missing"])
    assert problems["visible"]
    assert "broken.png cannot be used" in problems["value"]
    assert [item["caption"].split()[1] for item in strip["value"]] == ["coin_stain.png", "gear_missing.png"]
    assert "coin_stain.png" in found["verdict"]
    problems, _, found = score(visitor, broken)
    assert problems["visible"]
    assert (found["picture"], found["images"]["data"]) == (None, [])


def test_good_parts_are_compared_with(visitor, images, tmp_path):
    good = images["leather: good"]
    _, _, alone = score(visitor, good)
    _, _, found = score(visitor, good, references=[good])
    assert "distance to the references" in found["branches"][2]["caption"]
    assert "Distance to the references" in found["parts"]
    assert found["images"]["data"][0][1] < alone["images"]["data"][0][1]
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    problems, _, _ = score(visitor, good, references=[good, broken])
    assert problems["value"].count("broken.png cannot be used") == 1
    assert str(tmp_path) not in problems["value"]
    assert score(visitor, good)[2]["images"] == alone["images"]  # nothing is left of them


def test_bad_class_names_and_too_many_images_are_messages(visitor, images, monkeypatch):
    problems, _, _ = score(visitor, images["coin: stain"], class_name="coin " * 99)
    assert "Give a shorter name" in problems["value"]
    for name in ("MAX_IMAGES", "MAX_REFERENCES"):
        monkeypatch.setattr(f"anomalib_genclip.app.answers.{name}", 1)
    both = [images["coin: stain"], images["gear: missing"]]
    problems, strip, _ = score(visitor, *both, references=both)
    assert "Only the first 1 of 2 images" in problems["value"]
    assert "Only the first 1 of 2 good parts" in problems["value"]
    assert not strip["visible"]
    assert visitor.predict([], "object", [], *SLIDERS.values(), api_name="/score")[2].count("Drop an image") == 1


def test_visitors_see_their_own_images(page, images):
    def visit(title):
        client = Client(page.local_url, verbose=False, analytics_enabled=False)
        _, _, found = score(client, images[title])
        view = client.predict(**SLIDERS, api_name="/view")
        return found["images"]["data"][0][0], view[2]["data"][0][0]

    titles = ["carpet: stain", "coin: stain", "gear: missing"]
    with ThreadPoolExecutor(len(titles)) as pool:
        seen = list(pool.map(visit, titles))
    assert seen == [(Path(images[title]).name,) * 2 for title in titles]


def test_files_of_the_server_and_large_files_are_refused(page, tmp_path):
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    api = f"{page.local_url}gradio_api"
    given = [[{"path": str(secret), "meta": {"_type": "gradio.FileData"}}], "object", [], *SLIDERS.values()]
    event = httpx.post(f"{api}/call/score", json={"data": given}).json()["event_id"]
    assert "event: error" in httpx.get(f"{api}/call/score/{event}").text
    assert httpx.get(f"{api}/file={secret}").status_code == 403
    assert httpx.post(f"{api}/upload", files={"files": ("large.png", bytes(65 << 20))}).status_code == 413


def test_page_asks_nobody_else(page, contacted):
    assert "fonts.googleapis.com" not in httpx.get(page.local_url).text
    assert contacted == {"127.0.0.1"}


def test_port_that_is_taken_is_one_line(page, capsys):
    assert cli.main(["app", "--port", str(page.server_port)]) == 2
    assert str(page.server_port) in capsys.readouterr().err


def test_command_shows_the_address_and_leaves_nothing_behind(monkeypatch, capsys):
    seen = []

    def terminate(page):
        seen.extend([page.local_url, Path(os.environ["GRADIO_TEMP_DIR"])])
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("gradio.Blocks.block_thread", terminate)
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(SystemExit):
        cli.main(["app", "--port", str(port)])
    address, folder = seen
    assert address == f"http://127.0.0.1:{port}/"
    assert address in capsys.readouterr().out
    assert not folder.exists()
    with pytest.raises(httpx.ConnectError):
        httpx.get(address)


def test_missing_gradio_is_one_line(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "anomalib_genclip.app.server")
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert cli.main(["app"]) == 2
    assert 'pip install gradio (or, in a checkout, pip install ".[app]")' in capsys.readouterr().err
