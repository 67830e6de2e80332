"""From run folders to report files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from farspan.errors import InputError
from farspan.report.build import ReportData, build_report
from farspan.report.drawing import check_drawing
from farspan.report.export import render_csv, render_json
from farspan.report.render import render_charts, render_html, render_markdown
from farspan.report.subject import load_subjects


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
    """

    title: str = ""
    compare: bool = False
    template: Path | None = None
    logs: tuple[Path, ...] = ()
    plan: Path | None = None


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """Where a report was written; None for what was not."""

    html: Path | None = None
    markdown: Path | None = None
    csv: Path | None = None
    json: Path | None = None


_FIELDS = {Format.HTML: "html", Format.MARKDOWN: "markdown", Format.CSV: "csv", Format.JSON: "json"}
DEFAULT_FORMATS = (Format.HTML, Format.MARKDOWN)


def render(runs: Sequence[Path], form: Format, options: ReportOptions | None = None) -> str:
    """Render the report of run folders in one format.

    Raises:
        InputError: A folder is not a run, or something the options name cannot be used.
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
    """Write the report of run folders.

    Args:
        runs: Folders that `farspan bench`, `farspan import` or `farspan demo` wrote.
        out: A file, whose suffix says the format, or a folder for `report.html` and so on, made when missing; None
            writes into the first run folder.
        formats: What to write into a folder.
        options: How.

    Raises:
        InputError: A folder is not a run, the report cannot be written, something the options name cannot be used,
            or the package that draws is missing.
    """
    options = options or ReportOptions()
    targets = _choose_targets(out or runs[0], formats)
    if Format.HTML in targets:
        check_drawing()
    data = _load(runs, options)
    written: dict[str, Path] = {}
    for form, path in targets.items():
        _write(path, _render(data, form, options))
        written[_FIELDS[form]] = path
    return ReportFiles(**written)


def write_charts(
    runs: Sequence[Path], folder: Path, options: ReportOptions | None = None
) -> tuple[Path, ...]:
    """Write every chart of a report as an SVG file of its own, named by its anchor.

    Raises:
        InputError: As `write_report`.
    """
    written = []
    for name, svg in render_charts(_load(runs, options or ReportOptions())).items():
        path = folder / f"{name}.svg"
        _write(path, svg + "\n")
        written.append(path)
    return tuple(written)


def find_format(path: Path) -> Format | None:
    """Return the format a file's suffix says; None for anything else, such as a folder."""
    suffix = path.suffix.lower().removeprefix(".")
    named = {"htm": "html", "markdown": "md"}.get(suffix, suffix)
    return Format(named) if named in set(Format) else None


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error})", "pass another place with -o") from error


def _choose_targets(out: Path, formats: Sequence[Format]) -> dict[Format, Path]:
    form = find_format(out)
    if form is None or out.is_dir():
        return {form: out / f"report.{form.value}" for form in formats}
    if tuple(formats) not in (DEFAULT_FORMATS, (form,)):
        raise InputError(
            f"{out} is a {form.value} file, and --format asks for {', '.join(formats)}",
            "pass a folder with -o",
        )
    return {form: out}


def _load(runs: Sequence[Path], options: ReportOptions) -> ReportData:
    subjects = load_subjects(runs, logs=options.logs, plan=options.plan)
    return build_report(subjects, title=options.title, compare=options.compare)


def _render(data: ReportData, form: Format, options: ReportOptions) -> str:
    renderers: dict[Format, Callable[[], str]] = {
        Format.HTML: lambda: render_html(data, _template_for(form, options)),
        Format.MARKDOWN: lambda: render_markdown(data, _template_for(form, options)),
        Format.CSV: lambda: render_csv(data),
        Format.JSON: lambda: render_json(data),
    }
    return renderers[form]()


def _template_for(form: Format, options: ReportOptions) -> Path | None:
    """Return the template for this format: a name with `.md` in it is for Markdown, any other for the page."""
    template = options.template
    if template is None:
        return None
    return template if (".md" in template.name) == (form is Format.MARKDOWN) else None
