"""report.html in Chromium: no message, no request, tables that sort, nothing wider than the window, both themes."""

import pytest
from studies import written_report

WIDTHS = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
TABLE = "document.querySelector('#table-{}')"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """kind -> (study, its page)."""
    made = {kind: written_report(kind, tmp_path_factory) for kind in ("full", "hard", "weights")}
    return {kind: (study, files["report.html"]) for kind, (study, files) in made.items()}


def js(script):
    return {"js": script}


def column(table, index):
    return js(f"[...{TABLE.format(table)}.tBodies[0].rows].map(row => row.cells[{index}].dataset.value ?? null)")


def click(table, index):
    return js(
        f"({TABLE.format(table)}.tHead.rows[0].cells[{index}].querySelector('button').click(), "
        f"[...{TABLE.format(table)}.tHead.rows[0].cells].map(cell => cell.ariaSort))"
    )


def test_the_browser_reports_faults(chromium, tmp_path):
    """A page with every fault, so that silence elsewhere means something."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<p style='width:1500px'>wide</p><img src='http://127.0.0.1:9/x.png'>"
        "<script>console.error('wrong'); missing();</script>"
    )
    result = chromium(bad, "dark", {"width": 360}, js(WIDTHS), js("matchMedia('(prefers-color-scheme: dark)').matches"))
    assert result["answers"][1][0] > 1500 > result["answers"][1][1] and result["answers"][2] is True
    assert any("wrong" in line for line in result["console"]) and any(
        "missing is not defined" in line for line in result["console"]
    )
    assert "http://127.0.0.1:9/x.png" in result["requests"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["full", "hard", "weights"])
def test_it_opens_quietly_and_fits(chromium, pages, name, scheme):
    _, page = pages[name]
    ground = js("getComputedStyle(document.body).backgroundColor")
    texts = js("document.querySelectorAll('svg text').length")
    steps = [step for width in (360, 768, 1400) for step in ({"width": width}, js(WIDTHS))]
    result = chromium(page, scheme, *steps, ground, texts)
    widths, (color, words) = result["answers"][1:6:2], result["answers"][6:]
    assert result["console"] == [] and result["requests"] == [page.resolve().as_uri()]
    assert all(needed == window for needed, window in widths) and [window > 320 for _, window in widths] == [True] * 3
    assert color == {"light": "rgb(250, 250, 248)", "dark": "rgb(19, 22, 25)"}[scheme] and words > 50


def test_a_heading_sorts_by_mouse_and_key(chromium, pages):
    study, page = pages["full"]
    before = [variant.name for variant in study.variants]
    differences = {variant.name: variant.differences["mAP50-95"].difference for variant in study.variants[1:]}
    rising = sorted(differences, key=differences.get) + ["yolov5n"]  # the baseline has none: it goes last
    falling = sorted(differences, key=differences.get, reverse=True) + ["yolov5n"]
    focus = js("(document.querySelector('#table-overview button').focus(), document.activeElement.tagName)")
    names, sort = column("overview", 0), click("overview", 2)
    result = chromium(
        page,
        "light",
        names,
        sort,
        names,
        sort,
        names,
        focus,
        {"key": "Return"},
        names,
        {"key": "Space"},
        names,
        js("document.getElementById('announcement').textContent"),
    )
    first, sorts, up, sorts_again, down, focused, _, by_name, _, by_name_down, announced = result["answers"]
    assert first == before and up == rising and down == falling and focused == "BUTTON"
    assert sorts == ["none", "none", "ascending"] + ["none"] * 6 and sorts_again[2] == "descending"
    assert by_name == sorted(before, key=str.lower) and by_name_down == by_name[::-1]
    assert announced == "Sorted by variant, descending" and result["console"] == []


def test_every_table_sorts_by_every_column(chromium, pages):
    """Each column's values rise after a click and fall after a second, and nothing is lost."""
    _, page = pages["hard"]
    script = """(() => { const faults = []; let sorted = 0;
      for (const table of document.querySelectorAll('table.sortable'))
        [...table.tHead.rows[0].cells].forEach((heading, column) => {
          for (const sign of [1, -1]) {
            const count = table.tBodies[0].rows.length;
            heading.querySelector('button').click();
            const cells = [...table.tBodies[0].rows].map(row => row.cells[column]);
            const values = cells.map(cell => cell.dataset.value ?? null);
            const last = values.indexOf(null) < 0 ? values.length : values.indexOf(null);
            const numbers = cells.slice(0, last).filter(cell => cell.dataset.kind)
              .map(cell => Number(cell.dataset.value));
            const ordered = numbers.every((value, index) => !index || sign * (value - numbers[index - 1]) >= 0);
            const tail = values.slice(last).some(value => value !== null);
            if (!ordered || tail || cells.length !== count) faults.push([table.id, column]);
            sorted += 1; } });
      return [faults, sorted]; })()"""
    result = chromium(page, "dark", js(script))
    faults, count = result["answers"][0]
    assert faults == [] and count > 60


def test_the_theme_can_be_chosen(chromium, pages):
    ground = js("getComputedStyle(document.body).backgroundColor")
    press = js("(document.getElementById('theme').click(), document.getElementById('theme').textContent)")
    result = chromium(pages["full"][1], "light", ground, press, ground, press, ground)
    assert result["answers"] == [
        "rgb(250, 250, 248)",
        "Light theme",
        "rgb(19, 22, 25)",
        "Dark theme",
        "rgb(250, 250, 248)",
    ]


def test_it_prints(chromium, pages, tmp_path):
    result = chromium(pages["full"][1], "dark", {"pdf": str(tmp_path / "report.pdf")})
    content = (tmp_path / "report.pdf").read_bytes()
    assert result["answers"] == [True] and content.startswith(b"%PDF") and 4 <= content.count(b"/Type /Page\n") <= 12
