"""Files in s3://, against moto on loopback."""

import pytest
from support.tiny_weights import same, weights

from pst_jax import buckets
from pst_jax.buckets import bucket_path
from pst_jax.convert import io
from pst_jax.convert.formats.orbax_folder import write_folder
from pst_jax.errors import MissingFileError, UserError
from train.evaluation import source

pytest.importorskip("s3fs")


@pytest.fixture(scope="module")
def bucket():
  server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
  server.start()
  host, port = server.get_host_and_port()
  values = {
    "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
  }
  with pytest.MonkeyPatch.context() as patch:
    for name, value in values.items():
      patch.setenv(name, value)
    buckets.filesystem(bucket_path("s3://bucket", "x")).mkdir("bucket")
    yield "s3://bucket"
  server.stop()


def test_a_file_of_weights_goes_there_and_comes_back(bucket):
  new = weights()
  io.write(f"{bucket}/w.safetensors", new)
  assert same(io.read(f"{bucket}/w.safetensors").state_dict(), new.state_dict())
  with pytest.raises(UserError, match="this object exists and is kept"):
    io.write(f"{bucket}/w.safetensors", new)


def test_a_folder_of_weights_is_read(bucket, tmp_path):
  new = weights()
  write_folder(tmp_path / "w", new.variables, new.metadata)
  buckets.filesystem(bucket).put(str(tmp_path / "w"), f"{bucket}/w", recursive=True)
  assert same(io.read(f"{bucket}/w").state_dict(), new.state_dict())


def test_a_folder_of_weights_is_not_written(bucket):
  with pytest.raises(UserError, match=r"destination is s3:.*only gs:// can be used here"):
    io.write(f"{bucket}/folder", weights())


def test_nothing_there_and_no_such_bucket_are_told(bucket):
  with pytest.raises(MissingFileError, match="there is nothing; check the name"):
    io.read(f"{bucket}/none.pt")
  with pytest.raises(UserError, match="cannot be written; nothing was changed"):
    io.write("s3://no-such-bucket/w.safetensors", weights())


def test_no_credentials_are_told(bucket, monkeypatch):
  for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
    monkeypatch.delenv(name)
  monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
  import s3fs

  s3fs.S3FileSystem.clear_instance_cache()
  monkeypatch.setattr(buckets, "_install", lambda scheme: None)
  with pytest.raises(UserError, match=r"cannot be read \(access was refused \(.*sign in"):
    io.read(f"{bucket}/w.safetensors")


def test_weights_there_are_evaluated(bucket):
  assert source.run_config(f"{bucket}/w.safetensors") is None
