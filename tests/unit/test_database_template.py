"""The optional database fits the stack, is private, encrypted, backed up, and hard to lose."""

import json
from importlib.resources import files
from typing import Any

import pytest

from tests.unit.cloudformation import ROOT, TEMPLATE, Resources, load, of_type

DATABASE = ROOT / "database.yaml"
INLINE_BYTES = 51_200


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    return load(DATABASE)


@pytest.fixture(scope="module")
def resources(template: dict[str, Any]) -> Resources:
    found: Resources = template["Resources"]
    return found


class TestHandOver:
    def test_its_outputs_are_the_stacks_parameters(self, template: dict[str, Any]) -> None:
        """By name, so that handing over is copying. The alarm topic is for people."""
        parameters = load(TEMPLATE)["Parameters"].keys()
        assert template["Outputs"].keys() - {"AlarmTopic"} == {
            "DatabaseHost",
            "DatabasePort",
            "DatabaseName",
            "DatabaseSecretArn",
            "DatabaseAccountsSecretArn",
            "DatabaseOwnerSecretArn",
            "VpcSubnetIds",
            "VpcSecurityGroupIds",
            "KmsKeyArn",
        }
        assert template["Outputs"].keys() - {"AlarmTopic"} <= parameters

    def test_it_can_be_deployed_as_it_is(self) -> None:
        """Without SAM, without a bucket: CloudFormation takes so much in the request itself."""
        assert len(DATABASE.read_bytes()) < INLINE_BYTES


class TestData:
    def test_it_is_hard_to_lose(self, template: dict[str, Any], resources: Resources) -> None:
        """Protected from deletion; a snapshot where it is deleted all the same, and its key."""
        cluster = resources["Database"]
        assert cluster["Properties"]["DeletionProtection"] == {"Ref": "DeletionProtection"}
        assert template["Parameters"]["DeletionProtection"]["Default"] == "true"
        assert cluster["Properties"]["BackupRetentionPeriod"] == {"Ref": "BackupDays"}
        assert template["Parameters"]["BackupDays"]["Default"] == 14
        assert (cluster["DeletionPolicy"], cluster["UpdateReplacePolicy"]) == ("Snapshot",) * 2
        key = resources["Key"]
        assert (key["DeletionPolicy"], key["UpdateReplacePolicy"]) == ("Retain",) * 2
        assert key["Properties"]["EnableKeyRotation"] is True

    def test_everything_that_rests_is_encrypted_with_that_key(self, resources: Resources) -> None:
        arn = {"Fn::GetAtt": ["Key", "Arn"]}
        cluster = resources["Database"]["Properties"]
        assert (cluster["StorageEncrypted"], cluster["KmsKeyId"]) == (True, arn)
        assert cluster["MasterUserSecret"] == {"KmsKeyId": arn}
        assert resources["AppSecret"]["Properties"]["KmsKeyId"] == arn
        instances = of_type(resources, "AWS::RDS::DBInstance")
        groups = of_type(resources, "AWS::Logs::LogGroup")
        assert instances
        assert groups
        for instance in instances.values():
            assert instance["PerformanceInsightsKMSKeyId"] == arn
        for group in groups.values():
            assert group["KmsKeyId"] == arn

    def test_the_key_lets_the_other_stack_use_it(self, resources: Resources) -> None:
        """For logs and alarms: its policy is what docs/aws.md asks of any such key."""
        policy = resources["Key"]["Properties"]["KeyPolicy"]["Statement"]
        logs = next(s for s in policy if "logs." in json.dumps(s["Principal"]))
        assert set(logs["Action"]) >= {"kms:Encrypt", "kms:Decrypt", "kms:DescribeKey"}
        assert "kms:EncryptionContext:aws:logs:arn" in json.dumps(logs["Condition"])

    def test_no_password_is_a_parameter(self, template: dict[str, Any]) -> None:
        """RDS makes the owner's, Secrets Manager the functions'."""
        cluster = template["Resources"]["Database"]["Properties"]
        assert cluster["ManageMasterUserPassword"] is True
        assert "MasterUserPassword" not in cluster
        assert not [n for n in template["Parameters"] if "password" in n.lower()]

    def test_it_never_sleeps(self, template: dict[str, Any]) -> None:
        """Waking up takes longer than Commet waits."""
        assert template["Parameters"]["MinCapacity"]["MinValue"] > 0

    def test_its_log_tells_nobodys_address(self, resources: Resources) -> None:
        """Neither what a slow statement was called with, nor the row that one failed on."""
        settings = resources["DatabaseSettings"]["Properties"]["Parameters"]
        assert settings["rds.force_ssl"] == "1"
        assert settings["log_parameter_max_length"] == "0"
        assert settings["log_parameter_max_length_on_error"] == "0"
        assert settings["log_error_verbosity"] == "terse"

    def test_its_version_is_one_that_aurora_has(self, template: dict[str, Any]) -> None:
        """As cfn-lint's copy of AWS's list says."""
        schemas = files("cfnlint.data.schemas.extensions.aws_rds_dbcluster")
        known = json.loads(schemas.joinpath("engine_version.json").read_text(encoding="utf-8"))
        (versions,) = (
            set(rule["then"]["properties"]["EngineVersion"]["enum"])
            for rule in known["allOf"]
            if rule["if"]["properties"]["Engine"].get("const") == "aurora-postgresql"
        )
        assert template["Parameters"]["EngineVersion"]["Default"] in versions


class TestNetwork:
    def test_only_the_functions_reach_the_database(self, resources: Resources) -> None:
        (way_in,) = resources["DatabaseSecurityGroup"]["Properties"]["SecurityGroupIngress"]
        assert way_in["SourceSecurityGroupId"] == {"Ref": "FunctionSecurityGroup"}
        assert (way_in["FromPort"], way_in["ToPort"]) == (5432, 5432)
        assert "SecurityGroupIngress" not in resources["FunctionSecurityGroup"]["Properties"]
        instances = of_type(resources, "AWS::RDS::DBInstance")
        assert instances
        for instance in instances.values():
            assert instance["PubliclyAccessible"] is False

    def test_nothing_leads_out_of_where_it_stands(self, resources: Resources) -> None:
        """Its subnets have a table of their own, and no route in it."""
        routed = {
            str(route["RouteTableId"]["Ref"])
            for route in of_type(resources, "AWS::EC2::Route").values()
        }
        tables = {
            str(one["SubnetId"]["Ref"]): str(one["RouteTableId"]["Ref"])
            for one in of_type(resources, "AWS::EC2::SubnetRouteTableAssociation").values()
        }
        subnets = {s["Ref"] for s in resources["DatabaseSubnets"]["Properties"]["SubnetIds"]}
        assert {tables[subnet] for subnet in subnets} & routed == set()
        assert {tables["FunctionSubnetA"], tables["FunctionSubnetB"]} <= routed

    def test_each_subnet_has_a_place_and_a_range_of_its_own(self, resources: Resources) -> None:
        """Two zones for each kind; no range twice."""
        subnets = of_type(resources, "AWS::EC2::Subnet")
        ranges = [s["CidrBlock"]["Fn::Select"][0] for s in subnets.values()]
        assert sorted(ranges) == list(range(len(subnets)))
        for kind in ("Public", "Function", "Database"):
            zones = {
                subnets[f"{kind}Subnet{zone}"]["AvailabilityZone"]["Fn::Select"][0] for zone in "AB"
            }
            assert zones == {0, 1}


class TestAppRole:
    def test_its_maker_may_do_what_it_does_and_no_more(self, resources: Resources) -> None:
        (policy,) = resources["AppRoleFunctionRole"]["Properties"]["Policies"]
        granted = {
            action: statement["Resource"]
            for statement in policy["PolicyDocument"]["Statement"]
            for action in (
                statement["Action"]
                if isinstance(statement["Action"], list)
                else [statement["Action"]]
            )
        }
        assert granted.keys() == {
            "logs:CreateLogStream",
            "logs:PutLogEvents",
            "rds-data:ExecuteStatement",
            "secretsmanager:GetSecretValue",
            "kms:Decrypt",
        }
        assert granted["rds-data:ExecuteStatement"] == {"Fn::GetAtt": ["Database", "DBClusterArn"]}

    def test_fewer_connections_are_allowed_than_there_are(self, template: dict[str, Any]) -> None:
        """So that migrations and people get in. 823 is what four ACUs allow."""
        parameters = {n: p.get("Default") for n, p in template["Parameters"].items()}
        assert parameters["MaxCapacity"] == 4
        together = parameters["AppConnections"] + parameters["AccountsConnections"]
        assert together <= 0.6 * 823
        assert parameters["ConnectionsAlarm"] == 0.8 * parameters["AppConnections"]
