"""The words that names of folders and files are made of, in the languages of their users.

All are compared in the spelling of `plain`: without letter case, accents and width.
"""

import unicodedata

# These letters are no others with an accent, for Unicode.
_LETTERS = str.maketrans("łŁøØđĐıæÆœŒ", "lLoOdDieEoO")


def plain(text: str) -> str:
    """A text without accents, wide letters as usual ones, letter case as it is.

    It is the same for both Unicode forms of an accent, that of macOS and that of others.
    """
    apart = unicodedata.normalize("NFKD", text.translate(_LETTERS))
    kept = "".join(letter for letter in apart if not unicodedata.combining(letter))
    return unicodedata.normalize("NFC", kept)


def _words(text: str) -> frozenset[str]:
    return frozenset(plain(text).casefold().split())


NORMAL = _words("""
    good ok okay normal pass passed healthy nominal flawless acceptable accepted conforming conform
    perfect undamaged
    io gut gute guter gutes gutteil gutteile intakt fehlerfrei ordnung einwandfrei
    bon bons bonne bonnes conforme conformes
    bueno buena buenos buenas correcto correcta correctos correctas apto aptos aceptado aceptados
    buono buoni buona buone conformi accettato accettati
    bom boa bons boas aprovado aprovados aprovada aprovadas
    goed goede goedgekeurd
    godkänd godkända godkänt godkjent godkendt felfri felfria bra
    hyvä hyvät hyväksytty hyväksytyt kunnossa ehjä ehjät
    dobry dobra dobre dobrý dobrá dobré jó sağlam kusursuz iyi
    хороший хорошая хорошее хорошие годный годные годен норма исправный исправные добрі придатні
    καλό καλά
    正常 合格 良品 良 양품 정상 합격
""")
DEFECT = _words("""
    bad ng nok ko nio fail fails failed failure failures reject rejects rejected def defect defects
    defective defected anomaly anomalies anomalous abnormal abnormals abnormality abnormalities
    fault faults faulty flaw flaws flawed scrap damage damaged damages broken nonconforming
    unacceptable notok notgood nogood outlier outliers nonconform
    schlecht schlechte schlechtteil schlechtteile fehler fehlerhaft fehlerhafte defekt defekte
    defekter ausschuss schrott schaden schäden beschädigt beschädigte mangel mängel mangelhaft
    mauvais mauvaise mauvaises défaut défauts défectueux défectueuse rebut rebuts
    malo mala malos malas defecto defectos defectuoso defectuosos defectuosa rechazado rechazados
    difetto difetti difettoso difettosi scarto scarti cattivo cattivi
    ruim ruins defeito defeitos defeituoso reprovado reprovados rejeitado rejeitados
    fout fouten slecht slechte afgekeurd defecten
    underkänd underkända underkänt underkjent underkendt felaktig felaktiga fel dålig dåliga feil
    huono huonot hylätty hylätyt viallinen vialliset vika
    wada wady wadliwy wadliwe wadliwa zły złe zła vadný vadné vadna špatný špatné zlé chybný chybné
    zmetek zmetky rossz hibás selejt kötü hatali kusurlu
    брак бракованный бракованные дефект дефекты дефектный дефектные плохой плохие негодный негодные
    неисправный неисправные дефектов
    κακό κακά ελαττωματικά
    异常 異常 异物 異物 缺陷 欠陥 不良 不良品 不合格 불량 불량품 불합격 결함
    crack cracks cracked scratch scratches scratched dent dents dented stain stains stained
    contamination contaminated rust burr corrosion corroded misplaced bent blowhole fracture fray
""")
# Alone, before a word of the other kind, or behind it.
NOT = _words("""
    not no non un without zero nicht kein keine ohne sin sans senza não geen niet zonder nie bez
    ikke inte ej icke uden uten utan не без
""")
FREE = _words("free less frei")
LINKS = _words("of from any the in")

MASKS = _words("""
    mask masks gt gts groundtruth groundtruths label labels annotation annotations annot annots
    annotated seg segs segmentation segmentations segmask segmasks labelmask labelmasks
    maske masken maskierung annotationen masque masques máscara máscaras maschera maschere
    masker maskers maska maski masky maszk máscaras маска маски
    étiquettes etiquetas etichette anotaciones anotações annotazioni
    マスク 掩码 掩膜 掩模 蒙版 標注 标注 标签 ラベル アノテーション 마스크 라벨
""")
# Of these, some are also words for what is on a product, or for a part of it.
PRODUCT_LABELS = _words("""
    label labels seg segs segmentation segmentations annotated étiquettes etiquetas etichette
    标签 ラベル 라벨
""")
SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
    "testing": "test",
    "tests": "test",
}
# Nobody has judged, or not yet, what lies in folders of these names; some hold no photographs.
UNJUDGED = _words("""
    unknown unclear uncertain undecided undefined unsorted unjudged unlabeled unlabelled unchecked
    unclassified todo tbd pending maybe doubtful review reviews recheck check verify
    rework reworked repair repaired trash deleted discarded backup
    overlay overlays heatmap heatmaps prediction predictions result results
    unbekannt unklar unsortiert ungeprüft prüfen nacharbeit repariert
    inconnu inconnus desconocido desconocidos sconosciuto sconosciuti onbekend okänd
    неизвестно 未知 未分類 未分类 確認 미분류
""")
# These say nothing of what is in a folder.
IMAGES = _words("image images img imgs rgb color colour picture pictures")
NEUTRAL = IMAGES | _words("""
    dir folder data dataset set file files png jpg bmp tif photo photos sample samples all raw
    bild bilder fotos foto imagen imagenes immagini imagens
""")
# Folders of these names group images by when, where and how they were taken.
GROUPS = NEUTRAL | _words("""
    monday tuesday wednesday thursday friday saturday sunday january february march april may june
    july august september october november december jan feb mar apr jun jul aug sep oct nov dec mon
    tue wed thu fri sat sun day week month year date morning evening night am pm shift
    montag dienstag mittwoch donnerstag freitag samstag sonntag januar februar märz mai juni juli
    oktober dezember lundi mardi mercredi jeudi vendredi samedi lunes martes miércoles jueves
    viernes line station machine cell camera cam view lens light exposure gain batch lot run session
    series part parts product products item items serial sn id no nr number kw tag woche schicht
    linie maschine kamera ansicht charge los serie nummer teil teile produkt caméra ligne lote
    lotto linea cámara turno pieza piezas pezzi pièces
    left right top bottom front back rear side up down new old first second third links rechts oben
    unten vorne hinten red green blue black white gray grey yellow rot grün blau schwarz weiß
""")
# What differs only in its number may be a class behind these words.
CLASSES = _words("class classes cls category cat type kind grade c")
