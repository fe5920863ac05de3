"""EC2 on loopback: moto, strict about what it is asked for, with a limit to its spot capacity."""

import contextlib
import io
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode

import boto3
import pytest

from cluster import configure

SETTINGS = configure.settings()
IMAGE = "ami-12c6146b"
"""One that moto knows."""
STRICT = ("ENABLE_AMI_VALIDATION", "EC2_ENABLE_INSTANCE_TYPE_VALIDATION", "ENABLE_KEYPAIR_VALIDATION")
_NO_SPOT = """<?xml version="1.0" encoding="UTF-8"?><Response><Errors><Error><Code>InsufficientInstanceCapacity</Code>
<Message>There is no Spot capacity available that matches your request.</Message></Error></Errors></Response>"""


@dataclass
class FakeEC2:
    """What EC2 has and was asked for."""

    app: Callable[..., Iterable[bytes]]
    spot_left: int = 0
    """Spot instances that can still be had."""
    launches: list[dict[str, str]] = field(default_factory=list)
    """The requests that were granted, as EC2's API has them."""
    refused: int = 0
    """Requests for spot that got nothing."""
    url: str = ""

    def __call__(self, environ: dict[str, Any], start_response: Callable) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        form = dict(parse_qsl(body.decode(errors="replace")))
        if form.get("Action") == "RunInstances":
            count = int(form["MaxCount"])
            if form.get("InstanceMarketOptions.MarketType") == "spot":
                count = min(count, self.spot_left)
                self.spot_left -= count
            if not count:
                self.refused += 1
                start_response("500 Internal Server Error", [("Content-Type", "text/xml")])
                return [_NO_SPOT.encode()]
            # EC2 launches as many as it can up to MaxCount, moto MinCount.
            form |= {"MinCount": str(count), "MaxCount": str(count)}
            self.launches.append(form)
            body = urlencode(form).encode()
        environ |= {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
        return self.app(environ, start_response)

    def instances(self) -> dict[str, dict[str, str]]:
        """The tags of the instances that run, by their ids."""
        found = boto3.client("ec2").describe_instances(Filters=[{"Name": "instance-state-name", "Values": ["running"]}])
        each = (instance for reservation in found["Reservations"] for instance in reservation["Instances"])
        return {one["InstanceId"]: {tag["Key"]: tag["Value"] for tag in one["Tags"]} for one in each}


@contextlib.contextmanager
def fake_ec2() -> Iterator[FakeEC2]:
    """A running EC2, which this process's environment names until the end."""
    moto = pytest.importorskip("moto.settings", reason="moto is not installed")
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Silent(WSGIRequestHandler):
        def log_request(self, *_: Any) -> None: ...

    ec2 = FakeEC2(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, ec2, threaded=True, request_handler=Silent)
    ec2.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        for name in STRICT:
            patch.setattr(moto, name, True)
        for name, value in credentials(ec2.url).items():
            patch.setenv(name, value)
        try:
            yield ec2
        finally:
            server.shutdown()


def credentials(url: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": SETTINGS["region"],
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


def account() -> dict[str, str | list[str]]:
    """What Terraform would have made, as settings of cluster/settings.yaml."""
    ec2, iam = boto3.client("ec2"), boto3.client("iam")
    for name in ("head_instance_profile", "worker_instance_profile"):
        iam.create_instance_profile(InstanceProfileName=SETTINGS[name])
    zones = [{"Name": "availability-zone", "Values": SETTINGS["zones"].split(",")}]
    subnets = ec2.describe_subnets(Filters=zones)["Subnets"]
    group = ec2.create_security_group(GroupName="nodes", Description="Ray", VpcId=subnets[0]["VpcId"])
    return {
        "ami": IMAGE,
        "subnets": [subnet["SubnetId"] for subnet in subnets],
        "security_group": group["GroupId"],
    }
