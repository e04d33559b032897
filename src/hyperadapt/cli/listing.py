"""Commands that list what there is: configs, fields, params, tasks, methods."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from hyperadapt.cli.app import app
from hyperadapt.cli.printing import in_words, say, table
from hyperadapt.errors import UserError


@app.command()
def configs(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One to print, as NAME > mine.yaml.")
    ] = None,
) -> None:
    """List the configurations that come with the package, or print one."""
    from hyperadapt import bundled

    if name is None:
        table("Configurations", bundled.overview())
    else:
        typer.echo(bundled.file_of(name.removesuffix(".yaml")).read_text(encoding="utf-8"), nl=False)


@app.command()
def fields(
    section: Annotated[
        str | None,
        typer.Argument(
            metavar="SECTION",
            help="A section, as training; method, or one as method.hyperformer++; task, of task files. All "
            "configurations by default.",
        ),
    ] = None,
) -> None:
    """List the fields of a configuration or task file, with their defaults and what they mean."""
    from hyperadapt.cli.lists import list_fields

    for line in list_fields(section):
        say(line)


@app.command()
def params(
    method: Annotated[str, typer.Option(help="A method; see `hyperadapt methods`.")] = "hyperformer++",
    model: Annotated[
        str, typer.Option(help="A published model, hub name or directory.")
    ] = "google-t5/t5-base",
    tasks: Annotated[int, typer.Option(min=1, help="Number of tasks.")] = 8,
    options: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="The method's options.")
    ] = None,
    paper: Annotated[
        bool,
        typer.Option(
            "--paper",
            help="Our counts of the papers' models, beside what the papers print; the words after it may name some "
            "of hyperformer, hyperdecoders, hypergrid and text-to-lora.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count parameters, without downloading weights; of an encoder alone with a head of two labels a task."""
    from hyperadapt.config.reading import parse_overrides

    if paper:
        from hyperadapt.counting import paper_tables

        tables = paper_tables(options or ())
        if as_json:
            print(json.dumps(tables, indent=2))
        else:
            for title, rows in tables.items():
                table(title, rows)
        return
    from hyperadapt.methods import method_from

    chosen = parse_overrides(options or [])
    if "name" in chosen:
        raise UserError("'name' is no option of a method; choose the method with --method")
    built = method_from({"name": method, **chosen})
    from hyperadapt.counting import count_without_weights, model_config

    counted = count_without_weights(model_config(model), built, tasks).as_dict()
    if as_json:
        print(json.dumps({"model": model, "method": method, **counted}, indent=2))
    else:
        table(
            f"{method} on {model}",
            [{"parameters": name.replace("_", " "), "": in_words(value)} for name, value in counted.items()],
        )


@app.command()
def tasks(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One of them, of which all is told.")
    ] = None,
) -> None:
    """List the tasks that come with the package, or tell all of one."""
    from hyperadapt.tasks import SUITES, TASKS, members_of

    if name is not None:
        from hyperadapt.cli.lists import task_in_words

        table(f"Task {name}", task_in_words(name))
        return
    suites: dict[str, str] = {}
    for suite in SUITES:
        for name in members_of(suite):
            suites[name] = ", ".join(filter(None, [suites.get(name, ""), suite]))
    table(
        "Tasks",
        [
            {
                "task": task.name,
                "suite": suites.get(task.name, ""),
                "input": ", ".join(name or column for name, column in task.fields.items()),
                "labels": ", ".join(task.labels) if task.labels else task.kind,
                "metrics": ", ".join(task.metrics),
                "validation": task.splits.get("validation", ""),
                "test": task.splits.get("test", ""),
            }
            for task in TASKS.values()
        ],
    )


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="One of them; all by default.")] = None,
) -> None:
    """List the methods and their options, or those of one, with the paper that it is from."""
    from hyperadapt.cli.lists import list_methods

    for line in list_methods(name):
        say(line)
