# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The settings files that come with the package; what they say is tested in ``integration/test_configs.py``."""

import pytest
import yaml

from anomalib_genclip.utils import files
from anomalib_genclip.utils.files import config_folder, find_config, list_configs


def test_files_are_found_by_name_with_or_without_their_ending():
    names = list_configs()
    assert {"quickstart", "data/visa_to_mvtec", "model/genclip"} <= set(names)
    for name in names:
        path = find_config(name)
        assert path == find_config(f"{name}.yaml")
        assert path.is_relative_to(config_folder())
        assert yaml.safe_load(path.read_text(encoding="utf-8"))


def test_a_file_of_ones_own_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").write_text("own: 1")
    assert find_config("quickstart").resolve() == tmp_path / "quickstart"
    assert find_config(tmp_path / "quickstart") == tmp_path / "quickstart"


@pytest.mark.parametrize("name", ["quickstrat", "", "data", "../configs/quickstart", "\0"])
def test_other_names_are_refused_with_those_that_there_are(name):
    with pytest.raises(FileNotFoundError, match=r"no settings file.*data/visa_to_mvtec.*quickstart"):
        find_config(name)


def test_an_installed_package_has_them_inside(tmp_path, monkeypatch):
    (tmp_path / "configs" / "data").mkdir(parents=True)
    (tmp_path / "configs" / "data" / "own.yaml").touch()
    monkeypatch.setattr(files, "_PACKAGE", tmp_path)
    assert list_configs() == ["data/own"]
    assert find_config("data/own") == tmp_path / "configs" / "data" / "own.yaml"
