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
RUN_ALL = """async () => {
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
  return [...bars];
}"""

#: What can be seen afterwards.
LOOK = """() => {
  const node = window.jupyterapp.shell.currentWidget.content.node;
  const images = [...node.querySelectorAll('img')];
  return {
    images: images.length,
    broken: images.filter(image => !image.complete || !image.naturalWidth).length,
    bars: node.querySelectorAll('progress, .jp-mod-widget, .widget-subarea').length,
    outputs: [...node.querySelectorAll('.jp-CodeCell')].map(
      cell => [...cell.querySelectorAll('.jp-OutputArea-output')].map(output => output.innerText.trim()).join('')),
    math_errors: node.querySelectorAll('mjx-merror').length,
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


class Lab:
    """A running JupyterLab and a page in a browser."""

    def __init__(self, root: Path, url: str, page: Any) -> None:
        self.root, self.url, self.page = root, url, page
        self.complaints: list[str] = []
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def run(self, notebook: str) -> tuple[list[dict], dict, list[str]]:
        """Opens a notebook and runs it: the cells as saved, what is seen, and the progress bars seen meanwhile."""
        self.page.goto(f"{self.url}/lab/tree/{notebook}?reset", wait_until="domcontentloaded")
        self.page.wait_for_selector(".jp-NotebookPanel .jp-Notebook .jp-Cell", timeout=60_000)
        self.page.wait_for_function("() => window.jupyterapp?.shell.currentWidget?.sessionContext")
        bars = self.page.evaluate(RUN_ALL)
        seen = self.page.evaluate(LOOK)
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
        return json.loads((self.root / notebook).read_text(encoding="utf-8"))["cells"], seen, bars


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def copy_of_the_repository(folder: Path) -> Path:
    """Without what is fetched and made; the films are read where they are."""
    folder.mkdir()
    for part in ("mvae", "notebooks"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
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
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.set_default_timeout(120_000)
            yield Lab(root, f"http://127.0.0.1:{port}", page)
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


def test_a_bar_moves_while_training_runs_and_nothing_of_it_is_left(lab: Lab) -> None:
    (lab.root / "notebooks" / "training.ipynb").write_text(json.dumps(notebook_of(*TRAINING.split("|"))))
    cells, seen, bars = lab.run("notebooks/training.ipynb")
    assert errors(cells) == []
    assert len(bars) > 1
    assert all(bar.startswith("epoch ") and "/12 · loss " in bar for bar in bars)
    assert seen["bars"] == 0
    assert seen["outputs"][:3] == ["", "", "12 epochs"]
    (left,) = cells[1]["outputs"]
    assert {kind: "".join(text) for kind, text in left["data"].items()} == {"text/plain": ""}
    assert (seen["images"], seen["broken"]) == (1, 0)
    assert lab.complaints == []


def test_lesson_one_runs_from_top_to_bottom(lab: Lab) -> None:
    cells, seen, _ = lab.run("notebooks/01_build.ipynb")
    assert errors(cells) == []
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert seen["images"] > 0
    assert (seen["broken"], seen["bars"], seen["math_errors"]) == (0, 0, 0)
    assert lab.complaints == []
