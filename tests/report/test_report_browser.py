"""The page in a real browser, without network: what it recommends, how it filters, that pictures grow and texts stay texts.

Chromium is driven by Playwright. Named by the variable CHROMIUM, or found as chromium, chromium-browser or google-chrome.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import synthetic_runs as made
import yaml
from test_report_advice import blind_settings

from ssl_split.report import build, curves, figures
from ssl_split.report.collect import collect
from ssl_split.report.decide import Budget, first_budget, front, recommend, rivals
from ssl_split.report.draw import Drawing
from ssl_split.report.table import Study, study

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install 'ssl_split[dev]'")
CHROMIUM = made.chromium()
pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: install one, or name it by CHROMIUM"),
              pytest.mark.xdist_group("browser")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as play:
        started = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two algorithms at three cuts, three seeds, with probes and attacks."""
    directory = tmp_path_factory.mktemp("browsed")
    made.make_study(directory)
    return write(directory)


def write(directory: Path) -> Path:
    """A report without the figures of matplotlib, which the page does not show."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "draw", lambda study, folder: [])
        patch.setattr(curves, "draw", lambda study, folder: [Drawing("some", "", "")])
        build.write(directory)
    return directory


class Visit:
    """An open page, and what went wrong on it."""

    def __init__(self, browser: Any, directory: Path, **context: Any) -> None:
        self.context = browser.new_context(**context)
        self.context.set_offline(True)
        self.page = self.context.new_page()
        self.wrong: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda m: self.wrong.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda e: self.wrong.append(str(e)))
        self.page.on("dialog", lambda d: (self.wrong.append(d.message), d.dismiss()))
        self.page.on("request", lambda r: self.requests.append(r.url) if not r.url.startswith("data:") else None)
        self.page.goto((directory / "report.html").resolve().as_uri())
        self.page.wait_for_selector("html.ready", timeout=30_000, state="attached")

    def __enter__(self) -> Any:
        return self.page

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.context.close()
        if kind is None:
            assert self.wrong == []
            assert len(self.requests) == 1


def read(directory: Path) -> Study:
    return study(collect(directory))


def walk(page: Any) -> None:
    """Scroll through the whole page, so that everything on it is drawn."""
    page.evaluate("async () => { for (let y = 0; y < document.documentElement.scrollHeight; y += 500) { window.scrollTo(0, y); "
                  "await new Promise((done) => setTimeout(done, 60)); } }")


def test_everything_is_drawn_without_network_or_error(browser: Any, reported: Path) -> None:
    with Visit(browser, reported) as page:
        page.evaluate("for (const part of document.querySelectorAll('#curves details')) part.open = true")
        walk(page)
        drawn = page.locator(".chart")
        assert drawn.count() >= 10
        assert page.locator(".chart svg").count() >= drawn.count()
        assert page.locator(".chart:has-text('nothing to draw')").count() == 0
        assert page.locator("#broken").is_hidden()
        assert not re.findall(r"\b(?:null|undefined|NaN|\[object)\b", page.locator("main").inner_text())


@pytest.mark.parametrize("goal", ["accurate", "private", "cheap"])
def test_the_page_recommends_what_python_does(browser: Any, reported: Path, goal: str) -> None:
    groups = read(reported).groups
    inf = float("inf")
    with Visit(browser, reported) as page:
        for leakage in (-1.0, 0.0, 0.3, 0.5, 0.75, 0.95, inf):
            for mib in (50.0, 190.0, 300.0, inf):
                for least in (-inf, 0.5, 0.6):
                    budget = Budget(leakage, mib, inf, least)
                    chosen = recommend(groups, budget, goal)
                    asked = {"leakage": leakage, "mib": mib, "accuracy": least}
                    got = page.evaluate("([b, goal]) => { const c = recommend(data.groups, b, goal); "
                                        "return c && [c.anchor, rivals(data.groups, b, c).map((g) => g.anchor)]; }",
                                        [{k: v for k, v in asked.items() if abs(v) < inf}, goal])
                    expected = chosen and [chosen.anchor, [g.anchor for g in rivals(groups, budget, chosen)]]
                    assert got == expected, asked
        assert page.evaluate("front(data.groups).map((g) => g.anchor)") == [g.anchor for g in front(groups)]


@pytest.mark.parametrize("goal", ["accurate", "private", "cheap"])
def test_page_and_python_take_no_attack_below_a_guess_for_more_private(browser: Any, tmp_path: Path, goal: str) -> None:
    blind_settings(tmp_path)
    groups = read(tmp_path).groups
    with Visit(browser, write(tmp_path)) as page:
        for leakage in (0.0, 0.2, 1.0):
            chosen = recommend(groups, Budget(leakage), goal)
            assert chosen is not None
            assert page.evaluate("([b, goal]) => recommend(data.groups, b, goal).anchor", [{"leakage": leakage}, goal]) == chosen.anchor
        assert page.evaluate("front(data.groups).map((g) => g.anchor)") == [g.anchor for g in front(groups)]
        page.locator("#goal").select_option("private")
        assert page.locator("#chosen").inner_text().endswith("cut 7")


def test_sliders_change_the_recommendation(browser: Any, reported: Path) -> None:
    """By mouse and by keyboard; what is said is what Python recommends at the budget that the slider names."""
    groups = read(reported).groups
    with Visit(browser, reported) as page:
        chosen, slider = page.locator("#chosen"), page.locator("#budget-leakage")
        first = recommend(groups, first_budget(groups))
        assert first is not None
        assert chosen.inner_text() == first.title
        slider.fill(slider.get_attribute("max"))
        best = recommend(groups, Budget())
        assert best is not None
        assert chosen.inner_text() == best.title != first.title
        assert slider.get_attribute("aria-valuetext") == "no limit"
        slider.focus()
        for _ in range(12):
            page.keyboard.press("ArrowLeft")
        asked = page.evaluate("budget.leakage")
        now = recommend(groups, Budget(leakage=asked))
        assert now is not None
        assert 0 < asked < 0.95
        assert chosen.inner_text() == now.title
        page.locator("#budget-mib").fill("0")
        asked = page.evaluate("budget")
        assert recommend(groups, Budget(leakage=asked["leakage"], mib=asked["mib"])) is None
        assert "No setting stays within" in page.locator("#recommendation").inner_text()
        page.locator("#goal").select_option("cheap")
        page.locator("#budget-mib").fill(page.locator("#budget-mib").get_attribute("max"))
        slider.fill(slider.get_attribute("max"))
        cheapest = recommend(groups, Budget(), "cheap")
        assert cheapest is not None
        assert chosen.inner_text() == cheapest.title


@pytest.fixture(scope="module")
def without_traffic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One setting that sends and computes nothing on the client, R2 -2; two that do. One of two seeds of the last was probed."""
    directory = tmp_path_factory.mktemp("without")
    for cut, algorithm, mse in ((0, "moco", 0.18), (1, "monacosfl", 0.006), (9, "monacosfl", 0.03)):
        for seed in range(2 if cut == 9 else 1):
            run = made.make_run(directory / "runs", cut=cut, algorithm=algorithm, seed=seed)
            made.add_attack(run, mse)
            if seed == 0:
                made.add_probe(run, 0.6 + 0.01 * cut, environment={"commit": "probed1"}, epochs=30)
            if cut == 0:
                made.change(run, "result.json", mib_per_client=0.0, mib_per_client_closed_form=0.0, client_macs_per_image=0)
    return write(directory)


def test_nothing_sent_is_the_first_place_of_a_slider(browser: Any, without_traffic: Path) -> None:
    """Every place is a number that grows; the first allows the setting without traffic, and the middle what Python says."""
    groups = read(without_traffic).groups
    with Visit(browser, without_traffic) as page:
        page.locator("#budget-leakage").fill(page.locator("#budget-leakage").get_attribute("max"))
        for name, field in (("mib", "mib"), ("macs", "macs")):
            slider = page.locator(f"#budget-{name}")
            asked = []
            for place in (0, 1, 30, 60, 99, 100):
                slider.fill(str(place))
                asked.append(page.evaluate(f"budget.{name}"))
                chosen = recommend(groups, Budget(**{field: asked[-1]}))
                assert chosen is not None
                assert page.locator("#chosen").inner_text() == chosen.title
            assert asked[0] == 0
            assert asked == sorted(set(asked))
            slider.fill(slider.get_attribute("max"))


@pytest.mark.parametrize("axis", ["mib_per_client", "client_macs_per_image"])
def test_nothing_sent_is_drawn_at_the_edge(browser: Any, without_traffic: Path, axis: str) -> None:
    with Visit(browser, without_traffic) as page:
        page.locator("#tradeoff-axis").select_option(axis)
        page.locator("#tradeoff", has_text="0 at the left edge").wait_for()
        assert page.locator("#tradeoff g[aria-label=dot] a").count() == 3
        page.locator("#budget-mib").fill("0")
        assert "NaN" not in page.locator("#tradeoff").inner_html()


def test_the_first_budget_allows_who_leaks_nothing(browser: Any, without_traffic: Path) -> None:
    """R2 of -2, .5 and .9: half-way from 0 to .9, for the page as for Python; its slider begins at 0."""
    assert first_budget(read(without_traffic).groups).leakage == pytest.approx(0.45)
    with Visit(browser, without_traffic) as page:
        assert page.evaluate("budget.leakage") == pytest.approx(0.45)
        page.locator("#budget-leakage").fill("0")
        assert page.evaluate("budget.leakage") == 0
        assert page.locator("#chosen").inner_text() == "moco at cut 0"


def test_a_seed_that_was_not_probed_does_not_hide_the_one_that_was(browser: Any, without_traffic: Path) -> None:
    (group,) = (g for g in read(without_traffic).groups if g.cut == 9)
    with Visit(browser, without_traffic) as page:
        section = page.locator(f"#{group.anchor}")
        section.locator("details.seeds > summary").click()
        rows = section.locator("details.seeds tbody tr")
        assert rows.count() == 2
        assert "69.0 %" in rows.nth(0).inner_text()
        assert "–" in rows.nth(1).inner_text()


def test_probes_and_attacks_say_how_and_by_what_they_were_made(browser: Any, without_traffic: Path) -> None:
    (group,) = (g for g in read(without_traffic).groups if g.cut == 1)
    with Visit(browser, without_traffic) as page:
        run = page.locator(f"[id='{group.runs[0].anchor}']")
        run.locator("> summary").click()
        run.locator("summary", has_text="commit probed1").click()
        assert "epochs: 30" in run.inner_text()
        assert "python -m probes.linear" in run.inner_text()


def test_without_scripts_the_first_recommendation_stands(browser: Any, reported: Path) -> None:
    """In the words that the page's script begins with."""
    with Visit(browser, reported) as page:
        said = page.locator("#recommendation .verdict").inner_text()
        assert page.locator("#decide-app > p").count() == 0
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((reported / "report.html").resolve().as_uri())
    assert page.locator("#decide-app .verdict").inner_text() == said
    context.close()


def test_filters_reach_tables_charts_and_recommendation(browser: Any, reported: Path) -> None:
    with Visit(browser, reported) as page:
        page.locator("#budget-leakage").fill(page.locator("#budget-leakage").get_attribute("max"))
        points = page.locator("#tradeoff g[aria-label=dot] a")
        page.locator("#filters > summary").click()
        assert (points.count(), page.locator("#table tbody tr:visible").count()) == (6, 6)
        assert "monacosfl" in page.locator("#chosen").inner_text()
        page.locator("#filters input[value=monacosfl]").uncheck()
        page.wait_for_function("document.querySelectorAll('#tradeoff g[aria-label=dot] a').length === 3")
        assert page.locator("#table tbody tr:visible").count() == 3
        assert page.locator("#shown").inner_text() == "3 of 6 settings are shown."
        assert page.locator("#chosen").inner_text().startswith("mocosfl")
        assert page.locator("#matrix-body tbody tr").count() == 3
        page.locator("#filters input[name=cut][value='17']").uncheck()
        assert page.locator("#table tbody tr:visible").count() == 2
        page.locator("#filters input[type=search]").fill("nobody")
        assert page.locator("#table tbody tr:visible").count() == 0
        assert "No setting stays within" in page.locator("#recommendation").inner_text()


def test_pictures_grow_and_can_be_walked_through(browser: Any, reported: Path) -> None:
    with Visit(browser, reported) as page:
        page.locator("#pictures").scroll_into_view_if_needed()
        tiles = page.locator("#pictures button.tile")
        assert tiles.count() == 8 * (1 + 3 + 1)  # originals, three cuts, blind guess
        tiles.nth(1).click()
        dialog = page.locator("#large")
        assert dialog.is_visible()
        assert "image 1 of 8" in dialog.inner_text()
        page.wait_for_function("[...document.querySelectorAll('#large canvas')].every((c) => c.width === 8)")
        page.wait_for_timeout(200)
        color = page.evaluate("[...document.querySelector('#large canvas').getContext('2d').getImageData(4, 4, 1, 1).data].slice(0, 3)")
        assert all(abs(a - b) < 10 for a, b in zip(color, made.targets()[0, :, 0, 0].tolist(), strict=True))
        page.keyboard.press("ArrowRight")
        assert "image 2 of 8" in dialog.inner_text()
        before = dialog.locator("b").inner_text()
        page.keyboard.press("ArrowDown")
        assert dialog.locator("b").inner_text() != before
        page.keyboard.press("Escape")
        assert dialog.is_hidden()
        page.locator("#picture-attack").select_option("decoder")
        assert tiles.count() == 8 * 5


def test_missing_pictures_are_named(browser: Any, tmp_path: Path) -> None:
    """One cut's file is cut short: its column is missing, and said to be; a job that failed is a cell of the matrix."""
    first, second = (made.make_run(tmp_path / "runs", cut=cut) for cut in (1, 9))
    for run in (first, second):
        folder = made.add_attack(run, 0.02)
    (folder / "reconstructions.safetensors").write_bytes(b"short")
    made.make_run(tmp_path / "runs", cut=17, finished=False)
    with Visit(browser, write(tmp_path)) as page:
        page.locator("#pictures").scroll_into_view_if_needed()
        assert page.locator("#pictures-body").inner_text().count("cut 1\n") == 1
        assert "Missing or damaged pictures: monacosfl at cut 9." in page.locator("#pictures-body").inner_text()
        assert page.locator("#matrix-body tbody tr").nth(2).inner_text().split()[-1] == "missing"


def test_every_number_leads_to_its_run(browser: Any, reported: Path) -> None:
    with Visit(browser, reported) as page:
        page.locator("#table td.num a").nth(1).click()
        anchor = page.evaluate("location.hash.slice(1)")
        section = page.locator(f"[id='{anchor}']")
        assert "seeds side by side" in section.inner_text()
        links = section.locator("details.seeds a")
        assert links.count() == 3 * 9  # seed and eight numbers
        links.first.click()
        run = page.locator(f"[id='{page.evaluate('location.hash.slice(1)')}']")
        assert run.get_attribute("open") is not None
        text = run.inner_text()
        for said in ("python -m ssl_split.train --cut", "commit abc1234", "2 min", "attacks.invert --method ridge", "test machine"):
            assert said in text
        run.locator("summary", has_text="Configuration").click()
        assert "algorithm: mocosfl" in run.inner_text()


def test_texts_cannot_become_markup(browser: Any, tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)><script>alert(2)"
    run = made.make_run(tmp_path / "runs")
    run = run.rename(run.parent / evil)
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"algorithm": evil, "data_dir": "</script>" + evil, "dataset": evil}))
    made.add_probe(run, 0.5)
    made.add_attack(run, 0.03, name=evil.replace("/", ""))
    made.write_json(run / "env.json", {"commit": "</script>" + evil, "packages": {evil: evil}})
    made.write_json(tmp_path / "runs" / "jobs.json", {"name": evil, "question": evil, "command": evil, "jobs": [
        {"run": evil, "label": evil, "state": "failed", "reason": "</script>" + evil, "command": evil, "log": evil, "stage": None,
         "setting": {}}]})
    with Visit(browser, write(tmp_path / "runs")) as page:
        page.locator("details[data-run] > summary").first.click()
        for summary in page.locator("details[data-run] details > summary").all():
            summary.click()
        walk(page)
        assert page.locator("img").count() == 0
        assert "onerror=alert(1)" in page.locator("details[data-run]").inner_text()
        assert page.locator("script").count() == 5  # data, library as it came and as it runs, one sprite, the page's own


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1280, "dark")])
def test_phone_and_dark_mode(browser: Any, reported: Path, width: int, scheme: str) -> None:
    """Nothing but scrolling boxes is wider than the window; paper and ink change places."""
    with Visit(browser, reported, viewport={"width": width, "height": 800}, color_scheme=scheme) as page:
        walk(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        paper, ink = (sum(page.evaluate(f"getComputedStyle(document.body).{name}.match(/\\d+/g).slice(0, 3).map(Number)"))
                      for name in ("backgroundColor", "color"))
        assert (paper < ink) == (scheme == "dark")


def test_what_is_far_below_is_made_when_it_comes_near(browser: Any, reported: Path) -> None:
    """The long tables too; a number that leads to them, and the filters, find them."""
    with Visit(browser, reported, viewport={"width": 1000, "height": 600}) as page:
        rows = page.locator("#outcomes-body tbody tr")
        assert rows.count() == 0
        page.locator("#outcomes h2").scroll_into_view_if_needed()
        rows.first.wait_for()
        before = rows.count()
        page.evaluate("wanted.algorithm.delete('mocosfl'); changed()")
        sync_api.expect(rows).to_have_count(before // 2, timeout=30_000)


def test_paper_shows_every_chart(browser: Any, reported: Path) -> None:
    """Charts and tables that were never scrolled to are drawn before printing."""
    with Visit(browser, reported) as page:
        page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        assert page.locator("#outcomes-body table").count() >= 2
        assert page.locator("#charts .chart:not(:has(svg))").count() == 0
        page.emulate_media(media="print")
        assert page.locator("#filters").is_hidden()
        assert len(page.pdf()) > 50_000


def test_a_study_without_attacks_has_a_page(browser: Any, tmp_path: Path) -> None:
    made.make_run(tmp_path)
    with Visit(browser, write(tmp_path)) as page:
        walk(page)
        assert "nothing to choose from" in page.locator("#decide-app").inner_text()
