"""The site in a real browser, and as text where there is none."""

import re
import shutil
from pathlib import Path

import pytest

from aimbench.cards import load_card
from aimbench.results.reference import Reference
from aimbench.results.site.charts import curves, scatter
from aimbench.results.site.pages import build_site
from aimbench.results.store import Store
from aimbench.results.tables import make_tables
from aimbench.train.registry import method_card

MARKUP = "<script>document.title='owned'</script><img src=x onerror=alert(1)>\"'"


def write_site(root: Path, out: Path, pictures: Path | None = None) -> int:
    return build_site(root, out, dataset_card=load_card, method_card=method_card, pictures=pictures)


@pytest.fixture
def records(make_record, make_metrics):
    def run(method, accuracy, **other):
        metrics = make_metrics(accuracy=accuracy, gradcam=accuracy / 2, uniform=0.2)
        return make_record(method=method, metrics={"test": metrics}, **other)

    groups = {"train": "groups", "select": MARKUP}
    return [
        run("erm", 0.70),
        run("aim", 0.90, config={"note": MARKUP}),
        run("aim", 0.80, config={"note": "plain"}),
        run("groupdro", 0.95, regime=groups),
        run("erm", 0.60, backbone="resnet18"),
        run("erm", 0.50, kind="mini", variant="mini"),
        run("aim", 0.81, config={"note": "plain"}, source="stated anew, so that one of the two is in no table"),
    ]


@pytest.fixture
def site(tmp_path, records):
    store = Store(tmp_path / "results")
    for record in records:
        store.write(record)
    write_site(store.root, tmp_path / "site")
    return tmp_path / "site"


def test_there_is_a_page_for_each_dataset_method_and_run(site, records):
    names = {str(path.relative_to(site)) for path in site.rglob("*.html")}
    assert names == {
        "index.html",
        "datasets/waterbirds.html",
        *(f"methods/{name}.html" for name in ("aim", "erm", "groupdro")),
        *(f"runs/{record.id}.html" for record in records),
    }


def test_a_methods_page_holds_its_card_what_was_published_and_our_rows(tmp_path, records):
    store = Store(tmp_path / "results")
    store.write(records[3])
    shutil.copytree(Path(__file__).parents[2] / "results" / "reference", store.root / "reference")
    write_site(store.root, tmp_path / "site")
    page = (tmp_path / "site" / "methods" / "groupdro.html").read_text()
    assert '<th scope="row">step_size</th><td>0.01</td><td>group_DRO repository, robust_step_size' in page
    assert "<td>worst_group_accuracy</td><td>91.4</td>" in page
    assert records[3].id in page


def test_a_runs_page_tells_epg_by_outcome_and_group(tmp_path, sound_run_with_epochs):
    record, files = sound_run_with_epochs
    store = Store(tmp_path / "results")
    store.write(record, files)
    write_site(store.root, tmp_path / "site")
    page = (tmp_path / "site" / "runs" / f"{record.id}.html").read_text()
    assert "EPG gradcam (4 samples, 0 undefined, 40.0 where right, 80.0 where wrong)" in page
    rows = [row for row in page.split("<tr>") if '<th scope="row">landbird on water</th>' in row]
    assert [row.rstrip().endswith("<td>70.0</td></tr>") for row in rows] == [True]
    rows = [row for row in page.split("<tr>") if '<th scope="row">waterbird on land</th>' in row]
    assert "<td></td></tr>" in rows[0]  # no sample of this group was scored


def test_every_link_leads_to_a_page(site):
    for page in site.rglob("*.html"):
        for address in re.findall(r'(?:href|src)="([^"]+)"', page.read_text()):
            if address.startswith(("https://", "http://")):
                assert "<script" not in address
                continue
            path, _, fragment = address.partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.is_file(), f"{page.name}: {address}"
            if fragment:
                assert f'id="{fragment}"' in target.read_text(), f"{page.name}: {address}"


def test_nothing_is_asked_of_another_host(site):
    for page in site.rglob("*.html"):
        assert not re.search(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="(?:https?:)?//', page.read_text())
    for asset in ("style.css", "site.js"):
        assert not re.search(r"https?:|@import|url\(", (site / asset).read_text())


def test_markup_in_records_is_shown_as_text(site):
    for page in site.rglob("*.html"):
        text = page.read_text()
        assert "<script>document" not in text
        assert "<img src=x" not in text
    assert "&lt;script&gt;document" in (site / "datasets" / "waterbirds.html").read_text()


def test_markup_in_published_numbers_is_shown_as_text(tmp_path, make_record):
    store = Store(tmp_path / "results")
    store.write(make_record())
    columns = list(Reference.model_fields)
    row = ["<b>x</b>", "waterbirds", "95", "r", "accuracy", "80", "", "", "", "<script>", "secondary source"]
    (store.root / "reference").mkdir()
    (store.root / "reference" / "mine.csv").write_text(",".join(columns) + "\n" + ",".join(row) + "\n")
    write_site(store.root, tmp_path / "site")
    text = (tmp_path / "site" / "datasets" / "waterbirds.html").read_text()
    assert "&lt;b&gt;x&lt;/b&gt;" in text
    assert "<b>x" not in text


def test_a_run_has_its_picture_if_there_is_one(tmp_path, site, records):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / f"{records[0].id}.png").write_bytes(b"png")
    write_site(tmp_path / "results", site, tmp_path / "pictures")
    assert (site / "runs" / f"{records[0].id}.png").read_bytes() == b"png"
    assert f'<img src="{records[0].id}.png" alt=' in (site / "runs" / f"{records[0].id}.html").read_text()
    assert "<img" not in (site / "runs" / f"{records[2].id}.html").read_text()


def test_a_scatter_lies_where_the_numbers_say(make_record, make_metrics):
    records = [
        make_record(method=name, metrics={"test": make_metrics(accuracy=accuracy, gradcam=epg, uniform=0.25)})
        for name, accuracy, epg in [("erm", 0.5, 0.25), ("aim", 1.0, 0.75)]
    ]
    (table,) = make_tables(records)
    plot = scatter(table)
    # The drawing is 320 wide and high, and counts from the top.
    assert [(point.x, point.y) for point in plot.points] == [(320.0, 80.0), (160.0, 240.0)]
    assert plot.baseline == 240.0
    assert scatter(make_tables(records[:1])[0]) is None


def test_curves_are_one_a_number_and_phase_scaled_to_their_range():
    log = [{"phase": "train", "epoch": i, "loss": loss, "name": "x"} for i, loss in enumerate([3.0, 2.0, 1.0])]
    (curve,) = curves([*log, {"phase": "last", "epoch": 0, "loss": 9.0}])
    assert (curve.name, curve.low, curve.high, curve.epochs) == ("train: loss", 1.0, 3.0, 3)
    assert curve.points == "0.0,0.0 120.0,40.0 240.0,80.0"


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra 'dev')")
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium on the PATH; Debian: apt-get install chromium")
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def page(browser, site):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: problems.append(request.url) if not request.url.startswith("file:") else None)
    page.goto((site / "index.html").as_uri())
    yield page
    assert problems == []
    page.close()


def column(page, place):
    cells = page.locator(".board:visible >> nth=0").locator(f"tbody tr:visible > :nth-child({place})")
    return [text.split()[0] for text in cells.all_inner_texts()]


def test_a_visitor_sorts_filters_and_follows_links(page):
    page.get_by_role("link", name="waterbirds").click()
    assert page.locator("#shown").inner_text() == "6 rows in 3 tables"
    page.get_by_label("Backbone").select_option("resnet50")
    page.get_by_label("Kind").select_option("official")
    assert page.locator("#shown").inner_text() == "4 rows in 1 tables"
    sort = page.locator(".board:visible").get_by_role("button", name="Accuracy", exact=True)
    sort.click()
    assert column(page, 4) == ["95.0", "90.0", "80.0", "70.0"]
    # By keyboard, the other way round.
    sort.focus()
    page.keyboard.press("Enter")
    assert column(page, 4) == ["70.0", "80.0", "90.0", "95.0"]
    assert page.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
    page.get_by_label("Regime").select_option("train=class, select=class")
    assert column(page, 1) == ["erm", "aim", "aim"]
    page.locator(".board:visible tbody tr:visible >> nth=0").get_by_role("link", name="0", exact=True).click()
    assert page.locator("h1").inner_text().startswith("erm-")
    assert "aimbench run --method erm" in page.locator("pre").first.inner_text()
    page.get_by_role("link", name="erm", exact=True).click()
    assert page.locator("h1").inner_text() == "erm"
    assert "owned" not in page.title()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_tables_and_never_the_page(page, site, scheme):
    page.set_viewport_size({"width": 360, "height": 740})
    page.emulate_media(color_scheme=scheme)
    for name in ("index.html", "datasets/waterbirds.html", "methods/aim.html"):
        page.goto((site / name).as_uri())
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")


def test_the_keyboard_reaches_the_content_first(page, site):
    page.goto((site / "datasets" / "waterbirds.html").as_uri())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"


def test_the_printed_page_has_no_controls(page, site):
    page.goto((site / "datasets" / "waterbirds.html").as_uri())
    page.emulate_media(media="print")
    assert not page.locator(".filters").is_visible()
    assert page.locator("table").first.is_visible()
