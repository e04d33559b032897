"""Embeddings of rows and tasks: those from which the parameters are generated, whatever the batch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch

from hyperadapt.errors import UserError
from hyperadapt.evaluation import EvaluationSet
from hyperadapt.runs.run import load_run
from hyperadapt.studies import figures
from hyperadapt.studies.embeddings import MAPS, Embedded, draw_maps, embed, maps, write_embeddings
from hyperadapt.tasks import Task
from tiny_run import COLOURS, SPLITS, contents, hyperadapt, write_config, write_tasks

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
    drawn = {name for name in MAPS if (folder / f"{name}.svg").is_file()}
    assert drawn == {"pca-task", "pca-prediction", "tsne-task", "tsne-prediction"}, "there are no questions"
    assert hyperadapt("report", tmp_path / "run").code == 0
    page = (tmp_path / "run/report.html").read_text()
    assert {name for name, title in MAPS.items() if title in page} == drawn


def test_maps_show_some_of_many_rows_and_the_table_has_all(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []
    monkeypatch.setattr("hyperadapt.studies.embeddings.ROWS_IN_MAPS", 20)
    monkeypatch.setattr(
        "hyperadapt.studies.embeddings.maps", lambda *drawn: shown.append(drawn) or maps(*drawn)
    )
    folder = run / "embeddings"
    folder.mkdir()
    (folder / "pca-answer.svg").write_text("of other rows")
    assert hyperadapt("embed", run).code == 0
    table = pyarrow.parquet.read_table(folder / "rows.parquet").to_pylist()
    assert [row["row"] for row in table] == [*range(SPLITS["test"])] * 2
    assert {row["label"] for row in table[: SPLITS["test"]]} == {"0", "1"}
    ((points, groups),) = shown
    known = {tuple(np.float32(row["embedding"])): row["task"] for row in table}
    assert [known[tuple(point)] for point in points] == groups["task"]
    scores = groups["task"].count("warmth")
    assert 0 < scores <= SPLITS["test"]
    assert [name is None for name in groups["prediction"]] == [name == "warmth" for name in groups["task"]]
    assert groups["answer"] == [None] * 20
    assert not (folder / "pca-answer.svg").exists()
    assert hyperadapt("report", run).code == 0
    page = (run / "report.html").read_text()
    of_all = f"of {2 * SPLITS['test']} test rows: what"
    assert page.count(f"From hyperadapt embed, of 20 {of_all}") == 2
    assert page.count(f"From hyperadapt embed, of {20 - scores} {of_all}") == 2
    (folder / "about.json").write_text(json.dumps({"split": "test", "rows": 28, "rows_in_maps": 20}))
    assert hyperadapt("report", run).code == 0
    assert (run / "report.html").read_text().count(
        "From hyperadapt embed of an earlier version, with scores"
    ) == 4


def test_maps_can_be_had_without_being_written(trained: Path, tmp_path: Path) -> None:
    run, before = load_run(trained), contents(trained)
    drawn, of_one = draw_maps(run, "validation"), draw_maps(run, "validation", ["colour"])
    assert set(drawn) == set(of_one) == {"pca-task", "pca-prediction", "tsne-task", "tsne-prediction"}
    assert "<!-- warmth -->" in drawn["pca-task"]
    assert "<!-- warmth -->" not in of_one["pca-task"]
    assert drawn["pca-prediction"] == of_one["pca-prediction"]
    with pytest.raises(UserError, match="did you mean 'colour'"):
        draw_maps(run, "validation", ["color"])
    assert contents(trained) == before
    write_embeddings(replace(run, directory=tmp_path), "validation")
    assert {file.stem: file.read_text() for file in tmp_path.glob("embeddings/*.svg")} == drawn


def test_inputs_are_grouped_by_the_label_or_answer_that_is_written() -> None:
    label = {"files": {"train": "rows.csv"}, "fields": ["text"]}
    tasks = (
        Task(name="colour", labels=["warm", "cold"], metrics=["accuracy"], **label),
        Task(name="warmth", kind="score", metrics=["pearson"], **label),
        Task(name="story", kind="text", metrics=["rouge2"], **label),
        Task(name="places", kind="question_answering", metrics=["answer_f1"], **label),
    )
    inputs: list[Any] = [[[5], [6], [7]], [[8]], [[9]], [[10], [11], [12]]]
    of_rows = [[0, 1, 2], [0], [0], [0, 0, 1]]
    targets: list[Any] = [["0", "1", "0"], ["3"], ["long ago"], [("Rome", "Roma"), ("",)]]
    rows = EvaluationSet(tasks, inputs, targets, of_rows, [], [])
    written = [["1", "cold", ""], ["3"], [""], ["", "Rome", ""]]
    embedded = Embedded(rows, written, [np.zeros((len(of_task), 2)) for of_task in inputs])
    assert embedded.groups() == {
        "task": ["colour"] * 3 + ["warmth", "story"] + ["places"] * 3,
        "prediction": ["1", "no label", "no label", None, "text", "text", "text", "text"],
        "answer": [None] * 5 + ["empty answer", "answer", "empty answer"],
    }
    assert embedded.columns()["row"] == [0, 1, 2, 0, 0, 0, 0, 1]
    assert embedded.columns()["label"][-3:] == ["Rome", "Rome", ""]


def test_what_a_map_leaves_out_does_not_turn_its_components() -> None:
    points = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
    groups = ["a", "b", None] * 4
    points[2::3] *= 100
    kept = [place for place, name in enumerate(groups) if name]
    names = [name for name in groups if name]
    both = maps(points, {"prediction": groups, "task": ["a"] * 12})
    assert both["pca-prediction"] == maps(points[kept], {"prediction": names})["pca-prediction"]
    assert both["pca-task"] == maps(points, {"task": ["a"] * 12})["pca-task"]
    assert maps(points[:4], {"prediction": groups[:4], "task": ["a"] * 4}).keys() == {"pca-task", "tsne-task"}


@torch.no_grad()
def by_hand(run, text: str, kind: str) -> np.ndarray:
    """One row's embedding, of its own tokens and nothing else."""
    ids = run.tokenizer(text, truncation=True, max_length=48, return_tensors="pt")["input_ids"]
    model = run.model
    if kind == "generated encoder":
        from hyperadapt.adaptation import DRAFT
        from hyperadapt.conditioning import Inputs

        prepared = model.hyperadapt(Inputs(DRAFT.format("encoder"), ids), torch.float32)
        draft = model.hyperadapt.by_site(prepared)
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
