"""The report of a comparison: every figure of the records is in every file, and a missing one has its reason.

The page in Chromium is tested in test_report_page.py."""

import csv
import dataclasses
import json
import math
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from studies import CLASSES, HARD_NAME, KINDS, LEVELS, TESTED, deployments_of, make_study, written_report

from utils.compare.report import cells, console_table, cost_tables, tables, write_report
from utils.compare.report import report_figures as figures
from utils.compare.report.plain_text import latex_text, markdown_text
from utils.compare.results import Difference
from utils.pages import document
from utils.plots import study_figures as plots


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """name -> (study, its files by name) of each kind."""
    return {kind: written_report(kind, tmp_path_factory) for kind in KINDS}


@pytest.fixture(params=list(KINDS))
def report(request, reports):
    return reports[request.param]


def read(files, name):
    return files[name].read_text(encoding="utf-8")


def same(text, value, scale=100.0, tolerance=5e-7):
    return (
        math.isnan(float(text)) if value is None or math.isnan(value) else abs(float(text) - scale * value) <= tolerance
    )


# ---- files ----


def test_the_files_of_a_report(reports):
    _, files = reports["full"]
    texts = {"report.html", "compare.md", "compare.tex", "compare.csv", "compare.json"}
    images = {"accuracy_latency.png", "accuracy_parameters.png", "learning_curves.png", "class_differences.png"}
    assert set(files) == texts | images
    assert list(files)[0] == "report.html" and "learning_curves.png" not in reports["weights"][1]


def test_every_figure_shows_something(report):
    for name, file in report[1].items():
        if file.suffix == ".png":
            with Image.open(file) as image:
                pixels = np.asarray(image.convert("RGB"))
            assert pixels.shape[0] > 250 and pixels.shape[1] > 500
            assert (pixels[0, 0] == 255).all() and 0.01 < (pixels.min(2) < 250).mean() < 0.5, name


def test_csv_holds_the_records(report):
    study, files = report
    with open(files["compare.csv"], newline="", encoding="utf-8") as stream:
        rows = {(row["variant"], row["metric"]): row for row in csv.DictReader(stream)}
    metrics = [*LEVELS, *(f"class/{name}" for name in CLASSES)]
    assert len(rows) == len(study.variants) * (len(metrics) + 9)
    for variant in study.variants:
        for metric in metrics:
            row, summary = rows[variant.name, metric], variant.summaries[metric]
            assert same(row["value"], summary.mean) and same(row["sd"], summary.sd) and row["unit"] == "points"
            assert all(same(row[f"seed_{seed}"], summary.values.get(seed)) for seed in study.seeds)
            assert int(row["seeds"]) == sum(not math.isnan(value) for value in summary.values.values())
            found = variant.differences.get(metric)
            ends = found.interval if found else (None, None)
            assert same(row["difference"], found and found.difference)
            assert same(row["low"], ends[0]) and same(row["high"], ends[1])
            assert same(row["p"], found and found.p, 1) and same(row["p_holm"], found and found.p_holm, 1)
            assert row["verdict"] == (
                found.verdict if found else "baseline" if variant.role == "baseline" else "not tested"
            )
        assert float(rows[variant.name, "latency_ms"]["value"]) == variant.cost.latency_ms
        assert (
            rows[variant.name, "training_mib"]["value"] == "nan"
            and "GPUs" in rows[variant.name, "training_mib"]["remark"]
        )
        assert "no small objects" in rows[variant.name, "APs"]["remark"]
    assert all(value != "" for row in rows.values() for value in row.values())


def test_json_holds_everything_but_detections(report):
    study, files = report
    content = json.loads(read(files, "compare.json"))
    assert (
        content["schema"] == "comparison/1"
        and content["command"] == study.command
        and content["seeds"] == list(study.seeds)
    )
    assert content["strip"] == ("strip.jpg" if study.sample_grid else None)
    assert content["data"]["val"]["hash"] == study.data["val"]["hash"] and content["settings"]["hyp"]["lr0"] == 0.01
    for variant, entry in zip(study.variants, content["variants"], strict=True):
        assert entry["name"] == variant.name and entry["cost"]["parameters"] == variant.cost.parameters
        for metric, summary in variant.summaries.items():
            values = {str(seed): None if math.isnan(value) else value for seed, value in summary.values.items()}
            assert entry["summaries"][metric]["values"] == values
        for metric, found in variant.differences.items():
            stored = entry["differences"][metric]
            assert stored["interval"] == list(found.interval) and stored["p_holm"] == found.p_holm
            assert stored["verdict"] == found.verdict and stored["sentence"] == found.sentence
            assert stored["per_seed"] == {str(seed): value for seed, value in found.per_seed.items()}
        assert entry["missing"]["APs"].startswith("no small objects") and "training_mib" in entry["missing"]
        for run, stored in zip(variant.runs, entry["runs"], strict=True):
            assert "matches" not in stored and stored["status"] == run.status and stored["error"] == run.error
            assert stored["folder"].startswith("runs/variant")  # relative: the study may be moved


# ---- text ----


def cells_of_markdown(line):
    return [
        re.sub(r"\\(.)", r"\1", cell.strip().strip("*")).replace("&amp;", "&")
        for cell in re.split(r"(?<!\\)\|", line)[1:-1]
    ]


def test_markdown_shows_every_table(report):
    study, files = report
    text = read(files, "compare.md")
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("| ")]
    shown = tables.all_tables(study)
    assert len(blocks) == len(shown)
    for block, table in zip(blocks, shown, strict=True):
        assert len(block) == len(table.rows) + 2
        for line, row in zip(block[2:], table.rows, strict=True):
            got = cells_of_markdown(line)
            assert len(got) == len(row) and all(cell.text in text for cell, text in zip(row, got, strict=True)), line
    for name in re.findall(r"!\[[^\n]*\]\((.*?)\)", text):
        assert (study.folder / name).stat().st_size > 1000
    assert ("strip.jpg" in text) == (study.sample_grid is not None) and study.command in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a*b_c", r"a\*b\_c"),
        ("x | <y> & z", r"x \| \<y\> &amp; z"),
        ("two\nlines", "two lines"),
    ],
)
def test_markdown_is_escaped(text, shown):
    assert markdown_text(text) == shown


def read_latex(text):
    """Return what LaTeX would set, for the commands that the report uses."""
    commands = {
        "textless": "<",
        "textgreater": ">",
        "textasciitilde": "~",
        "textasciicircum": "^",
        "textbackslash": "\\",
        "textquotedbl": '"',
        "textbar": "|",
    }
    text = (
        re.sub(r"\\textbf\{(.*)\}$", r"\1", text.strip()).replace("$\\pm$", "±").replace("$-$", "-").replace("--", "–")
    )
    text = re.sub(r"\\(text[a-z]+)\{\}", lambda match: f"\\[{match[1]}]", text)
    text = re.sub(r"\\\[(\w+)\]|\\([&%$#_{}])", lambda match: commands[match[1]] if match[1] else match[2], text)
    return text


def test_latex_is_booktabs_and_reads_back(report):
    study, files = report
    text = read(files, "compare.tex")
    assert (
        text.count("\\toprule")
        == text.count("\\midrule")
        == text.count("\\bottomrule")
        == text.count("\\begin{tabular}")
        == 2
    )
    bodies = re.findall(r"\\midrule\n(.*?)\\bottomrule", text, re.S)
    for body, table in zip(bodies, (tables.overview(study), cost_tables.costs(study)), strict=True):
        lines = body.strip().splitlines()
        assert len(lines) == len(table.rows)
        for line, row in zip(lines, table.rows, strict=True):
            got = [read_latex(cell) for cell in re.split(r"(?<!\\)&", line.removesuffix("\\\\"))]
            assert len(got) == len(row) and all(cell.text in text for cell, text in zip(row, got, strict=True)), line
    unescaped = re.sub(r"\\.", "", re.sub(r"\$(\\\w+|-|\^2)\$", "", text[text.index("\\begin") :]))
    assert not re.search(r"[#$%^~_<>]", unescaped)


def test_latex_signs():
    assert read_latex(latex_text(HARD_NAME)) == HARD_NAME
    assert latex_text("−1 × 2²") == "$-$1 $\\times$ 2$^2$"


def test_console_is_aligned_and_has_the_verdicts(report):
    study, _ = report
    text = console_table(study)
    head, rule, *rows = text.split("\n\n")[1].splitlines()[: 2 + len(study.variants)]
    wide = [sum(2 if "一" <= sign <= "鿿" else 1 for sign in row) for row in (head, rule, *rows)]
    assert set(wide) == {wide[0]} and set(rule) == {"-"}
    for variant, row in zip(study.variants, rows, strict=True):
        assert row.startswith(variant.name) and f"{100 * variant.summaries['mAP50-95'].mean:.2f}" in row
        found = variant.differences.get("mAP50-95")
        assert found is None or f"{100 * found.difference:+.2f}" in row and found.sentence in text
    assert all(f"note: {note}" in text for note in study.notes)


# ---- the page ----


class Reader(HTMLParser):
    """Checks that elements are closed in order, and collects ids, links, tables and text."""

    VOID = {"meta", "link", "img", "br"}

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.sources, self.tables, self.text = [], [], [], [], {}, []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.links += [attrs[name] for name in ("href", "xlink:href") if attrs.get(name)]
        self.sources += [attrs[name] for name in ("src", "srcset", "data", "action", "poster") if attrs.get(name)]
        if tag == "table":
            self.rows = self.tables[attrs["id"].removeprefix("table-")] = []
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if "script" not in self.open and "style" not in self.open:
            self.text.append(data)
        if {"th", "td"} & set(self.open):
            self.rows[-1][-1] += data


def test_the_page_holds_every_table(report):
    study, files = report
    reader = Reader(read(files, "report.html"))
    text = "".join(reader.text)
    for table in tables.all_tables(study):
        _, *rows = reader.tables[table.key]
        assert len(rows) == len(table.rows)
        for got, row in zip(rows, table.rows, strict=True):
            plain = [shown.replace("\xa0", " ").replace("−", "-") for shown in got]
            assert all(cell.text in text for cell, text in zip(row, plain, strict=True)) and all(
                shown.strip() for shown in got
            )
    assert all(sentence in text for _, _, sentence in tables.findings(study)) and tables.question(study) in text
    assert all(note in text for note in study.notes) and study.data["val"]["hash"] in text and study.command in text
    assert all(value in text for value in study.versions.values())


def test_the_page_is_whole_and_requests_nothing(report):
    html = read(report[1], "report.html")
    reader = Reader(html)
    assert len(reader.ids) == len(set(reader.ids))
    assert all(link == "data:," or link.removeprefix("#") in reader.ids for link in reader.links)
    assert all(source.startswith("data:image/") for source in reader.sources)
    assert not re.search(r"@import|url\((?!#)|//cdn|<script[^>]+src", html) and "default-src 'none'" in html
    addresses = set(re.findall(r"https?://[^\s\"'<]+", html))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names, not addresses
    main = html[html.index("<main>") :]
    assert not [color for color in (*plots.SERIES, plots.INK, plots.FAINT, plots.GRID, plots.PAPER) if color in main]


def test_a_missing_figure_is_a_dash_with_its_reason(report):
    study, _ = report
    for table in tables.all_tables(study):
        for row in table.rows:
            for cell in row:
                assert (
                    cell.text and cell.text not in ("nan", "None", "inf") and (cell.text != cells.NONE or cell.reason)
                )
    reasons = {reason for table in tables.all_tables(study) for reason in table.reasons}
    assert "no small objects among the labels that were evaluated" in reasons
    assert "no labels of this class among those evaluated" in reasons
    assert "memory of training with a batch of 16: measured on GPUs only" in reasons
    alone = "one seed only: no standard deviation"
    assert (alone in reasons) == (len(study.seeds) == 1)
    assert ("training time: nothing was trained" in reasons) == (study.variants[0].cost.training_seconds is None)


def test_names_are_escaped_and_rendered(reports):
    study, files = reports["hard"]
    html = read(files, "report.html")
    assert "<long>" not in html and "&lt;long&gt; &amp; $hard$" in html and "注意力机制" in html
    assert HARD_NAME in "".join(Reader(html).text)


def test_the_verdict_is_the_records_and_no_other(tmp_path):
    """The words of a verdict are shown as they are, whatever the figures beside them."""
    study = make_study(tmp_path, {"base": 0.0, "block": 0.03}, trained=False, sample_grid=False)
    found = study.variants[1].differences["mAP50-95"]
    doubtful = dataclasses.replace(found, verdict="no difference shown", sentence="block: nothing is shown.")
    changed = dataclasses.replace(study.variants[1], differences={"mAP50-95": doubtful})
    study = dataclasses.replace(study, variants=(study.variants[0], changed))
    files = {file.name: file for file in write_report(study)}
    assert Reader(read(files, "report.html")).tables["overview"][2][5].strip() == "no difference shown"
    for name in ("compare.md", "compare.tex", "compare.csv"):
        row = next(line for line in read(files, name).splitlines() if re.match(r"(\| )?block", line))
        assert "no difference shown" in row and "better" not in row
    assert found.difference > 0.014  # so a verdict made here would be another


# ---- how figures are written ----


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (cells.points(0.12345), "12.35"),
        (cells.mean_and_sd(0.5, 0.0123), "50.00 ± 1.23"),
        (cells.signed(-0.0123), "-1.23"),
        (cells.signed(0.0), "0.00"),
        (cells.signed(-0.00001), "0.00"),
        (cells.signed(0.00006), "+0.01"),
        (cells.interval(-0.01, 0.02), "-1.00 to +2.00"),
        (cells.probability(0.00099), "< 0.001"),
        (cells.probability(0.05), "0.050"),
        (cells.duration(3725.4), "1:02:05"),
        (cells.duration(59.6), "0:01:00"),
        (cells.number(1766623, 0), "1,766,623"),
        (cells.number(math.nan, 2, "why"), "–"),
        (cells.points(None, "why"), "–"),
        (cells.interval(math.nan, 1.0, "why"), "–"),
    ],
)
def test_figures(made, text):
    assert made.text == text and bool(made.reason) == (text == "–")


def test_letters_of_reasons():
    assert [cells.letter(index) for index in (0, 25, 26, 51, 52, 701, 702)] == ["a", "z", "aa", "az", "ba", "zz", "aaa"]


def test_lists_of_words():
    assert [cells.join_words("abc"[:count]) for count in range(4)] == ["", "a", "a and b", "a, b and c"]


# ---- figures ----


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Return a study with a failed baseline run, and what its figures are drawn from by file stem."""
    got = {}
    monkeypatch.setattr(
        figures, "plot_tradeoff", lambda marks, file, *labels: got.setdefault(file.stem, marks) and "<svg/>"
    )
    monkeypatch.setattr(
        figures, "plot_learning_curves", lambda courses, file: got.setdefault(file.stem, courses) and "<svg/>"
    )
    monkeypatch.setattr(
        figures, "plot_class_differences", lambda gaps, names, file, label: got.setdefault(file.stem, gaps) and "<svg/>"
    )
    study = make_study(tmp_path, failed=("yolov5n", 2))
    figures.draw_figures(study)
    return study, got


def test_marks_are_the_records(drawn):
    study, got = drawn
    base = study.baseline.summaries["mAP50-95"]
    for stem, scale in (("accuracy_latency", 1), ("accuracy_parameters", 1e-6)):
        first, *others = got[stem]
        assert (first.series, first.y, first.filled) == (0, 100 * base.mean, True) and math.isnan(first.low)
        for mark, variant in zip(others, study.variants[1:], strict=True):
            found = variant.differences["mAP50-95"]
            cost = variant.cost.latency_ms if scale == 1 else variant.cost.parameters
            assert mark.name == variant.name and mark.x == pytest.approx(cost * scale)
            assert mark.y == pytest.approx(100 * (base.mean + found.difference))
            assert mark.filled == (found.verdict != "no difference shown")
            assert (mark.low, mark.high) == pytest.approx([100 * (base.mean + end) for end in found.interval])
            assert mark.seeds == pytest.approx([100 * value for value in variant.summaries["mAP50-95"].values.values()])
            assert (mark.low > first.y or mark.high < first.y) == (found.interval[0] > 0 or found.interval[1] < 0)


def test_courses_are_the_results(drawn):
    study, got = drawn
    for course, variant in zip(got["learning_curves"], study.variants, strict=True):
        runs = [run for run in variant.runs if run.status == "done"]
        accuracy, loss = course.values.values()
        assert accuracy.shape == loss.shape == (len(runs), 20)
        for row, losses, run in zip(accuracy, loss, runs, strict=True):
            lines = [line.split(",") for line in run.results.read_text().splitlines()[1:]]
            assert (
                np.allclose(row[: len(lines)], [100 * float(line[2]) for line in lines])
                and np.isnan(row[len(lines) :]).all()
            )
            assert np.allclose(losses[: len(lines)], [sum(map(float, line[3:])) for line in lines])


def test_class_gaps_are_the_records(drawn):
    study, got = drawn
    for gap, variant in zip(got["class_differences"], study.variants[1:], strict=True):
        assert len(gap.rows) == len(CLASSES) and all(map(math.isnan, gap.rows[-1])) and not gap.filled[-1]
        for name, row, shown in zip(CLASSES[:-1], gap.rows[:-1], gap.filled[:-1], strict=True):
            found = variant.differences[f"class/{name}"]
            assert row == pytest.approx((100 * found.difference, 100 * found.interval[0], 100 * found.interval[1]))
            assert shown == (found.verdict in ("better", "worse"))


def test_a_course_is_the_mean_and_its_band_lowest_to_highest():
    """Up to the shortest training, against numbers by hand."""
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    values = np.array([[1.0, 2.0, 6.0, np.nan], [3.0, 2.0, 0.0, 9.0]])
    plots._draw_curves(axes, plots.LearningCurves("x", 1, {}), values)
    assert axes.lines[0].get_ydata().tolist() == [2.0, 2.0, 3.0] and axes.lines[0].get_xdata().tolist() == [0, 1, 2]
    corners = axes.collections[0].get_paths()[0].vertices
    assert {tuple(point) for point in corners} >= {(0.0, 1.0), (0.0, 3.0), (1.0, 2.0), (2.0, 0.0), (2.0, 6.0)}
    assert corners[:, 0].max() == 2


def test_svgs_are_elements_whose_ids_do_not_meet(tmp_path):
    marks = [
        plots.Mark("a $x$ & <b>", 0, 1.0, 50.0),
        plots.Mark("注意力", 1, 2.0, 51.0, 49.0, 53.0, (50.0, 52.0), False),
    ]
    one, other = (plots.plot_tradeoff(marks, tmp_path / f"{name}.png", "x", "y") for name in ("one", "other"))
    ids = []
    for text in (one, other):
        root = ElementTree.fromstring(text)
        assert root.tag.endswith("svg") and "viewBox" in root.attrib and "width" not in root.attrib
        words = [element.text for element in root.iter() if element.tag.endswith("text")]
        assert "a $x$ & <b>" in words and "注意力" in words
        ids += [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
        assert all(target in text for target in re.findall(r"url\(#(.*?)\)", text))
    assert len(ids) == len(set(ids)) > 20
    assert one == plots.plot_tradeoff(marks, tmp_path / "one.png", "x", "y")  # nothing in it changes from day to day


def test_many_variants_have_colors_and_positions(tmp_path):
    assert plots.series_color(1) == plots.series_color(9) != plots.series_color(0) and len(set(plots.SERIES)) == len(
        plots.SERIES
    )
    gaps = [
        plots.ClassDifferences(f"block {n}", n, ((1.0, 0.0, 2.0), (math.nan,) * 3), (True, False)) for n in range(1, 7)
    ]
    svg = plots.plot_class_differences(gaps, ["one", "two"], tmp_path / "gaps.png", "points")
    words = [element.text for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]
    assert [word for word in words if word and word.startswith("block")] == [gap.name for gap in gaps]


@pytest.mark.parametrize(
    ("rows", "limit"),
    [
        ([(1.0, -1.0, 3.0), (0.0, -2.0, 2.0)], 3.0),  # all of it
        (
            [(1.0, 0.0, 2.0)] * 9 + [(5.0, -300.0, 310.0)],
            5.0,
        ),  # one interval has no end: as far as the farthest difference
        ([(-1.0, -4.0, 2.0)] * 9 + [(2.0, -300.0, 310.0)], 6.0),  # 1.5 times the usual reach
        ([(2.0, math.nan, math.nan)], 2.0 * 1.15 / 1.08),
        ([(math.nan,) * 3], 1 / 1.08),
        ([(0.0, 0.0, 0.0)], 1 / 1.08),
    ],
)
def test_rare_classes_do_not_set_the_scale_of_the_others(rows, limit):
    assert plots.axis_limit([plots.ClassDifferences("x", 1, tuple(rows), (True,) * len(rows))]) == pytest.approx(
        1.08 * limit
    )


def luminance(color):
    """Return the relative luminance of #rrggbb, by WCAG 2.1."""
    parts = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [document._LIGHT, document._DARK], ids=["light", "dark"])
def test_text_can_be_read_in_both_themes(theme):
    """The contrast is at least 4.5 : 1 for text on every background, 3 : 1 for the marks of figures."""
    series = plots.SERIES if theme is document._LIGHT else document._DARK_SERIES

    def contrast(one, other):
        low, high = sorted((luminance(one), luminance(other)))
        return (high + 0.05) / (low + 0.05)

    for ground in ("ground", "raised", "hover", "base"):
        for ink in ("ink", "faint", "link", "better", "worse"):
            assert contrast(theme[ink], theme[ground]) >= 4.5, (ink, ground)
    assert contrast(theme["ink"], theme["warn"]) >= 4.5 and all(
        contrast(color, theme["raised"]) >= 3 for color in series
    )


# ---- odd studies ----


def test_a_study_of_which_nothing_finished(tmp_path):
    study = make_study(tmp_path, {"base": 0.0, "block": 0.01}, seeds=(0,), sample_grid=False)
    nothing = dict(status="missing", scores=None, results=None, seconds=None, error="it was not run")
    empty = []
    for variant in study.variants:
        runs = (dataclasses.replace(variant.runs[0], **nothing),)
        empty.append(dataclasses.replace(variant, runs=runs, cost=None, summaries={}, differences={}))
    study = dataclasses.replace(study, variants=tuple(empty))
    files = {file.name: file for file in write_report(study)}
    text = "".join(Reader(read(files, "report.html")).text)
    assert "no run of it finished" in text and "it was not run" in text and "cost was not measured" in text
    assert "block: no seed finished both here and in the baseline." in text
    assert not [name for name in files if name.endswith(".png")]


def test_an_interval_that_could_not_be_made(tmp_path):
    study = make_study(tmp_path, {"base": 0.0, "block": 0.01}, sample_grid=False)
    endless = (math.nan, math.nan)
    alone = Difference(
        "block", "mAP50-95", 0.01, {0: 0.01}, endless, 1.0, 1.0, "no difference shown", "block: too few."
    )
    changed = dataclasses.replace(study.variants[1], differences={"mAP50-95": alone})
    study = dataclasses.replace(study, variants=(study.variants[0], changed))
    row = tables.overview(study).rows[1]
    assert [cell.text for cell in row[2:6]] == ["+1.00", "–", "1.000", "no difference shown"]
    assert row[3].reason == "too few images for an interval"
    assert "too few images for an interval" in console_table(study)
    assert figures._mark(study, changed, "parameters", 1.0).filled is False


def test_kinds_of_error_are_shown_if_there_are_any(tmp_path):
    study = make_study(tmp_path, {"base": 0.0, "block": 0.01}, sample_grid=False)
    variants = tuple(
        dataclasses.replace(variant, summaries=variant.summaries | {"error/localisation": variant.summaries["APm"]})
        for variant in study.variants
    )
    table = tables.errors(dataclasses.replace(study, variants=variants))
    assert [column.heading for column in table.columns] == ["variant", "localisation (points)"]
    assert (
        table.rows[1][1].value == pytest.approx(100 * study.variants[1].summaries["APm"].mean)
        and tables.errors(study) is None
    )
    assert set(TESTED) == {row[1].text for row in tables.differences(study).rows}


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    """Return a study with exported files, and the files of its report by name."""
    study = make_study(tmp_path_factory.mktemp("deployed"), {"base": 0.0, "block": 0.01}, sample_grid=False)
    study = dataclasses.replace(study, deployments=deployments_of(study))
    return study, {file.name: file for file in write_report(study)}


def test_exported_files_have_a_row_each(deployed):
    table = cost_tables.deployment(deployed[0])
    assert [[cell.text for cell in row] for row in table.rows[:4]] == [
        ["base", "torch", "float32", "52.00", "–", "84.00", "9.50", "12.25", "1.000", "71", "3.66", "unmatched"],
        ["base", "onnx", "float32", "52.00", "0.00", "84.00", "4.75", "12.25", "0.503", "71", "7.63", "unmatched"],
        ["base", "onnx", "int8", "48.75", "-3.25", "84.00", "4.75", "12.25", "0.503", "–", "7.63", "no"],
        ["base", "ncnn", "float32", "52.00", "+2.00", "84.00", "–", "–", "–", "71", "3.66", "–"],
    ]
    assert [cell.reason for cell in table.rows[3]][3:] == [
        "its file takes squares", "", "", "no memory", "no memory", "no memory", "", "", "no memory",
    ]  # fmt: skip
    failed = table.rows[7]
    assert [cell.text for cell in failed] == ["block", "ncnn", "float32", *["–"] * 9]
    assert {cell.reason for cell in failed[3:]} == {"ncnn: pnnx cannot convert this network"}
    assert "onnx: ONNX Runtime 1.22.0 on the CPU" in table.caption and "seed 0" in table.caption


def test_every_file_of_the_report_has_the_exported_files(deployed):
    study, files = deployed
    table = cost_tables.deployment(study)
    shown = [[cell.text for cell in row] for row in table.rows]
    _, *rows = Reader(read(files, "report.html")).tables["deployment"]
    plain = [[text.replace("−", "-") for text in row] for row in rows]
    assert all(cell in text for row, got in zip(shown, plain, strict=True) for cell, text in zip(row, got, strict=True))
    assert 'href="#deployment"' in read(files, "report.html")
    block = read(files, "compare.md").split("## Deployment\n\n")[1].split("\n\n")[0].splitlines()[2:]
    for line, row in zip(block, shown, strict=True):
        assert all(cell in text for cell, text in zip(row, cells_of_markdown(line), strict=True))
    assert read(files, "compare.tex").count("\\begin{tabular}") == 3 and "compare-deployment" in read(
        files, "compare.tex"
    )
    assert "ncnn: pnnx cannot convert this network" in console_table(study)
    with open(files["compare.csv"], newline="", encoding="utf-8") as stream:
        found = {(row["variant"], row["metric"]): row for row in csv.DictReader(stream)}
    assert found["base", "deployment/onnx-int8/map"]["value"] == "48.750000"
    assert found["base", "deployment/onnx-float32/latency_ms"]["value"] == "4.75"
    assert found["block", "deployment/ncnn-float32/map"]["remark"] == "ncnn: pnnx cannot convert this network"
    stored = json.loads(read(files, "compare.json"))["deployments"]
    assert [each["latency_ratio"] for each in stored[:4]] == [1.0, 0.503, 0.503, None]


def test_without_exported_files_there_is_no_table_of_them(reports):
    study, files = reports["full"]
    assert cost_tables.deployment(study) is None and "Deployment" not in read(files, "compare.md")
