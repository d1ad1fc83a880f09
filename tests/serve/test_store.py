"""The store: once by content, labels and undo, retention, on SQLite and on PostgreSQL."""

import time
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy", reason="needs fastad[serve]")

from fastad.serve.store import GIB, Entry, Filters, Store

CONTENT = b"x" * 1000


def entry(store, content=CONTENT, **values):
    if not store.versions("part"):
        add_version(store)
    given = {
        "time": time.time(),
        "detector": "part",
        "version": store.versions("part")[0].id,
        "camera": "",
        "name": "",
        "key": None,
        "score": 0.5,
        "p_value": None,
        "is_anomalous": False,
        "threshold": 1.0,
        "input": "ok",
        "height": 8,
        "width": 8,
        "regions": [],
        "appearance": [],
    }
    return Entry(content, "PNG", given | values, b"map", None)


def add_version(store, scale=1):
    path = {"path": "part.fastad", "digest": "0", "note": "given"}
    return store.add_version(detector="part", **path, scale=scale, parent=None)


@pytest.fixture
def store(store_url):
    return Store(store_url)


def test_an_image_is_stored_once(store):
    first, second = store.add([entry(store), entry(store)])
    [third] = store.add([entry(store)])
    assert len({first.id, second.id, third.id}) == 3
    assert first.image == second.image == third.image
    assert store.used() == len(CONTENT) + 3 * len(b"map")
    assert store.content(first.image) == (CONTENT, "PNG")


def test_all_or_nothing(store):
    store.add([entry(store, key="a")])
    with pytest.raises(Exception, match=r"(?i)null"):
        store.add([entry(store, b"other", key="b"), entry(store, key="c", camera=None)])
    assert store.page(Filters())[1] == 1
    assert list(store.with_keys(["b", "a"])) == ["a"]
    assert store.used() == len(CONTENT) + len(b"map")


def test_a_key_gives_the_result_that_it_gave_before(store):
    [first] = store.add([entry(store, key="a")])
    again, new, twice = store.add(
        [entry(store, b"other", key="a"), entry(store, key="b"), entry(store, key="b")]
    )
    assert (again.id, twice.id) == (first.id, new.id)
    assert store.page(Filters())[1] == 2
    assert store.content(again.image)[0] == CONTENT
    assert store.used() == len(CONTENT) + 2 * len(b"map")


def test_filters_and_pages(store):
    store.add([entry(store, camera=str(i % 2), is_anomalous=i < 3) for i in range(9)])
    found, total = store.page(Filters(camera="1"), limit=2)
    assert (len(found), total) == (2, 4)
    rest, _ = store.page(Filters(camera="1"), before=found[-1].id, limit=9)
    assert len(rest) == 2
    assert not {r.id for r in rest} & {r.id for r in found}
    assert store.page(Filters(verdict="defect"))[1] == 3
    assert store.page(Filters(since=time.time() + 9))[1] == 0
    newer, older = store.neighbours(found[-1].id, Filters(camera="1"))
    assert (newer, older) == (found[0].id, rest[0].id)
    assert [r.id for r in store.every(Filters())] == sorted(r.id for r in store.every(Filters()))


def test_labels_are_undone_one_by_one(store):
    [one] = store.add([entry(store)])
    for label in ("good", "defect", "defect"):
        store.label(one.id, label)
    assert store.page(Filters(label="defect"))[1] == 1
    assert store.undo().label == "good"
    assert store.undo().label is None
    assert store.undo() is None
    assert store.label(999, "good") is None


def test_an_image_with_both_labels_is_not_good(store):
    first, second, third = store.add([entry(store), entry(store), entry(store, b"other")])
    for one in (first, third):
        store.label(one.id, "good")
    store.label(second.id, "defect")
    assert store.good_images("part") == [third.image]


def test_scores_of_another_scale_are_left_out(store):
    [one] = store.add([entry(store)])
    add_version(store, scale=2)
    [two] = store.add([entry(store, score=0.7)])
    for each in (one, two):
        store.label(each.id, "good")
    assert store.of_scale("part", 2) == [(0.7, "good")]


def test_one_version_is_active(store):
    first, second = add_version(store), add_version(store)
    assert [v.is_active for v in store.versions("part")] == [True, False]
    store.activate(first)
    assert [v.id for v in store.versions("part") if v.is_active] == [first.id]
    assert second.id > first.id


def test_days_and_labels(store_url):
    store = Store(store_url, keep_days=1)
    old, kept, new = store.add(
        [
            entry(store, b"old", time=time.time() - 2 * 86400),
            entry(store, b"kept", time=time.time() - 2 * 86400),
            entry(store, b"new"),
        ]
    )
    store.label(kept.id, "good")
    assert store.retain() == 1
    assert store.result(old.id) is None
    assert store.result(kept.id).label == "good"
    assert store.result(new.id) is not None
    with pytest.raises(LookupError, match="no image"):
        store.content(old.image)


def test_gib(store_url):
    store = Store(store_url, keep_gib=3.5 * 1003 / GIB)
    store.add([entry(store, bytes([i]) * 1000) for i in range(3)])
    assert store.retain() == 0
    store.add([entry(store, b"4" * 1000)])
    assert store.retain() > 0
    assert store.used() <= 3.5 * 1003


def test_what_is_deleted_leaves_the_file(tmp_path):
    path = tmp_path / "line.db"
    store = Store(str(path), keep_gib=2.5e6 / GIB)

    def size():
        with store.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return path.stat().st_size

    store.add([entry(store, bytes([i]) * 100_000) for i in range(40)])
    assert size() > 4_000_000
    store.retain(seconds=60)
    assert 2_000_000 < size() < 2_700_000


def test_the_bytes_are_summed_without_a_look_at_the_images(tmp_path):
    store = Store(str(tmp_path / "line.db"))
    with store.engine.connect() as connection:
        for table in ("images", "maps"):
            asked = f"EXPLAIN QUERY PLAN SELECT sum(size) FROM {table}"
            assert "COVERING INDEX" in str(connection.exec_driver_sql(asked).fetchall())


def test_retention_leaves_time_for_answers(tmp_path):
    store = Store(str(tmp_path / "line.db"), keep_days=1)
    store.add([entry(store, bytes([i]), time=0.0) for i in range(50)])
    assert store.retain(seconds=0.0) == 0
    assert store.retain(seconds=60) == 50


def test_a_file_in_no_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        Store(str(tmp_path / "none" / "line.db"))


def test_sqlite_survives_a_loss_of_power(tmp_path):
    store = Store(str(tmp_path / "line.db"))
    with store.engine.connect() as connection:
        asked = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert asked == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    assert Path(tmp_path / "line.db").is_file()
