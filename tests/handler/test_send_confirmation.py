"""The confirmation mail, in a real SMTP conversation."""

import asyncio
import datetime
import email
import email.policy
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from email.message import EmailMessage
from pathlib import Path

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from order_handler.actions.send_confirmation import Mail
from order_handler.database import Database
from order_handler.effects import Effects
from order_handler.errors import AlreadyProcessedError, PermanentError, TransientError
from order_handler.ledger import Ledger

from tests.handler.calls import DELIVERED, DIRECT, Handler
from tests.handler.conftest import Lines

# Starts the post office; arguments beyond its user and TLS from the first byte are aiosmtpd's.
Serve = Callable[..., Awaitable[str]]

KEY = ("ORD-1", "send_confirmation")


class Post:
    """What arrived, and what each step of the next conversations is answered."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []
        self.logins: list[LoginPassword] = []
        self.answers: dict[str, str] = {}
        self.silent = False

    async def handle_MAIL(  # noqa: N802  # as aiosmtpd names it
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        envelope.mail_from = address
        return self.answers.get("MAIL", "250 OK")

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        answer = self.answers.get("RCPT", "250 OK")
        if answer.startswith("2"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        if self.silent:
            await asyncio.Event().wait()
        answer = self.answers.get("DATA", "250 OK")
        if answer.startswith("2"):
            self.envelopes.append(envelope)
        return answer

    async def handle_QUIT(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        return self.answers.get("QUIT", "221 Bye")

    def authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: object
    ) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.append(data)
        return AuthResult(success=data.password == b"geheim")


def parsed(envelope: Envelope) -> EmailMessage:
    assert isinstance(envelope.content, bytes)
    found = email.message_from_bytes(envelope.content, policy=email.policy.default)
    assert isinstance(found, EmailMessage)
    return found


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificate and key for localhost in one file, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "localhost.pem"
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    file.write_bytes(signed.public_bytes(pem) + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return file


@pytest.fixture
def tls(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """The server's side; clients trust it."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture
def post() -> Post:
    return Post()


@pytest.fixture
async def serve(post: Post) -> AsyncIterator[Serve]:
    started: list[asyncio.Server] = []

    async def start(user: str | None = None, over_tls: ssl.SSLContext | None = None, **options: object) -> str:
        loop = asyncio.get_running_loop()

        def conversation() -> SMTP:
            return SMTP(post, hostname="localhost", loop=loop, **options)  # type: ignore[arg-type]

        server = await loop.create_server(conversation, "127.0.0.1", 0, ssl=over_tls)
        started.append(server)
        port = server.sockets[0].getsockname()[1]
        login = f"{user}:geheim@" if user else ""
        return f"smtp{'s' if over_tls else ''}://{login}localhost:{port}?from=shop@example.org"

    yield start
    for server in started:
        server.close()


@pytest.fixture
def ledger(sqlite: Database) -> Ledger:
    return Ledger(sqlite)


@pytest.fixture
async def mail(serve: Serve, ledger: Ledger) -> Mail:
    return Mail(await serve(), ledger)


async def test_the_customer_gets_a_letter_in_text_and_in_html(mail: Mail, post: Post) -> None:
    await mail.confirm('ORD-1 <b>"ü"\r\nBcc: eve@example.com', "send_confirmation", "ada@example.com")
    [envelope] = post.envelopes
    assert (envelope.mail_from, envelope.rcpt_tos) == ("shop@example.org", ["ada@example.com"])
    letter = parsed(envelope)
    assert (letter["From"], letter["To"]) == ("shop@example.org", "ada@example.com")
    assert letter["Subject"] == 'Your order ORD-1 <b>"ü"  Bcc: eve@example.com'
    assert letter["Bcc"] is None
    assert letter["Date"].datetime.tzinfo is not None
    text, html = (letter.get_body((kind,)) for kind in ("plain", "html"))
    assert text is not None
    assert 'order ORD-1 <b>"ü"  Bcc: eve@example.com and' in text.get_content()
    assert html is not None
    assert "<strong>ORD-1 &lt;b&gt;&quot;ü&quot;  Bcc: eve@example.com</strong>" in html.get_content()


async def test_a_repeat_has_the_same_message_id_and_no_other_mail_has_it(mail: Mail, post: Post) -> None:
    post.answers["DATA"] = "451 4.3.0 later"
    seen: list[str] = []
    original = post.handle_DATA

    async def note(server: SMTP, session: Session, envelope: Envelope) -> str:
        seen.append(parsed(envelope)["Message-ID"])
        return await original(server, session, envelope)

    post.handle_DATA = note  # type: ignore[method-assign]
    with pytest.raises(TransientError):
        await mail.confirm(*KEY, "ada@example.com")
    post.answers.clear()
    await mail.confirm(*KEY, "ada@example.com")
    await mail.confirm("ORD-2", "send_confirmation", "ada@example.com")
    first, repeat, other = seen
    assert first == repeat != other
    assert first.endswith("@example.org>")


async def test_a_mail_that_was_sent_is_not_sent_again(mail: Mail, post: Post) -> None:
    await mail.confirm(*KEY, "ada@example.com")
    with pytest.raises(AlreadyProcessedError):
        await mail.confirm(*KEY, "ada@example.com")
    assert len(post.envelopes) == 1


@pytest.mark.parametrize(
    ("step", "answer", "failure", "reason"),
    [
        ("RCPT", "550 5.1.1 <ada@example.com> is unknown", PermanentError, "refused the recipient: 550 5.1.1"),
        ("RCPT", "553 ada@example.com?", PermanentError, "refused the recipient: 553"),
        ("RCPT", "450 4.2.1 ada@example.com is busy", TransientError, "refused the recipient: 450 4.2.1"),
        ("RCPT", "530 5.7.0 sign in first", TransientError, "refused the recipient: 530 5.7.0"),
        ("DATA", "554 5.7.1 spam for ada@example.com", PermanentError, "refused the message: 554 5.7.1"),
        ("DATA", "452 4.3.1 full", TransientError, "refused the message: 452 4.3.1"),
        ("MAIL", "550 5.7.1 who are you", TransientError, "answered 550 5.7.1"),
        ("MAIL", "421 4.3.2 going down", TransientError, "answered 421 4.3.2"),
    ],
)
async def test_an_answer_is_permanent_only_if_it_is_about_this_mail(
    mail: Mail, post: Post, step: str, answer: str, failure: type[Exception], reason: str
) -> None:
    post.answers[step] = answer
    with pytest.raises(failure, match=f"{reason}( .SMTP[A-Za-z]+.)?$") as refusal:
        await mail.confirm(*KEY, "ada@example.com")
    assert "ada" not in str(refusal.value)
    # And the claim is free.
    post.answers.clear()
    await mail.confirm(*KEY, "ada@example.com")


async def test_a_server_that_is_away_is_transient(ledger: Ledger) -> None:
    with pytest.raises(TransientError, match=r"^No mail server: .*port 1"):
        await Mail("smtp://127.0.0.1:1?from=shop@example.org", ledger).confirm(*KEY, "ada@example.com")


async def test_a_server_that_says_nothing_ends_at_the_deadline(serve: Serve, ledger: Ledger, post: Post) -> None:
    post.silent = True
    impatient = Mail(await serve(), Ledger(ledger._database, seconds=0.3))
    with pytest.raises(TransientError, match="Out of time"):
        await impatient.confirm(*KEY, "ada@example.com")


async def test_a_bad_goodbye_undoes_no_mail(mail: Mail, post: Post) -> None:
    post.answers["QUIT"] = "500 never"
    await mail.confirm(*KEY, "ada@example.com")
    assert len(post.envelopes) == 1


@pytest.mark.parametrize(
    "address", ["ada", "ada@", "@example.com", "a b@example.com", "a@b@c", "a@x\r\nRCPT", "ä@x.de", " "]
)
async def test_what_is_no_address_is_permanent_and_no_conversation(mail: Mail, post: Post, address: str) -> None:
    with pytest.raises(PermanentError, match=r"^Malformed customerEmail$|refused the recipient"):
        await mail.confirm(*KEY, address)
    assert post.envelopes == []


async def test_an_address_that_the_library_refuses_is_permanent_and_quoted_nowhere(
    mail: Mail, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(address: str) -> str:
        raise ValueError(f"unsafe: {address}")

    monkeypatch.setattr("aiosmtplib.email.parse_address", refuse)
    with pytest.raises(PermanentError, match=r"^Malformed customerEmail$"):
        await mail.confirm(*KEY, "ada@example.com")
    assert post.envelopes == []


async def test_an_international_domain_is_written_as_every_server_reads_it(mail: Mail, post: Post) -> None:
    await mail.confirm(*KEY, "ada@bücher.example")
    assert post.envelopes[0].rcpt_tos == ["ada@xn--bcher-kva.example"]


@pytest.mark.parametrize("start", [True, False], ids=["STARTTLS", "TLS"])
async def test_it_signs_in_over_tls_alone(
    serve: Serve, ledger: Ledger, post: Post, tls: ssl.SSLContext, start: bool
) -> None:
    kind = {"tls_context": tls} if start else {"over_tls": tls, "auth_require_tls": False}
    server = await serve("shop", authenticator=post.authenticate, **kind)
    await Mail(server, ledger).confirm(*KEY, "ada@example.com")
    assert post.logins == [LoginPassword(b"shop", b"geheim")]
    assert len(post.envelopes) == 1


async def test_it_takes_starttls_where_it_is_offered(
    serve: Serve, ledger: Ledger, post: Post, tls: ssl.SSLContext
) -> None:
    await Mail(await serve(tls_context=tls, require_starttls=True), ledger).confirm(*KEY, "ada@example.com")
    assert len(post.envelopes) == 1


async def test_a_password_travels_over_no_open_line(serve: Serve, ledger: Ledger, post: Post) -> None:
    server = await serve("shop", authenticator=post.authenticate, auth_require_tls=False)
    with pytest.raises(TransientError, match="STARTTLS") as refusal:
        await Mail(server, ledger).confirm(*KEY, "ada@example.com")
    assert post.logins == []
    assert "geheim" not in str(refusal.value)


async def test_a_wrong_password_is_transient(serve: Serve, ledger: Ledger, post: Post, tls: ssl.SSLContext) -> None:
    post.authenticate = lambda *_: AuthResult(success=False, handled=False)  # type: ignore[method-assign]
    server = await serve("shop", authenticator=post.authenticate, tls_context=tls)
    with pytest.raises(TransientError, match="SMTPAuthenticationError") as refusal:
        await Mail(server, ledger).confirm(*KEY, "ada@example.com")
    assert "geheim" not in str(refusal.value)


async def test_a_certificate_that_nobody_vouches_for_is_transient(
    serve: Serve, ledger: Ledger, post: Post, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(TransientError, match=r"certificate|SSL"):
        await Mail(await serve(tls_context=tls), ledger).confirm(*KEY, "ada@example.com")
    assert post.envelopes == []


@pytest.mark.parametrize(("headers", "status"), [(DIRECT, 400), (DELIVERED, 200)], ids=["direct", "delivered"])
async def test_a_refused_recipient_is_a_clear_line_without_the_address(
    handler_with: Callable[[Effects], Handler],
    mail: Mail,
    post: Post,
    headers: dict[str, str],
    status: int,
    lines: Lines,
) -> None:
    post.answers["RCPT"] = "550 5.1.1 <ada@example.com> is unknown"
    assert (await handler_with(Effects({"send_confirmation": mail})).order(headers)).status == status
    [line] = lines()
    assert line["message"] == "The mail server refused the recipient: 550 5.1.1"
    assert "ada" not in str(line)


@pytest.mark.parametrize(
    ("url", "host", "port", "tls", "sender", "login"),
    [
        ("smtp://mail.example?from=a@b.c", "mail.example", 587, False, "a@b.c", (None, None)),
        ("smtps://mail.example/?from=a%2Bb@b.c", "mail.example", 465, True, "a+b@b.c", (None, None)),
        ("smtp://127.0.0.1:2525?from=a+b@b.c", "127.0.0.1", 2525, False, "a+b@b.c", (None, None)),
        ("smtps://u%40x:p%3A%2F@[::1]?from=a%40b.c", "::1", 465, True, "a@b.c", ("u@x", "p:/")),
    ],
)
def test_server_and_sender_are_read_from_the_url(
    ledger: Ledger, url: str, host: str, port: int, tls: bool, sender: str, login: tuple[str | None, str | None]
) -> None:
    mail = Mail(url, ledger)
    assert mail.sender == sender
    found = mail.server
    assert (found["hostname"], found["port"], found["use_tls"]) == (host, port, tls)
    assert (found["username"], found["password"]) == login
