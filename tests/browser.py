"""Chromium without a window, for pages that tests look at: run as a program by tests, in a process of its own.

    python tests/browser.py PAGE light|dark < steps.json > result.json

Steps are done in order: {"width": 360}, {"js": "..."}, {"key": "Enter"}, {"grab": "x.png"} (the whole page), {"pdf": "x.pdf"}.
The result holds what each step answered, the console's messages and every address that was asked for.
Chromium comes with PySide6's QtWebEngine (requirements-dev.txt)."""

import json
import os
import sys
from pathlib import Path

PATIENCE_MS, SETTLING_MS = 20_000, 120
HEIGHT, TALLEST = 900, 16_000


def configure(scheme: str) -> None:
    """Say how Chromium is to run before it is loaded: no screen, no GPU, no sandbox (containers have none), that colour scheme."""
    os.environ.update(QT_QPA_PLATFORM="offscreen", QT_QUICK_BACKEND="software", QTWEBENGINE_DISABLE_SANDBOX="1")
    os.environ["QTWEBENGINE_CHROMIUM_FLAGS"] = (
        f"--no-sandbox --disable-gpu --hide-scrollbars --blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}")


def visit(page: str, steps: list[dict]) -> dict:
    """Open a file, do the steps, and return {"loaded", "answers", "console", "requests"}."""
    from PySide6.QtCore import QEventLoop, QObject, Qt, QTimer, QUrl
    from PySide6.QtTest import QTest
    from PySide6.QtWebEngineCore import QWebEnginePage, QWebEngineProfile, QWebEngineUrlRequestInterceptor
    from PySide6.QtWebEngineWidgets import QWebEngineView
    from PySide6.QtWidgets import QApplication

    application = QApplication(sys.argv[:1])
    console, requests = [], []

    class Page(QWebEnginePage):
        def javaScriptConsoleMessage(self, level, message, line, source):
            console.append(f"{level.name}: {message} (line {line})")

    class Listener(QWebEngineUrlRequestInterceptor):
        def interceptRequest(self, request):
            requests.append(request.requestUrl().toString()[:200])

    def wait(start, *answers) -> list:
        """Run the event loop until `start`'s callback is called; answers take the place of what never comes."""
        loop, got = QEventLoop(), []
        QTimer.singleShot(PATIENCE_MS, loop.quit)
        start(lambda *values: (got.extend(values), loop.quit()))
        if not got:
            loop.exec()
        return got or list(answers)

    def settle() -> None:
        QTest.qWait(SETTLING_MS)

    def run(script: str):
        text, = wait(lambda done: view.page().runJavaScript(f"JSON.stringify({script})", done), None)
        return json.loads(text) if text else None

    def resize(width: int, height: int = HEIGHT) -> None:
        view.resize(width, height)
        settle()

    def press(key: str) -> None:
        QTest.keyClick(view.focusProxy(), getattr(Qt.Key, f"Key_{key}"))
        settle()

    def grab(file: str) -> bool:
        width = view.width()
        resize(width, min(int(run("document.documentElement.scrollHeight")), TALLEST))
        QTest.qWait(4 * SETTLING_MS)
        saved = view.grab().save(file)
        resize(width)
        return saved

    def pdf(file: str) -> bool:
        wait(lambda done: (view.page().pdfPrintingFinished.connect(lambda path, fine: done(fine)), view.page().printToPdf(file)))
        return Path(file).is_file()

    keep = QObject()
    profile, listener = QWebEngineProfile(keep), Listener(keep)
    profile.setUrlRequestInterceptor(listener)
    view = QWebEngineView()
    view.setPage(Page(profile, view))
    view.resize(1400, HEIGHT)
    view.show()
    loaded = wait(lambda done: (view.loadFinished.connect(done), view.load(QUrl.fromLocalFile(page))), False)[0]
    settle()
    doing = {"width": resize, "js": run, "key": press, "grab": grab, "pdf": pdf}
    answers = [doing[name](value) for step in steps for name, value in step.items()]
    application.processEvents()
    return {"loaded": loaded, "answers": answers, "console": console, "requests": requests}


if __name__ == "__main__":
    configure(sys.argv[2])
    json.dump(visit(str(Path(sys.argv[1]).resolve()), json.load(sys.stdin)), sys.stdout)
    sys.stdout.flush()
    os._exit(0)  # Qt's own end may hang without a screen; everything is written
