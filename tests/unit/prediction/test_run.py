# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Runs that write to a folder: their results, how they go on, and how several work on one."""

import csv
import errno
import io
import json
import sys
from collections import Counter

import fsspec
import numpy as np
import pytest
from helpers.predictions import Brightness, results, settings_for, small_chunks, use_model, write_images
from PIL import Image
from scipy.stats import false_discovery_control

from anomalib_genclip.persistence import weights_files
from anomalib_genclip.prediction import chunks as chunks_module
from anomalib_genclip.prediction import run as run_module
from anomalib_genclip.prediction import storage
from anomalib_genclip.prediction.run import run

BATCH = 4
CHUNK = 3 * BATCH


@pytest.fixture(autouse=True)
def model(monkeypatch):
    small_chunks(monkeypatch, CHUNK)
    use_model(monkeypatch, Brightness())
    return lambda calls=None: use_model(monkeypatch, Brightness(calls))


def rows_of(root, name="scores.csv"):
    return list(csv.DictReader(io.StringIO((root / "out" / name).read_text())))


def stopped(root, calls, model, **options):
    model(calls)
    with pytest.raises(KeyboardInterrupt):
        run(settings_for(root, **options))
    model()


def test_results_are_a_table_with_a_row_per_image(tmp_path):
    write_images(tmp_path / "images", 9)
    outcome = run(settings_for(tmp_path, class_from="parent", regions=True))
    rows = rows_of(tmp_path)
    assert [row["path"] for row in rows] == sorted(str(path) for path in (tmp_path / "images").rglob("*.*"))
    assert [row["class_name"] for row in rows] == list("000111222")
    by_name = {row["path"][-9:-4]: row for row in rows}
    assert by_name["00003"] == {
        "path": str(tmp_path / "images/0/00003.png"),
        "class_name": "0",
        "class_name_filter": "",
        "score": "0.372549",
        "label": "normal",
        "p_value": "",
        "alarm_level": "source",
        "image_threshold": "0.5",
        "pixel_threshold": "0.5",
        "anomalous_share": "0.0",
        "regions": "0",
        "error": "",
    }
    assert (by_name["00008"]["label"], by_name["00008"]["anomalous_share"]) == ("anomalous", "1.0")
    assert outcome.counts == {"images": 9, "anomalous": 4, "errors": 0, "regions": 4}
    assert outcome.table == f"{tmp_path}/out/scores.csv"
    regions = rows_of(tmp_path, "regions.csv")
    assert {(row["x"], row["y"], row["width"]) for row in regions} == {("0", "0", "9")}
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["settings"]["class_from"] == "parent"
    others = {name for name in results(tmp_path / "out") if not name.startswith("chunks/")}
    assert others == {"scores.csv", "regions.csv", "manifest.json"}


def test_what_is_not_used_of_the_files_is_counted_over_the_whole_run(tmp_path, model):
    write_images(tmp_path / "images", 15)
    turned = Image.Exif()
    turned[0x0112] = 8
    for name in ("0/00000.png", "2/x.png"):  # of two chunks
        Image.new("RGB", (9, 6)).save(tmp_path / "images" / name, exif=turned)
    Image.new("RGBA", (9, 6)).save(tmp_path / "images/1/x.png")
    stopped(tmp_path, 3, model)
    first, second, *others = run(settings_for(tmp_path)).notes
    assert first.startswith("2 images with an EXIF orientation tag, which is not applied: ")
    assert first.endswith(f": {tmp_path}/images/0/00000.png and others.")
    assert second == f"1 image with transparent pixels, which are put on white: {tmp_path}/images/1/x.png."
    assert not any("image with" in note for note in others)


def test_table_as_parquet_says_the_same(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    write_images(tmp_path / "images", 30, broken=(7,))
    for kind in ("csv", "parquet"):
        settings = {"on_error": "record", "regions": True, "table": kind, "out": str(tmp_path / kind / "out")}
        run(settings_for(tmp_path, **settings))
    for name in ("scores", "regions"):
        written = rows_of(tmp_path / "csv", f"{name}.csv")
        table = parquet.read_table(tmp_path / "parquet" / "out" / f"{name}.parquet").to_pylist()
        plain = [{key: "" if value is None else str(value) for key, value in row.items()} for row in table]
        assert plain == written


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_stopped_at_any_batch_goes_on_to_the_same_bytes(tmp_path, model, workers):
    write_images(tmp_path / "images", 41, broken=(5, 17))
    options = {"on_error": "record", "regions": True, "maps": "npy", "pictures": "anomalous", "num_workers": workers}
    run(settings_for(tmp_path, **options, out=str(tmp_path / "whole")))
    seen = 0
    for calls in (1, 4, 1, 5, 3, 11):
        backend = model(calls)
        try:
            run(settings_for(tmp_path, **options))
            break
        except KeyboardInterrupt:
            assert "scores.csv" not in results(tmp_path / "out")
        finally:
            seen += len(backend.seen)
    assert results(tmp_path / "out") == results(tmp_path / "whole")
    assert seen <= 11 + 5 * (CHUNK // BATCH)  # batches: at most a chunk was scored again at each stop


def test_a_finished_run_says_so_and_touches_nothing(tmp_path):
    write_images(tmp_path / "images", 5, broken=(1,))
    first = run(settings_for(tmp_path, on_error="record"))
    before = results(tmp_path / "out")
    (tmp_path / "images" / "new.png").touch()
    again = run(settings_for(tmp_path))
    assert again.was_complete
    assert not first.was_complete
    assert again.counts == first.counts
    assert results(tmp_path / "out") == before


def test_a_broken_image_stops_the_run_with_all_chunks_before_it_on_disk(tmp_path, model):
    write_images(tmp_path / "images", 20, broken=(19,))  # 14th in order
    with pytest.raises(OSError, match=r"1/00019.jpg cannot be read.*Repair the file, or use --on_error record"):
        run(settings_for(tmp_path))
    (chunk,) = (tmp_path / "out" / "chunks").iterdir()
    assert len(chunk.read_text().splitlines()) == CHUNK
    # Goes on either way: the image is recorded, or it is mended.
    write_images(tmp_path / "images", 20)
    backend = model()
    assert run(settings_for(tmp_path)).counts["images"] == 20
    assert sum(backend.seen) == 8
    run(settings_for(tmp_path, out=str(tmp_path / "whole")))
    assert results(tmp_path / "out") == results(tmp_path / "whole")


def test_shards_make_the_table_of_a_single_run(tmp_path, model, monkeypatch):
    write_images(tmp_path / "images", 41)
    run(settings_for(tmp_path, out=str(tmp_path / "whole"), regions=True))
    backend, real, read = model(), storage.ResultFolder.read, []
    monkeypatch.setattr(storage.ResultFolder, "read", lambda own, file: read.append(file) or real(own, file))
    for number, images in ((3, 12), (1, 29), (2, 41)):
        outcome = run(settings_for(tmp_path, regions=True, shard=f"{number}/3"))
        assert (outcome.table is None) == (number != 2)
        assert outcome.counts["images"] == images
        assert max(Counter(read).values()) == (2 if number == 2 else 1)  # once per table, else to count
        read.clear()
    assert sum(backend.seen) == 41
    assert results(tmp_path / "out") == results(tmp_path / "whole")
    assert run(settings_for(tmp_path, regions=True, shard="1/3")).was_complete
    other = {"regions": True, "out": str(tmp_path / "other")}
    run(settings_for(tmp_path, **other, shard="2/3"))
    assert run(settings_for(tmp_path, **other, shard="1/1")).counts["images"] == 41  # another number goes on
    assert results(tmp_path / "other") == results(tmp_path / "whole")


def test_shards_that_end_together_write_the_whole_table(tmp_path, monkeypatch):
    """One finishes, and says so, while the other one is reading the rows for the same table."""
    write_images(tmp_path / "images", 41)
    run(settings_for(tmp_path, out=str(tmp_path / "whole")))
    monkeypatch.setattr(chunks_module.Chunks, "finish", lambda _: 1 / 0)  # killed before it wrote the table
    with pytest.raises(ZeroDivisionError):
        run(settings_for(tmp_path, shard="1/2"))
    monkeypatch.undo()
    small_chunks(monkeypatch, CHUNK)
    use_model(monkeypatch, Brightness())
    real, finished = chunks_module.rows_of, []

    def rows(*args):
        if not finished:
            finished.append(True)
            finished.append(run(settings_for(tmp_path, shard="1/2")))
        return real(*args)

    monkeypatch.setattr(chunks_module, "rows_of", rows)
    outcome = run(settings_for(tmp_path, shard="2/2"))
    assert outcome.counts["images"] == finished[1].counts["images"] == 41
    assert results(tmp_path / "out") == results(tmp_path / "whole")


@pytest.mark.parametrize("moment", ["names", "read"])
def test_shards_that_start_together_share_the_folder(tmp_path, monkeypatch, moment):
    """The other one claims the folder, and is killed, while this one looks what is in it."""
    write_images(tmp_path / "images", 41)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".0123.part").touch()  # a manifest that is being written
    real, started = getattr(storage.ResultFolder, moment), []

    def other_first(folder, *args):
        if not started:
            started.append(True)
            run(settings_for(tmp_path, shard="1/2"))
        return real(folder, *args)

    monkeypatch.setattr(storage.ResultFolder, moment, other_first)
    assert run(settings_for(tmp_path, shard="2/2")).counts["images"] == 41


def test_images_that_have_changed_are_refused(tmp_path, model):
    write_images(tmp_path / "images", 30)
    stopped(tmp_path, 4, model)
    message = r"chunks/0000000\d-.*\.jsonl has rows of other images .*added, removed or renamed"
    write_images(tmp_path / "images" / "0" / "0", 1)
    with pytest.raises(ValueError, match=message):
        run(settings_for(tmp_path))
    (tmp_path / "images/0/0/0/00000.png").unlink()
    run(settings_for(tmp_path, shard="2/2"))
    write_images(tmp_path / "images", 8)
    for path in (tmp_path / "images" / "2").iterdir():
        path.unlink()  # the last chunk is empty now
    with pytest.raises(ValueError, match=message):
        run(settings_for(tmp_path, shard="1/2"))


def test_other_settings_are_refused_by_name(tmp_path):
    write_images(tmp_path / "images", 3)
    run(settings_for(tmp_path))
    before = results(tmp_path / "out")
    for other, message in (
        ({"class_name": "nut"}, r"class_name None \(now 'nut'\)"),
        ({"table": "parquet"}, "table"),
        ({"tiles": {"size": 64}}, r"tiles None \(now {'size': 64"),
    ):
        with pytest.raises(ValueError, match=f"belongs to a run with other settings: {message}"):
            run(settings_for(tmp_path, **other))
    assert results(tmp_path / "out") == before


def test_another_ignore_mask_is_another_run_and_the_same_one_elsewhere_is_not(tmp_path):
    write_images(tmp_path / "images", 3)
    masks = tmp_path / "images" / "mask.png", tmp_path / "b" / "mask.png"  # the first one is not scored
    for path in masks:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"the same")
    run(settings_for(tmp_path, ignore_mask=str(masks[0])))
    assert run(settings_for(tmp_path, ignore_mask=str(masks[1]))).was_complete
    masks[0].write_bytes(b"another")
    with pytest.raises(ValueError, match=r"ignore_mask 'mask\.png, SHA-256 \w+' \(now 'mask\.png"):
        run(settings_for(tmp_path, ignore_mask=str(masks[0])))
    with pytest.raises(ValueError, match=r"There is no ignore_mask 'no\.png': give a PNG, or a folder"):
        settings_for(tmp_path, ignore_mask="no.png")


def test_other_weights_and_versions_are_refused_by_name(tmp_path):
    write_images(tmp_path / "images", 3)
    run(settings_for(tmp_path))
    path = tmp_path / "out" / "manifest.json"
    for old, new, message in (("torch", "2.0.0", "torch '2.0.0'"), ("sha256", "00", "sha256 of the weights '00'")):
        manifest = json.loads(path.read_text())
        group = "versions" if old == "torch" else "weights"
        path.write_text(json.dumps({**manifest, group: {**manifest[group], old: new}}))
        with pytest.raises(ValueError, match=message):
            run(settings_for(tmp_path))
        path.write_text(json.dumps(manifest))


def test_weights_of_the_hub_are_found_once(tmp_path, monkeypatch):
    """A branch may move between two look-ups: then the manifest would have the hash of another file than the model."""
    write_images(tmp_path / "images", 3)
    (tmp_path / "a.safetensors").write_bytes(b"a")
    found, loaded = [tmp_path / "a.safetensors"], []
    monkeypatch.setattr(weights_files, "download_prompts", lambda _: found.pop())
    load = lambda weights, *_, **__: loaded.append(weights) or Brightness()  # noqa: E731
    monkeypatch.setattr("anomalib_genclip.prediction.scoring.Inferencer", load)
    run(settings_for(tmp_path, weights="hf://owner/name/a.safetensors"))
    assert loaded == [tmp_path / "a.safetensors"]
    assert json.loads((tmp_path / "out/manifest.json").read_text())["weights"]["file"] == "a.safetensors"


@pytest.mark.parametrize(("fast", "chosen"), [(True, "bf16"), (False, "float32")])
def test_precision_is_chosen_once_and_belongs_to_the_run(tmp_path, monkeypatch, fast, chosen):
    write_images(tmp_path / "images", 3)
    monkeypatch.setattr("anomalib_genclip.utils.devices.bf16_is_fast", lambda _: fast)
    lines = []
    monkeypatch.setattr(run_module, "rank_zero_info", lines.append)
    run(settings_for(tmp_path))
    assert len(lines) == fast
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["settings"]["precision"] == chosen
    assert run(settings_for(tmp_path, precision=chosen)).was_complete
    assert len(lines) == fast
    monkeypatch.setattr("anomalib_genclip.utils.devices.bf16_is_fast", lambda _: not fast)  # another machine
    with pytest.raises(ValueError, match=f"precision '{chosen}'"):
        run(settings_for(tmp_path))


def test_overwrite_removes_the_results_of_a_run_and_nothing_else(tmp_path, monkeypatch):
    write_images(tmp_path / "images", 9)
    run(settings_for(tmp_path, pictures="all"))
    (tmp_path / "out" / "notes.txt").write_text("mine")
    # Interrupted while it removes, the folder is still that of the earlier run, which does not look complete.
    real, left = fsspec.implementations.local.LocalFileSystem.rm, [1, 2]
    monkeypatch.setattr(
        fsspec.implementations.local.LocalFileSystem, "rm", lambda *a, **k: real(*a, **k) if left.pop() else None
    )
    with pytest.raises(IndexError):
        run(settings_for(tmp_path, batch_size=2, overwrite=True))
    monkeypatch.setattr(fsspec.implementations.local.LocalFileSystem, "rm", real)
    assert "scores.csv" not in results(tmp_path / "out")
    with pytest.raises(ValueError, match="batch_size 4"):
        run(settings_for(tmp_path, batch_size=2))
    run(settings_for(tmp_path, batch_size=2, overwrite=True))
    others = {name for name in results(tmp_path / "out") if not name.startswith("chunks/")}
    assert others == {"notes.txt", "scores.csv", "manifest.json"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_something_else_is_left_alone(tmp_path, overwrite):
    write_images(tmp_path / "images", 2)
    for name, content, message in (
        ("thesis.tex", "x", "holds files, and no manifest"),
        ("manifest.json", '{"format": "web app"}', "was not written by a prediction"),
        ("manifest.json", "[1", "was not written by a prediction"),
    ):
        folder = tmp_path / "folder"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(content)
        with pytest.raises(ValueError, match=message):
            run(settings_for(tmp_path, out=str(folder), overwrite=overwrite))
        assert results(folder) == {name: content.encode()}
        (folder / name).unlink()
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        run(settings_for(tmp_path, out=str(tmp_path / "file")))
    for name in ("data", "out"):
        with pytest.raises(ValueError, match="none://x cannot be opened: Protocol not known"):
            run(settings_for(tmp_path, **{name: "none://x"}))


def test_nothing_is_written_before_there_is_something_to_do(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    with pytest.raises(ValueError, match="no images"):
        run(settings_for(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no weights none\.safetensors.*tiny-demo"):
        run(settings_for(tmp_path, weights="none.safetensors"))
    write_images(tmp_path / "images", 1)
    monkeypatch.setattr("anomalib_genclip.prediction.scoring.Inferencer", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # weights that cannot be loaded
        run(settings_for(tmp_path))
    assert not (tmp_path / "out").exists()


def test_a_scheduler_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "anomalib_genclip.prediction.schedulers.ray", raising=False)
    with pytest.raises(ValueError, match=r"engine=ray needs .*: pip install ray"):
        run(settings_for(tmp_path, engine="ray"))


def test_a_full_disk_is_an_error_that_loses_nothing(tmp_path, model, monkeypatch):
    write_images(tmp_path / "images", 40)
    written, real = [], storage.atomic_open

    def full(path, **options):
        written.append(path)
        if len(written) > 3:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return real(path, **options)

    monkeypatch.setattr(storage, "atomic_open", full)
    with pytest.raises(OSError, match=r"No space left on device: .*00000002-.*.jsonl"):
        run(settings_for(tmp_path))
    monkeypatch.setattr(storage, "atomic_open", real)
    backend = model()
    assert run(settings_for(tmp_path)).counts["images"] == 40
    assert sum(backend.seen) == 40 - 2 * CHUNK


def test_results_go_to_an_address_too(tmp_path, model):
    memory = fsspec.filesystem("memory")
    write_images(tmp_path / "images", 20)
    for path in (tmp_path / "images").rglob("*.*"):
        memory.pipe_file(f"/bucket/{path.relative_to(tmp_path)}", path.read_bytes())
    data = {"data": "memory://bucket/images", "out": "memory://bucket/out", "maps": "npy", "pictures": "all"}
    try:
        stopped(tmp_path, 4, model, **data)
        assert run(settings_for(tmp_path, **data)).table == "memory://bucket/out/scores.csv"
        run(settings_for(tmp_path))
        table = memory.cat_file("/bucket/out/scores.csv").decode()
        local = (tmp_path / "out" / "scores.csv").read_text()
        assert table.replace("memory://bucket", str(tmp_path)) == local
        assert len(memory.find("/bucket/out")) == 2 + 2 + 2 * 20
    finally:
        memory.rm("/bucket", recursive=True)


@pytest.mark.parametrize("terminal", [False, True])
def test_a_terminal_shows_images_rate_and_time_left(tmp_path, monkeypatch, capsys, terminal):
    write_images(tmp_path / "images", 20)
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    run(settings_for(tmp_path, shard="1/2"))
    text = capsys.readouterr().err
    assert ("images/s" in text) == terminal
    assert ("12 images" in text or "12/10" in text) == terminal


def test_false_discovery_rate_labels_by_the_p_values_of_the_whole_run(tmp_path, monkeypatch):
    write_images(tmp_path / "images", 40)
    good = sorted(number / 200 for number in range(100))  # up to 0.5
    use_model(monkeypatch, Brightness(good=good))
    outcome = run(settings_for(tmp_path, false_discovery_rate=0.05))
    rows = rows_of(tmp_path)
    values = np.array([float(row["p_value"]) for row in rows])
    expected = false_discovery_control(values) <= 0.05
    assert 0 < expected.sum() < 40
    assert [row["label"] == "anomalous" for row in rows] == expected.tolist()
    assert outcome.counts["anomalous"] == expected.sum()
    assert {row["alarm_level"] for row in rows} == {"calibrated"}
    assert run(settings_for(tmp_path, false_discovery_rate=0.05)).counts == outcome.counts  # from the chunks


def test_false_discovery_rate_needs_calibrated_weights(tmp_path):
    write_images(tmp_path / "images", 3)
    with pytest.raises(ValueError, match="false_discovery_rate needs weights that were calibrated, and tiny-demo"):
        run(settings_for(tmp_path, false_discovery_rate=0.05))
    assert not results(tmp_path / "out")  # nothing was scored
    for others, message in (
        ({"image_threshold": 0.5}, "exclude each other"),
        ({"pictures": "anomalous"}, "labels last"),
    ):
        with pytest.raises(ValueError, match=message):
            settings_for(tmp_path, false_discovery_rate=0.05, **others)


def test_a_run_says_that_its_alarm_level_is_the_sources_or_that_scores_have_moved(tmp_path, monkeypatch):
    write_images(tmp_path / "images", 30)
    assert run(settings_for(tmp_path)).notes[0].startswith("The alarm level is that of the data")
    use_model(monkeypatch, Brightness(good=[number / 1000 for number in range(100)]))
    notes = run(settings_for(tmp_path, out=str(tmp_path / "calibrated"))).notes
    assert len(notes) == 1
    assert "have moved since calibration" in notes[0]
    assert run(settings_for(tmp_path, out=str(tmp_path / "given"), image_threshold=0.9)).notes != ()
