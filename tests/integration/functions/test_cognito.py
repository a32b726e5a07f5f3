"""Users of a Cognito user pool, as moto plays it: tokens and keys that are not ours."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import boto3
import httpx
import pytest
from moto.server import ThreadedMotoServer

from tests.environments import forget
from tests.http_server import Request, Response, serving
from tests.integration.functions.calling import Answer, call, service_key, start

pytestmark = pytest.mark.handlers

REGION = "eu-central-1"
PASSWORD = "A long walk home 1!"


@dataclass
class Pool:
    """A user pool with one client, and a server that hands out its keys."""

    client: Any
    id: str
    client_id: str
    keys_url: str

    @property
    def issuer(self) -> str:
        return f"https://cognito-idp.{REGION}.amazonaws.com/{self.id}"

    def add(self, username: str, **attributes: str) -> None:
        self.client.admin_create_user(
            UserPoolId=self.id,
            Username=username,
            UserAttributes=[{"Name": k, "Value": v} for k, v in attributes.items()],
        )
        self.client.admin_set_user_password(
            UserPoolId=self.id, Username=username, Password=PASSWORD, Permanent=True
        )

    def sign_in(self, name: str) -> dict[str, str]:
        answer = self.client.admin_initiate_auth(
            UserPoolId=self.id,
            ClientId=self.client_id,
            AuthFlow="ADMIN_USER_PASSWORD_AUTH",
            AuthParameters={"USERNAME": name, "PASSWORD": PASSWORD},
        )
        tokens: dict[str, str] = answer["AuthenticationResult"]
        return tokens


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        client = boto3.client(
            "cognito-idp",
            REGION,
            endpoint_url=f"http://{host}:{port}",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        made = client.create_user_pool(PoolName="people")["UserPool"]["Id"]
        app = client.create_user_pool_client(
            UserPoolId=made,
            ClientName="pages",
            ReadAttributes=["email", "email_verified", "name"],
            ExplicitAuthFlows=["ALLOW_ADMIN_USER_PASSWORD_AUTH", "ALLOW_REFRESH_TOKEN_AUTH"],
        )

        def keys(request: Request) -> Response:
            """What moto answers at the pool's own address, for the name it goes by there."""
            answer = httpx.get(
                f"http://{host}:{port}{request.path}",
                headers={"host": f"cognito-idp.{REGION}.amazonaws.com"},
                trust_env=False,
            )
            return Response(answer.content, answer.status_code, "application/json")

        with serving(keys) as url:
            keys_url = f"{url}/{made}/.well-known/jwks.json"
            yield Pool(client, made, app["UserPoolClient"]["ClientId"], keys_url)
    finally:
        server.stop()


@pytest.fixture(autouse=True)
def environment(migrated_url: str, monkeypatch: pytest.MonkeyPatch, pool: Pool) -> Iterator[None]:
    settings = {
        "OIDC_ISSUER": pool.issuer,
        "OIDC_AUDIENCE": pool.client_id,
        "OIDC_JWKS_URL": pool.keys_url,
    }
    key = service_key("app", "svc_app_" + "a" * 64, "read")
    start(monkeypatch, migrated_url, [key], settings)
    yield
    forget()


def seen(token: str) -> Answer:
    return call("GET", "/dashboard", token=token)


def test_id_tokens_and_access_tokens_lead_to_one_user(pool: Pool) -> None:
    pool.add("ana", email="ana@pool.example", email_verified="true", name="Ana")
    tokens = pool.sign_in("ana")
    by_access = seen(tokens["AccessToken"])
    assert by_access.status == 200, by_access.text
    assert by_access.json["user"]["email"] is None
    by_id = seen(tokens["IdToken"])
    assert by_id.json["user"] == by_access.json["user"] | {
        "email": "ana@pool.example",
        "name": "Ana",
    }
    assert seen(tokens["AccessToken"]).json["user"] == by_id.json["user"]


def test_another_client_of_the_same_pool_is_not_ours(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.add("ben", email="ben@pool.example")
    tokens = pool.sign_in("ben")
    monkeypatch.setenv("OIDC_AUDIENCE", "another-client")
    forget()
    for kind in ("AccessToken", "IdToken"):
        assert seen(tokens[kind]).code == "unauthenticated"


def test_another_pool_is_not_ours(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    pool.add("cai", email="cai@pool.example")
    monkeypatch.setenv("OIDC_ISSUER", pool.issuer + "x")
    forget()
    assert seen(pool.sign_in("cai")["IdToken"]).code == "unauthenticated"


def test_a_refresh_token_is_no_token(pool: Pool) -> None:
    pool.add("dee", email="dee@pool.example")
    assert seen(pool.sign_in("dee")["RefreshToken"]).code == "unauthenticated"
