"""Object storage for tests: an S3 server of this machine's, moto's."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def serve_s3(bucket: str) -> Iterator[str]:
    """Run an S3 server with an empty bucket, to which the environment leads; yields its URL."""
    boto3 = pytest.importorskip("boto3")
    moto_server = pytest.importorskip("moto.server")
    server = moto_server.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", url)
        boto3.client("s3").create_bucket(Bucket=bucket)
        yield url
    server.stop()
