"""How a worklist is shown: the list in the tab with its style and script, its progress, table and page to print."""

import base64
import datetime
import html
import io
import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from pneumo_hf.app.model_tab import Report
from pneumo_hf.app.pages import decimals
from pneumo_hf.app.points import in_short, offered
from pneumo_hf.data.predictions import write_csv
from pneumo_hf.inference.scorer import Scorer
from pneumo_hf.reporting.page import render_page

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # first characters of one in a spreadsheet
SHARED = re.compile(r".*(/|\.zip: )")
ASSETS = Path(__file__).parent / "assets"
STYLE, JS = ((ASSETS / name).read_text() for name in ("worklist.css", "worklist.js"))
WORDS = {  # in reading order
    "review": "Flagged",
    "abstain": "No answer",
    "unreadable": "Not read",
    "clear": "Not flagged",
    "not_chest_xray": "Not recognised",
}


def list_html(
    answers: list[dict],
    flagged_from: float,
    unsure: tuple[float, float] | None = None,
    opened: int | None = None,
    hidden: bool = False,
) -> str:
    """Format answers as a list to filter, sort and open: `worklist.js` does these in the browser.

    Args:
        flagged_from: the lowest score that is flagged.
        unsure: the scores between which there is no answer.
        opened: the place of the answer whose film is shown.
        hidden: whether names alone are listed, in their order, and no answer.
    """
    counts = Counter(() if hidden else (answer["kind"] for answer in answers))
    kinds = {"": f"All <b>{len(answers)}</b>"}
    kinds |= {kind: f"{words} <b>{counts[kind]}</b>" for kind, words in WORDS.items() if counts[kind]}
    buttons = "".join(
        f'<button type="button" data-kind="{kind}" aria-pressed="{"false" if kind else "true"}">{words}</button>'
        for kind, words in kinds.items()
    )
    shared, places = _shared_beginning(answers), decimals_of(answers, flagged_from, unsure)
    order = sorted(range(len(answers)), key=lambda place: _counted(answers[place]["name"]) if hidden else place)
    rows = ""
    for place in order:
        answer, current = answers[place], ' aria-current="true"' if place == opened else ""
        name = html.escape(answer["name"].removeprefix(shared))
        film = f'<button type="button" class="film" title="{name}">{name}</button>'
        said = ("", f"<td>{film}</td>") if hidden else _cells(place, answer, film, flagged_from, places)
        rows += f'<tr data-film="{answer["number"]}" data-name="{name}"{current}{said[0]}>{said[1]}</tr>'
    place_said = f"{len(answers)} films" if opened is None else f"{order.index(opened) + 1} of {len(answers)}"
    columns = {"name": "Film"} if hidden else {"place": "Flag", "score": "Probability", "name": "Film"}
    heads = "".join(
        f'<th aria-sort="{"ascending" if key == next(iter(columns)) else "none"}"><button type="button" '
        f'data-sort="{key}">{words}</button></th>'
        for key, words in columns.items()
    )
    rule = f"Flagged from {flagged_from:.{places}%} up"
    if unsure:
        rule += f", no answer from {unsure[0]:.{places}%}"
    if strange := counts["not_chest_xray"]:
        rule += f". Not recognised as chest films: {strange}, last in the list; they may be turned or cut"
    if hidden:
        rule = "The answers are hidden; films are in the order of their names"
    return f"""<p>{rule}.</p>
<div class="sieve"><div class="kinds" role="group" aria-label="Filter by flag">{buttons}</div>
<input type="search" placeholder="Filter by name" aria-label="Filter by name"></div>
<div class="rows{" hidden" if hidden else ""}"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>
<p class="none" hidden>No film matches.</p></div>
<div class="steps"><button type="button" data-step="-1">Previous</button>
<span role="status">{place_said}</span><button type="button" data-step="1">Next</button></div>"""


def _shared_beginning(answers: list[dict]) -> str:
    """The zip and the folders that all films lie in, which need not stand in every row."""
    found = SHARED.match(os.path.commonprefix([answer["name"] for answer in answers]))
    return found[0] if found else ""


def _counted(name: str) -> str:
    """A name as a key to sort by: film2 before film10."""
    return re.sub(r"\d+", lambda digits: digits[0].zfill(64), name.lower())


def decimals_of(answers: list[dict], flagged_from: float, unsure: tuple[float, float] | None) -> int:
    """Choose the decimals of a list's percentages: those that keep each score apart from the limits it is below."""
    return decimals((shown_of(answer)["probability"] for answer in answers), (flagged_from, *(unsure or ())))


def _cells(place: int, answer: dict, film: str, flagged_from: float, places: int) -> tuple[str, str]:
    """What a row says of an answer: what it is sorted and filtered by, and its cells, with the film's button."""
    kind = answer["kind"]
    scored, score = kind not in ("unreadable", "not_chest_xray"), answer["probability"] or 0
    meter = (
        f'<span class="meter"><i style="width: {100 * score:.1f}%"></i><u style="left: {100 * flagged_from:.1f}%"></u>'
    )
    error = answer["error"].partition(": ")[0] if kind == "not_chest_xray" else answer["error"]  # without the distance
    said = [html.escape(words) for words in (answer.get("note"), error) if words]
    reason = "".join(f"<small>{words}</small>" for words in said)
    return (
        f' data-place="{place}" data-kind="{kind}" data-score="{score if scored else -1}"',
        f'<td><span class="chip {kind}">{WORDS[kind]}</span></td>'
        f"<td>{f'{score:.{places}%}{meter}</span>' if scored else '<span>–</span>'}</td>"
        f"<td>{film}{reason}</td>",
    )


def progress_html(done: int, total: int, seconds: float) -> str:
    """Say how many films are read, and how long the others will take."""
    if done == total:
        return f'<p role="status">{total} films in {_duration(seconds)}.</p>'
    left = f", about {_duration(seconds / done * (total - done))} left" if done and seconds > 1 else ""
    return (
        f'<p role="status">Reading films: {done} of {total}{left}</p>'
        f'<progress aria-label="films read" value="{done}" max="{total}"></progress>'
    )


def _duration(seconds: float) -> str:
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{round(seconds / 60)} min"


def shown_of(answer: dict) -> dict:
    """What tables show of an answer: no prediction where there is no answer, and of what is no chest film no score."""
    left_out = {"not_chest_xray": ("probability", "prediction"), "abstain": ("prediction",)}.get(answer["kind"])
    return answer | {key: None for key in answer if key.startswith(left_out)} if left_out else answer


def write_table(path: Path, columns: tuple[str, ...], answers: Iterable[dict], decided: dict) -> None:
    """Write answers, as tables show them, as CSV, with the list's word for each, what `decided` and what was noted."""
    own = {"label": ""} | decided
    rows = (
        {"note": "", **answer, "path": answer["name"], "decision": WORDS[answer["kind"]], **own} for answer in answers
    )
    cells = ({key: _as_text(value) for key, value in row.items()} for row in rows)
    write_csv(path, (*columns, "decision", *decided, "note"), cells)


def _as_text(value: object) -> object:
    """A text that a spreadsheet would take for a formula begins with an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def write_worklist_page(
    path: Path,
    predictor: Scorer,
    point: str,
    answers: list[dict],
    films: list[tuple[Image.Image, dict]],
    to_look_at: int,
    report: Report | None = None,
) -> None:
    """Write a worklist as one page to print: counts by flag, the table, and the films to look at.

    Args:
        point: the operating point that decided, by its name in `config.json`.
        answers: in reading order, as tables show them.
        films: `(thumbnail, answer)` of the first of `to_look_at` films.
        report: the checkpoint's, where there is one.
    """
    settings = predictor.settings
    threshold = settings.thresholds[point]
    page = render_page(
        "worklist.html.jinja",
        answers=answers,
        words=WORDS,
        counts=Counter(answer["kind"] for answer in answers),
        films=[(_as_jpeg(film), answer) for film, answer in films],
        to_look_at=to_look_at,
        shared=_shared_beginning(answers),
        model=Path(predictor.name).name,
        flagged_from=settings.flagged_from(threshold),
        places=decimals_of(answers, settings.flagged_from(threshold), settings.abstention_band(threshold)),
        point=next(one.plain for one in offered(settings) if one.name == point).lower(),
        chosen_on=predictor.chosen_on,
        measured=in_short(settings, report, threshold),
        finding=predictor.task.finding,
        time=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )
    path.write_text(page)


def _as_jpeg(film: Image.Image) -> str:
    file = io.BytesIO()
    film.convert("L").save(file, "JPEG", quality=85)
    return base64.b64encode(file.getvalue()).decode()
