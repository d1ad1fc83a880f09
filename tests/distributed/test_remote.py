"""Images in a bucket: moto's S3 server on loopback, read by s3fs."""

import pytest
from scorings import BATCH, alone, files

fsspec = pytest.importorskip("fsspec", reason="needs fastad[remote]")
pytest.importorskip("s3fs", reason="needs s3fs")
moto = pytest.importorskip("moto.server", reason="needs moto[server]")

NAMES = "good/10.png", "good/9.png", "hole/3.png", "hole/deep/.er/4.png", "good/notes.txt"
IMAGES = "good/9.png", "good/10.png", "hole/3.png"  # in natural order


@pytest.fixture(scope="module")
def bucket(desk):
    """A bucket with some test images; the environment that a process needs to read it."""
    server = moto.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    own = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in own.items():
            patch.setenv(name, value)
        system = fsspec.filesystem("s3")
        system.mkdir("line")
        for name in NAMES:
            source = desk / "cap/test" / name.replace("10", "2").replace("9", "1")
            content = source.read_bytes() if source.exists() else b"no image"
            system.pipe_file(f"line/cam 1/{name}", content)
        yield own
    server.stop()
    system.clear_instance_cache()


def predicted(desk, capsys, *images):
    capsys.readouterr()
    code = alone("predict", desk / "cap.fastad", *images, "--csv", "-", "--quiet", *BATCH)
    return code, capsys.readouterr()


def test_predict_reads_a_bucket(desk, bucket, tmp_path, capsys):
    """One address, a list of them and a folder: as the files themselves."""
    addresses = [f"s3://line/cam 1/{name}" for name in IMAGES]
    local = [desk / f"cap/test/{name}" for name in ("good/1.png", "good/2.png", "hole/3.png")]
    expected = predicted(desk, capsys, *local)[1].out
    for path, address in zip(local, addresses, strict=True):
        expected = expected.replace(str(path), address)
    (tmp_path / "list.txt").write_text("\n".join(addresses))
    for images in (addresses, ["--images-from", tmp_path / "list.txt"], ["s3://line/cam 1/"]):
        code, said = predicted(desk, capsys, *images)
        assert (code, said.out) == (0, expected)


def test_what_a_bucket_does_not_hold(desk, bucket, capsys):
    for images, reason in (
        (["s3://line/none.png"], "there is no image s3://line/none.png"),
        (["s3://line/cam 1"], "there is no image s3://line/cam 1; the address of a folder ends"),
        (["s3://line/empty/"], "there are no images in the folder s3://line/empty/"),
        (["s3://nowhere/line/"], "s3://nowhere/line/"),
    ):
        code, said = predicted(desk, capsys, *images)
        assert code == 1
        assert reason in said.out + said.err


def test_a_store_that_is_not_there_is_named(desk, bucket, monkeypatch, capsys):
    """Errors of botocore are no OSError."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    system = fsspec.filesystem("s3")
    system.clear_instance_cache()
    for images in (["s3://line/cam 1/good/9.png"], ["s3://line/cam 1/"]):
        code, said = predicted(desk, capsys, *images)
        assert code == 1
        assert f"{images[0]} cannot be read: " in said.out + said.err
    system.clear_instance_cache()


def test_ranks_read_a_bucket(desk, bucket, ranks, tmp_path):
    def prediction(folder):
        folder.mkdir()
        words = "predict", desk / "cap.fastad", "s3://line/cam 1/", "--output", folder
        return [*words, "--heatmaps", "--quiet", *BATCH, "--batch-size", "1"]

    assert alone(*prediction(tmp_path / "one")) == 0
    call = "commands:in_environment", bucket, "small_parts", "command"
    codes, said = ranks(2, *call, *prediction(tmp_path / "two"))
    assert codes == [0, 0], said
    assert files(tmp_path / "two") == files(tmp_path / "one")
    assert len(files(tmp_path / "one")) == 5
