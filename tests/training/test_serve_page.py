"""The chat page in a real browser: ask, stream, stop, edit, retry, clear, reload, at two widths."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_serve import Server, running, until

pytest.importorskip("uvicorn", reason="the extra `serve`")
sync_api = pytest.importorskip("playwright.sync_api", reason="drives the browser")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
#: Where screenshots go, if somebody wants to look at them.
SHOTS = os.environ.get("ZHUZI_SCREENSHOTS")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome")


@pytest.fixture(scope="module")
def server(
    make_model: Callable[..., Path], new_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """With a model that is slow enough to be stopped."""
    shape = {"num_hidden_layers": 16, "max_position_embeddings": 512}
    model = make_model(tmp_path_factory.mktemp("slow") / "m", rows=410, tokenizer=new_tokenizer, **shape)
    with running(model, "--web", "--temperature", "1.5", "--top-k", "0", "--top-p", "1") as held:
        yield held


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=[1200, 390])
def page(request: pytest.FixtureRequest, browser: Any, server: Server) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": request.param, "height": 800}, locale="en-US")
    page = context.new_page()
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("console", lambda message: message.type == "error" and page.errors.append(message.text))
    page.on("request", lambda asked: asked.url.startswith(server.url) or page.errors.append(asked.url))
    page.goto(server.url + "/")
    yield page
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "wider than the screen"
    assert page.errors == []
    context.close()


def shoot(page: Any, name: str) -> None:
    if not SHOTS:
        return
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        page.screenshot(path=f"{SHOTS}/{name}-{page.viewport_size['width']}-{scheme}.png")


def done(page: Any) -> None:
    page.wait_for_selector("#send:visible", timeout=20_000)


def said(page: Any, role: str) -> list[str]:
    return page.locator(f".turn.{role} .said").all_text_contents()


def test_a_conversation(page: Any, server: Server) -> None:
    page.locator("#settings summary").click()
    page.locator("#seed").fill("5")
    page.locator("#max_tokens").fill("12")
    page.locator("#turns").uncheck()  # two prompts are longer than the positions of this model
    shoot(page, "settings")
    page.locator("#settings summary").click()
    page.locator("#text").fill("你好 <b>世界</b>")
    page.keyboard.press("Enter")
    done(page)
    (question,), (answer,) = said(page, "user"), said(page, "assistant")
    assert question == "你好 <b>世界</b>" and answer
    asked = [{"role": "user", "content": question}]
    wanted = server.chat(messages=asked, seed=5, max_tokens=12, temperature=1.5, top_p=1,
                         extra_body={"top_k": 0}).choices[0].message.content  # fmt: skip
    assert answer == wanted
    assert re.search(r"\d+ tokens", page.locator(".assistant .under").inner_text())
    shoot(page, "answered")
    page.get_by_role("button", name="Retry").click()
    done(page)
    assert said(page, "assistant") == [wanted]  # the seed repeats it
    page.locator("#text").fill("第二个问题")
    page.locator("#send").click()
    done(page)
    assert len(said(page, "assistant")) == 2
    page.reload()
    assert len(said(page, "user")) == 2 and page.locator("#seed").input_value() == "5"
    page.get_by_role("button", name="Edit").first.click()
    assert page.locator("#text").input_value() == question and said(page, "user") == []
    page.locator("#text").fill("改过的问题")
    page.keyboard.press("Enter")
    done(page)
    assert said(page, "user") == ["改过的问题"]
    page.locator("label", has_text="中文").click()
    assert page.locator("#text").get_attribute("placeholder") == "输入问题"
    shoot(page, "chinese")
    page.locator("#clear").click()
    assert said(page, "user") == []
    page.reload()
    assert page.locator("#empty").is_visible()


def test_stop_keeps_what_was_said_and_frees_the_place(page: Any, server: Server) -> None:
    page.locator("#settings summary").click()
    page.locator("#max_tokens").fill("400")
    page.locator("#seed").fill("5")
    page.locator("#settings summary").click()
    page.locator("#text").fill("慢慢说")
    page.keyboard.press("Enter")
    until(lambda: len("".join(said(page, "assistant"))) > 8)
    shoot(page, "streams")
    page.locator("#stop").click()
    done(page)
    (answer,) = said(page, "assistant")
    assert answer and "stopped" in page.locator(".assistant .under").inner_text()
    page.wait_for_timeout(300)
    assert server.metric("zhuzi_answers_active") == 0
    page.locator("#clear").click()


def test_a_slider_is_sent_once_it_was_moved(page: Any) -> None:
    sent: list[dict[str, Any]] = []
    page.on("request", lambda asked: asked.post_data and sent.append(json.loads(asked.post_data)))

    def asked() -> dict[str, Any]:
        page.locator("#text").fill("天")
        page.keyboard.press("Enter")
        done(page)
        return {name: sent[-1][name] for name in page.evaluate("SLIDERS") if name in sent[-1]}

    page.locator("#settings summary").click()
    page.locator("#turns").uncheck()
    assert asked() == {}  # the server's own
    page.locator("#max_tokens").fill("3")
    for key, value in (("ArrowLeft", "1.45"), ("ArrowRight", "1.5"), ("ArrowLeft", "1.45")):
        page.locator("#temperature").press(key)
        assert page.locator('output[for="temperature"]').inner_text() == value
    assert asked() == {"temperature": 1.45, "max_tokens": 3}
    page.reload()
    page.locator("#settings summary").click()
    assert asked() == {"temperature": 1.45, "max_tokens": 3}
    page.get_by_role("button", name="Default settings").click()
    assert page.locator("#turns").is_checked()
    page.locator("#turns").uncheck()
    page.locator("#max_tokens").fill("3")
    assert asked() == {"max_tokens": 3}
    page.locator("#clear").click()


def test_the_first_turns_make_room(page: Any) -> None:
    page.locator("#settings summary").click()
    page.locator("#max_tokens").fill("100")
    page.locator("#seed").fill("5")
    for question in ("天" * 250, "地", "人"):  # beside the first there is no room for an answer of 100 tokens
        page.locator("#text").fill(question)
        page.keyboard.press("Enter")
        done(page)
    notes = page.locator(".assistant .under").all_inner_texts()
    assert page.locator(".turn.failed").count() == 0 and len(notes) == 3
    assert ["left out: 1" in note for note in notes] == [False, True, True]
    page.errors[:] = [error for error in page.errors if "400 (Bad Request)" not in error]
    page.locator("#clear").click()


def test_an_error_is_shown_and_can_be_mended(page: Any) -> None:
    page.locator("#text").fill("天" * 600)
    page.keyboard.press("Enter")
    page.wait_for_selector(".turn.failed")
    assert "512 positions" in said(page, "assistant")[0]
    shoot(page, "failed")
    page.get_by_role("button", name="Edit").click()
    page.locator("#text").fill("天")
    page.keyboard.press("Enter")
    done(page)
    assert page.locator(".turn.failed").count() == 0
    page.errors[:] = [error for error in page.errors if "400 (Bad Request)" not in error]
    page.locator("#clear").click()


def test_a_line_break_and_a_word_that_is_being_typed_do_not_send(page: Any) -> None:
    page.locator("#text").fill("一")
    page.keyboard.press("Shift+Enter")
    page.dispatch_event("#text", "keydown", {"key": "Enter", "keyCode": 229, "isComposing": True})
    assert page.locator("#text").input_value() == "一\n" and said(page, "user") == []
