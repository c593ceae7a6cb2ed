"""The identities of the local cloud: declared accounts, and the OIDC tokens with which Cloud Tasks signs in.

Tokens are like the real ones: RS256 with a key id, valid for an hour, the same claims. The key is kept in the state
folder, so tokens stay valid across restarts. In the program's project, only a declared account can get a token.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Collection, Iterable
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

TOKEN_SECONDS = 3600


class InvalidTokenError(Exception):
    """A token that Cloud Run answers with 401; the message says why."""


def new_key() -> str:
    """Returns a new signing key as PEM text."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption()).decode()


class Identity:
    """The token issuer of one local cloud."""

    def __init__(
        self, issuer: str, project: str, accounts: Iterable[str], key: str, clock: Callable[[], float]
    ) -> None:
        """`project`: the program's. `accounts`: the e-mails that it declares there. `key`: as `new_key` makes it.
        `clock`: seconds since the epoch."""
        self.issuer = issuer
        self._project = project
        self.accounts = frozenset(accounts)
        self._clock = clock
        private_key = serialization.load_pem_private_key(key.encode(), password=None)
        assert isinstance(private_key, rsa.RSAPrivateKey)
        self._private_key = private_key
        self._public_key = self._private_key.public_key()
        self._key_id = hashlib.sha256(key.encode()).hexdigest()[:40]
        self._signed = functools.lru_cache(maxsize=64)(self._sign)
        self._checked = functools.lru_cache(maxsize=64)(self._check)

    def has(self, project: str, email: str) -> bool:
        """Whether a queue of a project may sign in as an account: it must be of the same project.

        In the program's own project only the declared accounts exist, in any other one all do."""
        if project == self._project:
            return email in self.accounts
        return not email.endswith(f"@{self._project}.iam.gserviceaccount.com")

    def token(self, email: str, audience: str) -> str:
        """Returns a token of an account."""
        return self._signed(email, audience, int(self._clock()))  # tokens of the same second are identical

    def access_token(self, email: str, scope: str) -> str:
        """Returns an OAuth access token. Like a real one, only Google could check it."""
        secret = f"{self._key_id} {email} {scope} {int(self._clock()) // TOKEN_SECONDS}"
        return f"ya29.{hashlib.sha256(secret.encode()).hexdigest()}"

    def _sign(self, email: str, audience: str, now: int) -> str:
        number = _unique_id(email)
        claims = {
            "aud": audience,
            "azp": number,
            "email": email,
            "email_verified": True,
            "exp": now + TOKEN_SECONDS,
            "iat": now,
            "iss": self.issuer,
            "sub": number,
        }
        return jwt.encode(claims, self._private_key, algorithm="RS256", headers={"kid": self._key_id})

    def email(self, token: str, url: str, audiences: Collection[str] = ()) -> str:
        """Returns the account that a token belongs to. Raises InvalidTokenError.

        The token's audience must be the URL of the service, with any path behind it, or one of the custom audiences."""
        claims = self._checked(token)
        if claims["exp"] <= self._clock():
            raise InvalidTokenError("the token has expired")
        audience = str(claims["aud"])
        below_url = audience.startswith(f"{url}/") and not set("?#") & set(audience)
        if audience != url and audience not in audiences and not below_url:
            raise InvalidTokenError(f"the token is for {audience}")
        return str(claims["email"])

    def _check(self, token: str) -> dict[str, Any]:
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self._public_key,
                algorithms=["RS256"],
                issuer=self.issuer,
                options={
                    "require": ["exp", "iat", "email", "aud"],
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_aud": False,
                },
            )
        except (jwt.InvalidTokenError, ValueError) as error:  # ValueError: the text is not a token
            raise InvalidTokenError(str(error)) from None
        return claims

    def routes(self) -> list[web.RouteDef]:
        """Returns the routes of the issuer: discovery, keys, and `/token` for people with curl."""
        return [
            web.get("/.well-known/openid-configuration", self._discovery),
            web.get("/keys", self._keys),
            web.get("/token", self._token),
        ]

    async def _discovery(self, _: web.Request) -> web.Response:
        return web.json_response(
            {
                "issuer": self.issuer,
                "jwks_uri": f"{self.issuer}/keys",
                "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
                "claims_supported": ["aud", "azp", "email", "email_verified", "exp", "iat", "iss", "sub"],
            }
        )

    async def _keys(self, _: web.Request) -> web.Response:
        key = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self._public_key))
        return web.json_response({"keys": [{**key, "kid": self._key_id, "alg": "RS256", "use": "sig"}]})

    async def _token(self, request: web.Request) -> web.Response:
        email, audience = request.query.get("email", ""), request.query.get("audience", "")
        if not email or not audience:
            return web.Response(status=400, text="Both are needed: /token?email=ACCOUNT&audience=URL\n")
        if email not in self.accounts:
            names = "\n".join(sorted(self.accounts))
            return web.Response(status=404, text=f"The program declares no account {email}; it declares:\n{names}\n")
        return web.Response(text=self.token(email, audience))


def _unique_id(email: str) -> str:
    """Returns a service account's 21-digit id, always the same for an e-mail."""
    return str(10**20 + int.from_bytes(hashlib.sha256(email.encode()).digest()) % (9 * 10**20))
