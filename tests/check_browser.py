"""Every notebook in a real browser: opened by ``./run_all.sh lab``, restarted, all cells run.

``python tests/check_browser.py FOLDER [05 06 ...]`` puts a screenshot of each notebook (named by
its number; without numbers, all) into FOLDER and prints what a reader would stumble over; exit code
1 if there is anything. It needs a demo run (``./run_all.sh``), Chromium, and
``pip install playwright`` in any Python: this file imports nothing else.
"""

import argparse
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Error, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 3600  # the longest notebook may take so long where nothing is stored
# Else cells outside the window are not in the page.
ALL_CELLS = (
    "@jupyterlab/notebook-extension:tracker",
    {"windowingMode": "none", "scrollPastEnd": False},
)
PROMPTS = "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(e => e.innerText)"
RUNNING = f"{PROMPTS}.some(text => text.includes('*'))"
FAULTS = """async () => {
  const all = query => [...document.querySelectorAll(`.jp-Notebook ${query}`)];
  const found = [], said = (what, part) => found.push(`${what}: ${part.innerText.slice(0, 300)}`);
  const seen = part => part.getBoundingClientRect().height > 5 && part.checkVisibility();
  for (const kind of ['error', 'stderr'])
    all(`[data-mime-type="application/vnd.jupyter.${kind}"]`)
      .forEach(e => said('error or warning', e));
  all('[data-mime-type="text/plain"]').filter(e => /^<.*>$/s.test(e.innerText.trim()))
    .forEach(e => said('shown as text only', e));
  all('.jp-OutputArea-output').filter(e => /(Error displaying|Loading) widget/.test(e.innerText))
    .forEach(e => said('widget', e));
  all('.jp-OutputArea-output img').filter(e => !e.naturalWidth || !seen(e))
    .forEach(e => found.push(`picture not seen: ${e.src.slice(0, 40)}`));
  for (const e of all('audio')) {
    e.load();
    const ends = ['loadedmetadata', 'error'].map(n => new Promise(r => e.addEventListener(n, r)));
    await Promise.race([...ends, new Promise(r => setTimeout(r, 5000))]);
    if (!(e.duration > 0.5) || !seen(e)) found.push(`player not seen: ${e.outerHTML.slice(0, 80)}`);
  }
  const prompts = all('.jp-CodeCell .jp-InputPrompt').map(e => e.innerText);
  const idle = prompts.filter(text => !/[0-9]/.test(text)).length;
  if (idle || !prompts.length) found.push(`${idle} of ${prompts.length} cells did not run`);
  return found;
}"""
COUNTS = """() => ['.jp-CodeCell', '.jp-OutputArea-output img', 'audio', '.jupyter-widgets']
  .map(query => document.querySelectorAll(`.jp-Notebook ${query}`).length)"""
PANEL = "document.querySelector('.jp-WindowedPanel-outer')"


@contextmanager
def lab(settings):
    """Start JupyterLab as a reader does; yield its address and its token.

    ``settings`` is a folder for its settings: the reader's stay.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(8)
    command = [str(ROOT / "run_all.sh"), "lab", "--no-browser", "--port", str(port)]
    command += [f"--IdentityProvider.token={token}", f"--LabApp.user_settings_dir={settings}"]
    command += ["--allow-root"] * (os.geteuid() == 0)
    server = subprocess.Popen(command)
    try:
        address = f"http://127.0.0.1:{port}"
        while server.poll() is None:
            try:
                ask(f"{address}/api/status", token)
                break
            except OSError:
                time.sleep(0.5)
        else:
            sys.exit("JupyterLab did not start")
        yield address, token
    finally:
        server.terminate()  # it ends its kernels
        server.wait(30)


def ask(url, token, value=None):
    """Send a request to JupyterLab, with a value to put if there is one."""
    data = None if value is None else json.dumps(value).encode()
    request = urllib.request.Request(url, data, {"Authorization": f"token {token}"})
    request.method = "PUT" if data else "GET"
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read()


def check(page, url, picture):
    """Run a notebook as a reader does; return what is wrong with it, and how much was looked at."""
    page.set_viewport_size({"width": 1300, "height": 900})
    page.goto(url)
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for(timeout=60_000)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=60_000)
    page.screenshot(path=picture.with_stem(f"{picture.stem}-opened"))
    page.get_by_role("menuitem", name="Kernel", exact=True).click()
    page.get_by_role("menuitem", name="Restart Kernel and Run All Cells").click()
    page.locator(".jp-Dialog .jp-mod-accept").click()
    page.wait_for_function(RUNNING, timeout=60_000)
    page.wait_for_function(f"!{RUNNING}", timeout=1000 * SECONDS)
    time.sleep(2)  # for the last outputs
    height = min(
        page.evaluate(f"{PANEL}.scrollHeight") + 200, 16_000
    )  # the most that Chromium paints
    page.set_viewport_size({"width": 1300, "height": height})
    page.evaluate(f"{PANEL}.scrollTop = 0")
    faults = page.evaluate(FAULTS)
    page.screenshot(path=picture)
    return faults, page.evaluate(COUNTS)


def main():
    """Check the notebooks that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("numbers", nargs="*")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    paths = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    names = [path.name for path in paths if not asked.numbers or path.name[:2] in asked.numbers]
    wrong = 0
    with (
        tempfile.TemporaryDirectory() as settings,
        lab(settings) as (address, token),
        sync_playwright() as tools,
    ):
        name, value = ALL_CELLS
        ask(f"{address}/lab/api/settings/{name}", token, {"raw": json.dumps(value)})
        browser = tools.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"] * (os.geteuid() == 0)
        )
        for name in names:
            page, start = browser.new_page(), time.monotonic()
            url = f"{address}/lab/tree/{name}?token={token}&reset"
            try:
                faults, counts = check(page, url, asked.folder / f"{name[:2]}.png")
            except Error as error:  # a click or a wait that led nowhere
                page.screenshot(path=asked.folder / f"{name[:2]}-stuck.png")
                faults, counts = [str(error).splitlines()[0]], [0] * 4
            page.close()
            looked = zip(counts, ("cells", "pictures", "players", "widgets"), strict=True)
            looked = ", ".join(f"{n} {what}" for n, what in looked)
            spent = time.monotonic() - start
            print(f"{name}: {looked}, {spent:.0f} s, {len(faults)} faults")
            print("".join(f"  {fault}\n" for fault in faults), end="", flush=True)
            wrong += bool(faults)
        browser.close()
    return int(wrong > 0 or not names)


if __name__ == "__main__":
    sys.exit(main())
