"""The public sets as they are downloaded: their tables say split, label and patient as the sets mean them."""

import gzip
from collections.abc import Mapping
from pathlib import Path

import pytest

from pneumo_hf.data.sources import read_source
from pneumo_hf.errors import InputError
from pneumo_hf.labels import LABELS

MIMIC = "mimic-cxr-2.0.0-{}.csv.gz"


def lay(root: Path, films: list[str], tables: Mapping[str, list[str]]) -> Path:
    """Write films, each with its name for a content, and tables by lines."""
    for name in films:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    for name, lines in tables.items():
        content = "\n".join(lines).encode()
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return root


def told(source: Path, labels: list[str] | None = None) -> dict[str, tuple[str, str, str]]:
    """`{last part of the name: (split, label, patient)}`."""
    return {
        film["file_name"].rpartition("/")[2]: (split, films.features["label"].names[film["label"]], film["patient_id"])
        for split, films in read_source(source, labels).items()
        for film in films
    }


def chexpert(tmp_path: Path) -> Path:
    header = "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Lung Opacity,Pneumonia,Support Devices"
    rows = ["Female,68,Frontal,AP,1.0,,,1.0", "Male,0,Lateral,,,1.0,1.0,", "Female,91,Frontal,PA,,,-1.0,"]
    rows += ["Unknown,40,Frontal,PA,,1.0,0.0,", "Male,40,Frontal,PA,,,,"]
    films = [f"train/patient0000{n // 2}/study{n}/view1_{'frontal' if n != 1 else 'lateral'}.jpg" for n in range(5)]
    held = "valid/patient64541/study1/view1_frontal.jpg"
    root = tmp_path / "CheXpert-v1.0-small"
    return lay(
        root,
        [*films, held],
        {
            "train.csv": [header, *(f"{root.name}/{name},{row}" for name, row in zip(films, rows, strict=True))],
            "valid.csv": [header, f"{root.name}/{held},Male,73,Frontal,AP,0.0,1.0,1.0,0.0"],
        },
    )


def test_chexpert(tmp_path: Path, caplog) -> None:
    root = chexpert(tmp_path)
    data = read_source(root, None)  # without labels: films with several findings give no further ones
    train = data["train"]
    assert train.features["label"].names == list(LABELS)
    assert [tuple(film[c] for c in ("label", "patient_id", "sex", "age", "view")) for film in train] == [
        (0, "patient00000", "F", 68.0, "AP"),
        (1, "patient00000", "M", 0.0, "LATERAL"),
    ]
    assert data["validation"]["label"] == [1]
    assert "1 Pneumonia (uncertain)" in caplog.text and "1 Lung Opacity" in caplog.text
    assert "1 (no label)" in caplog.text and "nothing says who" not in caplog.text
    for source in (tmp_path, root / "train.csv"):  # the folder above, and the table itself
        assert told(source) == told(root)
    (tmp_path / "CheXpert-v1.0-small").rename(tmp_path / "renamed")
    assert len(told(tmp_path / "renamed")) == 2


def mimic(tmp_path: Path) -> Path:
    ids = [f"{n:08x}-bde0afdd-112c0b34-7bc16630-4e384014" for n in range(5)]
    films = [f"files/p10/p1000003{n}/s5041426{n}/{name}.jpg" for n, name in enumerate(ids)]
    splits = ["train", "train", "validate", "test", "test"]
    labels = ["1.0,", ",1.0", ",1.0", "1.0,", ",-1.0"]  # No Finding, Pneumonia
    return lay(
        tmp_path / "mimic-cxr-jpg",
        films,
        {
            MIMIC.format("metadata"): [
                "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows",
                *(f'{name},1000003{n},5041426{n},"CHEST (PA, LAT)",PA,3056' for n, name in enumerate(ids)),
            ],
            MIMIC.format("split"): [
                "dicom_id,study_id,subject_id,split",
                *(f"{name},5041426{n},1000003{n},{splits[n]}" for n, name in enumerate(ids)),
            ],
            MIMIC.format("chexpert"): [
                "subject_id,study_id,Edema,No Finding,Pneumonia",
                *(f"1000003{n},5041426{n},,{labels[n]}" for n in range(5)),
            ],
            MIMIC.format("negbio"): ["subject_id,study_id,No Finding,Pneumonia", "10000030,50414260,,1.0"],
        },
    )


def test_mimic(tmp_path: Path, caplog) -> None:
    root = mimic(tmp_path)
    assert [value for _, value in sorted(told(root).items())] == [
        ("train", "NORMAL", "p10000030"),
        ("train", "PNEUMONIA", "p10000031"),
        ("validation", "PNEUMONIA", "p10000032"),
        ("test", "NORMAL", "p10000033"),
    ]
    assert "left out 1 Pneumonia (uncertain)" in caplog.text
    (root / MIMIC.format("split")).unlink()
    with pytest.raises(InputError, match="MIMIC-CXR-JPG, but mimic-cxr-2.0.0-split.csv is missing"):
        told(root)


def test_nih(tmp_path: Path, caplog) -> None:
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    header += "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
    found = ["No Finding", "Pneumonia|Infiltration", "No Finding", "Pneumonia", "Effusion|Mass", "No Finding"]
    names = [f"{n // 2 + 1:08d}_{n:03d}.png" for n in range(6)]
    root = lay(
        tmp_path / "nih",
        [f"images_001/images/{name}" for name in names],
        {
            "Data_Entry_2017.csv": [
                header,
                *(
                    f"{name},{found[n]},{n},{n // 2 + 1},058Y,M,PA,2682,2749,0.143,0.143,"
                    for n, name in enumerate(names)
                ),
            ],
            "BBox_List_2017.csv": ["Image Index,Finding Label,Bbox [x,y,w,h],,,", f"{names[0]},Atelectasis,1,2,3,4"],
            "train_val_list.txt": names[:2],
            "test_list.txt": names[2:5],
        },
    )
    expected = {
        names[0]: ("train", "NORMAL", "00000001"),
        names[1]: ("train", "PNEUMONIA", "00000001"),
        names[2]: ("test", "NORMAL", "00000002"),
        names[3]: ("test", "PNEUMONIA", "00000002"),
    }
    assert told(root) == told(root / "Data_Entry_2017.csv") == expected
    assert "left out 1 films of no split" in caplog.text and "1 Effusion|Mass" in caplog.text
    assert "nothing says who" not in caplog.text


def test_rsna(tmp_path: Path, caplog) -> None:
    ids = [f"0004cfab-14fd-4e49-80ba-63a80b6bdd{n:02d}" for n in range(4)]
    classes = ["Normal", "Lung Opacity", "No Lung Opacity / Not Normal", "Lung Opacity"]
    labels = ["patientId,x,y,width,height,Target", f"{ids[0]},,,,,0", f"{ids[2]},,,,,0"]
    labels += [f"{name},264.0,{y},213.0,379.0,1" for name in ids[1::2] for y in (152.0, 577.0)]
    root = lay(
        tmp_path / "rsna",
        [f"stage_2_train_images/{name}.dcm" for name in ids] + ["stage_2_test_images/1.dcm"],
        {
            "stage_2_train_labels.csv": labels,
            "stage_2_detailed_class_info.csv": ["patientId,class", *map(",".join, zip(ids, classes, strict=True))],
        },
    )
    expected = {
        f"{ids[n]}.dcm": ("train", label, ids[n]) for n, label in ((0, "NORMAL"), (1, "PNEUMONIA"), (3, "PNEUMONIA"))
    }
    assert told(root) == told(root / "stage_2_train_labels.csv") == expected
    assert "left out 1 No Lung Opacity / Not Normal" in caplog.text and "1 films that no table names" in caplog.text
    (root / "stage_2_detailed_class_info.csv").write_text(f"patientId,class\n{ids[1]},Normal\n")
    with pytest.raises(InputError, match="says two things of .*: Normal, and Lung Opacity|Lung Opacity, and Normal"):
        told(root)
    (root / "stage_2_detailed_class_info.csv").unlink()
    with pytest.raises(InputError, match="stage_2_detailed_class_info.csv is missing"):
        told(root)


def test_covidx(tmp_path: Path) -> None:
    root = lay(
        tmp_path / "covidx",
        ["train/a.png", "train/b (1).png", "train/c.jpg", "test/a.png", "test/d.jpeg", "test/e.png"],
        {
            "train_COVIDx9A.txt": ["p1 a.png normal rsna", "p1 b (1).png pneumonia rsna", "p2 c.jpg COVID-19 sirm"],
            "test_COVIDx9A.txt": ["p3 a.png pneumonia rsna", "p4 d.jpeg normal rsna", "p5 e.png COVID-19 sirm"],
        },
    )
    data = read_source(root, None)
    names = data["train"].features["label"].names
    assert names == ["NORMAL", "PNEUMONIA", "COVID-19"]  # one finding a film: a label of its own
    assert [(film["file_name"], names[film["label"]], film["patient_id"]) for film in data["test"]] == [
        ("test/a.png", "PNEUMONIA", "p3"),
        ("test/d.jpeg", "NORMAL", "p4"),
        ("test/e.png", "COVID-19", "p5"),
    ]
    assert [film["file_name"] for film in data["train"]] == ["train/a.png", "train/b (1).png", "train/c.jpg"]


def test_vindr(tmp_path: Path, caplog) -> None:
    ids = [f"{n:032x}" for n in range(5)]
    columns = "Consolidation,Lung Opacity,Pneumonia,Other diseases,No finding"
    votes = {
        ids[0]: ["0,0,0,0,1", "0,0,0,0,1", "0,0,1,0,0"],
        ids[1]: ["1,0,1,0,0", "0,0,1,0,0", "0,0,0,0,1"],
        ids[2]: ["0,0,1,0,0", "0,1,0,0,0", "0,0,0,0,1"],
    }
    root = lay(
        tmp_path / "vindr",
        [f"{'train' if n < 3 else 'test'}/{name}.dicom" for n, name in enumerate(ids)],
        {
            "annotations/image_labels_train.csv": [
                f"image_id,rad_id,{columns}",
                *(f"{name},R{n},{row}" for name, rows in votes.items() for n, row in enumerate(rows)),
            ],
            "annotations/image_labels_test.csv": [f"image_id,{columns}", f"{ids[3]},0,0,1,0,0", f"{ids[4]},0,0,0,0,1"],
            "annotations/annotations_train.csv": ["image_id,rad_id,class_name,x_min", f"{ids[0]},R1,No finding,"],
        },
    )
    assert told(root) == {
        f"{ids[0]}.dicom": ("train", "NORMAL", ids[0]),
        f"{ids[1]}.dicom": ("train", "PNEUMONIA", ids[1]),
        f"{ids[3]}.dicom": ("test", "PNEUMONIA", ids[3]),
        f"{ids[4]}.dicom": ("test", "NORMAL", ids[4]),
    }
    assert "left out 1 no majority of the readers" in caplog.text


def test_padchest(tmp_path: Path, caplog) -> None:
    labels = [
        "['normal']",
        "[' pneumonia', 'pleural effusion']",
        "['scoliosis']",
        "['normal', 'suboptimal study']",
        "",
    ]
    root = lay(
        tmp_path / "padchest",
        [f"{n}/21684011136696401382954316651201333813574{n}_02-094-102.png" for n in range(5)],
        {
            "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz": [
                ",ImageID,ImageDir,StudyDate_DICOM,PatientID,PatientBirth,PatientSex_DICOM,Projection,Report,Labels",
                *(
                    f"{n},21684011136696401382954316651201333813574{n}_02-094-102.png,{n},20140101,p{n},1970.0,"
                    f'{"FM"[n % 2]},{"L" if n else "PA"},"sin hallazgos, normal","{label}"'
                    for n, label in enumerate(labels)
                ),
            ]
        },
    )
    films = read_source(root, None)["train"]
    assert [(film["label"], film["patient_id"], film["sex"], film["view"]) for film in films] == [
        (0, "p0", "F", "PA"),
        (1, "p1", "M", "LATERAL"),
    ]
    assert "1 ['scoliosis']" in caplog.text and "1 (no label)" in caplog.text


def test_siim(tmp_path: Path, caplog) -> None:
    header = "id,Negative for Pneumonia,Typical Appearance,Indeterminate Appearance,Atypical Appearance"
    root = lay(
        tmp_path / "siim",
        [f"train/study{n}/series/image{n}.dcm" for n in range(3)],
        {
            "train_study_level.csv": [header, "study0_study,1,0,0,0", "study1_study,0,1,0,0", "study2_study,0,0,1,0"],
            "train_image_level.csv": [
                "id,boxes,label,StudyInstanceUID",
                "image0_image,,none 1 0 0 1 1,study0",
                """image1_image,"[{'x': 789.2, 'y': 582.4}]",opacity 1 789.2 582.4 1815.9 2499.7,study1""",
                "image2_image,,none 1 0 0 1 1,study2",
            ],
        },
    )
    assert {name: value[:2] for name, value in told(root).items()} == {
        "image0.dcm": ("train", "NORMAL"),
        "image1.dcm": ("train", "PNEUMONIA"),
    }
    assert "left out 1 Indeterminate Appearance" in caplog.text
    assert read_source(root, label_map={"Indeterminate Appearance": "PNEUMONIA"})["train"]["label"] == [0, 1, 1]


def test_a_table_of_ones_own_and_splits_of_ones_own_count(tmp_path: Path) -> None:
    root = chexpert(tmp_path)
    lines = (root / "train.csv").read_text().splitlines()
    own = [f"{lines[0]},label", f"{lines[1]},Pneumonia", f"{lines[2]},Normal"]
    lay(root, [], {"train.csv": own})
    assert [value[1] for value in told(root / "train.csv").values()] == ["PNEUMONIA", "NORMAL"]
    root = chexpert(tmp_path)
    path = lines[1].split(",")[0]
    lay(root, [], {"splits.csv": ["path,split", f"{path},test"]})
    data = read_source(root)
    assert [film["file_name"] for film in data["test"]] == ["train/patient00000/study0/view1_frontal.jpg"]
    assert (len(data["train"]), len(data["validation"])) == (1, 1)
