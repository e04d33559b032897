"""Rows of models without an encoder, and of an encoder alone: what is read, what is learnt, and whole runs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from transformers import (
    AutoTokenizer,
    ByT5Tokenizer,
    GenerationConfig,
    MBart50Tokenizer,
    MBartConfig,
    MBartForConditionalGeneration,
    MBartTokenizer,
)

import hyperadapt as ha
from families import ENCODER, SHAPE, tiny_base
from hyperadapt.architectures import DecoderOnly, EncoderDecoder, EncoderOnly, Request
from hyperadapt.architectures.decoder_only import PromptCollator, places_of
from hyperadapt.architectures.frames import chat_prompt
from hyperadapt.architectures.generation import plain_generation
from hyperadapt.errors import UserError
from hyperadapt.runs.run import load_run
from hyperadapt.tasks import Task, load_split, load_task_file
from hyperadapt.tasks.input_format import InputFormat
from hyperadapt.tiny_t5 import NAME, place_of
from hyperadapt.training.target_scores import PLACES, WithPlaces, scores_at
from tiny import METHODS, NARROW, TASKS, redraw, relative_error, tiny_t5
from tiny_run import BASE, Outcome, assert_one_line, contents, hyperadapt, write_config, write_tasks

LLAMA = {"model_type": "llama", **SHAPE, "vocab_size": 384, "pad_token_id": 0, "eos_token_id": 1}
BERT = {"model_type": "bert", **ENCODER, "vocab_size": 384, "pad_token_id": 0}
CHAT = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content | trim }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
FORM = InputFormat(48)


def write_rows(directory: Path, rows: list[dict[str, Any]], **fields: Any) -> Task:
    (directory / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = {"name": "made", "files": {"train": "rows.jsonl"}, **fields}
    (directory / "made.yaml").write_text(yaml.safe_dump(spec))
    return load_task_file(directory / "made.yaml")


def reviews(directory: Path, **fields: Any) -> Task:
    rows = [
        {"title": f"a film {number}", "body": "good " * number, "label": number % 2} for number in range(6)
    ]
    labels = {"labels": ["bad", "good"], "metrics": ["accuracy"]}
    given = {} if "template" in fields else {"fields": ["title", "body"]}
    return write_rows(directory, rows, **labels, **given, **fields)


def read(ids: list[int]) -> str:
    """What bytes stand for, special tokens among them."""
    return ByT5Tokenizer().decode(ids)


@pytest.mark.parametrize(
    ("fields", "prompt", "target"),
    [
        ({}, "title: a film 1 body: good \n", "1</s>"),
        ({"writes": "name"}, "title: a film 1 body: good \n", "good</s>"),
        ({"template": "{title}: {body}Well?"}, "a film 1: good Well?", " 1</s>"),
        ({"template": "{title}: {body}Well? "}, "a film 1: good Well?", " 1</s>"),
        ({"template": "{{{title}}} {body}\n"}, "{a film 1} good \n", "1</s>"),
    ],
)
def test_a_prompt_ends_where_its_target_begins(
    fields: dict[str, Any], prompt: str, target: str, tmp_path: Path
) -> None:
    task, ways = reviews(tmp_path, **fields), DecoderOnly()
    row = ways.training_rows(load_split(task, "train"), task, 0, ByT5Tokenizer(), FORM)[1]
    assert (read(row["input_ids"]), read(row["labels"])) == (prompt, target)


def test_targets_are_the_tokens_that_follow_the_prompt_in_one_text(tmp_path: Path) -> None:
    """A tokenizer of pieces of words takes a blank and a word for one piece."""
    tokenizer = AutoTokenizer.from_pretrained(place_of(NAME))
    for template, between in (("{title} {body}It is", " "), ("{title} {body}\n", "")):
        task = reviews(tmp_path, template=template, writes="name")
        rows = load_split(task, "train")
        tokenized = DecoderOnly().training_rows(rows, task, 0, tokenizer, FORM)
        for text, row in zip(rows, tokenized, strict=True):
            whole = tokenizer(f"{text['source']}{between}{text['target']}")["input_ids"]
            assert [*row["input_ids"], *row["labels"]] == whole


@pytest.mark.parametrize("truncation", ["end", "longest_first"])
def test_of_what_is_too_long_the_input_is_cut_and_neither_template_nor_target(
    truncation: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = reviews(tmp_path, template="Title: {title}\nBody: {body}\nVerdict:")
    form = InputFormat(44, 0, truncation)
    tokenized = DecoderOnly().training_rows(load_split(task, "train"), task, 0, ByT5Tokenizer(), form)
    for number, row in enumerate(tokenized):
        text = read(row["input_ids"])
        assert text.startswith("Title: a film") and text.endswith("\nVerdict:")  # noqa: PT018
        assert read(row["labels"]) == f" {number % 2}</s>"
        assert len(row["input_ids"]) <= 44
    assert "of 6 train rows of made are cut at 44 tokens" in capsys.readouterr().err
    with pytest.raises(
        UserError, match=r"max_source_length 16 leaves no room for an input: .* takes 19 tokens"
    ):
        DecoderOnly().inputs(
            {"source": ["x" * 9]}, chatting(tmp_path, "|"), InputFormat(16, chat_template=True)
        )


def test_an_encoder_reads_a_template_too(tmp_path: Path) -> None:
    task = reviews(tmp_path, template="{title}: {body}Well?")
    for ways in (EncoderDecoder(), EncoderOnly()):
        row = ways.training_rows(load_split(task, "train"), task, 0, ByT5Tokenizer(), FORM)[1]
        assert read(row["input_ids"]) == "a film 1: good Well?</s>"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{title} {bdy}", "template: '{bdy}' is no field; did you mean 'body'?"),
        ("{title}", "template: the field 'body' does not stand in it"),
        ("{title} {body} {", "template: a brace of '{title} {body} {' has no other"),
        ("{title {body}", "template: a brace of '{title {body}' has no other"),
        ("{title} {body!r}", "template: {body!r} is no field's name in braces"),
    ],
)
def test_a_template_that_is_wrong_is_one_line(template: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    spec = {
        "name": "made",
        "files": {"train": "rows.jsonl"},
        "fields": ["title", "body"],
        "template": template,
        "labels": ["bad", "good"],
        "metrics": ["accuracy"],
    }
    (tmp_path / "made.yaml").write_text(yaml.safe_dump(spec))
    with pytest.raises(UserError) as raised:
        load_task_file(tmp_path / "made.yaml")
    assert message in str(raised.value)


def chatting(directory: Path, end: str = "</s>") -> Any:
    """A tokenizer of bytes with a chat template; where a turn's end is a special token, it tells no places."""
    tokenizer = ByT5Tokenizer()
    tokenizer.chat_template = CHAT.replace("</s>", end)
    tokenizer.save_pretrained(str(directory / "chatting"))
    return tokenizer


def test_a_chat_template_stands_around_input_and_answer(tmp_path: Path) -> None:
    task, tokenizer, form = reviews(tmp_path), chatting(tmp_path), InputFormat(64, chat_template=True)
    row = DecoderOnly().training_rows(load_split(task, "train"), task, 0, tokenizer, form)[1]
    asked = [{"role": "user", "content": "title: a film 1 body: good"}]
    expected = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert read(row["input_ids"]).replace("good <", "good<") == read(tokenizer(expected)["input_ids"][:-1])
    assert read(row["labels"]) == "1</s>"  # the end of the turn, and nothing behind it
    with pytest.raises(UserError, match=r"the tokenizer .* has no chat template"):
        DecoderOnly().training_rows(load_split(task, "train"), task, 0, ByT5Tokenizer(), form)


def test_of_a_conversation_the_last_message_is_the_answer(tmp_path: Path) -> None:
    said = (
        ("user", "Hello."),
        ("assistant", "Hello! What is it?"),
        ("user", "Nothing."),
        ("assistant", "Fine."),
    )
    messages = [{"role": role, "content": content} for role, content in said]
    task = write_rows(
        tmp_path, [{"messages": messages}], fields=["messages"], kind="chat", metrics=["exact_match"]
    )
    [texts], tokenizer = load_split(task, "train"), chatting(tmp_path)
    assert texts["target"] == "Fine."
    plain = "user: Hello.\nassistant: Hello! What is it?\nuser: Nothing."
    assert texts["source"] == plain
    ways, rows = DecoderOnly(), load_split(task, "train")
    [row] = ways.training_rows(rows, task, 0, tokenizer, InputFormat(128))
    assert (read(row["input_ids"]), read(row["labels"])) == (f"{plain}\n", "Fine.</s>")
    [row] = ways.training_rows(rows, task, 0, tokenizer, InputFormat(128, chat_template=True))
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    assert [*row["input_ids"], *row["labels"]] == tokenizer(whole, add_special_tokens=False)["input_ids"]
    # Of what is too long the newest is kept, and all that the template writes.
    piped = chatting(tmp_path, "|")
    [row] = ways.training_rows(rows, task, 0, piped, InputFormat(64, chat_template=True))
    assert read(row["input_ids"]) == "<user>|\n<assistant>Hello! What is i|\n<user>Nothing.|\n<assistant>"
    for wrong, message in (("text", "is no list of"), (messages[:1], "the last message is the user's")):
        with pytest.raises(UserError, match=message):
            load_split(
                write_rows(
                    tmp_path, [{"messages": wrong}], fields=["messages"], kind="chat", metrics=["exact_match"]
                ),
                "train",
            )


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("method", [METHODS[4], ha.Hyperdecoder(**NARROW)])
def test_the_loss_of_a_batch_is_that_of_its_targets_row_by_row(family: str, method: Any) -> None:
    model = redraw(ha.adapt(tiny_base(family), method, TASKS), std=0.1)
    draw = torch.Generator().manual_seed(4)
    rows = [
        {
            "input_ids": torch.randint(3, 96, (prompt,), generator=draw).tolist(),
            "labels": torch.randint(3, 96, (target,), generator=draw).tolist(),
            "task_ids": task,
        }
        for prompt, target, task in ((7, 2, 0), (3, 4, 2), (5, 1, 1))
    ]
    batch = PromptCollator(0, 8)(rows)
    assert batch["input_ids"].shape == (3, 8)
    labels = batch.pop("labels")
    outputs = model(**batch)
    assert outputs.logits.shape[:2] == labels.shape == (3, 4)  # not where there is no target
    loss = DecoderOnly().loss(outputs, labels, None, 0.0)
    total = 0.0
    for row in rows:
        prompt, target = row["input_ids"], torch.tensor(row["labels"])
        ids = torch.tensor([[*prompt, *row["labels"]]])
        asked = torch.tensor([[1] * len(prompt) + [0] * len(target)])
        logits = model(input_ids=ids, prompt_mask=asked, task_ids=torch.tensor([row["task_ids"]])).logits
        total += F.cross_entropy(logits[0, len(prompt) - 1 : -1], target, reduction="sum")
    assert abs(loss - total / 7) < 1e-4
    loss.backward()


LANGUAGES = {"src_lang": "en_XX", "tgt_lang": "ro_RO"}
PIECES = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("▁", -3.0), ("a", -4.0), ("b", -4.0)]


def mbart(start: int, **generation: Any) -> Any:
    """A tiny mBART whose vocabulary has the languages behind the pieces."""
    size = len(MBart50Tokenizer(vocab=PIECES, **LANGUAGES))
    sizes = {
        "d_model": 8,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_ffn_dim": 8,
        "decoder_ffn_dim": 8,
    }
    torch.manual_seed(0)
    base = MBartForConditionalGeneration(
        MBartConfig(
            vocab_size=size,
            **sizes,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            decoder_start_token_id=start,
        )
    )
    base.generation_config = GenerationConfig(
        decoder_start_token_id=start, pad_token_id=1, eos_token_id=2, **generation
    )
    return base


def test_mbarts_language_stands_where_its_tokenizers_write_it(tmp_path: Path) -> None:
    """Of mBART-50 it is the first token of a target, forced in an answer; of mBART the decoder starts with it."""
    many, first = MBart50Tokenizer(vocab=PIECES, **LANGUAGES), MBartTokenizer(vocab=PIECES, **LANGUAGES)
    romanian = many.convert_tokens_to_ids("ro_RO")
    base, ways = mbart(2, forced_bos_token_id=romanian), EncoderDecoder()
    ways.check(base, many)
    assert ways.target_starts(many) == (romanian,)
    assert plain_generation(base.generation_config, ways.target_starts(many)) == {}
    other = GenerationConfig(forced_bos_token_id=5)
    assert plain_generation(other, ways.target_starts(many)) == {"forced_bos_token_id": None}
    model = ha.adapt(base, ha.HyperFormerPlusPlus(reduction_factor=2), ["made"])
    seen: list[Any] = []
    generate = model.generate
    model.generate = lambda **given: seen.append(generate(**given)) or seen[-1]  # type: ignore[func-returns-value]
    ways.answer(model, many, [Request(0, [5, 6, 2], (0, 4))])
    assert seen[0][0, :2].tolist() == [2, romanian]
    with pytest.raises(
        UserError, match=r"start the decoder with ro_RO in training, .* has decoder_start_token_id 2 "
    ):
        ways.check(mbart(2), first)
    ways.check(mbart(first.convert_tokens_to_ids("ro_RO")), first)


def test_an_answer_of_a_chat_ends_where_its_template_ends_it(tmp_path: Path) -> None:
    """Though that is not the tokenizer's end token, as of ChatML's <|im_end|>."""
    tokenizer = chatting(tmp_path, end="<turn>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    [turn] = tokenizer("<turn>", add_special_tokens=False)["input_ids"]
    rows = [{"body": "good", "label": number} for number in (0, 1)]
    task = write_rows(tmp_path, rows, fields=["body"], labels=["bad", "good"], metrics=["accuracy"])
    chat = FORM._replace(chat_template=True)
    [target, *_] = DecoderOnly().training_rows(load_split(task, "train"), task, 0, tokenizer, chat)["labels"]
    assert target[-1] == turn != tokenizer.eos_token_id
    base = tiny_base("llama")
    base.resize_token_embeddings(len(tokenizer) + 8)
    model = ha.adapt(base, METHODS[4], ["made"])
    asked: list[Any] = []
    model.generate = lambda **given: asked.append(given["eos_token_id"]) or given["input_ids"]  # type: ignore[func-returns-value]
    DecoderOnly().answer(model, tokenizer, [Request(0, [5, 6, 7], (0, 4))])
    assert asked[0][:2] == [tokenizer.eos_token_id, turn]


def test_a_message_is_found_where_the_template_puts_it_though_its_words_stand_before(tmp_path: Path) -> None:
    tokenizer = chatting(tmp_path)
    messages = [
        {"role": "user", "content": "user"},
        {"role": "assistant", "content": " a "},
        {"role": "user", "content": "s"},
    ]
    written, _ = chat_prompt(tokenizer, messages)
    places = places_of(tokenizer, messages, written)
    assert [written[begin:end] for begin, end in places] == ["user", "a", "s"]
    assert [written[begin - 1] for begin, _ in places] == [">", ">", ">"]


@pytest.mark.parametrize(
    ("base", "ways"),
    [(LLAMA, DecoderOnly), (BERT, EncoderOnly), (BASE, EncoderDecoder)],
    ids=["llama", "bert", "t5"],
)
def test_the_loss_of_a_step_is_divided_by_all_its_targets(
    base: dict[str, Any], ways: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over accumulated batches, whatever transformers makes of the model's class."""
    seen: list[tuple[int, int]] = []
    loss = ways.loss

    def noted(self: Any, outputs: Any, labels: Any, num_items: Any, smoothing: float) -> Any:
        if num_items is not None:
            seen.append((int(num_items), int(labels.ne(-100).sum())))
        return loss(self, outputs, labels, num_items, smoothing)

    monkeypatch.setattr(ways, "loss", noted)
    accumulated = {"max_steps": 2, "eval_steps": 2, "warmup_steps": 0, "gradient_accumulation_steps": 2}
    _, outcome = run_of(tmp_path, base, training=accumulated)
    assert outcome.code == 0, outcome.err
    assert len(seen) == 4
    for first, second in (seen[:2], seen[2:]):
        assert first[0] == second[0] == first[1] + second[1]


@pytest.mark.parametrize("family", ["t5", "bart", "llama", "gemma2", "gpt2"])
def test_the_scores_of_targets_alone_give_the_loss_and_gradients_of_all(family: str) -> None:
    """Whatever the family does with scores, as Gemma 2, which bounds them."""
    base = tiny_t5() if family == "t5" else tiny_base(family)
    model, tokenizer = redraw(ha.adapt(base, METHODS[4], TASKS)), SimpleNamespace(pad_token_id=0)
    lengths = ((7, 2), (4, 9), (6, 1), (9, 3))
    rows = [
        {"input_ids": list(range(3, 3 + asked)), "labels": list(range(20, 20 + told)), "task_ids": row % 3}
        for row, (asked, told) in enumerate(lengths)
    ]
    ways: Any = DecoderOnly() if family in ("llama", "gemma2", "gpt2") else EncoderDecoder()
    if isinstance(ways, DecoderOnly):
        collator = ways.collator(model, tokenizer, None)  # type: ignore[arg-type]
    else:
        collator = ways.collator(model, ByT5Tokenizer(), None)
    batch, found = WithPlaces(collator)(rows), []
    places = batch.pop(PLACES)
    labels = batch.pop("labels")
    assert len(places) == sum(told for _, told in lengths) < labels.numel()
    for only in (False, True):
        model.zero_grad()
        if only:
            with scores_at(model.get_output_embeddings(), places):
                outputs = model(**batch)
            assert outputs.logits.shape[:2] == (1, len(places))
            loss = ways.loss(outputs, labels.flatten()[places].unsqueeze(0), None, 0.1)
        else:
            loss = ways.loss(model(**batch), labels, None, 0.1)
        loss.backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        found.append((loss.detach(), gradients))
    (whole, expected), (loss, gradients) = found
    assert loss == pytest.approx(whole.item(), rel=1e-5)
    for name, gradient in gradients.items():
        assert relative_error(gradient, expected[name]) < 1e-4, name


def run_of(directory: Path, base: dict[str, Any], **changes: Any) -> tuple[Path, Outcome]:
    directory.mkdir(exist_ok=True)
    model = {"config": base, "tokenizer": "bytes", "seed": 0}
    method = {"name": "hyperformer++", "reduction_factor": 8}
    rated = {"answers": "rate", "batch_size": 5}
    changes = {"model": model, "method": method, "evaluation": rated, **changes}
    config = write_config(directory, write_tasks(directory), **changes)
    return config, hyperadapt("train", config)


@pytest.mark.parametrize("base", [LLAMA, BERT], ids=["llama", "bert"])
def test_a_run_trains_resumes_evaluates_and_predicts(base: dict[str, Any], tmp_path: Path) -> None:
    config, outcome = run_of(tmp_path, base)
    assert outcome.code == 0, outcome.err
    scores = json.loads((tmp_path / "run/results.json").read_text())
    colour = scores["validation"]["tasks"]["colour"]
    assert colour["score"] > scores["majority"]["validation"]["tasks"]["colour"]["score"]
    assert colour["invalid"] == 0
    assert 0 <= colour["calibration_error"] <= 100
    run = load_run(tmp_path / "run")
    assert run.evaluate("validation").as_dict()["tasks"]["colour"] == colour
    assert hyperadapt("report", tmp_path / "run").code == 0
    rows = '{"text": "red rose"}\n{"text": "azur é"}\n'
    predicted = hyperadapt("predict", tmp_path / "run", "--task", "colour", "--top-k", 2, stdin=rows)
    for line in predicted.out.splitlines():
        row = json.loads(line)
        assert row["probability"] == max(row["top"].values()) == row["top"][row["prediction"]]
        assert sum(row["top"].values()) == pytest.approx(1, abs=1e-5)
    assert len(predicted.out.splitlines()) == 2
    message = "--top-k: 'warmth' is no task of classes, and its answers have no probabilities"
    assert_one_line(
        hyperadapt("predict", tmp_path / "run", "--task", "warmth", "--top-k", 2, stdin=rows), message
    )
    for command in ("embed", "encoder-only"):
        assert_one_line(
            hyperadapt(command, tmp_path / "run"),
            f"hyperadapt {command} reads encoder-decoders alone so far, and ",
        )
    features = hyperadapt("features", config, "--output", tmp_path / "z.json")
    assert_one_line(features, "hyperadapt features reads encoder-decoders alone so far, and ")
    outcome = hyperadapt("train", config, "training.max_steps=44", "--resume")
    assert outcome.code == 0, outcome.err
    assert json.loads((tmp_path / "run/results.json").read_text())["steps"] == 44


def test_an_answer_that_is_generated_has_no_probability(tmp_path: Path) -> None:
    _, outcome = run_of(tmp_path, LLAMA, evaluation={"answers": "generate"})
    assert outcome.code == 0, outcome.err
    assert (
        "calibration_error"
        not in json.loads((tmp_path / "run/results.json").read_text())["test"]["tasks"]["colour"]
    )
    arguments = ("predict", tmp_path / "run", "--task", "colour")
    row = json.loads(hyperadapt(*arguments, stdin='{"text": "red rose"}').out)
    assert "probability" not in row
    assert_one_line(
        hyperadapt(*arguments, "--top-k", 2, stdin='{"text": "red rose"}'),
        "--top-k: the run generates its answers, which have no probabilities",
    )


def test_a_run_of_an_earlier_version_generates_as_it_did(tmp_path: Path) -> None:
    from hyperadapt.config.written import RunConfig

    config = RunConfig.load(write_config(tmp_path, write_tasks(tmp_path), evaluation={"batch_size": 5}))
    assert config.evaluation.answers == "rate"
    config.save(tmp_path / "saved.yaml")
    assert RunConfig.load_saved(tmp_path / "saved.yaml").evaluation.answers == "rate"
    values = yaml.safe_load((tmp_path / "saved.yaml").read_text())
    del values["evaluation"]["answers"]
    (tmp_path / "saved.yaml").write_text(yaml.safe_dump(values) + "# end\n")
    assert RunConfig.load_saved(tmp_path / "saved.yaml").evaluation.answers == "generate"


@pytest.mark.parametrize(
    ("base", "changes", "message"),
    [
        (LLAMA, {"data": {"chat_template": True}}, "has no chat template"),
        (BERT, {"data": {"chat_template": True}}, "data.chat_template is for models without an encoder"),
        (
            LLAMA,
            {"data": {"max_source_length": 60}},
            "data.max_source_length 60 and 5 of a target of colour are more than the 64 tokens that the model has "
            "places for: set it to 59 or less",
        ),
        (
            {**LLAMA, "max_position_embeddings": 5},
            {},
            "task 'colour': a target of 5 tokens (max_target_length 5, max_generated_length 5) leaves no room for a "
            "prompt in the 5 tokens",
        ),
        (BERT, {"data": {"max_source_length": 65}}, "data.max_source_length 65 are more than the 64 tokens"),
        ({"model_type": "opt"}, {}, "no backbone for model type 'opt'; did you mean"),
        (
            {**LLAMA, "hidden_sise": 4},
            {},
            "model.config: field 'hidden_sise' is unknown; did you mean 'hidden_size'?",
        ),
        (
            LLAMA,
            {"model": {"config": LLAMA, "tokenizer": "bytes", "pooling": "cls"}},
            "model.pooling is of heads",
        ),
        (LLAMA, {"training": {"head_learning_rate": 0.1}}, "training.head_learning_rate is of heads"),
        (
            BERT,
            {"evaluation": {"answers": "generate"}},
            "evaluation.answers: generate is for models that write",
        ),
        (BERT, {"evaluation": {"num_beams": 2}}, "evaluation.num_beams is for models that write"),
        (BERT, {"method": {"name": "hyperdecoder"}}, "BERT has no decoder whose adapters could be generated"),
    ],
)
def test_what_does_not_fit_the_architecture_is_one_line_and_nothing_is_written(
    base: dict[str, Any], changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    data = {"tasks": write_tasks(tmp_path), "max_source_length": 48}
    changes = {**changes, **({"data": {**data, **changes["data"]}} if "data" in changes else {})}
    config = write_config(
        tmp_path,
        data["tasks"],
        **{"model": {"config": base, "tokenizer": "bytes"}, "evaluation": {}, **changes},  # type: ignore[arg-type]
    )
    before = contents(tmp_path)
    assert_one_line(hyperadapt("train", config), message)
    assert contents(tmp_path) == before


def test_an_encoder_alone_takes_no_task_of_texts(tmp_path: Path) -> None:
    task = write_rows(
        tmp_path, [{"text": "a", "label": "b"}], fields=["text"], kind="text", metrics=["exact_match"]
    )
    with pytest.raises(
        UserError, match="task 'made' is of kind 'text', and an encoder alone writes no texts"
    ):
        EncoderOnly().check_task(tiny_base("bert"), task, ByT5Tokenizer(), FORM)
