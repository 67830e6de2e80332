"""From run folders and plans to report files."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from farspan.errors import InputError
from farspan.reports.data_files import render_csv, render_json
from farspan.reports.drawing import check_drawing
from farspan.reports.engine_rows import EngineRow
from farspan.reports.plan_report import build_plan_report
from farspan.reports.plan_series import is_plan, load_plans
from farspan.reports.render import render_charts, render_html, render_markdown
from farspan.reports.report_page import ReportPage
from farspan.reports.report_run import load_report_runs
from farspan.reports.run_report import build_report


class Format(StrEnum):
    """What a report can be written as."""

    HTML = "html"
    MARKDOWN = "md"
    CSV = "csv"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """How a report is made.

    Args:
        title: The heading; empty for the model's name.
        compare: Put the comparison of two runs first.
        template: A Jinja template for the page or the Markdown.
        logs: The servers' logs, in the order of the runs.
        plan: A plan for runs that were not started with one.
        engines: The engines of a proof, those that have no run among them.
    """

    title: str = ""
    compare: bool = False
    template: Path | None = None
    logs: tuple[Path, ...] = ()
    plan: Path | None = None
    engines: tuple[EngineRow, ...] = ()


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """Where a report was written; None for what was not, `charts` only where they alone were asked for."""

    html: Path | None = None
    markdown: Path | None = None
    csv: Path | None = None
    json: Path | None = None

    charts: tuple[Path, ...] = ()

    @property
    def written(self) -> tuple[Path, ...]:
        """The files, charts aside."""
        return tuple(path for path in (self.html, self.markdown, self.csv, self.json) if path)

    def to_json(self) -> dict[str, Any]:
        """The paths of what was written, by format; the charts' under "charts"."""
        paths = {name: getattr(self, name) for name in _FIELDS.values()}
        written: dict[str, Any] = {name: str(path) for name, path in paths.items() if path}
        if self.charts:
            written["charts"] = [str(path) for path in self.charts]
        return written


_FIELDS = {Format.HTML: "html", Format.MARKDOWN: "markdown", Format.CSV: "csv", Format.JSON: "json"}
DEFAULT_FORMATS = (Format.HTML, Format.MARKDOWN)


def render(runs: Sequence[Path], form: Format, options: ReportOptions | None = None) -> str:
    """Render the report of run folders, or of plans, in one format.

    Raises:
        InputError: A folder is not a run, a file is no plan, or something the options name cannot be used.
    """
    options = options or ReportOptions()
    return _render(_load(runs, options), form, options)


def write_report(
    runs: Sequence[Path],
    out: Path | None = None,
    *,
    formats: Sequence[Format] = DEFAULT_FORMATS,
    options: ReportOptions | None = None,
) -> ReportFiles:
    """Write the report of run folders, or of plans.

    Args:
        runs: Folders that `farspan bench`, `farspan import` or `farspan demo` wrote, and with them at most one file
            of `farspan plan --json` that belongs to them; or such files alone.
        out: A file, whose suffix says the format, or a folder for `report.html` and so on, made when missing; None
            writes into the first run folder, or beside the first plan under its name.
        formats: What to write into a folder.
        options: How.

    Raises:
        InputError: A folder is not a run, a file is no plan, the report cannot be written, something the options name
            cannot be used, or the package that draws is missing.
    """
    options = options or ReportOptions()
    if out is None and runs and all(map(is_plan, runs)):
        targets = {form: runs[0].with_suffix(f".{form.value}") for form in formats}
    else:
        targets = _choose_targets(out or next(run for run in runs if not is_plan(run)), formats)
    _keep_plans(runs, targets)
    if Format.HTML in targets:
        check_drawing()
    page = _load(runs, options)
    written: dict[str, Any] = {}
    for form, path in targets.items():
        _write(path, _render(page, form, options))
        written[_FIELDS[form]] = path
    return ReportFiles(**written)


def write_page(page: ReportPage, folder: Path, formats: Sequence[Format]) -> ReportFiles:
    """Write a page that is made already into a folder, once in each format.

    Raises:
        InputError: It cannot be written, or the package that draws is missing.
    """
    written: dict[str, Any] = {}
    for form, path in _choose_targets(folder, formats).items():
        _write(path, _render(page, form, ReportOptions()))
        written[_FIELDS[form]] = path
    return ReportFiles(**written)


def write_charts(
    runs: Sequence[Path], folder: Path, options: ReportOptions | None = None
) -> tuple[Path, ...]:
    """Write every chart of a report as an SVG file of its own, named by its anchor.

    Raises:
        InputError: As `write_report`.
    """
    if folder.suffix.lower() == ".svg":
        raise InputError(f"--charts {folder} is a folder, one file a chart", "pass a name without .svg")
    written = []
    for name, svg in render_charts(_load(runs, options or ReportOptions())).items():
        path = folder / f"{name}.svg"
        _write(path, svg + "\n")
        written.append(path)
    return tuple(written)


# Files that people ask for and that a report does not come as; without this they became folders.
_OTHER_FORMATS = frozenset({".pdf", ".svg", ".png", ".jpg", ".txt", ".xlsx", ".docx", ".ipynb"})


def find_format(path: Path) -> Format | None:
    """Return the format a file's suffix says; None for anything else, such as a folder."""
    suffix = path.suffix.lower().removeprefix(".")
    named = {"htm": "html", "markdown": "md"}.get(suffix, suffix)
    return Format(named) if named in set(Format) else None


def _write(path: Path, text: str) -> None:
    # A pipe or a device is written as it is; a file is the old one or the whole new one.
    draft = path if path.exists() and not path.is_file() else path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, encoding="utf-8")
        if draft != path:
            draft.replace(path)
    except OSError as error:
        if draft != path:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        fix = (
            "free some space and do it again: what is done is kept" if full else "pass another place with -o"
        )
        raise InputError(f"{path} cannot be written ({error.strerror or error})", fix) from error


def _choose_targets(out: Path, formats: Sequence[Format]) -> dict[Format, Path]:
    form = find_format(out)
    if form is None and out.suffix.lower() in _OTHER_FORMATS and not out.is_dir():
        raise InputError(
            f"{out}: a report is not written as {out.suffix}",
            "write .html, which a browser prints as PDF, .md or .csv, or pass a folder",
        )
    if form is None or out.is_dir():
        return {form: out / f"report.{form.value}" for form in formats}
    if tuple(formats) not in (DEFAULT_FORMATS, (form,)):
        raise InputError(
            f"{out} is a {form.value} file, and --format asks for {', '.join(formats)}",
            "pass a folder with -o",
        )
    return {form: out}


def _keep_plans(runs: Sequence[Path], targets: Mapping[Format, Path]) -> None:
    """Refuse to write over a plan that the report is of."""
    for run in runs:
        if is_plan(run) and run.suffix in (".html", ".md", ".csv"):
            raise InputError(
                f"{run} is a report already",
                "pass the run folder it was made of, or a plan of farspan plan --json",
            )
    for target in targets.values():
        if any(is_plan(run) and run.resolve() == target.resolve() for run in runs):
            raise InputError(f"{target} is the plan itself", "pass another place with -o")


def _load(runs: Sequence[Path], options: ReportOptions) -> ReportPage:
    plans = [path for path in runs if is_plan(path)]
    if len(plans) == len(runs) and not options.engines:
        for given, name in (
            (options.compare, "--compare"),
            (options.logs, "--log"),
            (options.plan, "--plan"),
        ):
            if given:
                raise InputError(f"{name} is for runs, and only plans are given", "name a run folder too")
        return build_plan_report(load_plans(plans), title=options.title)
    if len(plans) + (options.plan is not None) > 1:
        raise InputError(
            "the runs have one plan, and several are given",
            "name one, or make a report of the plans by themselves",
        )
    folders = [path for path in runs if path not in plans]
    options = replace(options, plan=plans[0]) if plans else options
    loaded = load_report_runs(folders, logs=options.logs, plan=options.plan)
    return build_report(loaded, title=options.title, compare=options.compare, engines=options.engines)


def _render(page: ReportPage, form: Format, options: ReportOptions) -> str:
    renderers: dict[Format, Callable[[], str]] = {
        Format.HTML: lambda: render_html(page, _template_for(form, options)),
        Format.MARKDOWN: lambda: render_markdown(page, _template_for(form, options)),
        Format.CSV: lambda: render_csv(page),
        Format.JSON: lambda: render_json(page),
    }
    return renderers[form]()


def _template_for(form: Format, options: ReportOptions) -> Path | None:
    """Return the template for this format: a name with `.md` in it is for Markdown, any other for the page."""
    template = options.template
    if template is None:
        return None
    return template if (".md" in template.name) == (form is Format.MARKDOWN) else None
