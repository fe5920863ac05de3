"""S3 as s3fs has it, but sooner tired of a store that never answers, and with errors like those of any other files."""

import contextlib
import errno
from collections.abc import Iterator
from typing import Any

from aiohttp import ClientPayloadError
from botocore.exceptions import BotoCoreError
from fsspec.asyn import sync_wrapper
from s3fs import S3FileSystem


class S3(S3FileSystem):
    """Read and written with the credentials, endpoint and region that the environment names for every AWS tool.

    botocore tries each request five times, or as AWS_MAX_ATTEMPTS and AWS_RETRY_MODE say, and s3fs tries that again:
    a store that keeps silent for 15 s every time is given up after four minutes, not after half an hour.
    """

    retries = 3
    default_block_size = 8 * 2**20
    """Bytes that are read ahead, and of an upload's parts: Parquet's readers skip about."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # other processes write, too, and what they have written is to be found
        super().__init__(*args, **{"use_listings_cache": False} | kwargs)

    async def _mkdir(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: a folder needs no making, and a misspelt bucket is not to be made."""

    async def _makedirs(self, *args: Any, **kwargs: Any) -> None:
        """Nothing, as ``_mkdir``."""

    mkdir, makedirs = sync_wrapper(_mkdir), sync_wrapper(_makedirs)

    async def _call_s3(self, *args: Any, **kwargs: Any) -> Any:
        with _os_errors():
            return await super()._call_s3(*args, **kwargs)

    call_s3 = sync_wrapper(_call_s3)

    async def _cat_file(self, path: str, **kwargs: Any) -> bytes:
        with _os_errors():  # in one piece, since pieces that are cut short are not tried again
            return await super()._cat_file(path, **kwargs | {"max_concurrency": 1})


@contextlib.contextmanager
def _os_errors() -> Iterator[None]:
    """No credentials, no connection or no answer are an OSError, which also says that all tries are spent."""
    try:
        yield
    except BotoCoreError as error:
        raise OSError(errno.EIO, str(error).removesuffix(".")) from error
    except ClientPayloadError as error:
        raise OSError(errno.EIO, "the store's answers were cut short") from error
