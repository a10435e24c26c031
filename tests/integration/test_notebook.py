# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""The notebook: runs from top to bottom, and is stored with its outputs.

After a change: ``jupyter execute --inplace examples/genclip_tour.ipynb``.
"""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FILE = Path(__file__).parents[2] / "examples" / "genclip_tour.ipynb"
LARGEST = 1_000_000  # bytes


def outputs(notebook) -> list:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def test_notebook_is_stored_with_the_outputs_of_one_run():
    notebook = nbformat.read(FILE, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert sum("image/jpeg" in output.get("data", {}) for output in outputs(notebook)) == 3
    assert not [
        output for output in outputs(notebook) if output.output_type == "error" or output.get("name") == "stderr"
    ]
    assert FILE.stat().st_size < LARGEST
    assert str(Path.home()) not in FILE.read_text(encoding="utf-8")


@pytest.mark.slow
def test_notebook_runs(tmp_path):
    notebook = nbformat.read(FILE, as_version=4)
    NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(tmp_path)}}).execute()
    text = "".join(output.get("text", "") for output in outputs(notebook))
    assert "scores differ by at most" in text
    assert {path.name for path in (tmp_path / "tour").iterdir()} >= {"marble.safetensors", "prompts.safetensors"}
