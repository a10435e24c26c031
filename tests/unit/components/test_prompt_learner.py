# Copyright (C) 2026 The anomalib-genclip authors
# SPDX-License-Identifier: Apache-2.0

"""Prompts in token space."""

import torch


def test_prompt_holds_its_parts_in_order(model):
    name = "cap"
    index = int(model.class_index([name]))
    vision = torch.randn(4, 256)
    prefix, rest = model.prompts.prefix(model.sos), model.prompts(model.class_names.suffix[index], vision)
    ids = {word: model.clip.tokenizer.encode(word) for word in ("cap", "damaged")}
    eos = model.clip.embed([model.clip.eos_id])
    query = model.prompts.query + vision
    sos = model.sos.unsqueeze(0)
    torch.testing.assert_close(prefix[0], torch.cat([sos, model.prompts.normal]))
    torch.testing.assert_close(prefix[1], torch.cat([sos, model.prompts.abnormal]))
    normal = torch.cat([query, model.clip.embed(ids["cap"]), eos])
    abnormal = torch.cat([query, model.clip.embed(ids["damaged"] + ids["cap"]), eos])
    torch.testing.assert_close(rest, torch.cat([normal, abnormal]))
