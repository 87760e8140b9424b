"""Chromium without a window, for tests of pages: run as a program, in a process of its own.

    python tests/browser.py PAGE light|dark < steps.json > result.json

PAGE is a file, or an address of this machine. Steps are done in order: {"width": 360}, {"js": "..."}, {"until": "..."}
(waits for an expression to be true), {"offer": "x.jpg"} (what the next question for a file is answered with),
{"key": "Enter"}, {"grab": "x.png"} (the whole page) and {"pdf": "x.pdf"}. The result has the answer of each step, the
console's messages and every address that was requested.
Chromium comes with PySide6's QtWebEngine (requirements-browser.txt)."""

import json
import os
import sys
from pathlib import Path

TIMEOUT_MS, LAYOUT_MS, PAINT_MS = 20_000, 120, 2000
HEIGHT, TALLEST = 900, 16_000
LOCAL = "http://127.0.0.1:"


def configure(scheme: str) -> None:
    """Set Chromium's options before it is loaded: no screen, no GPU, no sandbox (containers have none), the scheme."""
    preferred = 0 if scheme == "dark" else 1
    os.environ.update(QT_QPA_PLATFORM="offscreen", QT_QUICK_BACKEND="software", QTWEBENGINE_DISABLE_SANDBOX="1")
    os.environ["QTWEBENGINE_CHROMIUM_FLAGS"] = (
        f"--no-sandbox --disable-gpu --hide-scrollbars --blink-settings=preferredColorScheme={preferred}"
    )


class Browser:
    """One window.

    Attributes:
        console: Messages of the pages.
        requests: Every address that was requested; only files and this machine's pages are let through.
    """

    def __init__(self) -> None:
        from PySide6.QtCore import QObject
        from PySide6.QtWebEngineCore import QWebEngineProfile, QWebEngineSettings
        from PySide6.QtWebEngineWidgets import QWebEngineView
        from PySide6.QtWidgets import QApplication

        self.application, self.console, self.requests = QApplication(sys.argv[:1]), [], []
        self.offered: list[str] = []
        self.owner = QObject()
        profile, self.listener = QWebEngineProfile(self.owner), listener(self.requests, self.owner)
        profile.setUrlRequestInterceptor(self.listener)
        self.view = QWebEngineView()
        self.view.setPage(logging_page(self.console, self.offered, profile, self.view))
        self.view.settings().setAttribute(
            QWebEngineSettings.WebAttribute.LocalContentCanAccessRemoteUrls, True
        )  # to see it try
        self.width(1400)
        self.view.show()

    def open(self, page: str) -> bool:
        from PySide6.QtCore import QUrl

        return self._call_back(
            lambda done: (
                self.view.loadFinished.connect(done),
                self.view.load(QUrl(page) if page.startswith(LOCAL) else QUrl.fromLocalFile(page)),
            )
        ) == [True]

    def width(self, width: int, height: int = HEIGHT) -> None:
        """Resize the window.

        Args:
            width: In pixels.
            height: In pixels.
        """
        self.view.resize(width, height)
        self._pause()

    def js(self, script: str):
        """Return the value of an expression, by way of JSON."""
        text = self._call_back(lambda done: self.view.page().runJavaScript(f"JSON.stringify({script})", done))
        return json.loads(text[0]) if text and text[0] else None

    def until(self, script: str) -> bool:
        """Return whether an expression becomes true in time."""
        for _ in range(TIMEOUT_MS // LAYOUT_MS):
            if self.js(f"Boolean({script})"):
                return True
            self._pause()
        return False

    def offer(self, file: str) -> None:
        """Let the next question for a file be answered by this one."""
        self.offered[:] = [file]

    def key(self, key: str) -> None:
        from PySide6.QtCore import Qt
        from PySide6.QtTest import QTest

        QTest.keyClick(self.view.focusProxy(), Qt.Key[f"Key_{key}"])
        self._pause()

    def grab(self, file: str) -> bool:
        width = self.view.width()
        self.width(width, min(int(self.js("document.documentElement.scrollHeight")), TALLEST))
        self._pause(PAINT_MS)
        saved = self.view.grab().save(file)
        self.width(width)
        return saved

    def pdf(self, file: str) -> bool:
        page = self.view.page()
        self._call_back(lambda done: (page.pdfPrintingFinished.connect(lambda *_: done(True)), page.printToPdf(file)))
        return Path(file).is_file()

    def _pause(self, milliseconds: int = LAYOUT_MS) -> None:
        from PySide6.QtTest import QTest

        QTest.qWait(milliseconds)

    def _call_back(self, start) -> list:
        """Run the event loop until the callback passed to `start` is called; return its arguments, [] if it is not."""
        from PySide6.QtCore import QEventLoop, QTimer

        loop, got = QEventLoop(), []
        QTimer.singleShot(TIMEOUT_MS, loop.quit)
        start(lambda *values: (got.extend(values), loop.quit()))
        if not got:
            loop.exec()
        return got


def listener(requests: list[str], owner):
    """Return an interceptor that records requests and blocks those to a network.

    Args:
        requests: Where addresses are appended.
        owner: Qt object that owns it.

    Returns:
        The interceptor.
    """
    from PySide6.QtWebEngineCore import QWebEngineUrlRequestInterceptor

    class Listener(QWebEngineUrlRequestInterceptor):
        def interceptRequest(self, request):
            requests.append(request.requestUrl().toString()[:200])
            address = request.requestUrl().toString()
            request.block(not address.startswith(("file:", "data:", "blob:", LOCAL)))

    return Listener(owner)


def logging_page(console: list[str], offered: list[str], profile, view):
    """Return a page that records its console messages.

    Args:
        console: Where messages are appended.
        offered: The files that its questions for files are answered with.
        profile: The page's profile.
        view: The widget that shows it.

    Returns:
        The page.
    """
    from PySide6.QtWebEngineCore import QWebEnginePage

    class Page(QWebEnginePage):
        def javaScriptConsoleMessage(self, level, message, line, source):
            console.append(f"{level.name}: {message} (line {line})")

        def chooseFiles(self, mode, old, kinds):
            return list(offered)

    return Page(profile, view)


def visit(page: str, steps: list[dict]) -> dict:
    """Open a page and do the steps.

    Args:
        page: Path of a file, or an address.
        steps: The name of an action and its argument, one pair per step.

    Returns:
        "loaded", "answers", "console" and "requests".
    """
    browser = Browser()
    loaded = browser.open(page)
    browser._pause()
    names = ("width", "js", "until", "offer", "key", "grab", "pdf")
    actions = {name: getattr(browser, name) for name in names}
    answers = [actions[name](value) for step in steps for name, value in step.items()]
    browser.application.processEvents()
    return {"loaded": loaded, "answers": answers, "console": browser.console, "requests": browser.requests}


if __name__ == "__main__":
    configure(sys.argv[2])
    where = sys.argv[1] if sys.argv[1].startswith(LOCAL) else str(Path(sys.argv[1]).resolve())
    json.dump(visit(where, json.load(sys.stdin)), sys.stdout)
    sys.stdout.flush()
    os._exit(0)  # Qt's own end may hang without a screen; everything is written
