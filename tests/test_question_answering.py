"""Contexts in chunks: what each holds, which answer wins, and a run from its rows to its scores."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch
import yaml
from transformers import ByT5Tokenizer, PreTrainedTokenizerBase

import hyperadapt as ha
from hyperadapt.architectures import Answer, Answering, EncoderDecoder, Request
from hyperadapt.architectures.encoder_decoder import log_likelihoods
from hyperadapt.errors import UserError
from hyperadapt.runs.run import load_run
from hyperadapt.studies.embeddings import MAPS, embed_split
from hyperadapt.tasks import TASKS, load_split, load_task_file, resolve_tasks
from hyperadapt.tasks.chunks import (
    Chunk,
    answer_within,
    best_answers,
    chunked,
    read_answers,
)
from hyperadapt.tasks.input_format import InputFormat
from hyperadapt.tasks.kinds import METRICS
from hyperadapt.tasks.suites.hyperdecoders import MRQA_OUT_OF_DOMAIN
from tiny import tiny_t5
from tiny_run import hyperadapt, write_config

CONTEXT = (
    "The Danube — wide and slow — passes Vienna, Bratislava, Budapest and Belgrade before the Black Sea. " * 3
)
QUESTION = "question: Which city comes after Vienna? context: "


def chunks(question: str, context: str, *arguments: Any) -> list[Chunk]:
    tokenizer, *sizes = arguments
    return chunked([question], [context], tokenizer, *sizes, (), (tokenizer.eos_token_id,))[0]


@pytest.fixture(scope="module", params=["tiny-t5", "bytes"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return ByT5Tokenizer() if request.param == "bytes" else ha.load_tiny_t5()[1]


def test_chunks_cover_the_context_overlap_and_begin_with_the_question(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    whole = tokenizer(CONTEXT, add_special_tokens=False)["input_ids"]
    head = tokenizer(QUESTION + CONTEXT, add_special_tokens=False)["input_ids"][: -len(whole)]
    length, overlap = len(head) + 30, 8
    found = chunks(QUESTION, CONTEXT, tokenizer, length, overlap)
    assert len(found) > 2
    parts = [chunk.ids[len(head) : -1] for chunk in found]
    assert all(chunk.ids[: len(head)] == head and chunk.ids[-1] == tokenizer.eos_token_id for chunk in found)
    assert all(len(chunk.ids) <= length for chunk in found)
    assert all(len(chunk.ids) == length for chunk in found[:-1])
    assert parts[0] + [token for part in parts[1:] for token in part[overlap:]] == whole
    assert found[0].start == 0
    assert found[-1].end in (len(CONTEXT), len(CONTEXT.rstrip()))
    for chunk, part in zip(found, parts, strict=True):
        held = tokenizer(CONTEXT[chunk.start : chunk.end], add_special_tokens=False)["input_ids"]
        # But for letters of which a chunk holds only some bytes, and a first piece that begins a word there.
        assert abs(len(held) - len(part)) <= (1 if tokenizer.is_fast else 4)
        assert any(held[3:-3] == part[place:][: len(held) - 6] for place in range(8))


def test_a_context_that_fits_is_one_chunk_and_so_is_an_empty_one(tokenizer: PreTrainedTokenizerBase) -> None:
    for context in ("Vienna.", "Über 3", "\u6211 is"):
        (chunk,) = chunks(QUESTION, context, tokenizer, 400, 50)
        assert (chunk.start, chunk.end) == (0, len(context))
        assert chunk.ids == tokenizer(QUESTION + context)["input_ids"]
    (empty,) = chunks(QUESTION, "", tokenizer, 400, 50)
    assert empty.ids[:-1] == tokenizer(QUESTION, add_special_tokens=False)["input_ids"]
    assert (empty.start, empty.end) == (0, 0)


def test_a_question_that_leaves_no_room_is_cut_so_that_two_overlaps_of_context_fit(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    question = f"question: {'Which city comes after Vienna? ' * 20}context: "
    found = chunks(question, CONTEXT, tokenizer, 64, 16)
    head = tokenizer.decode(found[0].ids[: 64 - 1 - 32])
    assert head.startswith("question: Which")
    assert head.rstrip().endswith("context:")
    assert all(chunk.ids[: 64 - 1 - 32] == found[0].ids[: 64 - 1 - 32] for chunk in found)
    assert all(len(chunk.ids) == 64 for chunk in found[:-1])
    assert found[-1].end >= len(CONTEXT.rstrip())


def test_chunks_end_also_without_an_overlap_and_with_a_question_too_long(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    found = chunks(QUESTION * 20, "a b", tokenizer, 16, 0)
    assert all(len(chunk.ids) <= 16 for chunk in found)
    assert (found[0].start, found[-1].end) == (0, 3)


def test_a_chunk_is_asked_for_the_answer_that_it_holds_whole_and_for_nothing_else(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    references, spans = read_answers(["Bratislava"], CONTEXT)
    found = chunks(QUESTION, CONTEXT, tokenizer, 130 if tokenizer.is_fast is False else 40, 8)
    targets = [answer_within(references, spans, chunk) for chunk in found]
    assert {"", "Bratislava"} == set(targets)
    for chunk, target in zip(found, targets, strict=True):
        assert ("Bratislava" in CONTEXT[chunk.start : chunk.end]) == bool(target)


ANSWERS: dict[str, tuple[Any, tuple[list[str], list[tuple[int, int, int]]]]] = {
    "texts": (["Vienna", "vienna"], (["Vienna", "vienna"], [(3, 9, 0), (3, 9, 1)])),
    "one text": ("in", (["in"], [(0, 2, 0)])),
    "squad's": ({"text": ["n"], "answer_start": [7]}, (["n"], [(7, 8, 0)])),
    "squad's, one text": ({"text": "Vienna", "answer_start": 3}, (["Vienna"], [(3, 9, 0)])),
    "a place that reads otherwise": ({"text": ["Vienna"], "answer_start": [1]}, (["Vienna"], [(3, 9, 0)])),
    "places that are none": ({"text": ["Vienna"], "answer_start": [None]}, (["Vienna"], [(3, 9, 0)])),
    "within a word": (["ie", "nna"], (["ie", "nna"], [])),
    "squad's without places": ({"text": ["In"]}, (["In"], [(0, 2, 0)])),
    "not in the context": (["Graz"], (["Graz"], [])),
    "with blanks": ([" Vienna", "In "], (["Vienna", "In"], [(3, 9, 0), (0, 2, 1)])),
    "squad's, with blanks": ({"text": [" Vienna "], "answer_start": [2]}, (["Vienna"], [(3, 9, 0)])),
    "marked": ({"text": ["Wien"], "spans": [[3, 9, 0]]}, (["Wien"], [(3, 9, 0)])),
    "none": ([], ([""], [])),
    "blank": (["  "], ([""], [])),
    "none, squad's": ({"text": [], "answer_start": []}, ([""], [])),
}


@pytest.mark.parametrize("form", ANSWERS)
def test_answers_are_read_in_all_their_forms(form: str) -> None:
    given, expected = ANSWERS[form]
    assert read_answers(given, "In Vienna") == expected


def test_an_answer_in_a_script_without_blanks_is_found_within_a_line() -> None:
    assert read_answers(["\u5317\u4eac"], "\u9996\u90fd\u662f\u5317\u4eac\u5e02")[1] == [(3, 5, 0)]


@pytest.mark.parametrize("value", [3, None, [3], {"start": 3}, {"text": 3}])
def test_what_holds_no_answers_is_refused(value: Any) -> None:
    with pytest.raises(UserError, match="answers are neither texts nor"):
        read_answers(value, "In Vienna")


def test_the_most_likely_answer_that_is_not_empty_wins() -> None:
    answers = [
        Answer("", -0.1),
        Answer("Vienna", -2.0),
        Answer("Graz", -1.5),
        Answer("", -0.2),
        Answer("Linz", -9.0),
    ]
    assert best_answers(answers, [0, 0, 0, 1, 3], 4) == ["Graz", "", "", "Linz"]


def test_answers_are_compared_as_squad_does() -> None:
    f1, exact = METRICS["answer_f1"], METRICS["answer_exact_match"]
    assert exact(["The  Vienna!"], [("Graz", "vienna")]) == 100
    assert f1(["the old city of Vienna"], [("Vienna", "city of Graz")]) == pytest.approx(
        100 * 2 * 2 / (4 + 3)
    )
    assert f1(["", "", "Vienna"], [("",), ("Vienna",), ("",)]) == pytest.approx(100 / 3)
    assert exact(["", "x"], [("",), ("",)]) == 50
    assert f1(["the"], [("a",)]) == 100, "nothing is left of either"


def test_rouge_counts_pairs_of_words_and_common_subsequences() -> None:
    prediction, target = ["the cat sat on the mat"], ["the cat lay on the mat"]
    assert METRICS["rouge2"](prediction, target) == pytest.approx(60)
    assert METRICS["rougeL"](prediction, target) == pytest.approx(100 * 5 / 6)


def write_qa(directory: Path) -> Path:
    """A task whose contexts are longer than a chunk, one row without an answer, one whose answer is not there."""
    rows = []
    for number in range(12):
        words = [f"w{number}{place}" for place in range(30)]
        answers = [words[3 + number]] if number % 5 else [] if number else ["elsewhere"]
        rows.append({"question": f"which {number}", "context": " ".join(words), "answers": answers})
    for split in ("train", "validation", "test"):
        (directory / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = {
        "name": "places",
        "files": {split: f"{split}.jsonl" for split in ("train", "validation", "test")},
        "fields": ["question", "context"],
        "label": "answers",
        "kind": "question_answering",
        "metrics": ["answer_f1", "answer_exact_match"],
        "max_target_length": 6,
    }
    (directory / "places.yaml").write_text(yaml.safe_dump(spec))
    return directory / "places.yaml"


def test_every_chunk_is_taught_the_answer_that_it_holds_or_the_empty_text(tmp_path: Path) -> None:
    [task] = resolve_tasks([str(write_qa(tmp_path))])
    rows, bytes_ = load_split(task, "train"), ByT5Tokenizer()
    tokenized = EncoderDecoder().training_rows(rows, task, 3, bytes_, InputFormat(64, 12))
    expected, unanswered = [], []
    for number, row in enumerate(rows):
        [answer] = row["references"]
        place = f" {row['context']} ".find(f" {answer} ") if answer else -1
        taught = []
        for chunk in chunks(row["source"], row["context"], bytes_, 64, 12):
            held = place >= 0 and chunk.start <= place and place + len(answer) <= chunk.end
            taught.append((chunk.ids, answer if held else ""))
        if not any(target for _, target in taught):
            unanswered.append(number)
        expected += taught
    inputs, labels = tokenized["input_ids"], tokenized["labels"]
    found = [
        (ids, bytes_.decode(target, skip_special_tokens=True))
        for ids, target in zip(inputs, labels, strict=True)
    ]
    assert found == expected
    assert unanswered == [0, 5, 10], "no answer, or none in the context"
    assert all(target[-1] == bytes_.eos_token_id for target in labels)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run of two steps on that task."""
    directory = tmp_path_factory.mktemp("places")
    method = {"name": "hyperdecoder", "encoder_bottleneck_dim": 4, "decoder_bottleneck_dim": 4}
    config = write_config(directory, [str(write_qa(directory))], method=method)
    outcome = hyperadapt("train", config, "training.max_steps=2", "training.eval_steps=2")
    assert outcome.code == 0, outcome.err
    return directory / "run"


def test_a_run_asks_every_chunk_and_scores_the_best_answer(places: Path) -> None:
    run = load_run(places)
    results = run.evaluate("test")
    rows = [json.loads(line) for line in (places.parent / "test.jsonl").read_text().splitlines()]
    assert len(results.predictions[0]) == results.scores[0].rows == len(rows)
    asked = [{key: row[key] for key in ("question", "context")} for row in rows]
    assert [prediction.text for prediction in run.predict("places", asked)] == results.predictions[0]
    assert all(math.isfinite(value) for value in results.flat().values())
    # By hand: each chunk on its own through the model, the best answer of a row's chunks.
    question, context = run.tasks[0].inputs(rows[1], prefix=True).values()
    assert question.startswith("places question: which 1 context: ")
    best = dict.fromkeys(("sum", "mean"), (-math.inf, ""))
    for chunk in chunks(question, context, run.tokenizer, 48, 12):
        ids = torch.tensor([chunk.ids])
        generated = run.model.generate(
            input_ids=ids, max_new_tokens=6, return_dict_in_generate=True, output_scores=True
        )
        tokens = generated.sequences[0, 1:]
        # What generate itself says of the tokens that it chose.
        likelihood = sum(
            float(scores[0].log_softmax(-1)[token])
            for scores, token in zip(generated.scores, tokens, strict=True)
        )
        text = run.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        for rank, value in (("sum", likelihood), ("mean", likelihood / len(tokens))):
            found = log_likelihoods(
                run.model, {"input_ids": ids}, generated.sequences, per_token=rank == "mean"
            )
            assert found[0] == pytest.approx(value, rel=1e-4)
            best[rank] = max(best[rank], (value, text)) if text else best[rank]
    assert results.predictions[0][1] == best["sum"][1]
    by_mean = run.config.evaluation.model_copy(update={"rank_chunks": "mean"})
    other = replace(run, config=run.config.model_copy(update={"evaluation": by_mean}))
    assert other.evaluate("test").predictions[0][1] == best["mean"][1]
    assert other.predict("places", asked)[1].text == best["mean"][1]


def test_every_chunk_has_an_embedding_and_an_answer_of_its_own(places: Path) -> None:
    outcome = hyperadapt("embed", places)
    assert outcome.code == 0, outcome.err
    table = pyarrow.parquet.read_table(places / "embeddings/rows.parquet").to_pylist()
    run = load_run(places)
    expected = []
    for number, line in enumerate((places.parent / "test.jsonl").read_text().splitlines()):
        row = json.loads(line)
        question, context = run.tasks[0].inputs(row, prefix=True).values()
        label = (row["answers"] or [""])[0]
        expected += [(number, label, chunk.ids) for chunk in chunks(question, context, run.tokenizer, 48, 12)]
    assert [(of["row"], of["label"]) for of in table] == [(row, label) for row, label, _ in expected]
    for line, (_, _, ids) in list(zip(table, expected, strict=True))[::9]:
        tokens = torch.tensor([ids])
        text = run.tokenizer.decode(
            run.model.generate(tokens, max_new_tokens=6)[0], skip_special_tokens=True
        ).strip()
        assert line["written"] == text
        with torch.no_grad():
            states = run.model.encoder(tokens).last_hidden_state.mean(1)
            e = run.model.hyperadapt.conditioning.of["decoder"].mlp(states)[0]
        assert line["embedding"] == pytest.approx(e.tolist(), abs=1e-5)
    assert hyperadapt("report", places).code == 0
    page = (places / "report.html").read_text()
    assert MAPS["pca-answer"] in page
    assert page.count(f", of {len(table)} of {len(table)} chunks of 12 test rows: what") == len(MAPS)


def test_chunks_are_embedded_with_answers_that_nothing_forces(places: Path) -> None:
    run = load_run(places)
    task = run.tasks[0].model_copy(update={"min_generated_length": 1})
    rows = run.load_rows([task], "test", "embed")
    end_then_a = torch.zeros(384)
    end_then_a[run.tokenizer.eos_token_id], end_then_a[run.tokenizer.convert_tokens_to_ids("a")] = 1000, 500
    run.model.lm_head.register_forward_hook(lambda module, args, logits: logits + end_then_a)
    assert not run.config.evaluation.empty_answers
    assert set(run.score(rows).predictions[0]) == {"a"}
    embedded = embed_split(run, rows)
    assert set(embedded.groups()["answer"]) == {"empty answer"}
    assert len(embedded.written[0]) == len(rows.sources[0]) > len(rows.targets[0])


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_likelihood_does_not_depend_on_the_rows_beside_it(
    tmp_path: Path, trained: Path, num_beams: int
) -> None:
    run = load_run(trained)
    sources = run.tokenizer(["text: red rose", "text: blue whale, and so on and on"])["input_ids"]
    requests, how = [Request(0, ids, (0, 4), True) for ids in sources], Answering(num_beams=num_beams)
    together = EncoderDecoder().answer(run.model, run.tokenizer, requests, how)
    for request, expected in zip(requests, together, strict=True):
        (alone,) = EncoderDecoder().answer(run.model, run.tokenizer, [request], how)
        assert alone.text == expected.text
        assert alone.log_likelihood == pytest.approx(expected.log_likelihood, rel=1e-4)
        assert expected.log_likelihood < 0


def test_where_every_question_has_an_answer_none_is_empty() -> None:
    model, letters = ha.adapt(tiny_t5(vocab_size=384), ha.SingleAdapter(), ["task"]), ByT5Tokenizer()
    end_then_a = torch.zeros(384)
    end_then_a[letters.eos_token_id], end_then_a[letters.convert_tokens_to_ids("a")] = 200, 100
    model.lm_head.register_forward_hook(lambda module, args, logits: logits + end_then_a)
    for fewest, text in ((0, ""), (2, "aa")):
        requests = [Request(0, ids, (fewest, 4), True) for ids in ([5, 6, 1], [8, 1])]
        found = EncoderDecoder().answer(model, letters, requests)
        assert [answer.text for answer in found] == [text] * 2
    asked = [TASKS[name] for name in ("squad", "mrqa-nq", "mrqa-race")]
    assert {task.kind_of_task.lengths(task, empty_answers=False) for task in asked} == {(1, 64)}
    assert {task.kind_of_task.lengths(task, empty_answers=True) for task in asked} == {(0, 64)}
    summaries = TASKS["xsum"]
    assert summaries.kind_of_task.lengths(summaries, empty_answers=True)[0] == 10  # no answer to a question


@pytest.mark.parametrize("kind", ["generated", "manual", "full fine-tuning"])
def test_the_encoder_runs_once_for_answers_and_their_likelihoods(kind: str) -> None:
    passes = {"generated": 2, "manual": 1, "full fine-tuning": 1}[kind]  # a generated encoder has a draft
    method = ha.FullFineTuning() if kind == "full fine-tuning" else ha.Hyperdecoder(encoder=kind)
    model, runs = ha.adapt(tiny_t5(vocab_size=384), method, ["task"]), []
    model.encoder.block[0].register_forward_hook(lambda *_: runs.append(1))
    sources = [[5, 6, 7, 1], [8, 9, 1]]
    requests = [Request(0, ids, (0, 4), True) for ids in sources]
    together = EncoderDecoder().answer(model, ByT5Tokenizer(), requests)
    assert len(runs) == passes
    for source, expected in zip(sources, together, strict=True):
        ids = torch.tensor([source])
        generated = model.generate(input_ids=ids, max_new_tokens=4)
        (found,) = log_likelihoods(model, {"input_ids": ids}, generated)
        assert expected.log_likelihood == pytest.approx(found, rel=1e-4)


def test_the_real_rows_of_squad_are_split_and_their_answers_stand_where_they_say(shared: Path) -> None:
    for name in ("squad", "quoref", "mlqa"):
        rows = load_split(TASKS[name], "train", shared / "data")
        for row in rows:
            assert row["source"].startswith("question: ")
            assert row["source"].endswith(" context: ")
            for start, end, number in row["spans"]:
                assert row["context"][start:end] == row["references"][number]
        assert all(row["spans"] for row in rows)


def test_mrqa_is_twelve_sets_of_which_six_have_test_rows_alone(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [
        {
            "subset": subset,
            "question": "q",
            "context": f"{number:04d} times: Rome , Italy",
            "answers": ["Milan", "Rome, Italy"],
            "detected_answers": {"text": ["Rome, Italy"], "char_spans": [{"start": [12], "end": [23]}]},
        }
        for number in range(1003)
        for subset in ("SQuAD", "BioASQ")
    ]
    (tmp_path / "qa/mrqa").mkdir(parents=True)
    for split in ("train", "validation", "test"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / f"qa/mrqa/{split}.parquet")
    assert len(resolve_tasks(["mrqa", "mrqa_out_of_domain"])) == 12
    for split in ("train", "validation", "test"):  # all rows, and the published ones
        assert len(load_split(TASKS["mrqa-squad"], split, tmp_path)) == 1003
    assert all(list(TASKS[name].splits) == ["test"] for name in MRQA_OUT_OF_DOMAIN)
    (row, *_) = load_split(TASKS["mrqa-bioasq"], "test", tmp_path, prefix=True)
    assert row["source"] == "question: q context: ", "the paper puts no prefix there"
    assert row["references"] == ["Milan", "Rome, Italy"]
    assert row["context"][12:24] == "Rome , Italy"
    assert row["spans"] == [[12, 24, 1]], "where MRQA says, though it reads otherwise"


def test_a_source_may_be_several_joined(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"r{number}.jsonl").write_text(f'{{"text": "of {number}", "label": {number - 1}}}\n')
    spec: dict[str, Any] = {
        "name": "rounds",
        "files": {"r1": "r1.jsonl", "r2": "r2.jsonl"},
        "splits": {"train": "r1+r2"},
        "fields": {"": "text"},
        "labels": ["no", "yes"],
        "metrics": ["accuracy"],
        "prefix": "joined:",
    }
    file = tmp_path / "rounds.yaml"
    file.write_text(yaml.safe_dump(spec))
    rows = load_split(load_task_file(file), "train", prefix=True)
    assert rows["source"][:] == ["joined: of 1", "joined: of 2"]
    file.write_text(yaml.safe_dump({**spec, "splits": {"train": "r1+r3"}}))
    with pytest.raises(UserError, match="takes its rows from 'r3', which has no file"):
        load_task_file(file)


def test_summaries_are_of_the_document_alone_behind_their_prefix(shared: Path) -> None:
    (row, *_) = load_split(TASKS["xsum"], "train", shared / "data", max_rows=1, prefix=True)
    assert row["source"].startswith("summarize: ")
    assert row["target"]
    lengths = {
        (task.max_target_length, task.generated_lengths)
        for task in resolve_tasks(["xsum", "cnn_dailymail", "wiki_lingua"])
    }
    assert lengths == {(128, (10, 60))}, "labels are not cut where generation stops"
