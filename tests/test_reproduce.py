"""The HyperFormer paper's experiments: each runs to its page, and the formulas are the real counts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from transformers import T5Config

from hyperadapt.reproduce import (
    EXPERIMENTS,
    HYPER_PP,
    SCALES,
    adapters_count,
    best_by_validation,
    hyperformer_pp_count,
    plan,
    real_count,
    reproduce,
)
from tiny_run import hyperadapt


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_smoke(tmp_path: Path, name: str) -> None:
    planned = plan(name, "smoke", tmp_path)
    page = reproduce(planned, jobs=2)
    assert all(cell.finished for cell in planned.cells())
    text = page.read_text()
    assert text.startswith(f"# {EXPERIMENTS[name].source}: ")
    assert all((page.parent / picture).is_file() for picture in re.findall(r"\((.+\.svg)\)", text))
    assert "nan" not in text


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_run_of_every_scale_is_a_configuration(name: str, scale: str) -> None:
    planned = plan(name, scale)
    names = [cell.directory for cell in planned.cells()]
    assert len(set(names)) == len(names)
    assert (not names) == (name == "parameters")
    for cell in planned.cells():
        cell.config.build_method()


@pytest.mark.parametrize(
    ("layers", "h", "r", "t", "tasks"), [(2, 32, 8, 8, 3), (3, 48, 4, 16, 1), (1, 64, 2, 64, 20)]
)
def test_the_formulas_are_the_real_counts(layers: int, h: int, r: int, t: int, tasks: int) -> None:
    config = T5Config(
        d_model=h, num_layers=layers, num_heads=4, d_kv=8, d_ff=2 * h, vocab_size=64, decoder_start_token_id=0
    )
    d = h // r
    assert adapters_count(layers, h, d, tasks) == real_count(
        "adapters_dagger", config, tasks, reduction_factor=r
    )
    options = {"reduction_factor": r, "task_embedding_dim": t}
    assert hyperformer_pp_count(layers, h, d, t, tasks) == real_count(HYPER_PP, config, tasks, **options)


def test_a_transfer_goes_on_from_the_run_of_the_first_stage() -> None:
    first, *others = plan("table-2", "smoke").stages()
    runs = {variant: run.output_dir for (variant, _), run in first.runs().items()}
    for stage in others:
        for (variant, _), run in stage.runs().items():
            assert run.start is not None
            assert run.start.run == str(Path(runs[variant.split(",")[0]]).resolve())
            assert run.method["name"] == variant.split(",")[0]
            assert run.data.subsample_seed is None


def test_the_reduction_factor_is_chosen_by_the_validation_rows() -> None:
    rows = [
        {"variant": "a,r=4", "validation": (50.0, 1.0), "average": (70.0, 1.0)},
        {"variant": "a,r=8", "validation": (60.0, 1.0), "average": (10.0, 1.0)},
        {"variant": "b", "validation": (1.0, 1.0), "average": (2.0, 1.0)},
    ]
    assert [row["variant"] for row in best_by_validation(rows)] == ["a,r=8", "b"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table-9"], "experiment 'table-9' is unknown; did you mean 'table-"),
        (["table-1", "--scale", "smal"], "--scale 'smal' is unknown; did you mean 'small'?"),
        ([], "name an experiment; choices: table-1"),
        (["table-2", "--data-dir", "nowhere"], "there is no folder"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    outcome = hyperadapt("reproduce", *arguments, "--output-dir", tmp_path / "out")
    assert outcome.code == 2
    assert message in outcome.err
    assert not (tmp_path / "out").exists()


def test_the_list_says_what_is_done(tmp_path: Path) -> None:
    outcome = hyperadapt("reproduce", "--list", "--scale", "smoke", "--output-dir", tmp_path)
    assert outcome.code == 0
    assert all(name in outcome.out for name in EXPERIMENTS)
