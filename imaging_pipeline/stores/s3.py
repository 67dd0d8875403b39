"""Objects of S3 below a prefix, page by page."""

from collections.abc import Iterator
from typing import Any


def list_pages(filesystem: Any, url: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name with its bucket, and what S3 says, of every object below a prefix, in the order of their names.

    s3fs's own `find` also puts together the folders, in time that grows with the square of their number.

    Args:
        filesystem: s3fs's.
        url: The prefix; whole parts of names between slashes match it.
    """
    bucket, key, _ = filesystem.split_path(url)
    request = {"Bucket": bucket, "Prefix": f"{key}/" * bool(key)}
    while True:
        page = filesystem.call_s3("list_objects_v2", **request)
        for item in page.get("Contents", ()):
            yield f"{bucket}/{item['Key']}", {**item, "type": "file", "size": item["Size"]}
        if not page.get("IsTruncated"):
            return
        request["ContinuationToken"] = page["NextContinuationToken"]
