"""tiny-t5, the model that comes with the package: found anywhere, small enough, and no stranger to English."""

from __future__ import annotations

import random
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import hyperadapt as ha
from hyperadapt.pretraining.tokenizer import SENTINELS, sentinel_ids
from hyperadapt.tiny_t5 import DIRECTORY
from tiny_run import hyperadapt

SENTENCES = (
    "The old man sat by the window and looked at the sea for a long time.",
    "She took the letter out of her pocket and gave it to her brother.",
    "The government said that it would not raise taxes before next year.",
    "He was afraid of the dark, but he did not want to say so.",
    "Scientists have found that the drug may help patients who suffer from pain.",
    "We walked down the street until we came to a small white house.",
    "I do not know what you mean, and I do not think that you do.",
    "The children ran into the garden as soon as the rain had stopped.",
)


def test_it_is_a_t5_of_the_promised_size_in_the_precision_that_is_asked_for() -> None:
    model, tokenizer = ha.load_tiny_t5()
    assert 5e6 < model.num_parameters() < 6.4e6
    assert model.config.vocab_size == len(tokenizer) == 8000
    assert model.dtype == torch.float32
    assert ha.load_tiny_t5(torch.bfloat16)[0].dtype == torch.bfloat16
    assert len(sentinel_ids(tokenizer)) == len(SENTINELS) == 100
    for sentence in SENTENCES:
        ids = tokenizer(sentence)["input_ids"]
        assert ids[-1] == model.config.eos_token_id == tokenizer.eos_token_id
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == sentence


@pytest.mark.xdist_group("wheel")
def test_its_files_are_bfloat16_and_fit_in_the_wheel(wheel: Path) -> None:
    with safe_open(DIRECTORY / "model.safetensors", "pt") as weights:
        assert {weights.get_tensor(name).dtype for name in weights.keys()} == {torch.bfloat16}  # noqa: SIM118
    with zipfile.ZipFile(wheel) as archive:
        sizes = {
            Path(entry.filename).name: entry.compress_size
            for entry in archive.infolist()
            if "/assets/tiny-t5/" in entry.filename
        }
    assert set(sizes) == {path.name for path in DIRECTORY.iterdir()}
    assert {"README.md", "loss.svg", "config.json", "tokenizer.json"} < set(sizes)
    assert sum(sizes.values()) <= 13e6


@torch.no_grad()
def test_it_expects_english_rather_than_its_words_in_any_order() -> None:
    model, tokenizer = ha.load_tiny_t5()
    randomly = random.Random(0)

    def loss(sentence: str) -> float:
        words = sentence.split()
        start, rest = " ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])
        return float(
            model(
                **tokenizer(start, return_tensors="pt"), labels=tokenizer(rest, return_tensors="pt").input_ids
            ).loss
        )

    for sentence in SENTENCES:
        first, *others = sentence.rstrip(".").split()
        randomly.shuffle(others)
        assert loss(sentence) < loss(" ".join([first, *others]) + ".")


@torch.no_grad()
def test_its_encoder_finds_a_sentence_nearer_to_what_means_the_same() -> None:
    model, tokenizer = ha.load_tiny_t5()

    def vector(sentence: str) -> torch.Tensor:
        return model.encoder(**tokenizer(sentence, return_tensors="pt"))[0][0].mean(0)

    for sentence, near, far in (
        ("The doctor helped the sick child.", "A physician treated an ill boy.", "The market opens at nine."),
        ("The ship sank in the storm.", "A boat was lost at sea.", "She sings in a choir."),
        ("He is very happy today.", "Today he feels great joy.", "The law was changed last year."),
    ):
        of = [vector(text) for text in (sentence, near, far)]
        assert torch.cosine_similarity(of[0], of[1], 0) > torch.cosine_similarity(of[0], of[2], 0)


def test_an_adaptation_of_it_names_it_and_finds_it_again(tmp_path: Path) -> None:
    base, tokenizer = ha.load_tiny_t5()
    model = ha.adapt(base, ha.HyperFormerPlusPlus(reduction_factor=16), tasks=["a", "b"]).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(tmp_path / "saved")
    assert str(DIRECTORY) not in (tmp_path / "saved/hyperadapt.json").read_text()
    loaded = ha.load(tmp_path / "saved").eval()
    batch = tokenizer(list(SENTENCES[:2]), return_tensors="pt", padding=True)
    options = {**batch, "labels": batch["input_ids"], "task_ids": torch.tensor([0, 1])}
    assert torch.equal(model(**options).logits, loaded(**options).logits)


def test_a_run_takes_it_by_its_name(tmp_path: Path) -> None:
    run = tmp_path / "run"
    values = [
        f"output_dir={run}",
        "data={tasks: [entailment, paraphrase], max_train_rows: 64, max_eval_rows: 20}",
        "training={max_steps: 2, batch_size: 8, eval_steps: 2}",
    ]
    assert hyperadapt("train", "quickstart", *values).code == 0
    predicted = hyperadapt(
        "predict", str(run), "--task", "paraphrase", stdin='{"sentence1": "a dog", "sentence2": "a dog"}\n'
    )
    assert predicted.code == 0


@pytest.mark.parametrize("name", ["tinny-t5", "tiny_t5"])
def test_a_wrong_name_is_answered_with_the_right_one(tmp_path: Path, name: str) -> None:
    outcome = hyperadapt("train", "quickstart", f"model.name={name}", f"output_dir={tmp_path / 'run'}")
    assert outcome.code != 0
    assert f"model.name: there is no model '{name}'; did you mean 'tiny-t5'?" in outcome.err
    assert not (tmp_path / "run").exists()
