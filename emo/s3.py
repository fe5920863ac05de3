"""S3 as s3fs has it, but sooner tired of a store that never answers, and with errors like those of any other files."""

import contextlib
import errno
from collections.abc import Iterator
from typing import Any

from aiohttp import ClientPayloadError
from botocore.exceptions import BotoCoreError
from s3fs import S3FileSystem


class S3(S3FileSystem):
    """Read and written with the credentials, endpoint and region that the environment names for every AWS tool.

    botocore tries each request five times, or as AWS_MAX_ATTEMPTS and AWS_RETRY_MODE say, and s3fs tries that again;
    a store that keeps silent for 15 s every time is given up after four minutes, not after half an hour.
    """

    retries = 3

    async def _call_s3(self, *args: Any, **kwargs: Any) -> Any:
        with _os_errors():
            return await super()._call_s3(*args, **kwargs)

    async def _cat_file(self, *args: Any, **kwargs: Any) -> Any:
        with _os_errors():
            return await super()._cat_file(*args, **kwargs)


@contextlib.contextmanager
def _os_errors() -> Iterator[None]:
    """No credentials, no connection, no answer or half of one are an OSError, which also says that all tries are spent."""
    try:
        yield
    except (BotoCoreError, ClientPayloadError) as error:
        raise OSError(errno.EIO, f"{error}".removesuffix(".")) from error
