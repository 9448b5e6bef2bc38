"""A script of a visitor in headless Chromium, as a command: types, searches, plays, downloads.

    python tests/serve/browser.py http://127.0.0.1:8000 [--axe axe.min.js] [--pictures FOLDER]

Prints one JSON object: what was seen, errors of the console, and what axe finds wrong.
"""

import argparse
import json
import shutil
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
VIEWS = {
    "desktop-light": ((1280, 1000), "light"),
    "desktop-dark": ((1280, 1000), "dark"),
    "phone": ((390, 844), "light"),
}
TEXT = "the river was quiet until the rain began"


def until(page: Page, condition: str, seconds: float) -> None:
    """Asks again and again: the page's policy forbids playwright's own waiting, which evaluates."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        time.sleep(0.05)


def visit(page: Page, address: str, candidates: int, seconds: float) -> dict:
    """Types and searches with the keyboard alone, hears a take, and takes the file along."""
    page.goto(address)
    until(page, "document.querySelectorAll('#voice option').length > 0", seconds)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "text"
    page.keyboard.press("Control+a")
    page.keyboard.type(TEXT)
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.type(str(candidates))
    page.keyboard.press("Enter")
    page.wait_for_selector(".take", timeout=1000 * seconds)  # the first of them
    page.wait_for_selector("#download", timeout=1000 * seconds)
    page.locator(".take button").first.click()
    until(page, "Boolean(player && player.currentTime > 0.1)", seconds)
    with page.expect_download() as download:
        page.locator("#download").click()
    file = Path(download.value.path()).read_bytes()
    drawn = """[...document.querySelectorAll('canvas')].every(c =>
        c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(x => x > 0))"""
    return {
        "takes": page.locator(".take").count(),
        "kept": page.locator(".take.kept").count(),
        "curves": page.locator("canvas.curve").count(),
        "drawn": page.evaluate(drawn),
        "status": page.locator("#status").inner_text(),
        "file": download.value.suggested_filename,
        "bytes": len(file),
        "head": file[:4].decode("latin-1"),
    }


def record(page: Page, seconds: float) -> dict:
    """Records from the (pretended) microphone; without consent it is refused."""
    page.locator("#own summary").click()
    page.locator("#record").click()
    time.sleep(2)
    page.locator("#record").click()
    page.wait_for_selector("#sample:not([hidden])", timeout=1000 * seconds)
    page.locator("#said").fill("beep beep")
    page.locator("#speak").click()
    page.wait_for_selector("#status.bad", timeout=1000 * seconds)
    return {"without_consent": page.locator("#status").inner_text()}


def wrong(page: Page, axe: Path) -> list[str]:
    """What axe finds."""
    page.evaluate(axe.read_text())
    found = page.evaluate("axe.run()")
    return [
        f"{one['id']}: {node['html'][:120]}" for one in found["violations"] for node in one["nodes"]
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("--axe", type=Path)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--candidates", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=120, help="to wait for a search")
    options = parser.parse_args()
    result: dict = {"console": [], "axe": {}}
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for name, ((width, height), scheme) in VIEWS.items():
            context = browser.new_context(
                viewport={"width": width, "height": height},
                color_scheme=scheme,
                permissions=["microphone"],
                accept_downloads=True,
            )
            page = context.new_page()
            page.on("pageerror", lambda error: result["console"].append(str(error)))
            page.on(
                "console",
                lambda message: (
                    message.type in ("error", "warning") and result["console"].append(message.text)
                ),
            )
            result[name] = visit(page, options.address, options.candidates, options.seconds)
            overflow = "document.documentElement.scrollWidth - window.innerWidth"
            result[name]["overflow"] = page.evaluate(overflow)
            if options.pictures:
                options.pictures.mkdir(parents=True, exist_ok=True)
                page.screenshot(path=options.pictures / f"serve-{name}.png", full_page=True)
            if options.axe:
                result["axe"][name] = wrong(page, options.axe)
            if name == "phone":
                errors = list(result["console"])
                result[name] |= record(page, options.seconds)
                # The browser itself reports the refusal as an error of the network.
                result["console"] = errors + [
                    one for one in result["console"][len(errors) :] if "status of 400" not in one
                ]
            context.close()
        browser.close()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
