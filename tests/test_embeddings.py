"""Embeddings of rows and tasks: those from which the parameters are generated, whatever the batch."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch

from hyperadapt import figures
from hyperadapt.embeddings import MAPS, embed, maps
from hyperadapt.runs import load_run
from tiny_run import COLOURS, SPLITS, hyperadapt, write_config, write_tasks

METHODS = {
    "generated decoder": {"name": "hyperdecoder", "encoder_bottleneck_dim": 4, "decoder_bottleneck_dim": 4},
    "generated encoder": {"name": "hyperdecoder", "encoder": "generated", "decoder": "none"},
    "no input": {"name": "task_hypernet", "encoder_bottleneck_dim": 4, "decoder_bottleneck_dim": 4},
}


@pytest.mark.parametrize("kind", METHODS)
def test_every_row_and_task_is_written_with_the_embedding_that_its_parameters_come_from(
    tmp_path: Path, kind: str
) -> None:
    tasks = write_tasks(tmp_path / "tasks")
    few_steps = ["training.max_steps=2", "training.eval_steps=2"]
    assert hyperadapt("train", write_config(tmp_path, tasks, method=METHODS[kind]), *few_steps).code == 0
    outcome = hyperadapt("embed", tmp_path / "run", "--probe")
    assert outcome.code == 0, outcome.err
    assert "colour: linear probe, accuracy " in outcome.out
    assert "warmth" not in outcome.out, "a score is no class"
    run, folder = load_run(tmp_path / "run"), tmp_path / "run/embeddings"
    table = pyarrow.parquet.read_table(folder / "rows.parquet").to_pylist()
    assert [row["task"] for row in table] == ["colour"] * SPLITS["test"] + ["warmth"] * SPLITS["test"]
    assert [row["written"] for row in table[: SPLITS["test"]]] == run.evaluate("test").predictions[0]
    for index, text in enumerate(list(COLOURS)[:3]):
        expected = by_hand(run, f"colour text: {text}{' and so on' * (index % 3)}", kind)
        assert np.abs(np.array(table[index]["embedding"]) - expected).max() < 1e-5
    of_tasks = folder / "tasks.parquet"
    assert of_tasks.is_file() == (kind == "no input")
    if kind == "no input":
        found = pyarrow.parquet.read_table(of_tasks).to_pylist()
        z = [run.model.hyperadapt.conditioning.of[stack].z[1] for stack in ("encoder", "decoder")]
        assert found[1]["embedding"] == pytest.approx(torch.cat(z).tolist())
    assert all((folder / f"{name}.svg").is_file() for name in MAPS)
    assert hyperadapt("report", tmp_path / "run").code == 0
    page = (tmp_path / "run/report.html").read_text()
    assert all(title in page for title in MAPS.values())


def test_maps_show_some_of_many_rows_and_the_table_has_all(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []
    monkeypatch.setattr("hyperadapt.embeddings.ROWS_IN_MAPS", 5)
    monkeypatch.setattr("hyperadapt.embeddings.maps", lambda *drawn: shown.append(drawn) or maps(*drawn))
    shutil.copytree(trained, tmp_path / "run")
    assert hyperadapt("embed", tmp_path / "run").code == 0
    folder = tmp_path / "run/embeddings"
    table = pyarrow.parquet.read_table(folder / "rows.parquet").to_pylist()
    assert len(table) == 2 * SPLITS["test"]
    assert {row["label"] for row in table[: SPLITS["test"]]} == {"0", "1"}
    assert all((folder / f"{name}.svg").is_file() for name in MAPS)
    assert hyperadapt("report", tmp_path / "run").code == 0
    page = (tmp_path / "run/report.html").read_text()
    assert page.count(f", of 5 of {2 * SPLITS['test']} test rows: what each row") == len(MAPS)
    ((points, groups),) = shown
    assert len(points) == len(groups["task"]) == len(groups["prediction"]) == 5
    known = {tuple(np.float32(row["embedding"])): row["task"] for row in table}
    assert [known[tuple(point)] for point in points] == groups["task"]


@torch.no_grad()
def by_hand(run, text: str, kind: str) -> np.ndarray:
    """One row's embedding, of its own tokens and nothing else."""
    ids = run.tokenizer(text, truncation=True, max_length=48, return_tensors="pt")["input_ids"]
    model = run.model
    if kind == "generated encoder":
        from hyperadapt.adaptation import DRAFT
        from hyperadapt.conditioning import Inputs

        generated = model.hyperadapt(Inputs(DRAFT.format("encoder"), ids), torch.float32)
        draft = model.hyperadapt.by_site(generated)
        hidden, bias = model.encoder.embed_tokens(ids), None
        for block in model.encoder.block:
            hidden, bias = block(hidden, position_bias=bias, site_weights=draft)[:2]
        mean = model.encoder.final_layer_norm(hidden).mean(1)
        return model.hyperadapt.conditioning.of["encoder"].mlp(mean)[0].numpy()
    states = model.encoder(ids, task_ids=torch.tensor([0])).last_hidden_state.mean(1)
    return (
        model.hyperadapt.conditioning.of["decoder"].mlp(states) if kind == "generated decoder" else states
    )[0].numpy()


def test_an_embedding_does_not_depend_on_the_rows_beside_it(trained: Path) -> None:
    run = load_run(trained)
    inputs = run.tokenizer(["text: red rose", "text: blue whale, and on and on", "text: red rose"])[
        "input_ids"
    ]
    together = embed(run, inputs, [0, 1, 0])
    alone = np.concatenate([embed(run, [each], [task]) for each, task in zip(inputs, [0, 1, 0], strict=True)])
    assert np.abs(together - alone).max() < 1e-5
    assert np.abs(together[0] - together[1]).max() > 1e-3


def test_a_probe_of_rows_with_one_label_is_refused_in_one_line(trained: Path) -> None:
    outcome = hyperadapt("embed", trained, "--max-rows", "2", "--probe")
    assert outcome.code == 2
    assert "task 'colour': all 2 training rows have one label; raise max_rows" in outcome.err
    assert not (trained / "embeddings").exists()


@pytest.mark.parametrize("beyond", [0, 1])
def test_a_map_names_every_group_unless_there_are_more_than_colours(beyond: int) -> None:
    groups = [f"group {number}" for number in range(len(figures.COLOURS) + beyond)]
    svg = figures.point_map(np.random.default_rng(0).random((len(groups), 2)), groups, ["", ""])
    assert ("other" in svg) == bool(beyond)
    assert sum(f"<!-- {name} -->" in svg for name in groups) == len(figures.COLOURS) - beyond
