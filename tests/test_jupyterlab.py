"""A learner's screen: JupyterLab in a real browser, on a copy of this repository."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("MVAE_DATA") or ROOT / "data")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

pytest.importorskip("playwright", reason="playwright is not installed: pip install -e '.[test]'")
pytest.importorskip("jupyterlab", reason="JupyterLab is not installed: pip install -e '.[teach]'")
pytestmark = pytest.mark.skipif(
    BROWSER is None,
    reason=f"no browser: set CHROMIUM to one, or put one of {', '.join(BROWSERS)} on the PATH",
)

#: Runs in the page: every cell, as "Run All Cells" does. Notes each progress bar that is drawn meanwhile.
RUN_ALL = """() => {
  window.finished = null;
  (async () => {
    const app = window.jupyterapp, panel = app.shell.currentWidget;
    await panel.context.ready; await panel.sessionContext.ready;
    const bars = new Set();
    const watch = new MutationObserver(() => {
      for (const bar of panel.content.node.querySelectorAll('progress'))
        bars.add(bar.parentElement.textContent.trim());
    });
    watch.observe(panel.content.node, {childList: true, subtree: true});
    await app.commands.execute('notebook:run-all-cells');
    await new Promise(done => setTimeout(done, 500));
    watch.disconnect();
    await panel.context.save();
    window.finished = [...bars];
  })();
}"""

#: What can be seen afterwards.
LOOK = """() => {
  const node = window.jupyterapp.shell.currentWidget.content.node;
  const images = [...node.querySelectorAll('img')];
  const levels = [...node.querySelectorAll('.jp-MarkdownCell :is(h1,h2,h3,h4,h5,h6)')].map(h => Number(h.tagName[1]));
  const outputs = [...node.querySelectorAll('.jp-OutputArea-output')];
  return {
    images: images.length,
    broken: images.filter(image => !image.complete || !image.naturalWidth).length,
    without_text: images.filter(image => !(image.getAttribute('alt') || '').trim()).length,
    bars: node.querySelectorAll('progress, .jp-mod-widget, .widget-subarea').length,
    outputs: [...node.querySelectorAll('.jp-CodeCell')].map(
      cell => [...cell.querySelectorAll('.jp-OutputArea-output')].map(output => output.innerText.trim()).join('')),
    math_errors: node.querySelectorAll('mjx-merror').length,
    skipped_levels: levels.filter((level, i) => i && level > levels[i - 1] + 1).length,
    wide: outputs.filter(output => output.scrollWidth > output.clientWidth + 2).map(o => o.innerText.slice(0, 80)),
  };
}"""

TRAINING = """\
from mvae import InteractionsDataModule, MultiVAE, fit, synthetic
data = InteractionsDataModule(synthetic(600, 60, interactions_per_user=10), batch_size=8)
|result = fit(data, MultiVAE(60, [16, 8]), out="made-by-the-test", max_epochs=12)
|print(len(result.epochs), "epochs")
|import matplotlib.pyplot as plt
plt.plot(result.epochs["val_loss"])
plt.show()"""


@dataclass
class Seen:
    """What became of a notebook: its cells as saved, what is seen, the progress bars and the complaints meanwhile."""

    cells: list[dict]
    look: dict[str, Any]
    bars: list[str]
    complaints: list[str]


class Tab:
    """A page in a browser, for one notebook after the other."""

    def __init__(self, root: Path, url: str, page: Any) -> None:
        self.root, self.url, self.page, self.notebook = root, url, page, ""
        self.complaints: list[str] = []
        page.set_default_timeout(120_000)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda message: self.complaints.append(message.text) if message.type == "error" else None)

    def start(self, notebook: str) -> None:
        """Open a notebook and begin to run it."""
        self.notebook = notebook
        self.complaints.clear()
        self.page.goto(f"{self.url}/lab/tree/{notebook}?reset", wait_until="domcontentloaded")
        self.page.wait_for_selector(".jp-NotebookPanel .jp-Notebook .jp-Cell", timeout=60_000)
        self.page.wait_for_function("() => window.jupyterapp?.shell.currentWidget?.sessionContext")
        self.page.evaluate(RUN_ALL)

    def finished(self) -> bool:
        return self.page.evaluate("() => window.finished !== null")

    def look(self) -> Seen:
        """Waits until all cells have run."""
        self.page.wait_for_function("() => window.finished !== null", timeout=300_000)
        cells = json.loads((self.root / self.notebook).read_text(encoding="utf-8"))["cells"]
        return Seen(cells, self.page.evaluate(LOOK), self.page.evaluate("window.finished"), [*self.complaints])

    def close(self) -> None:
        """End the kernel."""
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def copy_of_the_repository(folder: Path) -> Path:
    """Without what is fetched and made; the films are read where they are."""
    folder.mkdir()
    for part in ("mvae", "notebooks", "docs", "scripts"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


@pytest.fixture(scope="module")
def tabs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Tab]]:
    """Two, so that one notebook runs while the other is looked at."""
    from playwright.sync_api import sync_playwright

    scratch = tmp_path_factory.mktemp("lab")
    root = copy_of_the_repository(scratch / "repository")
    settings = scratch / "settings" / "@jupyterlab"
    for plugin, value in (
        ("notebook-extension/tracker", {"windowingMode": "none"}),  # draw every cell, not only those in sight
        ("apputils-extension/notification", {"fetchNews": "false", "checkForUpdates": False}),
    ):
        path = settings / f"{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(value))
    environment = os.environ | {
        "JUPYTERLAB_SETTINGS_DIR": str(scratch / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(scratch / "workspaces"),
        "JUPYTER_CONFIG_DIR": str(scratch / "config"),
        "JUPYTER_RUNTIME_DIR": str(scratch / "runtime"),
        "IPYTHONDIR": str(scratch / "ipython"),
        "PYTHONPATH": str(root),
        "MVAE_DATA": str(DATA),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    port = free_port()
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"]
    command += ["--ServerApp.port_retries=0", "--IdentityProvider.token=", "--LabApp.expose_app_in_browser=True"]
    log = scratch / "jupyterlab.log"
    with log.open("w") as output:
        server = subprocess.Popen(command, cwd=root, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_for(server, port, log)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=BROWSER, headless=True, args=FLAGS)
            pages = [browser.new_page(viewport={"width": 1280, "height": 900}) for _ in range(2)]
            yield [Tab(root, f"http://127.0.0.1:{port}", page) for page in pages]
            browser.close()
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()


def wait_for(server: subprocess.Popen, port: int, log: Path) -> None:
    for _ in range(300):
        if server.poll() is not None:
            break
        try:
            connection = HTTPConnection("127.0.0.1", port, timeout=1)
            connection.request("GET", "/api")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


def errors(cells: list[dict]) -> list[str]:
    outputs = [output for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]]
    return [f"{o['ename']}: {o['evalue']}" for o in outputs if o["output_type"] == "error"]


def notebook_of(*sources: str) -> dict:
    cells = [
        {"id": f"c{i}", "cell_type": "code", "metadata": {}, "source": s, "execution_count": None, "outputs": []}
        for i, s in enumerate(sources)
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": kernel}, "cells": cells}


def test_a_bar_moves_while_training_runs_and_nothing_of_it_is_left(tabs: list[Tab]) -> None:
    tab = tabs[0]
    (tab.root / "notebooks" / "training.ipynb").write_text(json.dumps(notebook_of(*TRAINING.split("|"))))
    tab.start("notebooks/training.ipynb")
    seen = tab.look()
    tab.close()
    assert errors(seen.cells) == []
    assert len(seen.bars) > 1
    assert all(bar.startswith("epoch ") and "/12 · loss " in bar for bar in seen.bars)
    assert seen.look["bars"] == 0
    assert seen.look["outputs"][:3] == ["", "", "12 epochs"]
    (left,) = seen.cells[1]["outputs"]
    assert {kind: "".join(text) for kind, text in left["data"].items()} == {"text/plain": ""}
    assert (seen.look["images"], seen.look["broken"]) == (1, 0)
    assert seen.complaints == []


NOTEBOOKS = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "notebooks").rglob("[0-9c]*.ipynb"))]


def press(tab: Tab, element: str) -> tuple[str, str]:
    """What is seen of a piece before and after a key is pressed on a part of it."""
    piece = tab.page.locator(element.partition(" ")[0]).first
    part = tab.page.locator(element).first
    said = piece.locator(".mvae-status").first if piece.locator(".mvae-status").count() else piece
    before = said.inner_text()
    part.focus()
    part.press("ArrowRight" if "input" in element else "Enter")
    return before, said.inner_text()


#: Notebook → what is tried in it with the keyboard.
MOVING = {
    "notebooks/02_train.ipynb": [".mvae-beta input[type=range]"],
    "notebooks/03_save.ipynb": [".mvae-kept-files input[type=range]"],
    "notebooks/04_dissect.ipynb": [
        ".mvae-pickle-steps button:has-text('Next')",
        ".mvae-bit-flip input[type=range]",
        ".mvae-byte-map input[type=range]",
        ".mvae-ckpt details:not([open]) > summary",  # unfolds a part of the tree
    ],
}


@dataclass
class Tried:
    """A notebook that ran in a tab, and what was tried in it afterwards."""

    seen: Seen
    moved: dict[str, tuple[str, str]]


@pytest.fixture(scope="module")
def tried(tabs: list[Tab]) -> dict[str, Tried]:
    """Every lesson and every exercise, run from top to bottom: two at a time."""
    results: dict[str, Tried] = {}
    waiting, busy = list(NOTEBOOKS), []
    free = list(tabs)
    while waiting or busy:
        while free and waiting:
            busy.append(free.pop())
            busy[-1].start(waiting.pop(0))
        time.sleep(0.2)
        for tab in [tab for tab in busy if tab.finished()]:
            seen = tab.look()
            results[tab.notebook] = Tried(seen, {part: press(tab, part) for part in MOVING.get(tab.notebook, [])})
            tab.close()
            busy.remove(tab)
            free.append(tab)
    return results


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_a_notebook_runs_from_top_to_bottom_and_can_be_looked_at(tried: dict[str, Tried], notebook: str) -> None:
    seen = tried[notebook].seen
    code = [cell for cell in seen.cells if cell["cell_type"] == "code"]
    assert errors([cell for cell in code if "raises-exception" not in cell["metadata"].get("tags", [])]) == []
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    wrong = ("broken", "without_text", "bars", "math_errors", "skipped_levels")
    assert {name: seen.look[name] for name in wrong} == dict.fromkeys(wrong, 0)
    assert seen.look["wide"] == []
    assert seen.complaints == []


@pytest.mark.parametrize("notebook", MOVING)
def test_what_moves_moves_by_the_keyboard(tried: dict[str, Tried], notebook: str) -> None:
    for part, (before, after) in tried[notebook].moved.items():
        assert before != after, part
        assert after, part
