"""Tasks that are only described: what is drawn, what stands for them, and the commands that take a description."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors import safe_open
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

import hyperadapt as ha
from families import tiny_base
from hyperadapt.descriptions import described, encode
from hyperadapt.errors import UserError
from hyperadapt.tasks import Task
from tiny import SMALL, TASKS, given_tasks, tiny_batch, tiny_t5
from tiny_run import BASE, hyperadapt

SAID = {
    "alpha": ["say if it is good", "is it good or not"],
    "beta": "count the words",
    "gamma": "name the colour",
}
DESCRIBED = ha.HyperLoRA(r=4, task_descriptions=True, **SMALL)


def model_of(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = ha.adapt(tiny_t5(), DESCRIBED, TASKS, descriptions=SAID).eval()
    with torch.no_grad():
        for group in model.hyperadapt.site_groups():
            group.generators[-1].head.normal_(0, 0.3)
    return model


def test_texts_are_encoded_by_their_mean_state_whatever_stands_beside_them() -> None:
    model, tokenizer = ha.load_tiny_t5()
    texts = ["say if it is good", "count", "is the thing in the middle large or not"]
    together = encode(texts, "tiny-t5")
    for text, found in zip(texts, together, strict=True):
        with torch.no_grad():
            expected = model.encoder(**tokenizer(text, return_tensors="pt")).last_hidden_state.mean(1)[0]
        assert (found - expected).abs().max() < 1e-5


def test_one_description_is_drawn_in_training_and_the_mean_taken_else() -> None:
    model = model_of()
    embedding, raw = model.hyperadapt.conditioning, described(TASKS, SAID, "tiny-t5")
    assert raw.shape == (3, 2, 192)
    assert not raw[1, 1].any()
    centre, width = embedding.centre, embedding.width
    ids = torch.tensor([0, 1])
    assert (embedding.embed(ids)[0] * width + centre - raw[0].mean(0)).abs().max() < 1e-5
    assert (embedding.embed(ids)[1] * width + centre - raw[1, 0]).abs().max() < 1e-5
    every = torch.cat([raw[0], raw[1, :1], raw[2, :1]])
    assert torch.allclose(((every - centre) / width).square().mean(), torch.tensor(1.0))
    model.train()
    drawn = []
    for _ in range(32):
        # Both stacks of a step read the same, a decoder too that asks for more tasks.
        of_step = {stack: embedding_of(model, stack, [0, 1]) for stack in ("encoder", "decoder")}
        assert torch.equal(of_step["encoder"], of_step["decoder"])
        drawn.append(of_step["encoder"] * width + centre)
    of_alpha = [[bool((row[0] - one).abs().max() < 1e-5) for one in raw[0]] for row in drawn]
    assert all(sum(which) == 1 for which in of_alpha)
    assert {which.index(True) for which in of_alpha} == {0, 1}
    assert all((row[1] - raw[1, 0]).abs().max() < 1e-5 for row in drawn)
    assert not embedding.z.requires_grad


def embedding_of(model: Any, stack: str, ids: list[int]) -> Any:
    """What a stack's projector is given for some tasks."""
    found = []
    projector = model.hyperadapt.conditioning.stacks[stack]
    handle = projector.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    model.hyperadapt.generate(given_tasks(stack, ids))
    handle.remove()
    return found[0]


def test_controls_are_what_they_say_and_change_what_is_computed() -> None:
    from hyperadapt.runs.unseen import controls, set_features

    model, batch = model_of(), tiny_batch()
    trained = [
        Task(
            name=name, generated=True, fields="x", kind="text", metrics="exact_match", description=SAID[name]
        )
        for name in TASKS
    ]
    new = [trained[0].model_copy(update={"name": "delta", "description": ("count the words now",)})]
    model.add_task("delta", description=new[0].description)
    of_delta = {**batch, "task_ids": torch.full((6,), 3)}
    means = model.hyperadapt.conditioning.mean_features()
    with torch.no_grad():
        described_so = model(**of_delta).logits
        random, mean, nearest = controls(model, trained, new)
        assert (nearest.of, torch.equal(nearest.features[0], means[1])) == (("beta",), True)
        assert torch.allclose(mean.features[0], means[:3].mean(0))
        assert random.features[0].shape == means[0].shape
        for control in (random, mean, nearest):
            set_features(model, {"delta": control.features[0]})
            assert (model(**of_delta).logits - described_so).abs().max() > 1e-5
        assert torch.allclose(
            model(**of_delta).logits, model(**{**batch, "task_ids": torch.ones(6).long()}).logits, atol=1e-5
        )


@torch.no_grad()
def test_a_task_of_the_same_words_computes_the_same_without_training_and_is_saved(tmp_path: Path) -> None:
    model, batch = model_of(), tiny_batch()
    model.add_task("delta", description="count the words")
    model.add_task("wordy", description=["one", "two", "three"])
    ids = torch.ones(6, dtype=torch.long)
    expected = model(**{**batch, "task_ids": ids}).logits
    assert torch.equal(model(**{**batch, "task_ids": ids * 3}).logits, expected)
    assert (model(**{**batch, "task_ids": ids * 4}).logits - expected).abs().max() > 1e-4
    model.save_pretrained(tmp_path)
    again = ha.load(tmp_path, base_model=tiny_t5())
    for task in range(5):
        other = {**batch, "task_ids": ids * task}
        assert torch.equal(again(**other).logits, model(**other).logits)
    again.add_task("later", description="count the words")
    assert torch.equal(again(**{**batch, "task_ids": ids * 5}).logits, expected)
    model.add_task("between", init_from=["alpha", "beta"])
    means = model.hyperadapt.conditioning.mean_features()
    assert torch.allclose(means[-1], means[:2].mean(0), atol=1e-6)
    model.keep_tasks(["delta"])
    assert torch.equal(model(**{**batch, "task_ids": ids * 0}).logits, expected)


def test_any_encoder_reads_descriptions_and_a_decoder_none(tmp_path: Path) -> None:
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    tokenizer = AutoTokenizer.from_pretrained(Path(ha.__file__).parent / "assets/tiny-t5")
    BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=8, **shape)).save_pretrained(
        tmp_path / "bert"
    )
    tokenizer.save_pretrained(tmp_path / "bert")
    assert encode(["count the words"], str(tmp_path / "bert")).shape == (1, 16)
    with pytest.raises(UserError, match=r"a description has 1. tokens, and bert reads 8: 'one two"):
        encode(["one two three four five six seven eight nine ten"], str(tmp_path / "bert"))
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(tmp_path / "llama")
    tokenizer.save_pretrained(tmp_path / "llama")
    GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=16, n_layer=1, n_head=2)).save_pretrained(
        tmp_path / "gpt2"
    )
    tokenizer.save_pretrained(tmp_path / "gpt2")
    for name in ("llama", "gpt2"):
        with pytest.raises(UserError, match=f"{name}' is a decoder alone"):
            encode(["count"], str(tmp_path / name))
    with pytest.raises(UserError, match="is neither a local directory of transformers nor on the hub"):
        encode(["count"], str(tmp_path / "nothing"))


@pytest.mark.parametrize("method", [ha.HyperFormer, ha.HyperFormerPlusPlus])
def test_hyperformer_reads_descriptions_too(method: Any) -> None:
    model = ha.adapt(
        tiny_t5(), method(reduction_factor=8, task_descriptions=True, **SMALL), TASKS, descriptions=SAID
    )
    assert model.hyperadapt.conditioning.z.shape == (3, 2, 192)
    model.train()(**tiny_batch()).loss.backward()


@pytest.mark.parametrize(
    ("descriptions", "message"),
    [
        (
            {"alpha": "x", "beta": "y"},
            "task 'gamma' has no description; write description: and what is to be done",
        ),
        ({**SAID, "beta": " "}, "the description of task 'beta' is empty"),
        ({**SAID, "bета": "x"}, "descriptions: there is no task 'bета'"),
        ({**SAID, "beta": "word " * 600}, "a description has 6.. tokens, and tiny-t5 reads 512"),
    ],
)
def test_wrong_descriptions_are_one_line(descriptions: dict[str, Any], message: str) -> None:
    base = tiny_t5()
    with pytest.raises(UserError, match=message):
        ha.adapt(base, DESCRIBED, TASKS, descriptions=descriptions)
    assert all(parameter.requires_grad for parameter in base.parameters())


def test_descriptions_where_none_are_read_and_none_where_they_are() -> None:
    with pytest.raises(
        UserError, match=r"hyperformer\+\+ does not read descriptions of tasks; it does with task_desc"
    ):
        ha.adapt(tiny_t5(), ha.HyperFormerPlusPlus(**SMALL), TASKS, descriptions=SAID)
    with pytest.raises(
        UserError, match="lora does not read descriptions of tasks; hyperlora, hyperformer and"
    ):
        ha.adapt(tiny_base("llama"), ha.LoRA(), TASKS, descriptions=SAID)
    with pytest.raises(UserError, match="task_descriptions: no task is described"):
        ha.adapt(tiny_t5(), DESCRIBED, TASKS)
    with pytest.raises(UserError, match="'delta' needs a description"):
        model_of().add_task("delta")
    with pytest.raises(UserError, match="is given features and a description"):
        model_of().add_task("delta", features=[1.0] * 192, description="x")
    with pytest.raises(UserError, match="features of zeros, which stand for no description"):
        model_of().add_task("delta", features=[0.0] * 192)
    with pytest.raises(
        UserError, match="train_task_embeddings_only leaves nothing to train where task_descriptions"
    ):
        ha.HyperLoRA(task_descriptions=True, train_task_embeddings_only=True)


# --- the command line


@pytest.fixture(scope="module")
def many_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four described tasks of the generated world."""
    directory = tmp_path_factory.mktemp("described")
    config = {
        "output_dir": str(directory / "run"),
        "model": {"config": BASE, "tokenizer": "bytes"},
        "method": {"name": "hyperlora", "r": 2, "task_descriptions": True, **SMALL},
        "data": {
            "tasks": [
                "many-animal-any-yes",
                "many-food-last-true",
                "many-tool-two-a",
                "many-weather-first-one",
            ],
            "max_train_rows": 16,
            "max_eval_rows": 4,
            "max_test_rows": 4,
        },
        "training": {"max_steps": 2, "batch_size": 4, "eval_steps": 2},
    }
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    outcome = hyperadapt("train", directory / "config.yaml")
    assert outcome.code == 0, outcome.err
    return directory / "run"


def test_an_unseen_task_is_scored_by_its_description_beside_controls(many_run: Path) -> None:
    outcome = hyperadapt(
        "evaluate", many_run, "--unseen", "many-animal-last-yes", "--unseen", "many-tool-any-one"
    )
    assert outcome.code == 0, outcome.err
    for heading in ("described", "random description", "mean of all", "nearest task"):
        assert heading in outcome.out, outcome.out
    rows = [line for line in outcome.out.splitlines() if "many-animal-last-yes" in line]
    assert any("(many-" in row for row in rows), rows  # the nearest is named


def test_an_unseen_task_without_a_description_is_one_line(many_run: Path) -> None:
    outcome = hyperadapt("evaluate", many_run, "--unseen", "sentiment")
    assert (outcome.code, outcome.out) == (2, "")
    assert "task 'sentiment' has no description" in outcome.err


def test_predict_takes_a_description(many_run: Path) -> None:
    row = json.dumps({"words": "rope cat river dog"})
    options = ("--describe", "say yes if there is an animal", "--task", "many-animal-any-yes")
    outcome = hyperadapt("predict", many_run, *options, stdin=row)
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["prediction"] in ("yes", "no")
    outcome = hyperadapt(
        "predict", many_run, "--describe", "name the first", stdin=json.dumps({"text": "a red fox"})
    )
    assert outcome.code == 0, outcome.err
    assert set(json.loads(outcome.out)) == {"text", "prediction", "written"}
    texts = {"--describe": "say yes if there is an animal", "other": "write one for a tool , two for none"}
    for wrong, message in (
        ((), "name a task of"),
        (("--describe", " "), "--describe: it is empty"),
        (("--describe", "word " * 600), "a description has 6"),
    ):
        outcome = hyperadapt("predict", many_run, *wrong, stdin=row)
        assert (outcome.code, outcome.out) == (2, "")
        assert message in outcome.err
    two = json.dumps({"text": "a", "label": "b"})
    outcome = hyperadapt("predict", many_run, "--describe", "name it", stdin=two)
    assert (outcome.code, outcome.out) == (2, "")
    assert "have one column, not text, label; name a task of the run by --task" in outcome.err
    found = []
    for text in texts.values():  # what is said decides what is computed
        run = ha.load_run(many_run).with_description(text, [], "many-animal-any-yes")
        inputs = run.tokenizer(["rope cat river dog"], return_tensors="pt")
        labels = run.tokenizer(["yes"], return_tensors="pt")["input_ids"]
        with torch.no_grad():
            for group in run.model.hyperadapt.site_groups():
                group.generators[-1].head.normal_(0, 0.3, generator=torch.Generator().manual_seed(0))
            found.append(run.model(**inputs, labels=labels, task_ids=torch.tensor([4])).logits)
    assert not torch.allclose(found[0], found[1], atol=1e-4)


def test_another_task_goes_on_from_a_described_run(many_run: Path, tmp_path: Path) -> None:
    task = {"name": "mine", "files": dict.fromkeys(("train", "validation"), "rows.jsonl"), "fields": ["text"]}
    task |= {"labels": ["no", "yes"], "metrics": "accuracy"}
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"text": str(n), "label": n % 2}) + "\n" for n in range(8))
    )
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(task))
    options = ("--task", tmp_path / "mine.yaml", "--output-dir", tmp_path / "out", "training.max_steps=1")
    outcome = hyperadapt("fewshot", many_run, *options)
    assert outcome.code == 2
    assert "task 'mine' has no description" in outcome.err
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**task, "description": "is the number odd"}))
    outcome = hyperadapt("fewshot", many_run, *options, "training.eval_steps=1")
    assert outcome.code == 0, outcome.err
    with safe_open(tmp_path / "out/model/model.safetensors", "pt") as file:
        assert file.get_tensor("hyperadapt.conditioning.z").shape[0] == 1


def test_a_runs_loras_are_exported_all_or_one_or_merged(many_run: Path, tmp_path: Path) -> None:
    outcome = hyperadapt("export", many_run, "--all", tmp_path / "all")
    assert outcome.code == 0, outcome.err
    folders = sorted(folder.name for folder in (tmp_path / "all").iterdir() if folder.is_dir())
    assert folders == [
        "many-animal-any-yes",
        "many-food-last-true",
        "many-tool-two-a",
        "many-weather-first-one",
    ]
    assert "serve LoRAs of decoder-only models" in outcome.out
    assert not (tmp_path / "all/serving.txt").exists()
    outcome = hyperadapt(
        "export", many_run, "--task", "many-animal-any-yes", "--format", "peft", tmp_path / "one"
    )
    assert outcome.code == 0, outcome.err
    outcome = hyperadapt(
        "export", many_run, "--task", "many-animal-any-yes", "--format", "merged", tmp_path / "plain"
    )
    assert outcome.code == 0, outcome.err
    ours, batch = ha.load(many_run), tiny_batch(2)
    inputs = {"input_ids": batch["input_ids"], "decoder_input_ids": batch["labels"].clamp(min=0)}
    with torch.no_grad():
        expected = ours(**inputs, task_ids=torch.zeros(2, dtype=torch.long)).logits
        base = AutoModelForSeq2SeqLM.from_pretrained(many_run / "base")
        for place in (tmp_path / "one", tmp_path / "all/many-animal-any-yes"):
            theirs = PeftModel.from_pretrained(
                AutoModelForSeq2SeqLM.from_pretrained(many_run / "base"), place
            )
            assert (theirs.eval()(**inputs).logits - expected).abs().max() < 1e-5
        plain = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "plain")
        assert (plain(**inputs).logits - expected).abs().max() < 1e-5
    assert AutoTokenizer.from_pretrained(tmp_path / "plain")("ab")["input_ids"]
    assert type(base) is type(plain)


def test_what_cannot_be_exported_is_one_line_and_nothing_is_written(
    many_run: Path, trained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for run, options, message in (
        (trained, ("--all",), "adapters makes no LoRA, as polytropon, lora, shared_lora, hyperlora do"),
        (many_run, (), "name one task by --task, or take all of the run's by --all"),
        (many_run, ("--all", "--format", "merged"), "--format merged is one whole model"),
        (many_run, ("--task", "many-animal-any-yes", "--format", "lora"), "format 'lora' is unknown"),
        (many_run, ("--task", "many-animl-any-yes"), "has no task 'many-animl-any-yes'; did you mean"),
    ):
        outcome = hyperadapt("export", run, *options, out)
        assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1), outcome
        assert message in outcome.err
        assert not out.exists()
