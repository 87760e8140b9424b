"""The Chinese of the reports and of the console: nothing that comes out there is missing from the table."""

import ast
import logging
import re

import pytest
from source_texts import prose
from studies import make_study

from utils.cli import run_script
from utils.compare.report.page import html_page
from utils.compare.report.report_figures import draw_figures
from utils.config import ValConfig, parse
from utils.datasets.check.findings import KINDS, LEVELS
from utils.files import ROOT
from utils.language import Dictionary, dictionary, speaking, translated
from utils.log import LOGGER
from utils.statistics.tide import KINDS as ERRORS

REPORT = ("page", "tables", "study_cells", "cost_tables", "cells", "report_figures")
SAMPLES = {
    "subject": "does X",
    "sizes": "small",
    "what": "latency",
    "status": "failed",
    "markers": "Hollow: no difference shown.",
    "column": "X",
    "seeds": "seed 3, the first,",
}
NOT_SHOWN = (  # markup, prefixes of notes, messages of the program's own mistakes and of its log
    r"<|@media|default-src|table .*: a row|learning curves without"
    r"|operations by|time of a batch|memory of|training time:$"
)


def texts_of(*modules: str) -> list[str]:
    """The texts of modules that a reader sees, with samples in place of their fields."""
    found = []
    for module in modules:
        tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
        for _, text in prose(tree):
            if not re.match(NOT_SHOWN, text.strip()):
                found.append(re.sub(r"\{([^{}]*)\}", lambda field: SAMPLES.get(field[1], "X"), text).strip())
    return found


def untranslated(texts: list[str], table: Dictionary) -> list[str]:
    """The texts that have a sentence which no template of the table fits."""
    return [text for text in texts if not all(part == "X" or table.translate(part) != part for part in sentences(text))]


def sentences(text: str) -> list[str]:
    return re.split(r"(?<=[a-z0-9X)][.?]) ", text)


def test_each_text_of_the_report_has_a_chinese_one():
    texts = texts_of(*(f"utils/compare/report/{name}.py" for name in REPORT))
    assert len(texts) > 60 and untranslated([*texts, *ERRORS], dictionary("zh")) == []


def test_each_text_of_the_data_checkers_page_has_a_chinese_one():
    texts = texts_of("utils/datasets/check/check_page.py") + [*LEVELS, *(kind.fix for kind in KINDS.values())]
    assert len(texts) > 70 and untranslated(texts, dictionary("zh")) == []


def test_a_text_without_a_chinese_one_is_found():
    table = dictionary("zh")
    assert untranslated(["Accuracy against cost", "A new heading"], table) == ["A new heading"]
    fewer = Dictionary({key: value for key, value in table.texts.items() if key != "Every run"})
    assert untranslated(["Every run"], fewer) == ["Every run"]


def test_both_sides_of_the_table_have_the_same_fields():
    for english, chinese in dictionary("zh").texts.items():
        assert set(re.findall(r"\{(\w+)\}", english)) == set(re.findall(r"\{(\w+)\}", chinese)), english


def test_templates_lines_and_sentences_are_translated_and_unknown_text_stays():
    with speaking("zh"):
        assert translated("Results saved to runs/val/exp") == "结果已保存到 runs/val/exp"
        assert translated("\n3 epochs completed in 0.5 hours.") == "\n已完成 3 个轮次，用时 0.5 小时。"
        assert translated("Dashes: single seeds. An unknown sentence.") == "短横：单个种子。An unknown sentence."
        assert translated("Every run\nsomething else") == "全部运行\nsomething else"
    assert translated("Results saved to runs/val/exp") == "Results saved to runs/val/exp"


def test_a_field_is_translated_if_it_is_a_text_itself():
    with speaking("zh"):
        sentence = (
            "mAP50-95: no difference shown between CBAM and the parameter-matched baseline, +0.10 points (95 % "
            "interval -1.00 to +1.20; p = 0.50, corrected for several comparisons; 3 seeds, 64 images)."
        )
        assert translated(sentence) == (
            "mAP50-95：未显示 CBAM 与 参数量匹配的基线 之间有差异，+0.10 个百分点（95 % 置信区间 -1.00 至 +1.20；"
            "p = 0.50，按多次比较校正；3 个种子，64 张图像）。"
        )


def test_the_report_is_chinese_and_its_names_and_figures_stay(tmp_path):
    study = make_study(tmp_path)
    figures = draw_figures(study)
    english, chinese = html_page(study, figures), html_page(study, figures, "zh")
    assert '<html lang="zh-CN">' in chinese and '<html lang="en">' in english
    for text in ("问题与结论", "逐类别差异", "参数量匹配", "未显示", "延迟，逐张图像（毫秒）", "变体"):
        assert text in chinese and text not in english
    figure = re.compile(r'data-value="(-?[\d.]+)"')
    assert figure.findall(chinese) == figure.findall(english)
    words = re.sub(r"<script.*?</script>|<style.*?</style>|<pre.*?</pre>|<[^>]+>", " ", chinese, flags=re.DOTALL)
    left = [word for word in re.findall(r"[A-Za-z]+(?: [a-z]+){2,}", words)]
    assert [phrase for phrase in left if phrase not in study.title and phrase not in "".join(study.notes)] == []


def test_a_scripts_summary_is_in_the_language_that_its_flag_names(capsys, monkeypatch):
    monkeypatch.setattr(LOGGER, "handlers", [])
    monkeypatch.setattr(LOGGER, "level", logging.INFO)
    monkeypatch.setattr(LOGGER, "propagate", True)

    def main(config):
        LOGGER.info("Results saved to here")

    for words, said in ((["--lang", "zh"], "结果已保存到 here"), ([], "Results saved to here")):
        assert run_script(main, lambda argv: parse(ValConfig, argv), words) == 0
        assert capsys.readouterr().out == f"{said}\n"
        LOGGER.handlers.clear()


def test_a_language_that_is_not_there_is_one_line(capsys):
    with pytest.raises(SystemExit):
        parse(ValConfig, ["--lang", "fr"])
    assert "--lang" in capsys.readouterr().err.splitlines()[-1]
