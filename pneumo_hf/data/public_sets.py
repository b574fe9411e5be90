"""The public sets whose tables are not one of path and label each: which tables they have, and what those mean."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from pneumo_hf.data.labels import findings
from pneumo_hf.data.tables import Rows, flag_columns, flagged, one_split
from pneumo_hf.errors import InputError


@dataclass(frozen=True)
class Table:
    """A table of a public set, known by its columns, whatever it is called.

    With `path` among its columns it has a row (or several) for a film, without one a row for a `study`.
    """

    file: str  # as it is called when it is downloaded, for a message
    known_by: tuple[str, ...]
    columns: Mapping[str, str]  # ours: theirs
    values: Mapping[str, str] = field(default_factory=dict)  # what its label says, where that is a number
    flags: bool = False  # its findings are columns of 1, 0, -1 and blanks
    ends: Mapping[str, str] = field(default_factory=dict)  # of our columns: what their ids end in, to be dropped
    readers: bool = False  # a row for each reader: what most of them say
    called: str = ""  # in the name of that which counts where several have these columns
    required: bool = True


@dataclass(frozen=True)
class PublicSet:
    """Its tables, the one by which it is known first, and what its labels are beside NORMAL and PNEUMONIA."""

    title: str
    tables: tuple[Table, ...]
    labels: Mapping[str, str] = field(default_factory=dict)  # in small letters; others are left out and counted


PUBLIC_SETS = (
    PublicSet(
        "CheXpert",
        (
            Table(
                "train.csv",
                ("Path", "Frontal/Lateral", "No Finding", "Pneumonia"),
                {"path": "Path", "age": "Age", "sex": "Sex", "view": "AP/PA", "position": "Frontal/Lateral"},
                flags=True,
            ),
        ),
    ),
    PublicSet(
        "MIMIC-CXR-JPG",
        (
            Table(
                "mimic-cxr-2.0.0-metadata.csv",
                ("dicom_id", "subject_id", "study_id", "ViewPosition"),
                {"path": "dicom_id", "study": "study_id", "subject": "subject_id", "view": "ViewPosition"},
            ),
            Table(
                "mimic-cxr-2.0.0-split.csv", ("dicom_id", "study_id", "split"), {"path": "dicom_id", "split": "split"}
            ),
            Table(
                "mimic-cxr-2.0.0-chexpert.csv",
                ("study_id", "No Finding", "Pneumonia"),
                {"study": "study_id", "subject": "subject_id"},
                flags=True,
                called="chexpert",  # and not negbio, whose columns are the same
            ),
        ),
    ),
    PublicSet(
        "NIH ChestX-ray14",
        (
            Table(
                "Data_Entry_2017.csv",
                ("Image Index", "Finding Labels", "Patient ID", "Follow-up #"),
                {
                    "path": "Image Index",  # in which the patient is, too, padded as in other tables of the set
                    "label": "Finding Labels",
                    "age": "Patient Age",
                    "sex": "Patient Gender",
                    "view": "View Position",
                },
            ),
        ),
    ),
    PublicSet(
        "RSNA Pneumonia Detection Challenge",
        (
            Table(
                "stage_2_train_labels.csv",
                ("patientId", "x", "y", "width", "height", "Target"),
                {"path": "patientId", "label": "Target"},
                values={"0": "", "1": "Lung Opacity"},  # 0 may be normal or not: the other table knows
                required=False,
            ),
            Table("stage_2_detailed_class_info.csv", ("patientId", "class"), {"path": "patientId", "label": "class"}),
        ),
        {"lung opacity": "PNEUMONIA"},
    ),
    PublicSet(
        "VinDr-CXR",
        (
            Table(
                "image_labels_train.csv",
                ("image_id", "No finding", "Pneumonia", "Lung Opacity"),
                {"path": "image_id"},
                flags=True,
                readers=True,
            ),
        ),
    ),
    PublicSet(
        "PadChest",
        (
            Table(
                "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv",
                ("ImageID", "PatientID", "Labels", "Projection"),
                {
                    "path": "ImageID",
                    "label": "Labels",
                    "patient_id": "PatientID",
                    "sex": "PatientSex_DICOM",
                    "view": "Projection",
                },
            ),
        ),
    ),
    PublicSet(
        "SIIM-FISABIO-RSNA COVID-19",
        (
            Table(
                "train_image_level.csv",
                ("id", "boxes", "label", "StudyInstanceUID"),
                {"path": "id", "study": "StudyInstanceUID"},
                ends={"path": "_image"},
            ),
            Table(
                "train_study_level.csv",
                ("id", "Negative for Pneumonia", "Typical Appearance"),
                {"study": "id"},
                flags=True,
                ends={"study": "_study"},
            ),
        ),
        {"typical appearance": "PNEUMONIA"},  # of the indeterminate and atypical ones nobody says what they are
    ),
)


def recognise(tables: Mapping[str, Rows]) -> tuple[PublicSet, dict[str, Rows]] | None:
    """Find the public set that tables are of, and the rows of its films, under our names, by table; None if of none.

    Raises:
        InputError: one of its tables is missing.
    """
    for public in PUBLIC_SETS:
        theirs = [_matching(table, tables) for table in public.tables]
        if not any(theirs):
            continue
        missing = [
            table.file for table, found in zip(public.tables, theirs, strict=True) if table.required and not found
        ]
        if missing:
            raise InputError(f"these are tables of {public.title}, but {missing[0]} is missing: put it beside them")
        films, studies = {}, defaultdict(dict)
        for table, found in zip(public.tables, theirs, strict=True):
            for name in found:
                rows = _rows(table, name, tables[name])
                if "path" in table.columns:
                    films[name] = rows
                else:
                    _add_studies(studies, rows, public.title)
        return public, {
            name: [row | studies[row.pop("study")] if "study" in row else row for row in rows]
            for name, rows in films.items()
        }
    return None


def is_public(tables: Mapping[str, Rows]) -> bool:
    """Return whether one of the tables is of a public set."""
    return any(_matching(table, tables) for public in PUBLIC_SETS for table in public.tables)


def _matching(table: Table, tables: Mapping[str, Rows]) -> list[str]:
    """The tables that have the columns; a column called path or label beside them makes one the user's own."""
    own = {"path", "label"} - {column.lower() for column in table.known_by}
    found = [
        name
        for name, rows in tables.items()
        if rows[0].keys() >= set(table.known_by) and not own & {column.lower() for column in rows[0]}
    ]
    return [name for name in found if table.called and table.called in name.lower()] or found


def _rows(table: Table, name: str, raw: Rows) -> Rows:
    flags = flag_columns(raw, table.columns.values()) if table.flags else []
    odd = set(table.known_by) - {*table.columns.values(), *flags} if table.flags else set()
    if odd:
        raise InputError(f"{name}: the column {min(odd)} should hold 1, 0, -1 and blanks alone, and holds more")
    rows = []
    for line in raw:
        row = {
            ours: line.get(theirs, "").removesuffix(table.ends.get(ours, "")) for ours, theirs in table.columns.items()
        }
        if "position" in row:  # of a lateral film CheXpert does not say AP or PA
            row["view"] = row["view"] or row["position"]
            del row["position"]
        if "subject" in row:
            row["patient_id"] = f"p{row.pop('subject')}"  # as its folder is called
        if "split" in row:
            row["split"] = one_split(name, row["path"], {row["split"]} - {""})
        if table.flags:
            row["label"] = flagged({column: line[column] for column in flags})
        elif "label" in row:
            row["label"] = table.values.get(row["label"], row["label"])
        rows.append(row)
    return _agreed(rows) if table.readers else rows


def _agreed(rows: Rows) -> Rows:
    """What more than half of a film's readers say, a row for each film."""
    said = defaultdict(list)
    for row in rows:
        said[row["path"]].append(findings(row["label"]))
    agreed = []
    for path, lists in said.items():
        votes = [part for parts in lists for part in parts if part]
        most = [part for part in dict.fromkeys(votes) if votes.count(part) > len(lists) / 2]
        agreed.append({"path": path, "label": "|".join(most) if most else "no majority of the readers"})
    return agreed


def _add_studies(studies: dict[str, dict[str, str]], rows: Rows, title: str) -> None:
    for row in rows:
        before = studies.setdefault(row["study"], {"label": row["label"]})
        if before["label"] != row["label"]:
            raise InputError(f"{title}: two rows say different things of the study {row['study']}")
