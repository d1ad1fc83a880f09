"""What names of folders and files say."""

import unicodedata
from pathlib import Path

import pytest

from fastad.data.layouts.mask_files import split_masks
from fastad.data.layouts.naming import (
    file_key,
    is_group,
    masks_of_sibling,
    only_groups,
    owner_of,
    part_of,
    saying,
)

NORMAL = """good Good OK ok okay normal NORMAL pass passed healthy nominal gut i.O. i.O io IO bueno
    normal_dir 0_normal 0.normal ok_front OKImages normal_images train_good no_defect defect_free
    defect-free defectFree non_defective NonDefective nondefective without_scratch free_of_defects
    conforming accepted undamaged 合格 정상 O.K."""
DEFECT = """bad NG ng14 N.G. nok NOK ko fail failed reject rejected def def_front defect defects
    Defective defect_images anomaly logical_anomalies anomalous abnormal abnormal_dir 1_abnormal
    1.abnormal faulty damaged broken_large scrap schlecht nio n.i.O. n.i.O Fehler not_good notOK
    not-normal non_conforming nonconforming unacceptable scratch scratches Crack
    Défauts 不良 불량"""
MASKS = """mask masks MASK Masks gt GT ground_truth Ground-Truth groundtruth GroundTruth label
    labels annotations seg segmentation mask_dir test_masks mask_images"""
BOTH = "good_and_bad OK-NG normal+abnormal mask_ok NG_mask ok_scratch"
NOTHING = "monday img parts negative positive missing_yarn print 001 a test train rgb cut_lead"


@pytest.mark.parametrize(
    ("names", "said"),
    [(NORMAL, "normal"), (DEFECT, "defect"), (MASKS, "masks"), (BOTH, "both"), (NOTHING, None)],
)
def test_what_a_folders_name_says(names, said):
    assert {name: saying(name) for name in names.split()} == dict.fromkeys(names.split(), said)


def test_a_name_with_spaces():
    assert saying("n. i. O.") == saying("not good") == "defect"
    assert saying("ground truth") == "masks"


def test_parts_of_a_split():
    parts = {
        "train": "train Train training train_images TrainData",
        "validation": "val valid Validation",
        "test": "test TEST testing test_public test_set",
        "private": "test_private test_private_mixed",
        None: "train_good tested latest good public",
    }
    found = {name: part_of(name) for names in parts.values() for name in names.split()}
    assert found == {name: part for part, names in parts.items() for name in names.split()}


@pytest.mark.parametrize(
    "names",
    ["monday tuesday", "001 002 003", "kos01 kos02", "Cam1 Cam2", "line_1 line_2", "left right"],
)
def test_folders_that_only_group(names):
    assert only_groups(names.split())


@pytest.mark.parametrize("names", ["0 1", "00 01", "class1 class2", "a b", "monday other", "1 2"])
def test_folders_that_may_be_classes(names):
    assert not only_groups(names.split())


@pytest.mark.parametrize(
    "name",
    [
        "7_mask",
        "7_MASK",
        "7_GT",
        "7-gt",
        "7.mask",
        "7_label",
        "7_seg",
        "7_masks",
        "7_mask_2",
        "7_gt1",
    ],
)
def test_names_of_masks_beside_images(name):
    owner = owner_of(Path("bad", f"{name}.png"))
    assert owner is not None
    assert owner[0] == "7"


@pytest.mark.parametrize("name", ["7", "mask", "_mask", "7mask", "unmasked", "7_mask_b"])
def test_other_names(name):
    assert owner_of(Path(f"{name}.png")) is None


def test_masks_of_the_folder_beside():
    assert masks_of_sibling("NG_mask") == ("ng",)
    assert masks_of_sibling("Broken-GT") == ("broken",)
    assert masks_of_sibling("masks") is None
    assert masks_of_sibling("broken") is None


@pytest.mark.parametrize(
    "name",
    ["almost good", "good-ish", "ok_kratzer", "gut_mit_Kratzer", "review good", "good_heatmaps"],
)
def test_an_unknown_word_may_take_a_good_one_back(name):
    assert saying(name) == "both"


@pytest.mark.parametrize(
    "name", ["ok_front", "0_normal", "good_images", "good 2", "train_good", "camera1_ok", "OK-B"]
)
def test_known_words_take_nothing_back(name):
    assert saying(name) == "normal"


PAIRS = """Gutteile/Schlechtteile GutTeile/SchlechtTeile in_Ordnung/nicht_in_Ordnung iO/niO IO/NIO
    0_iO/1_niO unbeschädigt/beschädigt godkänd/underkänd godkendt/ikke_godkendt hyvä/huono
    bon/mauvais bonnes/mauvaises sans_défaut/défaut conforme/non_conforme bueno/malo apto/no_apto
    correctos/defectuosos buono/scarto aprovado/reprovado bom/ruim goed/fout goedgekeurd/afgekeurd
    dobre/złe dobré/špatné jó/rossz iyi/kötü sağlam/kusurlu хорошие/брак годные/негодные
    καλά/κακά 良品/不良品 正常/異常 合格/不合格 정상/불량"""


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("pair", PAIRS.split())
def test_pairs_of_names_in_other_languages(pair, form):
    for spelled in (pair, pair.upper() if "iO" not in pair and "Teile" not in pair else pair):
        good, bad = unicodedata.normalize(form, spelled).split("/")
        assert (saying(good), saying(bad)) == ("normal", "defect")
        assert saying(good.replace("_", " ")) == "normal"


MASK_WORDS = """mask Maske masque máscara maschera masker maska маска マスク 掩码 掩膜 마스크 annot
    annotation annots étiquettes Segmentation GT groundtruth ground_truth"""


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("word", MASK_WORDS.split())
def test_words_for_masks_in_other_languages(word, form):
    word = unicodedata.normalize(form, word)
    image, mask, front = (Path(f"{name}.png") for name in ("Größe 7", f"GRÖSSE 7_{word}", word))
    assert saying(word) == "masks"
    assert owner_of(mask) is not None
    assert owner_of(mask)[0] == file_key(image)
    assert owner_of(front) is None
    assert split_masks([image, mask])[:2] == ([image], {image: [mask]})


@pytest.mark.parametrize("name", ["kratzer1", "riss", "Neuer Ordner", "almost", "xyz"])
def test_folders_that_say_something_unknown(name):
    assert not is_group(name)
