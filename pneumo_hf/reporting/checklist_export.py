"""The checklists as files for a paper's supplement: Markdown and Word."""

from pathlib import Path

from pneumo_hf import DISCLAIMER
from pneumo_hf.errors import InputError
from pneumo_hf.reporting.checklist import PERSON, Answers

COLUMNS = ("item", "asks for", "answer")
NOTE = (
    "Filled by pneumo_hf from what was measured. What each item asks for is said in our own words: read the published "
    f"checklists. Where it says that {PERSON}, nothing was measured that answers it."
)


def write_markdown(path: Path, found: dict[str, Answers], title: str) -> None:
    """Write both checklists as Markdown tables."""
    lines = [f"# {title}", "", NOTE, "", f"**{DISCLAIMER}**"]
    for name, answers in found.items():
        lines += ["", f"## {name}", "", f"| {' | '.join(COLUMNS)} |", "| --- " * len(COLUMNS) + "|"]
        lines += [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in answers]
    path.write_text("\n".join(lines) + "\n")


def assert_docx() -> None:
    """Stop before the work where Word files cannot be written.

    Raises:
        InputError: python-docx is not installed.
    """
    try:
        import docx  # noqa: F401
    except ImportError as error:
        raise InputError("--docx needs python-docx: pip install 'pneumo_hf[docx]'") from error


def write_docx(path: Path, found: dict[str, Answers], title: str) -> None:
    """Write both checklists as tables of a Word file, with the numbers of the items in the first column."""
    from docx import Document
    from docx.shared import Cm

    document = Document()
    document.add_heading(title, level=1)
    document.add_paragraph(NOTE)
    document.add_paragraph(DISCLAIMER)
    for name, answers in found.items():
        document.add_heading(name, level=2)
        table = document.add_table(rows=1, cols=len(COLUMNS), style="Table Grid")
        for row in (COLUMNS, *answers):
            cells = table.rows[0].cells if row is COLUMNS else table.add_row().cells
            for cell, text, width in zip(cells, row, (1.4, 5.6, 9.5), strict=True):
                cell.text, cell.width = text, Cm(width)
    document.save(str(path))
