# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The page over HTTP."""

import csv
import os
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file
from PIL import Image

from anomalib_genclip import cli
from anomalib_genclip.app.server import running

SLIDERS = {"image_threshold": 0.3, "pixel_threshold": 0.45, "opacity": 0.8}
VIEW = ["label", "summary", "picture", "scores", "regions", "saved_scores", "saved_regions"]
NAMES = ["problems", "strip", *VIEW, "filtering", "parts", "maps"]


@pytest.fixture(scope="module")
def contacted():
    hosts, connect = set(), socket.socket.connect
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", lambda own, to: hosts.add(to[0]) or connect(own, to))
        yield hosts


@pytest.fixture(scope="module")
def page(contacted):  # noqa: ARG001  # it watches
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", "")  # restored in the end
        with running("tiny-demo", None, "127.0.0.1", None) as page:
            yield page


@pytest.fixture(scope="module")
def images(page):  # noqa: ARG001  # it renders them
    return {path.stem: path for path in Path(os.environ["GRADIO_TEMP_DIR"]).glob("*.png")}


@pytest.fixture
def visitor(page, tmp_path):
    return Client(page.local_url, verbose=False, download_files=str(tmp_path), analytics_enabled=False)


def score(visitor, *paths, class_name="object", references=(), ignore_mask=None):
    masks = [] if ignore_mask is None else [ignore_mask]
    files, good, masks = ([handle_file(str(path)) for path in group] for group in (paths, references, masks))
    given = {"images": files, "class_name": class_name, "references": good, "ignore_mask": masks, **SLIDERS}
    return dict(zip(NAMES, visitor.predict(**given, api_name="/score"), strict=True))


def test_image_is_scored_drawn_and_explained(visitor, images):
    found = score(visitor, images["leather_hole"], class_name="leather")
    assert (found["problems"]["visible"], found["strip"]["visible"]) == (False, False)
    assert found["label"]["value"]["label"] == "anomalous"
    assert Image.open(found["picture"]).size == (960, 960)
    assert Path(found["picture"]).name == "leather_hole_anomaly_map.jpg"
    (row,) = found["scores"]["data"]
    assert row[0] == "leather_hole.png"
    assert row[2:] == ["anomalous", 1, "object"]
    assert len(found["regions"]["data"]) == 1
    assert "replaced" in found["filtering"]
    assert len(found["maps"]) == 3 + 2 * 4


def test_several_images_are_scored_and_broken_ones_named(visitor, images, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    good = images["leather_good"]
    found = score(visitor, images["coin_stain"], broken, good, references=[good])
    assert "distance to the references" in found["maps"][2]["caption"]
    assert found["problems"]["visible"]
    assert "broken.png cannot be used" in found["problems"]["value"]
    assert [item["caption"].split()[1] for item in found["strip"]["value"]] == ["coin_stain.png", "leather_good.png"]
    with Path(found["saved_scores"]).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == ["coin_stain.png", "leather_good.png"]
    assert float(rows[0]["score"]) > float(rows[1]["score"])
    found = score(visitor, broken)
    assert (found["picture"], found["scores"]["data"]) == (None, [])


def test_regions_are_left_out(visitor, images, tmp_path):
    Image.new("L", (320, 320), 255).save(tmp_path / "all.png")
    found = score(visitor, images["leather_hole"], ignore_mask=tmp_path / "all.png")
    assert found["problems"]["visible"]
    assert "all.png" in found["problems"]["value"]
    mask = Image.new("L", (320, 320), 255)
    mask.paste(0, (0, 0, 20, 20))
    mask.save(tmp_path / "corner.png")
    found = score(visitor, images["leather_hole"], ignore_mask=tmp_path / "corner.png")
    assert not found["problems"]["visible"]
    assert not found["regions"]["data"]


def test_visitors_see_their_own_images(page, images):
    def visit(name):
        client = Client(page.local_url, verbose=False, analytics_enabled=False)
        found = score(client, images[name])["scores"]["data"]
        return found[0][0], client.predict(**SLIDERS, api_name="/view")[3]["data"][0][0]

    names = ["carpet_stain", "coin_stain", "gear_missing"]
    with ThreadPoolExecutor(len(names)) as pool:
        assert list(pool.map(visit, names)) == [(f"{name}.png", f"{name}.png") for name in names]


def test_page_of_a_calibrated_file_with_references(calibrated, images, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # restored in the end
    with running(calibrated, None, "127.0.0.1", None) as page:
        client = Client(page.local_url, verbose=False, analytics_enabled=False)
        parts = {part["props"].get("elem_id"): part["props"] for part in client.config["components"]}
        assert "was calibrated for `bolt`" in parts["alarm-level"]["value"]
        assert parts["class-name"]["value"] == "bolt"
        assert not parts["examples"]["visible"]
        found = score(client, images["coin_stain"], class_name="")
    assert not found["problems"]["visible"]
    assert "share of good parts with such a score" in found["summary"]
    assert any("distance to the references" in panel["caption"] for panel in found["maps"])


def test_files_of_the_server_and_large_files_are_refused(page, tmp_path):
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    api = f"{page.local_url}gradio_api"
    file = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}
    for given in ([[file], "object", [], None], [[], "object", [], [file]]):
        event = httpx.post(f"{api}/call/score", json={"data": [*given, *SLIDERS.values()]}).json()["event_id"]
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
    seen, before = [], signal.getsignal(signal.SIGTERM)

    def terminate(page):
        seen.extend([page.local_url, Path(os.environ["GRADIO_TEMP_DIR"])])
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)  # it may arrive in another thread first

    monkeypatch.setattr("gradio.Blocks.block_thread", terminate)
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    try:
        assert cli.main(["app", "--port", str(port)]) == 130
    finally:
        signal.signal(signal.SIGTERM, before)
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
