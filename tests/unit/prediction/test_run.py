# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Runs that write to a folder: their results, and how they go on."""

import csv
import errno
import io
import json

import fsspec
import pytest
from helpers.predictions import HEADER, Brightness, results, settings_for, write_images

from anomalib_genclip.prediction import parts as parts_module
from anomalib_genclip.prediction import run as run_module
from anomalib_genclip.prediction import storage
from anomalib_genclip.prediction.run import run

BATCH = 4


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of three batches, so that few images make many."""
    monkeypatch.setattr("anomalib_genclip.prediction.settings._PART_IMAGES", 3 * BATCH)


@pytest.fixture(autouse=True)
def model(monkeypatch):
    """Run with a model that costs nothing; returns a function that takes another one."""

    def use(backend):
        monkeypatch.setattr(run_module, "load_backend", lambda _: backend)
        return backend

    use(Brightness())
    return use


def rows_of(root, name="scores.csv"):
    return list(csv.DictReader(io.StringIO((root / "out" / name).read_text())))


def test_results_are_a_table_with_a_row_per_image(tmp_path):
    write_images(tmp_path / "images", 9)
    outcome = run(settings_for(tmp_path, class_from="parent", regions=True))
    assert (tmp_path / "out" / "scores.csv").read_text().startswith(HEADER)
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
        "image_threshold": "0.5",
        "pixel_threshold": "0.5",
        "anomalous_share": "0.0",
        "regions": "0",
        "error": "",
    }
    assert (by_name["00008"]["label"], by_name["00008"]["anomalous_share"]) == ("anomalous", "1.0")
    assert vars(outcome.counts) == {"images": 9, "anomalous": 4, "errors": 0, "regions": 4}
    assert outcome.table == f"{tmp_path}/out/scores.csv"
    regions = rows_of(tmp_path, "regions.csv")
    assert {(row["x"], row["y"], row["width"]) for row in regions} == {("0", "0", "9")}
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["counts"] == vars(outcome.counts)
    assert manifest["settings"]["class_from"] == "parent"
    assert set(results(tmp_path / "out")) == {"scores.csv", "regions.csv", "manifest.json"}


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


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_stopped_at_any_batch_goes_on_to_the_same_bytes(tmp_path, model, workers):
    write_images(tmp_path / "images", 41, broken=(5, 17))
    options = {"on_error": "record", "regions": True, "maps": "npy", "pictures": "anomalous", "num_workers": workers}
    run(settings_for(tmp_path, **options, out=str(tmp_path / "whole")))
    whole = results(tmp_path / "whole")
    seen = 0
    for calls in (1, 4, 1, 3, 2, 4):
        backend = model(Brightness(calls=calls))
        try:
            run(settings_for(tmp_path, **options))
            break
        except KeyboardInterrupt:
            assert "scores.csv" not in results(tmp_path / "out")
        finally:
            seen += len(backend.seen)
    assert results(tmp_path / "out") == whole
    assert seen == 11  # batches: none was scored twice


@pytest.mark.usefixtures("small_parts")
def test_what_is_done_is_written_while_a_part_goes_on(tmp_path, model, monkeypatch):
    write_images(tmp_path / "images", 12)
    monkeypatch.setattr(parts_module, "_SECONDS", 0)
    monkeypatch.setattr(parts_module.Parts, "flush", lambda _: None)  # as when the process is killed
    model(Brightness(calls=2))
    with pytest.raises(KeyboardInterrupt):
        run(settings_for(tmp_path))
    (part,) = (tmp_path / "out" / "parts").iterdir()
    assert len(part.read_text().splitlines()) == 2 * BATCH


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


@pytest.mark.usefixtures("small_parts")
def test_a_broken_image_stops_the_run_with_everything_before_it_on_disk(tmp_path, model):
    write_images(tmp_path / "images", 20, broken=(19,))  # 14th in order, third of its batch
    with pytest.raises(OSError, match=r"1/00019.jpg cannot be read.*13 images are done.*--on_error record"):
        run(settings_for(tmp_path))
    parts = sorted((tmp_path / "out" / "parts").glob("*.jsonl"))
    assert [len(part.read_text().splitlines()) for part in parts] == [12, 1]
    # Goes on either way: the image is recorded, or it is mended.
    write_images(tmp_path / "images", 20)
    backend = model(Brightness())
    outcome = run(settings_for(tmp_path))
    assert outcome.counts.images == 20
    assert sum(backend.seen) == 8  # the batch that was cut short is scored as a whole
    run(settings_for(tmp_path, out=str(tmp_path / "whole")))
    assert results(tmp_path / "out") == results(tmp_path / "whole")


def test_a_broken_image_is_recorded(tmp_path):
    write_images(tmp_path / "images", 6, broken=(0, 4))
    assert run(settings_for(tmp_path, on_error="record", pictures="all")).counts.errors == 2
    errors = {row["path"][-9:]: row for row in rows_of(tmp_path) if row["error"]}
    assert set(errors) == {"00000.png", "00004.jpg"}
    assert "cannot identify image file" in errors["00000.png"]["error"]
    assert not errors["00000.png"]["score"]
    assert not errors["00000.png"]["regions"]


@pytest.mark.usefixtures("small_parts")
def test_shares_make_the_table_of_a_single_run(tmp_path, model):
    write_images(tmp_path / "images", 41)
    run(settings_for(tmp_path, out=str(tmp_path / "whole"), regions=True))
    backend = model(Brightness())
    for number in (3, 1, 2):
        outcome = run(settings_for(tmp_path, regions=True, shard=f"{number}/3"))
        assert (outcome.table is None) == (number != 2)
    assert sum(backend.seen) == 41
    assert outcome.counts.images == 41
    for name in ("scores.csv", "regions.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert run(settings_for(tmp_path, regions=True, shard="1/3")).was_complete
    with pytest.raises(ValueError, match=r"shards 3 \(now 2\)"):
        run(settings_for(tmp_path, regions=True, shard="1/2"))


@pytest.mark.usefixtures("small_parts")
def test_shares_that_saw_other_images_are_refused(tmp_path):
    write_images(tmp_path / "images", 25)
    run(settings_for(tmp_path, shard="1/2"))
    write_images(tmp_path / "images", 40)
    with pytest.raises(ValueError, match=r"different images in .*: 25, 40"):
        run(settings_for(tmp_path, shard="2/2"))


@pytest.mark.usefixtures("small_parts")
def test_images_that_have_changed_places_are_refused(tmp_path, model):
    write_images(tmp_path / "images", 30)
    model(Brightness(calls=4))
    with pytest.raises(KeyboardInterrupt):
        run(settings_for(tmp_path))
    write_images(tmp_path / "images" / "0" / "0", 1)
    with pytest.raises(ValueError, match=r"00000000\.jsonl has rows of other images .*added, removed or renamed"):
        run(settings_for(tmp_path))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"batch_size": 2}, r"batch_size 4 \(now 2\)"),
        ({"class_name": "nut"}, r"class_name None \(now 'nut'\)"),
        ({"pixel_threshold": 0.25}, "pixel_threshold"),
        ({"table": "parquet"}, "table"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path, other, message):
    pytest.importorskip("pyarrow")
    write_images(tmp_path / "images", 3)
    run(settings_for(tmp_path))
    before = results(tmp_path / "out")
    with pytest.raises(ValueError, match=f"belongs to a run with other settings: {message}"):
        run(settings_for(tmp_path, **other))
    assert results(tmp_path / "out") == before


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


@pytest.mark.parametrize(("fast", "chosen"), [(True, "bf16"), (False, "float32")])
def test_precision_is_chosen_once_and_belongs_to_the_run(tmp_path, monkeypatch, fast, chosen):
    write_images(tmp_path / "images", 3)
    monkeypatch.setattr("anomalib_genclip.utils.precision.bf16_is_fast", lambda _: fast)
    lines = []
    monkeypatch.setattr(run_module, "rank_zero_info", lines.append)
    run(settings_for(tmp_path))
    assert len(lines) == fast
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["settings"]["precision"] == chosen
    assert run(settings_for(tmp_path, precision=chosen)).was_complete
    assert len(lines) == fast
    monkeypatch.setattr("anomalib_genclip.utils.precision.bf16_is_fast", lambda _: not fast)  # another machine
    with pytest.raises(ValueError, match=f"precision '{chosen}'"):
        run(settings_for(tmp_path))


def test_overwrite_removes_the_results_of_a_run_and_nothing_else(tmp_path, model, monkeypatch):
    write_images(tmp_path / "images", 9)
    run(settings_for(tmp_path, pictures="all"))
    (tmp_path / "out" / "notes.txt").write_text("mine")
    # Interrupted while it removes, it goes on with that.
    monkeypatch.setattr(storage.ResultFolder, "remove", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(settings_for(tmp_path, batch_size=2, overwrite=True))
    monkeypatch.undo()
    model(Brightness())
    run(settings_for(tmp_path, batch_size=2))
    assert set(results(tmp_path / "out")) == {"notes.txt", "scores.csv", "manifest.json"}


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
    monkeypatch.setattr(run_module, "load_backend", lambda _: 1 / 0)  # weights that cannot be loaded
    with pytest.raises(ZeroDivisionError):
        run(settings_for(tmp_path))
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("small_parts")
def test_a_full_disk_is_an_error_that_loses_nothing(tmp_path, model, monkeypatch):
    write_images(tmp_path / "images", 40)
    written, real = [], storage.atomic_open

    def full(path, **options):
        written.append(path)
        if len(written) > 3:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return real(path, **options)

    monkeypatch.setattr(storage, "atomic_open", full)
    with pytest.raises(OSError, match=r"No space left on device: .*00000002.jsonl"):
        run(settings_for(tmp_path))
    monkeypatch.setattr(storage, "atomic_open", real)
    backend = model(Brightness())
    assert run(settings_for(tmp_path)).counts.images == 40
    assert sum(backend.seen) == 40 - 2 * 3 * BATCH


def test_results_go_to_an_address_too(tmp_path, model):
    memory = fsspec.filesystem("memory")
    write_images(tmp_path / "images", 9)
    for path in (tmp_path / "images").rglob("*.*"):
        memory.pipe_file(f"/bucket/{path.relative_to(tmp_path)}", path.read_bytes())
    data = {"data": "memory://bucket/images", "out": "memory://bucket/out", "maps": "npy", "pictures": "all"}
    try:
        model(Brightness(calls=1))
        with pytest.raises(KeyboardInterrupt):
            run(settings_for(tmp_path, **data))
        model(Brightness())
        assert run(settings_for(tmp_path, **data)).table == "memory://bucket/out/scores.csv"
        run(settings_for(tmp_path))
        table = memory.cat_file("/bucket/out/scores.csv").decode()
        local = (tmp_path / "out" / "scores.csv").read_text()
        assert table.replace("memory://bucket", str(tmp_path)) == local
        assert len(memory.find("/bucket/out")) == 2 + 2 * 9
    finally:
        memory.rm("/bucket", recursive=True)
