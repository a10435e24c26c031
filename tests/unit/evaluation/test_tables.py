# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Tables of results."""

from anomalib_genclip.evaluation.tables import ResultTable


def test_table_escapes_and_marks_what_is_undefined(capsys):
    table = ResultTable("Title", [{"model": "a|b [red]", "image_AUROC": 0.5}, {"model": "c", "note": "x\ny"}])
    assert "| a\\|b [red] | 50.0 | - |" in table.as_markdown()
    assert "| c | - | x y |" in table.as_markdown()
    assert table.as_csv().splitlines() == ["model,image_AUROC,note", "a|b [red],0.5,", 'c,,"x', 'y"']
    table.print()
    assert "a|b [red]" in capsys.readouterr().out
