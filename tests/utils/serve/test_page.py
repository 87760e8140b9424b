"""The local page in Chromium: an image and a clip, wide and narrow, light and dark, and with the keyboard alone."""

import base64

import pytest
from conftest import noise_image, png, running
from small_videos import write_video

pytestmark = pytest.mark.browser
WIDTHS = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
READY = {"until": "document.querySelectorAll('#model option').length == 2"}
SHOWN = {
    "until": "document.querySelector('.panel table tbody tr') && !document.getElementById('progress').offsetParent"
}
FOCUS = "document.activeElement.id || document.activeElement.tagName"


def js(script):
    return {"js": script}


def dropped(content, name, kind):
    """A step that drops a file on the page."""
    return js(
        f"(() => {{ const raw = Uint8Array.from(atob('{base64.b64encode(content).decode()}'), c => c.charCodeAt(0));"
        f"const data = new DataTransfer(); data.items.add(new File([raw], '{name}', {{type: '{kind}'}}));"
        "document.dispatchEvent(new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true}));"
        "return true; })()"
    )


def changed(control, value):
    """A step that sets a control as a user would."""
    return js(
        f"(() => {{ const node = document.getElementById('{control}'); node.value = '{value}';"
        "for (const kind of ['input', 'change']) node.dispatchEvent(new Event(kind)); return node.value; })()"
    )


@pytest.fixture(scope="module")
def address(weights):
    with running(weights) as client:
        yield f"http://127.0.0.1:{client.port}/", client


def test_two_models_side_by_side_and_every_control(chromium, address, tmp_path):
    page, client = address
    image = png(noise_image())
    result = chromium(
        page,
        "light",
        {"width": 1300},
        READY,
        dropped(image, "noise.png", "image/png"),
        SHOWN,
        changed("other", "two.pt"),
        {"until": "document.querySelectorAll('.panel').length == 2"},
        changed("conf", "0.6"),
        js("[...document.querySelectorAll('.panel')].map(panel => panel.querySelectorAll('tbody tr').length)"),
        js("[...document.querySelectorAll('.panel svg')].map(svg => svg.querySelectorAll('rect.box').length)"),
        js("document.querySelector('.panel tbody tr').focus() ?? document.querySelectorAll('.panel svg .lit').length"),
        js("csvOf(state.panels[0])[1].split('\\n').length"),
        js(WIDTHS),
        {"grab": str(tmp_path / "wide.png")},
    )
    counts = [
        len(client.json("POST", "/v1/detect", image, model=name, conf=0.6)[1]["detections"])
        for name in ("one.pt", "two.pt")
    ]
    shown, drawn, lit, lines, (scroll, width) = result["answers"][7:12]
    assert min(counts) > 0 and shown == drawn == counts
    assert (lit, lines, scroll) == (1, counts[0] + 2, width)
    assert result["console"] == [] and all(each.startswith((page, "blob:", "data:")) for each in result["requests"])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_window_needs_no_sideways_scrolling_and_texts_stand_out(chromium, address, scheme, tmp_path):
    contrast = (
        "(() => { const lum = color => { const v = color.match(/[\\d.]+/g).slice(0, 3).map(c => c / 255)"
        ".map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4); "
        "return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2]; };"
        "const of = (node) => { let back = node; while (getComputedStyle(back).backgroundColor === 'rgba(0, 0, 0, 0)') "
        "back = back.parentElement; const a = lum(getComputedStyle(node).color), "
        "b = lum(getComputedStyle(back).backgroundColor); return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); };"
        "return Math.min(...[...document.querySelectorAll('h1, p, label, button, a, td, th, legend, output')]"
        ".filter(node => node.offsetParent).map(of)); })()"
    )
    result = chromium(
        address[0],
        scheme,
        {"width": 360},
        READY,
        dropped(png(noise_image()), "noise.png", "image/png"),
        SHOWN,
        js(WIDTHS),
        js(contrast),
        js("getComputedStyle(document.body).backgroundColor"),
        {"grab": str(tmp_path / "narrow.png")},
    )
    (scroll, width), least, background = result["answers"][4:7]
    assert scroll == width <= 360 and least >= 4.5
    assert background == {"light": "rgb(250, 250, 248)", "dark": "rgb(19, 22, 25)"}[scheme]
    assert result["console"] == []


def test_the_keyboard_alone_chooses_a_file_and_moves_every_control(chromium, address, tmp_path):
    (tmp_path / "noise.png").write_bytes(png(noise_image()))
    tab = {"key": "Tab"}
    result = chromium(
        address[0],
        "light",
        {"width": 1200},
        READY,
        {"offer": str(tmp_path / "noise.png")},
        *(tab,) * 4,
        js(FOCUS),
        {"key": "Space"},
        SHOWN,
        *(tab, js(FOCUS)) * 3,
        {"key": "Right"},
        js("[document.getElementById('conf').value, document.querySelector('output[for=conf]').textContent]"),
        js("document.querySelectorAll('.chips button').length > 0"),
    )
    answers = [each for each in result["answers"] if each is not None]
    assert answers[1] == "file" and answers[2] is True
    assert answers[3:6] == ["model", "other", "conf"]
    assert answers[6] == ["0.26", "0.26"] and answers[7] is True and result["console"] == []


def test_a_clip_plays_and_a_wrong_file_is_named(chromium, address, tmp_path):
    clip = write_video(tmp_path / "clip.mp4", frames=8)
    result = chromium(
        address[0],
        "light",
        READY,
        dropped(clip.read_bytes(), "clip.mp4", "video/mp4"),
        {"until": "document.querySelector('video')?.readyState >= 1"},
        js("[document.querySelector('video').videoWidth, state.panels[0].frames.length]"),
        dropped(b"a text", "notes.txt", "text/plain"),
        {"until": "document.getElementById('status').classList.contains('failed')"},
        js("document.getElementById('status').textContent"),
        js("(setLanguage('zh'), document.querySelector('h1').textContent)"),
    )
    assert result["answers"][3] == [160, 8]
    assert result["answers"][6].startswith("the upload is not an image that can be read")
    assert result["answers"][7] == "目标检测"
    assert [each for each in result["console"] if "415" not in each] == []
