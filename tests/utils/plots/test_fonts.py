"""Class names in any script: written if a font of this computer has them, else numbers with a legend; never boxes."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from utils.datasets.check.box_fit import measure
from utils.datasets.check.overview_page import OverviewPage, plot_page
from utils.datasets.check.sheets import sample_sheet
from utils.datasets.label_store import LabelStore
from utils.datasets.sources import Frame
from utils.engine.prediction_writers import Artist
from utils.engine.predictor import Prediction
from utils.errors import ConfigError
from utils.images import read_image, write_image
from utils.log import LOGGER
from utils.metrics.average_precision import Curves
from utils.plots import font_files, fonts
from utils.plots.annotate import text_patch
from utils.plots.batches import plot_batch
from utils.plots.curves import plot_threshold_curves
from utils.plots.error_plots import plot_confusion
from utils.plots.fonts import class_labels, drawing_fonts, needs_shaping
from utils.plots.label_statistics import plot_labels
from utils.plots.study_figures import ClassDifferences, plot_class_differences
from utils.types import Detections, HeadGeometry, Labels, Speeds

NAMES, NUMBERS = ("猫", "dog", "ねこ"), ("0", "dog", "2")
CLASSES = np.arange(3)
BOXES = np.array([[0.3, 0.4, 0.2, 0.3], [0.6, 0.5, 0.3, 0.3], [0.7, 0.8, 0.2, 0.2]])
BLACK, WHITE = (0, 0, 0), (255, 255, 255)


def make_font(file: Path, letters: str) -> Path:
    """Write a font in which every letter is a filled square, from the baseline to the ascent."""
    glyphs = [".notdef", *(f"g{ord(letter):x}" for letter in letters)]
    pen = TTGlyphPen(None)
    for step, point in enumerate(((0, 0), (0, 900), (900, 900), (900, 0))):
        (pen.lineTo if step else pen.moveTo)(point)
    pen.closePath()
    square = pen.glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(glyphs)
    builder.setupCharacterMap({ord(letter): f"g{ord(letter):x}" for letter in letters})
    builder.setupGlyf(dict.fromkeys(glyphs, square))
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 0)))
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": f"Test {file.stem}", "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=900, usWinAscent=900, usWinDescent=100)
    builder.setupPost()
    file.parent.mkdir(parents=True, exist_ok=True)
    builder.save(file)
    return file


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The only folder of fonts that there is, still empty."""
    folder = tmp_path / "fonts"
    folder.mkdir()
    monkeypatch.setattr(font_files, "font_folders", lambda: [folder])
    monkeypatch.delenv(fonts.FONT_VARIABLE, raising=False)
    monkeypatch.setattr("utils.log._warned", set())
    fonts._fonts_outside_scripts.cache_clear()
    yield folder
    fonts._fonts_outside_scripts.cache_clear()


def is_filled(patch: np.ndarray) -> bool:
    """Whether a patch has a filled square of the test's font, 18 pixels wide at size 20."""
    rows = (patch > 250).all(2).sum(1)
    return bool((rows >= 16).sum() >= 16)


# ---- finding ----


def test_users_folders_come_first(tmp_path, monkeypatch):
    places = ("data/fonts", "home/.fonts", "home/.local/share/fonts", "conda/fonts", "shared/fonts")
    for place in (*places, "shared/other"):
        (tmp_path / place).mkdir(parents=True)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    for name, value in (("XDG_DATA_HOME", "data"), ("XDG_DATA_DIRS", "shared"), ("CONDA_PREFIX", "conda")):
        monkeypatch.setenv(name, str(tmp_path / value))
    found = [each for each in font_files.font_folders() if tmp_path in each.parents]
    assert found == [tmp_path / place for place in places]
    assert font_files.own_folder() == tmp_path / "data/fonts"
    monkeypatch.delenv("XDG_DATA_HOME")
    assert font_files.own_folder() == tmp_path / "home/.local/share/fonts"


@pytest.mark.parametrize(
    "platform, own", [("darwin", "home/Library/Fonts"), ("win32", "local/Microsoft/Windows/Fonts")]
)
def test_folders_of_other_systems(tmp_path, monkeypatch, platform, own):
    for place in (own, "windows/Fonts"):
        (tmp_path / place).mkdir(parents=True)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    monkeypatch.setenv("WINDIR", str(tmp_path / "windows"))
    found = [each for each in font_files.font_folders() if tmp_path in each.parents]
    assert found == [tmp_path / own, *([tmp_path / "windows/Fonts"] if platform == "win32" else [])]


def test_plain_text_faces_come_before_others(folder):
    names = (
        "a.ttf",
        "NotoSansCJK-Bold.ttc",
        "NotoSansCJK-Regular.ttc",
        "deep/wqy-microhei.TTC",
        "z.otf",
        "Z-Italic.ttf",
    )
    for name in (*names, "LastResortHE-Regular.ttf", "AdobeBlank.otf", "read.me"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    order = (
        "NotoSansCJK-Regular.ttc",
        "deep/wqy-microhei.TTC",
        "a.ttf",
        "z.otf",
        "NotoSansCJK-Bold.ttc",
        "Z-Italic.ttf",
    )
    assert font_files.font_files() == [folder / name for name in order]


def test_letters_of_a_font(folder):
    font = make_font(folder / "cat.ttf", "猫a")
    assert font_files.covered(font, "猫狗a") == {"猫", "a"}
    (folder / "broken.ttf").write_bytes(font.read_bytes()[:200])
    assert not font_files.covered(folder / "broken.ttf", "猫") and not font_files.covered(folder / "none.ttf", "猫")
    assert font_files.latin_font().name == "DejaVuSans.ttf"
    assert font_files.covered(font_files.latin_font(), "aéЖ猫") == {"a", "é", "Ж"}


def test_a_font_with_all_letters_is_taken_before_several(folder):
    make_font(folder / "a.ttf", "猫")
    both = make_font(folder / "b.ttf", "猫狗ab 0.")
    with drawing_fonts() as book:
        assert book.runs("猫狗 0.5") == (("猫狗 0.", both), ("5", font_files.latin_font()))
        assert book.found == [both]


def test_several_fonts_write_one_text(folder):
    cat, dog = make_font(folder / "a.ttf", "猫"), make_font(folder / "b.ttf", "狗")
    with drawing_fonts() as book:
        latin = font_files.latin_font()
        assert book.runs("猫 狗é") == (("猫 ", cat), ("狗", dog), ("é", latin))
        assert book.labels(("猫狗", "a"), folder, shaped=False) == ("猫狗", "a")
        assert is_filled(text_patch("é狗", 20, WHITE, BLACK)) and not is_filled(text_patch("éa", 20, WHITE, BLACK))
    assert not (folder / "classes.txt").exists()


# ---- what a user chooses ----


@pytest.mark.parametrize("by_flag", [True, False])
def test_the_users_font_comes_first(folder, tmp_path, monkeypatch, by_flag):
    font = make_font(tmp_path / "own/我的.ttf", "猫ab")
    if not by_flag:
        monkeypatch.setenv(fonts.FONT_VARIABLE, str(font))
    with drawing_fonts(str(font) if by_flag else "") as book:
        assert book.runs("猫a0") == (("猫a", font), ("0", font_files.latin_font()))
        assert class_labels(NAMES, tmp_path) == ("猫", "dog", "2")
        assert is_filled(text_patch("猫", 20, WHITE, BLACK)) and is_filled(text_patch("a", 20, WHITE, BLACK))


@pytest.mark.parametrize("made, reason", [(None, "no such file"), (b"no font", "not a font that can be drawn")])
def test_a_font_that_is_none_is_one_line(folder, tmp_path, monkeypatch, made, reason):
    if made:
        (tmp_path / "x.ttf").write_bytes(made)
    with pytest.raises(ConfigError, match=f"--font .*x.ttf: {reason}"), drawing_fonts(str(tmp_path / "x.ttf")):
        pass
    monkeypatch.setenv(fonts.FONT_VARIABLE, str(tmp_path / "x.ttf"))
    with pytest.raises(ConfigError, match=f"YOLO_FONT .*x.ttf: {reason}"), drawing_fonts():
        pass


# ---- without a font ----


def test_numbers_and_a_legend_stand_for_names(folder, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(LOGGER, "propagate", True)
    with drawing_fonts():
        with drawing_fonts("is not read: the outer block's fonts stay"):
            assert class_labels(NAMES, tmp_path) == NUMBERS
            assert class_labels(NAMES, tmp_path, in_plot=True) == NUMBERS
        assert not caplog.messages
        text_patch("图 1.jpg", 20, WHITE, BLACK)
    assert (tmp_path / "classes.txt").read_text("utf-8") == "0: 猫\n1: dog\n2: ねこ\n"
    (line,) = caplog.messages
    assert "numbers for the classes 猫, ねこ, listed in classes.txt beside them and question marks in 图 1.jpg" in line
    assert all(word in line for word in ("Noto Sans SC", str(font_files.own_folder()), "--font FILE", "YOLO_FONT=FILE"))


def test_names_that_can_be_written_leave_no_trace(folder, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(LOGGER, "propagate", True)
    with drawing_fonts():
        assert class_labels(("cat", "chat élégant", "кот", "γάτα"), tmp_path)[2:] == ("кот", "γάτα")
    assert not caplog.messages and list(tmp_path.iterdir()) == [folder]


def test_without_a_script_the_advice_is_given_at_once(folder, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(LOGGER, "propagate", True)
    assert class_labels(NAMES, tmp_path) == class_labels(NAMES, tmp_path) == NUMBERS
    assert len(caplog.messages) == 1 and "猫, ねこ" in caplog.text


@pytest.mark.parametrize(
    "name, font",
    [("ねこ", "JP"), ("고양이", "KR"), ("猫", "SC"), ("បក្សី", "Khmer"), ("बिल्ली", "Devanagari"), ("🫠", "Noto Emoji")],
)
def test_the_advice_names_a_font_of_the_script(folder, tmp_path, name, font):
    with drawing_fonts() as book:
        book.labels((name,), tmp_path, shaped=True)
        assert font in book.advice()


def test_no_box_is_drawn_for_a_letter_that_is_missing(folder):
    with drawing_fonts():
        assert (text_patch("a猫", 20, WHITE, BLACK) == text_patch("a?", 20, WHITE, BLACK)).all()
        assert (text_patch("a\u200d\ufe0f", 20, WHITE, BLACK) == text_patch("a", 20, WHITE, BLACK)).all()


@pytest.mark.parametrize("text, needed", [("قط", True), ("חתול", True), ("बिल्ली", True), ("猫", False), ("été", False)])
def test_scripts_that_need_shaping(folder, tmp_path, text, needed):
    make_font(folder / "all.ttf", "".join(sorted(set("قطחתולबिल्ली猫"))))
    assert needs_shaping(text) == needed
    with drawing_fonts() as book:
        assert book.labels((text,), tmp_path, shaped=True) == (text,)
        assert book.labels((text,), tmp_path, shaped=False) == (("0",) if needed else (text,))
        assert ("Raqm" in book.advice()) == needed


# ---- everything that is drawn ----


def draw_some(names, folder: Path) -> dict[str, np.ndarray]:
    """An image of each kind with class names: a grid of images, a sheet, a plot and a plot of a study."""
    folder.mkdir()
    write_image(folder / "x.png", np.full((240, 320, 3), 90, np.uint8))
    targets = torch.tensor(np.column_stack((0 * CLASSES, CLASSES, BOXES)))
    plot_batch(torch.full((1, 3, 240, 320), 60, dtype=torch.uint8), targets, ["x.png"], folder / "batch.png", names)
    sample_sheet(store_of(folder / "x.png"), names, folder / "sheet.png")
    plot_confusion(np.eye(4), names, folder / "confusion.png")
    gaps = ClassDifferences("b", 1, tuple((i, i - 1.0, i + 1.0) for i in range(3)), (True,) * 3)
    plot_class_differences([gaps], names, folder / "differences.png", "points")
    (folder / "x.png").unlink()
    return images_in(folder)


def draw_the_rest(names, folder: Path) -> dict[str, np.ndarray]:
    """The other plots with class names."""
    folder.mkdir()
    plot_labels(CLASSES, BOXES, names, folder)
    (folder / "labels_correlogram.jpg").unlink()
    plot_threshold_curves(curves_of(CLASSES[1:]), names, folder)
    plot_page(overview(store_of(folder / "x.png"), names), folder / "page.png")
    return images_in(folder)


def images_in(folder: Path) -> dict[str, np.ndarray]:
    return {file.name: read_image(file)[0] for file in sorted((*folder.glob("*.png"), *folder.glob("*.jpg")))}


def store_of(image: Path) -> LabelStore:
    return LabelStore.build([str(image)], [(240, 320)], [Labels(CLASSES, BOXES)])


def curves_of(classes: np.ndarray) -> Curves:
    ones = np.ones((len(classes), 1000))
    return Curves(np.linspace(0, 1, 1000), ones, ones, ones, ones, classes, np.ones(len(classes)))


def overview(store: LabelStore, names) -> OverviewPage:
    fit = measure(store, HeadGeometry(torch.ones(1, 1, 2), torch.tensor([8.0]), 3), True, 640, 4.0, 3.0)
    return OverviewPage(
        title="d.yaml",
        names=names,
        head="m",
        strides=np.array([8.0]),
        anchors=np.zeros((0, 2)),
        stores={"train": store},
        fits={"train": fit},
        copies={"train": {"train": 0}},
        kinds=[],
        levels={"fault": 0},
    )


@pytest.mark.parametrize("draw", [draw_some, pytest.param(draw_the_rest, marks=pytest.mark.slow)])
def test_numbers_are_drawn_or_names_if_there_is_a_font(folder, tmp_path, draw):
    """Without a font, images are those of classes whose names are their numbers, pixel for pixel."""
    with drawing_fonts():
        drawn, numbers = draw(NAMES, tmp_path / "a"), draw(NUMBERS, tmp_path / "b")
    assert list(drawn) == list(numbers) and len(drawn) in (4, 6)
    assert [name for name in drawn if (drawn[name] != numbers[name]).any()] in ([], ["sheet.png"])
    if "sheet.png" in drawn:  # its caption counts "1 class 0" instead of "1 0"
        assert (drawn["sheet.png"][40:] == numbers["sheet.png"][40:]).all()
    assert (tmp_path / "a/classes.txt").exists() and not (tmp_path / "b/classes.txt").exists()
    make_font(folder / "cat.ttf", "猫ねこ")
    with drawing_fonts() as book:
        named = draw(NAMES, tmp_path / "c")
        assert not book.advice() and not (tmp_path / "c/classes.txt").exists()
    assert not [name for name in drawn if np.array_equal(named[name], numbers[name])]


def test_an_svg_keeps_the_names(folder, tmp_path):
    gaps = ClassDifferences("模型", 1, ((0.0, -1.0, 1.0),), (True,))
    with drawing_fonts() as book:
        svg = plot_class_differences([gaps], ["猫"], tmp_path / "d.png", "points")
        assert "猫" in svg and "模型" in svg and "模型" in book.advice()


def test_detections_show_the_numbers(folder, tmp_path):
    def drawn(names, where):
        where.mkdir()
        frame = Frame(np.zeros((200, 300, 3), np.uint8), "a.jpg", "a.jpg", "image", 0, 1)
        found = Detections(torch.tensor([[20.0, 60, 200, 150]]), torch.tensor([0.5]), torch.tensor([2]))
        return Artist(where)(Prediction(frame, found, names, (64, 64), Speeds(0, 0, 0)))

    with drawing_fonts():
        assert (drawn(NAMES, tmp_path / "a") == drawn(NUMBERS, tmp_path / "b")).all()
    assert (tmp_path / "a/classes.txt").exists() and not (tmp_path / "b/classes.txt").exists()


def test_signs_of_mathematics_in_names_are_letters(tmp_path):
    """Matplotlib reads what stands between dollar signs as a formula, and $x^$ is none."""
    names = ("a$b$", "$x^$", "#&%")
    plot_confusion(np.eye(4), names, tmp_path / "confusion.png")
    plot_threshold_curves(curves_of(np.arange(3)), names, tmp_path)
    assert (tmp_path / "PR_curve.png").exists()
