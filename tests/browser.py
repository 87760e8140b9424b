"""Chromium without a window, for pages that tests look at: run as a program by tests, in a process of its own.

    python tests/browser.py PAGE light|dark < steps.json > result.json

Steps are done in order: {"width": 360}, {"js": "..."}, {"key": "Enter"}, {"grab": "x.png"} (the whole page), {"pdf": "x.pdf"}.
The result holds what each step answered, the console's messages and every address that was asked for.
Chromium comes with PySide6's QtWebEngine (requirements-browser.txt)."""

import json
import os
import sys
from pathlib import Path

PATIENCE_MS, SETTLING_MS, PAINTING_MS = 20_000, 120, 2000
HEIGHT, TALLEST = 900, 16_000


def configure(scheme: str) -> None:
    """Say how Chromium is to run, before it is loaded: no screen, no GPU, no sandbox (containers have none), that scheme."""
    os.environ.update(QT_QPA_PLATFORM="offscreen", QT_QUICK_BACKEND="software", QTWEBENGINE_DISABLE_SANDBOX="1")
    os.environ["QTWEBENGINE_CHROMIUM_FLAGS"] = (
        f"--no-sandbox --disable-gpu --hide-scrollbars --blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}"
    )


class Browser:
    """One window. console: what pages said; requests: every address that was asked for (only files are let through)."""

    def __init__(self) -> None:
        from PySide6.QtCore import QObject
        from PySide6.QtWebEngineCore import QWebEngineProfile, QWebEngineSettings
        from PySide6.QtWebEngineWidgets import QWebEngineView
        from PySide6.QtWidgets import QApplication

        self.application, self.console, self.requests = QApplication(sys.argv[:1]), [], []
        self.owner = QObject()
        profile, self.listener = QWebEngineProfile(self.owner), listener(self.requests, self.owner)
        profile.setUrlRequestInterceptor(self.listener)
        self.view = QWebEngineView()
        self.view.setPage(speaking_page(self.console, profile, self.view))
        self.view.settings().setAttribute(
            QWebEngineSettings.WebAttribute.LocalContentCanAccessRemoteUrls, True
        )  # to see it try
        self.width(1400)
        self.view.show()

    def open(self, page: str) -> bool:
        from PySide6.QtCore import QUrl

        return self._wait(
            lambda done: (self.view.loadFinished.connect(done), self.view.load(QUrl.fromLocalFile(page)))
        ) == [True]

    def width(self, width: int, height: int = HEIGHT) -> None:
        self.view.resize(width, height)
        self._settle()

    def js(self, script: str):
        """Return what an expression is, by way of JSON."""
        text = self._wait(lambda done: self.view.page().runJavaScript(f"JSON.stringify({script})", done))
        return json.loads(text[0]) if text and text[0] else None

    def key(self, key: str) -> None:
        from PySide6.QtCore import Qt
        from PySide6.QtTest import QTest

        QTest.keyClick(self.view.focusProxy(), getattr(Qt.Key, f"Key_{key}"))
        self._settle()

    def grab(self, file: str) -> bool:
        width = self.view.width()
        self.width(width, min(int(self.js("document.documentElement.scrollHeight")), TALLEST))
        self._settle(PAINTING_MS)
        saved = self.view.grab().save(file)
        self.width(width)
        return saved

    def pdf(self, file: str) -> bool:
        page = self.view.page()
        self._wait(lambda done: (page.pdfPrintingFinished.connect(lambda *_: done(True)), page.printToPdf(file)))
        return Path(file).is_file()

    def _settle(self, milliseconds: int = SETTLING_MS) -> None:
        from PySide6.QtTest import QTest

        QTest.qWait(milliseconds)

    def _wait(self, start) -> list:
        """Run the event loop until the callback that `start` is given was called; return what with, [] if it never was."""
        from PySide6.QtCore import QEventLoop, QTimer

        loop, got = QEventLoop(), []
        QTimer.singleShot(PATIENCE_MS, loop.quit)
        start(lambda *values: (got.extend(values), loop.quit()))
        if not got:
            loop.exec()
        return got


def listener(requests: list[str], owner):
    from PySide6.QtWebEngineCore import QWebEngineUrlRequestInterceptor

    class Listener(QWebEngineUrlRequestInterceptor):
        def interceptRequest(self, request):
            requests.append(request.requestUrl().toString()[:200])
            request.block(request.requestUrl().scheme() not in ("file", "data"))

    return Listener(owner)


def speaking_page(console: list[str], profile, view):
    from PySide6.QtWebEngineCore import QWebEnginePage

    class Page(QWebEnginePage):
        def javaScriptConsoleMessage(self, level, message, line, source):
            console.append(f"{level.name}: {message} (line {line})")

    return Page(profile, view)


def visit(page: str, steps: list[dict]) -> dict:
    """Open a file, do the steps, and return {"loaded", "answers", "console", "requests"}."""
    browser = Browser()
    loaded = browser.open(page)
    browser._settle()
    answers = [getattr(browser, name)(value) for step in steps for name, value in step.items()]
    browser.application.processEvents()
    return {"loaded": loaded, "answers": answers, "console": browser.console, "requests": browser.requests}


if __name__ == "__main__":
    configure(sys.argv[2])
    json.dump(visit(str(Path(sys.argv[1]).resolve()), json.load(sys.stdin)), sys.stdout)
    sys.stdout.flush()
    os._exit(0)  # Qt's own end may hang without a screen; everything is written
