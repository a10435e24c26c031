# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Prompts in token space."""

import torch


def test_prompt_holds_its_parts_in_order(model):
    name = "cap"
    index = int(model.class_index([name]))
    vision = torch.randn(4, 256)
    rest = model.prompts(model.class_names.suffix[index], vision)
    normal, abnormal = torch.cat([model.prompts.prefix(model.sos), rest], dim=1)
    ids = {word: model.clip.tokenizer.encode(word) for word in ("cap", "damaged")}
    eos = model.clip.embed([model.clip.eos_id])
    query = model.prompts.query + vision
    sos = model.sos.unsqueeze(0)
    expected = torch.cat([sos, model.prompts.normal, query, model.clip.embed(ids["cap"]), eos])
    torch.testing.assert_close(normal[: len(expected)], expected)
    damaged = model.clip.embed(ids["damaged"] + ids["cap"])
    expected = torch.cat([sos, model.prompts.abnormal, query, damaged, eos])
    torch.testing.assert_close(abnormal[: len(expected)], expected)
    end = model.class_names.eos[index] + len(model.prompts.query)
    assert (end + model.prompts.prefix(model.sos).shape[1]).tolist() == [len(expected) - 2, len(expected) - 1]
