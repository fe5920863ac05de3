"""infra/terraform planned with mocked resources, and applied to a mocked AWS, which is then looked at and destroyed.

It takes three minutes, one of which the provider waits for the bucket's lifecycle, and another to see all gone.
"""

import contextlib
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError
from s3 import environment, moto
from terraform import TERRAFORM, copied, initialised, terraform

from cluster import configure

pytestmark = [pytest.mark.slow, pytest.mark.skipif(TERRAFORM is None, reason="terraform is not installed")]

ADMIN, VPN = "203.0.113.7/32", "10.8.0.0/16"
NODE_TYPES = {"head", "cpu", "gpu-small-spot", "gpu-small", "gpu-large-spot", "gpu-large"}
"""As in cluster/."""

# moto has no names below its own, as buckets would be on AWS.
_PROVIDER = 'provider "aws" {\n  s3_use_path_style = true\n}\n'


class Applied:
    """What was made, by its outputs and through AWS's API."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        self.folder = folder
        self.variables = variables
        said = terraform(folder, "output", "-json", env=variables)
        self.outputs = {name: each["value"] for name, each in json.loads(said.stdout).items()}
        self.bucket = self.outputs["bucket"].removeprefix("s3://")

    def client(self, service: str, **credentials: str):
        return boto3.client(
            service,
            endpoint_url=self.variables["AWS_ENDPOINT_URL"],
            region_name="us-east-1",
            **({"aws_access_key_id": "key", "aws_secret_access_key": "secret"} | credentials),
        )

    def statements(self, policy: str) -> dict[str, dict]:
        """Those of one of the project's policies, by their names."""
        iam = self.client("iam")
        arn = next(each["Arn"] for each in iam.list_policies(Scope="Local")["Policies"] if each["PolicyName"] == policy)
        document = iam.get_policy_version(PolicyArn=arn, VersionId="v1")["PolicyVersion"]["Document"]
        return {each["Sid"]: each for each in document["Statement"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return initialised(copied(tmp_path_factory.mktemp("terraform")))


@pytest.fixture(scope="module")
def applied(folder) -> Iterator[Applied]:
    """Everything there is, but for the add-ons of EKS, which moto does not know; destroyed in the end."""
    (folder / "provider_override.tf").write_text(_PROVIDER)
    (folder / "test.auto.tfvars").write_text(
        "enable_kubernetes = true\nkubernetes_addons = []\nforce_destroy = true\n"
        f'admin_cidrs = ["{ADMIN}"]\nssh_cidrs = ["{VPN}"]\n'
    )
    with moto(MOTO_IAM_LOAD_MANAGED_POLICIES="true") as address:
        variables = environment(address)
        made = terraform(folder, "apply", "-auto-approve", "-no-color", env=variables)
        assert made.returncode == 0, made.stderr
        yield Applied(folder, variables)
        gone = terraform(folder, "destroy", "-auto-approve", "-no-color", env=variables)
        assert gone.returncode == 0, gone.stderr
        assert terraform(folder, "state", "list", env=variables).stdout == ""


def test_plans_are_as_the_configuration_promises(folder):
    tested = terraform(folder, "test", "-no-color")
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_the_outputs_are_what_the_cluster_files_ask_for(applied):
    outputs = applied.outputs
    assert outputs["bucket"] == "s3://emo-123456789012-us-east-1"
    assert outputs["repository"].endswith("/emo")
    for role in ("head_instance_profile", "worker_instance_profile"):
        assert outputs[role] == configure.settings()[role]
    assert outputs["irsa_role"].rpartition("/")[2] == configure.settings()["irsa_role"].rpartition("/")[2]
    assert len(outputs["subnets"]) == 2


def test_nodes_are_open_to_each_other_and_to_ssh_from_the_vpn(applied):
    ec2, group = applied.client("ec2"), applied.outputs["security_group"]
    rules = ec2.describe_security_group_rules(Filters=[{"Name": "group-id", "Values": [group]}])["SecurityGroupRules"]
    ingress = [rule for rule in rules if not rule["IsEgress"]]
    among = [rule["ReferencedGroupInfo"]["GroupId"] for rule in ingress if "ReferencedGroupInfo" in rule]
    outside = [(rule["CidrIpv4"], rule["FromPort"], rule["ToPort"]) for rule in ingress if "CidrIpv4" in rule]
    assert among == [group]
    assert outside == [(VPN, 22, 22)]
    assert {rule["FromPort"] for rule in rules if rule["IsEgress"] and "CidrIpv4" in rule} == {80, 443}


def test_nodes_have_no_public_address_and_reach_s3_without_the_gateway(applied):
    ec2, subnets = applied.client("ec2"), applied.outputs["subnets"]
    found = ec2.describe_subnets(SubnetIds=subnets)["Subnets"]
    tables = ec2.describe_route_tables(Filters=[{"Name": "association.subnet-id", "Values": subnets}])["RouteTables"]
    (endpoint,) = ec2.describe_vpc_endpoints()["VpcEndpoints"]
    assert not any(subnet["MapPublicIpOnLaunch"] for subnet in found)
    assert {subnet["AvailabilityZone"] for subnet in found} == {"us-east-1a", "us-east-1b"}
    assert not any(route.get("GatewayId", "").startswith("igw-") for table in tables for route in table["Routes"])
    assert {table["RouteTableId"] for table in tables} <= set(endpoint["RouteTableIds"])


def test_the_bucket_is_encrypted_versioned_private_and_speaks_tls_only(applied):
    s3, bucket = applied.client("s3"), {"Bucket": applied.bucket}
    (rule,) = s3.get_bucket_encryption(**bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    (denied,) = json.loads(s3.get_bucket_policy(**bucket)["Policy"])["Statement"]
    assert rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "aws:kms"
    assert s3.get_bucket_versioning(**bucket)["Status"] == "Enabled"
    assert all(s3.get_public_access_block(**bucket)["PublicAccessBlockConfiguration"].values())
    assert (denied["Effect"], denied["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})


def test_only_the_cache_expires_and_broken_uploads_go(applied):
    rules = applied.client("s3").get_bucket_lifecycle_configuration(Bucket=applied.bucket)["Rules"]
    assert [rule["Filter"]["Prefix"] for rule in rules if "Expiration" in rule] == ["cache/"]
    assert [rule["AbortIncompleteMultipartUpload"] for rule in rules if "AbortIncompleteMultipartUpload" in rule] == [
        {"DaysAfterInitiation": 3}
    ]


def test_an_image_that_was_pushed_keeps_its_tag_and_is_scanned(applied):
    (repository,) = applied.client("ecr").describe_repositories()["repositories"]
    assert repository["imageTagMutability"] == "IMMUTABLE"
    assert repository["imageScanningConfiguration"] == {"scanOnPush": True}


def test_the_head_starts_workers_of_its_own_cluster_and_nothing_else(applied):
    statements = applied.statements("emo-autoscaling")
    start, within = statements["StartInstances"], statements["StartWithin"]["Resource"]
    assert start["Condition"] == {"StringEquals": {"aws:RequestTag/ray-cluster-name": "emo"}}
    assert statements["Keep"]["Condition"] == {"StringEquals": {"aws:ResourceTag/ray-cluster-name": "emo"}}
    assert statements["StartAsWorker"]["Resource"] == "arn:aws:iam::123456789012:role/emo-worker"
    assert {each.split("/")[1] for each in within if ":subnet/" in each} == set(applied.outputs["subnets"])
    assert [each.split("/")[1] for each in within if ":security-group/" in each] == [applied.outputs["security_group"]]


def test_only_what_has_no_name_is_allowed_of_everything(applied):
    policies = ["emo-storage", "emo-images", "emo-autoscaling", "emo-shell"]
    statements = [each for name in policies for each in applied.statements(name).values()]
    actions = [[each["Action"]] if isinstance(each["Action"], str) else each["Action"] for each in statements]
    of_everything = [
        action for each, all_ in zip(statements, actions, strict=True) if each["Resource"] == "*" for action in all_
    ]
    nameless = ("ecr:GetAuthorizationToken", "ec2:Describe", "ssm:UpdateInstanceInformation", "ssmmessages:")
    assert all(action.startswith(nameless) for action in of_everything)
    assert not any("*" in action for all_ in actions for action in all_)


def test_only_the_service_account_of_the_jobs_may_take_the_role_of_the_pods(applied):
    role = applied.client("iam").get_role(RoleName="emo-pods")["Role"]
    (statement,) = role["AssumeRolePolicyDocument"]["Statement"]
    allowed = {name.rpartition(":")[2]: value for name, value in statement["Condition"]["StringEquals"].items()}
    assert statement["Action"] == "sts:AssumeRoleWithWebIdentity"
    assert allowed == {"sub": "system:serviceaccount:emo:emo", "aud": "sts.amazonaws.com"}


def test_kubernetes_encrypts_secrets_logs_and_answers_its_admins(applied):
    cluster = applied.client("eks").describe_cluster(name=applied.outputs["kubernetes_cluster"])["cluster"]
    assert cluster["encryptionConfig"][0]["resources"] == ["secrets"]
    assert cluster["resourcesVpcConfig"]["publicAccessCidrs"] == [ADMIN]
    logged = {kind for log in cluster["logging"]["clusterLogging"] if log["enabled"] for kind in log["types"]}
    assert logged == {"api", "audit", "authenticator", "controllerManager", "scheduler"}


def test_each_worker_group_has_nodes_of_its_own(applied):
    eks, cluster = applied.client("eks"), applied.outputs["kubernetes_cluster"]
    names = eks.list_nodegroups(clusterName=cluster)["nodegroups"]
    groups = {name: eks.describe_nodegroup(clusterName=cluster, nodegroupName=name)["nodegroup"] for name in names}
    assert set(groups) == NODE_TYPES
    for name, group in groups.items():
        assert group["labels"]["emo/node-type"] == name
        assert bool(group.get("taints")) == name.startswith("gpu-")
        assert group["capacityType"] == ("SPOT" if name.endswith("-spot") else "ON_DEMAND")
        assert set(group["subnets"]) == set(applied.outputs["subnets"][: 1 if name == "head" else None])
        assert (group["scalingConfig"]["minSize"] > 0) == (name == "head")


@contextlib.contextmanager
def enforced(endpoint: str) -> Iterator[None]:
    """From here on moto asks a role's policies what it may do."""

    def after(calls: str) -> None:
        number = urllib.request.Request(
            f"{endpoint}/moto-api/reset-auth", calls.encode(), {"Content-Type": "text/plain"}
        )
        urllib.request.urlopen(number, timeout=10)

    after("0")
    yield
    after("inf")


@pytest.mark.parametrize("profile", ["emo-head", "emo-worker", "emo-pods"])
def test_the_nodes_write_runs_and_the_cache_and_only_read_data(applied, profile):
    role = f"arn:aws:iam::123456789012:role/{profile}"
    applied.client("s3").delete_bucket_policy(Bucket=applied.bucket)  # moto denies without a look at its condition
    applied.client("s3").put_object(Bucket=applied.bucket, Key="data/posts.jsonl", Body=b"{}")
    taken = applied.client("sts").assume_role(RoleArn=role, RoleSessionName="test")["Credentials"]
    s3 = applied.client(
        "s3",
        aws_access_key_id=taken["AccessKeyId"],
        aws_secret_access_key=taken["SecretAccessKey"],
        aws_session_token=taken["SessionToken"],
    )
    with enforced(applied.variables["AWS_ENDPOINT_URL"]):
        for key in ("runs/one/config.json", "cache/posts/part"):
            s3.put_object(Bucket=applied.bucket, Key=key, Body=b"{}")
            s3.get_object(Bucket=applied.bucket, Key=key)
        s3.get_object(Bucket=applied.bucket, Key="data/posts.jsonl")
        s3.list_objects_v2(Bucket=applied.bucket)
        for key in ("data/posts.jsonl", "elsewhere"):
            with pytest.raises(ClientError, match="AccessDenied"):
                s3.put_object(Bucket=applied.bucket, Key=key, Body=b"{}")
        with pytest.raises(ClientError, match="AccessDenied"):
            s3.delete_bucket(Bucket=applied.bucket)
